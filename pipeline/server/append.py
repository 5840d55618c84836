"""Append: the command that adds a numbered batch to a stream at most once, and what the server answers to it.

Stands on lua/append.lua, which says when a batch is appended. Does no I/O: the command is sent, and the reply read,
by whoever holds the link.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from pipeline.errors import MillstreamError, ServerRefusedError
from pipeline.keys import StreamKeys
from pipeline.server.replies import Reply, text
from pipeline.server.scripts import script

MAX_UNCONFIRMED = 16
"""Batches of one producer and stream that may be on their way at once: the script remembers as many."""
MAX_ENTRY_VALUES = 4_000
"""Names and values of one entry: what Lua hands to one command."""


@dataclass(frozen=True, slots=True)
class Appended:
    """The batch is in the stream, each entry once. Entries that were there before, by their `id=`, are in skipped."""

    first_ms: int
    first_seq: int
    count: int
    skipped: Mapping[int, str]
    """Index in the batch to the id of the entry that was there before."""
    repeated: bool = False
    """True if an earlier try of the same batch had appended it."""

    def entry_ids(self, entries: int) -> list[str]:
        """The entry ids of a batch of so many entries, in its order."""
        ids, seq = [], self.first_seq
        for index in range(entries):
            known = self.skipped.get(index)
            if known is None:
                known = f"{self.first_ms}-{seq}"
                seq += 1
            ids.append(known)
        return ids


@dataclass(frozen=True, slots=True)
class Gap:
    """A batch before this one is missing; nothing was done."""

    last: int


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """The source's stored position is not the one the batch starts at; nothing was done."""

    position: str


@dataclass(frozen=True, slots=True)
class Forgotten:
    """The number is older than the server remembers: it was used, and how it ended cannot be found out."""

    last: int


Answer: TypeAlias = Appended | Gap | Elsewhere | Forgotten | MillstreamError


@dataclass(frozen=True, slots=True, kw_only=True)
class AppendOptions:
    """What the script does beside appending."""

    expiry_ms: int = 86_400_000
    """How long the server remembers a producer that sends nothing, in ms."""
    dedupe_for_ms: int = 86_400_000
    """How long an event's `id=` is remembered, in ms."""
    max_stream_entries: int = 0
    """Hard cap on the stream's length; 0: none."""


def append_command(
    keys: StreamKeys,
    producer: str,
    *,
    number: int,
    base: int,
    values: Sequence[Sequence[bytes]],
    entries: int,
    plain: bool = True,
    renew: bool = True,
    ids: Mapping[int, str] = {},
    source: str = "",
    before: str = "",
    after: str = "",
    position_expiry_ms: int = 0,
    options: AppendOptions = AppendOptions(),
) -> bytes:
    """The EVALSHA for one batch, packed.

    Args:
        values: header and body of each entry in turn, in as many pieces as are at hand; if not plain, the names and
            values of one entry in each piece.
        renew: whether the server is to remember the producer for expiry_ms from now on, rather than from when it was
            last asked to. A first batch and a repeat renew it anyway.
        position_expiry_ms: how long the server remembers the source's position from now on; 0: for ever.
        entries: how many entries these are. ids: index of an entry to the event id that must not be in the stream yet.
    """
    numbers = (
        *(number, base, options.expiry_ms, int(renew)),
        *(options.max_stream_entries, options.dedupe_for_ms),
    )
    args = [
        *map(str, numbers),
        before if source else "",
        after if source else "",
        str(int(plain)),
        str(entries),
        str(position_expiry_ms),
    ]
    names = [keys.stream, keys.producer(producer), keys.source(source) if source else keys.never]
    for index in sorted(ids):
        names.append(keys.ids(ids[index]))
        args.append(str(index + 1))
    words = [str(word).encode() for word in script("append").command(names, args)]
    for piece in values:
        if not plain:
            words.append(b"%d" % len(piece))
        words += piece
    return pack_words(words)


class _Starts(dict[int, bytes]):
    """What stands between two words of a command, by the size of the second: made once for each size."""

    def __missing__(self, size: int) -> bytes:
        start = b"\r\n$%d\r\n" % size
        if size < MANY_SIZES:
            self[size] = start
        return start


MANY_SIZES = 8_192
"""Words below this size are many, and their sizes few."""
_starts = _Starts()


def pack_words(words: Sequence[bytes]) -> bytes:
    """A command as the server reads it: the bytes are those of hiredis.pack_command.

    That takes 0.4 us per event, as it looks at each word by itself; here no step of Python is made for a word.
    """
    pieces = [*words, *words, b"\r\n"]
    pieces[:-1:2] = map(_starts.__getitem__, map(len, words))
    pieces[1::2] = words
    pieces[0] = b"*%d%b" % (len(words), pieces[0])
    return b"".join(pieces)


_MARK = 4_611_686_018_427_387_847
"""A batch's number that no batch has: where it stands in a command, others are put in its place."""


class OneAppend:
    """append_command() of one entry, for one producer and stream: what is the same in all of them is packed once."""

    __slots__ = ("_ends", "_start")

    def __init__(self, keys: StreamKeys, producer: str, options: AppendOptions) -> None:
        self._start, rest = self._halves(keys, producer, options, renew=False)
        self._ends = (rest, self._halves(keys, producer, options, renew=True)[1])

    def command(self, number: int, base: int, header: bytes, body: bytes, *, renew: bool) -> bytes:
        """The EVALSHA, packed."""
        n, of = b"%d" % number, b"%d" % base
        return b"%b$%d\r\n%b\r\n$%d\r\n%b%b$%d\r\n%b\r\n$%d\r\n%b\r\n" % (
            self._start, len(n), n, len(of), of, self._ends[renew], len(header), header, len(body), body,
        )  # fmt: skip

    @staticmethod
    def _halves(
        keys: StreamKeys, producer: str, options: AppendOptions, *, renew: bool
    ) -> tuple[bytes, bytes]:
        """What stands before the two numbers, and between them and the entry."""
        whole = append_command(
            keys,
            producer,
            number=_MARK,
            base=_MARK,
            values=[[b"", b""]],
            entries=1,
            renew=renew,
            options=options,
        )
        start, end = whole.rsplit(b"$%d\r\n%d\r\n$%d\r\n%d" % (2 * (len(str(_MARK)), _MARK)), 1)
        return start, end.removesuffix(b"$0\r\n\r\n$0\r\n\r\n")


def parse_append(reply: Reply) -> Answer:
    """What the script answered; an error answer is handed through, and what it never answers is one."""
    if isinstance(reply, MillstreamError):
        return reply
    try:
        status, said = reply
        return _ANSWERS[status](text(said))
    except (TypeError, ValueError, KeyError):  # not two values, not what the status leads to, no such status
        return ServerRefusedError(f"the append script answered {repr(reply)[:200]}")


def _appended(said: str, *, repeated: bool = False) -> Appended:
    first, count, *skipped = said.split(" ")
    ms, _, seq = first.partition("-")
    parts = [part.partition("=") for part in skipped if part]
    return Appended(
        int(ms or 0),
        int(seq or 0),
        int(count),
        {int(which) - 1: entry_id for which, _, entry_id in parts},
        repeated,
    )


_ANSWERS: Mapping[bytes, Callable[[str], Answer]] = {
    b"ok": _appended,
    b"repeated": partial(_appended, repeated=True),
    b"gap": lambda said: Gap(int(said)),
    b"position": Elsewhere,
    b"forgotten": lambda said: Forgotten(int(said)),
}
