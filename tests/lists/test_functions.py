"""Function handlers: tasks that ask for a function run it with their arguments; what cannot run says why."""

import functools
import json
import threading
from collections.abc import Callable

import pytest

from consumers.app import Pipeline
from pipeline.envelope import read_dead
from pipeline.errors import UsageError
from pipeline.event import Event
from pipeline.keys import StreamKeys
from pipeline.options import Retry
from pipeline.server.replies import parse_entries
from pipeline.wire import encode_entry
from tests.lists.conftest import Listing
from tests.until import until


def asking(function: str, *args: object, **kwargs: object) -> str:
    """A task as old producers push it."""
    return json.dumps({"function": function, "args": args} | ({"kwargs": kwargs} if kwargs else {}))


def test_functions_are_called_with_the_arguments_of_their_tasks(listing: Listing) -> None:
    """Several on one list, plain and async: args by position or by name, kwargs beside them, or none at all."""
    called: list[tuple[object, ...]] = []

    @listing.app.consumer(list=listing.list, function=True)
    def add(one: int, other: int = 0, *, note: str = "") -> None:
        called.append(("add", one, other, note))

    @listing.app.consumer(list=listing.list, function="mail.send")
    async def send(**words: object) -> None:
        called.append(("send", words))

    listing.push(
        asking("add", 1, 2),
        asking("add", 3, note="x"),
        '{"function": "add", "args": {"one": 4}, "kwargs": {"note": "y"}}',
        '{"function": "mail.send"}',
        asking("mail.send", to="a@b"),
    )
    with listing.running():
        listing.until_gone()
    plain = sorted(call[1:] for call in called if call[0] == "add")
    assert plain == [(1, 2, ""), (3, 0, "x"), (4, 0, "y")]
    assert [call for call in called if call[0] == "send"] == [("send", {}), ("send", {"to": "a@b"})]
    assert add(1) is None, "the decorated function stays as it is"


@pytest.mark.parametrize(
    ("task", "says"),
    [
        (
            asking("add", 1, 2, 3),
            "add(one: int, other: int) -> None does not take (1, 2, 3): too many positional arguments",
        ),
        (
            asking("add", 1),
            "add(one: int, other: int) -> None does not take (1): missing a required argument: 'other'",
        ),
        ('{"function": "add", "args": "x"}', "args is an array or an object, not 'x' (str)"),
        (
            '{"function": "add", "args": {"one": 1}, "kwargs": {"one": 2}}',
            "the argument 'one' stands in args",
        ),
        ('{"function": "add", "kwargs": [1]}', "kwargs is an object, not [1] (list)"),
    ],
)
def test_arguments_that_do_not_fit_are_dead_letters_at_once(listing: Listing, task: str, says: str) -> None:
    """No run can help: the letter names the function and what it was given; the function is not called."""

    @listing.app.consumer(list=listing.list, function=True)
    def add(one: int, other: int) -> None:
        raise AssertionError("never called")

    listing.push(task)
    with listing.running():
        until(listing.dead_of)
    ((letter, fields),) = listing.dead_of()
    assert letter.error == "ArgumentsError"
    assert letter.attempts == 1
    assert says in letter.reason
    assert fields[-1] == task.encode()
    assert listing.gone()


def test_a_type_error_of_the_functions_own_is_retried(listing: Listing) -> None:
    """It is a failure like any other."""
    runs: list[int] = []

    @listing.app.consumer(list=listing.list, function=True, retry=Retry(attempts=2, initial="1ms"))
    def add(one: int) -> None:
        runs.append(one)
        raise TypeError("no")

    listing.push(asking("add", 1))
    with listing.running():
        until(listing.dead_of)
    assert runs == [1, 1]


@pytest.mark.parametrize("task", [asking("gone", 1), "just text", '{"args": [1]}', '{"function": 7}'])
def test_a_task_that_nobody_takes_is_retried_and_then_a_dead_letter(listing: Listing, task: str) -> None:
    """It names the function and those that are registered."""

    @listing.app.consumer(list=listing.list, function=True, retry=Retry(attempts=2, initial="1ms"))
    def add(one: int) -> None:
        raise AssertionError("never called")

    @listing.app.consumer(list=listing.list, function="other", retry=Retry(attempts=2, initial="1ms"))
    def another() -> None:
        raise AssertionError("never called")

    listing.push(task)
    with listing.running():
        until(listing.dead_of)
    ((letter, _),) = listing.dead_of()
    assert (letter.error, letter.attempts) == ("UnknownFunctionError", 2)
    what = "function 'gone' is not known here" if "gone" in task else "the task names no function"
    assert letter.reason == f"{what}; known: add, other"


