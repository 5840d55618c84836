"""Started: the processes of a benchmark, which end with it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from console.bench.process import WorkProcess

Start = Callable[..., WorkProcess]


@contextmanager
def processes(url: str) -> Iterator[Start]:
    """A function that starts a process for a duty; all are gone when the block ends."""
    running: list[WorkProcess] = []

    def start(duty: str, **asked: Any) -> WorkProcess:
        process = WorkProcess({"duty": duty, "with": asked}, url, f"{__package__}.work")
        running.append(process)
        return process

    try:
        yield start
    finally:
        for process in running:
            process.end()
