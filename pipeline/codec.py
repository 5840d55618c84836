"""Codec: event data as bytes and back in msgpack, and the choice among codecs; the only importer of msgpack.

Nearly all data is text-keyed dicts, lists and scalars: ormsgpack reads and writes these in half of msgpack's time. What
it refuses (models, times, ext values, keys that are no text) goes through msgpack, which also says what is wrong.
Encoding refuses what could not be read back and names its place ("data['user']"). Decoding is total and bounded:
whatever the bytes are, it ends in data or in DecodeError, after work in proportion to their number. docs/wire.md
has the exact bytes.
"""

import re
from collections import deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from enum import IntEnum
from gc import is_tracked
from itertools import chain, repeat
from types import NoneType
from typing import Any
from uuid import UUID

import msgpack  # type: ignore[import-untyped]
import ormsgpack

from pipeline.errors import DecodeError, UsageError
from pipeline.limits import DEFAULT_LIMITS, Limits
from pipeline.plain import Rules, Unsendable, plain, refused, scalar


class Codec(IntEnum):
    """How the data of an event is written; the numbers are those of the wire."""

    MSGPACK = 1
    JSON = 2
    FIELDS = 3
    TASK = 4
    """What a list held (pipeline/task.py): JSON, text or msgpack, as its bytes tell. No producer writes it."""
    TASK_TEXT = 5
    TASK_JSON = 6
    TASK_MSGPACK = 7

    @classmethod
    def named(cls, name: str) -> "Codec":
        """The codec that options and the command line call msgpack, json or fields.

        Raises:
            UsageError: no such codec.
        """
        sent = {codec.name.lower(): codec for codec in (cls.MSGPACK, cls.JSON, cls.FIELDS)}
        if name not in sent:
            raise UsageError(f"codec={name!r}: one of {', '.join(sent)}")
        return sent[name]


EXT_LOCAL_TIME = 1
"""A datetime without a zone: signed 64 bit big-endian microseconds since 1970-01-01T00:00:00 on the same clock."""
EXT_DECIMAL = 2
"""A Decimal: ASCII text."""
EXT_UUID = 3
"""A UUID: its 16 bytes."""

SCALARS: frozenset[type] = frozenset({str, int, float, bool, NoneType, bytes})
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LOCAL_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - the zero of times without a zone
_MICROSECOND = timedelta(microseconds=1)
_DECIMAL = re.compile(rb"-?(?:[0-9]+(?:\.[0-9]*)?(?:E[+-]?[0-9]+)?|Infinity|NaN[0-9]*)")

# What ormsgpack would write in a form of its own is left to the rules of plain.py.
_PLAIN_ONLY = (
    ormsgpack.OPT_PASSTHROUGH_DATACLASS
    | ormsgpack.OPT_PASSTHROUGH_DATETIME
    | ormsgpack.OPT_PASSTHROUGH_ENUM
    | ormsgpack.OPT_PASSTHROUGH_SUBCLASS
    | ormsgpack.OPT_PASSTHROUGH_UUID
)

EXACT = _PLAIN_ONLY | ormsgpack.OPT_PASSTHROUGH_TUPLE
pack_exact: Callable[[Any, None, int], bytes] = ormsgpack.packb
"""pack_exact(value, None, EXACT): dicts, lists and scalars as pack() writes them, but of no derived type, which may
hold more than it shows; TypeError for all else. The C function itself, for who calls it in the application's thread."""

# A Packer must not be used by two threads at a time, nor by a finalizer that logs in the midst of it: each use
# takes one out of the pool.
_packers: deque[msgpack.Packer] = deque(maxlen=16)


def pack(value: Any) -> bytes:
    """Plain dicts, lists, scalars and ext values as msgpack, in the shortest form of each.

    Raises:
        ValueError, OverflowError, TypeError: lone surrogates, ints beyond 64 bits, other types.
    """
    try:
        packer = _packers.pop()
    except IndexError:
        packer = msgpack.Packer()
    packed: bytes = packer.pack(value)
    _packers.append(packer)
    return packed


def unpack(raw: bytes, limits: Limits = DEFAULT_LIMITS) -> Any:
    """A msgpack value, as it stands: depth, repeated keys and bytes behind it are the caller's to check.

    Raises:
        DecodeError: no valid value, or more than max_values.
    """
    try:
        if len(raw) > limits.max_values:  # a value is a byte or more
            check_values(raw, limits.max_values)
        try:
            return ormsgpack.unpackb(raw)
        except ValueError:
            return msgpack.unpackb(raw, timestamp=3, ext_hook=_ext)
    except DecodeError:
        raise
    except Exception as error:  # noqa: BLE001 - msgpack raises eight kinds, and MemoryError is one of them
        raise DecodeError(f"not valid msgpack: {_short(error)}") from None


def pack_fields(fields: Sequence[bytes]) -> bytes:
    """Byte strings as a msgpack array of raw strings: the server's cmsgpack, which unpacks it, knows no bin type."""
    packed: bytes = msgpack.packb(list(fields), use_bin_type=False)
    return packed


