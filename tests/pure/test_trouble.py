"""Trouble with the server is said in few lines, however many meet it and however long it lasts."""

import logging

import pytest

from pipeline.errors import ServerRefusedError
from pipeline.observe import trouble
from pipeline.observe.trouble import Trouble

OOM = ServerRefusedError("no memory", code="OOM", passing=True)
BUSY = ServerRefusedError("a script runs", code="BUSY", passing=True)
LOADING = ServerRefusedError("it loads", code="LOADING", passing=True)


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now_s = 1_000.0

    def monotonic(self) -> float:
        """As time.monotonic()."""
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Clock:
    """The clock that Trouble goes by, and its lines are kept."""
    caplog.set_level(logging.DEBUG, logger="millstream")
    clock = Clock()
    monkeypatch.setattr(trouble, "time", clock)
    return clock


def test_one_cause_is_one_line_for_all_who_meet_it(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """Ten members of a process, one server."""
    one = Trouble("redis://there")
    for who in range(10):
        one.met(who, OOM)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    for who in range(10):
        clock.now_s += 0.1
        one.over(who)
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert "after_s=1.0" in caplog.records[-1].getMessage()


def test_lines_become_fewer_the_longer_it_lasts(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """Ten minutes of trouble, met ten times a second: some 24 lines, and each says how often it was met."""
    one = Trouble("redis://there")
    for _ in range(6_000):
        one.met("me", OOM)
        clock.now_s += 0.1
    assert 20 <= len(caplog.records) <= 26
    assert "held_back=" in caplog.records[-1].getMessage()


def test_trouble_that_comes_and_goes_is_no_flood(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """Something works each time, and something else is refused each time."""
    one = Trouble("redis://there")
    for _ in range(600):
        one.met("me", OOM)
        clock.now_s += 0.5
        one.over("me")
    assert len(caplog.records) <= 30


def test_causes_are_said_apart_each_at_its_level(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """A server that loads is no more than news."""
    one = Trouble("redis://there")
    one.met("me", LOADING)
    one.met("me", BUSY)
    assert [record.levelname for record in caplog.records] == ["INFO", "WARNING"]
    one.over("me")
    assert len(caplog.records) == 3, "it works again, said once"


def test_who_has_ended_is_in_no_trouble(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """Else the others would wait for it before they say that all is well."""
    one = Trouble("redis://there")
    one.met("me", OOM)
    one.met("you", OOM)
    one.left("me")
    one.over("you")
    assert "works again" in caplog.records[-1].getMessage()
