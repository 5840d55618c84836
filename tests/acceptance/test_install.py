"""What is installed: one import name, in the repository as from the wheel. Imports nothing but millstream."""

import subprocess
import sys
from importlib.metadata import files

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


def test_the_command_says_its_version() -> None:
    """`python -m millstream` works from any folder."""
    ran = subprocess.run(
        [sys.executable, "-m", "millstream", "--version"], capture_output=True, text=True, check=True
    )
    assert millstream.__version__ in ran.stdout
