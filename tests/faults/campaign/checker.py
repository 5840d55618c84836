"""Checker: what a history shows. Pure: it knows nothing of servers, processes or how the faults were made.

A guarantee is broken where the history cannot have come from a system that keeps it, given what was done to it; and a
history in which too little happened shows nothing: that is *unknown*, not passed.
"""

import math
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import pairwise

from tests.faults.campaign.history import CONFIRMED, DONE, FAILED, UNKNOWN, Fault, History, Run, Sent

SETTLE_S = 3.0
"""What a handler has finished is settled at once; so long it may take on a busy machine before a repeat is a wonder."""
HEARS_S = 2.0
"""A worker that stood still hears with its next heartbeat what it lost meanwhile: after so long at the latest."""
HOLDS_S = 5.0
"""What a worker holds it has begun after so long."""
HALF_OPEN_S = 6.0
"""A read that waits at the server for a client that is gone ends within this."""
GAP_S = 0.1
"""A run that began or ended so close to a sample says nothing about it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Demands:
    """What a row must show, beyond what every row must."""

    confirmed: int = 1_000
    """At least so many sends confirmed."""
    unknown: bool = False
    """Sends may end as unknown: something was away for longer than they are tried."""
    failed: bool = False
    """Sends may fail."""
    claim_after_s: float = 1.0
    repeats: bool = True
    """Some fault of it makes events run again: none repeated shows nothing."""
    effect: int = 1
    """The faults together must have hit at least so much."""
    held: int | None = None
    """Most entries that one worker may hold."""
    taken_over_s: float | None = None
    """What a dead worker was running runs again within so long; None: it is measured only."""


@dataclass(slots=True)
class Counts:
    """What is counted; all of `WRONG` must be 0."""

    sent: int = 0
    confirmed: int = 0
    failed: int = 0
    unknown: int = 0
    excused: int = 0
    """Confirmed, and gone with a server that lost its data."""
    runs: int = 0
    duplicated: int = 0
    """Events that a group ran more than once because of a fault."""
    retried: int = 0
    """Runs that follow an outcome that asks for them."""
    dead: int = 0
    lost: int = 0
    phantom: int = 0
    """Handled and never sent, or in the stream though its producer was told that it is not."""
    corrupt: int = 0
    twice: int = 0
    """Sent once and appended more than once."""
    unexplained: int = 0
    """Runs again for which nothing that was done is the cause."""
    reordered: int = 0
    stuck: int = 0
    buried: int = 0
    """Dead letters of events that did nothing wrong, and second letters of one event."""
    unburied: int = 0
    """Events that had to become dead letters and did not."""
    early: int = 0
    """Runs whose entry was settled before they ended."""
    miscounted: int = 0
    """Runs whose attempt counts more runs than there were."""
    hoarded: int = 0
    """Samples in which a worker held more than its window."""
    late: int = 0
    """Runs of dead workers that did not begin again in time."""
    doubtful: int = 0
    """Sends told unknown or failed where nothing was away for long enough."""
    mishandled: int = 0
    """Entries of strangers that were not treated as they must be."""
    ended_badly: int = 0


WRONG = (
    "lost", "phantom", "corrupt", "twice", "unexplained", "reordered", "stuck", "buried", "unburied", "early",
    "miscounted", "hoarded", "late", "doubtful", "mishandled", "ended_badly",
)  # fmt: skip


@dataclass(slots=True)
class Findings:
    """What a history shows."""

    counts: Counts = field(default_factory=Counts)
    recovered_s: float = 0.0
    """The longest time from the end of a fault to the next event that a group finished."""
    taken_over_s: float = 0.0
    """The longest time from the death of a worker until what it was running began again."""
    in_flight: int = 0
    """The most that was running or unanswered when a fault struck."""
    doubts: list[str] = field(default_factory=list)
    """Why it shows too little."""
    examples: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """By count, the first few cases in words."""

    @property
    def wrong(self) -> dict[str, int]:
        """What must be 0 and is not."""
        return {name: count for name in WRONG if (count := getattr(self.counts, name))}

    @property
    def verdict(self) -> str:
        """passed, failed, or unknown."""
        if self.wrong:
            return "failed"
        return UNKNOWN if self.doubts else "passed"

    def note(self, what: str, words: str) -> None:
        """Count one case."""
        setattr(self.counts, what, getattr(self.counts, what) + 1)
        if len(self.examples[what]) < 5:
            self.examples[what].append(words)


def judge(history: History, demands: Demands) -> Findings:
    """Everything that can be said about a history."""
    found = Findings()
    by_event: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for run in sorted(history.runs, key=lambda run: run.begun_s):
        if run.name:
            by_event[run.group, run.name].append(run)
    _sends(history, demands, found)
    _appends(history, found)
    _handled(history, by_event, found)
    _repeats(history, by_event, demands, found)
    _letters(history, by_event, found)
    _order(history, by_event, found)
    _samples(history, demands, found)
    _strangers(history, found)
    _recovery(history, by_event, demands, found)
    for words in history.ended_badly:
        found.note("ended_badly", words)
    _doubts(history, demands, found)
    return found


def _sends(history: History, demands: Demands, found: Findings) -> None:
    counts = found.counts
    for sent in history.sent.values():
        counts.sent += 1
        counts.confirmed += sent.told == CONFIRMED
        counts.failed += sent.told == FAILED
        counts.unknown += sent.told == UNKNOWN
        doubtful = (sent.told == UNKNOWN and not demands.unknown and not sent.plainly) or (
            sent.told == FAILED and not demands.failed
        )
        if doubtful and not any(fault.deadly and _of_source(fault, sent) for fault in history.faults):
            found.note("doubtful", f"{sent.name} was told {sent.told}")


def _of_source(fault: Fault, sent: Sent) -> bool:
    """Whether a fault killed the producer; its pid is the last part of its name."""
    return int(sent.source.rpartition(".")[2]) in (fault.pids or ())


def _appends(history: History, found: Findings) -> None:
    """What is in the stream, against what was sent."""
    places: dict[str, set[tuple[str, int]]] = defaultdict(set)
    for name, entry_id, index in history.appended:
        places[name].add((entry_id, index))
    for run in history.runs:
        if run.name:
            places[run.name].add((run.entry_id, run.index))
    for name, where in places.items():
        sent = history.sent.get(name)
        if sent is None:
            found.note("phantom", f"{name} was never sent")
        elif sent.told == FAILED:
            found.note("phantom", f"{name} is in the stream, and its producer was told that it is not")
        if len(where) > 1 and not _undone(history, sent):
            found.note("twice", f"{name} is in {sorted(where)}")
    last: dict[str, int] = {}
    for name, _, _ in history.appended:
        sent = history.sent.get(name)
        if sent is not None:
            if sent.number < last.get(sent.source, -1):
                found.note("reordered", f"{name} stands behind {last[sent.source]} in the stream")
            last[sent.source] = max(sent.number, last.get(sent.source, -1))


def _undone(history: History, sent: Sent | None) -> bool:
    """Whether a server that lost its data may have forgotten this send."""
    return sent is not None and any(
        fault.loses
        and (fault.names is None or sent.name in fault.names)
        and sent.asked_s <= fault.until_s
        and (sent.told_s is None or sent.told_s >= fault.from_s - fault.risk_s)
        for fault in history.faults
    )


def _handled(history: History, by_event: Mapping[tuple[str, str], Sequence[Run]], found: Findings) -> None:
    """Whether each group had each event."""
    buried = {(letter.group, letter.name) for letter in history.letters}
    in_stream = {name for name, _, _ in history.appended}
    for group in history.groups:
        left = history.left.get(group)
        unsettled = left.names if left else frozenset()
        for name in unsettled:
            found.note("stuck", f"{name} is not settled by {group}")
        if left and left.others:
            found.note("stuck", f"{left.others} entries of nobody's are not settled by {group}")
        if left and left.undeleted:
            found.note("stuck", f"{left.undeleted} tasks are settled by {group} and still there")
        for name, sent in history.sent.items():
            runs = by_event.get((group, name), ())
            found.counts.runs += len(runs)
            if any(not run.intact for run in runs):
                found.note("corrupt", f"{name} in {group}")
            if sent.told != CONFIRMED and name not in in_stream:
                continue
            if (group, name) in buried or name in unsettled or any(run.outcome == DONE for run in runs):
                continue
            if _undone(history, sent):
                found.counts.excused += 1
            else:
                found.note("lost", f"{name} ({sent.told}) was never finished by {group}; {len(runs)} runs")


def _repeats(
    history: History, by_event: Mapping[tuple[str, str], Sequence[Run]], demands: Demands, found: Findings
) -> None:
    """Whether every run after the first has its cause, and whether the attempts count as they must."""
    long_stalls = [
        stall for stall in history.stalls if stall.until_s - stall.from_s > demands.claim_after_s / 2
    ]
    for (group, name), runs in by_event.items():
        for before, run in pairwise(runs):
            if before.outcome in ("failed", "later", "cancelled") and (before.ended_s or 0) <= run.begun_s:
                found.counts.retried += 1
                continue
            stalled = any(
                stall.pid in (0, before.pid, run.pid)
                and stall.until_s >= before.begun_s - HEARS_S
                and stall.from_s <= run.begun_s
                for stall in long_stalls
            )
            if stalled or any(
                _explains(fault, before, run, history.sent.get(name)) for fault in history.faults
            ):
                found.counts.duplicated += 1
            else:
                found.note(
                    "unexplained",
                    f"{name} ran again in {group} by {run.pid} {run.begun_s - before.begun_s:.2f} s after {before.pid} "
                    f"began it ({before.outcome or 'never ended'})",
                )
        sent = history.sent.get(name)
        for place, run in enumerate(runs):
            if run.attempt > place + 1 and sent is not None:
                harmed = any(
                    fault.repeats
                    and fault.until_s + _after_s(fault) >= sent.asked_s
                    and fault.from_s <= run.begun_s
                    for fault in history.faults
                ) or any(
                    stall.until_s >= sent.asked_s and stall.from_s <= run.begun_s for stall in long_stalls
                )
                if not harmed:
                    found.note(
                        "miscounted", f"{name} in {group}: run {place + 1} is told it is {run.attempt}"
                    )


def _after_s(fault: Fault) -> float:
    """How long after a fault of everybody's entries may still go to a connection of which one half is gone."""
    return HALF_OPEN_S if fault.pids is None else 0.0


