"""Envelope: what a group writes before the fields of an event it keeps for itself, and how it reads it back.

An entry of a group's `again` stream begins with field `a` (what happened to the event so far), a dead letter with
field `d` (why it died); the fields as they were sent follow, unchanged, so that even a corrupt entry can be looked at
and sent again. Thousands of them, more than a script can add, are folded into one (`aw`, `dw`). docs/wire.md has the
exact bytes.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from pipeline.codec import pack, pack_fields, unpack_fields, unpack_record
from pipeline.errors import DecodeError, UnknownFormatError

VERSION: Final = 1
MAX_BYTES: Final = 1 << 16
"""Most bytes of an envelope that is read; what is written stays below, its texts being cut."""
MAX_FIELDS: Final = 4_000
"""Most names and values that follow an envelope as they are: the server's Lua passes at most some 7,990 to XADD."""

_REASON_BYTES = 4_096
_TRACEBACK_BYTES = 24_576
_NAME_BYTES = 1_024
_ENTRY_ID = re.compile(r"[0-9]{1,20}-[0-9]{1,20}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Again:
    """What happened so far to an event that runs again."""

    runs: int = 0
    """Runs so far, crashes included: its next attempt is one more."""
    crashes: int = 0
    """Runs that ended with the worker."""
    stream: str
    """The stream (or lane) it was first appended to."""
    entry_id: str
    """Its first entry id: what its id and time are where it was given none, and what people look for."""
    index: int = 0
    """Which event of that entry it is, from 0."""
    first_failed_ms: int = 0
    """When it first failed, in ms since 1970; 0: it did not."""
    why: str = ""
    """Why it runs again: retry, split, handed back; of a replayed event, and its retries, Replayed.why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """Why an event died, for the people who look into it."""

    reason: str
    """One line."""
    error: str = ""
    """The exception's type."""
    message: str = ""
    """Its text."""
    traceback: str = ""
    """Where it was raised; of a long one the end."""
    attempts: int = 0
    """Runs, crashes not included."""
    crashes: int = 0
    """Runs that ended with the worker."""
    first_failed_ms: int = 0
    """When it first failed, in ms since 1970."""
    last_failed_ms: int = 0
    """When it died."""
    host: str = ""
    consumer: str = ""
    group: str = ""
    stream: str = ""
    """The stream (or lane) it was first appended to."""
    entry_id: str = ""
    """Its entry id there."""
    index: int = 0
    """Which event of that entry it is, from 0."""
    event_id: str = ""
    """The event's id; empty where its header cannot be read, or it is a pack as a whole."""
    replay: str = ""
    """By which replay it ran (Replayed.why); empty where it was not replayed."""


_CUT_BYTES = {"reason": _REASON_BYTES, "message": _REASON_BYTES, "traceback": _TRACEBACK_BYTES}
_TEXTS = frozenset(
    "reason error message traceback host consumer group stream entry_id event_id replay".split()
)
_LETTER_FIELDS = tuple(DeadLetter.__dataclass_fields__)


def again_fields(again: Again, fields: Sequence[bytes]) -> list[bytes]:
    """The fields of an entry in an `again` stream."""
    envelope = [
        VERSION, again.runs, again.crashes, again.stream, again.entry_id, again.index, again.first_failed_ms,
        _cut(again.why, _NAME_BYTES),
    ]  # fmt: skip
    return _enveloped(b"a", pack(envelope), fields)


def read_again(fields: Sequence[bytes]) -> tuple[Again | None, list[bytes]]:
    """What happened to the event of an `again` entry (None if it has no envelope), and the fields it was sent in.

    Raises:
        DecodeError: the envelope is corrupt. UnknownFormatError: it is of a newer version.
    """
    if len(fields) < 2 or fields[0] not in (b"a", b"aw"):
        return None, list(fields)
    array = _unpack(fields[1])
    if type(array) is not list or not array or type(array[0]) is not int:
        raise DecodeError("the envelope is not an array that begins with its version")
    _check_version(array[0])
    if len(array) != 8:
        raise DecodeError(f"the envelope has {len(array)} elements, not 8")
    _, runs, crashes, stream, entry_id, index, first_failed_ms, why = array
    for number in (runs, crashes, index, first_failed_ms):
        _check_number(number)
    for text in (stream, entry_id, why):
        _check_text(text)
    if not _ENTRY_ID.fullmatch(entry_id):
        raise DecodeError("the envelope's entry id is not one")
    again = Again(
        runs=runs, crashes=crashes, stream=stream, entry_id=entry_id, index=index,
        first_failed_ms=first_failed_ms, why=why,
    )  # fmt: skip
    return again, _sent(fields)


def dead_fields(letter: DeadLetter, fields: Sequence[bytes]) -> list[bytes]:
    """The fields of a dead letter. Texts that are too long are cut: none is refused for its traceback."""
    envelope: dict[str, Any] = {"version": VERSION}
    for name in _LETTER_FIELDS:
        value = getattr(letter, name)
        if name in ("event_id", "replay") and not value:
            continue  # most were not replayed
        if name in _TEXTS:
            value = _cut(value, _CUT_BYTES.get(name, _NAME_BYTES), keep_end=name == "traceback")
        envelope[name] = value
    return _enveloped(b"d", pack(envelope), fields)


def read_dead(fields: Sequence[bytes]) -> tuple[DeadLetter | None, list[bytes]]:
    """Why the event died (None if there is no envelope), and the fields it was sent in.

    Names it does not know are passed over: newer versions may tell more.

    Raises:
        DecodeError: the envelope is corrupt. UnknownFormatError: it is of a newer version.
    """
    if len(fields) < 2 or fields[0] not in (b"d", b"dw"):
        return None, list(fields)
    envelope = _unpack(fields[1])
    if type(envelope) is not dict or type(envelope.get("version")) is not int:
        raise DecodeError("the envelope is not a map with its version")
    _check_version(envelope["version"])
    known = {name: envelope[name] for name in _LETTER_FIELDS if name in envelope}
    if "reason" not in known:
        raise DecodeError("the envelope gives no reason")
    for name, value in known.items():
        if name in _TEXTS:
            _check_text(value)
        else:
            _check_number(value)
    return DeadLetter(**known), _sent(fields)


def retry_body(fields: Sequence[bytes]) -> bytes:
    """Fields as the msgpack array of byte strings that promote.lua adds to the `again` stream."""
    return pack_fields(fields)


def read_retry_body(body: bytes) -> list[bytes]:
    """The fields of a retry_body.

    Raises:
        DecodeError: not an array of byte strings.
    """
    fields = unpack_fields(body)
    if len(fields) % 2:
        raise DecodeError("the body of a retry is not an array of names and values")
    return fields


def _enveloped(name: bytes, envelope: bytes, fields: Sequence[bytes]) -> list[bytes]:
    if len(fields) <= MAX_FIELDS:
        return [name, envelope, *fields]
    return [name + b"w", envelope, b"f", pack_fields(fields)]


def _sent(fields: Sequence[bytes]) -> list[bytes]:
    """The fields that follow an envelope, unfolded."""
    if fields[0] in (b"a", b"d"):
        return list(fields[2:])
    if len(fields) != 4:
        raise DecodeError("the envelope is not followed by one field that holds the others")
    return unpack_fields(fields[3])


def _unpack(raw: bytes) -> Any:
    if len(raw) > MAX_BYTES:
        raise DecodeError(f"an envelope of {len(raw):,} bytes exceeds {MAX_BYTES:,}")
    return unpack_record(raw)


def _check_version(version: int) -> None:
    if version != VERSION:
        raise UnknownFormatError(
            f"the envelope is of version {version}; this Millstream reads {VERSION}: upgrade it"
        )


def _check_number(value: object) -> None:
    if type(value) is not int or value < 0:
        raise DecodeError("a number of the envelope is not one of 0 and up")


def _check_text(value: object) -> None:
    if type(value) is not str:
        raise DecodeError("a text of the envelope is not text")


def _cut(text: str, most_bytes: int, *, keep_end: bool = False) -> str:
    """The text in valid Unicode, and not longer: what an exception says may be anything."""
    raw = text.encode("utf-8", "backslashreplace")
    if len(raw) <= most_bytes:
        return raw.decode()
    if keep_end:
        return "…" + raw[3 - most_bytes :].decode(errors="ignore")
    return raw[: most_bytes - 3].decode(errors="ignore") + "…"
