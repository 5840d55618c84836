"""DeadLetters: the dead letters of a group, from code: look through them, have them run again, drop them.

Stands on a Connector. Each letter is moved in one step of the server, so whatever is interrupted, killed or repeated,
none runs again twice and none is lost. A connection that breaks is made anew, and what was unanswered asked again.
"""

import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from types import TracebackType
from typing import Self, TypeVar

from pipeline.dead_event import Cause, DeadEvent, DeadSelection, causes_of, read_dead_event
from pipeline.errors import NotConnectedError, NotFoundError, UsageError
from pipeline.keys import StreamKeys, check_name
from pipeline.pace import Pace
from pipeline.position import parse_entry_id, position_id
from pipeline.replayed import Replayed
from pipeline.selection import Selection
from pipeline.server.connect import Connector, Link
from pipeline.server.dead import drop_letters, newest_letter, read_letters, revive_letters
from pipeline.server.overview import groups, server_ms

PAGE_LETTERS = 100
"""Letters read at a time: each may be some 30 kB beside the event."""
MOST_LETTERS = 100
"""Letters moved in one call, at most."""
CALL_BYTES = 1 << 20
"""Bytes of events moved in one call, about."""
UP_MS = 30_000
"""How long a server that went away is waited for, in ms."""
Answer = TypeVar("Answer")


class DeadLetters:
    """The dead letters of one group.

    Example:
        with DeadLetters("orders", "billing", url="redis://localhost:6379/0") as dead:
            for one in dead.find(errors=["*Timeout*"], since="-1h"):
                print(one.id, one.reason, one.event)
            dead.retry(dead.find(errors=["*Timeout*"]))      # they run again, in this group alone
            dead.drop(["1700000000000-0"])
    """

    def __init__(
        self, stream: str, group: str, *, url: str | None = None, connector: Connector | None = None
    ) -> None:
        """url: where the server is, else MILLSTREAM_URL, else REDIS_URL; connector: one to use, which stays open.

        Raises:
            UsageError: a name that cannot be. NoServerError: no address given or found.
        """
        self.keys = StreamKeys(stream)
        self.group = check_name("group", group)
        self._own = connector is None
        self._connector = connector or Connector(url)
        self._link: Link | None = None

    def find(
        self,
        *,
        errors: Sequence[str] = (),
        types: Sequence[str] = (),
        keys: Sequence[str] = (),
        match: str = "",
        since: str = "start",
        until: str = "end",
    ) -> Iterator[DeadEvent]:
        """The dead letters that all of what is given takes, in the order they died; those that die later are not among
        them.

        Args:
            errors: names of exception classes, with * for any part. types, keys, match: as of Selection.
            since, until: when it died: start, end, -15m, an ISO time, or the id of a dead letter (it is included).

        Raises:
            UsageError: something that cannot be. NoSuchStreamError, NoSuchGroupError: there is none.
        """
        chosen = DeadSelection(errors=errors, events=Selection(types=types, keys=keys, match=match))
        start, end = self.range(since, until)
        return self.between(start, end, chosen)

    def range(self, since: str = "start", until: str = "end") -> tuple[str, str]:
        """The first and the last id that are meant; both included, and of what is there now.

        Raises:
            UsageError: no position, or a range that is reversed. NoSuchStreamError, NoSuchGroupError: there is none.
        """
        now_ms = self._ask(server_ms)
        first, last = position_id(since, now_ms, "since"), position_id(until, now_ms, "until")
        begins = f"{now_ms}-0" if first == "$" else first
        if last != "$" and parse_entry_id(begins) > parse_entry_id(last):
            raise UsageError(f"from {since} to {until}: the range is reversed: {begins} comes after {last}")
        newest = self._ask(lambda link: newest_letter(link, self.keys, self.group))
        if newest is None:
            self._ask(lambda link: groups(link, self.keys.stream, only=self.group))
            return "0-0", "0-0"
        return begins, newest if last == "$" else min(last, newest, key=parse_entry_id)

    def between(self, start: str, end: str, chosen: DeadSelection) -> Iterator[DeadEvent]:
        """find(), from an id to another, both included."""
        while True:
            page = self._ask(
                lambda link, start=start: read_letters(  # type: ignore[misc]
                    link, self.keys, self.group, start, end, count=PAGE_LETTERS
                )
            )
            yield from filter(chosen.takes, (read_dead_event(entry_id, fields) for entry_id, fields in page))
            if len(page) < PAGE_LETTERS:
                return
            start = f"({page[-1][0].decode()}"

    def get(self, dead_id: str) -> DeadEvent:
        """One dead letter by its id.

        Raises:
            UsageError: no id. NotFoundError: there is no such letter.
        """
        parse_entry_id(dead_id)
        page = self._ask(lambda link: read_letters(link, self.keys, self.group, dead_id, dead_id, count=1))
        if not page:
            raise NotFoundError(
                f"group {self.group!r} of stream {self.keys.stream!r} has no dead letter {dead_id}"
            )
        return read_dead_event(*page[0])

    def causes(self, found: Iterable[DeadEvent] | None = None) -> list[Cause]:
        """Why they died, the most frequent first: alike are an exception of one class that says the same but for
        numbers, ids and quoted texts. Of all there are, if none are given."""
        return causes_of(self.find() if found is None else found)

    def retry(
        self,
        letters: Iterable[DeadEvent | str],
        *,
        rate: float | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> int:
        """Have these run again, in this group alone, with all attempts before them; how many do now.

        Each leaves the dead letters and joins what the group runs in one step. What is not there any more is passed
        over, and so is what is no letter of Millstream's.

        Args:
            rate: at most so many a second; None: as fast as the server takes them.
            progress: called with how many it was so far, now and then.

        Raises:
            UsageError: a rate that is not above 0. NotConnectedError: the server stayed away: repeat it for the rest.
        """
        replay_id, at_ms = secrets.token_hex(8), self._ask(server_ms)

        def move(part: Sequence[DeadEvent]) -> int:
            entries = [
                (
                    one.id,
                    one.again(
                        Replayed(id=replay_id, at_ms=at_ms, again=False, what=f"dead letter {one.id}").why
                    ),
                )
                for one in part
                if one.letter is not None
            ]
            if not entries:
                return 0
            answers, repeated = self._ask_told(
                lambda link: revive_letters(link, self.keys, self.group, entries)
            )
            # Asked again after a lost answer, what is gone is what the first call moved.
            return len(answers) if repeated else sum(answers)

        return self._in_parts(letters, move, rate, progress)

    def drop(
        self,
        letters: Iterable[DeadEvent | str],
        *,
        rate: float | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> int:
        """Remove these for good; how many were there. Arguments and errors as of retry()."""

        def remove(part: Sequence[DeadEvent]) -> int:
            ids = [one.id for one in part]
            count, repeated = self._ask_told(lambda link: drop_letters(link, self.keys, self.group, ids))
            return len(ids) if repeated else count

        return self._in_parts(letters, remove, rate, progress)

    def close(self) -> None:
        """Close the connection."""
        if self._link is not None:
            self._link.close()
        if self._own:
            self._connector.close()

    def __iter__(self) -> Iterator[DeadEvent]:
        """All of them, in the order they died."""
        return self.find()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _in_parts(
        self,
        letters: Iterable[DeadEvent | str],
        act: Callable[[Sequence[DeadEvent]], int],
        rate: float | None,
        progress: Callable[[int], None] | None,
    ) -> int:
        pace = Pace(time.monotonic(), rate)
        rest = iter(letters)
        asked = done = 0
        while part := self._part(rest, pace.most(MOST_LETTERS)):
            done += act(part)
            asked += len(part)
            if progress is not None:
                progress(done)
            time.sleep(pace.wait_s(asked, time.monotonic()))
        return done

    def _part(self, rest: Iterator[DeadEvent | str], most: int) -> list[DeadEvent]:
        """The next letters for one call."""
        part: list[DeadEvent] = []
        size = 0
        for one in islice(rest, most):
            dead = self.get(one) if isinstance(one, str) else one
            part.append(dead)
            size += sum(map(len, dead.fields))
            if size >= CALL_BYTES:
                break
        return part

    def _ask(self, ask: Callable[[Link], Answer]) -> Answer:
        return self._ask_told(ask)[0]

    def _ask_told(self, ask: Callable[[Link], Answer]) -> tuple[Answer, bool]:
        """The answer, and whether it was asked for again because the first one may have been lost."""
        repeated = False
        while True:
            if self._link is None or self._link.closed:
                link = self._connector.wait_until_up(UP_MS) if repeated else self._connector.link("dead")
                self._link = link
            try:
                return ask(self._link), repeated
            except NotConnectedError:
                self._link.close()
                if repeated:
                    raise
                repeated = True
