"""Rows of the list queue: tasks that old and new producers push, taken by workers of a list, through the same faults.

A list has one group, so one crew works it. What must come of it is what streams must show, and one thing more: nothing
stays behind in the list, its hand or the stream of what is taken.
"""

import contextlib
import json
import math
import random
import re
import signal
from collections.abc import Iterator
from dataclasses import replace

from pipeline.server.connect import Link
from pipeline.server.replies import parse_entries
from tests.faults.campaign.checker import Demands
from tests.faults.campaign.field import Crew, Field, Load, names_in
from tests.faults.campaign.history import Fault
from tests.faults.campaign.network_rows import (
    READ,
    SETTLED,
    before_all,
    before_producers,
    before_workers,
    cut_anywhere,
    swallow,
)
from tests.faults.campaign.row import Row, Storm
from tests.faults.campaign.server import now_s
from tests.faults.campaign.server_rows import (
    configure,
    flush,
    forget_scripts,
    kill_clients,
    kill_server,
    kill_strict_server,
    writes_refused,
)
from tests.faults.campaign.worker_rows import kill_all, kill_producer, stop_one, tell_to_go
from tests.until import until

LIST = "emails"
WORKERS = "workers"
PUSHED = re.compile(rb"\*2\r\n\$(2\r\nok|8\r\nrepeated)\r\n")
FED = re.compile(rb"\*2\r\n:[1-9]\d*\r\n:\d+\r\n")
HANDED = re.compile(rb'(\*2\r\n\$\d+\r\n[^\r]*\r\n)?\$\d+\r\n\{"name"')
"""BLMOVE's, or BRPOP's."""
POPPED = re.compile(rb'\*1\r\n\$\d+\r\n\{"name"|:1\r\n')
"""A task, and the answer to who says that it has arrived."""
FILLER, FILLER_BYTES = 2_000, 4_000
"""Keys that a server has to load, one each millisecond; every 2 MB it looks whether somebody asks something."""


def crew(*kinds: str, ordered: bool = False, **options: object) -> tuple[Crew, ...]:
    """The workers of the list."""
    return (Crew(group=WORKERS, kinds=kinds, obeys=True, ordered=ordered, options=dict(options)),)


def load(*crews: Crew, rate: float = 500) -> Load:
    """Old producers and new ones push to the list."""
    return Load(producers=("plain", "plain", "plain"), rate=rate, queue=LIST, crews=crews)


BUSY = load(*crew("plain", "async", "batch", claim_after="1s", work_ms=12))
STEADY = load(*crew("plain", "async", "batch", work_ms=4))
PATIENT = load(*crew("plain", "async", "batch", work_ms=3, claim_after="30s"))
IN_ORDER = load(*crew("plain", ordered=True, concurrency=1, work_ms=0.2, claim_after="30s"))
AT_REST = replace(IN_ORDER, rate=150)
"""The worker waits for each task, so that each is handed over."""
POPS = load(Crew(group=WORKERS, kinds=("pop", "pop")))
QUIET = Demands(repeats=False)
STRICT = Demands(repeats=False, effect=3, claim_after_s=30)


def kill_in_turn(field: Field, rng: random.Random) -> None:
    """kill -9 one worker, start another, and let what it held be run before the next dies.

    All workers are of one group here: what five in turn held as they died would be taken for what killed them.
    """
    field.until_confirmed(60)
    victim = rng.choice(field.killable())
    field.until_busy([victim])
    field.kill([victim])
    field.replace(victim)
    field.until_joined()
    until(lambda: not field.held_by(victim) and not suspects(field), 60, what=field.said, every_s=0.05)


def stop_in_turn(field: Field, rng: random.Random) -> None:
    """SIGSTOP of one worker, SIGCONT; the next is stopped once what was taken over has been run."""
    stop_one(field, rng)
    until(lambda: not suspects(field), 60, what=field.said, every_s=0.05)


def suspects(field: Field) -> int:
    """How many tasks are pending that were with a worker before which died, or seemed to."""
    with field.server.link() as link:
        rows = link.call("XPENDING", field.keys.stream, WORKERS, "-", "+", 10_000)
    return sum(row[3] > 1 for row in rows)


def one_of(*storms: Storm) -> Storm:
    """One of what other rows do, drawn."""

    def storm(field: Field, rng: random.Random) -> None:
        rng.choice(storms)(field, rng)

    return storm