def _explains(fault: Fault, before: Run, run: Run, sent: Sent | None) -> bool:
    """Whether a fault is the cause that what `before` ran was run again."""
    if not fault.repeats or fault.from_s > run.begun_s:
        return False
    # Read again from where the group stood: beside who had read it before, and works off what it holds.
    undone = fault.pids is None and fault.risk_s > 0 and sent is not None and sent.asked_s <= fault.until_s
    if undone and fault.until_s <= before.begun_s <= fault.until_s + HOLDS_S:
        return True
    if fault.pids is not None and run.pid in fault.pids and not fault.deadly:
        # It stood still with what it held, another had it meanwhile, and it begins before it hears of that.
        return run.begun_s <= fault.until_s + HEARS_S
    if fault.pids is not None and before.pid not in fault.pids:
        return False
    if before.begun_s > fault.until_s:
        return False
    slack_s = max(SETTLE_S, fault.risk_s)
    return before.ended_s is None or before.ended_s >= fault.from_s - slack_s


def _letters(history: History, by_event: Mapping[tuple[str, str], Sequence[Run]], found: Findings) -> None:
    letters: dict[tuple[str, str], int] = defaultdict(int)
    for letter in history.letters:
        if not letter.name:
            continue
        found.counts.dead += 1
        letters[letter.group, letter.name] += 1
        sent = history.sent.get(letter.name)
        plan = sent.plan if sent else ""
        if plan == "kill" or (plan == "reject" and letter.group in history.rejecting):
            if letters[letter.group, letter.name] > 1 and not any(fault.risk_s for fault in history.faults):
                found.note("buried", f"{letter.name} has more than one letter in {letter.group}")
            continue
        found.note("buried", f"{letter.name} ({plan}) in {letter.group}: {letter.error}")
    for (group, name), runs in by_event.items():
        sent = history.sent.get(name)
        if sent is None or (group, name) in letters or _undone(history, sent):
            continue
        left = history.left.get(group)
        if left and name in left.names:
            continue
        if (
            sent.plan == "reject"
            and group in history.rejecting
            and any(r.outcome == "rejected" for r in runs)
        ):
            found.note("unburied", f"{name} was rejected in {group}, and is no dead letter")
        if sent.plan == "kill" and group in history.rejecting:
            found.note("unburied", f"{name} killed its workers in {group}, and is no dead letter")


