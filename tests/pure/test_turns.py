"""Turns: one thread reads, and another takes its turn only while handlers keep it."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from consumers.turns import STALL_S, Turns
from tests.until import until


@contextmanager
def standing_by(turns: Turns) -> Iterator[list[bool]]:
    """Another thread stands by; what its wait answered, once it has."""
    answers: list[bool] = []
    thread = threading.Thread(target=lambda: answers.append(turns.wait("second")))
    thread.start()
    until(lambda: turns.attended)
    try:
        yield answers
    finally:
        turns.end("first")
        turns.end("second")
        thread.join(10)
        assert not thread.is_alive()


def test_the_first_who_asks_has_the_turn() -> None:
    """And nobody stands by yet."""
    turns = Turns()
    assert turns.wait("first")
    assert not turns.attended


def test_handlers_that_end_soon_leave_the_turn_where_it_is() -> None:
    """However many there are, and however long the pauses between them."""
    turns = Turns()
    turns.wait("first")
    pause = threading.Event()
    with standing_by(turns) as answers:
        for _ in range(30):
            turns.lend()
            assert turns.back("first")
            pause.wait(STALL_S / 10)
        pause.wait(4 * STALL_S)  # nobody looks any more
        turns.lend()
        assert turns.back("first")
        assert not answers


def test_a_handler_that_takes_long_costs_the_turn() -> None:
    """The other reads on; whoever comes back learns that it is not its turn."""
    turns = Turns()
    turns.wait("first")
    with standing_by(turns) as answers:
        turns.lend()
        until(lambda: answers)
        assert answers == [True]
        assert not turns.attended  # nobody stands by: the second may not lend itself
        assert not turns.back("first")


def test_who_lost_the_turn_stands_by_for_the_other() -> None:
    """And takes it back from a handler that keeps the other."""
    turns = Turns()
    turns.wait("first")
    with standing_by(turns) as answers:
        turns.lend()
        until(lambda: answers)
        back: list[bool] = []
        thread = threading.Thread(target=lambda: back.append(turns.wait("first")))
        thread.start()
        until(lambda: turns.attended)
        turns.lend()
        thread.join(10)
        assert back == [True]
        assert not turns.back("second")


def test_the_end_calls_whoever_stands_by() -> None:
    """Nobody has a turn any more; who has none cannot end it."""
    turns = Turns()
    turns.wait("first")
    with standing_by(turns) as answers:
        turns.end("second")  # it has no turn to end
        assert not answers
        turns.end("first")
        until(lambda: answers)
        assert answers == [False]
        turns.await_end(0)
        assert not turns.wait("first")
