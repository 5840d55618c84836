"""Pushing: the producers of a list queue: old ones with the plain client, and ours.

The plain client does not know what became of a push whose answer was lost, and leaves it at that; what was refused it
pushes again. Ours numbers its pushes, and tries until it knows.
"""

import json
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from consumers.list_queue import ListQueue
from pipeline.errors import MillstreamError, SendUnknownError
from tests.faults.campaign.history import CONFIRMED, FAILED, UNKNOWN
from tests.faults.campaign.sending import TICK_S, Sending

REFUSED_S = 0.02
"""A plain producer tries again so long after a refusal."""


def push_plainly(url: str, name: str, sending: Sending, rate: float) -> None:
    """LPUSH, one task at a time."""
    _push_plainly(url, sending, rate, lambda client, payload: client.lpush(name, payload))


def push_plain_priorities(url: str, name: str, sending: Sending, rate: float) -> None:
    """ZADD to a priority queue, one task at a time."""
    _push_plainly(url, sending, rate, lambda client, payload: client.zadd(name, {payload: len(payload) % 5}))


def push_priorities(url: str, name: str, sending: Sending, rate: float) -> None:
    """push() with a priority, one task at a time."""
    with ListQueue(name, url, order="priority") as queue:
        for count in sending.chunks(rate):
            for event in sending.events(count) if count else ():
                sending.tell([event], _fate(lambda event=event: queue.push(event, priority=event["sum"] % 5)))
            time.sleep(TICK_S)


def _push_plainly(url: str, sending: Sending, rate: float, push: Callable[[Any, str], Any]) -> None:
    client = redis.Redis.from_url(url, retry=Retry(NoBackoff(), 0), socket_timeout=5)
    for count in sending.chunks(rate):
        for event in sending.events(count) if count else ():
            fate = _pushed(partial(push, client, json.dumps(event)))
            sending.tell([event], fate)
            if fate == UNKNOWN:
                _until_there(client)
        time.sleep(TICK_S)


def push_ours(url: str, name: str, sending: Sending, rate: float) -> None:
    """push(), one task at a time."""
    with ListQueue(name, url) as queue:
        for count in sending.chunks(rate):
            for event in sending.events(count) if count else ():
                sending.tell([event], _fate(lambda event=event: queue.push(event)))
            time.sleep(TICK_S)


def push_ours_many(url: str, name: str, sending: Sending, rate: float) -> None:
    """push_many(), some 20 at a time."""
    with ListQueue(name, url) as queue:
        waiting = 0
        for count in sending.chunks(rate):
            waiting += count
            if waiting >= 20:
                events, waiting = sending.events(waiting), 0
                sending.tell(events, _fate(lambda events=events: queue.push_many(events)))
            time.sleep(TICK_S)


def _pushed(push: Callable[[], Any]) -> str:
    while True:
        try:
            push()
        except (redis.ResponseError, redis.exceptions.BusyLoadingError):
            time.sleep(REFUSED_S)
        except (redis.ConnectionError, redis.TimeoutError):
            return UNKNOWN
        else:
            return CONFIRMED


def _until_there(client: "redis.Redis") -> None:
    """Wait as an application does that cannot go on without its queue."""
    while True:
        try:
            client.ping()
        except (redis.ConnectionError, redis.TimeoutError):
            time.sleep(REFUSED_S)
        else:
            return


def _fate(push: Any) -> str:
    try:
        push()
    except SendUnknownError:
        return UNKNOWN
    except MillstreamError:
        return FAILED
    return CONFIRMED
