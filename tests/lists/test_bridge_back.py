"""The bridge from a stream to a list: each event pushed once, in order; the position stands beside the list."""

import json
import threading

import pytest

from consumers import list_filler
from consumers.list_filler import Filled, fill_list
from pipeline.errors import NoSuchStreamError, UnknownFormatError, UsageError, WrongKeyTypeError
from pipeline.event import Event
from pipeline.list_options import ListOptions
from pipeline.server.changes import trim_floor, trim_stream
from pipeline.server.connect import Connector, Link
from pipeline.server.overview import groups
from pipeline.wire import encode_entry
from producers.producer import Producer
from producers.sources.lists import follow_list
from tests.conftest import OwnServer, Server
from tests.lists.bridging import listed, push, task
from tests.proxy import Proxy
from tests.until import until


@pytest.fixture
def connector(server: Server) -> Connector:
    """To the server of this run."""
    return server.connector()


def send(connector: Connector, stream: str, numbers: range, *, pack: int = 0) -> None:
    """Tasks as events."""
    with Producer(connector=connector, pack=pack) as producer:
        producer.send_many(stream, [{"function": "send_email", "args": [n]} for n in numbers]).result()


@pytest.mark.parametrize("pack", [0, 100])
def test_events_come_as_tasks_in_order(connector: Connector, link: Link, stream: str, pack: int) -> None:
    """Packs are their events; a second run pushes what came since, and nothing twice."""
    send(connector, stream, range(2_500), pack=pack)
    assert fill_list(f"{stream}:l", stream, connector=connector, follow=False) == Filled(pushed=2_500)
    send(connector, stream, range(2_500, 2_600), pack=pack)
    assert fill_list(f"{stream}:l", stream, connector=connector, follow=False) == Filled(pushed=100)
    assert listed(link, f"{stream}:l") == list(range(2_600))
    assert json.loads(link.call("LINDEX", f"{stream}:l", 0)) == {"function": "send_email", "args": [2_599]}


def test_payloads_are_what_old_workers_read(connector: Connector, link: Link, stream: str) -> None:
    """Text and bytes as they are, all else as JSON; with RPUSH where producers push so."""
    with Producer(connector=connector) as producer:
        for data in ("plain text", b"\x00\xff", {"n": 1, "say": "schön"}, [1, None, True], 7):
            producer.send(stream, data).result()
    fill_list(ListOptions(name=f"{stream}:l", push="right"), stream, connector=connector, follow=False)
    assert link.call("LRANGE", f"{stream}:l", 0, -1) == [
        b"plain text",
        b"\x00\xff",
        '{"n":1,"say":"schön"}'.encode(),
        b"[1,null,true]",
        b"7",
    ]


def test_there_and_back_again_keeps_the_bytes_that_no_event_can_be_made_of(
    connector: Connector, link: Link, stream: str
) -> None:
    """What went into the stream as it was comes out as it was; the rest means the same."""
    payloads = [b'{"function": "f",  "args": [1]}', b"text", b"\xff\x00\xfe", b'{"big": %d}' % 2**70]
    link.call("LPUSH", f"{stream}:l", *payloads)
    with Producer(connector=connector) as producer:
        follow_list(producer, stream, f"{stream}:l", follow=False)
    fill_list(f"{stream}:back", stream, connector=connector, follow=False)
    back = link.call("LRANGE", f"{stream}:back", 0, -1)[::-1]
    assert back[1:] == payloads[1:] and json.loads(back[0]) == json.loads(payloads[0])


def test_it_goes_on_until_it_is_stopped(connector: Connector, link: Link, stream: str) -> None:
    """What comes is pushed within a moment, and a stop ends the wait at once."""
    stop, filled = threading.Event(), Filled()
    thread = threading.Thread(
        target=fill_list,
        args=(f"{stream}:l", stream),
        kwargs={"connector": connector, "stop": stop, "filled": filled},
    )
    thread.start()
    try:
        for upto in (10, 30):
            until(lambda: b"cmd=xread" in link.call("CLIENT", "LIST"), what="it waits")
            send(connector, stream, range(filled.pushed, upto))
            until(lambda upto=upto: filled.pushed == upto)  # type: ignore[misc]
    finally:
        stop.set()
        thread.join(5)
    assert not thread.is_alive() and listed(link, f"{stream}:l") == list(range(30))