def restart_worker(field: Field, rng: random.Random) -> None:
    """SIGTERM of the only worker, which gives back what it did not begin; then comes another, and the order stands."""
    field.until_confirmed(60)
    (leaver,) = field.workers
    field.until_busy([leaver])
    with field.fault("told to go", field.held_by(leaver)):
        leaver.signal(signal.SIGTERM)
        until(lambda: not leaver.alive(), 40, what=field.said, every_s=0.01)
        field.pause(rng.uniform(0, 0.3))
        field.replace(leaver)
    field.until_joined()


def run_out_of_memory(field: Field, rng: random.Random) -> None:
    """No memory while tasks wait: no push is taken, all that is there is worked off; then there is memory again."""
    assert field.queue is not None, "the row has a list"
    field.until_confirmed(100)
    refused = drained = 0
    with field.fault("out of memory", lambda: min(refused, drained)), field.server.link() as link:
        before = standing(link, field)
        configure(field, "maxmemory", 1)
        refused = writes_refused(field)
        until(lambda: not standing(link, field), 30, what=field.said)
        drained = before
        field.pause(rng.uniform(0.1, 0.5))
        for _ in range(100):  # it comes and goes between any two steps
            link.call("CONFIG", "SET", "maxmemory", 0)
            field.pause(rng.uniform(0, 0.004))
            link.call("CONFIG", "SET", "maxmemory", 1)
            field.pause(rng.uniform(0, 0.004))
        link.call("CONFIG", "SET", "maxmemory", 0)
    field.until_confirmed(60)


def standing(link: Link, field: Field) -> int:
    """How many tasks wait in the list, in the hand, and in the stream."""
    assert field.queue is not None, "the row has a list"
    return sum(
        [
            link.call("ZCARD" if field.load.order == "priority" else "LLEN", field.queue.list),
            link.call("LLEN", field.queue.hand),
            link.call("XLEN", field.queue.stream),
        ]
    )


def delete_tasks(field: Field, rng: random.Random) -> None:
    """DEL of the stream of what is taken, or of the hand: what was in it is gone, what stands in the list is not."""
    assert field.queue is not None, "the row has a list"
    field.until_confirmed(60)
    key = rng.choice((field.queue.stream, field.queue.stream, field.queue.hand))
    look = ("LRANGE", key, 0, -1) if key == field.queue.hand else ("XRANGE", key, "-", "+")
    from_s = now_s()
    with field.server.link() as link:
        found, deleted = link.calls([("MULTI",), look, ("DEL", key), ("EXEC",)])[-1]
    if key == field.queue.hand:
        names = frozenset(json.loads(payload)["name"] for payload in found)
    else:
        names = frozenset(
            name for entry_id, fields in parse_entries(found) for name in names_in(fields or [], entry_id)
        )
    field.note(
        Fault(
            f"{key} deleted", from_s, now_s(), effect=deleted, repeats=True, risk_s=math.inf, loses=True, names=names
        )
    )  # fmt: skip
    field.until_confirmed(60)


def destroy_group(field: Field, rng: random.Random) -> None:
    """XGROUP DESTROY: everything that is taken and not settled is still there, and runs again."""
    field.until_confirmed(60)
    field.until_busy(field.workers)
    with field.fault("group destroyed", repeats=True, risk_s=3.0), field.server.link() as link:
        link.call("XGROUP", "DESTROY", field.keys.stream, WORKERS)
    field.until_joined()
    field.until_confirmed(60)


def load_slowly(field: Field, rng: random.Random) -> None:
    """kill -9 of the server, which then answers -LOADING for seconds."""
    field.until_confirmed(60)
    with field.server.link() as link:
        link.calls([("SET", f"filler:{number}", "x" * FILLER_BYTES) for number in range(FILLER)])
        link.call("BGREWRITEAOF")
        until(lambda: b"aof_rewrite_in_progress:0" in link.call("INFO", "persistence"), 30)
    loading = 0
    with field.fault("loading", lambda: loading):
        field.server.kill()
        field.server.start(wait=False)
        loading = until(
            lambda: b"LOADING" in field.server.asked_plainly(b"GET filler:1\r\n"), 20, what=field.said
        )
        field.server.wait_until_up()
    field.until_all_told()


