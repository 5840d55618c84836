"""G6: a failing event is retried with backoff in its own group, holds up no other, and becomes a dead letter."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from consumers.dead_letters import DeadLetters
from consumers.delivery import Delivery
from pipeline.event import Event
from pipeline.options import Retry
from pipeline.outcome import Reject
from pipeline.server.groups import resume
from pipeline.wire import encode_entry
from tests.conftest import OwnServer
from tests.consuming import PRODUCER, Consuming, consuming_on
from tests.faults.crew import ROOT
from tests.until import until

KILLED_BY_EVENTS = """
import os, sys, time
from consumers.app import Pipeline
url, stream, path = sys.argv[1:]
account = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
app = Pipeline(url)

@app.consumer(stream, group="g", claim_after="1s", concurrency=4, retry=2)
def handle(event, delivery):
    os.write(account, f"S {event.data} {os.getpid()}\\n".encode())
    time.sleep(0.02)
    if event.data == "killer":
        os.kill(os.getpid(), 9)
    os.write(account, f"D {event.data} {os.getpid()}\\n".encode())

app.run()
"""

STUCK_UNTIL_KILLED = """
import os, sys, time
from consumers.app import Pipeline
url, stream, path, stuck = sys.argv[1:]
account = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
app = Pipeline(url)

@app.consumer(stream, group="g", claim_after="1s", concurrency=1)
def handle(event, delivery):
    os.write(account, f"S {event.data} {os.getpid()}\\n".encode())
    while event.data == stuck:
        time.sleep(0.1)
    os.write(account, f"D {event.data} {os.getpid()}\\n".encode())

