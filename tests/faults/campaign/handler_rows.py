"""Rows in which handlers, or what they are given, are the fault: blocked loops, long runs, killers, strangers."""

import random
from collections.abc import Sequence

from pipeline.codec import pack
from pipeline.header import MAGIC
from pipeline.server.replies import text
from tests.faults.campaign.checker import Demands
from tests.faults.campaign.field import Crew, Field, Load
from tests.faults.campaign.history import Fault, Hostile
from tests.faults.campaign.row import Row
from tests.faults.campaign.server import now_s
from tests.until import until

LEASE_S = 1.0
CROWD = 700
"""One claim looks at ten entries for each that it may take: 100 at first, 500 at most."""
HUGE_BYTES = 2_000_000
"""Beyond what any entry may have."""


def run_long(field: Field, rng: random.Random) -> None:
    """Nothing is done from outside: some events take longer than the lease, and others look for what is abandoned."""
    from_s = now_s()
    field.until_confirmed(100)
    field.note(Fault("long runs", from_s, now_s()))


def expect_killers(field: Field, rng: random.Random) -> None:
    """Events kill the workers that run them, until they are dead letters; each worker that dies is replaced."""
    with field.server.link() as link:
        until(lambda: field.confirmed() > 200, 60, what=field.said)

        def dead() -> bool:
            for worker in [one for one in field.workers if not one.alive()]:
                from_s = now_s()
                field.meant_to_die(worker)
                killed = Fault(
                    "killed by an event",
                    from_s - 0.2,
                    from_s,
                    frozenset([worker.pid]),
                    repeats=True,
                    deadly=True,
                )
                field.note(killed)
                field.replace(worker)
            return field.letters_of(link, "bill", "WorkerKilled") >= len(field.load.producers)

        until(dead, 150, what=field.said, every_s=0.02)
        field.until_joined()


