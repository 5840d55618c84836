"""make check-speed: measures each hot path on a real server, and fails where one is over its budget."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks import check_speed
from benchmarks.budget import INSTRUCTIONS, TIME, judge
from benchmarks.check_speed import PYTHON, main
from benchmarks.instructions import CountError, Instructions, counted, unavailable
from tests.conftest import Server

counts = pytest.mark.skipif(unavailable() is not None, reason=f"no instructions here: {unavailable()}")
SLOWER = """
import json
from benchmarks import hot_paths
from benchmarks.counting import count
from benchmarks.instructions import Instructions

NAMES = ("encode an event", "encode a header", "decode a header")
paths = {"": hot_paths.calibration()} | {name: hot_paths.pure_paths()[name] for name in NAMES}
meter = Instructions()
before = count(paths, meter, 1)
encode = hot_paths.encode_entry

def slower(event, **more):
    header = {}
    for at in range(16):
        header[at & 7] = at
    return encode(event, **more)

hot_paths.encode_entry = slower
print(json.dumps([before, count(paths, meter, 1)]))
"""


@pytest.mark.campaign
@pytest.mark.slow
def test_a_path_over_its_budget_fails_the_check(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """After recording, one budget is made impossible: that path alone is named. No key stays."""
    budgets = tmp_path / "budgets.json"
    budgets.write_text(json.dumps({PYTHON: {"instructions": {"kept": 1.0}}, "2.7": {}}))
    url = f"unix://{server.address.path}"
    options = ["--url", url, "--rounds", "1", "--budgets", str(budgets), "--by", "time"]
    assert main([*options, "--record"]) == 0
    recorded = json.loads(budgets.read_text())
    assert recorded["2.7"] == {} and recorded[PYTHON]["instructions"] == {"kept": 1.0}
    of_time = recorded[PYTHON]["time"]
    assert len(of_time) == 17 and all(ratio > 0 for ratio in of_time.values())
    recorded[PYTHON]["time"] = {path: ratio * 10 for path, ratio in of_time.items()} | {"send()": 0.001}
    budgets.write_text(json.dumps(recorded))
    capsys.readouterr()
    assert main([*options, "-o", "json"]) == 1
    said = capsys.readouterr()
    assert said.err.startswith("error: send(): SLOWER by ")
    assert len(said.err.splitlines()) == 1
    (found,) = json.loads(said.out)["measures"]
    assert found["by"] == "time"
    assert [one["path"] for one in found["paths"] if one["too_slow"]] == ["send()"]
    assert {one["path"] for one in found["paths"]} == set(of_time)
    connector = server.connector()
    link = connector.link("look")
    assert link.call("KEYS", "*millstream-bench-*") == []
    link.close()
    connector.close()


@counts
@pytest.mark.timeout(300)  # 40 times as slow as without valgrind, and the machine may be busy
@pytest.mark.campaign
def test_instructions_are_the_same_each_time_and_a_slow_down_is_named(tmp_path: Path) -> None:
    """A third more is put into encode_entry(): what calls it is over its budget, the rest to 1 % as before."""
    program = tmp_path / "program.py"
    program.write_text(SLOWER)
    before, after = json.loads(counted([str(program)]))
    unit, unit_after = before.pop(""), after.pop("")
    assert unit == pytest.approx(unit_after, rel=0.01)
    recorded = {path: cost / unit for path, cost in before.items()}
    verdicts = {one.path: one for one in judge(INSTRUCTIONS, after, unit_after, recorded)}
    slower = {"encode an event", "encode a header"}
    assert {path for path, one in verdicts.items() if one.too_slow} == slower
    assert 0.2 < (verdicts["encode an event"].change or 0) < 0.5
    assert after["decode a header"] == pytest.approx(before["decode a header"], rel=0.01)


def test_what_is_over_its_budget_of_instructions_is_counted_again_before_it_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A disturbed count passes then, a slow-down fails all the same."""
    asked: list[tuple[str, ...]] = []

    def measured(_: object, __: str, rounds: int | None, only: Sequence[str] = ()) -> Any:
        asked.append(tuple(only))
        return (
            {"send()": 110.0, "slower": 140.0} if only else {"send()": 120.0, "slower": 130.0, "ok": 100.0}
        ), 100.0

    monkeypatch.setattr(check_speed, "unavailable", lambda: None)
    monkeypatch.setattr(check_speed, "measured", measured)
    budgets = tmp_path / "budgets.json"
    budgets.write_text(json.dumps({PYTHON: {"instructions": {"send()": 1.0, "slower": 1.0, "ok": 1.0}}}))
    assert main(["--url", "unix:///nowhere", "--budgets", str(budgets)]) == 1
    assert asked == [(), ("send()", "slower")]
    again, failed = capsys.readouterr().err.splitlines()
    assert again == "counted again, more often: send(), slower"
    assert failed == "error: slower: SLOWER by 30%, beyond its budget"


@counts
def test_what_fails_under_callgrind_says_why(tmp_path: Path) -> None:
    """And a process that does not run under it cannot count."""
    program = tmp_path / "program.py"
    program.write_text("raise SystemExit('this is why')")
    with pytest.raises(CountError, match="code 1: this is why"):
        counted([str(program)])
    with pytest.raises(CountError, match="does not run under callgrind"):
        Instructions()


def test_without_valgrind_it_is_said_and_time_is_what_is_judged(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Instructions asked for are refused then."""
    monkeypatch.setattr(check_speed, "unavailable", lambda: "valgrind is not installed")
    monkeypatch.setattr(check_speed, "measured", lambda measure, *_: ({"send()": 2.0 * measure.slack}, 1.0))
    budgets = tmp_path / "budgets.json"
    budgets.write_text(json.dumps({PYTHON: {"instructions": {"send()": 2.0}, "time": {"send()": 2.0}}}))
    options = ["--url", "unix:///nowhere", "--budgets", str(budgets)]
    assert main(options) == 0
    said = capsys.readouterr()
    assert said.err == "note: judged by time, not by instructions: valgrind is not installed\n"
    assert f"judged by {TIME.name}, Python {PYTHON}" in said.out
    assert main([*options, "--by", "instructions"]) == 1
    assert "cannot be counted: valgrind is not installed (--by time)" in capsys.readouterr().err
