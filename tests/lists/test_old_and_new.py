"""Old workers and ours on one list, killed at random: nothing is lost but what a killed BRPOP worker had popped."""

import itertools
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from consumers.list_queue import ListQueue
from pipeline.keys import ListKeys
from tests.conftest import OwnServer
from tests.lists.beside import NAME, calls
from tests.lists.classic import PROCESSING, ClassicQueue
from tests.lists.judge import Tasks, judge, read_log
from tests.lists.mixed_crew import OLD, OURS, MixedCrew
from tests.lists.write_log import keep_all, units_of
from tests.until import until

OLD_TIMEOUT_S = 3.0
WORK_MS = 1
BACKLOG = 1_000
BATCH = 100
KILLS = ("brpop", "lmove", "consumer", "take", "recover")
"""Who is killed next, in turn."""


def payloads(rng: random.Random) -> Iterator[str]:
    """Tasks: one of ten is of twenty payloads that come again and again, the others are each of their own."""
    for number in itertools.count(1):
        yield f"newsletter-{rng.randrange(20)}" if rng.random() < 0.1 else f"task-{number}"


@pytest.mark.campaign
@pytest.mark.timeout(600)
def test_old_workers_and_ours_share_a_list(
    own_server: OwnServer, tmp_path: Path, scaled: Callable[[int], int]
) -> None:
    """Workers of both kinds die at random: each task lost is one that a killed BRPOP worker had, each repeated one was
    held by a dead worker or pushed twice by an old recoverer; the adapter and LMOVE workers lose none."""
    server, count, rng = own_server(), scaled(50_000), random.Random("old and new")
    client: Any = redis.Redis(unix_socket_path=server.address.path)
    keep_all(client)
    old, produced, tasks = ClassicQueue(client, NAME), Tasks(), payloads(rng)
    keys, kills = ListKeys(NAME), 0
    with (
        MixedCrew(tmp_path, server, NAME, timeout_s=OLD_TIMEOUT_S, work_ms=WORK_MS) as crew,
        ListQueue(NAME, server.url) as queue,
    ):
        for kind in ("brpop", "lmove", *OURS):
            crew.start(kind, 2)
        crew.start("recover")
        crew.until_started()
        every = count // scaled(100)
        while produced.total() < count:
            batch = list(itertools.islice(tasks, BATCH))
            if rng.random() < 0.5:
                queue.push_many(batch)
            else:
                for task in batch:
                    old.push(task)
            produced.update(task.encode() for task in batch)
            until(lambda: client.llen(NAME) < BACKLOG, 60, what=crew.said)
            if produced.total() // every > kills:
                crew.kill(rng, KILLS[kills % len(KILLS)])
                kills += 1
        # What old workers still hold is left to ours: all of them die, their recoverer too.
        until(lambda: not client.llen(NAME), 60, what=crew.said)
        for job in [job for job in crew.jobs if job.kind in OLD]:
            crew.end(job)
        until(
            lambda: (
                not (
                    client.llen(NAME)
                    or client.llen(PROCESSING)
                    or client.keys(f"{PROCESSING}:*")
                    or client.xlen(keys.stream)
                    or client.llen(keys.hand)
                )
            ),
            60,
            what=lambda: f"{client.lrange(PROCESSING, 0, -1)} {client.keys()} {crew.said()}",
            every_s=0.1,
        )
        verdict = judge(
            produced,
            read_log(units_of(server, own_server()), NAME),
            crew.lines(OLD),
            crew.lines(OURS),
            killed=crew.killed,
            held_by_killed=crew.held_by_killed,
            timeout_s=OLD_TIMEOUT_S,
        )
        done = Counter(
            {kind: sum(line[0] == "done" for line in crew.lines((kind,))) for kind in (*OLD, *OURS)}
        )
    client.close()
    sys.stdout.write(
        f"\n{count:,} tasks, {len(produced):,} payloads; finished by {dict(done)}; killed {len(crew.killed)} old "
        f"and {len(crew.killed_ours)} of ours, which held {crew.held_by_killed.total()}\n{verdict}\n"
    )
    assert not verdict.wrong
    assert crew.killed and crew.killed_ours and crew.held_by_killed, "nothing was shown"
    assert all(done[kind] for kind in ("brpop", "lmove", *OURS)), done


def test_an_old_recoverer_beside_ours_pushes_nothing(own_server: OwnServer, tmp_path: Path) -> None:
    """All the while that our workers take, retry and settle tasks, a recoverer of old code finds nothing to push."""
    server, every = own_server(), [f"task-{number}" for number in range(2_000)]
    with (
        MixedCrew(tmp_path, server, NAME, timeout_s=1, work_ms=0.1) as crew,
        ListQueue(NAME, server.url) as queue,
        redis.Redis(unix_socket_path=server.address.path) as plain,
    ):
        client: Any = plain
        crew.start("recover")
        crew.start("consumer")
        crew.until_started()
        queue.push_many(every)
        until(lambda: len(crew.lines(("consumer",))) > len(every), 30, what=crew.said)
        looked = calls(client)["keys"]
        until(lambda: calls(client)["keys"] > looked + 2)
        assert looked > 2
        assert Counter(
            line[3].decode() for line in crew.lines(("consumer",)) if line[0] == "done"
        ) == Counter(every)
        assert [line[0] for line in crew.lines(("recover",))] == ["started"]
