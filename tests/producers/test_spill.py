"""Log lines that wait in files while the server is away: none missing, none twice, in order, whoever dies when."""

import logging
import os
import resource
import stat
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import UsageError
from pipeline.keys import StreamKeys
from pipeline.server.connect import Link
from producers.logs import LogHandler, ShipLogs, ship_logs
from producers.logs.shipper import end_all
from producers.spill.folder import SpillFolder
from tests.conftest import OwnServer, Server
from tests.producers.reading import datas, events
from tests.proxy import Proxy
from tests.until import until

ROOT = Path(__file__).parent.parent.parent
NOWHERE = "unix:///nonexistent/millstream/no.sock"


@pytest.fixture(autouse=True)
def shippers_end() -> Iterator[None]:
    """The threads of a test end with it."""
    yield
    end_all()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A spill folder."""
    return tmp_path / "spill"


def files(folder: Path, ending: str = ".spill") -> list[Path]:
    """The files of a spill folder."""
    return sorted(path for path in folder.rglob("*") if path.name.endswith(ending))


def numbers(link: Link, stream: str) -> list[Any]:
    """What the lines in the stream say, in order."""
    return [data["event"] for data in datas(link, stream) if isinstance(data, dict)]


def log(ship: ShipLogs, start: int, end: int, level: str = "info") -> None:
    """Log these numbers."""
    for number in range(start, end):
        ship(None, level, {"event": number, "text": "x" * 50})
        if number % 200 == 0:
            time.sleep(0.01)  # 20,000 a second at most


def gone(folder: Path) -> bool:
    """Whether nothing is left in the folder."""
    return not files(folder) and not files(folder, ".lock")


@pytest.mark.parametrize("pack", [250, 0])
def test_lines_wait_in_files_and_come_in_order_before_newer_ones(
    pack: int, server: Server, link: Link, stream: str, folder: Path
) -> None:
    """Each once, under the ids they have in the files; afterwards the folder is empty, and lines go straight again."""
    count = 20_000 if pack else 6_000
    with Proxy(server.address) as proxy:
        ship = ship_logs(stream, url=proxy.url, spill=str(folder), pack=pack, queue_events=20_000)
        log(ship, 0, 100)
        until(lambda: len(numbers(link, stream)) == 100, what="the first lines are there")
        proxy.refuse = True
        proxy.cut()
        log(ship, 100, count)
        until(lambda: bool(files(folder)), what="lines are in files")
        until(lambda: not ship.shipper._held() and not ship.shipper.intake, what="all lines are taken")
        proxy.refuse = False
        log(ship, count, count + 500)
        assert ship.flush(20)
        assert ship.shipper.dropped == 0
        until(lambda: not files(folder), what="the files are removed")
        log(ship, count + 500, count + 600)
        assert ship.flush(5)
    found = events(link, stream)
    assert [event.data["event"] for event in found] == list(range(count + 600))
    spool = ship.shipper.spool
    assert spool is not None
    assert [event.id for event in found] == [f"{spool.id}-{number}" for number in range(1, count + 601)]


def test_few_lines_are_in_a_file_within_two_seconds(stream: str, folder: Path) -> None:
    """Also those that the producer took: it may never get to send them."""
    ship = ship_logs(stream, url=NOWHERE, spill=str(folder), exit="100ms")
    log(ship, 0, 3)
    spool = ship.shipper.spool
    assert spool is not None
    until(lambda: spool.spilled == 3, 3)


def script(text: str, *args: str, **more: Any) -> "subprocess.Popen[str]":
    """Run Python code in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", textwrap.dedent(text), *args],
        cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more,
    )  # fmt: skip


def test_the_end_of_the_process_leaves_in_files_what_was_not_sent(
    server: Server, link: Link, stream: str, folder: Path
) -> None:
    """Soon, and the next process that ships to the stream from there sends it before its own lines."""
    began = time.monotonic()
    with Proxy(server.address) as proxy:
        proxy.refuse = True
        process = script(
            """
            import logging, sys
            from producers.logs import LogHandler
            log = logging.getLogger("app")
            log.setLevel("INFO")
            log.addHandler(LogHandler(sys.argv[2], url=sys.argv[1], spill=sys.argv[3], exit="300ms"))
            for number in range(1_000):  # no more than may be on its way
                log.info(str(number))
            """,
            *(proxy.url, stream, str(folder)),
        )
        _, said = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "wait in the spill folder" in said
    assert "not shipped" not in said
    assert time.monotonic() - began < 15
    assert files(folder)
    for path in [folder, *folder.rglob("*")]:
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600)
    ship = ship_logs(stream, url=server.address.shown, spill=str(folder))
    log(ship, 1_000, 1_100)
    assert ship.flush(20)
    assert [int(number) for number in numbers(link, stream)] == list(range(1_100))
    until(lambda: gone(folder), what="the folder is empty")


