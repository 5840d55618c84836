"""The demo's service: a program of its own that logs as programs do, with structlog, and ships what it logs.

It stands for the user's application, which is why it configures structlog here and nowhere else in the house.
"""

import random
import signal
import sys
import time
from pathlib import Path
from types import FrameType

import structlog

from console.demo.account import AccountWriter
from console.demo.children import begin
from console.demo.folder import STREAM, RunFolder
from console.demo.recorded import RecordedProducer
from console.demo.traffic import traffic
from pipeline.observe.log import log_to_stderr
from producers.logs import ship_logs

TICK_S = 0.01
"""The service wakes so often and logs what is due."""
LATE_S = 1.0
"""What is due for longer, because the machine slept, is not made up for."""
CLOSE_S = 20


class Service:
    """Logs at a steady rate until it has logged enough, or is told to stop."""

    def __init__(self, producer: RecordedProducer, per_s: float, events: int | None) -> None:
        self._producer = producer
        self._every_s = 1 / per_s
        self._left = events
        self._stopped = False
        self._log = structlog.get_logger()

    def stop(self, number: int, frame: FrameType | None) -> None:
        """On SIGTERM: say nothing more."""
        self._stopped = True

    def run(self) -> None:
        """Log what is due, and write down what the server has confirmed."""
        lines = traffic(random.Random())
        due_s = time.monotonic()
        while not self._stopped and self._left != 0:
            now_s = time.monotonic()
            if now_s - due_s > LATE_S:
                due_s = now_s
            while due_s <= now_s and self._left != 0:
                line = next(lines)
                getattr(self._log, line.level)(line.event, **line.fields)
                due_s += self._every_s
                if self._left is not None:
                    self._left -= 1
            self._producer.record()
            time.sleep(TICK_S)


def main() -> int:
    """Run as the service: RUN-FOLDER EVENTS-PER-SECOND [EVENTS]."""
    run, per_s = RunFolder(Path(sys.argv[1])), float(sys.argv[2])
    begin(run, "service")
    log_to_stderr()
    # An entry for each line: dead letters and losses are told by the entry.
    ship = ship_logs(STREAM, url=run.url, level="info", pack=0)
    producer = RecordedProducer(run.url, AccountWriter(run.confirmed("service")), send_timeout="10m")
    ship.shipper.make_producer = lambda: producer
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            ship,
            structlog.processors.JSONRenderer(),
        ],
        # A service of yours would print its lines too; this one's would only fill the disk: the stream has them.
        logger_factory=structlog.ReturnLoggerFactory(),
    )
    service = Service(producer, per_s, int(sys.argv[3]) if len(sys.argv) > 3 else None)
    signal.signal(signal.SIGTERM, service.stop)
    service.run()
    ship.flush(CLOSE_S)
    return 1 if producer.finish(CLOSE_S) or ship.shipper.dropped else 0


if __name__ == "__main__":
    sys.exit(main())
