"""Text codecs: event data as JSON, or as plain field/value pairs, for readers that do not know msgpack.

Both write times, Decimals and UUIDs as text and refuse bytes, NaN and infinity, which JSON does not have. Decoding is
total and bounded as in codec.py. An entry that Millstream did not write is read here too: its fields are its data.
"""

import json
from datetime import UTC, datetime
from decimal import Decimal
from math import isfinite
from types import NoneType
from typing import Any
from uuid import UUID

from pipeline.codec import unique
from pipeline.errors import DecodeError, EncodeError
from pipeline.limits import DEFAULT_LIMITS, Limits
from pipeline.plain import Rules, Unsendable, plain, refused, scalar


def _leaf(value: Any) -> Any:
    if isinstance(value, datetime):
        return (value.astimezone(UTC) if value.utcoffset() is not None else value).isoformat()
    if isinstance(value, Decimal | UUID):
        return str(value)
    found = scalar(value)
    if isinstance(found, bytes):
        raise Unsendable("bytes cannot be sent as JSON or as fields; send base64 text, or use codec=msgpack")
    if isinstance(found, float) and not isfinite(found):
        raise Unsendable(f"{found} cannot be sent as JSON or as fields; use codec=msgpack")
    if isinstance(found, int) and not -(1 << 63) <= found < 1 << 64:
        raise OverflowError
    return found


# Numbers are no scalars here: each is checked for its range.
JSON_RULES = Rules(frozenset({str, bool, NoneType}), _leaf)
_dumps = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, check_circular=False, separators=(",", ":")
).encode


def _write(value: Any, depth: int) -> bytes:
    return _dumps(plain(value, depth, JSON_RULES)).encode()


def encode_json(data: Any, limits: Limits = DEFAULT_LIMITS) -> bytes:
    """Event data as JSON in UTF-8, without spaces.

    Raises:
        EncodeError: something in it cannot be sent as JSON; the message names where and what.
    """
    try:
        return _write(data, limits.max_depth)
    except Exception as error:
        raise refused(data, error, _write, limits.max_depth) from error


def json_value(data: Any, limits: Limits = DEFAULT_LIMITS) -> Any:
    """Event data as the dicts, lists and scalars that its JSON says.

    Raises:
        EncodeError: as encode_json.
    """
    encode_json(data, limits)
    return plain(data, limits.max_depth, JSON_RULES)


def decode_json(raw: bytes, limits: Limits = DEFAULT_LIMITS) -> Any:
    """Event data from JSON.

    Raises:
        DecodeError: not JSON in UTF-8, NaN or infinity, a repeated key, a lone surrogate, or nested too deep.
    """
    if len(raw) > limits.max_entry_bytes:
        raise DecodeError(f"JSON of {len(raw):,} bytes exceeds max_entry_bytes={limits.max_entry_bytes:,}")
    try:
        data = _DECODER.decode(raw.decode())
        if raw.count(b"[") + raw.count(b"{") > limits.max_depth:
            _check_depth(data, limits.max_depth)
        if b"\\u" in raw:
            _dumps(data).encode()  # raises on a lone surrogate, which would crash whoever writes it next
    except DecodeError:
        raise
    except Exception as error:  # noqa: BLE001 - RecursionError and MemoryError are DecodeErrors too
        raise DecodeError(f"not valid JSON: {type(error).__name__}: {str(error)[:200]}") from None
    return data


def _no_constant(name: str) -> None:
    raise DecodeError(f"{name} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not isfinite(number):
        raise DecodeError(f"the number {text[:40]} is out of range")
    return number


_DECODER = json.JSONDecoder(object_pairs_hook=unique, parse_constant=_no_constant, parse_float=_finite)


def _check_depth(data: Any, most: int) -> None:
    level = [data]
    for _ in range(most):
        level = [
            child
            for value in level
            if type(value) is dict or type(value) is list
            for child in (value.values() if type(value) is dict else value)
            if type(child) is dict or type(child) is list
        ]
        if not level:
            return
    raise DecodeError(f"the data is nested deeper than max_depth={most}")


def encode_fields(data: Any, limits: Limits = DEFAULT_LIMITS) -> list[bytes]:
    """A dict as fields: text as it is, times, Decimals and UUIDs as their text, everything else as JSON.

    Raises:
        EncodeError: not a dict, or something in it cannot be sent as JSON.
    """
    try:
        pairs = plain(data, limits.max_depth, JSON_RULES)
        if type(pairs) is not dict:
            raise EncodeError(
                f"data: codec=fields sends a dict, not {type(data).__name__}; use msgpack or json"
            )
        written: list[bytes] = []
        for name, value in pairs.items():
            written += (name.encode(), value.encode() if type(value) is str else _dumps(value).encode())
    except EncodeError:
        raise
    except Exception as error:
        raise refused(data, error, _write, limits.max_depth) from error
    return written


def decode_fields(fields: list[bytes]) -> dict[str, str]:
    """Data from fields that encode_fields wrote: the values are text, whatever they were.

    Raises:
        DecodeError: not UTF-8, or a repeated name.
    """
    try:
        return unique([(fields[i].decode(), fields[i + 1].decode()) for i in range(0, len(fields), 2)])
    except UnicodeDecodeError as error:
        raise DecodeError(f"a field is not UTF-8: {error.reason}") from None


def decode_foreign(fields: list[bytes]) -> dict[Any, Any]:
    """Data of an entry Millstream did not write: names and values as text where they are UTF-8, else as bytes.

    The values of a name that occurs more than once become a list, in their order: nothing is dropped.
    """
    data: dict[Any, Any] = {}
    repeated: set[Any] = set()
    for index in range(0, len(fields), 2):
        name, value = _text(fields[index]), _text(fields[index + 1])
        if name not in data:
            data[name] = value
        elif name in repeated:
            data[name].append(value)
        else:
            repeated.add(name)
            data[name] = [data[name], value]
    return data


def _text(raw: bytes) -> str | bytes:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw
