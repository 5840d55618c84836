"""An application that serves requests and logs while somebody stops its server: how long requests took, what it logged.

    python -m tests.faults.outage_app URL STREAM SPILL-FOLDER-OR-"" LINES-PER-SECOND SECONDS RESULTS-FILE

A request takes some work and logs ten lines, one of a hundred lines at ERROR. It is measured from when it was due.
"""

import json
import sys
import time
from pathlib import Path

from producers.logs import ship_logs

LINES = 10
TICK_S = 0.005
ERROR_EVERY = 100


def serve(number: int, ship: object) -> int:
    """One request: the number of the next line."""
    assert callable(ship)
    total = sum(value * value % 7 for value in range(1_000))
    for line in range(number, number + LINES):
        level = "error" if line % ERROR_EVERY == 0 else "info"
        ship(
            None, level,
            {
                "event": line, "level": level, "logger": "shop.orders", "request_id": f"req-{number:012}",
                "path": "/orders/7", "status": 200, "user": "customer-7", "took_ms": 12.5, "total": total,
            },
        )  # fmt: skip
    return number + LINES


def main(url: str, stream: str, spill: str, rate: int, seconds: float, results: Path) -> None:
    """Serve so many requests that the lines come at that rate, for so long; then write down how it went."""
    ship = ship_logs(stream, url=url, exit="60s", spill=spill)
    per_tick = max(round(rate * TICK_S / LINES), 1)
    began_s = time.monotonic()
    due_s: list[float] = []
    took_s: list[float] = []
    number = 0
    sys.stdout.write(f"{began_s}\n")
    sys.stdout.flush()
    for tick in range(round(seconds / TICK_S)):
        tick_s = began_s + tick * TICK_S
        if (wait_s := tick_s - time.monotonic()) > 0:
            time.sleep(wait_s)
        for _ in range(per_tick):
            number = serve(number, ship)
            due_s.append(tick_s)
            took_s.append(time.monotonic() - tick_s)
    ended_s = time.monotonic()
    flushed = ship.flush(60)
    shipper = ship.shipper
    results.write_text(
        json.dumps(
            {
                "lines": number, "dropped": shipper.dropped, "flushed": flushed, "due_s": due_s, "took_s": took_s,
                "spilled": shipper.spool.spilled if shipper.spool else 0,
                "rate": number / (ended_s - began_s), "drained_s": time.monotonic() - ended_s,
            }
        )
    )  # fmt: skip


if __name__ == "__main__":
    at = sys.argv
    main(at[1], at[2], at[3], int(at[4]), float(at[5]), Path(at[6]))
