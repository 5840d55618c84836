"""Latency, bare: one thread sends events at a steady rate with XADD, another waits for them in XREADGROUP BLOCK.

What remains is what the server, the sockets and two threads of one Python process cost. With guarded=True they take
the steps that the guarantees ask for, and no other: the event is encoded by the one who sends it, and appended by the
script under its number; the reader waits for what is due again and what is new, holds what it has read, and settles
it by the script. Answers to the sender are read ten at a time, as nobody waits for them.
"""

import socket
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgpack  # type: ignore[import-untyped]
import ormsgpack

from benchmarks.limits.address import arguments, call, command, connected
from benchmarks.limits.append import HEADER
from benchmarks.limits.consume import BODY, Replies, packed
from benchmarks.limits.event import event

UNREAD = 10
"""Answers that wait to be read together."""
POINTS = (50.0, 90.0, 99.0, 99.9, 100.0)


TOKEN = "bare"


def steadily(count: int, rate: float, send: Callable[[int], object]) -> list[float]:
    """Call send(index) so often, at that rate per second; the times of the calls, by the monotonic clock, in s."""
    sent_s = []
    began_s = time.monotonic()
    for index in range(count):
        ahead_s = began_s + index / rate - time.monotonic()
        if ahead_s > 0:
            time.sleep(ahead_s)
        sent_s.append(time.monotonic())
        send(index)
    return sent_s


