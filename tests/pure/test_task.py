"""What a list's payload is read as, and written as: what old producers and workers agree on, and nothing guessed."""

from typing import Any

import pytest

from pipeline.codec import Codec, encode_msgpack
from pipeline.errors import DecodeError, EncodeError, EventTooLargeError, UsageError
from pipeline.keys import ListKeys, slot_of, stream_of
from pipeline.list_options import ListOptions
from pipeline.task import PAYLOADS, decode_task, encode_task, function_of, payload_codec


@pytest.mark.parametrize(
    ("payload", "data"),
    [
        (b'{"function": "send", "args": [7]}', {"function": "send", "args": [7]}),
        (b" [1, 2]", [1, 2]),
        (b"{not JSON", "{not JSON"),
        (b"7", "7"),
        ("späť".encode(), "späť"),
        (b"", ""),
        (encode_msgpack({"id": 200, "raw": b"\xff"}), {"id": 200, "raw": b"\xff"}),
    ],
)
def test_the_bytes_of_a_payload_tell_what_it_is(payload: bytes, data: Any) -> None:
    """With payload=auto: JSON objects and arrays, text, msgpack maps and arrays."""
    assert decode_task(payload) == data


@pytest.mark.parametrize(
    ("name", "payload"),
    [
        ("auto", b"\xff\xfe"),
        ("auto", b"\xcd\xff\xff"),
        ("json", b"{"),
        ("text", b"\xff"),
        ("msgpack", b"\xc1"),
    ],
)
def test_what_is_of_no_known_format_is_a_decode_error(name: str, payload: bytes) -> None:
    """Nothing is guessed: it becomes a dead letter."""
    with pytest.raises(DecodeError):
        decode_task(payload, payload_codec(name))


@pytest.mark.parametrize("name", PAYLOADS)
def test_what_is_pushed_is_read_again(name: str) -> None:
    """Each format reads what it wrote."""
    codec = payload_codec(name)
    data = "text" if name == "text" else {"id": 7, "of": ["a", None, 1.5]}
    assert decode_task(encode_task(data, codec), codec) == data


def test_what_old_workers_could_not_read_is_refused() -> None:
    """Data that a format does not have, and what is too large."""
    with pytest.raises(EncodeError, match="payload=text"):
        encode_task({"id": 7}, Codec.TASK_TEXT)
    with pytest.raises(EncodeError, match="bytes"):
        encode_task({"raw": b"\xff"})
    with pytest.raises(EventTooLargeError, match="max_entry_bytes"):
        encode_task("x" * (1 << 20) + "x")


def test_only_a_named_function_is_one() -> None:
    """Other data has no type."""
    assert function_of({"function": "send", "args": []}) == "send"
    assert function_of({"function": 7}) == function_of(["function"]) == function_of("send") == ""


@pytest.mark.parametrize("name", ["emails", "prod:emails", "{shop}:emails"])
def test_all_keys_of_a_list_share_its_slot_and_none_is_an_old_workers(name: str) -> None:
    """One script may use them all, and an old recoverer's `processing:*` meets none."""
    keys = ListKeys(name)
    ours = [
        keys.stream,
        keys.hand,
        keys.due,
        keys.seen,
        keys.bridge("b"),
        keys.position("b"),
        keys.producer("p"),
    ]
    assert {slot_of(key) for key in ours} == {slot_of(keys.list)}
    assert not any(key.startswith("processing") for key in ours)
    assert all(stream_of(key) for key in ours[1:]), "they are known as keys beside a stream"


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": ""},
        {"name": "a{b"},
        {"name": "emails", "push": "top"},
        {"name": "emails", "order": "random"},
        {"name": "emails", "payload": "pickle"},
        {"name": "emails", "format": "old"},
        {"name": "emails", "old_timeout_ms": 10},
        {"name": "scheduled"},
        {"name": "processing", "old_processing": "processing"},
    ],
)
def test_a_layout_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    """With what was given, and what is allowed."""
    with pytest.raises(UsageError):
        ListOptions(**wrong)


def test_the_next_task_stands_at_the_end_that_the_order_says() -> None:
    """LPUSH and RPOP is first in, first out; LPUSH and LPOP is last in, first out."""
    assert ListOptions(name="q").take == "right"
    assert ListOptions(name="q", push="right").take == "left"
    assert ListOptions(name="q", order="lifo").take == "left"
