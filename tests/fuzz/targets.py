"""Targets: each reads what somebody else may have written, and says what must hold of it whatever the bytes are.

A target takes any bytes and returns; an exception of any kind is a defect. What may be refused, is refused by the one
or two errors that the reader documents, and everything that is read can be written and read again.
"""

import contextlib
import json
import re
import time
from collections.abc import Callable
from typing import Any

from console.event_view import views_of
from console.safe_text import json_text, safe, safe_lines
from consumers.window import Held
from pipeline.codec import decode_msgpack, encode_msgpack
from pipeline.compression import compress, decompress
from pipeline.dead_event import DeadSelection, read_dead_event, shape_of
from pipeline.declare import takes_type
from pipeline.envelope import again_fields, dead_fields, read_again, read_dead, read_retry_body, retry_body
from pipeline.errors import (
    DecodeError,
    EncodeError,
    EventTooLargeError,
    MillstreamError,
    NoServerError,
    UnknownFormatError,
    UsageError,
)
from pipeline.event import Event
from pipeline.filters import GroupFilter
from pipeline.header import MAGIC, read_header, write_header
from pipeline.json_view import json_view
from pipeline.keys import GroupRef, StreamKeys, check_name, escape, stream_of, unescape
from pipeline.limits import DEFAULT_LIMITS
from pipeline.packed import PackedEvents
from pipeline.position import after, before, parse_entry_id, position_id, show_entry_id
from pipeline.replayed import read_replayed
from pipeline.selection import Selection, parts_of
from pipeline.server.append import parse_append
from pipeline.server.locate import locate, redact
from pipeline.server.replies import info_fields, pairs, parse_entries, parse_read, text
from pipeline.text_codecs import decode_fields, decode_foreign, decode_json, encode_fields, encode_json
from pipeline.units import duration_ms, size_bytes
from pipeline.wire import decode_entry, encode_again, encode_entry, encode_packed
from producers.logs.line import MAX_BODY_BYTES, Taker
from producers.logs.mask import DEFAULT_MASK, MASKED
from producers.sources.lines import LineSplitter
from producers.sources.parsers import PARSERS, parse_line
from tests.fuzz.draw import Draw
from tests.pure.event_data import identical

Target = Callable[[bytes], None]
AT = b"1700000000000-3"
LATER = b"1800000000000-0"
NOW_MS = 1_800_000_000_000
SECONDS = 2
"""No input takes longer: the largest are a few thousand bytes."""
REF = GroupRef(StreamKeys("s"), "g")
UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

Seen = tuple[str, str, str, str, int, str, dict[str, str], int, Any]


def seen(event: Event) -> Seen:
    """All that an event can be asked for."""
    return (
        event.id, event.given_id, event.producer, event.type, event.number, event.key, dict(event.headers),
        event.time_ms, event.data,
    )  # fmt: skip


def eagerly(fields: list[bytes], entry_id: bytes) -> list[Seen] | type[MillstreamError]:
    """All events of an entry, or the error it ends in."""
    try:
        return [seen(event) for event in decode_entry(entry_id, fields).events]
    except (DecodeError, UnknownFormatError) as error:
        return type(error)


def lazily(fields: list[bytes], entry_id: bytes) -> list[Seen] | type[MillstreamError]:
    """The same as a member reads it. What a newer version wrote is known before an event is handed out."""
    (arrival,) = Held.read(REF, [(entry_id, fields)], "", 0)
    try:
        events = arrival.all_events()
    except (DecodeError, UnknownFormatError) as error:
        return type(error)
    try:
        return [seen(event) for event in events]
    except DecodeError:
        return DecodeError


def check_entry(fields: list[bytes], entry_id: bytes = AT) -> None:
    """An entry says the same whether it is read at once or late, and can be written again, in both ways."""
    early, late = eagerly(list(fields), entry_id), lazily(list(fields), entry_id)
    if isinstance(early, type) or isinstance(late, type):
        assert early is late, f"read at once: {early}, read late: {late}"
        check_shown(fields, entry_id)
        return
    assert len(early) == len(late)
    for one, other in zip(early, late, strict=True):
        assert identical(list(one), list(other)), f"read at once: {one}, read late: {other}"
    for event in decode_entry(entry_id, fields).events:
        again = decode_entry(LATER, encode_again(event), origin=entry_id).events
        assert len(again) == 1 and identical(list(seen(again[0])), list(seen(event)))
    for event in decode_entry(entry_id, fields).events:
        check_sent(event)
    check_shown(fields, entry_id)


