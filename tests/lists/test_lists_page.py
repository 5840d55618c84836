"""The examples of docs/lists.md, and that of the README, do what they say they do."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from consumers.app import Pipeline
from consumers.list_queue import ListQueue
from consumers.running import LoopThread, Running
from pipeline.server.connect import Connector, Link
from tests.console.command import here
from tests.lists.conftest import Listing
from tests.until import until

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "lists.md").read_text(encoding="utf-8")


def blocks(listing: Listing, text: str) -> list[str]:
    """The page's programs, for a list and a server of this test."""
    return [
        block.replace("redis://localhost:6379/0", listing.url).replace('"emails"', repr(listing.list))
        for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    ]


def test_the_page_s_examples_run(listing: Listing, capsys: pytest.CaptureFixture[str]) -> None:
    """A queue in hand first; then workers do the rest of what it pushed."""
    workers, in_hand = blocks(listing, PAGE)
    exec(in_hand, {})  # noqa: S102 - our own page
    said = capsys.readouterr().out
    assert "{'to': 'ada@example.org'}\n{'to': 'ada@example.org'}\n" in said  # peeked, popped
    assert "{'function': 'send_email', 'args': ['bob'], 'kwargs': {'subject': 'welcome'}} 1\n" in said
    assert "1000 wait" in said
    assert "fine appendonly" in said
    listing.push('{"function": "send_email", "args": ["eve"]}', "another")
    names: dict[str, Any] = {}
    exec(workers, names)  # noqa: S102
    connector, loops = Connector(listing.url), LoopThread()
    running = Running(connector, names["app"].select())
    running.start(loops.loop)
    try:
        until(listing.gone, 20)
    finally:
        running.stop()
        loops.close()
        connector.close()
    said = capsys.readouterr().out
    assert "sent hello to eve\n" in said
    assert "task another attempt 1\n" in said
    assert said.count("task line ") == 1_000


def commands() -> list[str]:
    """The page's commands."""
    return [
        line.partition("#")[0].strip() for line in re.findall(r"^    (millstream .*)$", PAGE, re.MULTILINE)
    ]


@pytest.mark.parametrize("line", commands())
def test_each_command_of_the_page_is_one(listing: Listing, line: str) -> None:
    """Its verbs and options exist; those that look and move are run."""
    words = [word.replace("emails", listing.list) for word in shlex.split(line)[1:]]
    ran = here(*words, "--help")
    assert ran.code == 0, ran.err
    if words[:2] in (["queue", "status"], ["queue", "push"], ["queue", "peek"], ["queue", "promote"]):
        assert here(*words, url=listing.url).code == 0


def test_the_readme_s_example_runs(listing: Listing, link: Link) -> None:
    """Its function is registered, its task is delayed by ten minutes."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (example,) = [block for block in blocks(listing, text) if "ListQueue" in block]
    exec(example, {"app": Pipeline(listing.url), "ListQueue": ListQueue})  # noqa: S102 - our own page
    assert link.call("ZCARD", listing.list_keys.due) == 1
