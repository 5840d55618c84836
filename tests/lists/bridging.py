"""What the tests of bridges share: tasks pushed as old producers do, and what of them is found on either side."""

import json
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from pipeline.event import Event
from pipeline.list_options import ListOptions
from pipeline.server.connect import Link
from pipeline.wire import decode_entry
from producers.producer import Producer
from producers.sources.feed import Fed
from producers.sources.lists import follow_list


def task(number: int) -> str:
    """A payload as old producers push it."""
    return json.dumps({"function": "send_email", "args": [number]})


def push(link: Link, name: str, numbers: range) -> None:
    """LPUSH, 500 at a time."""
    for start in range(0, len(numbers), 500):
        link.call("LPUSH", name, *map(task, numbers[start : start + 500]))


def events(link: Link, stream: str) -> list[Event]:
    """All events of a stream."""
    entries = link.call("XRANGE", stream, "-", "+")
    return [event for entry_id, fields in entries for event in decode_entry(entry_id, fields).events]


def numbers(link: Link, stream: str) -> list[int]:
    """The numbers of the tasks in a stream, in its order."""
    return [event.data["args"][0] for event in events(link, stream)]


def listed(link: Link, name: str) -> list[int]:
    """The numbers of the tasks in a list, the next one for BRPOP first."""
    return [json.loads(payload)["args"][0] for payload in link.call("LRANGE", name, 0, -1)[::-1]]


def is_sorted(found: Iterable[int]) -> bool:
    """Whether order was kept."""
    found = list(found)
    return found == sorted(found)


Running = Callable[..., tuple[threading.Event, Fed]]


@contextmanager
def bridges(producer: Producer) -> Iterator[Running]:
    """Starts bridges that go on, each in a thread; they are stopped at the end of the block."""
    threads: list[tuple[threading.Event, threading.Thread]] = []
    failures: list[BaseException] = []

    def start(stream: str, queue: ListOptions | str, **given: object) -> tuple[threading.Event, Fed]:
        stop, fed = threading.Event(), Fed()
        arguments = {"producer": producer, "stream": stream, "queue": queue, "stop": stop, "fed": fed} | given

        def run() -> None:
            try:
                follow_list(**arguments)  # type: ignore[arg-type]
            except BaseException as error:
                failures.append(error)
                raise

        thread = threading.Thread(target=run)
        threads.append((stop, thread))
        thread.start()
        return stop, fed

    try:
        yield start
    finally:
        for stop, _ in threads:
            stop.set()
        for _, thread in threads:
            thread.join(10)
    assert not any(thread.is_alive() for _, thread in threads), "a bridge does not stop"
    assert not failures
