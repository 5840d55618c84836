"""Journal: the entries of systemd's journal into a stream, with the journal's own cursor as the position.

Stands on the program journalctl, which reads all formats of the journal and needs no compiler, and on Feed. Killed at
any instant it neither loses nor repeats an entry: the cursor of the last one is written in the step that appends it.
journalctl ends by itself when nobody reads what it writes. Source of its output's form:
https://systemd.io/JOURNAL_EXPORT_FORMATS/#journal-json-format
"""

import json
import re
import socket
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import IO, Any

from pipeline.backoff import RECONNECT
from pipeline.errors import ClosedError, UsageError
from pipeline.observe.log import get_logger
from producers.producer import Producer
from producers.sources.feed import PACK_EVENTS, Fed, Feed, LineOptions
from producers.sources.follow import blocks
from producers.sources.lines import Lines, LineSplitter
from producers.sources.report import PROGRESS_S, Report
from producers.sources.syslog_line import LEVELS
from producers.sources.times import plausible

MAX_ENTRY_BYTES = 8_388_608
"""Of a longer entry, as journalctl writes it, the beginning is sent as text."""
PUT_ENTRIES = 500
_CURSOR = re.compile(rb'"__CURSOR":"([^"\\]+)"')
_US_PER_MS = 1_000

_log = get_logger("source")


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalOptions:
    """Which journal, and what of it."""

    units: Sequence[str] = ()
    """Units whose entries are sent, as systemd calls them; none: those of all."""
    since: str = ""
    """Where to begin for the first time, as journalctl takes it ("-15m", "today"); empty: its start."""
    folder: str = ""
    """The folder of the journal's files; empty: this machine's own."""
    program: str = "journalctl"

    def command(self, cursor: str | None, *, follow: bool) -> list[str]:
        """The command that writes the entries from a cursor on, that one included."""
        made = [self.program, "--output=json", "--all", "--no-pager", "--quiet"]
        made += [f"--unit={unit}" for unit in self.units]
        made += [f"--directory={self.folder}"] if self.folder else []
        made += ["--follow", "--no-tail"] if follow else []
        if cursor is not None:
            # Not --after-cursor: where the cursor's entry is gone, older versions leave out the one behind it, too.
            return [*made, f"--cursor={cursor}"]
        return [*made, f"--since={self.since}"] if self.since else made

    @property
    def source(self) -> str:
        """The source id: this host's journal or that of the folder, and the units."""
        parts = ["journal", socket.gethostname(), self.folder, ",".join(sorted(self.units))]
        return ":".join(part for part in parts if part)


def parse_journal(line: str) -> dict[str, Any]:
    """An entry as journalctl writes it: all fields by their names, but MESSAGE as message, and PRIORITY as level too.

    What is no printable text comes as a list of bytes: it is text all the same where it is UTF-8, and else bytes. A
    field that is there several times is a list.

    Raises:
        ValueError: it is none.
    """
    fields = json.loads(line)
    if not isinstance(fields, dict):
        raise ValueError("not an entry of the journal")
    data = {name: _value(value) for name, value in fields.items()}
    priority = data.get("PRIORITY")
    if "MESSAGE" in data:
        data["message"] = data.pop("MESSAGE")
    if isinstance(priority, str) and len(priority) == 1 and priority in "01234567":
        data["level"] = LEVELS[int(priority)]
    return data


