"""A worker process of the fault suite: handles events and keeps an account of each, written before it is settled.

    python worker.py URL STREAM GROUP ACCOUNT [WORK_MS] [CLAIM_AFTER] [CONCURRENCY]

A line of the account: event id, entry id, pid, attempt, time of the start and of the end in s since 1970. It is one
write to a file opened for appending, so a kill at any instruction leaves whole lines only.
"""

import logging
import os
import sys
import time

from consumers.app import Pipeline
from consumers.delivery import Delivery
from pipeline.event import Event


def main(
    url: str,
    stream: str,
    group: str,
    account: str,
    work_ms: str = "0",
    claim_after: str = "1s",
    concurrency: str = "8",
) -> int:
    """Consume until SIGTERM; 0 after a clean stop."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(process)d %(message)s")
    file = os.open(account, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    app = Pipeline(url)

    @app.consumer(stream, group=group, claim_after=claim_after, concurrency=int(concurrency), grace="10s")
    def work(event: Event, delivery: Delivery) -> None:
        begun_s = time.time()
        time.sleep(float(work_ms) / 1_000)
        line = f"{event.id} {delivery.entry_id} {os.getpid()} {delivery.attempt} {begun_s:.4f} {time.time():.4f}\n"
        os.write(file, line.encode())

    return 0 if app.run() else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
