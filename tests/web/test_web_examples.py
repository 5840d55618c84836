"""The examples of web applications: under their real servers, each line is in the stream once, with its request."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import OwnServer, Server
from tests.producers.reading import datas
from tests.until import until

WEB = Path(__file__).parents[2] / "examples" / "web"
pytestmark = [pytest.mark.campaign, pytest.mark.timeout(240)]
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER = f"00-{TRACE}-00f067aa0ba902b7-01"
PATIENCE_S = 45
"""These servers take seconds to start, and a busy machine takes longer."""
Lines = Callable[[], list[dict[str, Any]]]


def free_port() -> int:
    """A port nobody listens on just now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextmanager
def running(server: Server, log: Path, *command: str) -> Iterator[Lines]:
    """A program in examples/web; gives what is in the stream. Ended by SIGTERM, which it has to end well on."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=WEB,
            env=os.environ
            | {"MILLSTREAM_URL": server.url, "PYTHONPATH": os.pathsep.join([str(WEB), str(WEB.parents[1])])},
            stdout=out,
            stderr=out,
        )
    connector = server.connector()
    try:
        link = connector.link("look")

        def lines() -> list[dict[str, Any]]:
            assert process.poll() is None, log.read_text()
            return [line for line in datas(link, "logs") if isinstance(line, dict)]

        yield lines
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(PATIENCE_S)
        connector.close()
    # uvicorn ends by the signal it was told to stop with, once it has finished.
    assert code in (0, -signal.SIGTERM), log.read_text()


def get(port: int, path: str, **headers: str) -> tuple[int, str]:
    """Status and request id of an answer; waits for the server to listen."""

    def answer() -> tuple[int, str] | None:
        connection = HTTPConnection("127.0.0.1", port, timeout=10)
        try:
            connection.request("GET", path, headers={n.replace("_", "-"): v for n, v in headers.items()})
            got = connection.getresponse()
            got.read()
            return got.status, got.getheader("x-request-id") or ""
        except ConnectionRefusedError:
            return None
        finally:
            connection.close()

    found = until(answer, PATIENCE_S, what="the application does not listen")
    assert found is not None
    return found


def of_request(lines: Lines, request_id: str, count: int) -> list[dict[str, Any]]:
    """The lines of one request, once there are so many; and no more come while others do."""
    return until(
        lambda: [found for found in [[x for x in lines() if x.get("request_id") == request_id]]
                 if len(found) >= count],
        PATIENCE_S,
        what=lambda: f"{count} lines of {request_id}: {lines()}",
    )[0]  # fmt: skip


def check_requests(lines: Lines, port: int, *, access: str, failure: str) -> None:
    """Three requests: one that says who it is, one that says nonsense, one that fails."""
    assert get(port, "/orders/7", X_Request_Id="r-1", traceparent=CALLER) == (200, "r-1")
    status, named = get(port, "/orders/8", X_Request_Id="no id: too many words", traceparent="00-xyz")
    assert status == 200
    assert re.fullmatch("[0-9a-f]{32}", named)
    assert get(port, "/orders/0", X_Request_Id="r-3", traceparent=CALLER)[0] == 500

    def failures() -> list[dict[str, Any]]:
        return [x for x in lines() if x.get("request_id") == "r-3" and "exception" in x]

    failed = until(failures, PATIENCE_S, what=lambda: str(lines()))
    assert [x["logger"] for x in failed] == [failure]
    assert failed[0]["exception"]["type"] == "ZeroDivisionError"
    assert failed[0]["level"] == "error"
    assert TRACE in failed[0]["traceparent"]

    count = 2 if access == "uvicorn.access" else 1  # gunicorn writes its access line when the request is over
    first = of_request(lines, "r-1", count)
    shown = [x for x in first if x.get("event") == "order shown"]
    assert [x["order"] for x in shown] == [7]
    assert {x["traceparent"].split("-")[1] for x in first} == {TRACE}
    assert len({x["traceparent"] for x in first}) == 1
    assert first[0]["traceparent"] != CALLER
    second = of_request(lines, named, count)
    assert TRACE not in second[0]["traceparent"]

    def accesses() -> list[dict[str, Any]]:
        return [x for x in lines() if x.get("logger") == access and "/orders/" in x["event"]]

    until(lambda: len(accesses()) == 3, PATIENCE_S, what=lambda: f"{accesses()}")
    events = [x["event"] for x in lines() if x.get("event") == "order shown"]
    assert len(events) == 2, "each line is there once"


@pytest.mark.parametrize("name", ["flask_app", "django_app"])
def test_under_gunicorn_forked_after_it_logged(name: str, own_server: OwnServer, tmp_path: Path) -> None:
    """What the workers log is there, as is what was logged before they were forked; each line once."""
    server, port = own_server(), free_port()
    command = ["gunicorn", f"{name}:app", "--config", "gunicorn_conf.py", "--workers", "2"]
    failure = {"flask_app": "flask_app", "django_app": "django.request"}[name]
    with running(server, tmp_path / "log", *command, "--bind", f"127.0.0.1:{port}") as lines:
        check_requests(lines, port, access="gunicorn.access", failure=failure)
        until(lambda: sum("Booting worker" in x["event"] for x in lines()) == 2, PATIENCE_S)
        if name == "flask_app":
            assert sum(x["event"] == "application loaded" for x in lines()) == 1


def test_fastapi_under_uvicorn(own_server: OwnServer, tmp_path: Path) -> None:
    """The access line has the parts it is made of, and the request's id; the failure is in uvicorn's error log."""
    server, port = own_server(), free_port()
    command = ["uvicorn", "fastapi_app:app", "--log-config", "uvicorn_logs.json", "--port", str(port)]
    with running(server, tmp_path / "log", *command) as lines:
        check_requests(lines, port, access="uvicorn.access", failure="uvicorn.error")
        access = next(
            x for x in lines() if x.get("request_id") == "r-1" and x.get("logger") == "uvicorn.access"
        )
        assert (access["method"], access["path"], access["status"]) == ("GET", "/orders/7", 200)


def test_what_a_worker_logs_last_is_there(own_server: OwnServer, tmp_path: Path) -> None:
    """Told to stop right after a request, uvicorn's workers ship their last lines before they end."""
    server, port = own_server(), free_port()
    command = ["uvicorn", "fastapi_app:app", "--log-config", "uvicorn_logs.json", "--port", str(port)]
    with running(server, tmp_path / "log", *command, "--workers", "2"):
        assert get(port, "/orders/7", X_Request_Id="last")[0] == 200
    connector = server.connector()
    try:
        found = [x for x in datas(connector.link("look"), "logs") if isinstance(x, dict)]
    finally:
        connector.close()
    assert sum(x.get("request_id") == "last" for x in found) == 2


