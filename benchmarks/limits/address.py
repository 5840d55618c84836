"""Where the loops connect when they run as scripts: redis://HOST:PORT or unix://PATH, the password in REDISCLI_AUTH."""

import argparse
import os
import socket
from typing import Any
from urllib.parse import urlsplit


def connected(url: str) -> socket.socket:
    """A socket to the server, logged in if there is a password."""
    parts = urlsplit(url)
    if parts.scheme == "unix":
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(parts.path)
    elif parts.scheme == "redis":
        sock = socket.create_connection((parts.hostname or "127.0.0.1", parts.port or 6379))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    else:
        raise SystemExit(f"--url {url}: redis://HOST:PORT or unix://PATH")
    password = os.environ.get("REDISCLI_AUTH")
    if password:
        call(sock, "AUTH", password)
    return sock


def command(*words: str | bytes | int) -> bytes:
    """One command as the server reads it."""
    raw = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    return b"*%d\r\n" % len(raw) + b"".join([b"$%d\r\n%b\r\n" % (len(word), word) for word in raw])


def call(sock: socket.socket, *words: str | bytes | int) -> bytes:
    """Send one command and return its one-line reply."""
    sock.sendall(command(*words))
    reply = b""
    while not reply.endswith(b"\r\n"):
        piece = sock.recv(65_536)
        if not piece:
            raise ConnectionError("the server closed the connection")
        reply += piece
    if reply.startswith(b"-"):
        raise RuntimeError(f"{words[0]!s}: {reply[1:-2].decode()}")
    return reply


def arguments(about: str, **more: Any) -> argparse.Namespace:
    """What every loop takes as a script, and what this one takes beside."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--url", default="redis://127.0.0.1:6379", help="redis://HOST:PORT or unix://PATH")
    parser.add_argument("--events", type=int, default=200_000)
    for name, default in more.items():
        parser.add_argument(f"--{name}", type=type(default), default=default)
    return parser.parse_args()
