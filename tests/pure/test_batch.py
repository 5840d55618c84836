"""Batches against a model of the append script: whatever the network does, each entry is appended once, in order."""

import random
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import MillstreamError, SendError, ServerRefusedError, WrongKeyTypeError
from pipeline.server.append import MAX_UNCONFIRMED, Answer, Appended, Elsewhere, Forgotten, Gap
from producers.batch import Batch, Batches, Chunk, Fate, Settled, Step

OOM = ServerRefusedError("OOM command not allowed", code="OOM", passing=True)
TIMEOUT_MS = 1_000


def entry(name: str, now_ms: float = 0, *, size: int = 10, step: Step | None = None) -> Chunk:
    """A chunk of one entry, whose body is its name."""
    chunk = Chunk(now_ms + TIMEOUT_MS, None)
    chunk.add([b"", name.encode()], size)
    chunk.receipts.append(name)
    chunk.step = step
    return chunk


def batches(**options: Any) -> Batches:
    """Batches of at most three entries."""
    return Batches("orders", **{"batch_events": 3, "batch_bytes": 1_000, "rng": random.Random(1), **options})


@dataclass
class Request:
    """A batch as it was when it was written."""

    batch: Batch
    number: int
    base: int
    names: list[str]
    before: str
    after: str


@dataclass
class ModelServer:
    """What lua/append.lua does, in a few lines of Python."""

    last: int = 0
    records: dict[int, Appended] = field(default_factory=dict)
    stream: list[str] = field(default_factory=list)
    position: str = ""

    def append(self, request: Request) -> Answer:
        """One call of the script."""
        number = request.number
        if number <= self.last:
            return self.records[number] if number in self.records else Forgotten(self.last)
        if number not in (self.last + 1, request.base):
            return Gap(self.last)
        if request.after:
            if self.position and self.position != request.before:
                return Elsewhere(self.position)
            self.position = request.after
        appended = Appended(1, len(self.stream), len(request.names), {})
        self.stream += request.names
        self.records[number] = appended
        for known in [known for known in self.records if known < number and known % 16 == number % 16]:
            del self.records[known]  # its field is another's now
        self.last = number
        return appended


class Wire:
    """A connection that delays, refuses, and breaks; what it swallowed may reach the server long after."""

    def __init__(self, sender: Batches, *, levels: bool = False) -> None:
        self.server = ModelServer()
        self.sender = sender
        self.levels = levels
        self.now_ms = 0.0
        self.requests: deque[Request] = deque()
        self.answers: deque[tuple[Batch, Answer]] = deque()
        self.late: deque[Request] = deque()
        self.settled: list[Settled] = []

    def send(self, *, only_full: bool = False) -> None:
        """Put on the wire what is due."""
        for batch in self.sender.take(self.now_ms, only_full=only_full):
            names = [one.receipt for one in batch.chunks]
            self.requests.append(Request(batch, batch.number, batch.base, names, batch.before, batch.after))

    def serve(self, refusal: MillstreamError | None = None) -> None:
        """The server carries out, or refuses, the next request."""
        if self.requests:
            request = self.requests.popleft()
            self.answers.append((request.batch, refusal or self.server.append(request)))

    def serve_late(self) -> None:
        """A request of a broken connection is carried out after all."""
        if self.late:
            self.server.append(self.late.popleft())

    def receive(self, reached: bool = True) -> None:
        """The next answer arrives."""
        if self.answers:
            batch, answer = self.answers.popleft()
            self.settled += self.sender.answered(batch, answer, self.now_ms)
            if self.levels:
                self.settled += self.sender.levelled(batch, reached)

    def cut(self) -> None:
        """The connection breaks: answers are gone, requests are late."""
        self.late += self.requests
        self.requests.clear()
        self.answers.clear()
        self.sender.lost()

    def wait(self, ms: float) -> None:
        """Time passes."""
        self.now_ms += ms
        self.settled += self.sender.expire(self.now_ms, "", TIMEOUT_MS)

    def calm(self) -> None:
        """From now on all goes well, until nothing is left to do."""
        for _ in range(10_000):
            self.send()
            if not (self.requests or self.answers or not self.sender.idle):
                return
            self.serve()
            self.receive()
            if not self.requests and not self.answers:
                self.wait(1)
        raise AssertionError("the sender never came to rest")

    def fates(self) -> dict[str, Fate]:
        """Entry name to how its sending ended."""
        return {one.receipt: settled.fate for settled in self.settled for one in settled.chunks}