def _order(history: History, by_event: Mapping[tuple[str, str], Sequence[Run]], found: Findings) -> None:
    for group in history.ordered:
        firsts = sorted(
            (runs[0] for (of, _), runs in by_event.items() if of == group), key=lambda r: r.begun_s
        )
        last: dict[str, int] = {}
        for run in firsts:
            sent = history.sent.get(run.name)
            if sent is None:
                continue
            if sent.number < last.get(sent.source, -1):
                found.note("reordered", f"{run.name} first ran in {group} behind {last[sent.source]}")
            last[sent.source] = max(sent.number, last.get(sent.source, -1))


def _samples(history: History, demands: Demands, found: Findings) -> None:
    """What a handler runs is pending; and nobody holds more than its window."""
    coming: dict[str, list[Run]] = defaultdict(list)
    for run in sorted(history.runs, key=lambda run: -run.begun_s):
        if not run.again:
            coming[run.group].append(run)
    running: dict[str, list[Run]] = defaultdict(list)
    harmful = [fault for fault in history.faults if fault.repeats]
    seen: set[tuple[str, str]] = set()
    for sample in sorted(history.samples, key=lambda sample: sample.from_s):
        held: dict[str, int] = defaultdict(int)
        for consumer in sample.pending.values():
            held[consumer] += 1
        if demands.held is not None and max(held.values(), default=0) > demands.held:
            found.note("hoarded", f"{max(held.values())} entries held by one worker of {sample.group}")
        next_ones, active = coming[sample.group], running[sample.group]
        while next_ones and next_ones[-1].begun_s <= sample.from_s - GAP_S:
            active.append(next_ones.pop())
        active[:] = [run for run in active if (run.ended_s or math.inf) >= sample.until_s + GAP_S]
        for run in active:
            if run.held_id in sample.pending or (run.group, run.name) in seen:
                continue
            asked = history.sent.get(run.name)
            # What a server loses may have been waiting in a worker's hands, and begins although it is gone.
            read_s = min(run.begun_s, asked.asked_s) if asked is not None else run.begun_s
            if any(
                (fault.pids is None or run.pid in fault.pids)
                and fault.until_s >= (read_s if fault.loses else run.begun_s)
                and fault.from_s <= sample.until_s
                for fault in harmful
            ) or any(
                stall.pid in (0, run.pid) and stall.until_s >= run.begun_s and stall.from_s <= sample.until_s
                for stall in history.stalls
            ):
                continue
            seen.add((run.group, run.name))
            found.note(
                "early",
                f"{run.name} ({run.held_id}) was not pending in {run.group} while {run.pid} ran it, "
                f"{sample.from_s - run.begun_s:.2f} s after it began",
            )


