"""compose/redis.conf: every server that is supported takes each of its settings."""

import subprocess
import tempfile
from pathlib import Path

from pipeline.errors import NotConnectedError
from pipeline.server.connect import Connector, Link
from pipeline.server.locate import locate
from pipeline.server.server_binary import find_binary
from tests.conftest import BINARY
from tests.until import until

CONF = Path(__file__).parent.parent.parent / "compose" / "redis.conf"
SIZES = {"mb": 1024 * 1024}


def settings() -> dict[str, str]:
    """What the file sets, as CONFIG GET would show it; those that a test cannot have as they are, left out."""
    found = {}
    for line in CONF.read_text().splitlines():
        if line and not line.startswith("#"):
            key, _, value = line.partition(" ")
            number, unit = value[:-2], value[-2:]
            found[key] = str(int(number) * SIZES[unit]) if unit in SIZES and number.isdigit() else value
    return {key: value for key, value in found.items() if key not in ("bind", "client-output-buffer-limit")}


def test_every_setting_is_taken() -> None:
    """No line is refused, and each is what the server then says of itself."""
    # A socket's path is at most some 100 bytes long, which tmp_path may exceed.
    with tempfile.TemporaryDirectory(prefix="mst-conf-") as name:
        folder = Path(name)
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [find_binary(BINARY), CONF, "--dir", name, "--port", "0", "--unixsocket", f"{name}/s",
                 "--bind", "127.0.0.1"],
                stdout=log, stderr=log,
            )  # fmt: skip
        try:
            connector = Connector(locate(f"unix://{name}/s"))

            def connected() -> Link | None:
                assert process.poll() is None, (folder / "log").read_text()
                try:
                    return connector.link("test")
                except NotConnectedError:
                    return None

            link = until(connected, 20)
            assert link is not None
            said = {key: link.call("CONFIG", "GET", key)[1].decode() for key in settings()}
            link.close()
            connector.close()
            assert said == settings()
            assert any((folder / "appendonlydir").glob("*.base.rdb")) or (folder / "appendonly.aof").exists()
        finally:
            process.terminate()
            process.wait(20)