def change_password(field: Field, rng: random.Random) -> None:
    """The user's password is changed on the server, all connections are closed, and a while later the file says it."""
    field.until_confirmed(60)
    password = f"secret-{rng.randrange(1 << 30)}"
    closed = 0
    with field.fault("password changed", lambda: closed), field.server.link() as link:
        link.call("ACL", "SETUSER", "app", "resetpass", f">{password}")
        closed = link.call("CLIENT", "KILL", "USER", "app")
        field.pause(rng.uniform(0, 1.5))
        (field.folder / "password").write_text(password, encoding="utf-8")
    field.until_all_told()


@contextlib.contextmanager
def with_password(field: Field) -> Iterator[None]:
    """A user of its own for producers and workers, whose password stands in a file."""
    file = field.folder / "password"
    file.write_text("first", encoding="utf-8")
    with field.server.link() as link:
        link.call("ACL", "SETUSER", "app", "reset", "on", ">first", "+@all", "~*", "&*")
    field.worker_url = field.producer_url = f"{field.server.url}?username=app&password_file={file}"
    yield


def deny_waiting(field: Field, rng: random.Random) -> None:
    """The workers may not wait at the list for a while: they look by themselves whether something is there."""
    before = denied(field)
    with field.fault("BLMOVE denied", lambda: denied(field) - before), field.server.link() as link:
        link.call("ACL", "SETUSER", "worker", "-blmove")
        field.until_confirmed(60)
        link.call("ACL", "SETUSER", "worker", "+blmove")
    field.until_confirmed(60)


def denied(field: Field) -> int:
    """How many commands the server has denied to users of its ACL."""
    with field.server.link() as link:
        return sum(
            int(dict(zip(row[::2], row[1::2], strict=True))[b"count"]) for row in link.call("ACL", "LOG", 128)
        )


@contextlib.contextmanager
def workers_of_a_user(field: Field) -> Iterator[None]:
    """A user of their own for the workers."""
    with field.server.link() as link:
        link.call("ACL", "SETUSER", "worker", "reset", "on", ">secret", "+@all", "~*", "&*")
    field.worker_url = f"{field.server.url}?username=worker&password=secret"
    yield


