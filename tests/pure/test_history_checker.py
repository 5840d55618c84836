"""The checker of the fault suite: what each kind of history shows, and that where nothing happened nothing is shown."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from tests.faults.campaign.checker import WRONG, Demands, Findings, judge
from tests.faults.campaign.history import (
    CONFIRMED,
    DONE,
    FAILED,
    UNKNOWN,
    Fault,
    History,
    Hostile,
    Left,
    Letter,
    Run,
    Sample,
    Sent,
    Stall,
)

WORKER, OTHER = 11, 12
KILLED = Fault("killed", 5.0, 5.1, frozenset([WORKER]), repeats=True, deadly=True)
STOPPED = Fault("stopped", 5.0, 7.0, frozenset([WORKER]), repeats=True)


def sent(number: int, told: str = CONFIRMED, *, plan: str = "ok", asked_s: float | None = None) -> Sent:
    """An event sent at `number` s and told of 0.5 s later."""
    at_s = float(number) if asked_s is None else asked_s
    return Sent(f"p.1-{number}", "p.1", number, plan, at_s, told, None if told == UNKNOWN else at_s + 0.5)


def run(
    number: int,
    begun_s: float,
    ended_s: float | None = None,
    *,
    outcome: str = DONE,
    pid: int = WORKER,
    **facts: Any,
) -> Run:
    """A run of event `number`; it ends 0.1 s later if nothing else is said, and never with outcome ""."""
    if outcome:
        ended_s = begun_s + 0.1 if ended_s is None else ended_s
    given: dict[str, Any] = {
        "group": "g", "pid": pid, "name": f"p.1-{number}", "entry_id": f"{number}-0", "index": 0,
        "held_id": f"{number}-0", "again": False, "intact": True, "attempt": 1,
    }  # fmt: skip
    return Run(**(given | facts), begun_s=begun_s, ended_s=ended_s, outcome=outcome)


def history(sends: Sequence[Sent], runs: Sequence[Run], **facts: Any) -> History:
    """A history of one group; if nothing else is said, all that was not told as failed is in the stream, in order."""
    given: dict[str, Any] = {
        "groups": ["g"],
        "sent": {one.name: one for one in sends},
        "runs": runs,
        "appended": [(one.name, f"{one.number}-0", 0) for one in sends if one.told != FAILED],
        "faults": [KILLED],
        "load_from_s": 0.0,
        "load_until_s": 100.0,
        "rejecting": frozenset("g"),
    }
    return History(**(given | facts))


def found(
    sends: Sequence[Sent], runs: Sequence[Run], *, demands: Demands | None = None, **facts: Any
) -> Findings:
    """What such a history shows."""
    return judge(history(sends, runs, **facts), demands or Demands(confirmed=1, repeats=False))


GOOD = ([sent(4), sent(5)], [run(4, 4.6), run(5, 4.9, 5.05)])


def test_a_history_without_fault_passes() -> None:
    """Everything confirmed, handled once, with something in flight when the fault struck."""
    good = found(*GOOD)
    assert (good.wrong, good.doubts, good.verdict) == ({}, [], "passed")
    assert good.counts.confirmed == 2
    assert good.in_flight == 2  # a run, and a send without an answer


@pytest.mark.parametrize(
    ("demands", "facts", "doubt"),
    [
        (Demands(confirmed=3, repeats=False), {}, "2 sends confirmed, fewer than 3"),
        (Demands(confirmed=1, repeats=False), {"faults": []}, "no fault struck while load ran"),
        (Demands(confirmed=1, repeats=False), {"load_until_s": 4.0}, "no fault struck while load ran"),
        (
            Demands(confirmed=1, repeats=False),
            {"faults": [replace(KILLED, from_s=9, until_s=9.1)]},
            "nothing was in flight when a fault struck",
        ),
        (
            Demands(confirmed=1, repeats=False),
            {"faults": [replace(KILLED, effect=0)]},
            "the faults hit 0, fewer than 1",
        ),
        (Demands(confirmed=1), {}, "no fault made anything run again"),
        (Demands(confirmed=1, repeats=False), {"groups": ["g", "h"], "sent": {}}, "group h handled nothing"),
    ],
)
def test_what_shows_too_little_is_unknown_and_not_passed(
    demands: Demands, facts: dict[str, Any], doubt: str
) -> None:
    """Each of these breaks nothing, and proves nothing."""
    # Where nothing was sent, nothing is missing in the other group.
    sends, runs = ([], []) if "sent" in facts else GOOD
    shown = judge(history(sends, runs, **facts), demands)
    assert doubt in shown.doubts
    assert shown.verdict == "unknown"


def test_confirmed_and_never_finished_is_lost() -> None:
    """Also if it was begun, and also if its send was unknown but it is in the stream."""
    shown = found(
        [sent(4), sent(5, UNKNOWN), sent(6, UNKNOWN)],
        [run(4, 4.6, outcome="")],
        appended=[("p.1-5", "5-0", 0)],
    )
    assert shown.wrong == {"lost": 2, "doubtful": 2}


def test_what_is_left_at_the_end_is_stuck_and_not_lost() -> None:
    """Pending, due again or unread; also what was handled and is not settled."""
    shown = found(*GOOD, left={"g": Left(frozenset(["p.1-5"]))})
    assert shown.wrong == {"stuck": 1}
    shown = found([sent(4)], [], left={"g": Left(frozenset(["p.1-4"]), others=3)})
    assert shown.wrong == {"stuck": 2}


def test_never_sent_or_told_as_failed_is_a_phantom() -> None:
    """Handled without having been sent, and in the stream against what the producer was told."""
    shown = found([sent(4), sent(5, FAILED)], [run(4, 4.6), run(5, 4.9), run(77, 5.0)])
    assert shown.wrong == {"phantom": 2, "doubtful": 1}


def test_a_wrong_checksum_is_corrupt() -> None:
    """What a handler saw is not what was sent."""
    assert found([sent(4)], [run(4, 4.6, intact=False)]).wrong == {"corrupt": 1}


def test_appended_twice_is_found_whoever_handled_it() -> None:
    """By what is in the stream, and by what groups were given: an entry may be gone by the end."""
    assert found(*GOOD, appended=[("p.1-4", "4-0", 0), ("p.1-5", "5-0", 0), ("p.1-5", "5-1", 0)]).wrong == {
        "twice": 1
    }
    again = [run(4, 4.6), run(5, 4.9, outcome=""), run(5, 6.0, pid=OTHER, entry_id="5-9")]
    assert found([sent(4), sent(5)], again).wrong == {"twice": 1}


def test_a_repeat_after_its_worker_was_killed_is_explained() -> None:
    """It never ended, or ended just before the kill and may not have been settled."""
    for first in (run(5, 4.9, outcome=""), run(5, 4.5, 4.9)):
        shown = found([sent(5)], [first, run(5, 6.2, pid=OTHER)], demands=Demands(confirmed=1))
        assert shown.verdict == "passed"
        assert shown.counts.duplicated == 1


@pytest.mark.parametrize(
    "runs",
    [
        [run(1, 1.0, 1.1), run(1, 6.2, pid=OTHER)],  # ended long before
        [run(1, 4.9, outcome="", pid=OTHER), run(1, 6.2, pid=13)],  # not the one that was killed
        [run(1, 4.0, outcome=""), run(1, 4.9, pid=OTHER)],  # again before the kill
    ],
)
def test_a_repeat_that_the_kill_does_not_explain_is_found(runs: Sequence[Run]) -> None:
    """Each of these is a second run for no cause."""
    assert found([sent(1)], runs).wrong == {"unexplained": 1}


def test_who_stood_still_may_begin_what_it_lost_until_it_hears_of_it() -> None:
    """The other ran it meanwhile; a heartbeat later it must know."""
    meanwhile = run(4, 6.5, pid=OTHER)
    assert found([sent(4)], [meanwhile, run(4, 7.1)], faults=[STOPPED]).wrong == {}
    assert found([sent(4)], [meanwhile, run(4, 9.9)], faults=[STOPPED]).wrong == {"unexplained": 1}


def test_a_run_after_a_failure_is_a_retry() -> None:
    """An outcome that asks for another run explains one."""
    runs = [run(4, 4.6, outcome="failed"), run(4, 5.0, outcome="later", attempt=2), run(4, 6.0, attempt=2)]
    shown = found([sent(4)], runs)
    assert shown.wrong == {}
    assert shown.counts.retried == 2


def test_a_busy_machine_explains_a_repeat() -> None:
    """A worker that got no processor for half its lease, and a server that did not answer for so long."""
    runs = [run(4, 4.6, 5.5), run(4, 5.3, pid=OTHER)]
    for pid in (WORKER, 0):
        assert found([sent(4)], runs, faults=[STOPPED], stalls=[Stall(pid, 4.7, 5.3)]).wrong == {}
    assert found([sent(4)], runs, faults=[KILLED], stalls=[Stall(99, 4.7, 5.3)]).counts.unexplained == 0
    quiet = replace(KILLED, pids=frozenset([99]))
    assert found([sent(4)], runs, faults=[quiet], stalls=[Stall(99, 4.7, 5.3)]).wrong == {"unexplained": 1}


def test_a_server_that_lost_its_data_excuses_what_it_had() -> None:
    """What was asked for before may be gone; what was asked for later may not."""
    flushed = Fault("flushed", 5.0, 5.1, risk_s=float("inf"), repeats=True, loses=True)
    shown = found([sent(4), sent(6)], [run(6, 6.6)], faults=[flushed], appended=[("p.1-6", "6-0", 0)])
    assert (shown.wrong, shown.counts.excused) == ({}, 1)
    assert found([sent(6)], [], faults=[flushed]).wrong == {"lost": 1}


def test_an_append_only_file_that_is_a_second_behind_excuses_that_second() -> None:
    """Only what was told within the second, and only where the fault says so."""
    killed = Fault("server killed", 5.0, 5.1, risk_s=1.0, loses=True)
    assert found([sent(4)], [], faults=[killed], appended=[]).counts.excused == 1
    assert found([sent(3, asked_s=3.0)], [], faults=[killed], appended=[]).wrong == {"lost": 1}


def test_a_dead_letter_of_a_good_event_is_found() -> None:
    """A bystander that was convicted, and a second letter for one event."""
    shown = found([sent(4)], [], letters=[Letter("g", "p.1-4", "4-0", "WorkerKilled")])
    assert shown.wrong == {"buried": 1}
    twice = [Letter("g", "p.1-4", "4-0", "Reject")] * 2
    assert found([sent(4, plan="reject")], [run(4, 4.6, outcome="rejected")], letters=twice).wrong == {
        "buried": 1
    }


def test_what_was_rejected_must_be_a_dead_letter() -> None:
    """A group that does as it is asked rejects it; another handles it."""
    runs = [run(4, 4.6, outcome="rejected")]
    assert found([sent(4, plan="reject")], runs).wrong == {"lost": 1, "unburied": 1}
    assert found([sent(4, plan="reject")], [run(4, 4.6)], rejecting=frozenset()).wrong == {}


def test_order_in_the_stream_and_of_first_runs() -> None:
    """One producer's events stand in the order they were sent; an ordered group first runs them so."""
    swapped = [("p.1-5", "4-0", 0), ("p.1-4", "5-0", 0)]
    runs = [run(4, 4.6, entry_id="5-0"), run(5, 4.9, entry_id="4-0")]
    assert found([sent(4), sent(5)], runs, appended=swapped).wrong == {"reordered": 1}
    late = [run(5, 4.6), run(4, 4.9)]
    assert found([sent(4), sent(5)], late).wrong == {}
    assert found([sent(4), sent(5)], late, ordered=frozenset("g")).wrong == {"reordered": 1}


