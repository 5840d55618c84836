"""Seeds: inputs to begin with, made by the writers whose readers are fuzzed."""

import json
from datetime import UTC, datetime
from decimal import Decimal
from uuid import UUID

import zstandard

from pipeline.codec import Codec, encode_msgpack, pack
from pipeline.envelope import Again, DeadLetter, again_fields, dead_fields, retry_body
from pipeline.event import Event
from pipeline.replayed import Replayed
from pipeline.wire import encode_entry, encode_pack
from tests.fuzz.draw import joined

DATA = [
    {"id": 7, "name": "ä", "ok": True, "none": None, "share": 0.5, "raw": b"\xff"},
    [1, -1, 2**63, [{"a": [[]]}]],
    {"t": datetime(2026, 1, 2, 3, 4, 5, 6, UTC), "l": datetime(2026, 1, 2), "d": Decimal("1.50"), "u": UUID(int=5)},  # noqa: DTZ001
    "text", 3, None,
]  # fmt: skip


def seeds() -> dict[str, list[bytes]]:
    """By target."""
    sent = [
        Event(data, type="order.placed", key="k", time_ms=5, headers={"traceparent": "x"}) for data in DATA
    ]
    singles = [encode_entry(event, producer="p", number=9) for event in sent]
    singles += [
        encode_entry(Event({"a": "b"}, id="e"), producer="p", number=1, codec=codec) for codec in Codec
    ]
    packs = [encode_pack(sent, producer="p", first_number=3, compress=compress) for compress in (True, False)]
    packs.append(encode_pack([Event({"n": n}) for n in range(4)], producer="p", first_number=3))
    entries = [*singles, *packs, [b"a", b"1", b"a", b"2"], [b"\xff", b"x"]]
    again = Again(runs=1, crashes=1, stream="s", entry_id="5-1", index=2, first_failed_ms=3, why="retry")
    why = Replayed(id="ab", at_ms=5, again=True, what="range").why
    replayed = Again(stream="s", entry_id="5-1", why=why)
    letter = DeadLetter(
        reason="no", error="ValueError", traceback="…", entry_id="5-1", event_id="e", replay=why
    )
    own = [again_fields(one, fields) for one in (again, replayed) for fields in entries]
    dead = [dead_fields(letter, fields) for fields in entries]
    bodies = [encode_msgpack(data) for data in DATA]
    records = pack([[1], [2, 5], [3, None, "t"], [4, None, None, "k", {"a": "b"}]])
    event = Event({"a": [1, None]}, id="i", type="t", key="k", time_ms=5, headers={"one": "1", "X-Two": "2"})
    return {
        "entry": [b"\x00" + joined(fields) for fields in entries],
        "header": [fields[1][1:] for fields in [*singles, *packs]],
        "body": bodies,
        "pack": [bytes([how, 4]) + records for how in (1, 3, 9)]
        + [bytes([how, 3]) + pack([{"a": 1}, 2, "c"]) for how in (0, 2)],
        "zstd": [zstandard.compress(b"a" * 300), b"\x0bthe same again", zstandard.compress(records)],
        "envelope": [*map(joined, [*own, *dead]), *map(retry_body, entries)],
        "json_data": [b'{"a": [1, 2.5, "\\u00e4", null], "b": true}', b"[[[[1e9]]]]", b'"\\ud83d\\ude00"'],
        "field_data": [joined([b"a", b"1", b"b", b"x"]), joined([b"a", b"1", b"a", b"\xff"])],
        "replies": [
            b"\x00\x005-1 3 2=4-0", b"\x00\x01\x0a5-1 1 1=2-", b"\x00\x02\x0212", b"\x00\x05# S\nredis_version:7.0",
        ],
        "written": [
            b"\x001700000000000-3", b"\x00-15m", b"\x002026-11-23T14:00", b"\x011h30m", b"\x0116MB", b"\x02a:b%{}",
            b"\x02{shop}:orders", b"\x03redis://u:pass@h:1/2", b"\x03rediss://[::1]:7/0", b"\x03unix:///a/b?db=3",
            b"\x03redis+sentinel://a,b:5/m/1", b"\x03embedded://./data?fsync=always", b"\x04order.*.x\norder.a.x",
            b'\x04["a*"]\nab', b"\x04*a*a*a*b\n" + b"a" * 4_000, "\x05\x1b[31m\u202e".encode(),
        ],
        "lines": [
            b"\x20\x00\x02\x03\x05a\r\nbb\n\nccc", b"\x3f\x01\x00a", b'\x3f\x02\x01\x04{"a": 1}\n[NaN]\n',
            b'\x3f\x03\x00level=info msg="two words" cached\n', b'\x3f\x00\x00{"a": 99999999999999999999}',
        ],
        "log_line": [
            b"\x05event\x04\x05hello\x02\x01a\x08\x02\x01b\x02\x0999999999\x01c\x0a", b"\x03key\x02\x0911111111",
        ],
        "cloudevent": [
            json.dumps(event.to_cloudevent()).encode(),
            b'{"specversion":"1.0","id":"1","source":"/s","type":"event","data_base64":"AAE=","x":true}',
        ],
    }  # fmt: skip
