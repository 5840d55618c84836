"""ConsumerSpec: what may be a handler, and which events it takes."""

import functools
import re
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.declare import ConsumerSpec, takes_type
from pipeline.errors import UsageError
from pipeline.event import Event
from pipeline.options import ConsumerOptions


def plain(event: Event) -> None:
    """Takes the event."""


def with_delivery(event: Event, delivery: object) -> None:
    """Takes the delivery too."""


async def awaited(event: Event) -> None:
    """Async."""


class Callables:
    """Handlers that are objects, or methods of them."""

    def __call__(self, event: Event) -> None: ...

    def method(self, event: Event, delivery: object) -> None:
        """A method."""

    async def async_method(self, event: Event) -> None:
        """An async method."""


class AsyncCallable:
    """An object that is called asynchronously."""

    async def __call__(self, event: Event) -> None: ...


def spec(handler: Callable[..., Any], **options: Any) -> ConsumerSpec:
    """A declared handler."""
    return ConsumerSpec(stream="s", group="g", handler=handler, options=ConsumerOptions(**options))


@pytest.mark.parametrize(
    ("handler", "is_async", "wants_delivery"),
    [
        (plain, False, False),
        (with_delivery, False, True),
        (awaited, True, False),
        (Callables(), False, False),
        (Callables().method, False, True),
        (Callables().async_method, True, False),
        (AsyncCallable(), True, False),
        (functools.partial(with_delivery, delivery=None), False, False),
        (lambda event: None, False, False),
        (lambda event, bound=7: None, False, False),
        (lambda event, delivery=None: None, False, True),
        (lambda *args: None, False, False),
        (print, False, False),
        ([].append, False, False),
    ],
)
def test_handlers_of_all_kinds(handler: Callable[..., Any], is_async: bool, wants_delivery: bool) -> None:
    """Functions, methods, objects, partials; the second parameter is the delivery, unless it has a default."""
    declared = spec(handler)
    assert (declared.is_async, declared.wants_delivery) == (is_async, wants_delivery)


@pytest.mark.parametrize("handler", [lambda: None, lambda a, b, c: None, 7, "print", None])
def test_what_cannot_be_a_handler_is_refused(handler: Any) -> None:
    """Where it is declared."""
    with pytest.raises(UsageError):
        spec(handler)


def test_a_batch_handler_takes_the_list_alone() -> None:
    """There is no one delivery to give it."""
    assert spec(plain, batch=5).options.batch == 5
    with pytest.raises(UsageError, match="batch handler"):
        spec(with_delivery, batch=5)


@pytest.mark.parametrize(
    ("handler", "options", "concurrency"),
    [
        (plain, {}, 8),
        (awaited, {}, 64),
        (plain, {"batch": 10}, 1),
        (awaited, {"batch": 10}, 1),
        (plain, {"concurrency": 3}, 3),
        (awaited, {"concurrency": 3, "batch": 2}, 3),
    ],
)
def test_concurrency_where_none_is_given(
    handler: Callable[..., Any], options: dict[str, Any], concurrency: int
) -> None:
    """64 for async, 8 threads for plain, one batch at a time."""
    assert spec(handler, **options).concurrency == concurrency


@pytest.mark.parametrize("names", [("", "g"), ("s", ""), ("{", "g"), ("s", "a\nb")])
def test_names_that_cannot_be_are_refused(names: tuple[str, str]) -> None:
    """Stream and group."""
    with pytest.raises(UsageError):
        ConsumerSpec(stream=names[0], group=names[1], handler=plain)


@pytest.mark.parametrize(
    ("types", "event_type", "taken"),
    [
        ((), "anything", True),
        ((), "", True),
        (("order.placed",), "order.placed", True),
        (("order.placed",), "order.placed.x", False),
        (("order.*",), "order.placed", True),
        (("order.*",), "order.", True),
        (("order.*",), "order", False),
        (("*.placed",), "order.placed", True),
        (("a*b*c",), "aXbYc", True),
        (("a*b*c",), "acb", False),
        (("*",), "", True),
        (("a", "b"), "b", True),
        (("a.c",), "abc", False),
        (("*",), "with\nnewline", True),
        (("[a]",), "a", False),
    ],
)
def test_which_types_a_filter_takes(types: tuple[str, ...], event_type: str, taken: bool) -> None:
    """* stands for any text, and nothing else is special."""
    assert takes_type(types, event_type) is taken


@given(st.text(max_size=20), st.text(max_size=20), st.text(max_size=20))
def test_a_star_takes_any_text(start: str, middle: str, end: str) -> None:
    """Between any two parts."""
    pattern = f"{start.replace('*', '')}*{end.replace('*', '')}"
    assert takes_type((pattern,), pattern.replace("*", middle, 1))


@given(st.text("ab*", max_size=8), st.text("ab", max_size=12))
def test_a_star_stands_for_any_text_wherever_it_is(pattern: str, event_type: str) -> None:
    """As a regular expression would have it."""
    expected = re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), event_type) is not None
    assert takes_type((pattern,), event_type) is expected


def test_no_type_keeps_a_filter_busy() -> None:
    """Types come from anyone; a regular expression would take hours for this one, with the interpreter in its hands."""
    began_s = time.process_time()
    assert not takes_type(("*a*a*a*b",), "a" * 60_000)
    assert time.process_time() - began_s < 1
