"""Judge: what became of every task that old workers and ours took from one list, and whether it may be so.

It knows what was pushed, what the server wrote (write_log.py), what workers wrote down of what they ran, and what
those held that were killed. Tasks with equal payloads cannot be told apart, so all is counted by payload.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from tests.lists.classic import PROCESSING
from tests.lists.write_log import Unit

Line = tuple[str, int, float, bytes]
"""A line of an account: step, pid, time in s since 1970, task."""
Tasks = Counter[bytes]


@dataclass
class Written:
    """What the write log tells of the list."""

    popped: Tasks = field(default_factory=Counter)
    """By BRPOP of old workers."""
    moved: Tasks = field(default_factory=Counter)
    """By LMOVE of old workers."""
    taken: Tasks = field(default_factory=Counter)
    """Into the stream of our workers, less what was given back to the list."""
    pushed: Tasks = field(default_factory=Counter)
    """By producers of both kinds, and by old recoverers."""
    recovered: Tasks = field(default_factory=Counter)
    """Moved back from the processing list by a recoverer of ours."""


def read_log(units: Iterable[Unit], name: str) -> Written:
    """Sort the writes by who must have made them: old code has no scripts, and names no key of ours."""
    written, key, processing = Written(), name.encode(), PROCESSING.encode()
    ours, hand = f"{{{name}}}:tasks", f"{{{name}}}:tasks:list:hand".encode()
    entries: dict[bytes, bytes] = {}
    for unit in units:
        mine = len(unit.writes) > 1 or unit.touches(ours)
        removed: Tasks = Counter()
        for command, answer in unit.writes:
            if command[0].upper() == b"LREM" and command[1] == processing:
                removed[command[3]] += answer
        returned: Tasks = Counter()
        for command, answer in unit.writes:
            verb = command[0].upper()
            if verb in (b"LPUSH", b"RPUSH") and command[1] == key:
                for task in command[2:]:
                    if mine and removed[task]:
                        removed[task] -= 1
                        written.recovered[task] += 1
                    else:
                        written.pushed[task] += 1
                        returned[task] += mine
            elif verb in (b"RPOP", b"LPOP") and command[1] == key and not mine:
                for task in answer if isinstance(answer, list) else [answer]:
                    written.popped[task] += 1
            elif verb == b"LMOVE" and command[1:3] == (key, processing):
                written.moved[answer] += 1
            elif verb == b"LMOVE" and command[1:3] == (hand, key):
                written.pushed[answer] += 1
                returned[answer] += 1
            elif verb == b"XADD" and command[1] == ours.encode():
                task = command[command.index(b"b") + 1]
                entries[answer] = task
                written.taken[task] += 1
            elif verb == b"XDEL" and command[1] == ours.encode():
                for entry_id in command[2:]:
                    task = entries.pop(entry_id, b"")
                    if returned[task]:  # not settled: given back
                        returned[task] -= 1
                        written.taken[task] -= 1
                        written.pushed[task] -= 1
    assert not entries, f"{len(entries)} entries are in the stream still"
    return written


@dataclass
class Verdict:
    """What the judge found. Nothing may be in `wrong`."""

    lost: dict[bytes, str] = field(default_factory=dict)
    """Tasks that nobody finished, with the old worker that had popped each."""
    repeated: dict[bytes, str] = field(default_factory=dict)
    """Tasks that were finished more often than pushed, with why."""
    pushed_twice: Tasks = field(default_factory=Counter)
    """By old recoverers: more often than dead workers held them."""
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        listed = [
            f"{what} {task.decode()}: {why}"
            for what, tasks in (("lost", self.lost), ("repeated", self.repeated))
            for task, why in sorted(tasks.items())
        ]
        twice = f"pushed twice by old recoverers {self.pushed_twice.total()}"
        return "\n".join(
            [f"lost {len(self.lost)}, repeated {len(self.repeated)}, {twice}", *listed, *self.wrong]
        )


def judge(
    produced: Tasks,
    written: Written,
    old: Iterable[Line],
    ours: Iterable[Line],
    *,
    killed: Iterable[int],
    held_by_killed: Tasks,
    timeout_s: float,
) -> Verdict:
    """Account for each task.

    Args:
        produced: what producers pushed. old, ours: accounts of old workers, and of ours.
        killed: pids of the old workers that were killed. held_by_killed: what ours held when they were killed.
        timeout_s: of old records.
    """
    books = [_Book(pid, lines) for pid, lines in _by_pid(old).items()]
    gone = {book.pid for book in books} & set(killed)
    verdict = Verdict()
    done = Counter(task for step, _, _, task in ours if step == "done")
    ours_done = done.copy()
    for book in books:
        done += book.done
    # Old workers that pop: what each took with it. What it never wrote down, the server did.
    took: dict[bytes, list[str]] = {}
    named: Tasks = Counter()
    for book in books:
        named += book.popped
        if book.popped_last:
            took.setdefault(book.popped_last, []).append(f"BRPOP worker {book.pid} had it")
            if book.pid not in gone:
                verdict.wrong.append(f"worker {book.pid} lives and has not finished {book.popped_last!r}")
    unnamed = written.popped - named
    waited = [book.pid for book in books if book.waits and book.pid in gone]
    for task in unnamed.elements():
        took.setdefault(task, []).append(
            f"it was sent to a BRPOP worker killed while it waited, one of {waited}"
        )
    if unnamed.total() > len(waited):
        verdict.wrong.append(f"{unnamed} were popped, and only {waited} were killed while they waited")
    if named - written.popped:
        verdict.wrong.append(f"popped and not in the write log: {named - written.popped}")
    for task, missing in (produced - done).items():
        reasons = took.get(task, [])
        verdict.lost[task] = "; ".join(reasons) or "nobody had popped it"
        if len(reasons) < missing:
            verdict.wrong.append(f"{task!r} is lost {missing} times: {verdict.lost[task]}")
    # Old workers that move: what the dead held, at most; and who lived on and was too slow.
    dead: Tasks = written.moved - sum((book.held for book in books), Counter())
    for book in books:
        dead += book.held_last if book.pid in gone else Counter()
        dead += Counter(task for task, took_s in book.runs if took_s > timeout_s)
    pushed_again = written.pushed - produced
    if strange := pushed_again.keys() - written.moved.keys():
        verdict.wrong.append(f"an old recoverer pushed what no old worker had moved: {strange}")
    if written.recovered - dead:
        verdict.wrong.append(f"our recoverer pushed what no dead worker held: {written.recovered - dead}")
    verdict.pushed_twice = pushed_again + written.recovered - dead
    reruns = ours_done - written.taken
    if reruns - held_by_killed:
        verdict.wrong.append(f"our workers repeated what no killed one held: {reruns - held_by_killed}")
    for task, more in (done - produced).items():
        reasons = [
            f"{reason} ({times[task]})"
            for reason, times in (
                ("a killed worker of ours held it", reruns),
                ("an old worker that died held it, old recoverers pushed it", pushed_again & dead),
                ("an old worker that died held it, our recoverer pushed it", written.recovered),
                ("old recoverers pushed it once more", verdict.pushed_twice),
            )
            if times[task]
        ]
        verdict.repeated[task] = "; ".join(reasons) or "for no reason"
        if reruns[task] + pushed_again[task] + written.recovered[task] < more:
            verdict.wrong.append(f"{task!r} is repeated {more} times: {verdict.repeated[task]}")
    return verdict


class _Book:
    """The account of one old worker."""

    def __init__(self, pid: int, lines: list[Line]) -> None:
        self.pid = pid
        steps = [(step, task) for step, _, _, task in lines]
        self.done = Counter(task for step, task in steps if step == "done")
        self.popped = Counter(task for step, task in steps if step == "popped")
        self.held = Counter(task for step, task in steps if step == "held")
        last_step, last_task = steps[-1]
        self.popped_last = last_task if last_step == "popped" else b""
        self.waits = last_step == "waiting"
        """Its last sign of life: what it was sent after that, it did not write down."""
        mover = [task for step, task in steps if step in ("held", "done") and self.held]
        self.held_last: Tasks = Counter(mover[-1:])
        """Perhaps acknowledged by now, perhaps not: it says nothing of that."""
        begun = {task: at_s for step, _, at_s, task in lines if step == "held"}
        self.runs = [
            (task, at_s - begun[task]) for step, _, at_s, task in lines if step == "done" and task in begun
        ]


def _by_pid(lines: Iterable[Line]) -> dict[int, list[Line]]:
    books: dict[int, list[Line]] = {}
    for line in lines:
        books.setdefault(line[1], []).append(line)
    return books