def test_what_runs_must_be_pending() -> None:
    """An entry that is gone while its handler runs was settled by somebody who does not have it."""
    runs = [run(4, 4.6, 5.6)]
    gone, there = Sample("g", 5.0, 5.01, {}), Sample("g", 5.0, 5.01, {"4-0": "somebody"})
    quiet = [replace(KILLED, pids=frozenset([99]))]
    assert found([sent(4)], runs, samples=[there], faults=quiet).wrong == {}
    assert found([sent(4)], runs, samples=[gone], faults=quiet).wrong == {"early": 1}
    assert (
        found([sent(4)], runs, samples=[replace(gone, from_s=4.61, until_s=4.62)], faults=quiet).wrong == {}
    )
    # The worker that stood still runs what another has settled since; the other's runs are looked at all the same.
    assert (
        found(
            [sent(4)], [run(4, 4.6, 7.5)], samples=[replace(gone, from_s=7.2, until_s=7.21)], faults=[STOPPED]
        ).wrong
        == {}
    )
    both = [run(4, 4.6, 7.1), run(4, 6.5, 8.5, pid=OTHER)]
    sample = replace(gone, from_s=7.8, until_s=7.81)
    assert found([sent(4)], both, samples=[sample], faults=[STOPPED]).wrong == {"early": 1}