def check_sent(event: Event) -> None:
    """What was read can be sent: no reader gives what no writer takes."""
    sent = Event(
        event.data,
        type=event.type,
        key=event.key,
        id=event.given_id,
        headers=event.headers,
        time_ms=event.time_ms,
    )
    try:
        fields = encode_entry(sent, producer="p", number=1)
    except EventTooLargeError:
        return
    except EncodeError:
        # The one exception: field names of a foreign entry that are no text.
        assert isinstance(event.data, dict) and any(isinstance(name, bytes) for name in event.data)
        return
    (read,) = decode_entry(AT, fields).events
    assert (read.type, read.key, read.headers, read.time_ms) == (
        event.type,
        event.key,
        event.headers,
        event.time_ms,
    )
    assert identical(read.data, event.data)


def check_shown(fields: list[bytes], entry_id: bytes) -> None:
    """Every entry can be shown on one line, selected, and is counted event by event; none steers a terminal."""
    with contextlib.suppress(UsageError):  # an entry id that no server gives
        parse_entry_id(entry_id)
        for view in views_of("s", entry_id, fields):
            assert not UNSAFE.search(view.as_line(named=True, colored=False))
            json.loads(json_text(view.as_json()))
    for part in parts_of(entry_id, fields, Selection(types=("a*",), match="x")):
        assert part.event is not None or not part.chosen


def entry(raw: bytes) -> None:
    """Any names and values, under any entry id."""
    draw = Draw(raw)
    entry_id = draw.piece() or AT
    check_entry(draw.pieces(), entry_id)


def header(raw: bytes) -> None:
    """Any header, and one body that is none too many."""
    check_entry([b"h", MAGIC + raw, b"b", b"\x81\xa1a\x01"])
    try:
        found = read_header(MAGIC + raw, DEFAULT_LIMITS)
    except (DecodeError, UnknownFormatError):
        return
    kind, codec, compression, count, producer, number, type_, key, time_ms, headers, event_id = found
    written = write_header(
        kind, codec, compression, count, producer, number, type_, key, time_ms, dict(headers), event_id,
        DEFAULT_LIMITS,
    )  # fmt: skip
    assert read_header(written, DEFAULT_LIMITS) == found
    assert len(written) <= len(raw) + 1, "there is no shorter form than ours"


def body(raw: bytes) -> None:
    """Any bytes as the data of an event."""
    check_entry([b"h", b"\xc1\x97\x01\x00\x01\x00\x01\xa1p\x01", b"b", raw])
    try:
        data = decode_msgpack(raw)
    except DecodeError:
        return
    written = encode_msgpack(data)
    assert len(written) <= len(raw), "there is no shorter form than ours"
    assert identical(decode_msgpack(written), data)


def pack(raw: bytes) -> None:
    """Any bytes as the body of a pack: of equal events, or of records; whole, or compressed."""
    draw = Draw(raw)
    how, count = draw.byte(), draw.byte() % 24
    inside = draw.take(draw.left)
    kind = 1 + (how & 1)
    if how & 2:
        inside = compress(inside, DEFAULT_LIMITS)
    compression = bool(how & 6)
    start = 0 if how & 8 else None
    packed = write_header(kind, 1, int(compression), count, "p", 7, "t", "k", start, None, "", DEFAULT_LIMITS)
    check_entry([b"h", packed, b"b", inside])


def zstd(raw: bytes) -> None:
    """Any bytes as a frame, and any bytes in one."""
    try:
        found = decompress(raw, DEFAULT_LIMITS)
    except DecodeError:
        pass
    else:
        assert len(found) <= DEFAULT_LIMITS.max_body_bytes
        assert len(found) <= max(DEFAULT_LIMITS.max_entry_bytes, DEFAULT_LIMITS.max_ratio * len(raw))
    draw = Draw(raw)
    times = 1 << (draw.byte() % 12)
    content = (draw.take(draw.left) * times)[: DEFAULT_LIMITS.max_body_bytes]
    assert decompress(compress(content, DEFAULT_LIMITS), DEFAULT_LIMITS) == content