ACTIONS = st.sampled_from(
    "add add add send send send serve serve serve receive receive refuse fail cut cut late late wait full".split()
)
# Short runs end in the middle of things more often, long ones reach deep states.
RUNS = st.one_of(st.lists(ACTIONS, max_size=15), st.lists(ACTIONS, min_size=15, max_size=120))


@settings(max_examples=1_000, deadline=None)
@given(RUNS, st.booleans(), st.booleans(), st.booleans())
def test_every_entry_is_appended_once_and_in_order_whatever_the_network_does(
    actions: list[str], levels: bool, reached: bool, late_first: bool
) -> None:
    """Confirmed means once in the stream, failed means not in it, unknown means at most once; order is kept."""
    sender = batches(levels=levels)
    wire = Wire(sender, levels=levels)
    added: list[str] = []
    for action in actions:
        if action == "add":
            added.append(f"e{len(added)}")
            sender.add(entry(added[-1], wire.now_ms))
        elif action == "send":
            wire.send()
        elif action == "full":
            wire.send(only_full=True)
        elif action == "serve":
            wire.serve()
        elif action == "receive":
            wire.receive(reached)
        elif action == "refuse":
            wire.serve(OOM)
        elif action == "fail":
            wire.serve(WrongKeyTypeError("WRONGTYPE"))
        elif action == "cut":
            wire.cut()
        elif action == "late":
            wire.serve_late()
        else:
            wire.wait(150)
    while late_first and wire.late:
        wire.serve_late()
    wire.calm()
    while wire.late:
        wire.serve_late()

    fates = wire.fates()
    assert sorted(fates) == sorted(added)
    stream = wire.server.stream
    assert len(stream) == len(set(stream)), "appended twice"
    assert stream == [name for name in added if name in set(stream)], "out of order"
    for name, fate in fates.items():
        if fate in (Fate.CONFIRMED, Fate.NOT_REACHED):
            assert name in stream
        if fate is Fate.FAILED:
            assert name not in stream
    for settled in wire.settled:
        if settled.appended:
            first = settled.appended.first_seq
            assert stream[first : first + len(settled.chunks)] == [one.receipt for one in settled.chunks]
    assert sender.idle
    assert sender.deadline_ms() is None


def test_what_a_source_gives_again_is_not_in_one_batch_with_what_it_gave_before() -> None:
    """The script looks only where a batch begins: in one batch, both would be appended."""
    sender = batches(batch_events=10)
    wire = Wire(sender)
    for name, before, after in (("3", "2", "3"), ("4", "3", "4"), ("3", "2", "3"), ("4", "3", "4")):
        sender.add(entry(name, step=Step("file", before, after)))
    wire.server.position = "2"
    wire.send()
    assert [request.names for request in wire.requests] == [["3", "4"], ["3", "4"]]
    wire.calm()
    assert wire.server.stream == ["3", "4"]
    assert [one.fate for one in wire.settled] == [Fate.CONFIRMED, Fate.FAILED]


@dataclass
class End:
    """What the source learns of a line, as soon as the sender knows it."""

    fate: Fate | None = None
    error: MillstreamError | None = None


