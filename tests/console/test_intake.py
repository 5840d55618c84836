"""millstream intake: programs that cannot write streams send to it: curl, logger, rsyslogd; and it ends cleanly."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.event import Event
from pipeline.server.connect import Link
from pipeline.server.replies import parse_entries
from pipeline.wire import decode_entry
from tests.console.command import apart, environ, here, started
from tests.until import until

WAYS = {"http": r"HTTP on http://([^/]+)/", "tcp": r"JSON lines over TCP on (\S+)", "syslog": r"UDP on (\S+)"}
LOGGER, CURL = shutil.which("logger"), shutil.which("curl")
RSYSLOGD = shutil.which("rsyslogd", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


class Intake:
    """The command in a process of its own."""

    def __init__(self, folder: Path, stream: str, url: str, *args: str, **environment: str) -> None:
        self._said = folder / "said"
        with self._said.open("wb") as said:
            self.process = started("intake", stream, *args, url=url, stderr=said, environment=environment)
        ways = {arg.removeprefix("--") for arg in args} & WAYS.keys()
        until(lambda: len(self.where()) == len(ways), 20, what=self.said)

    def said(self) -> str:
        """Its stderr so far."""
        return self._said.read_text()

    def where(self) -> dict[str, str]:
        """HOST:PORT of each way."""
        found = {way: re.search(pattern, self.said()) for way, pattern in WAYS.items()}
        return {way: match[1] for way, match in found.items() if match is not None}

    def port(self, way: str) -> str:
        """Its port."""
        return self.where()[way].rpartition(":")[2]

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, dict[str, Any]]:
        """Exit code, and the result."""
        self.process.send_signal(number)
        out, _ = self.process.communicate(timeout=30)
        return self.process.returncode, json.loads(out) if out.startswith(b"{") else {}


def events(link: Link, stream: str) -> list[Event]:
    """What is in the stream."""
    found: list[Event] = []
    for entry_id, fields in parse_entries(link.call("XRANGE", stream, "-", "+")):
        found += decode_entry(entry_id, fields or []).events
    return found


def logger(port: str, *args: str) -> None:
    """Run util-linux's logger against a port of this machine."""
    assert LOGGER is not None
    subprocess.run([LOGGER, "--server", "127.0.0.1", "--port", port, *args], check=True, timeout=20)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_says_where_it_listens_and_stops_with_all_confirmed(
    stream: str, url: str, link: Link, tmp_path: Path, number: int
) -> None:
    """Every way at once; exit code 0 and the counts."""
    intake = Intake(tmp_path, stream, url, "--http", "0", "--tcp", "0", "--syslog", "0", "--json")
    assert intake.said().count("(from this machine only)") == 3
    with socket.create_connection(("127.0.0.1", int(intake.port("tcp")))) as connection:
        connection.sendall(b"".join(b'{"n": %d}\n' % n for n in range(1_000)))
        until(lambda: len(events(link, stream)) == 1_000)
        connection.sendall(b'{"n": 1000}\n')
        code, took = intake.stop(number)
    assert (code, took["events"], took["lost"]) == (0, 1_001, 0)
    assert took["by"] == {"http": 0, "tcp": 1_001, "syslog": 0, "udp": 0}
    assert [event.data["n"] for event in events(link, stream)] == list(range(1_001))


@pytest.mark.skipif(CURL is None, reason="no curl here")
def test_curl_sends_with_a_token(stream: str, url: str, link: Link, tmp_path: Path) -> None:
    """From a file or the environment; it is said nowhere."""
    assert CURL is not None
    token = tmp_path / "token"
    token.write_text("canary-7\n")
    by_file = Intake(tmp_path, stream, url, "--http", "0", "--token-file", str(token), "--type", "{level}")

    def curl(intake: Intake, *args: str) -> str:
        ran = subprocess.run(
            [CURL, "-sS", *args, "--data-binary", '{"level": "info"}\n{"level": "warn"}\n', "-H",
             "Content-Type: application/x-ndjson", f"http://{intake.where()['http']}/"],
            capture_output=True, check=True, timeout=20,
        )  # fmt: skip
        return ran.stdout.decode()

    assert "missing or wrong" in curl(by_file)
    assert json.loads(curl(by_file, "-H", "Authorization: Bearer canary-7")) == {"events": 2}
    assert by_file.stop()[0] == 0
    by_environment = Intake(tmp_path, stream, url, "--http", "0", MILLSTREAM_INTAKE_TOKEN="canary-8")
    assert "missing or wrong" in curl(by_environment, "-H", "Authorization: Bearer canary-7")
    assert json.loads(curl(by_environment, "-H", "Authorization: Bearer canary-8")) == {"events": 2}
    said = by_file.said() + by_environment.said() + str(by_environment.process.args)
    assert "canary" not in said
    assert [event.type for event in events(link, stream)] == ["info", "warn", "log", "log"]