def test_a_function_that_comes_with_a_later_worker_runs_there(listing: Listing) -> None:
    """A rolling deploy: what the old worker cannot run waits for its retry, and the new one has it."""
    done = threading.Event()

    @listing.app.consumer(list=listing.list, function=True, retry=Retry(attempts=5, initial="200ms"))
    def old() -> None:
        raise AssertionError("never called")

    app = Pipeline(listing.url)

    @app.consumer(list=listing.list, function=True, retry=Retry(attempts=5, initial="200ms"))
    def new(number: int) -> None:
        done.set()

    with listing.running():
        listing.push(asking("new", 1))
        until(lambda: listing.waiting("workers"))
    with listing.running(app):
        assert done.wait(10)
        listing.until_gone()


@pytest.mark.parametrize("payload", [b"\xff\xfe\xfd", b"\xc1"])
@pytest.mark.parametrize("function", [True, False])
def test_a_payload_that_cannot_be_decoded_is_kept_as_a_dead_letter(
    listing: Listing, payload: bytes, function: bool
) -> None:
    """At once, with its bytes; also where only functions are asked for."""

    @listing.app.consumer(list=listing.list, function=function)
    def handle(event: Event) -> None:
        _ = event.data

    listing.push(payload)
    with listing.running():
        until(listing.dead_of)
    ((letter, fields),) = listing.dead_of()
    assert (letter.error, letter.attempts) == ("DecodeError", 1)
    assert fields[-1] == payload
    assert listing.gone()


def test_what_function_cannot_be_used_with_is_refused() -> None:
    """Each names the option and what is allowed."""
    app = Pipeline()

    def run() -> None:
        """A function."""

    for options, says in (
        ({"function": True, "batch": 5}, "not a batch"),
        ({"function": True, "types": ["x"]}, "types= is not"),
        ({"function": "a*"}, "function='a\\*'"),
        ({"function": 7}, "function=7"),
        ({"function": True, "once": True}, "takes no delivery"),
    ):
        with pytest.raises(UsageError, match=says):
            app.consumer(list="emails", **options)(run)
    with pytest.raises(UsageError, match="not a function"):
        app.consumer(list="emails", function="x")(7)  # type: ignore[type-var]
    app.consumer(list="emails", function=True)(run)
    with pytest.raises(UsageError, match="has a handler already"):
        app.consumer(list="emails", function="run")(run)


def test_what_a_decorator_adds_is_not_asked_of_the_task(listing: Listing) -> None:
    """Its signature names an argument that tasks do not bring: the call tells, not the signature."""
    seen: list[tuple[str, int]] = []

    def with_session(function: Callable[[str, int], None]) -> Callable[[int], None]:
        @functools.wraps(function)
        def wrapped(number: int) -> None:
            function("session", number)

        return wrapped

    @listing.app.consumer(list=listing.list, function=True)
    @with_session
    def add(session: str, number: int) -> None:
        seen.append((session, number))

    listing.push(asking("add", 7))
    with listing.running():
        until(lambda: seen)
    assert seen == [("session", 7)]


def test_functions_run_for_events_of_a_stream_too(listing: Listing) -> None:
    """Those of the function's name; data that is no task is a dead letter, and other types are others'."""
    called: list[int] = []

    @listing.app.consumer(listing.list, group="g", function=True)
    def add(number: int) -> None:
        called.append(number)

    for data, type_ in (({"args": [1]}, "add"), ([1], "add"), ({"args": [2]}, "other")):
        fields = encode_entry(Event(data, type=type_), producer="p", number=len(str(data)))
        listing.link.call("XADD", listing.list, "*", *fields)
    dead = StreamKeys(listing.list).dead("g")
    with listing.running():
        until(lambda: called and listing.link.call("XLEN", dead))
    ((_, died),) = parse_entries(listing.link.call("XRANGE", dead, "-", "+"))
    letter, _ = read_dead(died or [])
    assert letter is not None
    assert letter.reason == "arguments do not fit: a task is an object with args and kwargs, not [1] (list)"
    assert called == [1]