def strand(field: Field, rng: random.Random) -> None:
    """A worker dies with what lies behind the many entries that another holds, and renews, all the while."""
    crowd = field.crew("crowd")
    field.hold.touch()
    holder = field.start_worker(crowd, "async", concurrency=CROWD, window=CROWD)
    until(lambda: field.held_by(holder) >= CROWD * 9 // 10, 60, what=field.said, every_s=0.05)
    victim = field.start_worker(crowd, "plain", concurrency=20, window=40)
    until(lambda: field.held_by(victim) >= 20, 60, what=field.said, every_s=0.01)
    field.pause(0.3)  # they run
    field.kill([victim])
    field.workers.remove(victim)
    field.retire(victim)
    field.start_worker(crowd, "plain", hold="")
    try:
        until(lambda: not field.held_by(victim), 25, every_s=0.05)
    except AssertionError:
        field.notes.append("what the dead worker held was not taken over while the others ran")
    field.hold.unlink()


def hoard(field: Field, rng: random.Random) -> None:
    """Handlers are slower than what comes, and what waits for them waits in the stream."""
    from_s = now_s()
    field.until_confirmed(100)
    field.note(Fault("slow handlers", from_s, now_s()))


def cancel(field: Field, rng: random.Random) -> None:
    """Sends and handlers are cancelled at random by the programs themselves, all the time."""
    from_s = now_s()
    field.until_confirmed(100)
    field.note(Fault("cancelled", from_s, now_s()))


def strange_entries(rng: random.Random) -> Sequence[tuple[str, tuple[str | bytes, ...]]]:
    """Entries that no producer of ours wrote, and what becomes of each."""
    header = [1, 0, 1, 0, 1, "stranger", rng.randrange(1, 1_000)]
    body = pack({"a": 1})
    newer = MAGIC + pack([99, *header[1:]])
    right = MAGIC + pack(header)
    return (
        ("handled", ("temperature", "21", "unit", "C")),
        ("handled", (b"\x00\xff", rng.randbytes(40), b"\x00\xff", b"twice")),
        ("handled", ("h", "no magic byte here", "b", b"\xc1")),
        ("dead", ("h", MAGIC + rng.randbytes(30), "b", rng.randbytes(50))),
        ("dead", ("h", right, "b", body[:-1] + b"\xc1")),
        ("dead", ("h", right)),
        ("dead", ("h", right, "b", b"\xdd\xff\xff\xff\xff")),
        ("dead", ("payload", b"x" * HUGE_BYTES)),
        ("kept", ("h", newer, "b", body)),
    )


def be_hostile(field: Field, rng: random.Random) -> None:
    """Strangers append to the stream: foreign fields, garbage, huge entries, a version that is not written yet."""
    with field.fault("strangers"), field.server.link() as link:
        for wanted, fields in strange_entries(rng):
            if wanted == "kept" and sum(one.wanted == "kept" for one in field.hostile) >= 3:
                continue  # those of a newer version wait for it in the workers' hands
            entry_id = text(link.call("XADD", field.keys.stream, "*", *fields))
            field.hostile.append(Hostile(entry_id, wanted))
    field.until_confirmed(60)


def crews(*kinds: str, **options: object) -> tuple[Crew, Crew]:
    """Two groups with the same kinds of workers."""
    return (
        Crew(group="audit", kinds=kinds, options=dict(options)),
        Crew(group="bill", kinds=kinds, obeys=True, options=dict(options)),
    )


ROWS = (
    Row(
        name="handlers-outlive-lease",
        says="one in a hundred events runs for 2.5 x claim_after, plain, async and in batches",
        storm=run_long,
        load=Load(rate=250, crews=crews("plain", "async", "batch", slow_s=2.5 * LEASE_S, concurrency=16)),
        demands=Demands(repeats=False),
    ),
    Row(
        name="loop-blocked",
        says="async handlers block their event loop, one in a hundred for 1.5 x claim_after",
        storm=run_long,
        load=Load(rate=250, crews=crews("blocking", "plain", slow_s=1.5 * LEASE_S)),
        demands=Demands(repeats=False),
    ),
    Row(
        name="workers-hold-little",
        says="handlers are slower than what comes; no worker holds more than its window of 40 events",
        storm=hoard,
        load=Load(rate=600, crews=crews("plain", "plain", work_ms=25, concurrency=4, window=40)),
        demands=Demands(repeats=False, held=2 * 40),
    ),
    Row(
        name="dead-behind-a-crowd",
        says="a worker dies whose entries lie behind 700 that another holds and renews",
        storm=strand,
        load=Load(
            rate=800,
            producers=("single", "async"),
            crews=(Crew(group="crowd", kinds=(), obeys=True), Crew(group="audit", kinds=("async",))),
        ),
        demands=Demands(taken_over_s=20),
        rounds=1,
        most_rounds=1,
    ),
    Row(
        name="tasks-cancelled",
        says="sends and tasks of async handlers cancelled at random",
        storm=cancel,
        load=Load(
            rate=400,
            producers=("async", "async"),
            options={"cancels": True},
            crews=crews("async", "async", cancel_every_s=0.02, work_ms=10),
        ),
        demands=Demands(repeats=False, failed=True),
    ),
    Row(
        name="events-that-kill",
        says="three events kill every worker that runs them, alone and inside a pack: these three become dead letters",
        storm=expect_killers,
        load=Load(
            rate=300,
            options={"kill_at": [45]},
            crews=(
                Crew(group="audit", kinds=("plain",)),
                Crew(group="bill", kinds=("plain", "async"), obeys=True, options={"work_ms": 5}),
            ),
        ),
        demands=Demands(),
        rounds=1,
        most_rounds=1,
        drain_s=120,
    ),
    Row(
        name="hostile-entries",
        says="foreign fields, garbage, huge entries and unknown versions among the others",
        storm=be_hostile,
        load=Load(rate=400, crews=crews("plain", "async", "batch")),
        demands=Demands(repeats=False),
        most_rounds=10,
    ),
)
