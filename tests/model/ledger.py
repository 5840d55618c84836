"""Ledger: what each group must still have of each event, and which steps may change it. Pure.

Of every copy of an event a group has exactly one of: not delivered, pending with one consumer, due again, waiting, a
dead letter, settled, or removed by somebody. What is seen before and after a step is compared: each change must be one
that the step may make, and all that the step decided must be found. The books must balance after every step.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pipeline.ladder import convicted
from pipeline.outcome import Kind
from pipeline.position import EntryId, parse_entry_id
from tests.model.sight import Copy, Cursor, GroupSight, Key, Pending, Sight

READ, SETTLE, TAKE, PROMOTE = "read", "settle", "take", "promote"
REPLAY_RANGE, REPLAY_PENDING, FIX = "replay range", "replay pending", "save the position"
DESTROY, REMOVE, TRIM, WIPE = "destroy", "remove", "trim", "wipe"
RETIRE, RESET = "retire", "reset"
REVIVE, DROP = "retry dead letters", "drop dead letters"


class Broken(AssertionError):
    """A law does not hold."""


@dataclass(frozen=True, slots=True)
class Run:
    """What one member made of an entry it holds: the attempt it counted, and an outcome for each of its events."""

    attempt: int
    outcomes: tuple[Kind | None, ...]
    """None for an event that has not ended."""
    running: bool
    """A handler is at work on one of them."""

    @property
    def decided(self) -> bool:
        """All have ended."""
        return all(self.outcomes)


@dataclass(frozen=True, slots=True)
class Deed:
    """One step: what it may do, for which group (none: all), by which consumer."""

    may: frozenset[str] = frozenset()
    group: str = ""
    consumer: str = ""
    runs: Mapping[tuple[bool, str], Run] = field(default_factory=dict)
    """By (whether of the group's own stream, entry id): what the consumer holds."""
    appended: Mapping[str, int] = field(default_factory=dict)
    """Entry id to how many events it holds."""
    replayed: tuple[str, ...] = ()
    """Entries that a replay copied."""
    min_idle_ms: int = 0
    """Entries that were renewed since may not be taken, nor replayed."""
    letters: Mapping[str, int] = field(default_factory=dict)
    """Dead letters that are retried or dropped, and how many events each is: more than one for a pack as a whole."""
    first: EntryId = (0, 0)
    """Of a reset: what comes before is not read any more, this and what comes after is."""
    complete: bool = True
    """Of a reset: it was not killed."""

    def does(self, what: str, group: str) -> bool:
        """Whether this step may do so to the group."""
        return what in self.may and self.group in ("", group)


@dataclass(slots=True)
class Account:
    """What one group was given, and what became of it; what is neither is still to be had."""

    given: Counter[Key] = field(default_factory=Counter)
    settled: Counter[Key] = field(default_factory=Counter)
    removed: Counter[Key] = field(default_factory=Counter)
    """Deleted, by somebody who may, before the group had it."""
    tokens: set[str] = field(default_factory=set)
    """All claims tokens there ever were."""
    lost_main: Cursor | None = None
    """Where the group stood when it was destroyed."""
    uncertain: set[tuple[bool, str]] = field(default_factory=set)
    """Entries whose holder may know less of their deliveries than the server."""


@dataclass(slots=True)
class Gone:
    """What has left the hands of a group's consumers in one step, and where it must be found."""

    again: Counter[Copy] = field(default_factory=Counter)
    waiting: Counter[Copy] = field(default_factory=Counter)
    dead: Counter[Copy] = field(default_factory=Counter)
    """Of these, runs are the attempts, and crashes are not looked at."""
    uncertain: Counter[Key] = field(default_factory=Counter)
    """Gone one way or another, since the entry itself was deleted."""


class Ledger:
    """The books of all groups of one stream."""

    def __init__(self, groups: Iterable[str], attempts: int) -> None:
        self.accounts = {group: Account() for group in groups}
        self.sizes: dict[str, tuple[int, bool]] = {}
        """Entry id to how many events it holds, and whether it is a pack."""
        self.deleted: set[str] = set()
        self._attempts = attempts

    def keys(self, entry_id: str) -> list[Key]:
        """The events of an entry of the main stream."""
        return [(entry_id, index) for index in range(self.sizes[entry_id][0])]

    def wiped(self) -> None:
        """All is gone, with the consent of whoever did it: start anew."""
        for group, account in self.accounts.items():
            self.accounts[group] = Account(tokens=account.tokens, lost_main=Cursor())
        self.deleted |= self.sizes.keys()

    def check(self, before: Sight, after: Sight, deed: Deed) -> None:
        """Compare what was seen before and after a step with what it may do, and enter it in the books.

        Raises:
            Broken: something was lost, doubled, moved by somebody who may not, or miscounted.
        """
        if WIPE in deed.may:
            self.wiped()
            return
        self._check_entries(before, after, deed)
        for group, account in self.accounts.items():
            self._check_group(group, account, before, after, deed)

    def _check_entries(self, before: Sight, after: Sight, deed: Deed) -> None:
        came = after.entries - before.entries
        if came != deed.appended.keys():
            raise Broken(f"appended were {sorted(came)}, not {sorted(deed.appended)}")
        gone = before.entries - after.entries
        if gone and not deed.may & {REMOVE, TRIM}:
            raise Broken(f"{sorted(gone)} vanished from the stream")
        for group, seen in before.groups.items() if TRIM in deed.may else ():
            cursor = seen.main or self.accounts[group].lost_main or Cursor()
            for entry_id in gone:
                if entry_id in cursor.pending or cursor.unread(entry_id):
                    raise Broken(f"{entry_id} was trimmed before group {group} had settled it")
        for entry_id in gone:
            self.deleted.add(entry_id)

    def _check_group(self, group: str, account: Account, before: Sight, after: Sight, deed: Deed) -> None:
        old, new = before.groups[group], after.groups[group]
        if group not in (deed.group, "") and deed.group and _static(old) != _static(new):
            raise Broken(f"group {group} changed by a step of group {deed.group}")
        for entry_id, events in deed.appended.items():
            account.given.update((entry_id, index) for index in range(events))
        for entry_id in before.entries - after.entries:
            cursor = old.main or account.lost_main or Cursor()
            if entry_id not in cursor.pending and cursor.unread(entry_id):
                account.removed.update(self.keys(entry_id))
        for entry_id in deed.replayed if deed.group == group else ():
            account.given.update(self.keys(entry_id))
        gone = Gone()
        moved = False
        for again in (False, True):
            moved |= self._check_cursor(group, account, old, new, deed, gone, again=again)
        self._check_destinations(account, before, after, group, deed, gone)
        self._check_token(account, old, new, moved=moved)
        self._check_position(group, account, new)
        self._check_balance(group, account, after, new)

    def _check_cursor(
        self, group: str, account: Account, old: GroupSight, new: GroupSight, deed: Deed, gone: Gone,
        *, again: bool,
    ) -> bool:  # fmt: skip
        """One stream of a group; whether anything changed hands but from the stream to a reader."""
        was, now = old.cursor(again=again), new.cursor(again=again)
        if now is None:
            if was is not None:
                if not deed.does(DESTROY, group):
                    raise Broken(f"group {group} is gone")
                if not again:
                    account.lost_main = was
            return False
        moved = was is None
        if was is None:
            was = Cursor()
            if not again:
                was = Cursor(parse_entry_id(new.facts["pos:main"]))  # where it came back in this very step
                self._check_return(group, account, was)
        for entry_id in was.pending.keys() | now.pending.keys():
            a, b = was.pending.get(entry_id), now.pending.get(entry_id)
            where = f"group {group}, {'its own ' if again else ''}entry {entry_id}"
            if a is None:
                assert b is not None
                self._check_read(where, entry_id, b, was, deed, group)
                if (again, entry_id) in deed.runs:  # it runs there already, since before the group was lost
                    account.uncertain.add((again, entry_id))
                else:
                    account.uncertain.discard((again, entry_id))
            elif b is None:
                moved |= self._check_gone(where, entry_id, a, old, account, deed, gone, group, again=again)
            else:
                moved |= self._check_kept(where, entry_id, a, b, account, deed, group, again=again)
        if deed.does(RESET, group) and not again:
            moved |= self._check_reset(group, account, was, now, new, deed)
        elif now.last < was.last:
            raise Broken(f"group {group} went back from {was.last} to {now.last}")
        return moved

    def _check_reset(
        self, group: str, account: Account, was: Cursor, now: Cursor, new: GroupSight, deed: Deed
    ) -> bool:
        """The position stands where it was asked to, and the saved one with it; whether it was moved."""
        moved = deed.complete or now.last != was.last
        for entry_id in self.sizes.keys() - self.deleted if moved else ():
            if now.unread(entry_id) != (parse_entry_id(entry_id) >= deed.first):
                raise Broken(f"group {group} was to read from {deed.first}, and stands at {now.last}")
            if entry_id in was.pending:
                continue  # it was owed, and is
            if was.unread(entry_id) and not now.unread(entry_id):
                account.removed.update(self.keys(entry_id))
            elif now.unread(entry_id) and not was.unread(entry_id):
                account.given.update(self.keys(entry_id))
        if deed.complete and now.pending:
            raise Broken(f"group {group} was reset, and {sorted(now.pending)} pend")
        saved = new.facts.get("pos:main", "0-0")
        if deed.complete and parse_entry_id(saved) != now.last:
            raise Broken(f"group {group} was reset to {now.last}, and what is saved is {saved}")
        return moved

    def _check_read(
        self, where: str, entry_id: str, now: Pending, was: Cursor, deed: Deed, group: str
    ) -> None:
        if not was.unread(entry_id):
            raise Broken(f"{where} was delivered anew, and nobody had it: {now}")
        if not deed.does(READ, group) or now.owner != deed.consumer or now.deliveries != 1:
            raise Broken(
                f"{where} was read by {now}, in a step of {deed.consumer!r} that may {set(deed.may)}"
            )

    def _check_kept(
        self, where: str, entry_id: str, was: Pending, now: Pending, account: Account, deed: Deed, group: str,
        *, again: bool,
    ) -> bool:  # fmt: skip
        """An entry that is pending before and after; whether it changed hands, or is offered to others."""
        if was.owner == now.owner and was.deliveries == now.deliveries:
            if was.idle_ms < deed.min_idle_ms <= now.idle_ms and deed.does(SETTLE, group):
                raise Broken(f"{where} was handed back, and its attempt was spent: {now}")
            return False
        more = now.deliveries - was.deliveries
        if was.owner != now.owner or more == 1:
            if was.deliveries == 0 and was.owner == now.owner == deed.consumer and deed.does(READ, group):
                return False  # handed back by itself, and fetched: this is its first delivery
            self._check_taken(where, was, deed, group)
            # Taken with too many others that may have killed their worker, it may be given back at once.
            if now.owner != deed.consumer or more not in (0, 1):
                raise Broken(f"{where} went from {was} to {now}, in a step of {deed.consumer!r}")
            if (again, entry_id) in deed.runs:
                account.uncertain.add((again, entry_id))
            else:
                account.uncertain.discard((again, entry_id))
            return True
        run = deed.runs.get((again, entry_id))
        if not deed.does(SETTLE, group) or was.owner != deed.consumer or more != -1:
            raise Broken(f"{where} went from {was} to {now}, in a step of {deed.consumer!r}")
        if run is not None and (run.running or any(k not in (None, Kind.HAND_BACK) for k in run.outcomes)):
            raise Broken(f"{where} was handed back although it ran: {run}")
        return True

    def _check_taken(self, where: str, was: Pending, deed: Deed, group: str) -> None:
        """An entry that the step claimed."""
        if not deed.does(TAKE, group):
            raise Broken(
                f"{where}, of {was}, was taken in a step of {deed.consumer!r} that may {set(deed.may)}"
            )
        if was.idle_ms < deed.min_idle_ms:
            raise Broken(f"{where} was taken although its consumer renewed it: {was}")

    def _check_gone(
        self, where: str, entry_id: str, was: Pending, old: GroupSight, account: Account, deed: Deed,
        gone: Gone, group: str, *, again: bool,
    ) -> bool:  # fmt: skip
        """An entry that is not pending any more; whether somebody else than its consumer moved it."""
        moved = False
        known = was.owner == deed.consumer and (again, entry_id) in deed.runs
        if not known and deed.does(TAKE, group) and was.idle_ms >= deed.min_idle_ms:
            # It was claimed first, and decided about without a handler.
            was, moved = Pending(deed.consumer, was.deliveries + 1, 0), True
        before = old.again_entries.get(entry_id) if again else None
        deleted = entry_id in self.deleted if not again else before is None
        keys = [before.key] if before else [] if again else self.keys(entry_id)
        runs, crashes = (before.runs, before.crashes) if before else (0, 0)
        attempt, crashes = runs + was.deliveries, crashes + was.deliveries - 1
        run, counted = deed.runs.get((again, entry_id)), was.deliveries
        if deleted:
            gone.uncertain.update(keys)
            account.uncertain.discard((again, entry_id))
            return False
        if deed.does(REPLAY_PENDING, group):
            if was.idle_ms < deed.min_idle_ms:
                raise Broken(f"{where} was replayed although its consumer renewed it: {was}")
            gone.again.update(Copy(key, 0, 0) for key in keys)
            account.uncertain.discard((again, entry_id))
            return True
        if deed.does(RESET, group) and not again:
            if parse_entry_id(entry_id) < deed.first:  # as after a crash
                gone.again.update(Copy(key, was.deliveries, was.deliveries) for key in keys)
            account.uncertain.discard((again, entry_id))
            return True
        if not deed.does(SETTLE, group) or was.owner != deed.consumer:
            raise Broken(
                f"{where}, of {was}, was settled in a step of {deed.consumer!r} that may {set(deed.may)}"
            )
        if run is not None and run.attempt != attempt:
            # Taken while it ran here all the same: its run counts by what was known when it began.
            if (again, entry_id) not in account.uncertain or run.attempt <= runs:
                raise Broken(f"{where} ran as attempt {run.attempt}, not {attempt}")
            counted -= attempt - run.attempt
            crashes -= attempt - run.attempt
            attempt = run.attempt
        noted = int(old.facts.get(f"alone{'-again' if again else ''}:{entry_id}", 0))
        if convicted(crashes, deliveries=counted, noted=noted):
            gone.dead.update(Copy(key, attempt - 1, 0) for key in keys[:1])
            for key in keys[1:]:  # a pack that was never split
                account.removed[key] += 1
        elif not again and self.sizes[entry_id][1] and attempt > 1:
            gone.again.update(Copy(key, attempt - 1, crashes) for key in keys)
        elif run is None or not run.decided:
            raise Broken(f"{where} was settled, and its run has not ended: {run}")
        else:
            for key, kind in zip(keys, run.outcomes, strict=True):
                if kind is Kind.DONE:
                    account.settled[key] += 1
                elif kind is Kind.DEAD or (kind is Kind.RETRY and attempt >= self._attempts):
                    gone.dead[Copy(key, attempt, 0)] += 1
                elif kind is Kind.RETRY:
                    gone.waiting[Copy(key, attempt, crashes)] += 1
                elif kind is Kind.LATER:
                    gone.waiting[Copy(key, attempt - 1, crashes)] += 1
                else:
                    gone.again[Copy(key, attempt - 1, crashes)] += 1
        account.uncertain.discard((again, entry_id))
        return moved

    def _check_destinations(
        self, account: Account, before: Sight, after: Sight, group: str, deed: Deed, gone: Gone
    ) -> None:
        """What left somebody's hands is where it must be, and nothing else came there."""
        old, new = before.groups[group], after.groups[group]
        promoted: Counter[Copy] = Counter()
        for name in old.waiting.keys() - new.waiting.keys():
            due_ms, copy = old.waiting[name]
            if not deed.does(PROMOTE, group) or due_ms > after.now_ms:
                raise Broken(f"group {group}: {copy} waits no more, {due_ms - after.now_ms} ms early")
            promoted[copy] += 1
        for entry_id in old.again_entries.keys() - new.again_entries.keys():
            if old.again is not None and entry_id not in old.again.pending:
                raise Broken(f"group {group}: {entry_id} of its own stream vanished unread")
            if new.again is not None and entry_id in new.again.pending:
                raise Broken(f"group {group}: {entry_id} of its own stream was deleted and is pending")
        again = Counter(new.again_entries[i] for i in new.again_entries.keys() - old.again_entries.keys())
        waiting = Counter(new.waiting[i][1] for i in new.waiting.keys() - old.waiting.keys())
        letters = [new.dead[i] for i in new.dead.keys() - old.dead.keys()]
        dead = Counter(Copy(key, letter.attempts, 0) for letter, key in letters)
        revived: Counter[Copy] = Counter()
        left = old.dead.keys() - new.dead.keys()
        if left != (deed.letters.keys() if deed.does(REVIVE, group) or deed.does(DROP, group) else set()):
            raise Broken(f"group {group}: dead letters {sorted(left)} left, not {sorted(deed.letters)}")
        for dead_id in left:
            _, key = old.dead[dead_id]
            if deed.does(DROP, group):
                account.removed[key] += 1
                continue
            keys = [key, *((key[0], index) for index in range(1, deed.letters[dead_id]))]
            revived.update(Copy(one, 0, 0) for one in keys)
            account.given.update(keys[1:])  # they were given up with the pack, and are to be had again
        replayed = Counter(
            Copy(key, 0, 0)
            for entry_id in (deed.replayed if deed.does(REPLAY_RANGE, group) else ())
            for key in self.keys(entry_id)
        )
        _check_added(
            f"group {group}, its own stream", again, gone.again + promoted + replayed + revived, gone
        )
        _check_added(f"group {group}, its retries", waiting, gone.waiting, gone)
        _check_added(f"group {group}, its dead letters", dead, gone.dead, gone)
        account.removed.update(+gone.uncertain)

    def _check_return(self, group: str, account: Account, now: Cursor) -> None:
        """A lost group is back: nothing that it had not settled lies before it."""
        was = account.lost_main or Cursor()
        for entry_id in self.sizes:
            if entry_id in self.deleted:
                if entry_id in was.pending:  # nobody can read it any more
                    account.removed.update(self.keys(entry_id))
                continue
            owed = entry_id in was.pending or was.unread(entry_id)
            if owed and not now.unread(entry_id):
                raise Broken(f"group {group} came back at {now.last}, and {entry_id} was not settled")
            if not owed and now.unread(entry_id):  # it is delivered again
                account.given.update(self.keys(entry_id))
        account.lost_main = None
        account.uncertain = {one for one in account.uncertain if one[0]}

    def _check_token(self, account: Account, old: GroupSight, new: GroupSight, *, moved: bool) -> None:
        before, token = old.facts.get("token", ""), new.facts.get("token", "")
        if token == before:
            if moved:
                raise Broken("entries changed hands, and the claims token did not change")
            return
        if token in account.tokens:
            raise Broken(f"the claims token {token} is one that was before")
        account.tokens.add(token)

    def _check_position(self, group: str, account: Account, new: GroupSight) -> None:
        saved = new.facts.get("pos:main")
        if saved is None:
            return
        position = parse_entry_id(saved)
        cursor = new.main or account.lost_main
        if cursor is None:
            return
        if position > cursor.last:
            raise Broken(
                f"the position saved of group {group}, {saved}, is beyond its last entry {cursor.last}"
            )
        for entry_id in cursor.pending:
            if parse_entry_id(entry_id) <= position:
                raise Broken(
                    f"the position saved of group {group}, {saved}, is beyond {entry_id}, which pends"
                )

    def _check_balance(self, group: str, account: Account, after: Sight, new: GroupSight) -> None:
        """Each copy of each event is in exactly one place."""
        cursor = new.main or account.lost_main or Cursor()
        still: Counter[Key] = Counter(new.copies())
        for entry_id in cursor.pending:
            still.update(self.keys(entry_id))
        for entry_id in after.entries:
            if entry_id not in cursor.pending and cursor.unread(entry_id):
                still.update(self.keys(entry_id))
        if new.again is not None:
            for entry_id in new.again_entries:
                if entry_id not in new.again.pending and not new.again.unread(entry_id):
                    raise Broken(f"group {group}: {entry_id} of its own stream is settled, and still there")
        found = still + account.settled + account.removed
        if found != account.given:
            raise Broken(
                f"group {group}: lost {dict(account.given - found)}, doubled {dict(found - account.given)}"
            )


def _check_added(where: str, found: Counter[Copy], due: Counter[Copy], gone: Gone) -> None:
    missing, more = due - found, found - due
    for copy in list(more):
        if gone.uncertain[copy.key]:  # its entry was deleted, but whoever held it had it
            gone.uncertain[copy.key] -= 1
            del more[copy]
    if missing or more:
        raise Broken(f"{where}: missing {dict(missing)}, too many {dict(more)}")


def _static(seen: GroupSight) -> tuple[object, ...]:
    """What another group's step may not change: all but idle times."""
    cursors = [
        cursor and (cursor.last, {i: (p.owner, p.deliveries) for i, p in cursor.pending.items()})
        for cursor in (seen.main, seen.again)
    ]
    return (*cursors, seen.again_entries, seen.waiting, seen.dead, seen.facts)
