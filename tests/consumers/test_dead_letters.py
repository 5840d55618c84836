"""DeadLetters: what died is looked through, runs again once, or is dropped."""

import time
from collections import Counter
from collections.abc import Iterator

import pytest

from consumers.dead_letters import DeadLetters
from consumers.delivery import Delivery
from pipeline.envelope import DeadLetter, dead_fields
from pipeline.errors import NoSuchGroupError, NoSuchStreamError, NotFoundError, UsageError, WrongKeyTypeError
from pipeline.event import Event
from pipeline.options import Retry
from pipeline.server.connect import Connector
from tests.conftest import OwnServer, Server
from tests.consuming import Consuming, consuming_on
from tests.proxy import Proxy
from tests.until import until


@pytest.fixture
def letters(consuming: Consuming) -> Iterator[DeadLetters]:
    """Those of group g of the stream of this test."""
    with DeadLetters(consuming.stream, "g", url=consuming.url) as letters:
        yield letters


class Account:
    """A handler of group g that fails until it is told not to, and what it has seen."""

    def __init__(self, consuming: Consuming, **options: object) -> None:
        self.failing = True
        self.runs: list[tuple[object, int, bool]] = []
        consuming.app.consumer(consuming.stream, group="g", **({"retry": Retry(2, 0, 0)} | options))(self)  # type: ignore[arg-type]

    def __call__(self, event: Event, delivery: Delivery) -> None:
        self.runs.append((event.data, delivery.attempt, delivery.replayed))
        if self.failing:
            raise (LookupError if event.data % 2 else ValueError)(f"no customer {event.data}")


def test_a_dead_letter_runs_again_with_all_its_attempts(consuming: Consuming, letters: DeadLetters) -> None:
    """In its own group, as the event it was; the letter is gone, and its handler can see that it was replayed."""
    account = Account(consuming)
    (entry_id,) = consuming.send(7)
    consuming.run_until_drained()
    (dead,) = letters
    assert dead.letter is not None
    assert (dead.letter.entry_id, dead.letter.event_id) == (entry_id, "test-1")
    assert dead.fields == consuming.entries()[0][1], "not what was sent"
    account.failing = False
    assert letters.retry([dead]) == 1
    consuming.run_until_drained()
    assert account.runs == [(7, 1, False), (7, 2, False), (7, 1, True)]
    assert list(letters) == []


def test_one_that_dies_again_is_one_letter_again(consuming: Consuming, letters: DeadLetters) -> None:
    """With the attempts of its new life, since when it fails, and the replay it ran by."""
    account = Account(consuming)
    consuming.send(7)
    consuming.run_until_drained()
    (first,) = letters
    letters.retry([first.id])
    consuming.run_until_drained()
    (second,) = letters
    assert len(account.runs) == 4
    assert first.letter is not None
    assert second.letter is not None
    assert second.letter.attempts == 2
    assert second.letter.first_failed_ms == first.letter.first_failed_ms
    assert second.letter.replay.startswith("replay ")
    assert second.fields == first.fields


def test_letters_are_found_by_what_they_are(consuming: Consuming, letters: DeadLetters) -> None:
    """By error, type, key, text and time; and grouped by why they died."""
    Account(consuming)
    consuming.send(*range(4), type="order.placed", key="a")
    consuming.send(*range(4, 10), type="order.paid", key="b")
    consuming.run_until_drained()

    def found(**given: object) -> list[object]:
        return sorted(one.event.data for one in letters.find(**given) if one.event)  # type: ignore[arg-type]

    assert found() == list(range(10))
    assert found(errors=["Look*"]) == [1, 3, 5, 7, 9]
    assert found(errors=["Look*"], types=["*.paid"]) == [5, 7, 9]
    assert found(keys=["a"], match="/[12]/") == [1, 2]
    ids = [one.id for one in letters]
    assert found(since=ids[3], until=ids[5]) == sorted(
        one.event.data for one in list(letters)[3:6] if one.event
    )
    assert len(found(since="-1h")) == 10
    assert found(until="-1h") == found(since="end") == []
    causes = {(cause.error, cause.count, cause.shape) for cause in letters.causes()}
    assert causes == {("LookupError", 5, "no customer #"), ("ValueError", 5, "no customer #")}


def test_many_are_retried_and_dropped_page_by_page(consuming: Consuming, letters: DeadLetters) -> None:
    """While they are being looked through; those that die meanwhile are left for the next time."""
    account = Account(consuming, retry=1, pause_above=1)
    consuming.send(*range(350))
    consuming.run_until_drained()
    progress: list[int] = []
    with consuming.running():
        assert letters.retry(letters.find(errors=["LookupError"]), progress=progress.append) == 175
        until(lambda: Counter(run[2] for run in account.runs) == {False: 350, True: 175}, 20)
        consuming.until_drained()
    assert progress[-1] == 175
    assert len(list(letters)) == 350
    assert letters.drop(letters.find(errors=["ValueError"])) == 175
    assert {one.error for one in letters} == {"LookupError"}


