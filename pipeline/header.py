"""Header: the field `h` of an entry, which says what the entry holds and how its body is to be read.

One magic byte and a msgpack array: version, kind, codec, compression, count, producer, number, type, key, time_ms,
headers, id; nils at its end are left out. docs/wire.md has the exact bytes.
"""

from collections.abc import Sequence
from functools import lru_cache
from struct import Struct
from typing import Final, TypeAlias

from pipeline.codec import pack, unpack_record
from pipeline.errors import DecodeError, EncodeError, EventTooLargeError, UnknownFormatError
from pipeline.limits import Limits

MAGIC: Final = b"\xc1"
"""The first byte of `h`: no msgpack value and no UTF-8 text begins with it."""
VERSION: Final = 1

SINGLE: Final = 0
"""Kind: the body is one event's data."""
PACK: Final = 1
"""Kind: the body is an array of the events' data; all else is the header's."""
RECORDS: Final = 2
"""Kind: the body is an array of [data, time_delta_ms, type, key, headers]; nil is the header's."""

UNCOMPRESSED: Final = 0
ZSTD: Final = 1

MIN_TIME_MS: Final = -62_135_596_800_000
MAX_TIME_MS: Final = 253_402_300_799_999
"""The years 1 to 9999: what a datetime can hold, in ms since 1970."""

TIME_BYTES: Final = 9
"""What a header grows by when an event's time, until then its entry's, is written into it (encode_again)."""

Headers: TypeAlias = tuple[tuple[str, str], ...]
# Plain and positional: a header is read for every entry, and a named tuple would double what that costs.
# kind, codec, compression, count, producer, number, type, key, time_ms, headers, id
Header: TypeAlias = tuple[int, int, int, int, str, int, str, str, int | None, Headers, str]

_KNOWN = frozenset(
    (kind, codec, compression)
    for kind, codec, compression in (
        *((SINGLE, codec, compression) for codec in (1, 2) for compression in (UNCOMPRESSED, ZSTD)),
        *((SINGLE, codec, UNCOMPRESSED) for codec in (3, 4, 5, 6, 7)),
        *((kind, 1, compression) for kind in (PACK, RECORDS) for compression in (UNCOMPRESSED, ZSTD)),
    )
)
_ELEMENTS = 12
_REQUIRED = 7
_ABSENT: tuple[list[None], ...] = tuple([None] * (_ELEMENTS - given) for given in range(_ELEMENTS + 1))


def write_header(
    kind: int,
    codec: int,
    compression: int,
    count: int,
    producer: str,
    number: int,
    type_: str,
    key: str,
    time_ms: int | None,
    headers: dict[str, str] | None,
    event_id: str,
    limits: Limits,
) -> bytes:
    """The field `h`.

    Raises:
        EncodeError: a text that is not valid Unicode. EventTooLargeError: longer than max_header_bytes.
    """
    if headers or event_id:
        array = [
            VERSION, kind, codec, compression, count, producer, number,
            type_ or None, key or None, time_ms, headers or None, event_id or None,
        ]  # fmt: skip
    elif time_ms is not None:
        array = [
            VERSION,
            kind,
            codec,
            compression,
            count,
            producer,
            number,
            type_ or None,
            key or None,
            time_ms,
        ]
    elif type_ or key:
        array = [VERSION, kind, codec, compression, count, producer, number, type_ or None, key or None]
    else:
        array = [VERSION, kind, codec, compression, count, producer, number]
    while array[-1] is None:
        array.pop()
    try:
        header = MAGIC + pack(array)
    except (ValueError, TypeError, OverflowError) as error:
        raise EncodeError(f"type, key, id or a header cannot be sent: {error}") from error
    if len(header) > limits.max_header_bytes - TIME_BYTES:
        raise EventTooLargeError(
            f"type, key, id and headers of {len(header):,} bytes exceed max_header_bytes={limits.max_header_bytes:,}"
        )
    return header


