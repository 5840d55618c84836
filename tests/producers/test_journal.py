"""systemd's journal into a stream: every field, each entry once across kills, with the cursor as the position."""

import random
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import UsageError
from pipeline.keys import StreamKeys
from pipeline.server.connect import Link
from producers.producer import Producer
from producers.sources.feed import Fed
from producers.sources.journal import JournalOptions, follow_journal, parse_journal
from tests.console.command import here, started
from tests.journals import Journal
from tests.producers.reading import datas, events
from tests.until import until


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    """A journal without entries."""
    return Journal(tmp_path / "journal")


def entry(number: int, unit: str = "app.service", **more: Any) -> dict[str, Any]:
    """An entry as a service makes it."""
    return {
        "MESSAGE": f"message {number}",
        "PRIORITY": "6",
        "_SYSTEMD_UNIT": unit,
        "_HOSTNAME": "web-1",
    } | more


def messages(link: Link, stream: str) -> list[Any]:
    """What the entries in the stream say."""
    return [data["message"] if isinstance(data, dict) else data for data in datas(link, stream)]


class Following:
    """follow_journal() in a thread, until the block ends."""

    def __init__(self, producer: Producer, stream: str, journal: Journal, **given: Any) -> None:
        self._stop = threading.Event()
        self.fed: Fed | None = None
        options = JournalOptions(
            folder=str(journal.folder),
            units=given.pop("units", ()),
            program=given.pop("program", "journalctl"),
        )

        def work() -> None:
            self.fed = follow_journal(producer, stream, options, stop=self._stop, **given)

        self._thread = threading.Thread(target=work)

    def __enter__(self) -> "Following":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(20)
        assert not self._thread.is_alive()


def test_all_fields_of_an_entry_are_in_its_event(
    producer: Producer, link: Link, stream: str, journal: Journal
) -> None:
    """Text, bytes, several of one name, what has control characters; time and level as the journal has them."""
    journal.write(
        entry(1, PRIORITY="3", SYSLOG_IDENTIFIER="app"),
        entry(2, MESSAGE="red \x1b[31m\nand two lines", CORE=b"\xff\x00\x01", TAG=["a", "b\x01", b"\xfe"]),
    )
    fed = follow_journal(producer, stream, JournalOptions(folder=str(journal.folder)), follow=False)
    assert (fed.confirmed, fed.unparsed, fed.untimed) == (2, 0, 0)
    one, two = events(link, stream)
    assert one.data["message"] == "message 1"
    assert (one.data["level"], one.data["PRIORITY"], one.data["SYSLOG_IDENTIFIER"]) == ("error", "3", "app")
    assert (one.time_ms, one.type) == (1_790_000_000_001, "log")
    assert one.source.startswith("journal:")
    assert two.data["message"] == "red \x1b[31m\nand two lines"
    assert two.data["CORE"] == b"\xff\x00\x01"
    assert sorted(map(repr, two.data["TAG"])) == sorted(map(repr, ["a", "b\x01", b"\xfe"]))
    assert two.data["__CURSOR"]


def test_a_second_run_goes_on_where_the_first_ended(
    producer: Producer, link: Link, stream: str, journal: Journal
) -> None:
    """Also if there is nothing new."""
    options = JournalOptions(folder=str(journal.folder))
    journal.write(*(entry(number) for number in range(5)))
    for _ in range(2):
        follow_journal(producer, stream, options, follow=False)
        assert messages(link, stream) == [f"message {number}" for number in range(5)]
    assert link.call("GET", _key(stream, options))
    journal.write(*(entry(number) for number in range(5, 8)))
    follow_journal(producer, stream, options, follow=False)
    assert messages(link, stream) == [f"message {number}" for number in range(8)]


def _key(stream: str, options: JournalOptions) -> str:
    return StreamKeys(stream).source(options.source)


def test_what_comes_is_sent_while_it_follows(
    producer: Producer, link: Link, stream: str, journal: Journal
) -> None:
    """In its order; of the units asked for alone."""
    journal.write(entry(0), entry(1, unit="other.service"))
    with Following(producer, stream, journal, units=("app.service", "web.service")):
        until(lambda: messages(link, stream) == ["message 0"])
        journal.write(entry(2), entry(3, unit="web.service"), entry(4, unit="other.service"))
        until(lambda: messages(link, stream) == ["message 0", "message 2", "message 3"])


def test_a_journalctl_that_is_killed_before_anything_came_is_started_again(
    producer: Producer, link: Link, stream: str, journal: Journal, tmp_path: Path
) -> None:
    """Also where there was nothing new so far."""
    killed = tmp_path / "killed"
    program = tmp_path / "journalctl-killed-once"
    program.write_text(f'#!/bin/sh\n[ -e {killed} ] && exec journalctl "$@"\ntouch {killed}\nkill -9 $$\n')
    program.chmod(0o755)
    journal.write(entry(0))
    with Following(producer, stream, journal, program=str(program)):
        until(lambda: messages(link, stream) == ["message 0"])


