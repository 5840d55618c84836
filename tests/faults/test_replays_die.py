"""Replays that are interrupted and killed: resumed, they repeat nothing that was confirmed, and miss nothing."""

import random
import re
import shlex
import signal
import subprocess
from pathlib import Path

import pytest

from consumers.replay import Replay
from pipeline.replay_plan import ReplayPlan
from pipeline.server.connect import Link
from tests.conftest import Server
from tests.console.command import end_all, started
from tests.faults.conftest import Feed
from tests.faults.crew import Crew
from tests.until import until

EVENTS, FIRST, LAST = 2_000, 300, 1_500
"""So many are sent; those with the numbers from FIRST to below LAST are replayed."""


@pytest.fixture(autouse=True)
def no_process_stays() -> object:
    """A test that fails leaves nothing running."""
    yield
    end_all()


class Replaying:
    """Runs `millstream replay` to a group in processes of their own, and knows where the replay stands."""

    def __init__(self, server: Server, stream: str, group: str) -> None:
        self._url = f"unix://{server.address.path}"
        self._replay = Replay(stream, group, connector=server.connector())
        self._stream, self._group = stream, group

    def start(self, *args: str) -> "subprocess.Popen[bytes]":
        """The command, under way."""
        return started("replay", self._stream, self._group, *args, "--execute", url=self._url)

    def stands(self) -> ReplayPlan | None:
        """The one replay that has not come to its end."""
        return next(iter(self._replay.unfinished()), None)

    def until_at(self, handed_over: int) -> ReplayPlan:
        """Wait until so many events are handed over."""
        found: list[ReplayPlan] = []

        def there() -> bool:
            at = self.stands()
            if at is not None and at.handed_over >= handed_over:
                found.append(at)
            return bool(found)

        until(there, 30, what=f"{handed_over} events are handed over")
        return found[0]

    def close(self) -> None:
        """Close the connection."""
        self._replay.close()


def ended(process: "subprocess.Popen[bytes]") -> tuple[int, str, str]:
    """Exit code, stdout and stderr."""
    out, err = process.communicate(timeout=60)
    return process.returncode, out.decode(), err.decode()


@pytest.mark.campaign
def test_an_interrupted_and_a_killed_replay_deliver_exactly_the_range(
    server: Server, link: Link, stream: str, feed: Feed, tmp_path: Path
) -> None:
    """Ctrl-C says how to go on; kill -9 says nothing, and `replay ls` does: each event once more, the others' none."""
    url = f"unix://{server.address.path}"
    with (
        Crew(tmp_path, url, stream, group="archive") as archive,
        Crew(tmp_path, url, stream, group="alerts") as alerts,
    ):
        archive.start(2).until_joined(link)
        alerts.start().until_joined(link)
        ids = feed.add(EVENTS)
        archive.until_all(ids, 60)
        alerts.until_all(ids, 60)
        entry_ids = [row[0].decode() for row in link.call("XRANGE", stream, "-", "+")]
        replaying = Replaying(server, stream, "archive")

        first = replaying.start("--from", entry_ids[FIRST], "--to", entry_ids[LAST - 1], "--rate", "400/s")
        replaying.until_at(200)
        first.send_signal(signal.SIGINT)
        code, _, said = ended(first)
        assert code == 130, said
        stood = replaying.stands()
        assert stood is not None
        assert f"interrupted: {stood.handed_over:,} of 1,200 events are handed over; go on with:" in said
        (go_on,) = re.findall(r"interrupted: .*go on with: millstream (.*)", said)

        second = started(*shlex.split(go_on), url=url)
        replaying.until_at(stood.handed_over + 200)
        second.kill()
        second.wait()
        stood = replaying.stands()
        assert stood is not None
        assert stood.handed_over < 1_200

        code, out, said = ended(replaying.start("--resume", stood.id, "-o", "json"))
        assert code == 0, said
        assert '"handed_over": 1200' in out
        assert replaying.stands() is None
        replaying.close()
        until(lambda: sum(archive.times().values()) >= EVENTS + LAST - FIRST, 60, what=archive.said)
        until(lambda: link.call("XLEN", f"{{{stream}}}:again:archive") == 0, 20, what="all is settled")
        times = archive.times()
        assert [times[event_id] for event_id in ids] == [
            2 if FIRST <= number < LAST else 1 for number in range(EVENTS)
        ]
        assert alerts.times() == dict.fromkeys(ids, 1)
        assert archive.stop() == [0, 0]
        assert alerts.stop() == [0]


@pytest.mark.campaign
def test_a_replay_that_is_killed_again_and_again_repeats_nothing(
    server: Server, link: Link, stream: str, feed: Feed, tmp_path: Path, rng: random.Random
) -> None:
    """At whatever instruction: what the server has recorded is what it has handed over."""
    ids = feed.add(3_000)
    link.call("XGROUP", "CREATE", stream, "g", "$")
    replaying = Replaying(server, stream, "g")
    args = ["--from", "start", "--rate", "1500/s"]
    at: ReplayPlan | None = None
    for _ in range(3):
        process = replaying.start(*args)
        stood = replaying.stands()
        at = replaying.until_at((stood.handed_over if stood is not None else 0) + rng.randint(1, 400))
        process.kill()
        process.wait()
        args = ["--resume", at.id, "--rate", "1500/s"]
    assert at is not None
    code, _, said = ended(replaying.start("--resume", at.id))
    assert code == 0, said
    replaying.close()
    assert link.call("XLEN", f"{{{stream}}}:again:g") == 3_000
    with Crew(tmp_path, f"unix://{server.address.path}", stream) as crew:
        crew.start().until_joined(link)
        crew.until_all(ids, 60)
        until(lambda: link.call("XLEN", f"{{{stream}}}:again:g") == 0, 20, what="all is settled")
        assert crew.times() == dict.fromkeys(ids, 1)
        assert crew.stop() == [0]
