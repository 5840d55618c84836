"""Following files on a real server: no line is lost and none repeated, whatever happens to file, server and process."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import NotFoundError, SendError, UsageError, WrongKeyTypeError
from pipeline.keys import StreamKeys
from pipeline.server.connect import Link
from producers.producer import Producer
from producers.sources.feed import Fed, Feed, LineOptions
from producers.sources.follow import follow_file, send_lines
from producers.sources.parsers import parse_auto, parse_json, parse_text
from producers.sources.several import file_source
from producers.sources.times import time_auto
from tests.conftest import OwnServer, Server
from tests.producers.reading import datas, events
from tests.proxy import Proxy
from tests.until import until

ROOT = Path(__file__).parent.parent.parent
APPENDED = b"*2\r\n$"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Where the log of a test stands."""
    return tmp_path / "app.log"


class Following:
    """follow_file() in a thread, until the block ends."""

    def __init__(self, producer: Producer, stream: str, path: Path, **options: Any) -> None:
        self._stop = threading.Event()
        self.fed: Fed | None = None
        self.error: Exception | None = None

        def work() -> None:
            try:
                self.fed = follow_file(producer, stream, str(path), stop=self._stop, **options)
            except Exception as error:
                self.error = error
                raise

        self._thread = threading.Thread(target=work)

    def __enter__(self) -> "Following":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(20)
        assert not self._thread.is_alive()


def append(path: Path, *lines: object, end: str = "\n") -> None:
    """Write lines as a service does."""
    with path.open("a") as file:
        file.write("".join(f"{line}{end}" for line in lines))


def arrive(link: Link, stream: str, expected: list[object]) -> None:
    """Wait until exactly these are in the stream."""
    with contextlib.suppress(AssertionError):
        until(lambda: datas(link, stream) == expected, 15)
    assert datas(link, stream) == expected


def lines(start: int, end: int) -> list[object]:
    """line 1, line 2, …"""
    return [f"line {number}" for number in range(start, end)]


def test_a_file_is_sent_line_by_line(producer: Producer, link: Link, stream: str, log: Path) -> None:
    """Without follow: once through, each line confirmed, nothing left behind on the server but the lines."""
    append(log, *lines(0, 2_500))
    append(log, "no end", end="")
    seen: list[int] = []
    fed = follow_file(
        producer,
        stream,
        str(log),
        follow=False,
        progress=lambda fed: seen.append(fed.lines),
        parser=parse_text,
    )
    assert (fed.lines, fed.confirmed, fed.failed, seen[-1]) == (2_501, 2_501, 0, 2_501)
    assert datas(link, stream) == [*lines(0, 2_500), "no end"]
    assert link.call("XLEN", stream) < 50
    event = events(link, stream)[0]
    assert (event.type, event.source) == ("log", str(log))
    assert not link.call("KEYS", f"*{stream}*source*")


def test_lines_get_their_type_and_key_from_their_data(
    producer: Producer, link: Link, stream: str, log: Path
) -> None:
    """JSON lines; what is not JSON is text and says why."""
    append(
        log, '{"level": "info", "user": "a"}', '{"level": "error", "user": "b"}', "Traceback:", '{"n": 1e400}'
    )
    append(log, '{"n": 123456789012345678901234567890}')

    def field(name: str) -> Callable[[Any], str]:
        return lambda data: str(data.get(name, "")) if isinstance(data, dict) else ""

    fed = follow_file(
        producer, stream, str(log), follow=False, parser=parse_json, type=field("level"), key=field("user")
    )
    found = events(link, stream)
    assert [(event.type, event.key) for event in found[:3]] == [("info", "a"), ("error", "b"), ("", "")]
    assert found[2].data == "Traceback:"
    assert "unparsed" in found[2].headers
    assert "1234567890123" in str(found[4].data)
    assert fed.unparsed == 2


