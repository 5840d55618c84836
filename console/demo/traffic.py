"""Traffic: what a small shop's services have to say: checkout, payments, mail. Pure but for its own dice.

Most of it is information; about 1 line in 20 is a warning and 1 in 70 an error: a day neither good nor bad.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

_COUNTRIES = ("DE", "FR", "GB", "US", "NL", "SE", "ES", "JP", "BR", "IN")
_METHODS = ("card", "card", "card", "paypal", "invoice", "sepa")
_HOSTS = ("shop-1", "shop-2", "shop-3")


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line to be logged."""

    level: str
    event: str
    fields: dict[str, Any] = field(default_factory=dict)


def traffic(dice: random.Random) -> Iterator[LogLine]:
    """Lines without end: order after order, each with what the services say about it."""
    order = dice.randrange(100_000, 900_000)
    while True:
        order += 1
        yield from _order(dice, order)


def _order(dice: random.Random, order: int) -> Iterator[LogLine]:
    about = {"order": order, "request_id": f"{dice.getrandbits(48):012x}", "host": dice.choice(_HOSTS)}
    cents = int(dice.lognormvariate(8.2, 0.9))
    customer = f"customer-{dice.randrange(1, 20_000)}"
    yield LogLine(
        "info",
        "order placed",
        about
        | {
            "service": "checkout",
            "customer": customer,
            "items": dice.randrange(1, 9),
            "total_cents": cents,
            "country": dice.choice(_COUNTRIES),
            "took_ms": round(dice.lognormvariate(3.4, 0.5), 1),
        },
    )
    if dice.random() < 0.04:
        left = dice.randrange(0, 4)
        yield LogLine(
            "warning",
            "stock is low",
            about | {"service": "checkout", "sku": f"SKU-{dice.randrange(900)}", "left": left},
        )
    yield from _payment(dice, about | {"service": "payments", "total_cents": cents})
    yield from _mail(dice, about | {"service": "mail", "customer": customer})


def _payment(dice: random.Random, about: dict[str, Any]) -> Iterator[LogLine]:
    about = about | {"method": dice.choice(_METHODS)}
    yield LogLine("info", "payment requested", about)
    fate = dice.random()
    if fate < 0.05:
        yield LogLine(
            "error", "payment provider does not answer", about | {"timeout_ms": 3_000, "provider": "acme-pay"}
        )
        yield LogLine("warning", "payment is tried again", about | {"attempt": 2})
    elif fate < 0.11:
        yield LogLine(
            "warning",
            "payment declined",
            about | {"reason": dice.choice(("funds", "expired", "fraud check"))},
        )
        return
    yield LogLine("info", "payment settled", about | {"took_ms": round(dice.lognormvariate(5.0, 0.6), 1)})


def _mail(dice: random.Random, about: dict[str, Any]) -> Iterator[LogLine]:
    yield LogLine("info", "mail queued", about | {"template": "order-confirmation"})
    fate = dice.random()
    if fate < 0.03:
        yield LogLine("warning", "mail bounced", about | {"code": 550, "answer": "mailbox unavailable"})
    elif fate < 0.04:
        yield LogLine("error", "mail server refuses the connection", about | {"code": 421})
    else:
        yield LogLine("info", "mail delivered", about | {"bytes": dice.randrange(4_000, 60_000)})
