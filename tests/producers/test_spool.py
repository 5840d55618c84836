"""The spool by itself: whatever fails and whenever, each line ends up in the stream once, and in order."""

import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.codec import encode_msgpack
from pipeline.options import LogOptions
from pipeline.packed import PackedEvents
from pipeline.server.connect import Link
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
