"""millstream dead: the dead letters of groups: which events they gave up, why, and what is to become of them."""

import shlex
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import click

from console.cli.dead_options import DeadId, Wanted, wanting
from console.cli.group import all_groups
from console.cli.kinds import GROUP, RATE, STREAM
from console.cli.progress import Progress
from console.cli.session import Session
from console.cli.verb import Noun, Verb
from console.event_view import EventView, views_of
from console.output import Column, as_count, as_time, counted, number
from console.safe_text import safe, safe_bytes, safe_lines
from consumers.dead_letters import DeadLetters
from pipeline.dead_event import Cause, DeadEvent, as_facts, causes_of, read_dead_event
from pipeline.errors import MillstreamError, NotFoundError, UsageError
from pipeline.position import after, parse_entry_id
from pipeline.server.overview import dead_letters, groups

MOST_RAW_CHARS = 2_000
"""Of each value of the entry as it was sent, a person is shown so much; JSON has all."""
SHOWN_CAUSES = 5
"""A plan names so many causes."""
_CAUSES = (
    Column("stream", "STREAM", shrinks=True),
    Column("group", "GROUP", shrinks=True),
    number("count", "COUNT"),
    Column("error", "ERROR", shrinks=True),
    Column("first_ms", "FIRST", as_time),
    Column("last_ms", "LAST", as_time),
    Column("last_id", "NEWEST LETTER"),
    Column("example", "EXAMPLE", shrinks=True),
)
_EACH = (
    Column("dead_id", "DEAD LETTER"),
    Column("died_ms", "DIED", as_time),
    Column("entry_id", "ENTRY"),
    Column("type", "TYPE", shrinks=True),
    Column("key", "KEY", shrinks=True),
    number("attempts", "RUNS"),
    number("crashes", "CRASHES"),
    Column("error", "ERROR", shrinks=True),
    Column("reason", "REASON", shrinks=True),
)
_FACTS = (
    Column("dead_id", "dead letter"),
    Column("reason", "reason", style=lambda _: "red"),
    Column("error", "error"),
    Column("message", "message"),
    Column("attempts", "runs", as_count),
    Column("crashes", "crashes", as_count),
    Column("first_failed_ms", "first failed", as_time),
    Column("last_failed_ms", "last failed", as_time),
    Column("group", "group"),
    Column("consumer", "consumer"),
    Column("host", "host"),
    Column("stream", "stream"),
    Column("entry_id", "entry"),
    Column("index", "event in entry", as_count),
    Column("event_id", "event"),
    Column("replay", "replayed by"),
)


@click.group(
    "dead",
    cls=Noun,
    examples=[
        ("millstream dead", "why events died, in every group of every stream"),
        ("millstream dead orders billing", "the dead letters of one group, grouped by why they died"),
        ("millstream dead show orders billing", "the newest one: error, traceback, and the event"),
        ("millstream dead retry orders billing --error '*Timeout*'", "shows how many, and asks"),
    ],
)
def verb() -> None:
    """Dead letters: events that failed for good, kept until somebody decides."""


@verb.command(
    "ls",
    cls=Verb,
    examples=[
        ("millstream dead ls orders billing", "grouped by why they died, the most frequent first"),
        ("millstream dead ls orders billing --each --since 1h", "one by one, those of the last hour"),
        ("millstream dead ls orders billing --type 'order.*' --match c-7", "those of some events only"),
        ("millstream dead ls orders billing --each -o ndjson | jq .reason", "for a script"),
    ],
)
@click.argument("stream", type=STREAM, required=False)
@click.argument("group", type=GROUP, required=False)
@wanting
@click.option("--each", is_flag=True, help="List them one by one: the newest, or those from --since on.")
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    metavar="COUNT",
    default=100,
    show_default=True,
    help="At most so many.",
)
@click.pass_obj
def ls(
    session: Session, stream: str | None, group: str | None, wanted: Wanted, each: bool, limit: int
) -> None:
    """List dead letters, grouped by why they died.

    Alike are those of one exception class that say the same but for numbers, ids and quoted texts.
    Without a group: of all groups of the stream; without a stream: of all streams.
    """
    out = session.out
    if each:
        if stream is None or group is None:
            raise UsageError("--each lists the dead letters of one group: name its stream and the group")
        _list_each(session, stream, group, wanted, limit)
        return
    rows: list[dict[str, Any]] = []
    for where in _groups_of(session, stream, group):
        with DeadLetters(*where, connector=session.connector()) as letters:
            with Progress(out, f"reading dead letters of {safe(where[1])}") as progress:
                causes = causes_of(_watched(letters.between(*wanted.range(letters), wanted.chosen), progress))
            rows += [_cause_row(*where, cause) for cause in causes]
    where_words = f"group {group} of {stream}" if group else f"no group of {stream}" if stream else "no group"
    none = f"{where_words} has {'no dead letter' if group else 'a dead letter'}"
    columns = [c for c in _CAUSES if group is None or c.name not in ("stream", "group")]
    out.rows(columns, rows[:limit], none=none + (" like that" if wanted else ""))
    if len(rows) > limit:
        out.talk(f"{len(rows) - limit:,} more causes: --limit")