def journal_time(data: Any, now_ms: int) -> int | None:
    """When the journal received an entry."""
    time_us = data.get("__REALTIME_TIMESTAMP") if isinstance(data, dict) else None
    if not isinstance(time_us, str) or not time_us.isdigit():
        return None
    return plausible(int(time_us[:20]) // _US_PER_MS, now_ms)


def follow_journal(
    producer: Producer,
    stream: str,
    journal: JournalOptions | None = None,
    *,
    follow: bool = True,
    source: str = "",
    from_end: bool = False,
    options: LineOptions | None = None,
    pack: int = PACK_EVENTS,
    stop: threading.Event | None = None,
    progress: Callable[[Fed], None] | None = None,
) -> Fed:
    """Send the entries of the journal since the last run, each once, in its order; with follow=True until `stop`.

    Args:
        source: under what name the cursor is kept; default: this host, the folder and the units.
        from_end: for the first time, begin with what comes from now on.
        options: type, key and time of the events; their data are what parse_journal() makes.
        pack, stop, progress: as those of follow_file().

    Raises:
        UsageError: there is no journalctl, or it refuses what it was asked for. AccessDeniedError and the like: the
            server will not have the events.
    """
    journal, stop = journal or JournalOptions(), stop or threading.Event()
    options = replace(
        options or LineOptions(time=journal_time),
        parser=parse_journal,
        source=f"journal:{socket.gethostname()}",
    )
    feed = Feed(producer, stream, source=source or journal.source, options=options, pack=pack, stop=stop)
    report = Report(feed.fed, progress)
    try:
        position = feed.stored()
        if position is None and from_end and (last := _last_cursor(journal)):
            feed.remember(last)
            position = last
        tries = 0
        while not stop.is_set():
            read = _Reading(feed, stop, report)
            with _running(journal.command(position, follow=follow)) as (process, errors):
                whole = read.entries(process, position)
                why = _said(errors)
            if stop.is_set() or (whole and not follow and process.returncode == 0 and feed.wait()):
                break
            if whole and process.returncode:
                # One that was killed (out of memory, for one) is no refusal.
                if not feed.fed.lines and not (follow and process.returncode < 0):
                    raise UsageError(f"cannot read the journal: {why}")
                tries = 1 if read.any else tries + 1
                _log.warning("journalctl ended, and is started again", why=why)
                stop.wait(RECONNECT.wait_ms(tries) / 1_000)
            position = feed.recover()
        feed.wait(producer.options.exit_ms / 1_000)
        if feed.unconfirmed:
            _log.warning(
                "stopped with entries unconfirmed: the next run reads them again", entries=feed.unconfirmed
            )
    except ClosedError:
        if not stop.is_set():  # the producer was closed beneath us
            raise
    finally:
        feed.close()
        report.now()
    return feed.fed


class _Reading:
    """One run of journalctl."""

    def __init__(self, feed: Feed, stop: threading.Event, report: Report) -> None:
        self.any = False
        self._feed = feed
        self._stop = stop
        self._report = report
        self._last = ""

    def entries(self, process: "subprocess.Popen[bytes]", position: str | None) -> bool:
        """Put what it writes, until it ends; False if the source has to find its place again."""
        assert process.stdout is not None, "a pipe"
        self._last = position or ""
        splitter = LineSplitter(max_line_bytes=MAX_ENTRY_BYTES)
        for block in blocks(process.stdout, self._stop, PROGRESS_S):
            found = splitter.feed(block)
            if found.lines and not self.any:
                self.any = True
                self._first(found, position)
            if not self._put(found) or not self._feed.check():
                return False
            self._report.soon()
        if not self._stop.is_set():
            process.wait()
        return True

    def _first(self, found: Lines, position: str | None) -> None:
        """The first entry is the one that was sent last."""
        if position is None:
            return
        if _cursor(found.lines[0]) == position:
            del found.lines[0], found.ends[0]
            found.cut = {index - 1: size for index, size in found.cut.items() if index}
        else:
            _log.warning(
                "the entry sent last is no longer in the journal: some may be missing", cursor=position
            )

    def _put(self, found: Lines) -> bool:
        cursors = []
        for line in found.lines:
            self._last = _cursor(line) or self._last
            cursors.append(self._last)
        for start in range(0, len(cursors), PUT_ENTRIES):
            few = found.lines[start : start + PUT_ENTRIES]
            cut = (
                {i - start: n for i, n in found.cut.items() if 0 <= i - start < len(few)} if found.cut else {}
            )
            if not self._feed.put(few, cut, lambda index, start=start: cursors[start + index]):  # type: ignore[misc]
                return False
        return True


@contextmanager
def _running(command: Sequence[str]) -> Iterator[tuple["subprocess.Popen[bytes]", IO[bytes]]]:
    """journalctl, ended with the block."""
    with tempfile.TemporaryFile() as errors:
        try:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, bufsize=0
            )
        except OSError as error:
            raise UsageError(
                f"cannot run {command[0]}, which reads the journal: {error.strerror} (Debian: apt-get install systemd)"
            ) from None
        try:
            yield process, errors
        finally:
            if process.poll() is None:
                process.terminate()
            assert process.stdout is not None, "a pipe"
            process.stdout.close()
            process.wait()


def _last_cursor(journal: JournalOptions) -> str:
    """That of the newest entry; empty where there is none."""
    command = [*journal.command(None, follow=False), "--lines=1"]
    with _running(command) as (process, errors):
        assert process.stdout is not None, "a pipe"
        line = process.stdout.read()
        if process.wait():
            raise UsageError(f"cannot read the journal: {_said(errors)}")
    return _cursor(line)


def _cursor(line: bytes) -> str:
    match = _CURSOR.search(line)
    return match[1].decode() if match else ""


def _said(errors: IO[bytes]) -> str:
    """The last line of what journalctl complained about."""
    errors.seek(0)
    lines = errors.read(1 << 16).decode("utf-8", "replace").strip().splitlines()
    return lines[-1] if lines else "journalctl says nothing about it"


def _value(value: Any) -> Any:
    if not isinstance(value, list):
        return value
    if not all(type(item) is int and 0 <= item < 256 for item in value):
        return [_value(item) for item in value]
    raw = bytes(value)
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw
