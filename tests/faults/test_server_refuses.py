"""A server that answers, but refuses: for want of memory, of replicas, of its scripts."""

from collections.abc import Callable, Iterator
from functools import partial

import pytest

from pipeline.event import Event
from pipeline.options import Retry
from pipeline.outcome import Reject
from tests.conftest import OwnServer, Server
from tests.consuming import PRODUCER, Consuming, consuming_on, total
from tests.until import until


@pytest.fixture
def mine(own_server: OwnServer, stream: str) -> Iterator[Consuming]:
    """A stream on a server whose settings this test changes."""
    server: Server = own_server()
    with consuming_on(server.address, stream) as consuming:
        yield consuming


def declare(consuming: Consuming) -> set[str]:
    """A handler that fails every tenth event once and rejects every hundredth; the ids it finished."""
    done: set[str] = set()
    failed: set[str] = set()

    @consuming.app.consumer(consuming.stream, group="g", retry=Retry(5, 0, 0))
    def handle(event: Event) -> None:
        if event.data % 100 == 99:
            raise Reject("every hundredth")
        if event.data % 10 == 5 and event.id not in failed:
            failed.add(event.id)
            raise ValueError("the first time")
        done.add(event.id)

    return done


def wanted(count: int) -> set[str]:
    """Ids of the events that are not rejected."""
    return {f"{PRODUCER}-{number + 1}" for number in range(count) if number % 100 != 99}


def said(caplog: pytest.LogCaptureFixture, words: str) -> bool:
    """Whether a log line has these words."""
    return any(words in record.getMessage() for record in caplog.records)


def test_writes_refused_for_a_while_cost_nothing(
    mine: Consuming, scaled: Callable[[int], int], caplog: pytest.LogCaptureFixture
) -> None:
    """Too few replicas: neither reads nor settlements pass; then all of it does, and the member is well."""
    done = declare(mine)
    count = scaled(5_000)
    with mine.running():
        for part in range(2):
            mine.send(*range(part * count // 2, (part + 1) * count // 2))
            until(lambda part=part: len(done) > part * count // 3, what="it is at work")  # type: ignore[misc]
            mine.link.call("CONFIG", "SET", "min-replicas-to-write", 1)
            caplog.clear()
            until(partial(said, caplog, "too few replicas"), 10, what="it has met the refusal")
            mine.link.call("CONFIG", "SET", "min-replicas-to-write", 0)
        mine.until_drained()
    assert done == wanted(count)
    assert len(mine.dead()) == count // 100


def test_out_of_memory_handlers_run_on(mine: Consuming, scaled: Callable[[int], int]) -> None:
    """What is in the stream is read, settled and buried; retries wait on the server until there is memory."""
    done = declare(mine)
    count = scaled(5_000)
    mine.send(*range(count))
    mine.link.call("CONFIG", "SET", "maxmemory", 1)
    with mine.running():
        first_runs = {f"{PRODUCER}-{n + 1}" for n in range(count) if n % 100 != 99 and n % 10 != 5}
        until(lambda: first_runs <= done, 20, what="all that does not fail is handled")
        until(lambda: not mine.pending(), 20, what="and settled, failed ones too")
        assert len(mine.dead()) == count // 100
        mine.link.call("CONFIG", "SET", "maxmemory", 0)
        mine.until_drained()
    assert done == wanted(count)


def test_forgotten_scripts_are_taught_again(mine: Consuming, scaled: Callable[[int], int]) -> None:
    """SCRIPT FLUSH at any moment, as after a failover: nothing is lost, repeated or held up."""
    done = declare(mine)
    count = scaled(5_000)
    with mine.running() as members:
        for part in range(20):
            mine.send(*range(part * count // 20, (part + 1) * count // 20))
            mine.link.call("SCRIPT", "FLUSH")
        mine.until_drained()
        counts = total(members.members)
    assert done == wanted(count)
    assert counts["taken_over_from_us"] == 0


def test_a_connection_killed_by_an_operator_is_made_anew(
    mine: Consuming, scaled: Callable[[int], int]
) -> None:
    """CLIENT KILL of all of ours, again and again."""
    done = declare(mine)
    count = scaled(5_000)
    with mine.running():
        for part in range(10):
            mine.send(*range(part * count // 10, (part + 1) * count // 10))
            mine.link.call("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        mine.until_drained()
    assert done == wanted(count)
