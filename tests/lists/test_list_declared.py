"""Lists in an app: what may be declared, and how its tests run it."""

import pytest

from consumers.app import Pipeline
from consumers.consumer import Consumer
from consumers.testing import TestPipeline
from pipeline.declare import ConsumerSpec
from pipeline.errors import NotFoundError, UsageError
from pipeline.event import Event
from pipeline.list_options import ListOptions
from pipeline.options import Retry


def nothing(event: Event) -> None:
    """A handler."""


def test_a_list_stands_as_it_is_called_and_its_group_is_workers() -> None:
    """Whatever the namespace: others push to it by that name."""
    app = Pipeline(namespace="prod")
    app.consumer(list="emails")(nothing)
    app.consumer("orders", group="g")(nothing)
    (spec,) = app.select(streams=["emails"])
    assert (spec.stream, spec.group, spec.consumed) == ("{emails}:tasks", "workers", "emails")
    assert [spec.consumed for spec in app.select(streams=["orders"])] == ["prod:orders"]
    with pytest.raises(NotFoundError, match=r"there are: emails, prod:orders"):
        app.select(streams=["mail"])


def test_a_list_and_what_goes_with_it_is_checked_where_it_is_declared() -> None:
    """Each error names the list, and what is possible."""
    app = Pipeline()
    for given, says in (
        ({}, "either a stream or a list"),
        ({"stream": "orders", "list": "emails", "group": "g"}, "either a stream or a list"),
        ({"stream": "orders"}, "stream 'orders': group="),
        ({"list": 7}, "list=7: the name of a list, or ListOptions"),
        ({"list": ""}, "a list name is text"),
        ({"list": "emails", "start": "end"}, "a list has no history"),
    ):
        with pytest.raises(UsageError, match=says):
            app.consumer(**given)(nothing)
    app.consumer(list="emails", types=["a"])(nothing)
    app.consumer(list=ListOptions(name="emails"), types=["b"])(nothing)
    with pytest.raises(UsageError, match="each of its tasks is done once"):
        app.consumer(list="emails", group="others", types=["c"])(nothing)
    with pytest.raises(UsageError, match="are given other ListOptions"):
        app.consumer(list=ListOptions(name="emails", order="lifo"), types=["c"])(nothing)
    with pytest.raises(UsageError, match="either a stream or a list"):
        Consumer(url="redis://127.0.0.1:1")
    with pytest.raises(UsageError, match="its stream is"):
        ConsumerSpec(stream="x", group="g", handler=nothing, list=ListOptions(name="emails"))


def test_an_apps_tests_push_tasks_and_see_what_became_of_them() -> None:
    """With TestPipeline: retries pass by advance(), dead letters are looked up by the list's name."""
    app = Pipeline(namespace="prod")
    sent: list[str] = []

    @app.consumer(list="emails", function=True, retry=Retry(attempts=2, initial="1m"))
    def send(to: str) -> None:
        if to == "bad":
            raise ValueError("no such person")
        sent.append(to)

    @app.consumer(list=ListOptions(name="urgent", order="priority"))
    def run(event: Event) -> None:
        sent.append(f"{event.headers['priority']} {event.data}")

    with TestPipeline(app) as test:
        test.push("emails", {"function": "send", "args": ["ada"]}, {"function": "send", "args": ["bad"]})
        test.push("urgent", "text")
        test.run_until_idle()
        assert sorted(sent) == ["0 text", "ada"]
        assert test.waiting("emails") == 1
        test.advance("1m")
        test.run_until_idle()
        ((letter, event),) = test.dead("emails")
        assert (letter.error, letter.attempts, event and event.type) == ("ValueError", 2, "send")
        with pytest.raises(NotFoundError, match="no list 'others'"):
            test.push("others", 1)