def envelope(raw: bytes) -> None:
    """Entries of a group's own stream, dead letters, and bodies of retries."""
    fields = Draw(raw).pieces()
    with contextlib.suppress(DecodeError, UnknownFormatError):
        again, sent = read_again(fields)
        if again is not None:
            assert read_again(again_fields(again, sent)) == (again, sent)
            replayed = read_replayed(again.why)
            if replayed is not None:
                assert read_replayed(replayed.why) == replayed
                assert all(map(str.isprintable, replayed.headers["replay-time"]))
    with contextlib.suppress(DecodeError, UnknownFormatError):
        letter, sent = read_dead(fields)
        if letter is not None:
            once, same = read_dead(dead_fields(letter, sent))
            assert same == sent
            assert once is not None and read_dead(dead_fields(once, sent)) == (once, sent)
    with contextlib.suppress(DecodeError):
        sent = read_retry_body(raw)
        assert read_retry_body(retry_body(sent)) == sent
    dead = read_dead_event(AT, fields)
    assert isinstance(dead.reason, str) and shape_of(dead.reason) is not None
    DeadSelection(errors=("a*",), events=Selection(match="x")).takes(dead)
    for entry_fields in dead.again("why"):
        found, _ = read_again(entry_fields)
        assert found is not None and found.why == "why"


def json_data(raw: bytes) -> None:
    """Any bytes as JSON."""
    try:
        data = decode_json(raw)
    except DecodeError:
        return
    try:
        written = encode_json(data)
    except EncodeError:
        # JSON has ints of any size; those of more than 64 bits are read, and shown, but not sent on.
        assert max(map(len, re.findall(rb"[0-9]+", raw))) > 18
        return
    assert identical(decode_json(written), data)
    json.dumps(json_view(data))