@verb.command(
    "show",
    cls=Verb,
    examples=[
        ("millstream dead show orders billing", "the newest: reason, traceback, event"),
        ("millstream dead show orders billing 1700000000000-0", "reason, traceback, event, bytes"),
        ("millstream dead show orders billing 1700000000000-0 --json | jq .traceback", "for a script"),
    ],
)
@click.argument("stream", type=STREAM)
@click.argument("group", type=GROUP)
@click.argument("dead_id", metavar="[DEAD_LETTER]", required=False, type=DeadId())
@click.pass_obj
def show(session: Session, stream: str, group: str, dead_id: str | None) -> None:
    """One dead letter: why it died, where, the event itself, and its bytes as they were sent. The newest, if none is
    named."""
    link, out = session.link("dead"), session.out
    if dead_id is None:
        found = dead_letters(link, stream, group, count=1, newest=True)
    else:
        found = dead_letters(link, stream, group, start=dead_id, end=dead_id, count=1)
    if not found:
        raise NotFoundError(
            f"group {group!r} of stream {stream!r} has no dead letter {dead_id or ''}".rstrip()
        )
    dead = read_dead_event(found[0][0], found[0][1] or [])
    views = _views(dead)
    row = _row(dead, views) | as_facts(dead)
    if not out.for_people:
        out.done("", **row, events=[view.as_json() for view in views], raw=list(dead.fields))
        return
    out.record([column for column in _FACTS if row.get(column.name) not in (None, "")], row)
    for line in safe_lines(dead.letter.traceback.rstrip()) if dead.letter and dead.letter.traceback else ():
        out.line(f"  {line}")
    out.line("")
    for view in views:
        out.line(view.as_line(named=False, colored=out.stdout_colored))
    out.line("")
    for name, value in zip(dead.fields[::2], dead.fields[1::2], strict=False):
        text = safe_bytes(value)
        cut = f"… ({len(value):,} bytes; --json has all)" if len(text) > MOST_RAW_CHARS else ""
        out.line(f"raw {safe_bytes(name)}  {text[:MOST_RAW_CHARS]}{cut}")


def _acting(does: str, examples: Sequence[tuple[str, str]]) -> Callable[..., Any]:
    """What retry and drop have in common."""

    def declare(function: Callable[..., Any]) -> Callable[..., Any]:
        chosen = click.pass_obj(function)
        for option in (
            click.option("--execute", is_flag=True, help="Do it without asking."),
            click.option("--rate", type=RATE, metavar="RATE", help="At most so many a second, evenly: 500/s, 30/m."),
            click.option("--all", "everything", is_flag=True, help="All of them."),
        ):  # fmt: skip
            chosen = option(chosen)
        chosen = wanting(chosen)
        chosen = click.argument("ids", metavar="[DEAD_LETTER]...", nargs=-1, type=DeadId())(chosen)
        chosen = click.argument("group", type=GROUP)(chosen)
        chosen = click.argument("stream", type=STREAM)(chosen)
        return verb.command(does, cls=Verb, examples=examples)(chosen)

    return declare


