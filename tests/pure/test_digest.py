"""Digest: what is held, what is only counted, and when it is told."""

from consumers.sinks.digest import MOST_KINDS, Digest, subject_of, text_of
from pipeline.event import Event
from tests.sinking import TIME_MS, received

EVERY = 300_000


def error(number: int, text: str = "boom", at_ms: int = TIME_MS, **data: object) -> Event:
    """An error event."""
    return received(Event({"event": text, "level": "error", **data}, type="log", time_ms=at_ms), number)


def test_the_first_of_a_kind_is_held_and_the_others_are_counted() -> None:
    """Kinds differ by type, message without its numbers, and exception."""
    digest = Digest(EVERY)
    assert digest.due_ms() is None
    assert digest.add(error(1, "user 17 failed"), TIME_MS)
    assert not digest.add(error(2, "user 18 failed", TIME_MS + 5), TIME_MS + 10)
    assert not digest.add(error(3, "user 0xAF failed", TIME_MS - 5), TIME_MS + 10)
    assert digest.add(error(4, "other"), TIME_MS + 20)
    assert digest.add(error(5, "user 17 failed", exception={"type": "KeyError"}), TIME_MS + 30)
    found = digest.groups()
    assert [(g.title, g.count, g.exception) for g in found] == [
        ("user 17 failed", 3, ""), ("other", 1, ""), ("user 17 failed", 1, "KeyError"),
    ]  # fmt: skip
    assert (found[0].first_ms, found[0].last_ms) == (TIME_MS - 5, TIME_MS + 5)
    assert digest.due_ms() == TIME_MS + EVERY


def test_the_held_event_that_comes_back_is_not_counted_again() -> None:
    """It is put off until it is time, as often as need be."""
    digest = Digest(EVERY)
    for _ in range(3):
        assert digest.add(error(1), TIME_MS)
    assert digest.groups()[0].count == 1


def test_after_a_mail_what_was_held_is_done_when_it_comes_back() -> None:
    """The next error of the kind begins anew, and waits for `every` since the last mail."""
    digest = Digest(EVERY)
    digest.add(error(1), TIME_MS)
    digest.add(error(2, "other"), TIME_MS)
    digest.told(["p-1"], TIME_MS + EVERY)
    assert digest.due_ms() is None
    assert not digest.add(error(2, "other"), TIME_MS + EVERY + 1)
    assert digest.due_ms() is None
    old = error(3, at_ms=TIME_MS - EVERY)
    assert digest.add(old, TIME_MS + EVERY + 2)
    assert digest.due_ms() == TIME_MS + 2 * EVERY


def test_what_has_waited_already_is_told_at_once() -> None:
    """A held event that comes back to a new process, after a crash."""
    digest = Digest(EVERY)
    digest.add(error(1), TIME_MS)
    digest.add(error(2, "old", TIME_MS - EVERY), TIME_MS)
    assert digest.due_ms() == TIME_MS


def test_kinds_are_bounded() -> None:
    """What exceeds them is one kind, whose first event is held."""
    digest = Digest(EVERY)
    held = [digest.add(error(n, f"kind {chr(0x4E00 + n)}"), TIME_MS) for n in range(MOST_KINDS + 50)]
    assert held == [True] * (MOST_KINDS + 1) + [False] * 49
    assert [g.title for g in digest.groups() if g.count > 1] == ["others: more kinds than a mail holds"]


def test_a_mail_tells_kinds_counts_and_an_example() -> None:
    """On lines of printable characters, whatever the events hold."""
    digest = Digest(EVERY)
    nasty = "bad\r\nBcc: x@evil.example\x1b[31m\u202e"
    trace = "Traceback (most recent call last):\n  File \x07\nValueError: no"
    for n in range(3):
        digest.add(error(n, nasty, exception={"type": "ValueError", "traceback": trace}), TIME_MS)
    digest.add(error(9, "other", TIME_MS + 61_000, user="u"), TIME_MS)
    groups = digest.groups()
    assert subject_of(groups) == "4 errors: bad  Bcc: x@evil.example [31m and 1 more"
    assert text_of(groups).splitlines() == [
        "4 errors of 2 kinds, 2026-11-26 02:00:00 UTC to 2026-11-26 02:01:01 UTC",
        "",
        "1. 3 x bad  Bcc: x@evil.example [31m  (error, ValueError, type log)",
        "   first 2026-11-26 02:00:00 UTC, last 2026-11-26 02:00:00 UTC, such as p-0",
        "   | Traceback (most recent call last):",
        "   |   File",
        "   | ValueError: no",
        "",
        "2. 1 x other  (error, type log)",
        "   first 2026-11-26 02:01:01 UTC, last 2026-11-26 02:01:01 UTC, such as p-9",
        '   | {"event":"other","level":"error","user":"u"}',
    ]


def test_a_mail_is_bounded() -> None:
    """Many kinds with long examples."""
    digest = Digest(EVERY)
    for n in range(MOST_KINDS):
        digest.add(error(n, "k" * (n + 1), more="x" * 50_000), TIME_MS)
    text = text_of(digest.groups())
    assert len(text) < 150_000
    assert max(map(len, text.splitlines())) < 600