def test_celery_prefork(own_server: OwnServer, tmp_path: Path) -> None:
    """What tasks log in the pool's processes is there once, with the task's id and the trace of who asked."""
    server = own_server()
    broker = f"redis+socket://{server.address.path}"
    os.environ["BROKER_URL"] = broker
    try:
        with running(
            server,
            tmp_path / "log",
            "celery",
            "-A",
            "celery_app",
            "worker",
            "--concurrency",
            "2",
            "-l",
            "info",
        ) as lines:
            from celery import Celery

            asking = Celery(broker=broker)
            sent = [
                asking.send_task("celery_app.charge", [order], headers={"traceparent": CALLER})
                for order in range(10)
            ]
            asking.close()

            def charged() -> dict[str, dict[str, Any]]:
                return {x["task_id"]: x for x in lines() if x.get("event") == "order charged"}

            until(lambda: len(charged()) == 9, PATIENCE_S, what=lambda: str(lines()))
            failures = until(lambda: [x for x in lines() if "exception" in x], PATIENCE_S)
            assert [x["order"] for x in (charged()[one.id] for one in sent[1:])] == list(range(1, 10))
            assert {x["traceparent"].split("-")[1] for x in charged().values()} == {TRACE}
            assert [x["exception"]["type"] for x in failures] == ["ZeroDivisionError"]
            assert sum(x.get("event") == "order charged" for x in lines()) == 9
    finally:
        del os.environ["BROKER_URL"]
