"""TaskFunction: a plain function as a handler of tasks that ask for it: `{"function": "send", "args": […]}`.

It is called with the task's arguments, and not with the event. That these do not fit is told from a TypeError of the
function's own: such a task can never run.
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
    if not isinstance(data, dict):
        raise ArgumentsError(f"a task is an object with args and kwargs, not {_shown(data)}")
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
        args, words = arguments(event.data)
        try:
            return self.function(*args, **words)
        except TypeError as error:
            misfit = self._misfit(error, args, words)
            if misfit is not None:
                raise misfit from None
            raise

    def _misfit(self, error: TypeError, args: list[Any], words: dict[str, Any]) -> ArgumentsError | None:
        """What is wrong with the arguments, if that is why the call was refused.

        No frame of the function's in the traceback: it did not begin, or is not written in Python. The signature alone
        would not tell: a decorator may add arguments that it does not name.
        """
        began = error.__traceback__ is not None and error.__traceback__.tb_next is not None
        if began or self._signature is None:
            return None
        try:
            self._signature.bind(*args, **words)
        except TypeError as problem:
            given = ", ".join([*map(repr, args), *(f"{name}={value!r}" for name, value in words.items())])
            return ArgumentsError(f"{self.name}{self._signature} does not take ({_cut(given)}): {problem}")
        return None


class AsyncTaskFunction(TaskFunction):
    """The same for a coroutine function."""

    async def __call__(self, event: Event) -> Any:
        """The function's result."""
        args, words = arguments(event.data)
        try:
            running = self.function(*args, **words)
        except TypeError as error:
            misfit = self._misfit(error, args, words)
            if misfit is not None:
                raise misfit from None
            raise
        return await running


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
