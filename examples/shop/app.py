"""Shop: a small web application whose log reaches Redis by both ways: shipped by the process, and followed in a file.

Each visit is a line of its access log, in a file that `millstream produce --follow` reads: whatever happens to this
process, what it wrote there will be in the stream. Each order is a line of structlog, which the process ships itself,
in packs, without waiting for Redis. compose/logs.yaml runs it with all that belongs to it.

    MILLSTREAM_URL=redis://localhost:6379 ACCESS_LOG=access.log python examples/shop/app.py

GET /order logs an order, GET /logged tells how many lines were logged so far, GET /health that it is well.
VISITS_PER_S=20 has it visit itself, so that there is something to see.
"""

import json
import os
import signal
import threading
import urllib.request
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import structlog

from millstream import ship_logs

RUN = uuid.uuid4().hex[:12]
"""Of this run of the process: its lines are numbered, so that each can be looked for."""
ENDING = {signal.SIGTERM, signal.SIGINT}
HOST, PORT = os.environ.get("HOST", "127.0.0.1"), int(os.environ.get("PORT", "8000"))

structlog.configure(
    processors=[
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso"),
        ship_logs(
            os.environ.get("STREAM", "logs"),
            level="info",
            mask=("password", "authorization"),
            spill=os.environ.get("SPILL", ""),
        ),
        structlog.processors.JSONRenderer(),
    ],
    logger_factory=structlog.WriteLoggerFactory(),
)
log = structlog.get_logger()


class AccessLog:
    """A line of JSON for each request. Under the lock, numbers stand in the file in their order."""

    def __init__(self, path: str) -> None:
        self._file = open(path, "a", encoding="utf-8", buffering=1)  # noqa: SIM115 - open as long as the process runs
        self._lock = threading.Lock()
        self.lines = 0

    def write(self, **line: object) -> None:
        """Write a line; it is in the file when this returns."""
        with self._lock:
            self._file.write(json.dumps({"run": RUN, "n": self.lines + 1, "via": "file"} | line) + "\n")
            self.lines += 1


class Orders:
    """Takes orders, and logs each."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.lines = 0

    def take(self) -> int:
        """Take an order; its number."""
        with self._lock:
            self.lines += 1
            log.info("order placed", run=RUN, n=self.lines, via="ship")
            return self.lines


access = AccessLog(os.environ.get("ACCESS_LOG", "access.log"))
orders = Orders()


class Shop(BaseHTTPRequestHandler):
    """Answers in JSON."""

    def do_GET(self) -> None:
        """One request."""
        if self.path == "/order":
            self._answer(201, {"order": orders.take()})
        elif self.path == "/logged":
            self._answer(200, {"run": RUN, "file": access.lines, "ship": orders.lines}, logged=False)
        elif self.path == "/health":
            self._answer(200, {"ok": True}, logged=False)
        else:
            self._answer(404, {"error": "there is /order, /logged and /health"})

    def _answer(self, status: int, body: dict[str, object], *, logged: bool = True) -> None:
        if logged:
            access.write(method=self.command, path=self.path, status=status)
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Not to stderr: it has a log of its own."""


def visit(stop: threading.Event, per_s: float) -> None:
    """Order something so many times a second."""
    while not stop.wait(1 / per_s):
        urllib.request.urlopen(f"http://127.0.0.1:{PORT}/order", timeout=10).close()


def main() -> None:
    """Serve until SIGTERM or Ctrl-C; what was logged by then is shipped when the interpreter ends."""
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)  # also of the threads to come: sigwait() below gets them
    server = ThreadingHTTPServer((HOST, PORT), Shop)
    stop = threading.Event()
    per_s = float(os.environ.get("VISITS_PER_S", "0"))
    threads = [threading.Thread(target=server.serve_forever)]
    if per_s:
        threads.append(threading.Thread(target=visit, args=(stop, per_s)))
    for thread in threads:
        thread.start()
    print(json.dumps({"serving": f"http://{HOST}:{PORT}", "run": RUN}), flush=True)
    signal.sigwait(ENDING)
    stop.set()
    threads[-1].join(10 if per_s else 0)
    server.shutdown()
    server.server_close()  # waits for the requests that are being answered
    print(json.dumps({"run": RUN, "logged": {"file": access.lines, "ship": orders.lines}}), flush=True)


if __name__ == "__main__":
    main()