@pytest.mark.parametrize("pack", [0, 70])
@pytest.mark.parametrize("side", ["list", "stream"])
def test_lost_replies_double_nothing(server: Server, link: Link, stream: str, side: str, pack: int) -> None:
    """Every third or fourth reply that matters is lost with its connection, also in the midst of a pack."""
    send(server.connector(), stream, range(6_130), pack=pack)
    with Proxy(server.address) as proxy:
        proxy.swallow_every(
            3 if side == "list" else 4, having=b"pushed" if side == "list" else b"first-entry"
        )
        through, direct = Connector(proxy.url), server.connector()
        filled = fill_list(
            f"{stream}:l",
            stream,
            connector=through if side == "list" else direct,
            stream_connector=direct if side == "list" else through,
            follow=False,
        )
        assert proxy.swallowed and filled.restarts
    assert listed(link, f"{stream}:l") == list(range(6_130))


def test_two_bridges_of_one_name_double_nothing(server: Server, link: Link, stream: str) -> None:
    """The position refuses the second; what one of them pushed is where the other goes on."""
    send(server.connector(), stream, range(5_000), pack=100)
    threads = [
        threading.Thread(
            target=fill_list,
            args=(f"{stream}:l", stream),
            kwargs={"connector": server.connector(), "follow": False},
        )
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert listed(link, f"{stream}:l") == list(range(5_000))


def test_to_another_server(own_server: OwnServer, server: Server, link: Link, stream: str) -> None:
    """The position is beside the list, wherever the stream is."""
    old = own_server()
    to_old = old.connector().link("test")
    send(server.connector(), stream, range(1_000))
    for _ in range(2):
        fill_list("l", stream, url=old.address.shown, stream_url=server.address.shown, follow=False)
    assert listed(to_old, "l") == list(range(1_000))
    assert not link.call("EXISTS", "l") and to_old.call(
        "EXISTS", ListOptions(name="l").keys.position(f"bridge:{stream}")
    )
    to_old.close()


def test_a_list_server_that_lost_the_position_gets_no_history_again(
    own_server: OwnServer, server: Server, stream: str
) -> None:
    """The group on the stream says where the bridge was."""
    old = own_server()
    to_old = old.connector().link("test")
    send(server.connector(), stream, range(500))
    fill_list("l", stream, url=old.address.shown, stream_url=server.address.shown, follow=False)
    to_old.call("FLUSHALL")
    send(server.connector(), stream, range(500, 510))
    fill_list("l", stream, url=old.address.shown, stream_url=server.address.shown, follow=False)
    assert listed(to_old, "l") == list(range(500, 510))
    to_old.close()


def test_since_says_where_to_begin_for_the_first_time(connector: Connector, link: Link, stream: str) -> None:
    """From the end, nothing of what was; from an entry, that one and all behind it; later runs go on."""
    send(connector, stream, range(10))
    assert fill_list("e" + stream, stream, connector=connector, since="end", follow=False).pushed == 0
    fifth = link.call("XRANGE", stream, "-", "+")[5][0].decode()
    assert fill_list("m" + stream, stream, connector=connector, since=fifth, follow=False).pushed == 5
    send(connector, stream, range(10, 12))
    assert fill_list("e" + stream, stream, connector=connector, since="start", follow=False).pushed == 2
    assert listed(link, "e" + stream) == [10, 11] and listed(link, "m" + stream) == list(range(5, 10))


def test_its_group_shows_the_lag_and_keeps_what_is_unread(
    connector: Connector, link: Link, stream: str
) -> None:
    """The group stands where the bridge is, so `stream trim` removes nothing that it has not pushed."""
    send(connector, stream, range(500))
    fill_list(f"{stream}:l", stream, connector=connector, follow=False)
    send(connector, stream, range(500, 700))
    row = groups(link, stream, only=f"bridge:{stream}:l")[0]
    assert row.unread in (200, None)
    last = link.call("XREVRANGE", stream, "+", "-", "COUNT", 1)[0][0].decode()
    assert trim_floor(link, stream, last).holder == f"bridge:{stream}:l"
    assert sum(trim_stream(link, stream, last)) == 500
    assert fill_list(f"{stream}:l", stream, connector=connector, follow=False) == Filled(pushed=200)
    assert groups(link, stream, only=f"bridge:{stream}:l")[0].unread == 0


def test_its_group_is_attended_while_it_runs(connector: Connector, link: Link, stream: str) -> None:
    """One that is behind is working, not stuck; also a group that somebody removed meanwhile."""
    name, group = f"{stream}:l", f"bridge:{stream}:l"
    send(connector, stream, range(3_000))
    stop, filled = threading.Event(), Filled()
    thread = threading.Thread(
        target=fill_list,
        args=(name, stream),
        kwargs={"connector": connector, "stop": stop, "filled": filled, "rate": 1_000},
    )
    thread.start()
    try:
        until(lambda: filled.pushed > 300)
        assert groups(link, stream, only=group)[0].state == "working"
        link.call("XGROUP", "DESTROY", stream, group)
        until(lambda: link.call("XINFO", "GROUPS", stream), what="it is there again")
    finally:
        stop.set()
        thread.join(5)
    assert not thread.is_alive() and listed(link, name) == list(range(filled.pushed))


def test_entries_that_were_trimmed_before_it_came_are_counted(
    connector: Connector, link: Link, stream: str
) -> None:
    """By who trims without asking: it goes on behind them, and says how many they were."""
    send(connector, stream, range(300))
    fill_list(f"{stream}:l", stream, connector=connector, follow=False)
    send(connector, stream, range(300, 1_000))
    link.call("XTRIM", stream, "MAXLEN", "=", 400)
    filled = fill_list(f"{stream}:l", stream, connector=connector, follow=False)
    known = b"entries-added" in link.call("XINFO", "STREAM", stream)
    assert filled == Filled(pushed=400, gone=300 if known else 0)
    assert listed(link, f"{stream}:l") == [*range(300), *range(600, 1_000)]


def test_a_stream_made_anew_with_lower_ids_is_said(
    connector: Connector, link: Link, stream: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Its entries stand before where the bridge was: they are not pushed, and that is no secret."""
    send(connector, stream, range(3))
    assert fill_list(f"{stream}:l", stream, connector=connector, follow=False).pushed == 3
    assert "another one" not in caplog.text
    entries = link.call("XRANGE", stream, "-", "+")
    link.call("DEL", stream)
    link.call("XADD", stream, "5-1", *entries[0][1])
    assert fill_list(f"{stream}:l", stream, connector=connector, follow=False).pushed == 0
    assert "last_id='5-1'" in caplog.text


def test_a_stream_that_is_deleted_beneath_it_is_waited_for(
    connector: Connector, link: Link, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its group there is gone as well, and is made anew."""
    monkeypatch.setattr(list_filler, "WAIT_MS", 200)  # else it looks after its group every 20 s
    filled, stop = Filled(), threading.Event()
    ended: list[Filled] = []
    send(connector, stream, range(10))
    thread = threading.Thread(
        target=lambda: ended.append(
            fill_list(f"{stream}:l", stream, connector=connector, stop=stop, filled=filled)
        )
    )
    thread.start()
    try:
        until(lambda: filled.pushed == 10)
        link.call("DEL", stream)
        until(lambda: link.call("EXISTS", stream), 20, what="its group is there again, on an empty stream")
    finally:
        stop.set()
        thread.join(20)
    assert len(ended) == 1, "it failed"
    send(connector, stream, range(10, 20))
    assert fill_list(f"{stream}:l", stream, connector=connector, follow=False).pushed == 10
    assert listed(link, f"{stream}:l") == list(range(20))


def test_what_no_task_can_be_made_of_stops_nothing(connector: Connector, link: Link, stream: str) -> None:
    """Corrupt entries and bytes within data: left out, counted, and still in the stream."""
    good = encode_entry(Event({"function": "f", "args": [1]}), producer="p", number=1)
    inner = encode_entry(Event({"raw": b"\xff"}), producer="p", number=2)
    for fields in (good, [*good[:3], b"\xc1\xff"], inner, [b"level", b"info"], good):
        link.call("XADD", stream, "*", *fields)
    assert fill_list(f"{stream}:l", stream, connector=connector, follow=False) == Filled(pushed=3, unfit=2)
    assert link.call("LRANGE", f"{stream}:l", 0, -1)[1] == b'{"level":"info"}'


def test_an_entry_of_a_newer_version_ends_it(connector: Connector, link: Link, stream: str) -> None:
    """What is before it is pushed; the error names it, and an upgraded bridge goes on with it."""
    good = encode_entry(Event("a"), producer="p", number=1)
    link.call("XADD", stream, "*", *good)
    link.call("XADD", stream, "*", b"h", good[1][:2] + b"\x7f" + good[1][3:], b"b", good[3])
    with pytest.raises(UnknownFormatError, match="upgrade"):
        fill_list(f"{stream}:l", stream, connector=connector, follow=False)
    assert link.call("LRANGE", f"{stream}:l", 0, -1) == [b"a"]


def test_out_of_memory_it_waits(own_server: OwnServer, stream: str) -> None:
    """A push adds to the server: it is refused as a whole, and comes once there is room."""
    server = own_server()
    connector = server.connector()
    link = connector.link("test")
    send(connector, stream, range(100))
    link.call("CONFIG", "SET", "maxmemory", "1")
    filled = Filled()
    thread = threading.Thread(
        target=fill_list,
        args=("l", stream),
        kwargs={"connector": connector, "follow": False, "filled": filled},
    )
    thread.start()
    try:
        until(lambda: filled.restarts >= 2, what="it is refused")
    finally:
        link.call("CONFIG", "SET", "maxmemory", "0")
        thread.join(20)
    assert listed(link, "l") == list(range(100))
    link.close()


def test_old_workers_take_what_comes(connector: Connector, link: Link, stream: str) -> None:
    """A list that is emptied meanwhile is no list that lost something: the position is what counts."""
    send(connector, stream, range(50))
    fill_list(f"{stream}:l", stream, connector=connector, follow=False)
    assert (
        link.call("BRPOP", f"{stream}:l", 1)[1]
        == json.dumps(json.loads(task(0)), separators=(",", ":")).encode()
    )
    link.call("DEL", f"{stream}:l")
    assert fill_list(f"{stream}:l", stream, connector=connector, follow=False).pushed == 0


@pytest.mark.parametrize("wrong", ["list", "stream"])
def test_a_key_of_another_type_is_said(connector: Connector, link: Link, stream: str, wrong: str) -> None:
    """With both names; nothing is pushed, and nothing counts as pushed."""
    name = f"{stream}:l"
    if wrong == "list":
        send(connector, stream, range(3))
    link.call("SET", name if wrong == "list" else stream, "text")
    with pytest.raises(WrongKeyTypeError, match=rf"{stream}.*holds a string, not a {wrong}"):
        fill_list(name, stream, connector=connector, follow=False)
    if wrong == "list":
        link.call("DEL", name)
        assert fill_list(name, stream, connector=connector, follow=False).pushed == 3


def test_what_cannot_be_is_refused(connector: Connector, link: Link, stream: str) -> None:
    """One name for both, a sorted set, no position, no such stream."""
    with pytest.raises(UsageError, match="one key"):
        fill_list(stream, stream, connector=connector)
    with pytest.raises(UsageError, match="sorted set"):
        fill_list(ListOptions(name="l", order="priority"), stream, connector=connector)
    with pytest.raises(UsageError, match="since="):
        fill_list("l", stream, connector=connector, since="yesterday")
    with pytest.raises(NoSuchStreamError, match=stream):
        fill_list("l", stream, connector=connector, follow=False)
    push(link, f"{stream}:l", range(1))
    assert not link.call("EXISTS", stream)