def percentiles(values: Sequence[float], points: Sequence[float] = POINTS) -> dict[float, float]:
    """The value that so many percent do not exceed, for each point (nearest rank)."""
    ordered = sorted(values)
    return {point: ordered[max(-int(-point * len(ordered) // 100), 1) - 1] for point in points}


def latency(
    sender: socket.socket, reader: socket.socket, key: str, group: str, count: int, rate: float
) -> tuple[list[float], list[str]]:
    """Send so many events at that rate; from the XADD of each to its receipt in s, and the ids received."""
    received_s: list[float] = []
    ids: list[str] = []
    failed: list[BaseException] = []

    def receive() -> None:
        replies, unacked = Replies(reader), 0
        read = packed(
            "XREADGROUP", "GROUP", group, "bare", "COUNT", "1000", "BLOCK", "5000", "STREAMS", key, ">"
        )
        try:
            reader.sendall(read)
            while len(ids) < count:
                for _ in range(unacked):
                    replies.next()
                found = replies.next()
                if found is None:
                    raise RuntimeError(f"{len(ids):,} of {count:,} events arrived")
                now_s, entries = time.monotonic(), found[0][1]
                received_s.extend([now_s] * len(entries))
                ids.extend([msgpack.unpackb(fields[BODY])["request_id"] for _, fields in entries])
                ack = packed("XACK", key, group, *[entry_id for entry_id, _ in entries])
                reader.sendall(ack + read if len(ids) < count else ack)
                unacked = 1
            replies.next()
        except BaseException as error:  # noqa: BLE001 - raised again by the thread that waits
            failed.append(error)

    ready = [
        command("XADD", key, "*", "h", HEADER, "b", msgpack.packb(event(index))) for index in range(count)
    ]

    def send(index: int) -> None:
        sender.sendall(ready[index])
        answer = sender.recv(256)  # ends with its line: one command at a time is under way
        if not answer.startswith(b"$"):
            raise RuntimeError(f"the server answered {answer!r}")

    thread = threading.Thread(target=receive, name="receive")
    thread.start()
    sent_s = steadily(count, rate, send)
    thread.join()
    if failed:
        raise failed[0]
    # One sender and one reader: events arrive in the order they were sent.
    return [received - sent for sent, received in zip(sent_s, received_s, strict=True)], ids


def guarded_latency(
    sender: socket.socket,
    reader: socket.socket,
    key: str,
    group: str,
    count: int,
    rate: float,
    scripts: tuple[str, str],
) -> tuple[list[float], list[str]]:
    """latency() with the steps that the guarantees ask for. scripts: the texts of append and settle."""
    received_s: list[float] = []
    ids: list[str] = []
    failed: list[BaseException] = []
    beside = f"{{{key}}}:"
    again, groups, producer, never = (
        beside + name for name in ("again:bare", "groups", "producer:bare", "never")
    )
    answers = Replies(sender)
    shas = []
    for text in scripts:
        sender.sendall(command("SCRIPT", "LOAD", text))
        shas.append(answers.next())
    call(sender, "XGROUP", "CREATE", again, group, "0", "MKSTREAM")
    call(sender, "HSET", groups, f"{group}:token", TOKEN)

    def receive() -> None:
        replies, unacked = Replies(reader), 0
        held: dict[bytes, list[bytes]] = {}
        read = packed(
            *("XREADGROUP", "GROUP", group, "bare", "COUNT", "1000", "BLOCK", "5000"),
            *("STREAMS", again, key, ">", ">"),
        )
        try:
            reader.sendall(read)
            while len(ids) < count:
                for _ in range(unacked):
                    replies.next()
                found = replies.next()
                if found is None:
                    raise RuntimeError(f"{len(ids):,} of {count:,} events arrived")
                entries = found[0][1]
                held.update(dict(entries))
                received_s.extend([time.monotonic()] * len(entries))
                ids.extend([msgpack.unpackb(fields[BODY])["request_id"] for _, fields in entries])
                few = [entry_id for entry_id, _ in entries]
                settle = packed(
                    "EVALSHA", shas[1], "2", key, groups, group, group, "bare", "0", TOKEN, "", *few
                )
                reader.sendall(settle + read if len(ids) < count else settle)
                unacked = 1
                for entry_id in few:
                    del held[entry_id]
            replies.next()
        except BaseException as error:  # noqa: BLE001 - raised again by the thread that waits
            failed.append(error)

    rows = [event(index) for index in range(count)]
    unread = 0

    def read_answers() -> None:
        nonlocal unread
        for _ in range(unread):
            status, said = answers.next()
            if status != b"ok":
                raise RuntimeError(f"the append script answered {status!r} {said!r}")
        unread = 0

    def send(index: int) -> None:
        nonlocal unread
        number, body = index + 1, ormsgpack.packb(rows[index])
        sender.sendall(
            command(
                *("EVALSHA", shas[0], 3, key, producer, never, number, number - unread),
                *(86_400_000, 0, 0, 86_400_000, "", "", 1, 1, 0, HEADER, body),
            )
        )
        unread += 1
        if unread == UNREAD:
            read_answers()

    thread = threading.Thread(target=receive, name="receive")
    thread.start()
    sent_s = steadily(count, rate, send)
    read_answers()
    thread.join()
    call(sender, "DEL", again, groups, producer)
    if failed:
        raise failed[0]
    return [received - sent for sent, received in zip(sent_s, received_s, strict=True)], ids


if __name__ == "__main__":
    given = arguments(__doc__, key="millstream-limit-latency", rate=1_000.0, guarded=0)
    count = min(given.events, int(given.rate * 5))
    lua = Path(__file__).parents[2] / "pipeline/server/lua"
    sender, reader = connected(given.url), connected(given.url)
    try:
        call(sender, "XGROUP", "CREATE", given.key, "bare", "$", "MKSTREAM")
        if given.guarded:
            texts = (lua / "append.lua").read_text("utf-8"), (lua / "settle.lua").read_text("utf-8")
            taken, _ = guarded_latency(sender, reader, given.key, "bare", count, given.rate, texts)
        else:
            taken, _ = latency(sender, reader, given.key, "bare", count, given.rate)
        for point, seconds in percentiles(taken).items():
            print(f"p{point:g}  {seconds * 1e6:,.0f} us")
    finally:
        call(sender, "DEL", given.key)
