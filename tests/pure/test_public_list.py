"""The public list: what `from millstream import …` offers, and what importing it costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import millstream

SOURCE = ast.parse(Path(millstream.__file__).read_text("utf-8"))


def names_for_type_checkers() -> set[str]:
    """The names imported under TYPE_CHECKING."""
    blocks = [node for node in SOURCE.body if isinstance(node, ast.If)]
    return {
        alias.asname or alias.name
        for block in blocks
        for line in block.body
        if isinstance(line, ast.ImportFrom)
        for alias in line.names
    }


@pytest.mark.parametrize("name", millstream.__all__)
def test_every_public_name_is_there(name: str) -> None:
    """Each name of the list resolves to something of that name."""
    assert getattr(getattr(millstream, name), "__name__", name) == name


def test_type_checkers_see_the_same_list() -> None:
    """What mypy takes for imported is exactly what is looked up on first use."""
    assert names_for_type_checkers() == set(millstream.__all__)
    assert millstream.__all__ == sorted(millstream.__all__)


def test_dir_shows_the_public_names() -> None:
    """Completion in a shell finds the names before they are first used."""
    assert set(millstream.__all__) <= set(dir(millstream))


def test_an_unknown_name_is_an_attribute_error() -> None:
    """A misspelt name fails as it does in any module."""
    with pytest.raises(AttributeError, match="has no attribute 'Producers'"):
        millstream.Producers  # type: ignore[attr-defined]  # noqa: B018


def test_importing_millstream_imports_nothing_else() -> None:
    """`import millstream` alone loads no client, no codec, no logging."""
    shown = (
        "import sys; before = set(sys.modules); import millstream; print(*sorted(set(sys.modules) - before))"
    )
    ran = subprocess.run([sys.executable, "-c", shown], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["millstream"]
