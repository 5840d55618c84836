"""Routes: events of one stream go on to another, each once, as they are."""

import pytest

from consumers.app import Pipeline
from pipeline.errors import UsageError
from pipeline.event import Event
from pipeline.wire import decode_entry
from tests.consuming import Consuming
from tests.until import until


def test_events_of_a_route_s_types_go_on_as_they_are(consuming: Consuming) -> None:
    """Singles and those of packs; what came from elsewhere too. The others stay."""
    to = f"{consuming.stream}-mail"
    consuming.app.route(consuming.stream, to=to, types=["order.mail.*", ""])
    consuming.send({"n": 1}, type="order.mail.sent", key="k", headers={"a": "b"})
    consuming.send({"n": 2}, type="order.placed")
    consuming.send_pack([{"n": 3}, {"n": 4}], types=["order.mail.read", "order.paid"])
    consuming.send_raw(["foreign", "field"])
    consuming.run_until_drained(f"to-{to}")
    wanted = [
        event
        for i, fields in consuming.entries()
        for event in decode_entry(i, fields).events
        if event.type.startswith("order.mail") or not event.type
    ]
    reply = consuming.link.call("XRANGE", to, "-", "+")
    there = [event for i, fields in reply for event in decode_entry(i, fields).events]
    order = [repr(event.data) for event in wanted]  # a route runs several at a time, and promises none
    there.sort(key=lambda event: order.index(repr(event.data)))
    assert [(e.data, e.type, e.key, e.headers) for e in there] == [
        (e.data, e.type, e.key, e.headers) for e in wanted
    ]
    assert [event.id for event in there[:2]] == [event.id for event in wanted[:2]]


def test_a_route_leads_from_stream_to_stream(consuming: Consuming) -> None:
    """And what comes of it is consumed like anything else."""
    seen: list[int] = []
    app = Pipeline(consuming.url, namespace=consuming.stream)
    app.route("a", to="b", group="g")
    app.route("b", to="c", concurrency=1)

    @app.consumer("c", group="g")
    def handle(event: Event) -> None:
        seen.append(event.data)

    keys = f"{consuming.stream}:a"
    for fields in consuming.encoded(*range(20)):
        consuming.link.call("XADD", keys, "*", *fields)
    with consuming.running(app):
        until(lambda: len(seen) == 20, 20)
    assert sorted(seen) == list(range(20))


def test_a_route_that_leads_nowhere_is_refused(consuming: Consuming) -> None:
    """To itself, or to what is no stream."""
    with pytest.raises(UsageError, match="go round for ever"):
        consuming.app.route("a", to="a")
    with pytest.raises(UsageError, match="braces"):
        consuming.app.route("a", to="b{")
    with pytest.raises(UsageError, match="there is no consumer option"):
        consuming.app.route("a", to="b", nonsense=1)
