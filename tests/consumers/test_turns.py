"""Turns on a real server: what runs in the thread that reads is settled once, in order, one at a time."""

import threading

from pipeline.event import Event
from tests.consuming import Consuming, total
from tests.until import until


def in_reader() -> bool:
    """Whether this is a thread that reads."""
    return "-reader-" in threading.current_thread().name


def test_turns_that_change_again_and_again_keep_order_and_leave_nothing_behind(consuming: Consuming) -> None:
    """Slow and quick handlers in turn, never two at once; no thread and no connection more than before."""
    seen: list[int] = []
    running: list[int] = []
    most = slow_here = 0
    pause = threading.Event()

    @consuming.app.consumer(consuming.stream, group="turns", concurrency=1)
    def handle(event: Event) -> None:
        nonlocal most, slow_here
        running.append(event.data)
        most = max(most, len(running))
        if event.data % 3 == 2:
            slow_here += in_reader()
            pause.wait(0.03)
        seen.append(event.data)
        running.remove(event.data)

    def connections() -> int:
        lines = consuming.link.call("CLIENT", "LIST").decode().splitlines()
        return sum(" name=millstream:turns-" in line for line in lines)

    with consuming.running() as one:
        sent = 0
        until(lambda: connections() == 2, what="one thread reads, another has the duties")
        while slow_here < 40:
            assert sent < 2_000, "handlers run in the thread that reads"
            consuming.send(sent)
            sent += 1
            until(lambda: len(seen) == sent)  # noqa: B023 - asked within this turn of the loop
        until(one.members[0].idle)
        names = [thread.name for thread in threading.enumerate()]
        assert sum("-turns-reader-" in name for name in names) == 2
        assert total(one.members)["taken_over_from_us"] == 0
        until(lambda: connections() == 2, what=lambda: f"{connections()} connections are left")
    assert (most, seen) == (1, list(range(sent)))
