"""G13: what a handler emits is appended once, before the delivery counts as done."""

import threading

from consumers.delivery import Delivery
from pipeline.event import Event
from pipeline.options import Retry
from pipeline.server.replies import parse_entries
from pipeline.wire import decode_entry
from tests.conftest import Server
from tests.consuming import Consuming, consuming_on
from tests.proxy import Proxy
from tests.until import until


def emitted(consuming: Consuming) -> list[Event]:
    """What is in the stream that handlers emit to."""
    reply = parse_entries(consuming.link.call("XRANGE", f"{consuming.stream}-out", "-", "+"))
    return [event for i, fields in reply for event in decode_entry(i, fields or []).events]


def emits(consuming: Consuming) -> None:
    """A handler that emits what it gets."""

    @consuming.app.consumer(consuming.stream, group="g")
    def handle(event: Event, delivery: Delivery) -> None:
        delivery.emit(f"{consuming.stream}-out", event.data)


def test_nothing_is_emitted_by_a_run_that_does_not_end_well(consuming: Consuming) -> None:
    """And once by the one that does, with the id that each run would have given it."""
    ids: list[str] = []

    @consuming.app.consumer(consuming.stream, group="g", retry=Retry(attempts=3, initial="1m", jitter=0))
    def handle(event: Event, delivery: Delivery) -> None:
        ids.append(delivery.emit(f"{consuming.stream}-out", 1).event_id)
        if delivery.attempt < 3:
            raise ConnectionError

    consuming.send(1)
    with consuming.running():
        for run in (1, 2):
            until(lambda: len(ids) == run and consuming.waiting(), 20)  # noqa: B023
            assert emitted(consuming) == []
            consuming.advance(120_000)
        consuming.until_drained()
    assert len(ids) == 3
    assert [event.id for event in emitted(consuming)] == [ids[0]]
    assert len(set(ids)) == 1


def test_an_event_is_settled_with_what_it_emits_or_not_at_all(consuming: Consuming) -> None:
    """At no moment is one done and not the other: each look is one transaction."""
    emits(consuming)
    consuming.send(*range(2_000))
    with consuming.running():
        looks = 0
        while looks < 3 or not consuming.drained():
            out, pending, stream, groups = consuming.link.calls(
                [
                    ("MULTI",),
                    ("XLEN", f"{consuming.stream}-out"),
                    ("XPENDING", consuming.stream, "g"),
                    ("XLEN", consuming.stream),
                    ("XINFO", "GROUPS", consuming.stream),
                    ("EXEC",),
                ]
            )[-1]
            facts = dict(zip(groups[0][::2], groups[0][1::2], strict=True))
            read = len(consuming.link.call("XRANGE", consuming.stream, "-", facts[b"last-delivered-id"]))
            assert stream == 2_000
            assert out == read - pending[0]
            looks += 1
    assert sorted(event.data for event in emitted(consuming)) == list(range(2_000))


def test_a_lost_answer_emits_nothing_twice(consuming: Consuming, server: Server, stream: str) -> None:
    """The connection breaks after the script has run: asked again, the entry is not pending any more."""
    with Proxy(server.address) as proxy, consuming_on(server.address, stream, url=proxy.url) as cut:
        emits(cut)
        cut.send(*range(500))
        lost: list[int] = []

        def swallow(number: int, reply: bytes) -> bool:
            answers = (
                reply.startswith(b"*") and reply.count(b":1\r\n") > 2
            )  # of `move`: entries that were settled
            if answers and len(lost) < 4:
                lost.append(number)
                return True
            return False

        proxy.swallow = swallow
        with cut.running():
            cut.until_drained(timeout_s=40)
        assert len(lost) == 4, "no answer was lost: nothing was shown"
    assert sorted(event.data for event in emitted(consuming)) == list(range(500))


def test_who_was_taken_over_emits_nothing(consuming: Consuming) -> None:
    """Its run ends well, and is not the one that counts."""
    runs: list[int] = []
    go_on = threading.Event()

    @consuming.app.consumer(consuming.stream, group="g", claim_after="1500ms")
    def handle(event: Event, delivery: Delivery) -> None:
        runs.append(len(runs))
        delivery.emit(f"{consuming.stream}-out", runs[-1])
        if len(runs) == 1:
            go_on.wait(30)

    (entry_id,) = consuming.send(1)
    with consuming.running() as running:
        until(lambda: runs, 20)
        consuming.link.call("XCLAIM", consuming.stream, "g", "dead", 0, entry_id)
        consuming.link.call("HSET", consuming.keys.groups, "g:token", "another")
        until(lambda: running.members[0].counts.taken_over_from_us, 20)
        until(lambda: emitted(consuming), 20)  # by the run that took it from the dead one
        go_on.set()
        consuming.until_drained()
    assert runs == [0, 1]
    assert [event.data for event in emitted(consuming)] == [1]
