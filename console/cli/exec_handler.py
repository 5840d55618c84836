"""ExecHandler: a handler that runs a command for each event, the event as one line of JSON on its standard input.

If the event is taken over, runs too long, or this process has to end, the command is killed with all it started. If
this process is killed, the command runs on, while the event runs again elsewhere: at least once, not at most once.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress

from console.event_view import view_of
from console.safe_text import json_text, safe
from consumers.delivery import Delivery
from pipeline.errors import DecodeError
from pipeline.event import Event
from pipeline.outcome import Reject

REJECTED = 65
"""Exit code by which a command says that an event can never succeed (EX_DATAERR of sysexits.h)."""
KEPT_BYTES = 4_000
"""Of what the command says on stderr, so much is kept for the reason of a retry or dead letter."""


class CommandFailed(Exception):
    """The command ended with another exit code than 0."""


class ExecHandler:
    """Runs the command for each event: exit code 0 is done, 65 a dead letter at once, all others a retry."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self.__qualname__ = command[0]  # what the log calls the handler
        self._command = list(command)
        self._environment = dict(environment)

    async def __call__(self, event: Event, delivery: Delivery) -> None:
        """Run the command once. DecodeError: the event is corrupt, and no command is asked about it."""
        view = view_of(delivery.stream, delivery.entry_id, delivery.index, event)
        if view.problem:
            raise DecodeError(view.problem)
        process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=self._environment | _about(event, delivery),
            start_new_session=True,  # Ctrl-C is for us: what runs may finish
        )
        try:
            line = (
                json_text(view_of(delivery.stream, delivery.entry_id, delivery.index, event).as_json()) + "\n"
            )
            said, _ = await asyncio.gather(_passed_on(process), _given(process, line.encode()))
            code = await process.wait()
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        if code == 0:
            return
        ended = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        last = said.decode("utf-8", "replace").strip().rpartition("\n")[2]
        reason = f"{self._command[0]}: {ended}" + (f": {last}" if last else "")
        if code == REJECTED:
            raise Reject(reason)
        raise CommandFailed(reason)


async def _passed_on(process: asyncio.subprocess.Process) -> bytes:
    """Show what the command says on stderr as it comes; the end of it is returned."""
    assert process.stderr is not None, "asked for when it was started"
    kept = b""
    while chunk := await process.stderr.read(1 << 16):
        for line in chunk.decode("utf-8", "replace").splitlines():
            sys.stderr.write(safe(line) + "\n")
        sys.stderr.flush()
        kept = (kept + chunk)[-KEPT_BYTES:]
    return kept


async def _given(process: asyncio.subprocess.Process, line: bytes) -> None:
    """Write the event; a command need not read it."""
    assert process.stdin is not None, "asked for when it was started"
    with suppress(BrokenPipeError, ConnectionResetError):
        process.stdin.write(line)
        await process.stdin.drain()
        process.stdin.close()
        await process.stdin.wait_closed()


def _about(event: Event, delivery: Delivery) -> dict[str, str]:
    """What a command may want to know without reading JSON. A NUL cannot stand in a variable."""
    facts = {
        "STREAM": delivery.stream,
        "GROUP": delivery.group,
        "ENTRY_ID": delivery.entry_id,
        "ATTEMPT": str(delivery.attempt),
        "ID": event.id,
        "TYPE": event.type,
        "KEY": event.key,
    }
    return {f"EVENT_{name}": value.replace("\0", "") for name, value in facts.items()}
