"""The process that does one duty of the bench: reads its task from stdin, says what it found on stdout, ends."""

import json
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Any

from console.bench.bare import (
    bare_append,
    bare_consume,
    bare_latency,
    bare_packs_append,
    bare_packs_consume,
    bare_send,
)
from console.bench.consuming import consume
from console.bench.delay import latency
from console.bench.producing import produce
from console.output import write
from console.settings import settings_from
from consumers.supervisor import stop_with_parent
from pipeline.errors import MillstreamError

DUTIES: Mapping[str, Callable[..., dict[str, Any]]] = {
    "produce": produce,
    "consume": consume,
    "latency": latency,
    "bare-append": bare_append,
    "bare-consume": bare_consume,
    "bare-packs-append": bare_packs_append,
    "bare-packs-consume": bare_packs_consume,
    "bare-latency": bare_latency,
    "bare-send": bare_send,
}


def say(found: Mapping[str, Any]) -> None:
    """One line, at once."""
    write(sys.stdout, json.dumps(found), flush=True)


def main(duties: Mapping[str, Callable[..., dict[str, Any]]] = DUTIES) -> int:
    """Do the duty that the task names."""
    stop_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the bench ends us
    task = json.loads(sys.stdin.readline())
    try:
        found = duties[task["duty"]](
            settings_from().worker_url, ready=lambda: say({"ready": True}), **task["with"]
        )
    except (MillstreamError, RuntimeError, OSError) as error:
        write(sys.stderr, f"{type(error).__name__}: {error}")
        return 1
    say(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