@pytest.mark.skipif(LOGGER is None, reason="no logger here (bsdutils)")
@pytest.mark.parametrize(
    "args",
    [
        ("--tcp", "--rfc5424"), ("--tcp", "--rfc3164"), ("--tcp", "--octet-count", "--rfc5424"),
        ("--tcp", "--octet-count", "--rfc3164"), ("--udp", "--rfc5424"), ("--udp", "--rfc3164"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_logger_sends(stream: str, url: str, link: Link, tmp_path: Path, args: tuple[str, ...]) -> None:
    """In each form that it knows."""
    intake = Intake(tmp_path, stream, url, "--syslog", "0", "--json")
    structured = ("--sd-id", "shop@32473", "--sd-param", 'order="7"') if "--rfc5424" in args else ()
    logger(
        intake.port("syslog"), *args, *structured, "-p", "local3.warning", "-t", "shop", "--id=77", "größer"
    )
    until(lambda: events(link, stream), what=intake.said)
    (event,) = events(link, stream)
    assert event.type == "syslog" and event.time is not None and "time" not in event.data
    expected = {"level": "warning", "facility": "local3", "app": "shop", "process": "77", "message": "größer"}
    assert event.data == event.data | expected
    assert not structured or event.data["data"]["shop@32473"] == {"order": "7"}
    assert event.data["host"] == socket.gethostname().partition(".")[0] or event.data["host"]
    code, took = intake.stop()
    assert (code, took["events"], took["unparsed"], took["lost"]) == (0, 1, 0, 0)


@pytest.mark.skipif(RSYSLOGD is None, reason="no rsyslogd here (apt-get install rsyslog)")
@pytest.mark.parametrize("framing", ["octet-counted", "traditional"])
def test_rsyslogd_forwards(stream: str, url: str, link: Link, tmp_path: Path, framing: str) -> None:
    """As docs/intake.md has it, with either framing: what it takes from its own input arrives in order."""
    assert RSYSLOGD is not None
    intake = Intake(tmp_path, stream, url, "--syslog", "0", "--json")
    source = tmp_path / "in"
    config = tmp_path / "rsyslog.conf"
    config.write_text(
        f"""
        global(workDirectory="{tmp_path}")
        module(load="imuxsock" SysSock.Use="off")
        input(type="imuxsock" Socket="{source}")
        action(type="omfwd" target="127.0.0.1" port="{intake.port("syslog")}" protocol="tcp"
               template="RSYSLOG_SyslogProtocol23Format" TCP_Framing="{framing}")
        """
    )
    daemon = subprocess.Popen(
        [RSYSLOGD, "-n", "-f", str(config), "-i", str(tmp_path / "pid")], stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        until(source.exists, what="rsyslogd listens")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
            until(lambda: not log.connect_ex(str(source)), what="it can be written to")
            for n in range(50):
                log.send(f"<13>shop[{n}]: line {n}".encode())
        until(lambda: len(events(link, stream)) >= 50, 20, what=intake.said)
    finally:
        daemon.terminate()
        daemon.wait(20)
    lines = [event.data for event in events(link, stream) if event.data.get("app") == "shop"]
    assert [(line["process"], line["message"].strip()) for line in lines] == [
        (str(n), f"line {n}") for n in range(50)
    ]
    assert intake.stop()[0] == 0


def test_lines_that_are_lost_are_an_exit_code(stream: str, tmp_path: Path) -> None:
    """No server, and told to stop: what was received is said to be lost."""
    intake = Intake(tmp_path, stream, f"unix://{tmp_path}/nobody", "--tcp", "0", "--grace", "300ms", "--json")
    with socket.create_connection(("127.0.0.1", int(intake.port("tcp")))) as connection:
        connection.sendall(b"1\n2\n")
    until(lambda: "cannot reach" in intake.said(), what=intake.said)
    code, took = intake.stop()
    assert (code, took["events"], took["lost"]) == (1, 0, 2)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ((), "at least one of http, tcp and syslog"),
        (("--http", "nowhere:x"), "http='nowhere:x' is not HOST:PORT"),
        (("--tcp", "0", "--max-line", "much"), "max_line='much' is not a size"),
        (("--http", "0", "--token-file", "/nowhere/token"), "--token-file='/nowhere/token': No such file"),
        (("--tcp", "192.0.2.1:5170"), "tcp=192.0.2.1:5170: cannot listen there"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_cannot_be_is_said_in_one_line(args: tuple[str, ...], said: str, stream: str, url: str) -> None:
    """And exit code 2."""
    ran = (
        apart("intake", stream, *args, url=url)
        if "192.0.2.1:5170" in args
        else here("intake", stream, *args, url=url)
    )
    assert ran.code == 2
    assert said in ran.error


def test_who_reaches_it_is_said(stream: str, url: str, tmp_path: Path) -> None:
    """Loopback is the default; beyond it, whether a token is asked for."""
    intake = Intake(
        tmp_path, stream, url, "--http", "0.0.0.0:0", "--tcp", "0.0.0.0:0", MILLSTREAM_INTAKE_TOKEN="x"
    )
    assert "(from anywhere, with the token)" in intake.said()
    assert "(from anywhere: whoever reaches it can send)" in intake.said()
    assert intake.stop()[0] == 0


def test_nothing_of_it_is_imported_by_other_verbs(url: str) -> None:
    """uvicorn is an extra."""
    code = "import sys; from console.cli.main import main; main(['streams', '--json']); print('uvicorn' in sys.modules)"
    ran = subprocess.run(
        [sys.executable, "-c", code], env=environ(url), capture_output=True, timeout=30, check=True
    )
    assert ran.stdout.endswith(b"False\n")