def unpack_fields(raw: bytes) -> list[bytes]:
    """The byte strings of pack_fields.

    Raises:
        DecodeError: not an array of byte strings.
    """
    try:
        fields = msgpack.unpackb(raw, raw=True)
    except Exception as error:  # noqa: BLE001 - as in unpack
        raise DecodeError(f"not valid msgpack: {_short(error)}") from None
    if type(fields) is not list or not all(type(field) is bytes for field in fields):
        raise DecodeError("not an array of byte strings")
    return fields


def unpack_record(raw: bytes) -> Any:
    """One msgpack value of our own making (a header, an envelope), whose maps repeat no key.

    Raises:
        DecodeError: not exactly one valid value, or a repeated key.
    """
    try:
        return msgpack.unpackb(raw, object_pairs_hook=unique)
    except DecodeError:
        raise
    except Exception as error:  # noqa: BLE001 - as in unpack
        raise DecodeError(f"not valid msgpack: {_short(error)}") from None


def array_of(items: Sequence[bytes]) -> bytes:
    """The msgpack array of values that are packed already."""
    count = len(items)
    if count < 16:
        start = bytes((0x90 | count,))
    elif count < 1 << 16:
        start = b"\xdc" + count.to_bytes(2, "big")
    else:
        start = b"\xdd" + count.to_bytes(4, "big")
    return start + b"".join(items)


def encode_msgpack(data: Any, limits: Limits = DEFAULT_LIMITS) -> bytes:
    """Event data as msgpack.

    Raises:
        EncodeError: something in it cannot be sent; the message names where and what.
    """
    # Flat: no depth to be looked at. What the garbage collector does not track holds no containers, which is known
    # without looking at each value (CPython below 3.14; later it tracks all).
    if type(data) is dict and (not is_tracked(data) or SCALARS.issuperset(map(type, data.values()))):
        try:
            return pack_exact(data, None, EXACT)
        except TypeError:
            pass  # a key or value that is written by the rules, or cannot be sent at all
    try:
        return pack(plain(data, limits.max_depth, MSGPACK_RULES))
    except Exception as error:
        raise refused(data, error, _write, limits.max_depth) from error


def encode_flat(rows: list[Any]) -> bytes | None:
    """The msgpack array of rows that are all flat dicts of scalars, in one step of C; None if any is not."""
    try:
        return pack_exact(rows, None, EXACT) if _all_flat(rows) else None
    except TypeError:  # a key that is no text, a value that cannot be sent
        return None


def encode_each(rows: list[Any]) -> list[bytes] | None:
    """The msgpack of each row, without a step of Python per row; None if any is no flat dict of scalars."""
    try:
        return list(map(pack_exact, rows, repeat(None), repeat(EXACT))) if _all_flat(rows) else None
    except TypeError:  # as in encode_flat
        return None


def decode_msgpack(raw: bytes, limits: Limits = DEFAULT_LIMITS) -> Any:
    """Event data from msgpack.

    Raises:
        DecodeError: corrupt, nested deeper than max_depth, a repeated key or one that is not text.
    """
    if len(raw) <= limits.max_values:
        # A flat dict that is written to the same bytes again is all that it should be: most events end here.
        try:
            data = ormsgpack.unpackb(raw)
            if (
                type(data) is dict
                and SCALARS.issuperset(map(type, data.values()))
                and ormsgpack.packb(data, None, _PLAIN_ONLY) == raw
            ):
                return data
        except (ValueError, TypeError):
            pass
    data = unpack(raw, limits)
    flat = type(data) in SCALARS or (type(data) is dict and SCALARS.issuperset(map(type, data.values())))
    _check_written_once(raw, data, limits.max_depth, flat=flat)
    return data


def decode_items(raw: bytes, limits: Limits, *, records: bool) -> list[Any]:
    """The array of a pack: each event's data, or with records=True each event's list that begins with its data.

    Raises:
        DecodeError: as decode_msgpack.
    """
    items = unpack(raw, limits)
    if type(items) is not list:
        raise DecodeError("the body of a pack is not an array")
    if not records:
        _check_written_once(raw, items, limits.max_depth + 1, flat=_all_flat(items))
        return items
    if not all(type(item) is list and item for item in items):
        raise DecodeError("a record of a pack is not an array that begins with an event's data")
    # The other elements of a record are checked one by one by whoever reads them.
    flat = _all_flat([item[0] for item in items]) and SCALARS.issuperset(
        map(type, chain.from_iterable(item[1:] for item in items))
    )
    _check_written_once(raw, items, limits.max_depth + 2, flat=flat)
    return items


def _all_flat(items: Sequence[Any]) -> bool:
    """True if every item is a dict of scalars; found out without a step of Python per item."""
    try:
        if not any(map(is_tracked, items)):  # as in encode_msgpack
            return set(map(type, items)) == {dict}
        return SCALARS.issuperset(map(type, chain.from_iterable(map(dict.values, items))))
    except TypeError:
        return False


