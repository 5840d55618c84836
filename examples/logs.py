"""Logs: an application that logs as it always did, and a group that picks the errors out of the stream.

MILLSTREAM_URL=embedded://data python examples/logs.py
"""

import logging

import structlog

from millstream import Consumer, LogHandler, ship_logs

shipping = ship_logs("logs", level="info", mask=("password",))
structlog.configure(
    processors=[
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso"),
        shipping,  # never waits for the server, never raises because of it
        structlog.processors.JSONRenderer(),
    ]
)
logging.getLogger().addHandler(LogHandler("logs"))  # lines of libraries come along
logging.getLogger().setLevel(logging.INFO)


def main() -> None:
    """Log a little, then read the errors back as a group of their own."""
    log = structlog.get_logger()
    for number in range(20):
        log.info("request served", path="/orders", status=200, number=number)
    log.error("payment refused", order=7, password="swordfish")
    logging.getLogger("library").error("connection lost to %s", "bank-1")

    with Consumer("logs", group="alerts", timeout_s=3) as consumer:
        for delivery in consumer:
            if delivery.event.data.get("level") in ("error", "critical"):
                print("alert:", delivery.event.data)


if __name__ == "__main__":
    main()
