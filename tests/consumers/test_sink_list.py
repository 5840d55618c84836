"""Sink list: events pushed to a list, each once however often its batch comes, on the stream's server or another."""

import itertools
import json

import pytest

from consumers.app import Pipeline
from consumers.sinks.by_url import sink
from consumers.sinks.lists import ListSink
from pipeline.errors import SinkAway, SinkRefused, UsageError
from pipeline.event import Event
from pipeline.keys import ListKeys
from pipeline.list_options import ListOptions
from pipeline.server.connect import Connector, Link
from producers.producer import Producer
from tests.conftest import OwnServer, Server
from tests.consuming import Consuming
from tests.proxy import Proxy
from tests.sinking import corrupt, log_events, made, received, rejected


def test_a_batch_that_comes_again_is_pushed_once(server: Server, link: Link, stream: str) -> None:
    """In order, as old workers read it; another event of like data is another task."""
    sink = ListSink(stream, connector=server.connector())
    events = log_events(range(700))
    for batch in (events[:500], events[300:], events):
        assert not sink(batch).errors
    found = [json.loads(payload)["n"] for payload in link.call("LRANGE", stream, 0, -1)[::-1]]
    assert found == list(range(700))
    assert 0 < link.call("PTTL", ListKeys(stream).tasks.ids(":p-3")) <= 86_400_000
    sink([received(events[0], 9_000)])
    assert link.call("LLEN", stream) == 701


def test_it_is_a_sink_by_its_url(server: Server, link: Link, stream: str) -> None:
    """Options as those of other sinks; text as text."""
    url = f"list:{stream}?url={server.address.shown}&push=right&remember=1h"
    one = made(url)
    one([received(Event("plain"), 1), received(Event([1]), 2)])
    one.close()
    assert link.call("LRANGE", stream, 0, -1) == [b"plain", b"[1]"]
    assert link.call("PTTL", ListKeys(stream).tasks.ids(":p-1")) <= 3_600_000


def test_events_that_are_no_task_fail_alone(server: Server, link: Link, stream: str) -> None:
    """Bytes within data are rejected with the reason, corrupt data fails; the others are pushed."""
    sink = ListSink(stream, connector=server.connector())
    outcomes = sink([received(Event({"raw": b"\xff"}), 1), received(Event("good"), 2)])
    assert "bytes cannot be sent" in rejected(outcomes)[0] and link.call("LRANGE", stream, 0, -1) == [b"good"]
    assert list(sink([corrupt(), received(Event("more"), 4)]).errors) == [0]
    assert link.call("LLEN", stream) == 2


@pytest.mark.parametrize("lost", [1, 2])
def test_a_lost_reply_is_made_up_for(server: Server, link: Link, stream: str, lost: int) -> None:
    """The sink is away then, and the batch comes again."""
    with Proxy(server.address) as proxy:
        sink = ListSink(stream, connector=Connector(proxy.url))
        events = log_events(range(1_000))
        sink(events[:1])
        seen = itertools.count(1)
        proxy.swallow = lambda _, reply: reply.startswith(b":") and next(seen) == lost
        with pytest.raises(SinkAway):
            sink(events)
        sink(events)
    assert [json.loads(p)["n"] for p in link.call("LRANGE", stream, 0, -1)[::-1]] == list(range(1_000))


def test_out_of_memory_it_is_away(own_server: OwnServer) -> None:
    """What was pushed before the refusal is not pushed again."""
    server = own_server()
    link = server.connector().link("test")
    sink = ListSink("l", connector=server.connector())
    link.call("CONFIG", "SET", "maxmemory", "1")
    with pytest.raises(SinkAway, match="memory"):
        sink(log_events(range(10)))
    link.call("CONFIG", "SET", "maxmemory", "0")
    sink(log_events(range(10)))
    assert link.call("LLEN", "l") == 10
    link.close()


def test_what_cannot_be_is_refused(
    server: Server, link: Link, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No list, a key of another type, a sorted set, a password in the open, no server."""
    link.call("SET", stream, "text")
    with pytest.raises(SinkRefused, match=stream):
        ListSink(stream, connector=server.connector())(log_events(range(1)))
    with pytest.raises(UsageError, match="sorted set"):
        ListSink(ListOptions(name="l", order="priority"), connector=server.connector())
    for url, said in (
        ("list:", "names no list"),
        ("list:l?url=redis://:geheim@h", "password"),
        ("list:l", "MILLSTREAM_URL"),
        ("list:l?push=top&url=redis://h", "one of left, right"),
        ("list:l?remember=0s&url=redis://h", "remember"),
    ):
        with pytest.raises(UsageError, match=said) as raised:
            sink(url)
        assert "geheim" not in str(raised.value)


def test_a_group_of_events_becomes_tasks_while_it_consumes(
    server: Server, link: Link, consuming: Consuming
) -> None:
    """With a consumer around it, from the stream to the list."""
    stream = consuming.stream
    consuming.app.consumer(stream, group="old", batch=100)(
        sink(f"list:{stream}:l?url={server.address.shown}")
    )
    with Producer(connector=server.connector()) as producer:
        producer.send_many(stream, [{"n": n} for n in range(300)]).result()
    with consuming.running():
        consuming.until_drained("old")
    assert link.call("LLEN", f"{stream}:l") == 300
    assert link.call("EXISTS", ListKeys(f"{stream}:l").tasks.ids(f"{stream}:none")) == 0


def test_what_a_group_has_not_done_goes_back_to_the_list(
    server: Server, link: Link, consuming: Consuming
) -> None:
    """As a member of the very group: what its workers have done stays done, all else becomes tasks."""
    stream = consuming.stream
    with Producer(connector=server.connector()) as producer:
        producer.send_many(stream, [{"n": n} for n in range(100)]).result()
        consuming.app.consumer(stream, group="g")(lambda event: None)
        with consuming.running():
            consuming.until_drained()
        producer.send_many(stream, [{"n": n} for n in range(100, 130)]).result()
    url = f"list:{stream}:l?url={server.address.shown}"
    consuming.app = Pipeline(server.address.shown)
    consuming.app.consumer(stream, group="g", batch=100)(sink(url))
    with consuming.running():
        consuming.until_drained()
    assert [json.loads(p)["n"] for p in link.call("LRANGE", f"{stream}:l", 0, -1)[::-1]] == list(
        range(100, 130)
    )
