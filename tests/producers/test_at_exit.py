"""At exit: what is held goes out before what it goes through is given up."""

import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.conftest import BINARY, started
from tests.producers.reading import datas

SHIP = """
import logging
from millstream import LogHandler
handler = LogHandler("logs", url={url!r}, gather="1s")
logging.getLogger().addHandler(handler)
logging.warning("first")
handler.flush()
logging.warning("the last words")
"""
SEND = """
from millstream import Producer
producer = Producer({url!r})
producer.send("logs", {{"event": "first"}}).result(5)
producer.send("logs", {{"event": "the last words"}})
"""


@pytest.mark.parametrize("program", [SHIP, SEND], ids=["log lines", "events"])
def test_an_embedded_server_stops_after_what_its_only_user_had_to_send(program: str, tmp_path: Path) -> None:
    """The process ends with a line unsent, and is the server's last user."""
    url = f"embedded://{tmp_path}" + (f"?server={quote(BINARY)}" if BINARY else "")
    done = subprocess.run(
        [sys.executable, "-c", program.format(url=url)], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stderr
    assert "Error" not in done.stderr
    with started(folder=tmp_path) as server:
        connector = server.connector()
        try:
            found = datas(connector.link("look"), "logs")
        finally:
            connector.close()
    assert [x["event"] for x in found if isinstance(x, dict)] == ["first", "the last words"]