def test_a_rate_bounds_how_many_run_again_a_second(consuming: Consuming, letters: DeadLetters) -> None:
    """Evenly, not in one heap after each second."""
    Account(consuming, retry=1)
    consuming.send(*range(20))
    consuming.run_until_drained()
    begun_s = time.monotonic()
    assert letters.retry(letters, rate=40) == 20
    assert time.monotonic() - begun_s >= 0.49


def test_a_letter_that_is_gone_is_passed_over(consuming: Consuming, letters: DeadLetters) -> None:
    """Somebody else retried or dropped it meanwhile: it runs once."""
    account = Account(consuming, retry=1)
    consuming.send(1, 2)
    consuming.run_until_drained()
    both = list(letters)
    with DeadLetters(consuming.stream, "g", url=consuming.url) as other:
        assert other.retry(both[:1]) == 1
    assert letters.retry([*both, *both]) == 1
    assert letters.drop(both) == 0
    consuming.run_until_drained()
    assert len(account.runs) == 4
    with pytest.raises(NotFoundError, match="no dead letter 1-0"):
        letters.get("1-0")
    with pytest.raises(UsageError):
        letters.get("x")


def test_what_is_no_letter_of_ours_stays_where_it_is(consuming: Consuming, letters: DeadLetters) -> None:
    """It cannot run; it can be dropped."""
    Account(consuming, retry=1)
    consuming.send(1)
    consuming.run_until_drained()
    key = consuming.keys.dead("g")
    consuming.link.call("XADD", key, "*", "foreign", "x")
    assert letters.retry(letters) == 1
    consuming.run_until_drained()
    foreign = next(one for one in letters if one.letter is None)
    assert letters.drop([foreign]) == 1


@pytest.mark.parametrize("what", ["retry", "drop"])
def test_an_answer_that_was_lost_is_asked_for_again(server: Server, consuming: Consuming, what: str) -> None:
    """The letters have gone already: they run once, and are counted."""
    account = Account(consuming, retry=1)
    consuming.send(*range(5))
    consuming.run_until_drained()
    with Proxy(server.address) as proxy, DeadLetters(consuming.stream, "g", url=proxy.url) as letters:
        found = list(letters)
        seen: list[bytes] = []

        def first(number: int, reply: bytes) -> bool:
            seen.append(reply)
            return len([one for one in seen if one in (b"*5\r\n" + b":1\r\n" * 5, b":5\r\n")]) == 1 and reply in (
                b"*5\r\n" + b":1\r\n" * 5, b":5\r\n"
            )  # fmt: skip

        proxy.swallow = first
        assert (letters.retry(found) if what == "retry" else letters.drop(found)) == 5
        assert proxy.swallowed == 1
    account.failing = False
    consuming.run_until_drained()
    assert len(account.runs) == (10 if what == "retry" else 5)
    assert consuming.dead() == []


def test_letters_are_retried_by_a_server_that_is_out_of_memory(own_server: OwnServer, stream: str) -> None:
    """In one step: the letter goes first, which makes the room."""
    server = own_server()
    with (
        consuming_on(server.address, stream) as consuming,
        DeadLetters(stream, "g", connector=Connector(server.address)) as letters,
    ):
        account = Account(consuming, retry=1)
        consuming.send(*range(10))
        consuming.run_until_drained()
        consuming.link.call("CONFIG", "SET", "maxmemory", 1)
        assert letters.retry(letters) == 10
        assert consuming.again_entries() == 10
        consuming.link.call("CONFIG", "SET", "maxmemory", 0)
        account.failing = False
        consuming.run_until_drained()
        assert len(account.runs) == 20
        assert consuming.dead() == []


def test_a_key_of_another_type_loses_no_letter(consuming: Consuming, letters: DeadLetters) -> None:
    """It is refused, naming the key, and the letter stays."""
    fields = dead_fields(DeadLetter(reason="r", entry_id="1-0"), [b"a", b"b"])
    consuming.link.call("XADD", consuming.keys.dead("g"), "*", *fields)
    consuming.link.call("SET", consuming.keys.again("g"), "x")
    with pytest.raises(WrongKeyTypeError, match="again:g"):
        letters.retry(letters)
    assert len(list(letters)) == 1


def test_streams_and_groups_that_are_not_there_are_said(consuming: Consuming) -> None:
    """Not taken for ones without dead letters."""
    with DeadLetters(consuming.stream, "g", url=consuming.url) as letters:
        with pytest.raises(NoSuchStreamError):
            list(letters)
        consuming.send(1)
        with pytest.raises(NoSuchGroupError):
            list(letters)