def test_a_second_run_goes_on_where_the_first_ended(
    producer: Producer, link: Link, stream: str, log: Path
) -> None:
    """The position is kept by the server, beside the stream."""
    append(log, *lines(0, 10))
    for start in (10, 20, 30):
        with Following(producer, stream, log):
            arrive(link, stream, lines(0, start))
        append(log, *lines(start, start + 10))
    assert link.call("GET", StreamKeys(stream).source(file_source(str(log))))


def test_a_line_without_its_end_waits_for_it_also_across_restarts(
    producer: Producer, link: Link, stream: str, log: Path
) -> None:
    """It is one line, not two."""
    append(log, "first")
    append(log, "half ", end="")
    with Following(producer, stream, log):
        arrive(link, stream, ["first"])
    append(log, "and ", end="")
    with Following(producer, stream, log):
        append(log, "whole")
        arrive(link, stream, ["first", "half and whole"])


def test_a_file_that_is_not_there_yet_is_waited_for(
    producer: Producer, link: Link, stream: str, log: Path
) -> None:
    """When following; once through, it is an error that names it."""
    with pytest.raises(NotFoundError, match=r"app\.log"):
        follow_file(producer, stream, str(log), follow=False)
    with Following(producer, stream, log):
        append(log, "there")
        arrive(link, stream, ["there"])


def test_what_is_no_file_is_refused(producer: Producer, stream: str, tmp_path: Path) -> None:
    """Folders and pipes, following or not."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (tmp_path, pipe):
        for follow in (True, False):
            with pytest.raises(UsageError, match="cannot follow"):
                follow_file(producer, stream, str(path), follow=follow)


def test_a_renamed_file_is_finished_before_the_new_one_is_read(
    producer: Producer, link: Link, stream: str, log: Path
) -> None:
    """Also what its writer still adds after the rename; a half-written last line is a line then."""
    append(log, *lines(0, 5))
    with Following(producer, stream, log):
        arrive(link, stream, lines(0, 5))
        for turn in range(2):
            old = log.with_name(f"app.log.{turn + 1}")
            log.rename(old)
            append(old, "after the rename")
            append(old, "half", end="")
            append(log, f"new {turn}")
            arrive(
                link,
                stream,
                [*datas(link, stream)[: 5 + 3 * turn], "after the rename", "half", f"new {turn}"],
            )


def test_files_rotated_while_nobody_followed_are_read_to_the_end(
    producer: Producer, link: Link, stream: str, log: Path
) -> None:
    """The one read last is found by its inode, those after it by their names and times."""
    append(log, *lines(0, 5))
    with Following(producer, stream, log):
        arrive(link, stream, lines(0, 5))
    append(log, *lines(5, 8))
    for turn, moment in ((2, 2_000_000_000), (1, 2_000_000_100)):
        rotated = log.with_name(f"app.log.{turn}")
        log.rename(rotated)
        os.utime(rotated, (moment, moment))
        append(log, *lines(18 - 5 * turn, 23 - 5 * turn))
    append(log.with_name("app.log.old-and-other"), "not ours")
    with Following(producer, stream, log):
        arrive(link, stream, lines(0, 18))


def test_a_file_that_is_gone_is_said_and_the_new_one_read_from_its_start(
    producer: Producer, link: Link, stream: str, log: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Deleted, or compressed: lines may be missing."""
    append(log, *lines(0, 5))
    with Following(producer, stream, log):
        arrive(link, stream, lines(0, 5))
    log.unlink()
    append(log, "new")
    with Following(producer, stream, log):
        arrive(link, stream, [*lines(0, 5), "new"])
    assert "gone" in caplog.text


def test_a_truncated_file_is_read_from_its_start(
    producer: Producer, link: Link, stream: str, log: Path
) -> None:
    """Also when it has grown beyond the old place before anybody looked."""
    append(log, *lines(0, 5))
    with Following(producer, stream, log):
        arrive(link, stream, lines(0, 5))
        os.truncate(log, 0)
        append(log, "again")
        arrive(link, stream, [*lines(0, 5), "again"])
    log.write_text("".join(f"grown {number}\n" for number in range(20)))
    with Following(producer, stream, log):
        arrive(link, stream, [*lines(0, 5), "again", *(f"grown {number}" for number in range(20))])


