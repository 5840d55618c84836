"""Journals: real files of systemd's journal, made by systemd-journal-remote, for the real journalctl to read."""

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

BOOT = "ab" * 16
REMOTE = ("/lib/systemd/systemd-journal-remote", "/usr/lib/systemd/systemd-journal-remote")
Field = str | bytes | Sequence[str | bytes]


class Journal:
    """A folder of journal files. Skips the test, with the reason, where systemd's programs are missing."""

    def __init__(self, folder: Path) -> None:
        program = next((path for path in REMOTE if Path(path).exists()), None)
        if program is None or shutil.which("journalctl") is None:
            pytest.skip(
                "no journalctl or systemd-journal-remote (Debian: apt-get install systemd-journal-remote)"
            )
        self.folder = folder
        self._program = program
        self._files = 0
        self._us = 1_790_000_000_000_000
        folder.mkdir(exist_ok=True)

    def write(self, *entries: Mapping[str, Field], at_us: int | None = None) -> Path:
        """Add a file with these entries, a ms apart, later than all before."""
        self._files += 1
        path = self.folder / f"{self._files:04}.journal"
        text = b""
        for entry in entries:
            self._us += 1_000
            text += self._entry(entry, self._us if at_us is None else at_us)
        # Written elsewhere and moved here as a whole, so that whoever looks finds all of it.
        made = self.folder.parent / f"{self.folder.name}-new.journal"
        subprocess.run(
            [self._program, f"--output={made}", "-"], input=text, check=True, capture_output=True, timeout=30
        )
        return made.rename(path)

    def _entry(self, entry: Mapping[str, Field], at_us: int) -> bytes:
        """In the export format: https://systemd.io/JOURNAL_EXPORT_FORMATS/"""
        monotonic = self._us - 1_790_000_000_000_000
        text = f"__REALTIME_TIMESTAMP={at_us}\n__MONOTONIC_TIMESTAMP={monotonic}\n_BOOT_ID={BOOT}\n".encode()
        for name, values in entry.items():
            for value in [values] if isinstance(values, str | bytes) else values:
                raw = value.encode() if isinstance(value, str) else value
                if all(byte >= 32 for byte in raw):
                    text += name.encode() + b"=" + raw + b"\n"
                else:
                    text += name.encode() + b"\n" + len(raw).to_bytes(8, "little") + raw + b"\n"
        return text + b"\n"
