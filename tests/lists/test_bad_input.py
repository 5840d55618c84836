"""What no worker of a list can use: keys of another type, payloads of any bytes: one clear line, nothing lost."""

import logging
import random

import pytest

from pipeline.errors import MillstreamError, WrongKeyTypeError
from pipeline.event import Event
from pipeline.limits import DEFAULT_LIMITS
from pipeline.list_options import WORKERS
from tests.console.command import end_all, started
from tests.lists.conftest import Listing
from tests.until import until

HUGE = DEFAULT_LIMITS.max_entry_bytes + 1


def key_of(listing: Listing, which: str) -> str:
    """The name of a key of the list."""
    keys, tasks = listing.list_keys, listing.keys
    return {
        "list": keys.list, "hand": keys.hand, "stream": keys.stream, "due": keys.due, "seen": keys.seen,
        "popped": keys.popped, "groups": tasks.groups, "members": tasks.members(WORKERS),
        "again": tasks.again(WORKERS), "retry": tasks.retry(WORKERS), "dead": tasks.dead(WORKERS),
    }[which]  # fmt: skip


@pytest.mark.parametrize("which", ["list", "hand", "stream", "groups", "members", "again", "retry", "dead"])
@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_a_key_of_another_type_ends_the_worker_and_is_named(
    listing: Listing, caplog: pytest.LogCaptureFixture, which: str, when: str
) -> None:
    """Somebody has put a string where something of the list belongs: which key, and what it holds, in one line."""

    @listing.app.consumer(list=listing.list, retry=1)
    def handle(event: Event) -> None:
        raise ValueError("to the dead letters")

    def go() -> MillstreamError:
        with listing.running(well=False) as running:
            if when == "meanwhile":
                spoil()
            if which != "list":
                listing.push("task")
            failure = until(lambda: running.failure, 15, what="the member has ended")
            assert failure is not None
            return failure

    def spoil() -> None:
        listing.link.call("SET", key_of(listing, which), "not ours")

    if when == "before":
        spoil()
    try:
        failure = go()
    except MillstreamError as error:  # it cannot even start
        failure = error
    else:
        assert len([one for one in caplog.records if one.levelno >= logging.ERROR]) == 1
    assert isinstance(failure, WrongKeyTypeError)
    assert key_of(listing, which) in str(failure)
    assert "string" in str(failure)


@pytest.mark.parametrize("which", ["due", "popped"])
def test_a_key_that_is_only_looked_after_is_named_and_tasks_go_on(
    listing: Listing, caplog: pytest.LogCaptureFixture, which: str
) -> None:
    """Delayed tasks, or what plain pops took, cannot be looked after: what stands in the list is done all the same."""
    seen: list[object] = []

    @listing.app.consumer(list=listing.list)
    def handle(event: Event) -> None:
        seen.append(event.data)

    listing.link.call("SET", key_of(listing, which), "not ours")
    with listing.running():
        listing.push("task")
        until(lambda: seen == ["task"])
        until(lambda: key_of(listing, which) in caplog.text, 15, what=lambda: f"it is named: {caplog.text}")
        listing.push("another")
        listing.until_gone()
    assert seen == ["task", "another"]


@pytest.mark.parametrize(
    ("payload", "bad"),
    [
        ("auto", [b"\xff\xfe", b"\x81", b"\xc1", b"\x05\x80", b"\xa1\xff"]),
        ("json", [b"", b"{", b"\xff", b'{"a": 1} and more', b"NaN", b"[" * 100_000]),
        ("text", [b"\xff", b"\xed\xa0\x80"]),
        ("msgpack", [b"", b"\xc1", b"\x92\x01", b"\x01\x02", b"\xdd\xff\xff\xff\xff"]),
    ],
)
def test_what_cannot_be_decoded_is_kept_said_and_a_dead_letter(
    listing: Listing, caplog: pytest.LogCaptureFixture, payload: str, bad: list[bytes]
) -> None:
    """Once, byte for byte as it was pushed; it is tried no second time, and what stands behind it is done."""
    good = {"auto": b"good", "json": b'"good"', "text": b"good", "msgpack": b"\xa4good"}[payload]
    seen: list[object] = []

    @listing.app.consumer(list=listing.options(payload=payload), concurrency=1, pause_above=1)
    def handle(event: Event) -> None:
        seen.append(event.data)

    for one in bad:
        listing.push(one, good)
    with listing.running():
        listing.until_gone()
        until(lambda: len(listing.dead_of()) == len(bad))
    assert seen == ["good"] * len(bad)
    letters = listing.dead_of()
    assert [(letter.error, letter.attempts) for letter, _ in letters] == [("DecodeError", 1)] * len(bad)
    assert [dict(zip(fields[::2], fields[1::2], strict=True))[b"b"] for _, fields in letters] == bad
    assert "moved to dead letters" in caplog.text


def test_a_payload_beyond_all_measure_is_a_dead_letter(listing: Listing) -> None:
    """Old producers may push what no event may be: it is taken all the same, refused by name, and not lost."""
    seen: list[object] = []

    @listing.app.consumer(list=listing.list, concurrency=1)
    def handle(event: Event) -> None:
        seen.append(event.data)

    listing.push("before", b"x" * HUGE, "behind")
    with listing.running():
        listing.until_gone()
        until(lambda: listing.dead_of())
    assert seen == ["before", "behind"]
    ((letter, fields),) = listing.dead_of()
    assert letter.error == "DecodeError"
    assert "max_entry_bytes" in letter.reason
    assert len(fields[3]) == HUGE


def test_any_bytes_at_all_end_somewhere(listing: Listing) -> None:
    """Random payloads: each is handled or is a dead letter, none stops the worker, and none is lost."""
    rng = random.Random(7)
    payloads = [rng.randbytes(rng.randrange(40)) for _ in range(400)]
    payloads += [b'{"function": ' + rng.randbytes(rng.randrange(20)) for _ in range(100)]
    seen: list[object] = []

    @listing.app.consumer(list=listing.list, pause_above=1)
    def handle(event: Event) -> None:
        seen.append(event.data)

    listing.push(*payloads)
    with listing.running():
        listing.until_gone()
        until(lambda: len(seen) + len(listing.dead_of()) == len(payloads))
    assert seen
    assert listing.dead_of()
    assert all(letter.error == "DecodeError" for letter, _ in listing.dead_of())


def test_a_command_that_meets_a_key_of_another_type_says_so_in_one_line(listing: Listing) -> None:
    """consume --list: exit code 1, the key, and what it holds."""
    listing.link.call("SADD", listing.list, "not ours")
    process = started("consume", "--list", listing.list, "--exec", "true", url=listing.url)
    try:
        _, err = process.communicate(timeout=20)
    finally:
        end_all()
    assert process.returncode == 1
    errors = [line for line in err.decode().splitlines() if line.startswith("error:")]
    assert len(errors) == 1, err
    assert f"{listing.list} holds a set, not a list" in errors[0]
    assert b"Traceback" not in err
