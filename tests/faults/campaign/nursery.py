"""Nursery: a process that has imported everything, and forks a worker or a producer when it is told to.

    python -m tests.faults.campaign.nursery

Reads one JSON line per child on stdin (`program`, `log`, and the program's arguments) and answers with its pid. When
stdin ends, so do all its children. It runs in the folder whose product is to be tested: a broken variant has its own.
"""

import gc
import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from tests.faults.campaign import producer_process, worker_process

PROGRAMS: dict[str, Callable[..., int]] = {"producer": producer_process.main, "worker": worker_process.main}


def serve() -> None:
    """Fork on request until stdin ends."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them: each writes down how it ended
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for who started us; then stdin ends
    gc.freeze()
    children: list[int] = []
    for line in sys.stdin:
        wanted = json.loads(line)
        pid = os.fork()
        if not pid:
            os._exit(_child(wanted))
        children.append(pid)
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()
    for pid in children:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def _child(wanted: dict[str, Any]) -> int:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    log = os.open(wanted.pop("log"), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    try:
        return PROGRAMS[wanted.pop("program")](**wanted)
    except BaseException:  # noqa: BLE001 - said in its log, and by its code
        sys.excepthook(*sys.exc_info())
        return 70
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


if __name__ == "__main__":
    serve()