def test_copytruncate_loses_nothing_that_is_in_the_copy(
    producer: Producer, link: Link, stream: str, log: Path
) -> None:
    """The copy is told by its first bytes."""
    append(log, *lines(0, 50))
    with Following(producer, stream, log):
        arrive(link, stream, lines(0, 50))
    append(log, *lines(50, 60))
    shutil.copy(log, log.with_name("app.log.1"))
    os.truncate(log, 0)
    append(log, *lines(60, 70))
    with Following(producer, stream, log):
        arrive(link, stream, lines(0, 70))


def test_following_from_the_end_begins_with_the_line_being_written(
    producer: Producer, link: Link, stream: str, log: Path
) -> None:
    """And what is written while nobody follows is sent by the next run, though the first saw no line."""
    append(log, *lines(0, 5))
    append(log, "half ", end="")
    with Following(producer, stream, log, from_end=True):
        until(lambda: link.call("EXISTS", StreamKeys(stream).source(file_source(str(log)))))
    append(log, "and whole", "next")
    with Following(producer, stream, log, from_end=True):
        arrive(link, stream, ["half and whole", "next"])


def test_garbage_stops_nothing(producer: Producer, link: Link, stream: str, log: Path) -> None:
    """Binary bytes are kept as escapes, control characters as they are."""
    log.write_bytes(
        b"good\n\xff\xfe\x00\x80 bad\n" + bytes(range(256)).replace(b"\n", b"") + b"\ngood again\n"
    )
    fed = follow_file(producer, stream, str(log), follow=False)
    found = events(link, stream)
    assert fed.confirmed == 4
    assert [event.data for event in found][:2] == ["good", "\\xff\\xfe\x00\\x80 bad"]
    assert found[1].headers["decoded"] == "backslashreplace"
    assert found[3].data == "good again"


@pytest.mark.parametrize("number", ["1e400", "9" * 400, "-1e400", "NaN"])
def test_a_number_beyond_all_times_stops_nothing(
    number: str, producer: Producer, link: Link, stream: str, log: Path
) -> None:
    """It is a line like others, not one that ends the follower again and again."""
    log.write_text(f'before\n{{"ts": {number}}}\nbehind\n')
    fed = follow_file(
        producer, stream, str(log), follow=False, options=LineOptions(parse_auto, time=time_auto())
    )
    assert fed.confirmed == 3
    found = datas(link, stream)
    assert (len(found), found[0], found[2]) == (3, "before", "behind")


@pytest.mark.parametrize("pack", [0, 100])
def test_half_a_character_in_a_type_or_key_stops_nothing(
    pack: int, producer: Producer, link: Link, stream: str, log: Path
) -> None:
    """JSON may name one; it is written with an escape."""
    log.write_text('{"user": "a"}\n{"user": "\\ud800"}\n{"user": "b"}\n')
    for key in ("", lambda data: str(data["user"])):
        options = LineOptions(parse_json, type=lambda data: str(data["user"]), key=key)
        fed = follow_file(producer, stream, str(log), follow=False, options=options, pack=pack)
        assert (fed.confirmed, fed.unparsed) == (3, 1)
    found = events(link, stream)
    assert [event.type for event in found] == ["a", "\\ud800", "b"] * 2
    assert [event.key for event in found] == [""] * 3 + ["a", "\\ud800", "b"]


def test_of_a_line_beyond_the_limit_the_beginning_is_sent(
    producer: Producer, link: Link, stream: str, log: Path
) -> None:
    """With a header that says how long it was; the lines around it are unharmed."""
    with log.open("wb") as file:
        file.write(b"before\n")
        for _ in range(40):
            file.write(b"x" * 1_000_000)
        file.write(b"\nafter\n")
    fed = follow_file(producer, stream, str(log), follow=False, max_line_bytes=1_000)
    before, long, after = events(link, stream)
    assert (before.data, long.data, after.data) == ("before", "x" * 1_000, "after")
    assert long.headers["cut"] == "1000 of 40000000 bytes"
    assert fed.cut == 1


