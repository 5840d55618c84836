"""A log of 100,000 lines through `produce` and `run`: every group handles each line once, and in order where it can."""

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.conftest import Server
from tests.consuming import consuming_on
from tests.faults.crew import ROOT
from tests.until import until

APP = """
import os
from consumers.app import Pipeline
from consumers.sinks.json_lines import JsonLines

app = Pipeline()
app.consumer({stream!r}, group="archive", batch=500)(JsonLines("archive.jsonl", rotate=0))

def recorder(name):
    file = os.open(name, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    return lambda event: os.write(file, event.data.encode() + b"\\n")

app.consumer({stream!r}, group="one-by-one", concurrency=1)(recorder("one-by-one"))
app.consumer({stream!r}, group="many")(recorder("many"))
"""
LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")


def log_lines(count: int) -> list[str]:
    """Lines as a service logs them: each with its number, of all lengths, some in other alphabets."""
    rng = random.Random(100_000)
    words = 'request took retry connection user zażółć 漢字 id=7 path=/a/b?c=d "quoted" {brace} \\ tab\there'.split(
        " "
    )
    return [
        f"2026-11-23T14:{rng.randrange(60):02}:{rng.randrange(60):02} {rng.choice(LEVELS)} {number} "
        + " ".join(rng.choices(words, k=rng.randrange(1, 12)))
        for number in range(count)
    ]


def test_every_group_handles_every_line_of_a_file_once(
    server: Server, stream: str, tmp_path: Path, scaled: Callable[[int], int]
) -> None:
    """Nothing fails, so nothing is repeated; batches and a single slot keep the order of the file."""
    lines = log_lines(scaled(100_000))
    (tmp_path / "app.log").write_text("".join(f"{line}\n" for line in lines))
    (tmp_path / "workers_of_a_file.py").write_text(APP.format(stream=stream))
    millstream = [sys.executable, "-m", "millstream"]
    url = ["--url", server.address.shown]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with consuming_on(server.address, stream) as consuming, (tmp_path / "log").open("wb") as log:
        workers = subprocess.Popen(
            [*millstream, "run", "workers_of_a_file:app", *url], cwd=tmp_path, env=environment, stderr=log
        )
        try:
            subprocess.run(
                [*millstream, "produce", stream, "app.log", "--parse", "raw", *url],
                cwd=tmp_path,
                env=environment,
                stderr=log,
                check=True,
                timeout=100,
            )
            for group in ("archive", "one-by-one", "many"):
                until(lambda group=group: consuming.exists(group) and consuming.drained(group), 100)  # type: ignore[misc]
        finally:
            workers.send_signal(signal.SIGTERM)
            code = workers.wait(20)
    assert code == 0, (tmp_path / "log").read_text()
    archived = [json.loads(line)["data"] for line in (tmp_path / "archive.jsonl").read_text().splitlines()]
    assert archived == lines
    assert (tmp_path / "one-by-one").read_text().split("\n")[:-1] == lines
    assert sorted((tmp_path / "many").read_text().split("\n")[:-1]) == sorted(lines)
