"""The judge of old workers and ours finds what it is there to find, and what the server wrote tells who popped what."""

from collections import Counter
from typing import Any

import pytest
import redis

from pipeline.keys import ListKeys
from pipeline.list_options import WORKERS
from tests.conftest import OwnServer
from tests.lists.classic import PROCESSING, ClassicQueue, finish
from tests.lists.judge import Line, Tasks, Verdict, Written, judge, read_log
from tests.lists.write_log import keep_all, units_of

KILLED, OTHER = 101, 102
PUSHED = Counter((b"a", b"b", b"c"))


def account(pid: int, *steps: str) -> list[Line]:
    """Lines such as "held a", a hundredth of a second apart."""
    split = [step.split(" ") for step in steps]
    return [
        (step, pid, at / 100, (rest[0] if rest else "").encode()) for at, (step, *rest) in enumerate(split)
    ]


def verdict_on(popped: str, moved: str, taken: str, *accounts: list[Line], **given: Any) -> Verdict:
    """The verdict on a, b and c, pushed once each, and by recoverers what `again` says."""
    again, recovered = given.pop("again", ""), given.pop("recovered", "")
    lines = [line for one in accounts for line in one]
    written = Written(
        *(
            Counter(letter.encode() for letter in letters)
            for letters in (popped, moved, taken, again, recovered)
        )
    )
    written.pushed += PUSHED
    facts: Any = {"killed": [KILLED], "held_by_killed": Tasks(), "timeout_s": 3.0} | given
    return judge(
        PUSHED, written, [line for line in lines if line[1]], [line for line in lines if not line[1]], **facts
    )


def test_all_is_well() -> None:
    """Each task was finished once, by whomever."""
    verdict = verdict_on(
        "a",
        "b",
        "c",
        account(KILLED, "waiting", "popped a", "done a", "waiting"),
        account(OTHER, "held b", "done b"),
        account(0, "done c"),
    )
    assert verdict == Verdict()


@pytest.mark.parametrize("last", [("popped a",), ()])
def test_lost_with_a_killed_pop_is_listed(last: tuple[str, ...]) -> None:
    """A killed BRPOP worker had the task, whether it came to write that down or not."""
    verdict = verdict_on("a", "", "bc", account(KILLED, "waiting", *last), account(0, "done b", "done c"))
    assert list(verdict.lost) == [b"a"]
    assert str(KILLED) in verdict.lost[b"a"]
    assert not verdict.wrong


def test_lost_with_a_pop_that_lives_is_wrong() -> None:
    """A worker that was not killed had the task and did not finish it."""
    for lines in (account(OTHER, "waiting", "popped a"), account(OTHER, "waiting")):
        assert verdict_on("a", "", "bc", lines, account(0, "done b", "done c")).wrong


def test_lost_without_a_pop_is_wrong() -> None:
    """A task that was moved by an old worker, or taken by ours, and never finished, is one that we lost."""
    mover = account(KILLED, "held b")
    assert verdict_on("", "b", "ac", mover, account(0, "done a", "done c")).wrong
    assert verdict_on("", "", "abc", account(0, "done a", "done c")).wrong


def test_one_killed_worker_takes_one_task() -> None:
    """Two tasks were popped and not finished, and one worker was killed while it waited: one of them is unexplained."""
    assert verdict_on("ab", "", "c", account(KILLED, "waiting"), account(0, "done c")).wrong


def test_repeated_by_ours_needs_a_killed_worker() -> None:
    """What ran twice with us was held by one of ours that was killed, or it is wrong."""
    ours = account(0, "done a", "done b", "done c", "done c")
    assert verdict_on("", "", "abc", ours).wrong
    verdict = verdict_on("", "", "abc", ours, held_by_killed=Counter((b"c",)))
    assert list(verdict.repeated) == [b"c"]
    assert not verdict.wrong


def test_pushed_again_by_our_recoverer_needs_a_dead_worker() -> None:
    """Our recoverer may push what a dead old worker held, and nothing that a living one holds."""
    ours = account(0, "done a", "done b", "done c")
    for worker, wrong in ((KILLED, False), (OTHER, True)):
        verdict = verdict_on("", "b", "abc", account(worker, "held b", "done b"), ours, recovered="b")
        assert list(verdict.repeated) == [b"b"]
        assert bool(verdict.wrong) is wrong


def test_pushed_twice_by_old_recoverers_is_told() -> None:
    """One dead worker held it, and it was pushed twice: once too often, which is theirs."""
    ours = account(0, "done a", "done b", "done b", "done c")
    verdict = verdict_on("", "b", "abbc", account(KILLED, "held b"), ours, again="bb")
    assert verdict.pushed_twice == Counter((b"b",))
    assert list(verdict.repeated) == [b"b"]
    assert not verdict.wrong


def test_the_write_log_tells_who_took_what(own_server: OwnServer) -> None:
    """Pops of old code, moves of old code, and what scripts of ours moved are told apart, with the task of each."""
    server, keys = own_server(), ListKeys("emails")
    with redis.Redis(unix_socket_path=server.address.path) as plain:
        client: Any = plain
        keep_all(client)
        old = ClassicQueue(client, "emails")
        for task in ("popped", "acknowledged", "dead", "taken", "back"):
            old.push(task)
        old.pop()
        finish(old.acknowledge(finish(old.dequeue()) or b""))
        finish(old.dequeue())
        client.xgroup_create(keys.stream, WORKERS, "0", mkstream=True)
        feed = "return redis.call('XADD', KEYS[2], '*', 'h', '', 'b', redis.call('RPOP', KEYS[1]))"
        taken, back = (client.eval(feed, 2, "emails", keys.stream) for _ in range(2))
        client.xdel(keys.stream, taken)
        for script in (
            "redis.call('RPUSH', KEYS[1], ARGV[2]); return redis.call('XDEL', KEYS[2], ARGV[1])",
            "redis.call('SET', KEYS[2] .. ':x', 1); return redis.call('RPOP', KEYS[1])",
        ):
            client.eval(script, 2, "emails", keys.stream, back, "back")
        client.eval(
            "redis.call('LPUSH', KEYS[1], 'dead'); return redis.call('LREM', KEYS[2], -1, 'dead')",
            2, "emails", PROCESSING,
        )  # fmt: skip
    written = read_log(units_of(server, own_server()), "emails")
    assert written == Written(
        popped=Counter((b"popped",)),
        moved=Counter((b"acknowledged", b"dead")),
        taken=Counter({b"taken": 1, b"back": 0}),
        pushed=Counter((b"popped", b"acknowledged", b"dead", b"taken", b"back")),
        recovered=Counter((b"dead",)),
    )
