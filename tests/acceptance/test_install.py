"""What is installed: one import name, in the repository as from the wheel. Imports nothing but millstream."""

import json
import subprocess
import sys
from importlib.metadata import files
from pathlib import Path

import pytest

import millstream


@pytest.mark.parametrize("name", millstream.__all__)
def test_every_public_name_can_be_imported(name: str) -> None:
    """Also where the working directory has a pipeline.py and a consumers/ of its own."""
    assert getattr(millstream, name) is not None


def test_nothing_but_millstream_is_installed() -> None:
    """No generic name such as `pipeline` lands where other packages live."""
    tops = {path.parts[0] for path in files("millstream") or () if path.suffix == ".py"}
    assert tops <= {"millstream"}


def test_the_bench_runs_as_installed(tmp_path: Path) -> None:
    """Its processes find their modules, and the loops it compares with were shipped."""
    ran = subprocess.run(
        [
            *(sys.executable, "-m", "millstream", "bench", "--json", "--events", "300", "--rounds", "1"),
            *("--only", "send-many", "--only", "both", "--url", f"embedded://{tmp_path}/data"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert found["right"]
    assert {row["measure"] for row in found["rates"]} == {"limit", "send-many", "bare-both", "both"}


def test_the_command_says_its_version() -> None:
    """`python -m millstream` works from any folder."""
    ran = subprocess.run(
        [sys.executable, "-m", "millstream", "--version"], capture_output=True, text=True, check=True
    )
    assert millstream.__version__ in ran.stdout