def test_from_the_end_nothing_that_was_there_is_sent(
    producer: Producer, link: Link, stream: str, journal: Journal
) -> None:
    """But all that comes, also while nobody follows."""
    options = JournalOptions(folder=str(journal.folder))
    journal.write(entry(0), entry(1))
    with Following(producer, stream, journal, from_end=True):
        until(lambda: link.call("EXISTS", _key(stream, options)))
    journal.write(entry(2))
    with Following(producer, stream, journal, from_end=True):
        until(lambda: messages(link, stream) == ["message 2"])


def test_a_journal_that_has_lost_the_last_entry_is_said_and_read_on(
    producer: Producer, link: Link, stream: str, journal: Journal, caplog: pytest.LogCaptureFixture
) -> None:
    """Vacuumed meanwhile: what is still there is sent."""
    options = JournalOptions(folder=str(journal.folder))
    old = journal.write(entry(0), entry(1))
    follow_journal(producer, stream, options, follow=False)
    old.unlink()
    journal.write(entry(2), entry(3))
    follow_journal(producer, stream, options, follow=False)
    assert messages(link, stream) == ["message 0", "message 1", "message 2", "message 3"]
    assert "no longer in the journal" in caplog.text


def test_a_clock_that_was_not_set_stops_nothing(
    producer: Producer, link: Link, stream: str, journal: Journal
) -> None:
    """An entry from 1970 has the time at which it was sent, and says so."""
    journal.write(entry(0), at_us=7_000_000)
    fed = follow_journal(producer, stream, JournalOptions(folder=str(journal.folder)), follow=False)
    [event] = events(link, stream)
    assert fed.untimed == 1
    assert event.headers["untimed"] == "1970-01-01T00:00:07+00:00 lies before 2000"
    assert event.time_ms > 1_790_000_000_000


def test_what_journalctl_refuses_is_one_line(producer: Producer, stream: str, journal: Journal) -> None:
    """And so is that it is missing."""
    with pytest.raises(UsageError, match="cannot read the journal: Failed to parse timestamp: whenever"):
        follow_journal(producer, stream, JournalOptions(since="whenever"), follow=False)
    with pytest.raises(UsageError, match="apt-get install systemd"):
        follow_journal(producer, stream, JournalOptions(program="/nowhere/journalctl"), follow=False)


def test_on_the_command_line(stream: str, url: str, link: Link, journal: Journal) -> None:
    """Types from fields; what does not go together is said."""
    journal.write(entry(0), entry(1, unit="web.service"))
    of_folder = ("--journal", "--journal-dir", str(journal.folder))
    ran = here("produce", stream, *of_folder, "--type", "{_SYSTEMD_UNIT}.{level}", url=url)
    assert (ran.code, ran.out) == (0, f"2 entries sent to {stream}\n")
    assert [event.type for event in events(link, stream)] == ["app.service.info", "web.service.info"]
    for args, why in ((("x.log", "--journal"), "no FILE"), (("--unit", "x", "x.log"), "are for --journal"),
                      (("--journal", "--parse", "json"), "have fields")):  # fmt: skip
        refused = here("produce", stream, *args, url=url)
        assert refused.code == 2
        assert why in refused.error


@pytest.mark.campaign
@pytest.mark.timeout(600)
def test_killed_again_and_again_no_entry_is_lost_or_repeated(
    stream: str, url: str, link: Link, journal: Journal, scaled: Any
) -> None:
    """SIGKILL at any instant while entries come; no journalctl is left behind."""
    rng = random.Random(5)
    command = ("produce", stream, "--journal", "-f", "--journal-dir", str(journal.folder), "-q", "--pack")
    written = 0
    for _ in range(scaled(40)):
        process = started(*command, url=url)
        before = written
        for _ in range(rng.randint(2, 5)):
            few = rng.randint(1, 400)
            journal.write(*(entry(number) for number in range(written, written + few)))
            written += few
        until(lambda before=before: link.call("EXISTS", stream) and len(messages(link, stream)) > before, 40)  # type: ignore[misc]
        process.kill()
        process.wait()
    journal.write(entry(written))
    process = started(*command, url=url)
    until(lambda: messages(link, stream)[-1:] == [f"message {written}"], 40)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    assert messages(link, stream) == [f"message {number}" for number in range(written + 1)]
    until(lambda: f"--directory={journal.folder}" not in _processes(), 20)


def _processes() -> str:
    return subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("line", ["", "[]", "7", "{", '{"MESSAGE": nul}'])
def test_what_is_no_entry_is_refused(line: str) -> None:
    """It would be sent as text."""
    with pytest.raises(ValueError, match=r"\w"):
        parse_journal(line)
