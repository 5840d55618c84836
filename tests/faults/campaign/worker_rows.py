"""Rows in which workers and producers suffer: killed, stopped, blocked, slow, told to go."""

import random
import signal

from tests.faults.campaign.checker import Demands
from tests.faults.campaign.field import Crew, Field, Load
from tests.faults.campaign.history import Fault
from tests.faults.campaign.row import Row
from tests.faults.campaign.server import now_s
from tests.until import until

LEASE = "1s"
SLOW = {"work_ms": 40}


def kill_one(field: Field, rng: random.Random) -> None:
    """kill -9 one worker, and start another."""
    field.until_confirmed(60)
    victim = rng.choice(field.killable())
    field.until_busy([victim])
    field.kill([victim])
    field.replace(victim)
    field.until_joined()


def kill_all(field: Field, rng: random.Random) -> None:
    """kill -9 all workers at one moment, and start others, which have the time to run what was left.

    An event that five workers in turn held as they died is taken for what killed them: that is not what is shown here.
    """
    field.until_confirmed(100)
    victims = field.killable()
    field.until_busy(victims)
    field.kill(victims)
    for victim in victims:
        field.replace(victim)
    field.until_joined()
    until(lambda: not any(field.held_by(victim) for victim in victims), 60, what=field.said, every_s=0.1)


def stop_one(field: Field, rng: random.Random) -> None:
    """SIGSTOP one worker for longer than its lease, then let it go on."""
    field.until_confirmed(60)
    victim = rng.choice(field.killable())
    field.until_busy([victim])
    from_s = now_s()
    victim.signal(signal.SIGSTOP)
    held = field.held_by(victim)
    field.pause(rng.uniform(1.8, 2.4))
    victim.signal(signal.SIGCONT)
    field.note(Fault("stopped", from_s, now_s(), frozenset([victim.pid]), effect=held, repeats=True))
    field.pause(0.3)


def tell_to_go(field: Field, rng: random.Random) -> None:
    """SIGTERM one worker, and start another."""
    field.until_confirmed(60)
    leaver = rng.choice(field.killable())
    field.until_busy([leaver])
    with field.fault("told to go", field.held_by(leaver)):
        leaver.signal(signal.SIGTERM)
        field.replace(leaver)
        until(lambda: not leaver.alive(), 40, what=field.said, every_s=0.01)
    field.until_joined()


def kill_producer(field: Field, rng: random.Random) -> None:
    """kill -9 one producer, and start another."""
    field.until_confirmed(60)
    victim = rng.choice(field.producers)
    field.kill([victim])
    field.replace(victim)
    field.until_all_told()


def busy(group: str, kinds: tuple[str, ...], *, obeys: bool = False, **options: object) -> Crew:
    """A crew whose handlers take a while, so that something is always running."""
    return Crew(
        group=group, kinds=kinds, obeys=obeys, options={"claim_after": LEASE, "work_ms": 12, **options}
    )


BUSY = Load(rate=500, crews=(busy("audit", ("plain", "async")), busy("bill", ("batch", "async"), obeys=True)))

ROWS = (
    Row(
        name="workers-killed",
        says="kill -9 of one worker after the other",
        storm=kill_one,
        load=BUSY,
        demands=Demands(taken_over_s=30),
        rounds=3,
    ),
    Row(
        name="workers-killed-at-once",
        says="kill -9 of all workers at one moment",
        storm=kill_all,
        load=BUSY,
        demands=Demands(taken_over_s=30),
    ),
    Row(
        name="workers-stopped",
        says="SIGSTOP of a worker for longer than its lease, then SIGCONT, while others run what it had",
        storm=stop_one,
        load=Load(
            rate=200,
            options={"plans": {"slow": 0.08}},
            crews=(
                busy("audit", ("plain", "async"), slow_s=1.6, concurrency=16),
                busy("bill", ("async", "async"), obeys=True, slow_s=1.6, concurrency=16),
            ),
        ),
    ),
    Row(
        name="workers-told-to-go",
        says="SIGTERM of one worker after the other",
        storm=tell_to_go,
        load=BUSY,
        demands=Demands(repeats=False),
        rounds=3,
    ),
    Row(
        name="producers-killed",
        says="kill -9 of one producer after the other",
        storm=kill_producer,
        load=BUSY,
        demands=Demands(repeats=False),
        rounds=3,
    ),
)