def test_a_line_of_a_hundred_megabytes_takes_little_memory(server: Server, stream: str, log: Path) -> None:
    """In a process of its own, measured at its peak."""
    with log.open("wb") as file:
        for _ in range(100):
            file.write(b"x" * 1_000_000)
        file.write(b"\nafter\n")
    code = """
        import resource, sys
        from producers.producer import Producer
        from producers.sources.follow import follow_file
        url, stream, path = sys.argv[1:]
        with Producer(url) as producer:
            producer.send(stream, "warm").result()
            before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            fed = follow_file(producer, stream, path, follow=False)
        print(fed.confirmed, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
        """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), server.address.shown, stream, str(log)],
        cwd=ROOT, capture_output=True, text=True, timeout=50, check=True,
    )  # fmt: skip
    confirmed, megabytes = map(int, done.stdout.split())
    assert confirmed == 2
    assert megabytes < 30


def test_lost_replies_repeat_no_line_and_lose_none(
    server: Server, link: Link, stream: str, log: Path
) -> None:
    """Every fifth answer of the server disappears with its connection."""
    append(log, *lines(0, 2_000))
    with Proxy(server.address) as proxy:
        proxy.swallow_every(5, having=APPENDED)
        with Producer(proxy.url, batch_events=1) as producer:
            fed = follow_file(producer, stream, str(log), follow=False, pack=20, parser=parse_text)
    assert fed.confirmed == 2_000
    assert datas(link, stream) == lines(0, 2_000)
    assert proxy.swallowed > 5


def not_confirmed(producer: Producer) -> int:
    """How many events ended otherwise."""
    return producer.counts["unknown"] + producer.counts["failed"]


