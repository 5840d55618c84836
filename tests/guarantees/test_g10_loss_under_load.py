"""G10 under load: producers send, two groups of worker processes handle, and what they stand on is taken away."""

import itertools
import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.keys import StreamKeys
from pipeline.server.connect import Link
from pipeline.server.replies import info_fields
from producers.producer import Producer
from producers.receipt import Receipt
from tests.conftest import OwnServer, Server
from tests.faults.crew import Crew
from tests.until import until

Command = tuple[str, ...]


class Flow:
    """Two producers that send all the time, in threads, until told to stop; what they sent, and when."""

    def __init__(self, url: str, stream: str) -> None:
        self._producers = [Producer(url), Producer(url, pack=20)]
        self._stop = threading.Event()
        self.sent: list[tuple[float, Receipt]] = []
        self._threads = [threading.Thread(target=self._run, args=(one, stream)) for one in self._producers]

    def __enter__(self) -> "Flow":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
        for producer in self._producers:
            producer.close()

    def end(self) -> None:
        """Send nothing more."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def since(self, at_s: float) -> set[str]:
        """Ids of events whose send began after this time; all must be confirmed."""
        return {receipt.result(10).event_id for sent_s, receipt in self.sent if sent_s > at_s}

    def _run(self, producer: Producer, stream: str) -> None:
        while not self._stop.wait(0.002):
            for number in range(4):
                sent_s = time.monotonic()
                self.sent.append((sent_s, producer.send(stream, {"n": number})))


@pytest.fixture
def mine(own_server: OwnServer) -> Server:
    """A server that this test may empty."""
    return own_server()


@pytest.fixture
def look(mine: Server) -> Iterator[Link]:
    """A connection to it."""
    connector = mine.connector()
    link = connector.link("test")
    yield link
    link.close()
    connector.close()


def lines_of(crew: Crew) -> list[str]:
    """All that its workers have logged."""
    return crew.log.read_text(encoding="utf-8").splitlines()


def losses(stream: str) -> dict[str, list[Command]]:
    """What is taken away, each in one step."""
    keys = StreamKeys(stream)
    kept = [keys.groups, keys.again("a"), keys.members("a"), keys.duty("a")]
    return {
        "FLUSHALL": [("FLUSHALL",)],
        "FLUSHDB": [("FLUSHDB", "ASYNC")],
        "DEL stream": [("DEL", stream)],
        "XGROUP DESTROY": [("XGROUP", "DESTROY", stream, "a")],
        "all but the stream": [("DEL", *kept)],
        "S:groups": [("DEL", keys.groups)],
        "S:members": [("DEL", keys.members("a"))],
        "RENAME and back": [("RENAME", stream, f"{stream}-away"), ("RENAME", f"{stream}-away", stream)],
        "SCRIPT FLUSH": [("SCRIPT", "FLUSH")],
    }


@pytest.mark.parametrize(
    "what",
    [
        what if what == "FLUSHALL" else pytest.param(what, marks=pytest.mark.campaign)
        for what in losses("any")
    ],
)
def test_g10_it_works_again_by_itself(
    mine: Server, look: Link, stream: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    """Everything sent afterwards is confirmed and handled by both groups, with few words in all."""
    caplog.set_level(logging.INFO, logger="millstream")
    with (
        Crew(tmp_path, mine.url, stream, group="a", claim_after="10s") as a,
        Crew(tmp_path, mine.url, stream, group="b", claim_after="10s") as b,
        Flow(mine.url, stream) as flow,
    ):
        crews = (a, b)
        for crew in crews:
            crew.start(2).until_joined(look)
        begun_s = time.monotonic()
        until(lambda: all(len(crew.times()) > 500 for crew in crews), 40, what="it is at work")
        said = {crew: len(lines_of(crew)) for crew in crews}
        caplog.clear()
        for command in losses(stream)[what]:
            look.call(*command)
        lost_s = time.monotonic()
        until(lambda: time.monotonic() - lost_s > 1, what="a second of more load")
        flow.end()
        wanted = flow.since(lost_s)
        assert len(wanted) > 200
        for crew in crews:
            crew.until_all(wanted, 10)
        # What was settled while its group was away is pending in the one that came back, for claim_after (10 s) + 1 s.
        until(lambda: not any(crew.unsettled(look) for crew in crews), 25, what="all is settled")
        lines = [record.getMessage() for record in caplog.records]
        lines += [line for crew in crews for line in lines_of(crew)[said[crew] :]]
        if what != "RENAME and back":  # what came back as pending is
            assert not any("taken over" in line for line in lines), "nobody has taken over anything"
        assert len(lines) < 6, "\n".join(lines)
        for crew in crews:
            assert crew.stop() == [0, 0], crew.said()
    assert lost_s > begun_s


@pytest.mark.campaign
def test_g10_keys_are_evicted_under_load(
    mine: Server, look: Link, stream: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An eviction policy takes one key after the other, the stream too: that is warned of, and then all works again."""
    caplog.set_level(logging.INFO, logger="millstream")
    look.call("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")

    def number(section: str, name: str) -> int:
        return int(info_fields(look.call("INFO", section))[name])

    with (
        Crew(tmp_path, mine.url, stream, group="a", claim_after="10s") as a,
        Crew(tmp_path, mine.url, stream, group="b", claim_after="10s") as b,
        Flow(mine.url, stream) as flow,
    ):
        crews = (a, b)
        for crew in crews:
            crew.start(2).until_joined(look)
        until(lambda: all(len(crew.times()) > 500 for crew in crews), 40, what="it is at work")
        for crew in crews:
            assert "may evict whole streams" in crew.said()
        said = {crew: len(lines_of(crew)) for crew in crews}
        caplog.clear()
        begun_s = time.monotonic()
        lengths = [int(look.call("XLEN", stream))]

        def squeezed() -> bool:
            lengths.append(int(look.call("XLEN", stream)))
            # With next to no keys left, what the server itself uses is above the bound, and it refuses all for ever.
            bound = number("memory", "used_memory") - 1 if lengths[-1] > 50 else 0
            look.call("CONFIG", "SET", "maxmemory", bound)
            fell = sum(now < before for before, now in itertools.pairwise(lengths))
            long = time.monotonic() - begun_s > 2
            return long and fell >= 3 and number("stats", "evicted_keys") >= 50

        until(squeezed, 30, what="the stream is evicted thrice, and other keys with it", every_s=0.05)
        look.call("CONFIG", "SET", "maxmemory", 0)
        lost_s = time.monotonic()
        until(lambda: time.monotonic() - lost_s > 1, what="a second of more load")
        flow.end()
        wanted = flow.since(lost_s)
        assert len(wanted) > 200
        for crew in crews:
            crew.until_all(wanted, 20)
        until(lambda: not any(crew.unsettled(look) for crew in crews), 20, what="all is settled")
        lines = [record.getMessage() for record in caplog.records]
        lines += [line for crew in crews for line in lines_of(crew)[said[crew] :]]
        assert len(lines) < 10 * (lost_s - begun_s + 2), "\n".join(lines)
        for crew in crews:
            assert crew.stop() == [0, 0], crew.said()