ROWS = (
    Row(
        name="list-workers-killed",
        says="list queue: kill -9 of one worker after the other",
        storm=kill_in_turn,
        load=BUSY,
        demands=Demands(taken_over_s=30),
        rounds=3,
    ),
    Row(
        name="list-workers-killed-at-once",
        says="list queue: kill -9 of all workers at one moment",
        storm=kill_all,
        load=BUSY,
        demands=Demands(taken_over_s=30),
    ),
    Row(
        name="list-workers-stopped",
        says="list queue: SIGSTOP of a worker for longer than its lease, then SIGCONT, while others run what it had",
        storm=stop_in_turn,
        load=replace(
            load(*crew("plain", "async", "async", claim_after="1s", work_ms=12, slow_s=1.6, concurrency=16)),
            rate=200,
            options={"plans": {"slow": 0.08}},
        ),
    ),
    Row(
        name="list-workers-told-to-go",
        says="list queue: SIGTERM of one worker after the other",
        storm=tell_to_go,
        load=BUSY,
        demands=QUIET,
        rounds=3,
    ),
    Row(
        name="list-worker-restarted",
        says="list queue: SIGTERM of its only worker, and another one: what was not begun goes back, and order stands",
        storm=restart_worker,
        load=load(*crew("plain", ordered=True, concurrency=1, work_ms=1.5), rate=300),
        demands=QUIET,
        rounds=4,
    ),
    Row(
        name="list-producers-killed",
        says="list queue: kill -9 of one producer after the other",
        storm=kill_producer,
        load=BUSY,
        demands=QUIET,
        rounds=3,
    ),
    Row(
        name="list-push-replies-swallowed",
        says="list queue: replies to pushes disappear, and their connections with them",
        storm=swallow(PUSHED),
        around=before_producers,
        load=replace(IN_ORDER, producers=("queue", "queue-many")),
        demands=STRICT,
    ),
    Row(
        name="list-feed-replies-swallowed",
        says="list queue: replies to what moves tasks to the stream disappear, and their connections with them",
        storm=swallow(FED),
        around=before_workers,
        load=PATIENT,
        demands=STRICT,
        drain_s=20,
    ),
    Row(
        name="list-handed-replies-swallowed",
        says="list queue: a task that is handed to a waiting worker disappears, and its connection with it",
        storm=swallow(HANDED),
        around=before_workers,
        load=AT_REST,
        demands=STRICT,
        drain_s=20,
    ),
    Row(
        name="list-read-replies-swallowed",
        says="list queue: replies to reads disappear, and their connections with them",
        storm=swallow(READ),
        around=before_workers,
        load=IN_ORDER,
        demands=STRICT,
        drain_s=20,
    ),
    Row(
        name="list-settle-replies-swallowed",
        says="list queue: replies to settlements disappear, and their connections with them",
        storm=swallow(SETTLED),
        around=before_workers,
        load=PATIENT,
        demands=STRICT,
        drain_s=20,
    ),
    Row(
        name="list-cut-at-any-byte",
        says="list queue: connections break after the k-th byte of a request or a reply, k from 1 to 65,536",
        storm=cut_anywhere,
        around=before_all,
        load=PATIENT,
        demands=STRICT,
        drain_s=20,
    ),
    Row(
        name="list-server-killed",
        says="list queue: kill -9 of the server (appendfsync everysec), which comes back on its data",
        storm=kill_server,
        load=STEADY,
        demands=QUIET,
    ),
    Row(
        name="list-server-killed-fsync-always",
        says="list queue: kill -9 of the server (appendfsync always): nothing may be undone",
        storm=kill_strict_server,
        load=STEADY,
        server={"fsync": "always"},
        demands=QUIET,
    ),
    Row(
        name="list-server-loading",
        says="list queue: kill -9 of the server (appendfsync always), which then loads its data for seconds",
        storm=load_slowly,
        load=STEADY,
        server={
            "fsync": "always",
            "options": {"key-load-delay": "1000", "rdbcompression": "no"},
        },
        demands=QUIET,
        rounds=1,
        most_rounds=5,
    ),
    Row(
        name="list-out-of-memory",
        says="list queue: maxmemory reached: pushes are refused, what is there is worked off; then it comes and goes",
        storm=run_out_of_memory,
        load=replace(STEADY, most_bytes=4_000),
        demands=QUIET,
    ),
    Row(
        name="list-flushed",
        says="list queue: FLUSHALL: what is pushed afterwards must be handled",
        storm=flush,
        load=STEADY,
        demands=QUIET,
    ),
    Row(
        name="list-tasks-deleted",
        says="list queue: DEL of the stream of what is taken, or of the hand: what stands in the list is handled",
        storm=delete_tasks,
        load=STEADY,
        demands=QUIET,
    ),
    Row(
        name="list-group-destroyed",
        says="list queue: XGROUP DESTROY of its group",
        storm=destroy_group,
        load=BUSY,
    ),
    Row(
        name="list-scripts-forgotten",
        says="list queue: SCRIPT FLUSH again and again",
        storm=forget_scripts,
        load=STEADY,
        demands=QUIET,
    ),
    Row(
        name="list-connections-killed",
        says="list queue: CLIENT KILL of all connections, again and again",
        storm=kill_clients,
        load=STEADY,
        demands=QUIET,
        rounds=5,
    ),
    Row(
        name="list-password-changed",
        says="list queue: the password of workers and producers is changed while they run",
        storm=change_password,
        around=with_password,
        load=replace(STEADY, producers=("queue", "queue-many")),
        demands=QUIET,
        most_rounds=8,
    ),
    Row(
        name="list-priority",
        says="list queue with priorities (sorted set): workers, connections and the server killed, scripts, no memory",
        storm=one_of(kill_in_turn, kill_clients, forget_scripts, run_out_of_memory, kill_strict_server),
        server={"fsync": "always"},
        load=replace(BUSY, producers=("plain-priorities", "priorities", "priorities"), order="priority"),
        demands=QUIET,
        rounds=6,
        most_rounds=30,
    ),
    Row(
        name="list-pop-replies-swallowed",
        says="list queue: plain pops whose replies disappear, and their connections with them: each task comes once",
        storm=swallow(POPPED),
        around=before_workers,
        load=POPS,
        demands=Demands(repeats=False, effect=3),
    ),
    Row(
        name="list-popped",
        says="list queue: plain pops while connections and the server are killed, scripts flushed, memory runs out",
        storm=one_of(tell_to_go, kill_clients, forget_scripts, run_out_of_memory, kill_strict_server),
        server={"fsync": "always"},
        load=POPS,
        demands=QUIET,
        rounds=6,
        most_rounds=40,
    ),
    Row(
        name="list-waiting-denied",
        says="list queue: BLMOVE is denied to the workers for a while",
        storm=deny_waiting,
        around=workers_of_a_user,
        load=load(*crew("plain", "async", work_ms=4), rate=150),
        demands=QUIET,
    ),
)  # fmt: skip
