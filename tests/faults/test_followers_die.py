"""`produce --follow`, killed again and again: no line is missing, none is there twice."""

import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.server.connect import Link
from tests.conftest import Server
from tests.producers.reading import datas
from tests.until import until


@pytest.mark.campaign
@pytest.mark.timeout(300)
def test_a_follower_killed_at_any_instant_loses_and_repeats_no_line(
    server: Server, link: Link, stream: str, tmp_path: Path, scaled: Callable[[int], int], rng: random.Random
) -> None:
    """20 times kill -9, while lines are written and the file is rotated by rename and by truncation of a copy."""
    path = tmp_path / "app.log"
    command = [
        sys.executable, "-m", "millstream", "produce", stream, str(path), "--follow", "--parse", "raw",
        "--url", server.address.shown, "-q",
    ]  # fmt: skip
    written = 0

    def write(count: int) -> None:
        nonlocal written
        with path.open("a") as file:
            for number in range(written, written + count):
                file.write(f"line {number}\n")
                if rng.random() < 0.02:
                    file.flush()
        written += count

    write(500)
    for turn in range(scaled(20)):
        process = subprocess.Popen(command)
        before = link.call("XLEN", stream)
        for _ in range(rng.randint(5, 30)):
            write(rng.randint(1, 300))
        until(lambda before=before: link.call("XLEN", stream) > before, 20)  # type: ignore[misc]
        process.kill()
        process.wait()
        if turn % 2:
            path.rename(path.with_name(f"app.log.{turn}"))
    write(1)
    process = subprocess.Popen(command)
    try:
        expected = [f"line {number}" for number in range(written)]
        until(lambda: datas(link, stream)[-1] == expected[-1], 60, every_s=0.2)
        found = datas(link, stream)
        assert [line for line, count in Counter(found).items() if count > 1] == []
        assert found == expected
    finally:
        process.terminate()
        assert process.wait(20) == 0