@settings(max_examples=600, deadline=None)
@given(RUNS, st.booleans())
def test_a_source_that_restarts_from_its_stored_position_neither_loses_nor_repeats_a_line(
    actions: list[str], late_look: bool
) -> None:
    """After any failure the source drops what is unconfirmed, reads the stored position and goes on from there.

    late_look: it learns of the failure when it has given more lines.
    """
    sender = batches()
    wire = Wire(sender)
    position, held, seen, lines = 0, 0, 0, 40
    behind: End | None = None

    def feed() -> None:
        nonlocal position, held, behind
        if position < lines:
            step = Step("file", str(position), str(position + 1), behind=behind)
            one = entry(f"line{position}", wire.now_ms, step=step)
            one.ending = behind = End()
            position, held = position + 1, held + 1
            wire.settled += sender.add(one)
            note()

    def note() -> None:
        for settled in wire.settled:
            for one in settled.chunks:
                one.ending.fate, one.ending.error = settled.fate, settled.error

    def look() -> None:
        nonlocal position, held, seen, behind
        for settled in wire.settled[seen:]:
            held -= len(settled.chunks)
            if settled.fate in (Fate.FAILED, Fate.UNKNOWN):
                position = -1  # interrupted: wait for the rest to end, then read the position
        seen = len(wire.settled)
        if position == -1 and held == 0:
            position, behind = int(wire.server.position or 0), None

    for action in actions:
        if action == "add" and position >= 0:
            feed()
        elif action in ("send", "full"):
            wire.send()
        elif action == "serve":
            wire.serve()
        elif action == "receive":
            wire.receive()
        elif action == "refuse":
            wire.serve(OOM)
        elif action == "fail":
            wire.serve(WrongKeyTypeError("WRONGTYPE"))
        elif action == "cut":
            wire.cut()
        elif action == "late":
            wire.serve_late()
        elif action == "wait":
            wire.wait(150)
        note()
        if not late_look or action == "full":
            look()
    while True:
        wire.calm()
        note()
        look()
        if position >= lines:
            break
        feed()
    while wire.late:
        wire.serve_late()
    assert wire.server.stream == [f"line{number}" for number in range(lines)]


def test_at_most_sixteen_batches_are_unconfirmed() -> None:
    """The script remembers as many, so a seventeenth waits."""
    sender = batches(batch_events=1)
    for number in range(20):
        sender.add(entry(str(number)))
    taken = sender.take(0)
    assert [batch.number for batch in taken] == list(range(1, MAX_UNCONFIRMED + 1))
    assert sender.take(0) == []
    sender.answered(taken[0], Appended(1, 0, 1, {}), 0)
    assert [batch.number for batch in sender.take(0)] == [17]


def test_a_batch_refused_for_memory_and_those_behind_it_are_sent_again_in_order_after_a_wait() -> None:
    """Batch 2 refused while batch 3 is in flight: nothing is sent before the wait is over, then 2 and 3."""
    sender = batches(batch_events=1)
    for name in "abc":
        sender.add(entry(name))
    first, second, third = sender.take(0)
    assert sender.answered(first, Appended(1, 0, 1, {}), 0)[0].fate is Fate.CONFIRMED
    assert sender.answered(second, OOM, 0) == []
    assert sender.take(5_000) == [], "the answer to batch 3 is still to come"
    assert sender.answered(third, Gap(1), 0) == []
    due_ms = sender.held_until_ms(0)
    assert due_ms is not None
    assert 10 <= due_ms <= 20
    assert sender.take(due_ms - 1) == []
    again = sender.take(due_ms)
    assert again == [second, third]
    assert [batch.base for batch in again] == [2, 2]


def test_a_final_error_fails_its_batch_alone() -> None:
    """The batches behind it keep their numbers and are sent with a base beyond it."""
    sender = batches(batch_events=1)
    for name in "ab":
        sender.add(entry(name))
    first, second = sender.take(0)
    (settled,) = sender.answered(first, WrongKeyTypeError("WRONGTYPE"), 0)
    assert settled.fate is Fate.FAILED
    assert sender.answered(second, Gap(0), 0) == []
    assert [(batch.number, batch.base) for batch in sender.take(0)] == [(2, 2)]