def _check_written_once(raw: bytes, data: Any, max_depth: int, *, flat: bool) -> None:
    """Refuse what is nested too deep, repeats a key of a map (readers keep the last of them unasked), or goes on.

    Writing what was read gives the same bytes again only if no key was dropped; other writers' longer forms give
    other bytes, and are then read once more with an eye on every map and on the end.
    """
    try:
        if flat:
            try:
                if ormsgpack.packb(data, option=_PLAIN_ONLY) == raw:
                    return
            except TypeError:
                pass  # a key that is no text
        if pack(plain(data, max_depth, MSGPACK_RULES)) != raw:
            msgpack.unpackb(raw, timestamp=3, ext_hook=_ext, object_pairs_hook=unique)
    except DecodeError:
        raise
    except TypeError:
        raise DecodeError("a key of a map is not text") from None
    except Exception as error:  # noqa: BLE001 - decoding is total
        raise DecodeError(f"not valid event data: {_short(error)}") from None


def unique(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    """A map's pairs as a dict.

    Raises:
        DecodeError: a key stands there twice, so that two readers might see two values.
    """
    found = dict(pairs)
    if len(found) != len(pairs):
        raise DecodeError("a map has the same key twice")
    return found


def _leaf(value: Any) -> Any:
    if isinstance(value, datetime):
        if value.utcoffset() is None:
            passed = value.replace(tzinfo=None) - _LOCAL_EPOCH
            return msgpack.ExtType(EXT_LOCAL_TIME, (passed // _MICROSECOND).to_bytes(8, "big", signed=True))
        try:
            passed = value.astimezone(UTC) - _EPOCH
        except OverflowError:
            raise Unsendable(f"the time {value} lies outside the years 1 to 9999 in UTC") from None
        return msgpack.Timestamp(passed.days * 86_400 + passed.seconds, passed.microseconds * 1_000)
    if isinstance(value, Decimal):
        if value.is_snan():
            raise Unsendable("a signaling NaN cannot be sent")
        return msgpack.ExtType(EXT_DECIMAL, Decimal.__str__(value).encode())
    if isinstance(value, UUID):
        return msgpack.ExtType(EXT_UUID, value.bytes)
    return scalar(value)


MSGPACK_RULES = Rules(SCALARS, _leaf)


def _write(value: Any, depth: int) -> bytes:
    return pack(plain(value, depth, MSGPACK_RULES))


def _ext(code: int, raw: bytes) -> Any:
    if code == EXT_LOCAL_TIME and len(raw) == 8:
        return _LOCAL_EPOCH + timedelta(microseconds=int.from_bytes(raw, "big", signed=True))
    if code == EXT_DECIMAL and _DECIMAL.fullmatch(raw):
        number = Decimal(raw.decode())
        if (
            not number.is_nan() or b"N" in raw
        ):  # an exponent out of range is NaN in a context that does not trap
            return number
    if code == EXT_UUID and len(raw) == 16:
        return UUID(bytes=raw)
    raise DecodeError(f"an ext value of type {code} and {len(raw):,} bytes is not one of event data")


def check_values(raw: bytes, most: int) -> None:
    """Count values without making any; a string is one step, whatever its length.

    Raises:
        DecodeError: there are more than `most`.
    """
    position, end, count = 0, len(raw), 0
    while position < end:
        count += 1
        if count > most:
            raise DecodeError(f"the body holds more than max_values={most:,} values")
        first = raw[position]
        position += 1 + _FIXED_BYTES[first]
        width = _LENGTH_BYTES[first]
        if width:
            position += int.from_bytes(raw[position - width : position], "big") + _EXT_BYTES[first]


# Per first byte: the bytes that follow it in any case, and how many of them are the length of what follows then.
_FIXED_BYTES = [0] * 256
_LENGTH_BYTES = [0] * 256
_EXT_BYTES = [0] * 256
for _byte in range(0xA0, 0xC0):
    _FIXED_BYTES[_byte] = _byte - 0xA0
for _byte, _bytes in ((0xCA, 4), (0xCB, 8), (0xCC, 1), (0xCD, 2), (0xCE, 4), (0xCF, 8), (0xD0, 1), (0xD1, 2),
                      (0xD2, 4), (0xD3, 8), (0xD4, 2), (0xD5, 3), (0xD6, 5), (0xD7, 9), (0xD8, 17),
                      (0xDC, 2), (0xDD, 4), (0xDE, 2), (0xDF, 4)):  # fmt: skip
    _FIXED_BYTES[_byte] = _bytes
for _byte, _bytes in ((0xC4, 1), (0xC5, 2), (0xC6, 4), (0xC7, 1), (0xC8, 2), (0xC9, 4),
                      (0xD9, 1), (0xDA, 2), (0xDB, 4)):  # fmt: skip
    _FIXED_BYTES[_byte] = _LENGTH_BYTES[_byte] = _bytes
    _EXT_BYTES[_byte] = 1 if 0xC7 <= _byte <= 0xC9 else 0


def _short(error: Exception) -> str:
    text = str(error) or type(error).__name__
    return text if len(text) <= 200 else text[:199] + "…"
