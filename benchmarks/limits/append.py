"""Append, bare: plain XADD of packed events over a raw socket, several requests in flight.

No script, no number, no receipt, no retry: what is lost on the way is lost. The packing is not even counted.
"""

import socket
import time
from collections.abc import Sequence

from benchmarks.limits.address import arguments, call, command, connected
from benchmarks.limits.event import bodies

HEADER = b"\xc1\x97\x01\x00\x01\x00\x01\xb0bare-bare-bare-0\xce\x00\x00\x00\x01"
"""A header as Millstream writes one for an event without type or key: what differs is how it is sent, not what."""
DEPTHS = ((100, 8), (250, 4), (1_000, 3))
"""Commands per request and requests in flight, of which the best counts."""


def requests(key: str, packed: Sequence[bytes], per_request: int, header: bytes = HEADER) -> list[bytes]:
    """The commands, joined to requests of so many each."""
    start = command("XADD", key, "*", "h", header, "b", b"")[:-6]  # without the empty body's $0 and line ends
    commands = [b"%b$%d\r\n%b\r\n" % (start, len(body), body) for body in packed]
    return [b"".join(commands[at : at + per_request]) for at in range(0, len(commands), per_request)]


def append(sock: socket.socket, key: str, packed: Sequence[bytes], per_request: int, in_flight: int) -> float:
    """Append all and wait for all replies; the seconds from the first byte sent to the last reply."""
    ready = requests(key, packed, per_request)
    sent = lines = 0
    began_s = time.perf_counter()
    for request in ready:
        # Each reply is two lines: its length and the entry's id.
        while sent - lines // 2 > (in_flight - 1) * per_request:
            lines += _lines(sock)
        sock.sendall(request)
        sent = min(sent + per_request, len(packed))
    while lines < 2 * sent:
        lines += _lines(sock)
    return time.perf_counter() - began_s


def _lines(sock: socket.socket) -> int:
    replies = sock.recv(1 << 18)
    if not replies or replies.startswith(b"-") or b"\n-" in replies:
        raise RuntimeError(f"the server answered {replies[:200]!r}")
    return replies.count(b"\n")


def best(sock: socket.socket, key: str, packed: Sequence[bytes]) -> float:
    """The seconds at the best of a few depths. The stream is left as the last of them filled it."""
    seconds = []
    for per_request, in_flight in DEPTHS:
        call(sock, "DEL", key)
        seconds.append(append(sock, key, packed, per_request, in_flight))
    return min(seconds)


if __name__ == "__main__":
    given = arguments(__doc__, key="millstream-limit-append")
    link = connected(given.url)
    try:
        print(f"{given.events / best(link, given.key, bodies(given.events)):,.0f} events/s appended")
    finally:
        call(link, "DEL", given.key)
