"""Records of several lines in followed files: whole, once, in order, whatever is killed, rotated or interrupted."""

import os
import random
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from pipeline.server.connect import Link
from producers.producer import Producer
from producers.sources import files
from producers.sources.feed import LineOptions
from producers.sources.follow import follow_file
from producers.sources.parsers import parse_text
from producers.sources.records import RULES, RecordOptions
from tests.console.command import apart, here, started
from tests.producers.reading import datas
from tests.until import until


def record(number: int, lines: int = 4) -> str:
    """A message and what belongs to it."""
    rest = "".join(f'\n  File "{number}.py", line {line}' for line in range(lines - 3))
    return f"{number} ERROR oops\nTraceback (most recent call last):{rest}\nValueError: {number}"


class Following:
    """follow_file() in a thread, until the block ends."""

    def __init__(self, producer: Producer, stream: str, path: Path, **given: Any) -> None:
        self._stop = threading.Event()
        options = LineOptions(parse_text, records=RecordOptions(rule=RULES["traceback"], **given))
        self._thread = threading.Thread(
            target=follow_file,
            args=(producer, stream, str(path)),
            kwargs={"options": options, "stop": self._stop},
        )

    def __enter__(self) -> "Following":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(20)
        assert not self._thread.is_alive()


def append(path: Path, text: str) -> None:
    """As a service writes."""
    with path.open("a") as file:
        file.write(text)


def test_a_record_is_sent_when_the_next_begins_or_nothing_comes(
    producer: Producer, link: Link, stream: str, tmp_path: Path
) -> None:
    """And never in part: what comes within the wait belongs to it, also half a line."""
    log = tmp_path / "app.log"
    whole = [record(number) for number in range(3)]
    with Following(producer, stream, log, wait_ms=700):
        append(log, whole[0] + "\n" + whole[1][:30])
        until(lambda: datas(link, stream) == whole[:1])
        append(log, whole[1][30:] + "\n")
        until(lambda: datas(link, stream) == whole[:2])  # by time alone
        append(log, whole[2])  # its last line has no end
        log.rename(log.with_name("app.log.1"))
        append(log, "next\n")
        until(lambda: datas(link, stream) == [*whole, "next"])


def test_a_record_read_in_part_is_found_in_the_copy_or_the_compressed_file(
    producer: Producer, link: Link, stream: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is truncated in the midst of it."""
    monkeypatch.setattr(files, "FINISHED_MS", 100)
    log = tmp_path / "app.log"
    whole = [record(number, 30) for number in range(3)]
    with Following(producer, stream, log, wait_ms=60_000):
        append(log, whole[0] + "\n" + whole[1][:200])
        until(lambda: datas(link, stream) == whole[:1])
        append(log, whole[1][200:] + "\n")
        log.with_name("app.log.1").write_bytes(log.read_bytes())
        with log.open("w") as file:
            file.write(whole[2] + "\nend\n")
        until(lambda: datas(link, stream) == whole)


@pytest.mark.campaign
@pytest.mark.timeout(300)
def test_killed_at_any_instant_no_record_is_torn(stream: str, url: str, link: Link, tmp_path: Path) -> None:
    """Records of 3 to 40 lines, written in pieces; the follower is killed, and the file rotated."""
    rng = random.Random(7)
    log = tmp_path / "app.log"
    wanted: list[str] = []
    command = ("produce", stream, str(log), "--follow", "--parse", "raw", "--multiline", "traceback", "-q")
    for turn in range(4):
        process = started(*command, url=url)
        for _ in range(300):
            wanted.append(record(len(wanted), rng.randint(3, 40)))
            text = wanted[-1] + "\n"
            middle = rng.randrange(len(text))
            append(log, text[:middle])
            append(log, text[middle:])
        sent = max(0, len(wanted) - 300)
        until(lambda sent=sent: link.call("EXISTS", stream) and len(datas(link, stream)) > sent, 40)  # type: ignore[misc]
        process.kill()
        process.wait()
        if turn % 2:
            log.rename(tmp_path / f"app.log.{turn}")
    append(log, "end\n")
    process = started(*command, url=url)
    until(lambda: datas(link, stream)[-1:] == ["end"], 40)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    assert datas(link, stream) == [*wanted, "end"]


def test_standard_input_and_whole_files_too(stream: str, url: str, tmp_path: Path, link: Link) -> None:
    """By a pattern, by indentation; what does not go together, or is no pattern, is said."""
    log = tmp_path / "app.log"
    append(log, "1 a\nb\n2 c\n")
    assert here("produce", stream, str(log), "--multiline-start", r"^\d", "--parse", "raw", url=url).code == 0
    lines = b"x\n y\nz\n"
    assert apart("produce", stream, "--multiline", "indent", "--parse", "raw", url=url, stdin=lines).code == 0
    assert datas(link, stream) == ["1 a\nb", "2 c", "x\n y", "z"]
    both = here("produce", stream, str(log), "--multiline", "indent", "--multiline-start", "x", url=url)
    assert both.code == 2
    assert "--multiline-start" in both.error
    assert (
        "no regular expression" in here("produce", stream, str(log), "--multiline-start", "(", url=url).error
    )


def test_lines_of_a_pipe_wait_no_longer_than_they_should(stream: str, url: str, link: Link) -> None:
    """The last record of an open pipe is sent when nothing more comes."""
    reading, writing = os.pipe()
    process = started("produce", stream, "--multiline", "indent", "--parse", "raw", url=url, stdin=reading)
    os.close(reading)
    os.write(writing, b"a\n b\n")
    until(lambda: link.call("EXISTS", stream) and datas(link, stream) == ["a\n b"], 30)
    os.close(writing)
    assert process.wait(20) == 0
