"""until: waits for a condition, and says what did not come true. The only sleep in the tests."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def until(
    predicate: Callable[[], T],
    timeout_s: float = 10,
    *,
    what: str | Callable[[], str] = "",
    every_s: float = 0.01,
) -> T:
    """The first true value of predicate(), asked every 10 ms; AssertionError if none comes within timeout_s."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = predicate()
        if value:
            return value
        if time.monotonic() > deadline:
            said = what() if callable(what) else what
            raise AssertionError(
                f"not within {timeout_s:g} s: {said or getattr(predicate, '__name__', predicate)}"
            )
        time.sleep(every_s)