def field_data(raw: bytes) -> None:
    """Any names and values as data: as codec=fields writes it, and as others do."""
    fields = Draw(raw).pieces()
    fields = fields[: len(fields) // 2 * 2]
    with contextlib.suppress(DecodeError):
        data = decode_fields(fields)
        assert decode_fields(encode_fields(data)) == data
    foreign = decode_foreign(fields)
    kept = [one for value in foreign.values() for one in (value if isinstance(value, list) else [value])]
    assert len(kept) == len(fields) // 2, "no value is dropped"
    json.dumps(json_view(foreign))


def replies(raw: bytes) -> None:
    """What a server, or a proxy that plays one, may answer to append; and INFO."""
    draw = Draw(raw)
    status = [b"ok", b"repeated", b"gap", b"position", b"forgotten", draw.piece()][draw.byte() % 6]
    said = draw.piece()
    answer = parse_append([status, said])
    assert isinstance(answer, MillstreamError) or answer == parse_append([status, said])
    assert isinstance(parse_append(draw.value()), MillstreamError)
    assert all(isinstance(value, str) for value in info_fields(raw).values())
    names = draw.pieces()
    assert len(pairs(names)) <= len(names) // 2
    rows = [[names[i], names[i + 1 :]] for i in range(len(names))]
    assert [entry_id for entry_id, _ in parse_entries([*rows, None])] == names
    assert parse_read([[b"s", rows]]) == {b"s": parse_entries(rows)}
    assert isinstance(text(said), str)


def written(raw: bytes) -> None:
    """What people type: positions, durations, sizes, names, filters, and the addresses of servers."""
    draw = Draw(raw)
    which, typed = draw.byte() % 6, draw.take(draw.left).decode("utf-8", "surrogateescape")
    if which == 0:
        with contextlib.suppress(UsageError):
            found = parse_entry_id(typed)
            assert parse_entry_id(show_entry_id(found)) == found
            if found > (0, 0):
                assert after(before(typed)) == show_entry_id(found)
        with contextlib.suppress(UsageError):
            assert position_id(typed, NOW_MS) == "$" or parse_entry_id(position_id(typed, NOW_MS)) >= (0, 0)
    elif which == 1:
        with contextlib.suppress(UsageError):
            assert 0 <= duration_ms(typed) < 10**15
        with contextlib.suppress(UsageError):
            assert size_bytes(typed) >= 0
    elif which == 2:
        with contextlib.suppress(UsageError):
            check_name("group", typed)
            assert unescape(escape(typed)) == typed
            keys = StreamKeys("s")
            assert stream_of(keys.retry_bodies(typed)) == ("s", f"retry-bodies:{escape(typed)}")
        with contextlib.suppress(UsageError):
            keys = StreamKeys(typed)
            assert stream_of(keys.again("g")) == (typed, "again:g")
            assert stream_of(keys.stream) is None
    elif which == 3:
        with contextlib.suppress(UsageError, NoServerError):
            address = locate(typed, {})
            if address.password and len(address.password) > 3:
                assert address.password not in address.shown.replace(address.username or "", "")
            shown = locate(address.shown, {})
            assert (shown.kind, shown.host, shown.port, shown.db) == (
                address.kind, address.host, address.port, address.db,
            )  # fmt: skip
        assert isinstance(redact(typed), str)
    elif which == 4:
        pattern, _, event_type = typed.partition("\n")
        assert takes_type((pattern,), pattern.replace("*", ""))
        takes_type((pattern,), event_type)
        filter_ = GroupFilter(typed)
        assert filter_.wanted_elsewhere(event_type) in (True, False)
        with contextlib.suppress(UsageError):
            selection = Selection(types=(pattern,), keys=(event_type,), match=re.escape(event_type))
            assert Selection.from_facts(selection.as_facts()) == selection
    else:
        assert not UNSAFE.search(safe(typed))
        assert not any(UNSAFE.search(line) for line in safe_lines(typed))
        assert json.loads(json_text(typed)) == typed


def lines(raw: bytes) -> None:
    """A file in any pieces, cut into lines, each read as data by any parser."""
    draw = Draw(raw)
    limit, name = 1 + draw.byte() % 64, list(PARSERS)[draw.byte() % len(PARSERS)]
    cuts = [draw.byte() for _ in range(draw.byte() % 5)]
    content = draw.take(draw.left)
    whole = LineSplitter(max_line_bytes=limit)
    expected = (whole.feed(content), whole.rest())
    parts = LineSplitter(max_line_bytes=limit)
    found: list[tuple[bytes, int]] = []
    cut: dict[int, int] = {}
    at = 0
    for size in [*cuts, len(content)]:
        block = parts.feed(content[at : at + size])
        cut.update((len(found) + index, full) for index, full in block.cut.items())
        found += zip(block.lines, block.ends, strict=True)
        at += size
    assert found == list(zip(expected[0].lines, expected[0].ends, strict=True))
    assert cut == expected[0].cut
    last = parts.rest()
    assert (last.lines, last.ends, last.cut) == (expected[1].lines, expected[1].ends, expected[1].cut)
    ends = [*expected[0].ends, *expected[1].ends]
    assert ends == sorted(ends) and ends[-1:] == [len(content)] if ends else not content
    for line in (*expected[0].lines, *expected[1].lines, content):
        data, headers = parse_line(line, PARSERS[name])
        assert headers is None or all(type(value) is str for value in headers.values())
        with contextlib.suppress(EncodeError):  # an int of 70 bits, a lone surrogate: sent as text
            assert identical(decode_msgpack(encode_msgpack(data)), data)


def log_line(raw: bytes) -> None:
    """What an application logs, masked and bounded, alone and in a pack."""
    draw = Draw(raw)
    taker = Taker(DEFAULT_MASK)
    logged = {draw.text(): draw.value() for _ in range(1 + draw.byte() % 6)}
    logged["db_password"] = "tell nobody"
    level, _, first = taker.line(logged, 20)
    data = decode_msgpack(first)
    assert level == 20 and len(first) <= MAX_BODY_BYTES
    assert b"tell nobody" not in first and data.get("db_password", MASKED) == MASKED
    quick = taker.flat(logged)
    assert quick is None or b"tell nobody" not in quick
    types = [draw.piece().decode("utf-8", "replace") for _ in range(3)]
    times = [NOW_MS, NOW_MS - draw.byte(), NOW_MS + draw.byte() ** 4]
    packed = PackedEvents([first, first, first], types, times, {"host": "h"})
    events = decode_entry(AT, encode_packed(packed, producer="p", first_number=5)).events
    assert [event.type for event in events] == types
    assert [event.time_ms for event in events] == times
    assert all(identical(event.data, data) for event in events)


def cloudevent(raw: bytes) -> None:
    """A CloudEvent in JSON, as an event and back."""
    try:
        given = json.loads(raw)
    except (ValueError, RecursionError):
        return
    try:
        event = Event.from_cloudevent(given)
    except (DecodeError, UsageError):
        return
    try:
        back = event.to_cloudevent()
    except EncodeError:
        return  # its data holds what no event can: NaN, an int of 70 bits
    same = Event.from_cloudevent(back)
    assert (same.id, same.type, same.key, same.headers) == (event.id, event.type, event.key, event.headers)
    assert identical(same.data, event.data)
    json.dumps(back)


TARGETS: dict[str, Target] = {
    target.__name__: target
    for target in (
        entry, header, body, pack, zstd, envelope, json_data, field_data, replies, written, lines, log_line,
        cloudevent,
    )
}  # fmt: skip


def run(name: str, raw: bytes) -> None:
    """One input of one target, which must return soon."""
    began_s = time.process_time()
    TARGETS[name](raw)
    took_s = time.process_time() - began_s
    assert took_s < SECONDS, f"{len(raw):,} bytes took {took_s:.1f} s"
