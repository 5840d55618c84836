"""The build hook: import lines of the repository as they stand in the wheel."""

from pathlib import Path

import pytest

from hatch_build import copy_house, rewritten

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("line", "in_the_wheel"),
    [
        ("from pipeline.event import Event", "from millstream.pipeline.event import Event"),
        ("from pipeline import keys", "from millstream.pipeline import keys"),
        ("    from consumers.app import Pipeline", "    from millstream.consumers.app import Pipeline"),
        ("import pipeline.event as event", "import millstream.pipeline.event as event"),
        ("from pipelines.x import y", "from pipelines.x import y"),
        ("from millstream import Event", "from millstream import Event"),
        (
            "from benchmarks.limits.append import append",
            "from millstream.benchmarks.limits.append import append",
        ),
        ("import consoles", "import consoles"),
        ("value = 'from pipeline import x'", "value = 'from pipeline import x'"),
    ],
)
def test_import_lines_point_beneath_millstream_in_the_wheel(line: str, in_the_wheel: str) -> None:
    """Only imports of the folders change, and only in their first word."""
    assert rewritten(f"x = 1\n{line}\ny = 2\n") == f"x = 1\n{in_the_wheel}\ny = 2\n"


def test_an_import_that_cannot_be_moved_stops_the_build() -> None:
    """`import pipeline.event` binds `pipeline`, which the wheel does not have."""
    with pytest.raises(ValueError, match=r"some\.py: 'import pipeline\.event' cannot be moved"):
        rewritten("import pipeline.event\n", "some.py")


def test_the_wheel_holds_what_the_bench_needs_and_no_scripts(tmp_path: Path) -> None:
    """All of the house beneath millstream/, and of benchmarks/ the limits alone."""
    top = tmp_path / "millstream"
    copy_house(ROOT, top)
    assert sorted(path.name for path in top.iterdir() if path.is_dir()) == [
        "benchmarks",
        "console",
        "consumers",
        "pipeline",
        "producers",
    ]
    assert sorted(path.name for path in (top / "benchmarks").iterdir()) == ["__init__.py", "limits"]
    assert (top / "benchmarks/limits/append.py").exists()
    assert "from millstream.benchmarks.limits" in (top / "console/bench/bare.py").read_text()
    assert not list(top.rglob("__pycache__"))