def test_what_a_server_lost_may_still_begin() -> None:
    """It waited in a worker's hands when the server lost it; what was sent after the loss did not."""
    flushed = Fault("flushed", 4.2, 4.3, repeats=True, loses=True, risk_s=math.inf)
    gone = Sample("g", 5.0, 5.01, {})
    runs = [run(4, 4.6, 5.6)]
    assert found([sent(4)], runs, samples=[gone], faults=[flushed]).wrong == {}
    assert found([sent(4, asked_s=4.4)], runs, samples=[gone], faults=[flushed]).wrong == {"early": 1}
    only_again = replace(flushed, loses=False)
    assert found([sent(4)], runs, samples=[gone], faults=[only_again]).wrong == {"early": 1}


def test_more_held_than_the_window_is_hoarded() -> None:
    """Counted per worker."""
    sample = Sample("g", 5.0, 5.01, {"4-0": "a", "5-0": "a", "6-0": "b"})
    assert found(*GOOD, samples=[sample], demands=Demands(confirmed=1, repeats=False, held=2)).wrong == {}
    assert found(*GOOD, samples=[sample], demands=Demands(confirmed=1, repeats=False, held=1)).wrong == {
        "hoarded": 1
    }


def test_an_attempt_counts_runs_that_were() -> None:
    """A hand-back spends none; a killed worker may have had it without beginning."""
    runs = [run(4, 4.6, attempt=2)]
    quiet = [Fault("told to go", 5.0, 5.1, frozenset([WORKER]))]
    assert found([sent(4)], runs, faults=quiet).wrong == {"miscounted": 1}
    assert found([sent(4)], [run(4, 5.6, attempt=2)], faults=[KILLED]).wrong == {}