class SingleHeaders:
    """Writes the headers of one producer's single events: all but number, type, key and time is written once."""

    __slots__ = ("_codec", "_limits", "_producer", "_starts")

    def __init__(self, producer: str, codec: int, limits: Limits) -> None:
        self._producer = producer
        self._codec = codec
        self._limits = limits
        same = b"".join(map(pack, (VERSION, SINGLE, codec, UNCOMPRESSED, 1, producer)))
        self._starts = [MAGIC + bytes((0x90 | elements,)) + same for elements in (7, 8, 9, 10)]

    def write(self, number: int, type_: str = "", key: str = "", time_ms: int | None = None) -> bytes:
        """The field `h` of the event with this number; the bytes are those of write_header.

        Raises:
            EncodeError, EventTooLargeError: as write_header.
        """
        raw = _UINT32(0xCE, number) if 0xFFFF < number < 1 << 32 else pack(number)
        if not type_ and not key and time_ms is None:
            return self._starts[0] + raw
        if len(type_) + len(key) > _SHORT_TEXT:
            return write_header(
                SINGLE, self._codec, UNCOMPRESSED, 1, self._producer, number, type_, key, time_ms, None, "",
                self._limits,
            )  # fmt: skip
        try:
            if time_ms is not None:
                return self._starts[3] + raw + _packed_text(type_) + pack(key or None) + pack(time_ms)
            if key:
                return self._starts[2] + raw + _packed_text(type_) + pack(key)
            return self._starts[1] + raw + _packed_text(type_)
        except ValueError as error:
            raise EncodeError(f"type, key, id or a header cannot be sent: {error}") from error

    def write_each(self, numbers: Sequence[int], type_: str = "", key: str = "") -> list[bytes]:
        """The headers of events that are alike but for their numbers."""
        one = self.write(numbers[0], type_, key)
        if len(numbers) == 1 or min(numbers) <= 0xFFFF or max(numbers) >= 1 << 32:
            return [self.write(number, type_, key) for number in numbers]
        start, _, end = one.partition(_UINT32(0xCE, numbers[0]))
        if not end:
            return [start + _UINT32(0xCE, number) for number in numbers]
        return [start + _UINT32(0xCE, number) + end for number in numbers]


_UINT32 = Struct(">BI").pack
_SHORT_TEXT = 4_096
"""A header with no more text than this, in characters, is within every limit of its size."""


@lru_cache(maxsize=1_024)
def _packed_text(text: str) -> bytes:
    """Text that comes again and again: the types of an application are few."""
    return pack(text or None)


def read_header(raw: bytes, limits: Limits) -> Header:
    """The elements of the field `h`, each of its type and in its range.

    Raises:
        UnknownFormatError: a version, kind, codec or compression, or an element, that this version does not know.
        DecodeError: anything else that is wrong.
    """
    if len(raw) > limits.max_header_bytes:
        raise DecodeError(
            f"a header of {len(raw):,} bytes exceeds max_header_bytes={limits.max_header_bytes:,}"
        )
    array = unpack_record(raw[1:])
    if type(array) is not list or not array or type(array[0]) is not int:
        raise DecodeError("the header is not an array that begins with its version")
    given = len(array)
    if array[0] != VERSION:
        raise UnknownFormatError(
            f"the entry is of version {array[0]}; this Millstream reads version {VERSION}: upgrade it"
        )
    if given < _REQUIRED:
        raise DecodeError(f"the header has {given} elements; {_REQUIRED} are required")
    if given > _ELEMENTS:
        raise UnknownFormatError(
            f"the header has {given} elements; this Millstream knows {_ELEMENTS}: upgrade it"
        )
    _, kind, codec, compression, count, producer, number, type_, key, time_ms, headers, event_id = (
        array + _ABSENT[given]
    )
    if not (type(kind) is type(codec) is type(compression) is int):
        raise DecodeError("the header's kind, codec and compression are not integers")
    if (kind, codec, compression) not in _KNOWN:
        raise UnknownFormatError(
            f"the entry is of kind {kind}, codec {codec}, compression {compression}, which this Millstream does not "
            "know: upgrade it"
        )
    if not (type(count) is type(number) is int and type(producer) is str and producer) or number < 0:
        raise DecodeError("the header's count, producer or number is not what it should be")
    if count != 1 if kind == SINGLE else not 1 <= count <= limits.max_read_pack_events:
        raise DecodeError(
            f"the header says {count:,} events; one, or 1 to {limits.max_read_pack_events:,} in a pack, are accepted"
        )
    if time_ms is not None:
        check_time(time_ms)
    if event_id is None:
        event_id = ""
    elif type(event_id) is not str or kind != SINGLE:
        raise DecodeError("the header's id is not text, or that of a pack")
    return (
        kind, codec, compression, count, producer, number,
        "" if type_ is None else check_text(type_), "" if key is None else check_text(key),
        time_ms, () if headers is None else check_headers(headers), event_id,
    )  # fmt: skip


def check_text(value: object) -> str:
    """The value, if it is text. Raises: DecodeError."""
    if type(value) is not str:
        raise DecodeError("a type or key is not text")
    return value


def check_time(value: object) -> int:
    """The value, if it is a time in ms since 1970, of the years 1 to 9999. Raises: DecodeError."""
    if type(value) is not int or not MIN_TIME_MS <= value <= MAX_TIME_MS:
        raise DecodeError("a time is not ms since 1970 in the years 1 to 9999")
    return value


def check_headers(value: object) -> Headers:
    """The pairs of the value, if it is a map of text to text. Raises: DecodeError."""
    if type(value) is not dict or not all(type(k) is type(v) is str for k, v in value.items()):
        raise DecodeError("headers are not a map of text to text")
    return tuple(value.items())
