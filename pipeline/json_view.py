"""json_view: any event data as JSON can show it, for eyes and archives. One way: text does not say what it was."""

from base64 import b64encode
from collections.abc import Mapping
from datetime import datetime
from typing import Any


def json_view(value: Any) -> Any:
    """The value as JSON knows it: bytes as text or base64, times as ISO, keys as text, infinities as text."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if value - value == 0 else str(value)
    if isinstance(value, bytes | bytearray | memoryview):
        raw = bytes(value)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return {"base64": b64encode(raw).decode()}
    if isinstance(value, Mapping):
        return {_key(key): json_view(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [json_view(item) for item in value]
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value)


def _key(key: object) -> str:
    if isinstance(key, bytes):
        return key.decode("utf-8", "backslashreplace")
    return key if isinstance(key, str) else str(key)