def _strangers(history: History, found: Findings) -> None:
    handled: dict[str, set[str]] = defaultdict(set)
    for run in history.runs:
        if not run.name and run.outcome == DONE:
            handled[run.group].add(run.entry_id)
    dead: dict[str, set[str]] = defaultdict(set)
    for letter in history.letters:
        if not letter.name:
            dead[letter.group].add(letter.entry_id)
    for group in history.groups:
        kept = history.kept.get(group, frozenset())
        for entry in history.hostile:
            here = [
                what
                for what, entries in (("handled", handled[group]), ("dead", dead[group]), ("kept", kept))
                if entry.entry_id in entries
            ]
            if here != [entry.wanted]:
                found.note("mishandled", f"{entry.entry_id} in {group} is {here}, not {entry.wanted}")


def _recovery(
    history: History, by_event: Mapping[tuple[str, str], Sequence[Run]], demands: Demands, found: Findings
) -> None:
    for group in history.groups:
        ends = sorted(run.ended_s for run in history.runs if run.group == group and run.ended_s is not None)
        for fault in history.faults:
            after = _first_after(ends, fault.until_s)
            if after is not None:
                found.recovered_s = max(found.recovered_s, after - fault.until_s)
    deaths = {pid: fault for fault in history.faults if fault.deadly for pid in fault.pids or ()}
    settled = {(letter.group, letter.name) for letter in history.letters}
    for (group, name), runs in by_event.items():
        for place, run in enumerate(runs):
            death = deaths.get(run.pid)
            if death is None or run.ended_s is not None or run.begun_s > death.until_s:
                continue
            again = next((one for one in runs[place + 1 :] if one.begun_s >= death.from_s), None)
            if again is None:
                continue  # counted as lost, stuck or a dead letter
            waited_s = again.begun_s - death.from_s
            found.taken_over_s = max(found.taken_over_s, waited_s)
            if (
                demands.taken_over_s is not None
                and waited_s > demands.taken_over_s
                and (group, name) not in settled
            ):
                found.note("late", f"{name} ran again in {group} {waited_s:.1f} s after its worker died")


def _first_after(times: Sequence[float], moment_s: float) -> float | None:
    place = bisect_left(times, moment_s)
    return times[place] if place < len(times) else None


def _doubts(history: History, demands: Demands, found: Findings) -> None:
    """Why a history that breaks nothing may show nothing."""
    if found.counts.confirmed < demands.confirmed:
        found.doubts.append(f"{found.counts.confirmed:,} sends confirmed, fewer than {demands.confirmed:,}")
    struck = [f for f in history.faults if history.load_from_s <= f.from_s <= history.load_until_s]
    if not struck:
        found.doubts.append("no fault struck while load ran")
    found.in_flight = max((_in_flight(history, fault.from_s) for fault in struck), default=0)
    if struck and not found.in_flight:
        found.doubts.append("nothing was in flight when a fault struck")
    effect = sum(fault.effect for fault in struck)
    if struck and effect < demands.effect:
        found.doubts.append(f"the faults hit {effect}, fewer than {demands.effect}")
    if demands.repeats and not found.counts.duplicated:
        found.doubts.append("no fault made anything run again")
    for group in history.groups:
        if not any(run.group == group for run in history.runs):
            found.doubts.append(f"group {group} handled nothing")


def _in_flight(history: History, moment_s: float) -> int:
    running = sum(
        run.begun_s <= moment_s and (run.ended_s is None or run.ended_s >= moment_s) for run in history.runs
    )
    unanswered = sum(
        sent.asked_s <= moment_s and (sent.told_s is None or sent.told_s >= moment_s)
        for sent in history.sent.values()
    )
    return running + unanswered


def total(findings: Iterable[Findings]) -> Counts:
    """The counts of several histories, added up."""
    sums = Counts()
    for one in findings:
        for each in fields(Counts):
            setattr(sums, each.name, getattr(sums, each.name) + getattr(one.counts, each.name))
    return sums
