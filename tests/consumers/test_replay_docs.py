"""docs/replay.md: its examples do what they say."""

import re
from pathlib import Path

import pytest

from pipeline.event import Event
from pipeline.server.groups import join
from pipeline.wire import encode_entry
from tests.conftest import OwnServer
from tests.consuming import consuming_on

BLOCKS = re.findall(
    r"```python\n(.*?)```",
    (Path(__file__).parents[2] / "docs" / "replay.md").read_text(encoding="utf-8"),
    re.DOTALL,
)


def test_the_examples_run_as_they_stand(own_server: OwnServer, capsys: pytest.CaptureFixture[str]) -> None:
    """A range is planned and handed over, and the group is reset to the start; the handler sees what was replayed."""
    server = own_server()
    url = f"unix://{server.address.path}"
    with consuming_on(server.address, "orders") as consuming:
        for number in range(3):
            event = Event({"id": number}, type="order.placed" if number else "refund")
            consuming.send_raw(encode_entry(event, producer="p", number=number))
        join(consuming.link, consuming.keys, "billing", start="$", lost=False)
        names: dict[str, object] = {"URL": url}
        exec(compile(BLOCKS[0], "docs/replay.md", "exec"), names)  # noqa: S102 - our own page
        said = capsys.readouterr().out.splitlines()
        assert said[0] == "2 of 3 events; 0 not read yet, 0 done before"
        assert said[-2:] == ["handed over 2", "reads on after 0-0"]
        assert consuming.again_entries("billing") == 2
        exec(compile(BLOCKS[1], "docs/replay.md", "exec"), names)  # noqa: S102 - our own page
