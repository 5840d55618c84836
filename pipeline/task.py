"""Task: what a list queue holds, as old producers push it: text, JSON or msgpack, perhaps a function's name and args.

Old systems agree on no format, so by default the bytes tell: what is JSON for an object or an array is that, what is
UTF-8 is text, what is a msgpack map or array is that. Nothing else is guessed: it is a DecodeError, and a dead letter.
"""

from typing import Any

from pipeline.codec import Codec, decode_msgpack, encode_msgpack
from pipeline.errors import DecodeError, EncodeError, EventTooLargeError, UsageError
from pipeline.limits import DEFAULT_LIMITS, Limits
from pipeline.text_codecs import decode_json, encode_json

PAYLOADS = {
    "auto": Codec.TASK,
    "text": Codec.TASK_TEXT,
    "json": Codec.TASK_JSON,
    "msgpack": Codec.TASK_MSGPACK,
}
"""What options call the formats of payloads, and what the header of an entry calls them."""


def payload_codec(name: str) -> Codec:
    """The codec of a format's name. Raises: UsageError."""
    if name not in PAYLOADS:
        raise UsageError(f"payload={name!r}: one of {', '.join(PAYLOADS)}")
    return PAYLOADS[name]


def decode_task(payload: bytes, codec: Codec = Codec.TASK, limits: Limits = DEFAULT_LIMITS) -> Any:
    """The data of a payload.

    Raises:
        DecodeError: it is not of this format; with Codec.TASK, of none.
    """
    if len(payload) > limits.max_entry_bytes:
        raise DecodeError(
            f"a payload of {len(payload):,} bytes exceeds max_entry_bytes={limits.max_entry_bytes:,}"
        )
    if codec == Codec.TASK_JSON:
        return decode_json(payload, limits)
    if codec == Codec.TASK_MSGPACK:
        return decode_msgpack(payload, limits)
    if codec == Codec.TASK and payload.lstrip()[:1] in (b"{", b"["):
        try:
            return decode_json(payload, limits)
        except DecodeError:
            pass  # text that begins like JSON
    try:
        return payload.decode()
    except UnicodeDecodeError as error:
        if codec == Codec.TASK_TEXT:
            raise DecodeError(f"the payload is not UTF-8: {error.reason} at byte {error.start}") from None
    try:
        data = decode_msgpack(payload, limits)
    except DecodeError as error:
        raise DecodeError(f"the payload is neither JSON nor UTF-8 text nor msgpack ({error})") from None
    if not isinstance(data, dict | list):
        raise DecodeError("the payload is neither JSON nor UTF-8 text, and no msgpack map or array")
    return data


def encode_task(data: Any, codec: Codec = Codec.TASK, limits: Limits = DEFAULT_LIMITS) -> bytes:
    """The payload that old workers read: bytes as they are, text as UTF-8, everything else as JSON or msgpack.

    Raises:
        EncodeError: data that cannot be sent so. EventTooLargeError: more than max_entry_bytes.
    """
    if isinstance(data, bytes):
        payload = data
    elif codec == Codec.TASK_MSGPACK:
        payload = encode_msgpack(data, limits)
    elif isinstance(data, str) and codec != Codec.TASK_JSON:
        try:
            payload = data.encode()
        except UnicodeEncodeError as error:
            raise EncodeError(f"data: text that is not valid Unicode ({error.reason})") from None
    elif codec == Codec.TASK_TEXT:
        raise EncodeError(f"data: payload=text sends str or bytes, not {type(data).__name__}")
    else:
        payload = encode_json(data, limits)
    if len(payload) > limits.max_entry_bytes:
        raise EventTooLargeError(
            f"a payload of {len(payload):,} bytes exceeds max_entry_bytes={limits.max_entry_bytes:,}"
        )
    return payload


def function_of(data: Any) -> str:
    """The name of the function that a task asks for (`{"function": name, "args": […]}`); empty for other data."""
    name = data.get("function") if type(data) is dict else None
    return name if type(name) is str else ""