@_acting(
    "retry",
    [
        ("millstream dead retry orders billing 1700000000000-0", "this one"),
        ("millstream dead retry orders billing --error '*Timeout*' --since 1h", "what timed out lately"),
        ("millstream dead retry orders billing --all --rate 50/s --execute", "all, without asking, gently"),
    ],
)
def retry(
    session: Session, stream: str, group: str, ids: tuple[str, ...], wanted: Wanted, everything: bool,
    rate: float | None, execute: bool,
) -> None:  # fmt: skip
    """Have dead letters run again in their group, with all attempts before them; no other group sees them.

    Each leaves the dead letters and joins what the group runs in one step: it runs once, whatever interrupts this.
    The same command again goes on with the rest.
    """
    with DeadLetters(stream, group, connector=session.connector()) as letters:
        facts = groups(session.link("dead"), stream, only=group)[0]
        plan = _planned(session, letters, ids, wanted, everything, "retry")
        if plan is None:
            return
        if plan.unreadable:
            session.out.warn(
                f"{counted(plan.unreadable, 'letter')} not written by Millstream: left where they are"
            )
        if facts.paused_ms is not None:
            session.out.warn(
                f"group {group} is paused: they wait until `millstream group resume {stream} {group}`"
            )
        elif not facts.members:
            session.out.talk(f"no member of group {group} is alive: they wait for one")
        session.consent("have them run again?", execute)
        count = _carry_out(session, letters, plan, letters.retry, "retry", "retried", rate)
    session.out.done(
        f"{counted(count, 'dead letter')} of group {group} of {stream} run again",
        stream=stream, group=group, letters=plan.count, retried=count,
    )  # fmt: skip


@_acting(
    "drop",
    [
        ("millstream dead drop orders billing 1700000000000-0", "this one, for good"),
        ("millstream dead drop orders billing --until 30d --execute", "what died more than a month ago"),
        ("millstream dead drop orders billing --all", "shows how many, and asks"),
    ],
)
def drop(
    session: Session, stream: str, group: str, ids: tuple[str, ...], wanted: Wanted, everything: bool,
    rate: float | None, execute: bool,
) -> None:  # fmt: skip
    """Remove dead letters for good: their events are handled by this group never more.

    The stream and other groups stay as they are. Interrupted, the same command goes on with the rest.
    """
    with DeadLetters(stream, group, connector=session.connector()) as letters:
        plan = _planned(session, letters, ids, wanted, everything, "drop")
        if plan is None:
            return
        session.consent("drop them for good?", execute)
        count = _carry_out(session, letters, plan, letters.drop, "drop", "dropped", rate)
    session.out.done(
        f"{counted(count, 'dead letter')} of group {group} of {stream} dropped",
        stream=stream, group=group, letters=plan.count, dropped=count,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Plan:
    """What a verb is about to do."""

    count: int
    unreadable: int
    find: Callable[[], Iterator[DeadEvent]]
    """The letters that are meant, once more."""
    words: str
    """What was asked for, as it is typed."""


def _planned(
    session: Session, letters: DeadLetters, ids: Sequence[str], wanted: Wanted, everything: bool, does: str
) -> Plan | None:
    """Look through what is meant and say it; None if it is nothing, which has been said then.

    Raises:
        UsageError: it was not said which. NotFoundError: one that was named is not there.
    """
    stream, group, out = letters.keys.stream, letters.group, session.out
    if sum(map(bool, (ids, wanted, everything))) != 1:
        raise UsageError(
            f"which dead letters of group {group!r} are to be {'retried' if does == 'retry' else 'dropped'}? "
            "Name some by id, or choose by --error, --type, --key, --match, --since, --until, or take --all"
        )
    if ids:
        named = [letters.get(one) for one in dict.fromkeys(ids)]

        def find() -> Iterator[DeadEvent]:
            return iter(named)

        words = f" {' '.join(ids)}"
    else:
        start, end = wanted.range(letters)

        def find() -> Iterator[DeadEvent]:
            return letters.between(start, end, wanted.chosen)

        # What dies again meanwhile is not to be retried by who goes on with this.
        words = f"{wanted.words} --until {end}"
    unreadable = 0

    def looked_at() -> Iterator[DeadEvent]:
        nonlocal unreadable
        with Progress(out, "looked at") as progress:
            for dead in _watched(find(), progress):
                unreadable += dead.letter is None
                yield dead

    causes = causes_of(looked_at())
    count = sum(cause.count for cause in causes)
    if not count:
        where = f"group {group} of {stream} has no dead letter" + (" like that" if wanted else "")
        out.done(f"nothing to {does}: {where}", stream=stream, group=group, letters=0)
        return None
    out.talk(f"{counted(count, 'dead letter')} of group {group} of {stream}:")
    for cause in causes[:SHOWN_CAUSES]:
        out.talk(f"  {cause.count:,}  {cause.error or '?'}: {cause.example.splitlines()[0][:100]}")
    if len(causes) > SHOWN_CAUSES:
        out.talk(f"  and {len(causes) - SHOWN_CAUSES:,} more causes")
    return Plan(count, unreadable, find, words)


def _carry_out(
    session: Session,
    letters: DeadLetters,
    plan: Plan,
    act: Callable[..., int],
    does: str,
    done: str,
    rate: float | None,
) -> int:
    """Do it; interrupted, say how to go on."""
    so_far = 0
    go_on = (
        f"millstream dead {does} {shlex.quote(letters.keys.stream)} {shlex.quote(letters.group)}{plan.words}"
    )
    try:
        with Progress(session.out, done, plan.count) as progress:

            def at(count: int) -> None:
                nonlocal so_far
                so_far = count
                progress.at(count)

            return act(plan.find(), rate=rate, progress=at)
    except KeyboardInterrupt:
        session.out.warn(f"interrupted: {so_far:,} of {plan.count:,} {done}; go on with: {go_on} --execute")
        raise
    except MillstreamError as error:
        error.add_note(f"{so_far:,} of {plan.count:,} {done}; go on with: {go_on} --execute")
        raise


def _list_each(session: Session, stream: str, group: str, wanted: Wanted, limit: int) -> None:
    """The dead letters one by one, in the order they died."""
    out = session.out
    newest = wanted.since is None
    with DeadLetters(stream, group, connector=session.connector()) as letters:
        if not wanted:
            page = dead_letters(session.link("dead"), stream, group, count=limit + 1, newest=True)
            found = [read_dead_event(entry_id, fields or []) for entry_id, fields in page]
        else:
            chosen = letters.between(*wanted.range(letters), wanted.chosen)
            found = list(deque(chosen, maxlen=limit + 1)) if newest else _first(chosen, limit + 1)
    shown = found[-limit:] if newest else found[:limit]
    none = f"group {group} of {stream} has no dead letter" + (" like that" if wanted else "")
    out.rows(_EACH, [_row(dead, _views(dead)) for dead in shown], none=none)
    if len(found) > limit:
        which = "there are older ones" if newest else "there are more"
        since = "start" if newest else after(shown[-1].id)
        out.talk(f"{which}: millstream dead ls {stream} {group} --each --since {since}, or --limit")


def _first(found: Iterable[DeadEvent], most: int) -> list[DeadEvent]:
    return [dead for dead, _ in zip(found, range(most), strict=False)]


def _groups_of(session: Session, stream: str | None, group: str | None) -> list[tuple[str, str]]:
    """The groups whose dead letters are asked for, as (stream, group)."""
    if stream is not None and group is not None:
        return [(stream, group)]
    link = session.link("dead")
    facts = groups(link, stream) if stream is not None else all_groups(session, link, 1_000)
    return [(one.stream, one.group) for one in facts if one.dead]


def _watched(found: Iterable[DeadEvent], progress: Progress) -> Iterator[DeadEvent]:
    for count, dead in enumerate(found, 1):
        progress.at(count)
        yield dead


def _views(dead: DeadEvent) -> list[EventView]:
    """Its events, as far as they can be read."""
    letter = dead.letter
    if letter is None:
        return list(views_of("", dead.id.encode(), list(dead.fields)))
    return list(
        views_of(
            letter.stream,
            dead.id.encode(),
            list(dead.fields),
            origin=letter.entry_id or None,
            only=letter.index if letter.event_id or letter.index else None,
        )
    )


def _row(dead: DeadEvent, views: Sequence[EventView]) -> dict[str, Any]:
    letter, view = dead.letter, views[0] if views else None
    return {
        "dead_id": dead.id,
        "died_ms": dead.died_ms,
        "entry_id": letter.entry_id if letter else "",
        "event_id": letter.event_id if letter and letter.event_id else view.id if view else "",
        "type": view.type if view else "",
        "key": view.key if view else "",
        "attempts": letter.attempts if letter else None,
        "crashes": letter.crashes if letter else None,
        "error": dead.error,
        "reason": dead.reason,
    }


def _cause_row(stream: str, group: str, cause: Cause) -> dict[str, Any]:
    return {
        "stream": stream,
        "group": group,
        "count": cause.count,
        "error": cause.error,
        "shape": cause.shape,
        "first_id": cause.first_id,
        "first_ms": parse_entry_id(cause.first_id)[0],
        "last_id": cause.last_id,
        "last_ms": parse_entry_id(cause.last_id)[0],
        "example": cause.example,
    }
