"""The examples of docs/retry.md do what the page says they do."""

import re
from pathlib import Path
from typing import Any

import pytest

from consumers.running import LoopThread, Running
from pipeline.server.connect import Connector
from tests.consuming import Consuming
from tests.until import until

PAGE = (Path(__file__).parents[2] / "docs" / "retry.md").read_text(encoding="utf-8")


def test_the_page_s_examples_run(consuming: Consuming, capsys: pytest.CaptureFixture[str]) -> None:
    """Declared, told of a death, looked at, retried and dropped."""
    names: dict[str, Any] = {}
    blocks = [
        block.replace("redis://localhost:6379/0", consuming.url).replace('"orders"', repr(consuming.stream))
        for block in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    ]
    assert len(blocks) == 3
    declare, told, letters = blocks
    exec(declare, names)  # noqa: S102 - our own page
    failing = told.replace("def index(event): ...", "def index(event): raise TimeoutError('bank')")
    exec(failing, names)  # noqa: S102
    consuming.send(1)
    with_group = letters.replace('"billing"', '"search"').replace("rate=50", "rate=1000")
    connector, loops = Connector(consuming.url), LoopThread()
    running = Running(connector, names["app"].select())
    running.start(loops.loop)
    try:

        def dead() -> bool:
            consuming.advance(120_000, "search")
            return bool(consuming.dead("search"))

        until(dead, 30, what="it is out of attempts")
        until(lambda: all(member.told() for member in running.members), what="it is told")
    finally:
        running.stop()
        loops.close()
        connector.close()
    exec(with_group, names)  # noqa: S102
    said = capsys.readouterr().out
    assert f"gave up test-1 of {consuming.stream} after 5 runs: bank" in said
    assert "1 TimeoutError bank" in said
    assert consuming.again_entries("search") == 1
    assert consuming.dead("search") == []