def test_sends_that_end_as_unknown_make_the_source_find_its_place(
    server: Server, link: Link, stream: str, log: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It reads the stored position and goes on: no line twice, none missing."""
    append(log, *lines(0, 100))
    with (
        Proxy(server.address) as proxy,
        Producer(proxy.url, send_timeout="300ms", reply_timeout="5s") as producer,
    ):
        with Following(producer, stream, log, pack=20, parser=parse_text) as following:
            arrive(link, stream, lines(0, 100))
            for start in (100, 200, 300):
                ended, waited = not_confirmed(producer), caplog.text.count("source waits")
                proxy.hold()
                append(log, *lines(start, start + 100))
                # Held while it looks for its place from the last time, it sends nothing, and says that it waits.
                until(
                    lambda ended=ended, waited=waited: (  # type: ignore[misc]
                        not_confirmed(producer) > ended or caplog.text.count("source waits") > waited
                    )
                )
                proxy.release()
                append(log, f"after {start}")
                until(lambda start=start: f"after {start}" in datas(link, stream)[-1:])  # type: ignore[misc]
    arrived = [line for line in datas(link, stream) if "after" not in str(line)]
    assert arrived == lines(0, 400)
    assert following.error is None
    assert following.fed is not None
    assert following.fed.restarts >= 1


def test_a_position_moved_by_somebody_else_is_followed(
    server: Server, link: Link, stream: str, log: Path
) -> None:
    """Two that follow the same file share its lines: each line once, in order."""
    append(log, *lines(0, 100))
    with Producer(server.address.shown) as one, Producer(server.address.shown) as two:
        with Following(one, stream, log, parser=parse_text), Following(two, stream, log, parser=parse_text):
            for start in range(100, 1_000, 100):
                append(log, *lines(start, start + 100))
                arrive(link, stream, lines(0, start + 100))


def test_a_stream_key_of_another_type_ends_the_source(
    producer: Producer, link: Link, stream: str, log: Path
) -> None:
    """No repeat would mend it; the file is read again by the next run."""
    append(log, *lines(0, 10))
    link.call("SET", stream, "text")
    with pytest.raises(WrongKeyTypeError):
        follow_file(producer, stream, str(log))
    link.call("DEL", stream)
    with Following(producer, stream, log):
        arrive(link, stream, lines(0, 10))


def test_a_server_killed_and_started_again_loses_and_repeats_no_line(
    own_server: OwnServer, log: Path
) -> None:
    """With appendfsync always; the source waits meanwhile."""
    server = own_server(fsync="always")
    append(log, *lines(0, 500))
    with Producer(server.address.shown, send_timeout="2s") as producer:
        with Following(producer, "logs", log, pack=10, parser=parse_text):
            for start in range(500, 2_000, 500):
                os.kill(server.pid, signal.SIGKILL)
                append(log, *lines(start, start + 500))
                server.restart()
            connector = server.connector()
            link = connector.link()
            arrive(link, "logs", lines(0, 2_000))
    link.close()
    connector.close()


@pytest.mark.campaign
def test_a_follower_killed_again_and_again_loses_and_repeats_no_line(
    server: Server, link: Link, stream: str, log: Path
) -> None:
    """kill -9 at any instant, while lines are written and the file is rotated."""
    code = """
        import sys
        from producers.producer import Producer
        from producers.sources.follow import follow_file
        from producers.sources.parsers import parse_text
        url, stream, path = sys.argv[1:]
        with Producer(url, batch_events=2) as producer:
            follow_file(producer, stream, path, pack=5, parser=parse_text)
        """
    written = 0
    for turn in range(5):
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code), server.address.shown, stream, str(log)], cwd=ROOT
        )
        before = link.call("XLEN", stream)
        for _ in range(20):
            append(log, *lines(written, written + 50))
            written += 50
        until(lambda before=before: link.call("XLEN", stream) > before + 20)  # type: ignore[misc]
        process.kill()
        process.wait()
        if turn % 2:
            log.rename(log.with_name(f"app.log.{turn}"))
    with Producer(server.address.shown) as producer, Following(producer, stream, log, parser=parse_text):
        arrive(link, stream, lines(0, written))


def test_lines_of_a_pipe_are_sent_as_they_come(producer: Producer, link: Link, stream: str) -> None:
    """None waits for more; the last one needs no end."""
    read, write = os.pipe()
    done: list[Fed] = []
    with os.fdopen(read, "rb") as pipe:
        thread = threading.Thread(target=lambda: done.append(send_lines(producer, stream, pipe)))
        thread.start()
        os.write(write, b"one\ntw")
        arrive(link, stream, ["one"])
        os.write(write, b"o\nlast")
        arrive(link, stream, ["one", "two"])
        os.close(write)
        thread.join(10)
    assert datas(link, stream) == ["one", "two", "last"]
    assert done[0].confirmed == 3


def test_lines_of_a_pipe_that_could_not_be_sent_are_counted(stream: str, tmp_path: Path) -> None:
    """They cannot be read again."""
    path = tmp_path / "lines"
    path.write_bytes(b"a\nb\nc\n")
    with Producer("unix:///nonexistent/no.sock", send_timeout="200ms") as producer, path.open("rb") as file:
        fed = send_lines(producer, stream, file)
    assert (fed.lines, fed.confirmed, fed.failed) == (3, 0, 3)


def test_what_is_put_behind_a_failure_is_not_sent_before_it(link: Link, server: Server, stream: str) -> None:
    """No position is stored yet, so the server would take it; and what failed would be taken for sent."""

    def put(feed: Feed, number: int) -> bool:
        return feed.put([str(number).encode()], {}, lambda _index: str(number))

    def sent() -> bool:
        try:
            producer.send(f"{stream}.other", 1).result()
        except SendError:
            return False
        return True

    with Proxy(server.address) as proxy, Producer(proxy.url, send_timeout="200ms") as producer:
        proxy.refuse = True
        feed = Feed(producer, stream, source="file")
        put(feed, 1)
        until(lambda: not feed.unconfirmed, what="the first has failed")
        proxy.refuse = False
        until(sent, what="the server is there again")
        assert not put(feed, 2)
        assert feed.recover() is None
        for number in (1, 2):
            put(feed, number)
        until(lambda: feed.fed.confirmed == 2 or not feed.check(), what="both are in the stream")
        feed.close()
    assert datas(link, stream) == ["1", "2"]
