"""Consuming: a stream on a real server, a Pipeline on it, and what its handlers and its groups are found to hold."""

import asyncio
import contextlib
import dataclasses
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from consumers.app import Pipeline
from consumers.member import Member
from consumers.running import LoopThread, Running
from pipeline.envelope import DeadLetter, read_dead
from pipeline.errors import MillstreamError
from pipeline.event import Event
from pipeline.keys import GroupRef, StreamKeys
from pipeline.server.connect import Connector, Link
from pipeline.server.locate import Address
from pipeline.server.replies import Fields, pairs, parse_entries, text
from pipeline.wire import encode_entry, encode_pack
from tests.until import until

PRODUCER = "test"


class Consuming:
    """One stream, the Pipeline `app`, and a link to look with."""

    def __init__(self, address: Address, link: Link, stream: str, url: str | None = None) -> None:
        self.link = link
        self.keys = StreamKeys(stream)
        self.stream = stream
        self.url = url or address.shown
        self.app = Pipeline(self.url)
        self.go_on = threading.Event()
        """Lets the handlers of block() end; set when running() ends."""
        self._number = 0

    def send(
        self,
        *datas: Any,
        type: str = "",  # noqa: A002 - the word of Event
        key: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> list[str]:
        """Append an event for each of the data; the entry ids."""
        encoded = self.encoded(*datas, type=type, key=key, headers=headers)
        return [
            text(reply)
            for reply in self.link.calls([("XADD", self.stream, "*", *fields) for fields in encoded])
        ]

    def encoded(self, *datas: Any, **given: Any) -> list[list[bytes]]:
        """The fields of an entry for each of the data, numbered on from what was sent before."""
        encoded = []
        for data in datas:
            self._number += 1
            encoded.append(encode_entry(Event(data, **given), producer=PRODUCER, number=self._number))
        return encoded

    def send_pack(self, datas: Sequence[Any], types: Sequence[str] = ()) -> str:
        """Append one entry that holds all these events; its id."""
        events = [Event(data, type=types[i] if types else "") for i, data in enumerate(datas)]
        fields = encode_pack(events, producer=PRODUCER, first_number=self._number + 1)
        self._number += len(datas)
        return text(self.link.call("XADD", self.stream, "*", *fields))

    def send_raw(self, fields: Sequence[bytes | str]) -> str:
        """Append an entry with exactly these fields; its id."""
        return text(self.link.call("XADD", self.stream, "*", *fields))

    def block(self, *, is_async: bool = False, **options: Any) -> threading.Event:
        """Declare a handler for group "g" that never ends by itself; the event says that it runs."""
        running = threading.Event()

        def handle(event: Event) -> None:
            running.set()
            self.go_on.wait(60)

        async def handle_async(event: Event) -> None:
            running.set()
            await asyncio.Event().wait()

        self.app.consumer(self.stream, group="g", **options)(handle_async if is_async else handle)
        return running

    @contextlib.contextmanager
    def running(self, app: Pipeline | None = None, *, well: bool = True) -> Iterator[Running]:
        """Run an app (else `app`) in this process; at the end it is stopped and, if `well`, must not have failed."""
        app = app or self.app
        loops = LoopThread()
        connector = Connector(app.url)
        running = Running(connector, app.select())
        try:
            running.start(loops.loop)
            yield running
            assert not well or running.failure is None, running.failure
        finally:
            self.go_on.set()
            running.stop()
            loops.close()
            connector.close()

    def run_until_drained(self, group: str = "g", timeout_s: float = 20) -> Running:
        """Run `app` until the group has nothing left, not even to retry."""
        with self.running() as running:
            self.until_drained(group, timeout_s)
        return running

    def until_drained(self, group: str = "g", timeout_s: float = 20) -> None:
        """Wait until the group has nothing left, not even to retry."""
        until(lambda: self.drained(group), timeout_s, what=f"group {group} is drained")

    def drained(self, group: str = "g") -> bool:
        """Whether everything in the stream is settled, and nothing is due again: as of one moment."""
        replies = self.link.calls(
            [
                ("MULTI",),
                ("XLEN", self.keys.again(group)),
                ("ZCARD", self.keys.retry(group)),
                ("XPENDING", self.stream, group),
                ("XINFO", "STREAM", self.stream),
                ("XINFO", "GROUPS", self.stream),
                ("EXEC",),
            ]
        )[-1]
        assert not isinstance(replies, MillstreamError), replies
        again, waiting, pending, stream, groups = replies
        if again or waiting or pending[0]:
            return False
        last = pairs(stream)["last-generated-id"]
        return any(
            text(facts["name"]) == group and facts["last-delivered-id"] == last
            for facts in map(pairs, groups)
        )

    def exists(self, group: str = "g") -> bool:
        """Whether the group is there."""
        return not isinstance(self.link.calls([("XPENDING", self.stream, group)])[0], MillstreamError)

    def pending(self, group: str = "g", *, again: bool = False) -> dict[str, tuple[str, int]]:
        """Entry id to (consumer, deliveries) of what is pending."""
        ref = GroupRef(self.keys, group, again=again)
        rows = self.link.call("XPENDING", ref.key, group, "-", "+", 10_000)
        return {text(row[0]): (text(row[1]), row[3]) for row in rows}

    def idle_ms(self, entry_id: str) -> int:
        """For how long a pending entry was not renewed."""
        return int(self.link.call("XPENDING", self.stream, "g", entry_id, entry_id, 1)[0][2])

    def again_entries(self, group: str = "g") -> int:
        """Entries of the group's own stream: what is due again and not settled."""
        return int(self.link.call("XLEN", self.keys.again(group)))

    def waiting(self, group: str = "g") -> int:
        """Retries that wait for their time."""
        return int(self.link.call("ZCARD", self.keys.retry(group)))

    def advance(self, ms: int, group: str = "g") -> None:
        """Make retries due so much earlier: the server's clock, no sleeping."""
        for member in self.link.call("ZRANGE", self.keys.retry(group), 0, -1):
            self.link.call("ZINCRBY", self.keys.retry(group), -ms, member)

    def entries(self) -> list[tuple[bytes, Fields]]:
        """All entries in the stream, as they stand."""
        reply = parse_entries(self.link.call("XRANGE", self.stream, "-", "+"))
        return [(entry_id, fields or []) for entry_id, fields in reply]

    def dead(self, group: str = "g") -> list[tuple[DeadLetter, Fields]]:
        """Dead letters of the group, each with the fields it was sent in."""
        letters = []
        for _, fields in parse_entries(self.link.call("XRANGE", self.keys.dead(group), "-", "+")):
            letter, original = read_dead(fields or [])
            assert letter is not None
            letters.append((letter, original))
        return letters

    def consumers(self, group: str = "g") -> dict[str, int]:
        """Consumer names of the group, with what each holds."""
        reply = self.link.call("XINFO", "CONSUMERS", self.stream, group)
        return {text(facts["name"]): facts["pending"] for facts in map(pairs, reply)}


@contextlib.contextmanager
def consuming_on(address: Address, stream: str, *, url: str | None = None) -> Iterator[Consuming]:
    """A Consuming with a link of its own; url: where its app connects, if not there (a proxy)."""
    connector = Connector(address)
    link = connector.link("test")
    try:
        yield Consuming(address, link, stream, url)
    finally:
        link.close()
        connector.close()


def total(members: Sequence[Member]) -> dict[str, int]:
    """The members' counts, added up."""
    counts = [dataclasses.asdict(member.counts) for member in members]
    return {name: sum(count[name] for count in counts) for name in counts[0]}
