"""A worker process of ours on a list, beside old ones; keeps an account as they do, written before it acknowledges.

python worker.py consumer|take URL LIST ACCOUNT OLD_TIMEOUT_S WORK_MS
"""

import logging
import sys
import time

from consumers.app import Pipeline
from consumers.list_queue import ListQueue
from pipeline.event import Event
from pipeline.list_options import ListOptions
from tests.lists.classic import PROCESSING, Account

CLAIM_AFTER = "1s"


def main(kind: str, url: str, name: str, account: str, old_timeout_s: str, work_ms: str) -> int:
    """Work until SIGTERM; 0 after a clean stop."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(process)d %(message)s")
    options = ListOptions(
        name=name, old_processing=PROCESSING, old_timeout_ms=int(float(old_timeout_s) * 1_000)
    )
    book = Account(account)
    book.write("started")

    def work(event: Event) -> None:
        time.sleep(float(work_ms) / 1_000)
        book.write("done", event.data.encode())

    if kind == "consumer":
        app = Pipeline(url)
        app.consumer(list=options, claim_after=CLAIM_AFTER, concurrency=4, grace="10s")(work)
        return 0 if app.run() else 1
    with ListQueue(options, url, claim_after=CLAIM_AFTER) as queue:
        while True:
            delivery = queue.take("1s")
            if delivery is not None:
                work(delivery.event)
                delivery.ack()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
