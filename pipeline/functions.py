"""TaskFunction: a plain function as a handler of tasks that ask for it: `{"function": "send", "args": […]}`.

It is called with the task's arguments, and not with the event. What does not fit its parameters is found out before the
call, so that a TypeError of the function's own is told from a task that can never run.
"""

import inspect
from collections.abc import Callable
from typing import Any

from pipeline.errors import ArgumentsError, UsageError
from pipeline.event import Event

MAX_SHOWN = 200
"""Characters of the arguments that an error shows."""


def arguments(data: Any) -> tuple[list[Any], dict[str, Any]]:
    """Positional and named arguments of a task: args as an array or, all named, as an object; kwargs beside them.

    Raises:
        ArgumentsError: they are something else, or one is named twice.
    """
    args, named = data.get("args"), data.get("kwargs")
    if args is not None and not isinstance(args, list | tuple | dict):
        raise ArgumentsError(f"args is an array or an object, not {_shown(args)}")
    if named is not None and not isinstance(named, dict):
        raise ArgumentsError(f"kwargs is an object, not {_shown(named)}")
    words = dict(args) if isinstance(args, dict) else {}
    for name, value in (named or {}).items():
        if name in words:
            raise ArgumentsError(f"the argument {name!r} stands in args and in kwargs")
        words[name] = value
    if not all(isinstance(name, str) for name in words):
        raise ArgumentsError(f"names of arguments are text, not {_shown([*words])}")
    return list(args) if isinstance(args, list | tuple) else [], words


class TaskFunction:
    """Calls a function with the arguments of the task that asks for it."""

    def __init__(self, function: Callable[..., Any], name: str) -> None:
        """Raises: UsageError: not a function."""
        if not callable(function):
            raise UsageError(f"function={name!r} decorates a {type(function).__name__}, not a function")
        self.function = function
        self.name = name
        self.__qualname__ = getattr(function, "__qualname__", name)
        try:
            self._signature: inspect.Signature | None = inspect.signature(function)
        except (TypeError, ValueError):  # builtins without one: what does not fit they say themselves
            self._signature = None

    def __call__(self, event: Event) -> Any:
        """The function's result."""
        args, words = self.fitting(event)
        return self.function(*args, **words)

    def fitting(self, event: Event) -> tuple[list[Any], dict[str, Any]]:
        """The arguments, if the function takes them. Raises: ArgumentsError."""
        args, words = arguments(event.data)
        if self._signature is not None:
            try:
                self._signature.bind(*args, **words)
            except TypeError as error:
                given = ", ".join([*map(repr, args), *(f"{name}={value!r}" for name, value in words.items())])
                raise ArgumentsError(
                    f"{self.name}{self._signature} does not take ({_cut(given)}): {error}"
                ) from None
        return args, words


class AsyncTaskFunction(TaskFunction):
    """The same for a coroutine function."""

    async def __call__(self, event: Event) -> Any:
        """The function's result."""
        args, words = self.fitting(event)
        return await self.function(*args, **words)


def task_function(function: Callable[..., Any], name: str | bool) -> TaskFunction:
    """A function as a handler, by the name that tasks call it; True: by its own.

    Raises:
        UsageError: no name that tasks could ask for.
    """
    own = getattr(function, "__name__", "") if name is True else name
    if not isinstance(own, str) or not own or "*" in own:
        raise UsageError(f"function={name!r}: the name that tasks ask for, or True for the function's own")
    call = getattr(function, "__call__", None)  # noqa: B004 - an object with an async __call__
    is_async = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)
    return (AsyncTaskFunction if is_async else TaskFunction)(function, own)


def _shown(value: Any) -> str:
    return f"{_cut(repr(value))} ({type(value).__name__})"


def _cut(text: str) -> str:
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 1] + "…"