def test_a_folder_that_cannot_be_written_into_is_refused_at_once(tmp_path: Path) -> None:
    """Where the logging is set up: what, and by which option."""
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"spill='.*file/spill': cannot be written into: Not a directory"):
        ship_logs("logs", spill=tmp_path / "file" / "spill")
    with pytest.raises(UsageError, match="cannot be written into"):
        LogHandler("logs", spill="/proc/spill")
    with pytest.raises(UsageError, match="spill_bytes=5: at least 1,000,000"):
        ship_logs("logs", spill=tmp_path, spill_bytes=5)


def test_a_full_spill_drops_the_oldest_lines_counts_them_and_keeps_errors(
    server: Server, link: Link, stream: str, folder: Path
) -> None:
    """It stays within its bound, and what is left is in order, each line under its own id."""
    bound, most = 1_000_000, 0
    with Proxy(server.address) as proxy:
        proxy.refuse = True
        ship = ship_logs(stream, url=proxy.url, spill=folder, spill_bytes=bound)
        spool = ship.shipper.spool
        assert spool is not None
        noise = [os.urandom(400).hex() for _ in range(50)]  # hardly to be compressed
        count = 0
        while ship.shipper.dropped < 2_000 or count < 10_000:
            for _ in range(100):
                ship(
                    None,
                    "error" if count % 100 == 50 else "info",
                    {"event": count, "noise": noise[count % 50]},
                )
                count += 1
            time.sleep(0.005)
            most = max(most, sum(path.stat().st_size for path in files(folder)))
            assert count < 500_000
        until(lambda: not ship.shipper._held() and not ship.shipper.intake, what="all lines are taken")
        assert most <= bound + 100_000
        proxy.refuse = False
        assert ship.flush(20)
    found = events(link, stream)
    lines = [event.data["event"] for event in found if event.type != "log.warning"]
    assert lines == sorted(set(lines))
    assert [number for number in lines if number % 100 == 50] == list(range(50, count, 100))
    assert len(lines) + ship.shipper.dropped == count
    assert {event.id for event in found} >= {f"{spool.id}-{number + 1}" for number in lines}
    assert all(event.type == "log.error" for event in found if event.data["event"] in range(50, count, 100))


