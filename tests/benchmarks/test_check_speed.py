"""make check-speed: measures each hot path on a real server, and fails where one is over its budget."""

import json
from pathlib import Path

import pytest

from benchmarks.check_speed import PYTHON, dearest, main
from tests.conftest import Server


def test_a_budget_is_the_greatest_of_several_ratios() -> None:
    """Whatever the machine did meanwhile: each run is judged by its own calibration."""
    us, unit_us = dearest([({"a": 4.0, "b": 1.0}, 2.0), ({"a": 6.0, "b": 6.0}, 4.0)])
    assert unit_us == 2.0
    assert us == {"a": 4.0, "b": 3.0}


@pytest.mark.slow
def test_a_path_over_its_budget_fails_the_check(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """After recording, one budget is made impossible: that path alone is named. No key stays."""
    budgets = tmp_path / "budgets.json"
    options = ["--url", f"unix://{server.address.path}", "--rounds", "1", "--budgets", str(budgets)]
    assert main([*options, "--record"]) == 0
    recorded = json.loads(budgets.read_text())
    assert all(ratio > 0 for ratio in recorded[PYTHON].values())
    recorded[PYTHON] = {path: ratio * 10 for path, ratio in recorded[PYTHON].items()} | {"send()": 0.001}
    budgets.write_text(json.dumps(recorded))
    capsys.readouterr()
    assert main([*options, "-o", "json"]) == 1
    said = capsys.readouterr()
    assert said.err.startswith("error: send(): SLOWER by ")
    assert len(said.err.splitlines()) == 1
    found = json.loads(said.out)
    assert [one["path"] for one in found["paths"] if one["too_slow"]] == ["send()"]
    assert {one["path"] for one in found["paths"]} == set(recorded[PYTHON])
    connector = server.connector()
    link = connector.link("look")
    assert link.call("KEYS", "*millstream-bench-*") == []
    link.close()
    connector.close()