app.run()
"""


def test_g6_a_failing_event_is_retried_with_backoff_in_its_own_group_only(consuming: Consuming) -> None:
    """All others are handled at once, in both groups; then it is a dead letter of the one group, moved in one step."""
    seen: dict[str, Counter[int]] = {"failing": Counter(), "other": Counter()}

    @consuming.app.consumer(
        consuming.stream, group="failing", concurrency=1, retry=Retry(3, "10s", "60s", jitter=0)
    )
    def fail(event: Event, delivery: Delivery) -> None:
        seen["failing"][event.data] += 1
        if event.data == 50:
            raise LookupError(f"attempt {delivery.attempt}")

    @consuming.app.consumer(consuming.stream, group="other")
    def handle(event: Event) -> None:
        seen["other"][event.data] += 1

    ids = consuming.send(*range(100))
    with consuming.running() as members:
        for attempt in (1, 2):
            until(
                lambda attempt=attempt: consuming.waiting("failing") and seen["failing"][50] == attempt,  # type: ignore[misc]
                what="it waits for its next run",
            )
            until(lambda: len(seen["failing"]) == 100, what="all others are handled meanwhile")
            assert consuming.dead("failing") == []
            consuming.advance(20_000, "failing")
        until(lambda: consuming.dead("failing"), what="its last attempt is over")
        consuming.until_drained("failing")
        consuming.until_drained("other")
        names = [member.name for member in members.members]
    assert seen["failing"] == Counter({**dict.fromkeys(range(100), 1), 50: 3})
    assert seen["other"] == Counter(dict.fromkeys(range(100), 1))
    ((letter, _),) = consuming.dead("failing")
    assert (letter.reason, letter.error, letter.attempts) == ("attempt 3", "LookupError", 3)
    assert (letter.stream, letter.entry_id, letter.group) == (consuming.stream, ids[50], "failing")
    assert letter.consumer in names
    assert "raise LookupError" in letter.traceback
    assert consuming.dead("other") == []


def test_g6_crashes_alone_convict_after_five_and_only_the_killer(
    consuming: Consuming, tmp_path: Path
) -> None:
    """An event that kills every worker it runs in dies after five, the last two alone; the innocent are handled."""
    path = tmp_path / "account"
    command = [sys.executable, "-c", KILLED_BY_EVENTS, consuming.url, consuming.stream, str(path)]
    workers: list[subprocess.Popen[bytes]] = []

    def keep_two() -> bool:
        workers[:] = [worker for worker in workers if worker.poll() is None]
        while len(workers) < 2:
            workers.append(
                subprocess.Popen(
                    command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.DEVNULL
                )
            )
        return bool(consuming.dead())

    consuming.send(*range(100), "killer", *range(100, 200))
    try:
        until(keep_two, 40, what="the killer is a dead letter")
        consuming.until_drained()
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    lines = [line.split() for line in path.read_text().splitlines()]
    done = Counter(data for kind, data, _ in lines if kind == "D")
    assert set(done) == {str(number) for number in range(200)}
    ((letter, _),) = consuming.dead()
    assert (letter.error, letter.crashes, letter.event_id) == ("WorkerKilled", 5, f"{PRODUCER}-101")
    assert letter.reason.startswith("killed its worker")
    killed = [pid for kind, data, pid in lines if kind == "S" and data == "killer"]
    assert len(killed) == 5
    begun = Counter(data for kind, data, pid in lines if pid == killed[-1] and kind == "S")
    ended = Counter(data for kind, data, pid in lines if pid == killed[-1] and kind == "D")
    assert begun - ended == Counter(["killer"]), "it did not run alone the last time"


@pytest.mark.campaign
def test_g6_who_was_held_by_workers_that_died_of_others_is_innocent(
    consuming: Consuming, tmp_path: Path
) -> None:
    """Seven workers in turn hold it, never begin it, and are killed while another event is stuck."""
    path = tmp_path / "account"
    path.touch()
    rounds = 7

    def lines() -> list[str]:
        return [line.rsplit(maxsplit=1)[0] for line in path.read_text().splitlines()]

    def run(stuck: str) -> "subprocess.Popen[bytes]":
        command = [
            sys.executable,
            "-c",
            STUCK_UNTIL_KILLED,
            consuming.url,
            consuming.stream,
            str(path),
            stuck,
        ]
        return subprocess.Popen(
            command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.DEVNULL
        )

    (innocent,) = consuming.send("innocent")
    consuming.link.call("XGROUP", "CREATE", consuming.stream, "g", "0")
    consuming.link.call("XREADGROUP", "GROUP", "g", "dead", "STREAMS", consuming.stream, ">")
    for number in range(rounds):
        consuming.send(f"stuck {number}")
        worker = run(f"stuck {number}")
        try:
            until(lambda number=number: f"S stuck {number}" in lines(), what="it is stuck")  # type: ignore[misc]
            until(
                lambda number=number: consuming.pending()[innocent][1] == number + 2,  # type: ignore[misc]
                what="the innocent is taken over",
            )
        finally:
            worker.kill()
            worker.wait()
    assert "S innocent" not in lines()
    worker = run("")
    try:
        consuming.until_drained()
    finally:
        worker.kill()
        worker.wait()
    assert consuming.dead() == []
    done = Counter(line for line in lines() if line.startswith("D"))
    assert done == Counter(["D innocent", *(f"D stuck {number}" for number in range(rounds))])


def test_g6_corrupt_bytes_die_and_unknown_formats_wait(consuming: Consuming) -> None:
    """The one can never be read; the other will be, by a newer member: it stays, its attempt unspent."""
    seen: list[int] = []

    @consuming.app.consumer(consuming.stream, group="g", claim_after="1s")
    def handle(event: Event) -> None:
        seen.append(event.data)

    header = encode_entry(Event(1), producer=PRODUCER, number=1)[1]
    corrupt = consuming.send_raw([b"h", header[:3], b"b", b"\x01"])
    newer = consuming.send_raw([b"h", header[:2] + b"\x63" + header[3:], b"b", b"\x01"])
    consuming.send(7)
    with consuming.running():
        until(lambda: seen == [7] and len(consuming.dead()) == 1, what="the rest is decided")
        until(lambda: [count for _, count in consuming.pending().values()] == [0], what="it is released")
    ((letter, _),) = consuming.dead()
    assert (letter.entry_id, letter.error) == (corrupt, "DecodeError")
    assert list(consuming.pending()) == [newer]


@pytest.mark.parametrize("crashes", [1, 4])
def test_g6_an_event_that_outlived_its_crashes_is_done(consuming: Consuming, crashes: int) -> None:
    """Whatever `attempts` says: a crash alone is no conviction before the fifth."""
    attempts: list[int] = []

    @consuming.app.consumer(consuming.stream, group="g", claim_after="1s", retry=1)
    def handle(event: Event, delivery: Delivery) -> None:
        attempts.append(delivery.attempt)

    (entry_id,) = consuming.send(1)
    call = consuming.link.call
    call("XGROUP", "CREATE", consuming.stream, "g", "0")
    call("XREADGROUP", "GROUP", "g", "dead", "STREAMS", consuming.stream, ">")
    call("XCLAIM", consuming.stream, "g", "dead", 0, entry_id, "RETRYCOUNT", crashes, "JUSTID")
    consuming.run_until_drained()
    assert attempts == [crashes + 1]
    assert consuming.dead() == []


def test_g6_a_dead_letter_is_written_by_a_server_out_of_memory(own_server: OwnServer, stream: str) -> None:
    """In the step that acknowledges, with the bytes as they were sent; and it runs again from there, once."""
    server = own_server()
    with consuming_on(server.address, stream) as consuming:
        failing = True
        seen: list[int] = []

        @consuming.app.consumer(stream, group="g", retry=Retry(3, give_up_on=LookupError))
        def handle(event: Event) -> None:
            if failing:
                raise KeyError(event.data)
            seen.append(event.data)

        consuming.send(*range(20))
        sent = [fields for _, fields in consuming.entries()]
        consuming.link.call("CONFIG", "SET", "maxmemory", 1)
        with consuming.running():
            until(lambda: len(consuming.dead()) == 20, what="all are dead letters")
            until(lambda: not consuming.pending(), what="and acknowledged")
        assert sorted(fields for _, fields in consuming.dead()) == sorted(sent)
        assert {letter.reason.split(":")[0] for letter, _ in consuming.dead()} == {
            "KeyError is given up on (give_up_on)"
        }
        failing = False
        with DeadLetters(stream, "g", connector=server.connector()) as letters:
            assert letters.retry(letters) == 20
        consuming.link.call(
            "CONFIG", "SET", "maxmemory", 0
        )  # on 6.2 not even a look in a transaction is answered
        consuming.run_until_drained()
        assert sorted(seen) == list(range(20))
        assert consuming.dead() == []


def test_g6_a_bad_deploy_does_not_empty_the_stream(consuming: Consuming) -> None:
    """The group pauses itself once more than half of its last hundred events died; the next deploy gets the rest."""
    bad = True
    seen: list[int] = []

    @consuming.app.consumer(consuming.stream, group="g", retry=1, window_events=20)
    def handle(event: Event) -> None:
        if bad:
            raise ImportError("no module named billing")
        seen.append(event.data)

    consuming.send(*range(2_000))
    with consuming.running() as running:
        until(lambda: running.members[0].state.pause is not None, what="the group pauses itself")
        until(running.members[0].idle, what="what ran has ended")
    dead = len(consuming.dead())
    assert dead < 400
    bad = False
    resume(consuming.link, consuming.keys, "g")
    consuming.run_until_drained()
    assert len(seen) == 2_000 - dead
    assert len(consuming.dead()) == dead


def test_g6_an_entry_that_the_server_will_not_move_holds_up_no_other(
    consuming: Consuming, caplog: pytest.LogCaptureFixture
) -> None:
    """No ids are left in the dead letters: that event waits and is tried again, others that fail run again."""
    dead = consuming.keys.dead("g")
    consuming.link.call("XADD", dead, f"{2**64 - 1}-{2**64 - 1}", "the", "last id")
    ran: Counter[int] = Counter()

    @consuming.app.consumer(consuming.stream, group="g", retry=Retry(5, 0, 0))
    def handle(event: Event) -> None:
        ran[event.data] += 1
        if event.data % 50 == 0:
            raise Reject("every fiftieth")
        if ran[event.data] == 1:
            raise ValueError("the first time")

    ids = consuming.send(*range(200))
    rejected = {ids[n] for n in range(0, 200, 50)}
    with consuming.running() as running:
        until(lambda: set(consuming.pending()) == rejected, 10, what="all others are settled")
        until(lambda: all(ran[n] == 2 for n in range(200) if n % 50), 10, what="and run again")
        consuming.send(1_001)
        until(lambda: ran[1_001] == 2, 10, what="what comes then is not held up either")
        assert set(consuming.pending()) == rejected, "they wait"
        lines = [r.getMessage() for r in caplog.records if "refuses to move" in r.getMessage()]
        assert 1 <= len(lines) <= len(rejected)
        assert running.failure is None
        consuming.link.call("DEL", dead)
        consuming.until_drained()
    assert {letter.entry_id for letter, _ in consuming.dead()} == rejected
    assert len(consuming.dead()) == len(rejected), "each once"
    assert all(ran[n] == 1 for n in range(0, 200, 50)), "no handler runs again for it"
