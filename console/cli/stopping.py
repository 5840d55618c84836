"""Stopping: what SIGTERM and SIGINT do to a verb that goes on until it is told to stop."""

import os
import signal
import threading
from collections.abc import Callable


def stop_by_signal(stop: Callable[[], object]) -> None:
    """SIGTERM and SIGINT call it, once; a second signal ends the process at once."""
    stopping: list[int] = []

    def on_signal(number: int, _: object) -> None:
        if stopping:
            os._exit(128 + number)
        stopping.append(number)
        # In a thread of its own: the main thread may hold a lock that stopping takes, in the wait that the signal
        # interrupts.
        threading.Thread(target=stop, name="millstream-stop").start()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
