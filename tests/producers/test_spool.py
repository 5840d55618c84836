"""The spool by itself: whatever fails and whenever, each line ends up in the stream once, and in order."""

import errno
import os
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.codec import encode_msgpack
from pipeline.options import LogOptions
from pipeline.packed import PackedEvents
from pipeline.server.connect import Link
from producers.batch import Chunk, Fate, Step
from producers.logs.spool import Spool
from producers.producer import Producer
from producers.spill.folder import SpillFolder
from producers.spill.segment import Segment
from tests.conftest import Server
from tests.producers.reading import datas
from tests.proxy import Proxy
from tests.until import until


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    """Between the spool's producer and the server."""
    with Proxy(server.address) as proxy:
        yield proxy


def lines(start: int, count: int) -> PackedEvents:
    """Lines with these numbers."""
    bodies = [encode_msgpack({"event": number, "text": "x" * 200}) for number in range(start, start + count)]
    return PackedEvents(bodies, ["log.info"] * count, [1_700_000_000_000] * count, {})


@pytest.mark.parametrize("seed", range(6))
def test_whatever_fails_each_line_is_there_once_and_in_order(
    seed: int, proxy: Proxy, link: Link, stream: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers lost, connections cut, the disk full by turns, small files, spools closed and begun anew at any point."""
    rng = random.Random(seed)
    full = False
    write = Segment._append

    def append(segment: Segment, data: bytes) -> None:
        if full:
            raise OSError(28, "No space left on device")
        write(segment, data)

    monkeypatch.setattr(Segment, "_append", append)
    monkeypatch.setattr("producers.logs.spool.DISK_RETRY_S", 0.0)
    monkeypatch.setattr("producers.logs.spool.SECURE_S", 0.02)
    monkeypatch.setattr("producers.logs.spool.MIN_SEGMENT_BYTES", 3_000)
    monkeypatch.setattr("producers.logs.spool.MAX_SEGMENT_BYTES", 3_000)
    options = LogOptions(spill=str(tmp_path), pack=20, spill_sync_ms=0)
    folder = SpillFolder(str(tmp_path), stream)
    lost: list[int] = []
    spools: list[Spool] = []
    producers: list[Producer] = []

    def begun() -> Spool:
        spool = Spool(stream, folder, options, lambda count, _why: lost.append(count))
        spool.producer = Producer(proxy.url, buffer_events=100, send_timeout="1h", dedupe_for="1d", exit=0)
        spools.append(spool)
        producers.append(spool.producer)
        return spool

    spool, number = begun(), 0
    for _ in range(150):
        match rng.randrange(14):
            case 0:
                proxy.refuse = True
                proxy.cut()
            case 1 | 2:
                proxy.refuse = False
            case 3:
                every = rng.randint(1, 4)
                proxy.swallow = lambda _number, _reply: rng.randrange(every) == 0  # noqa: B023
            case 4 | 5:
                proxy.swallow = None
            case 6:
                proxy.cut_after(request_bytes=rng.randint(1, 20_000))
            case 7:
                full = True
            case 8 | 9:
                full = False
            case 10 if not full:
                assert spool.close() == 0
                producers[-1].end(0)
                spool = begun()
            case _:
                if spool.ready():
                    count = rng.randint(1, 60)
                    for record in spool.records(lines(number, count)):
                        spool.put(record, block_ms=rng.choice((0, 5)))
                    number += count
        spool.step()
    full, proxy.refuse, proxy.swallow = False, False, None
    until(lambda: not spool.step() and spool.idle, 30, what="all is in the stream", every_s=0.001)
    assert spool.close() == 0
    for producer in producers:
        producer.end(100)
    found = [data["event"] for data in datas(link, stream) if isinstance(data, dict)]
    assert [line for line, times in Counter(found).items() if times > 1] == []
    assert found == list(range(number))
    assert lost == []
    assert number > 200
    assert not [path for path in folder.path.iterdir() if path.suffix != ".lock"]


def left_behind(stream: str, folder: SpillFolder, options: LogOptions, start: int, count: int) -> None:
    """Lines in files whose process is no more."""
    spool = Spool(stream, folder, options, lambda _count, _why: None)
    for record in spool.records(lines(start, count)):
        spool.put(record)
    assert spool.close() == 0


def test_no_file_can_be_opened_for_a_while(
    server: Server, link: Link, stream: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The application has no descriptor left: what waits in files stays there, and still comes before what is newer."""
    options = LogOptions(spill=str(tmp_path), pack=20, spill_sync_ms=0)
    folder = SpillFolder(str(tmp_path), stream)
    left_behind(stream, folder, options, 0, 100)
    opened = os.open
    failed: list[object] = []

    def refuse(path: os.PathLike[str], flags: int, *rest: int) -> int:
        if str(path).endswith(".spill"):
            failed.append(path)
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return opened(path, flags, *rest)

    monkeypatch.setattr("producers.logs.spool.UNREAD_S", 0.02)
    monkeypatch.setattr("producers.logs.spool.DISK_RETRY_S", 0.02)
    with Producer(server.address.shown) as producer:
        spool = Spool(stream, folder, options, lambda _count, _why: None)
        spool.producer = producer
        with monkeypatch.context() as patch:
            patch.setattr("producers.spill.segment.os.open", refuse)
            spool.step()
            for record in spool.records(lines(100, 50)):
                spool.put(record)
            spool.step()
            assert failed
            assert not spool.idle
        until(lambda: not spool.step() and spool.idle, what="all is in the stream", every_s=0.001)
        assert spool.close() == 0
    assert [data["event"] for data in datas(link, stream) if isinstance(data, dict)] == list(range(150))
    assert not list(folder.path.glob("*.spill"))


def test_a_lock_that_is_another_users_stops_nobody(
    server: Server, link: Link, stream: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command that root ran once left lines there: only those have to wait."""
    options = LogOptions(spill=str(tmp_path), pack=20, spill_sync_ms=0)
    folder = SpillFolder(str(tmp_path), stream)
    left_behind(stream, folder, options, 0, 100)
    theirs = folder.next_path("f" * 16, 1)  # looked at last
    theirs.write_bytes(b"")
    opened = os.open

    def refuse(path: os.PathLike[str], flags: int, *rest: int) -> int:
        if str(path).endswith(f"{'f' * 16}.lock"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return opened(path, flags, *rest)

    monkeypatch.setattr("pipeline.server.file_lock.os.open", refuse)
    with Producer(server.address.shown) as producer:
        spool = Spool(stream, folder, options, lambda _count, _why: None)
        spool.producer = producer
        until(lambda: not spool.step() and spool.idle, what="all is in the stream", every_s=0.001)
        assert spool.close() == 0
    assert [data["event"] for data in datas(link, stream) if isinstance(data, dict)] == list(range(100))
    assert [path.name for path in folder.path.iterdir()] == [theirs.name]


def test_what_was_handed_behind_a_failure_is_not_there_twice(
    proxy: Proxy, link: Link, stream: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first are refused as the stream has them; the next is handed before that is learnt, and again afterwards."""
    options = LogOptions(spill=str(tmp_path), pack=20, spill_sync_ms=0)
    folder = SpillFolder(str(tmp_path), stream)
    left_behind(stream, folder, options, 0, 100)
    [segment] = folder.segments(next(folder.path.glob("*.spill")).name[:16])
    monkeypatch.setattr("producers.logs.spool.TURN_S", 10.0)
    with Producer(proxy.url) as producer:
        before = ""
        for _ in range(3):
            record, _at = segment.next() or pytest.fail("five are in the file")
            step = Step(segment.path.name[:16], before, str(record.last))
            producer.add(stream, producer.carried((record.header, record.body), record.events, step))
            before = step.after
        segment.close()
        producer.flush(10)
        handed: list[Chunk] = []
        add = producer.add

        def hand(stream: str, chunk: Chunk, *, block_ms: float | None = None) -> None:
            if len(handed) == 3:
                proxy.release()
                until(lambda: all(one.ending.fate for one in handed), what="it is known what became of them")
                replies = proxy.replies  # until another answer comes, what is handed waits
                proxy.hold()
                producer.send(f"{stream}.other", 1)
                until(lambda: proxy.replies > replies, what="an answer waits")
            add(stream, chunk, block_ms=block_ms)
            handed.append(chunk)

        monkeypatch.setattr(producer, "add", hand)
        spool = Spool(stream, folder, options, lambda _count, _why: None)
        spool.producer = producer
        proxy.hold()
        spool.step()
        assert all(one.ending.fate in (Fate.FAILED, Fate.UNKNOWN) for one in handed[:3])
        behind = len(handed)
        assert behind > 3
        spool.step()
        assert len(handed) > behind
        proxy.release()
        until(lambda: not spool.step() and spool.idle, what="all is in the stream", every_s=0.001)
        assert spool.close() == 0
    assert [data["event"] for data in datas(link, stream) if isinstance(data, dict)] == list(range(100))