def test_a_full_disk_is_said_and_waited_out(
    server: Server, link: Link, stream: str, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Meanwhile the oldest lines in memory make room for newer ones, counted; what was written before is kept."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Proxy(server.address) as proxy:
        proxy.refuse = True
        ship = ship_logs(stream, url=proxy.url, spill=folder, queue_events=5_000)
        spool = ship.shipper.spool
        assert spool is not None
        log(ship, 0, 5_000)
        until(lambda: spool.spilled == 5_000, what="all is written")
        # Beyond that size nobody may write, as if there were no space; a write is done in part.
        resource.setrlimit(resource.RLIMIT_FSIZE, (files(folder)[-1].stat().st_size + 1_000, limits[1]))
        try:
            log(ship, 5_000, 20_000)
            until(lambda: "cannot be written to the spill folder" in caplog.text, what="it is said")
            until(lambda: ship.shipper.dropped > 0, what="lines are dropped")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        log(ship, 20_000, 20_500)
        until(lambda: not ship.shipper._held() and not ship.shipper.intake, what="the disk takes lines again")
        proxy.refuse = False
        assert ship.flush(20)
    lines = [number for number in numbers(link, stream) if isinstance(number, int)]
    assert lines == sorted(set(lines))
    assert lines[:5_000] == list(range(5_000))
    assert lines[-500:] == list(range(20_000, 20_500))
    assert len(lines) + ship.shipper.dropped == 20_500
    assert caplog.text.count("cannot be written to the spill folder") <= 5
    assert "damaged" not in caplog.text  # what was written in part was taken back


def test_a_stream_that_takes_nothing_is_waited_for(
    server: Server, link: Link, stream: str, folder: Path
) -> None:
    """A key of another type, as a wrong password would be: lines wait in files until somebody mends it."""
    link.call("SET", stream, "mine")
    ship = ship_logs(stream, url=server.address.shown, spill=folder)
    log(ship, 0, 1_000)
    spool = ship.shipper.spool
    assert spool is not None
    until(lambda: spool.spilled == 1_000, what="all lines are in files")
    link.call("DEL", stream)
    assert ship.flush(20)
    assert numbers(link, stream) == list(range(1_000))
    assert ship.shipper.dropped == 0


def test_a_server_that_lost_its_data_gets_what_it_has_not(own_server: OwnServer, folder: Path) -> None:
    """Its positions are gone, too; nothing that is sent from then on is taken for known, or refused."""
    server = own_server()
    connector = server.connector()
    link = connector.link("test")
    ship = ship_logs("logs", url=server.address.shown, spill=folder)
    log(ship, 0, 500)
    assert ship.flush(10)
    link.call("FLUSHALL")
    log(ship, 500, 1_000)
    assert ship.flush(10)
    assert numbers(link, "logs") == list(range(500, 1_000))
    # A server that fell back to an earlier position, as after a failover.
    spool = ship.shipper.spool
    assert spool is not None
    link.call("SET", StreamKeys("logs").source(spool.id), "700")
    log(ship, 1_000, 1_500)
    assert ship.flush(10)
    assert numbers(link, "logs") == list(range(500, 1_500))
    link.close()
    connector.close()


def test_damaged_files_cost_what_is_damaged(
    server: Server, link: Link, stream: str, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """And are said; all other lines come."""
    ship = ship_logs(stream, url=NOWHERE, spill=folder, exit="100ms", pack=100)
    log(ship, 0, 5_000)
    spool = ship.shipper.spool
    assert spool is not None
    until(lambda: spool.spilled == 5_000)
    end_all()
    (path,) = files(folder)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data[:-3])
    other = path.with_name("0123456789abcdef.00000001.spill")
    other.write_bytes(b"no spill at all")
    caplog.set_level(logging.INFO)
    ship = ship_logs(stream, url=server.address.shown, spill=folder)
    log(ship, 5_000, 5_001)
    assert ship.flush(20)
    found = numbers(link, stream)
    assert found == sorted(set(found))
    assert 5_001 - 200 <= len(found) < 5_001 - 50
    missing = sorted(set(range(5_001)).difference(found))
    assert (
        sum(number - 1 not in missing for number in missing) == 2
    )  # one pack in the midst, and the last one
    assert found[-1] == 5_000
    assert "damaged" in caplog.text
    until(lambda: gone(folder), what="nothing is left")


def test_files_of_one_who_lives_are_left_alone(server: Server, link: Link, stream: str, folder: Path) -> None:
    """Two who share a folder, as two processes would: each sends what is its own, and nothing is removed under it."""
    with Proxy(server.address) as proxy:
        proxy.refuse = True
        one = ship_logs(stream, url=proxy.url, spill=folder, gather="50ms")
        log(one, 0, 3_000)
        until(lambda: bool(files(folder)), what="lines of the first wait in a file")
        other = ship_logs(stream, url=proxy.url, spill=folder, gather="40ms")
        log(other, 10_000, 10_100)
        until(lambda: len(files(folder)) == 2, what="so do lines of the second")
        proxy.refuse = False
        assert other.flush(20)
        proxy.refuse = True
        proxy.cut()
        log(one, 3_000, 6_000)
        proxy.refuse = False
        assert one.flush(20)
    found = numbers(link, stream)
    assert [number for number in found if number < 10_000] == list(range(6_000))
    assert [number for number in found if number >= 10_000] == list(range(10_000, 10_100))


def test_each_stream_has_a_folder_of_its_own(tmp_path: Path) -> None:
    """Whatever it is called: none leads out of the folder, and none is another one's."""
    names = [
        "logs",
        "a/b",
        "..",
        ".",
        "a:b",
        "a%3Ab",
        "{a}:b",
        "ü" * 250,
        "ü" * 249 + "v",
        "x" * 500,
        "x" * 499 + "y",
    ]
    paths = [SpillFolder(str(tmp_path), name).path for name in names]
    assert len(set(paths)) == len(names)
    for path in paths:
        assert path.resolve().parent == tmp_path
        path.mkdir()


def test_a_process_without_descriptors_queues_nothing_and_begins_later(
    server: Server, link: Link, stream: str
) -> None:
    """What nobody would send is refused by name; once there are some again, all is as ever."""
    text = """
        import os, resource, sys
        from millstream import BufferFull, Producer, ship_logs

        url, stream, spill = sys.argv[1:]
        producer = Producer(url, buffer_events=10)
        ship = ship_logs(stream, url=url, spill=spill)
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        held = []
        try:
            while True:
                held.append(os.dup(0))
        except OSError:
            pass
        for number in range(20):
            try:
                producer.send(stream, "too early")
            except BufferFull as error:
                assert "Too many open files" in str(error)
            else:
                raise SystemExit("it was queued")
        for number in range(3_000):
            ship(None, "info", {"event": number})
        assert not ship.flush(0.3)
        for descriptor in held:
            os.close(descriptor)
        producer.send(stream, "sent").result(10)
        assert ship.flush(20)
        assert ship.shipper.dropped == 0
        """
    with tempfile.TemporaryDirectory() as spill:
        ran = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(text), server.address.shown, stream, spill],
            cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    found = datas(link, stream)
    assert found.count("sent") == 1 and "too early" not in found
    assert [data["event"] for data in found if isinstance(data, dict)] == list(range(3_000))
