"""The programs in examples/ run, and show what they say they show."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import psycopg

from millstream import Consumer
from tests.conftest import Server
from tests.postgres import Postgres
from tests.until import until

EXAMPLES = Path(__file__).parent.parent / "examples"


def test_orders_go_to_three_groups(server: Server, tmp_path: Path) -> None:
    """Ten orders: mail and search get all of them, billing all but the one with nothing to pay; order 3 runs twice."""
    out = tmp_path / "out"
    with out.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-u", str(EXAMPLES / "orders.py")],
            env=os.environ | {"MILLSTREAM_URL": server.url},
            stdout=file,
            stderr=subprocess.PIPE,
        )
    try:
        until(lambda: out.read_text().count("billing ") == 9 and out.read_text().count("mail ") == 10, 20)
        until(lambda: "orders in one call" in out.read_text())
    finally:
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
    assert process.returncode == 0, said
    assert "billing  order 3: 30 (run 2)" in out.read_text()
    assert "sent     10 orders, all confirmed" in out.read_text()


def test_logs_are_shipped_and_errors_picked(server: Server, tmp_path: Path) -> None:
    """Both lines at level error arrive, once each, the password masked."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "logs.py")],
        env=os.environ | {"MILLSTREAM_URL": server.url},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    alerts = [line for line in done.stdout.splitlines() if line.startswith("alert:")]
    assert len(alerts) == 2, done.stdout
    assert "payment refused" in alerts[0]
    assert "'password': '***'" in alerts[0]
    assert "connection lost to bank-1" in alerts[1]


def test_the_shop_logs_both_ways(server: Server, tmp_path: Path) -> None:
    """Each order is shipped, each request is in the access log; both counts are what it says at its end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    access = tmp_path / "access.log"
    process = subprocess.Popen(
        [sys.executable, str(EXAMPLES / "shop" / "app.py")],
        env=os.environ
        | {"MILLSTREAM_URL": server.url, "ACCESS_LOG": str(access), "PORT": str(port), "STREAM": "shop-logs"},
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        run = json.loads(process.stdout.readline())["run"]

        def ordered() -> bool:
            with contextlib.suppress(urllib.error.URLError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/order", timeout=10).close()
            return "order" in access.read_text()

        for _ in range(5):
            until(ordered)
    finally:
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    assert json.loads(said.splitlines()[-1]) == {"run": run, "logged": {"file": 5, "ship": 5}}
    lines = [json.loads(line) for line in access.read_text().splitlines()]
    assert [(line["run"], line["n"], line["status"]) for line in lines] == [
        (run, n, 201) for n in range(1, 6)
    ]
    with Consumer("shop-logs", group="check", url=server.url, timeout_s=0.5) as consumer:
        found = [delivery.event.data for delivery in consumer]
    assert [(data["run"], data["n"], data["event"]) for data in found] == [
        (run, n, "order placed") for n in range(1, 6)
    ]


def test_payments_are_charged_once(server: Server, postgres: Postgres, table: str, tmp_path: Path) -> None:
    """The chain comes to its end; tests/faults kills its workers."""
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {table}")
    environment = os.environ | {
        "MILLSTREAM_URL": server.url,
        "PAYMENTS_DATABASE": postgres.url.replace("/postgres?", f"/{table}?"),
        "PAYMENTS_NAMESPACE": table,
    }

    def call(*words: str) -> str:
        command = [sys.executable, str(EXAMPLES / "payments.py"), *words]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, done.stderr
        return done.stdout

    call("tables")
    assert call("pay", "100") == "sent 100 payments\n"
    with (tmp_path / "log").open("wb") as log:
        worker = subprocess.Popen(
            [sys.executable, str(EXAMPLES / "payments.py"), "work"], env=environment, stdout=log, stderr=log
        )
    try:
        until(lambda: "letters: 100 for 100 payments" in call("report"), 30)
    finally:
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(30) == 0, (tmp_path / "log").read_text()
    assert "charges: 100 for 100 payments" in call("report")
