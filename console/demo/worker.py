"""A worker of the demo: a member of the group `archive` or `alerts`, in a process of its own.

It writes what it does to the group's file, then the events' ids to its account, and only then returns: so that an
event that is acknowledged stands in an account, whenever the worker is killed.
"""

import asyncio
import os
import sys
from pathlib import Path

from console.demo.account import AccountWriter, Handled, now_ms
from console.demo.children import begin
from console.demo.folder import STREAM, RunFolder
from console.demo.severity import is_alarming
from consumers.app import Pipeline
from consumers.delivery import Delivery
from consumers.sinks.json_lines import JsonLines, event_line
from pipeline.event import Event
from pipeline.observe.log import log_to_stderr
from pipeline.outcome import Outcomes

CLAIM_AFTER = "3s"
GRACE = "5s"
ASKING_S = 0.05
"""How long `alerts` takes for each event, in s: what a question to another service would cost."""


def archive(app: Pipeline, run: RunFolder, account: AccountWriter) -> None:
    """Declare the group that writes every event as a line of JSON."""
    sink = JsonLines(run.output("archive"))

    @app.consumer(
        STREAM, group="archive", batch=100, batch_wait="100ms", claim_after=CLAIM_AFTER, grace=GRACE
    )
    def write(events: list[Event]) -> Outcomes:
        outcomes = sink(events)
        at_ms = now_ms()
        account.write(
            Handled(event.id, at_ms) for index, event in enumerate(events) if index not in outcomes.errors
        )
        return outcomes


def alerts(app: Pipeline, run: RunFolder, account: AccountWriter) -> None:
    """Declare the group that picks warnings and errors. What it passes over it has handled too."""
    sink = JsonLines(run.output("alerts"))

    @app.consumer(STREAM, group="alerts", concurrency=64, claim_after=CLAIM_AFTER, grace=GRACE)
    async def pick(event: Event, delivery: Delivery) -> None:
        alarming = is_alarming(event.data)
        await asyncio.sleep(ASKING_S)
        if alarming:
            sink.write([event_line(event)])
        account.write([Handled(event.id, now_ms(), delivery.replayed)])


def main() -> int:
    """Run as a worker: RUN-FOLDER GROUP."""
    run, group = RunFolder(Path(sys.argv[1])), sys.argv[2]
    begin(run, f"worker-{group}")
    log_to_stderr()
    app = Pipeline(run.url)
    declare = {"archive": archive, "alerts": alerts}[group]
    declare(app, run, AccountWriter(run.handled(group, os.getpid())))
    return 0 if app.run() else 1


if __name__ == "__main__":
    sys.exit(main())
