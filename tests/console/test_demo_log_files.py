"""The log files the demo follows: from their last lines on, named or found."""

from pathlib import Path

import pytest

from console.demo.log_files import LAST_BYTES, LAST_LINES, found, named
from pipeline.errors import NotFoundError, UsageError

pytestmark = pytest.mark.pure


@pytest.mark.parametrize("lines", [0, 1, LAST_LINES - 1, LAST_LINES, LAST_LINES + 1, 5 * LAST_LINES])
@pytest.mark.parametrize("last", ["", "no end of line yet"])
def test_a_file_is_followed_from_its_last_lines_on(tmp_path: Path, lines: int, last: str) -> None:
    """At most so many whole lines, and the one that is being written."""
    path = tmp_path / "log"
    path.write_text("".join(f"line {n} {'x' * 60}\n" for n in range(lines)) + last)
    (file,) = named([path])
    with path.open("rb") as opened:
        opened.seek(file.offset)
        text = opened.read().decode()
    assert text.count("\n") == min(lines, LAST_LINES)
    assert text.endswith(last)
    assert not text or text.startswith(("line ", "no end"))
    assert file.whole == (lines <= LAST_LINES)


def test_long_lines_are_bounded_in_bytes(tmp_path: Path) -> None:
    """A line of any length that begins further back is left out."""
    path = tmp_path / "log"
    path.write_bytes(b"a" * (3 * LAST_BYTES) + b"\n" + b"b" * 1_000 + b"\n")
    (file,) = named([path])
    assert path.read_bytes()[file.offset :] == b"b" * 1_000 + b"\n"


def test_what_is_named_must_be_there(tmp_path: Path) -> None:
    """A missing file and a folder are two errors, each of one line."""
    with pytest.raises(NotFoundError, match="no such file"):
        named([tmp_path / "missing"])
    with pytest.raises(UsageError, match="it is a folder"):
        named([tmp_path])


def test_what_is_found_is_text_and_readable(tmp_path: Path) -> None:
    """None of the usual files has to be there."""
    (tmp_path / "text").write_text("a line\n")
    (tmp_path / "binary").write_bytes(b"\x00\x01\x02")
    (tmp_path / "empty").touch()
    usual = [str(tmp_path / name) for name in ("missing", "binary", "empty", "text", ".")]
    assert [file.path.name for file in found(usual)] == ["text"]
    assert found([]) == []


def test_a_file_named_twice_is_followed_once(tmp_path: Path) -> None:
    """Two that follow one file would share its position."""
    (tmp_path / "log").write_text("a line\n")
    assert len(named([tmp_path / "log", tmp_path / "log"])) == 1
