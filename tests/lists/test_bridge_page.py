"""The examples of docs/bridge.md do what they say they do."""

import re
import shlex
from pathlib import Path

import pytest

from pipeline.server.connect import Link
from tests.conftest import Server
from tests.console.command import here
from tests.lists.bridging import listed, numbers, push

PAGE = (Path(__file__).parents[2] / "docs" / "bridge.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^    (millstream .*?)(?:  +#.*)?$", PAGE, re.MULTILINE)


def test_the_program_moves_tasks_and_brings_them_back(
    server: Server, link: Link, stream: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both ways, with the counts."""
    (program,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    push(link, f"{stream}:l", range(5))
    text = program.replace("redis://localhost:6379/0", server.address.shown)
    text = text.replace("emails-stream", stream).replace('"emails"', f'"{stream}:l"')
    text = text.replace('data["args"][0]', 'str(data["args"][0])')  # here args are numbers
    exec(text, {})  # noqa: S102 - our own page
    assert capsys.readouterr().out == "5 tasks moved, 0 as they are\n5 events pushed\n"
    assert numbers(link, stream) == listed(link, f"{stream}:l") == list(range(5))


@pytest.mark.parametrize("line", COMMANDS)
def test_each_command_of_the_page_is_one(line: str) -> None:
    """Its verb and options exist."""
    ran = here(*shlex.split(line)[1:], "--help")
    assert ran.code == 0, ran.err


def test_every_command_was_found() -> None:
    """So that the page's layout may change, and the test with it."""
    assert len(COMMANDS) == 5
