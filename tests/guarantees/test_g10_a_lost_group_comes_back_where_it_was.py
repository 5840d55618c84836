"""G10: a lost group is recreated at its saved position, or at the start where that is gone; never silently at `$`."""

import logging
import threading
from collections.abc import Iterator

import pytest

from pipeline.event import Event
from pipeline.position import before
from tests.conftest import OwnServer, Server
from tests.consuming import Consuming, consuming_on
from tests.until import until

Command = tuple[str | bytes, ...]


@pytest.fixture
def mine(own_server: OwnServer, stream: str) -> Iterator[Consuming]:
    """A stream on a server that this test may flush."""
    server: Server = own_server()
    with consuming_on(server.address, stream) as consuming:
        yield consuming


def recorder(consuming: Consuming, **options: str) -> list[int]:
    """A group "g" that begins at the end, and what it handles."""
    seen: list[int] = []
    consuming.app.consumer(consuming.stream, group="g", start="end", **options)(  # type: ignore[arg-type]
        lambda event: seen.append(event.data)
    )
    return seen


def at_once(consuming: Consuming, lost: Command, *datas: int) -> None:
    """The loss, and events appended before anybody can have noticed it, in one step."""
    commands: list[Command] = [
        ("XADD", consuming.stream, "*", *fields) for fields in consuming.encoded(*datas)
    ]
    replies = consuming.link.calls([("MULTI",), lost, *commands, ("EXEC",)])
    assert len(replies[-1]) == 1 + len(datas)


@pytest.mark.parametrize("lost", ["group destroyed", "stream deleted", "everything flushed"])
def test_g10_what_came_while_the_group_was_lost_is_handled(mine: Consuming, lost: str) -> None:
    """The group was made with start="end": recreated there, it would pass over what came meanwhile."""
    seen = recorder(mine)
    command: Command = {
        "group destroyed": ("XGROUP", "DESTROY", mine.stream, "g"),
        "stream deleted": ("DEL", mine.stream),
        "everything flushed": ("FLUSHALL",),
    }[lost]
    mine.send(-1)
    with mine.running():
        mine.send(0, 1)
        until(lambda: set(seen) == {0, 1}, what="it is at work")
        at_once(mine, command, 2, 3, 4)
        until(lambda: {2, 3, 4} <= set(seen), 10, what="what came meanwhile is handled")
        mine.send(5)
        until(lambda: 5 in seen, 10, what="and what comes from then on")
        mine.until_drained()
    assert -1 not in seen, "it was there before the group was made"


def test_g10_a_destroyed_group_begins_just_before_what_was_pending(mine: Consuming) -> None:
    """What was in hand runs again, what was settled before it does not."""
    seen: list[int] = []
    running, go_on = threading.Event(), threading.Event()

    @mine.app.consumer(mine.stream, group="g")
    def handle(event: Event) -> None:
        seen.append(event.data)
        if event.data == 5:
            running.set()
            go_on.wait(30)

    mine.send(*range(5))
    with mine.running() as members:
        mine.until_drained()
        mine.send(5, 6, 7)
        assert running.wait(10)
        oldest = next(iter(mine.pending()))
        until(lambda: _saved_before(mine, oldest), what="the position just before it is saved")
        at_once(mine, ("XGROUP", "DESTROY", mine.stream, "g"), 8)
        until(lambda: 8 in seen, 10, what="it reads again")
        go_on.set()
        mine.until_drained()
        until(members.members[0].idle, what="all is settled")
    assert set(range(9)) <= set(seen)
    assert [seen.count(number) for number in range(5)] == [1] * 5


def _saved_before(consuming: Consuming, entry_id: str) -> bool:
    """Whether the saved position is the one just before this entry."""
    return bool(consuming.link.call("HGET", consuming.keys.groups, "g:pos:main") == before(entry_id).encode())


def test_g10_a_group_lost_while_nobody_ran_comes_back_where_it_was(mine: Consuming) -> None:
    """The next process finds the record: it is no new group, whatever `start` says."""
    seen = recorder(mine)
    with mine.running():
        mine.send(0)
        mine.until_drained()
    at_once(mine, ("XGROUP", "DESTROY", mine.stream, "g"), 1, 2)
    with mine.running():
        until(lambda: {1, 2} <= set(seen), 10, what="what came meanwhile is handled")


def test_g10_a_loss_is_said_in_few_words(mine: Consuming, caplog: pytest.LogCaptureFixture) -> None:
    """No line per event or per try: that it was lost, and where it begins again; at most once a second."""
    caplog.set_level(logging.INFO, logger="millstream")
    seen = recorder(mine)
    with mine.running():
        caplog.clear()
        for loss in range(3):
            at_once(mine, ("FLUSHALL",), *range(1_000 * loss, 1_000 * loss + 500))
            until(lambda loss=loss: 1_000 * loss + 499 in seen, 10, what="it works again")  # type: ignore[misc]
            mine.until_drained()
        assert any("recreated" in record.getMessage() for record in caplog.records)
        assert len(caplog.records) < 6