def test_a_batch_that_timed_out_on_the_wire_is_unknown_and_never_sent_again() -> None:
    """What may have been appended is not repeated; the base moves past it."""
    sender = batches(batch_events=1)
    sender.add(entry("a"))
    sender.add(entry("b", 500))
    sender.take(0)
    (settled,) = sender.expire(TIMEOUT_MS, "", TIMEOUT_MS)
    assert settled.fate is Fate.UNKNOWN
    assert isinstance(settled.error, SendError)
    sender.lost()
    assert [(batch.number, batch.base) for batch in sender.take(TIMEOUT_MS)] == [(2, 2)]


def test_what_was_never_sent_fails_for_certain() -> None:
    """No doubt where nothing was written."""
    sender = batches()
    sender.add(entry("a"))
    (settled,) = sender.expire(TIMEOUT_MS, "cannot reach the server", TIMEOUT_MS)
    assert settled.fate is Fate.FAILED
    assert "cannot reach the server" in str(settled.error)


@pytest.mark.parametrize(("size", "expected"), [(400, [2, 2, 1]), (10, [3, 2]), (5_000, [1, 1, 1, 1, 1])])
def test_batches_are_bounded_in_entries_and_bytes(size: int, expected: list[int]) -> None:
    """An entry larger than the limit goes alone."""
    sender = batches()
    for name in "abcde":
        sender.add(entry(name, size=size))
    assert [len(batch.chunks) for batch in sender.take(0)] == expected


def test_only_full_batches_are_made_while_an_answer_is_awaited() -> None:
    """What arrives meanwhile gathers for the next call."""
    sender = batches()
    for name in "abcd":
        sender.add(entry(name))
    assert [len(batch.chunks) for batch in sender.take(0, only_full=True)] == [3]
    assert [len(batch.chunks) for batch in sender.take(0)] == [1]


def test_fail_all_ends_everything() -> None:
    """What was on the wire is unknown, what waited has failed."""
    sender = batches(batch_events=1)
    sender.add(entry("a"))
    sender.take(0)
    sender.add(entry("b"))
    fates = [settled.fate for settled in sender.fail_all(SendError("closed"))]
    assert fates == [Fate.UNKNOWN, Fate.FAILED]


def test_what_a_broken_connection_swallowed_stays_in_doubt_until_it_is_appended() -> None:
    """A request that may still reach the server makes a later refusal or timeout unknown, not failed."""
    refused = batches()
    refused.add(entry("a"))
    refused.take(0)
    refused.lost()
    (batch,) = refused.take(0)
    (settled,) = refused.answered(batch, WrongKeyTypeError("WRONGTYPE"), 0)
    assert settled.fate is Fate.UNKNOWN

    silent = batches()
    silent.add(entry("b"))
    silent.take(0)
    silent.lost()
    (settled,) = silent.expire(TIMEOUT_MS, "", TIMEOUT_MS)
    assert settled.fate is Fate.UNKNOWN


def test_a_batch_of_one_chunk_is_made_at_once_unless_others_go_before_it() -> None:
    """What waits, is sent again, or is too many unconfirmed."""
    one = batches()
    first = one.take_one(entry("a"))
    second = one.take_one(entry("b"))
    assert first is not None and second is not None
    assert [(batch.number, batch.base, batch.on_wire) for batch in (first, second)] == [
        (1, 1, True),
        (2, 1, True),
    ]
    one.answered(first, Appended(1, 0, 1, {}), 0)
    one.lost()
    assert one.take_one(entry("c")) is None
    assert [(batch.number, batch.base) for batch in one.take(0)] == [(2, 2)]
    one.answered(second, Appended(1, 1, 1, {}), 0)
    one.add(entry("d"))
    assert one.take_one(entry("e")) is None
