"""HttpFake: an HTTP server on loopback that records what it is sent and answers as a test says.

For targets that no package of Debian or PyPI brings: what stands for each of them answers in shapes recorded from its
official documentation, cited beside them. It speaks HTTP/1.1 with connections kept alive, and knows how to be slow, to
break off an answer, and to be gone.
"""

import contextlib
import gzip
import json
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import zstandard


@dataclass(frozen=True)
class Request:
    """A request as it came, its body decompressed."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    """Names in small letters."""
    body: bytes
    connection: int
    """Which connection it came over: the client's port."""

    @property
    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)

    @property
    def lines(self) -> list[Any]:
        """The body as lines of JSON, parsed."""
        return [json.loads(line) for line in self.body.splitlines()]


@dataclass(frozen=True)
class Reply:
    """An answer, and how it is given."""

    status: int = 200
    body: bytes | str | dict[str, Any] = b""
    """A dict goes out as JSON."""
    headers: Mapping[str, str] = field(default_factory=dict)
    cut_at: int | None = None
    """After so many bytes of the body the connection is closed; 0: before the status line."""
    hold: threading.Event | None = None
    """Nothing is answered before it is set."""


Answering = Callable[[Request], Reply]


class HttpFake:
    """A server that answers by `answer`, which a test may change at any time."""

    def __init__(self, answer: Answering, *, port: int = 0, context: ssl.SSLContext | None = None) -> None:
        self.answer = answer
        self.requests: list[Request] = []
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 30
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                raw = self.rfile.read(int(self.headers.get("content-length", 0)))
                headers = {name.lower(): value for name, value in self.headers.items()}
                split = urlsplit(self.path)
                request = Request(
                    self.command,
                    split.path,
                    dict(parse_qsl(split.query, keep_blank_values=True)),
                    headers,
                    _decompressed(raw, headers.get("content-encoding", "")),
                    self.client_address[1],
                )
                fake.requests.append(request)
                self._give(fake.answer(request))

            def _give(self, reply: Reply) -> None:
                if reply.hold is not None:
                    reply.hold.wait(30)
                if reply.cut_at == 0:
                    self.close_connection = True
                    return
                body = reply.body
                if isinstance(body, dict):
                    body = json.dumps(body)
                raw = body.encode() if isinstance(body, str) else body
                self.send_response(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                if reply.status != 204:
                    self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw if reply.cut_at is None else raw[: reply.cut_at])
                if reply.cut_at is not None:
                    self.close_connection = True

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            allow_reuse_address = True

            def handle_error(self, *_: object) -> None:
                """A client that breaks off is part of what is tested."""

        self._server = Server(("127.0.0.1", port), Handler)
        if context is not None:
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    @property
    def place(self) -> str:
        """HOST:PORT."""
        return f"127.0.0.1:{self.port}"

    def close(self) -> None:
        """Be gone: connections are refused from here on."""
        if not self._thread.is_alive():
            return
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextlib.contextmanager
def fake(answer: Answering, **options: Any) -> Iterator[HttpFake]:
    """An HttpFake for the time of a with block."""
    server = HttpFake(answer, **options)
    try:
        yield server
    finally:
        server.close()


def _decompressed(raw: bytes, encoding: str) -> bytes:
    if encoding == "gzip":
        return gzip.decompress(raw)
    if encoding == "zstd":
        return zstandard.ZstdDecompressor().decompress(raw, max_output_size=100_000_000)
    return raw