def test_strangers_are_treated_as_they_must_be() -> None:
    """Foreign fields are handled, corrupt entries die, unknown versions are kept."""
    hostile = [Hostile("90-0", "handled"), Hostile("91-0", "dead"), Hostile("92-0", "kept")]
    foreign = run(90, 6.0, name="")
    dead = Letter("g", "", "91-0", "DecodeError")
    good: dict[str, Any] = {"hostile": hostile, "letters": [dead], "kept": {"g": frozenset(["92-0"])}}
    assert found(GOOD[0], [*GOOD[1], foreign], **good).wrong == {}
    assert found(*GOOD, **good).wrong == {"mishandled": 1}
    assert found(
        GOOD[0], [*GOOD[1], foreign], **(good | {"letters": [dead, Letter("g", "", "92-0", "x")]})
    ).wrong == {"mishandled": 1}


def test_how_long_recovery_and_take_over_took() -> None:
    """From the end of a fault to the next finished event; from a death to the next begin of what it ran."""
    runs = [run(4, 4.9, outcome=""), run(4, 6.5, pid=OTHER), run(6, 5.5, pid=OTHER)]
    shown = found([sent(4), sent(6)], runs)
    assert shown.recovered_s == pytest.approx(0.5)
    assert shown.taken_over_s == pytest.approx(1.5)
    strict = Demands(confirmed=1, repeats=False, taken_over_s=1.0)
    assert found([sent(4), sent(6)], runs, demands=strict).wrong == {"late": 1}


def test_sends_that_end_in_doubt_need_a_cause() -> None:
    """Nothing was away for long enough; a killed producer is cause enough for its own."""
    assert found([sent(4), sent(5, UNKNOWN)], [run(4, 4.6), run(5, 4.9)]).wrong == {"doubtful": 1}
    allowed = Demands(confirmed=1, repeats=False, unknown=True)
    assert found([sent(4), sent(5, UNKNOWN)], [run(4, 4.6), run(5, 4.9)], demands=allowed).wrong == {}
    own = replace(KILLED, pids=frozenset([1]))
    assert found([sent(4), sent(5, UNKNOWN)], [run(4, 4.6), run(5, 4.9)], faults=[own]).wrong == {}


def test_a_process_that_ends_badly_is_found() -> None:
    """Though all events were handled."""
    assert found(*GOOD, ended_badly=["worker 11 ended with code 1"]).wrong == {"ended_badly": 1}


def test_every_wrong_count_exists() -> None:
    """The list of what must be 0 names counts there are."""
    assert set(WRONG) <= set(found(*GOOD).counts.__dataclass_fields__)
