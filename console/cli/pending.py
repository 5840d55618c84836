"""millstream pending: what a group has read and not settled: being handled, or left behind by a consumer that died."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

import click

from console.cli.kinds import CONSUMER, DURATION, GROUP, POSITION, RATE, STREAM
from console.cli.progress import Bar
from console.cli.selecting import selecting
from console.cli.session import Session
from console.cli.verb import Noun, Verb
from console.event_view import EventView, views_of
from console.output import Column, as_duration, as_time, counted, number
from consumers.replay import Replay
from pipeline.envelope import Again, read_again
from pipeline.errors import MillstreamError, NotFoundError, UsageError
from pipeline.keys import GroupRef, StreamKeys
from pipeline.position import parse_entry_id, position_id
from pipeline.replay_plan import ReplayDone, ReplayPlan, ReplayProgress
from pipeline.selection import Selection
from pipeline.server.connect import Link
from pipeline.server.overview import PendingFacts, consumers, pending, server_ms
from pipeline.server.replies import parse_entries, text
from pipeline.units import show_duration


def _as_where(again: bool) -> str:
    return "again" if again else ""


_COLUMNS = (
    Column("entry_id", "ENTRY"),
    Column("again", "", _as_where),
    Column("consumer", "CONSUMER", shrinks=True),
    Column("kind", "KIND", style=lambda kind: "yellow" if kind == "leftover" else ""),
    number("idle_ms", "IDLE", as_duration),
    number("deliveries", "DELIVERIES"),
)
_FACTS = (
    Column("entry_id", "entry"),
    Column("again", "again", lambda again: "yes: retried, replayed or split" if again else "no"),
    Column("consumer", "consumer"),
    Column("idle_ms", "idle", as_duration),
    Column("deliveries", "deliveries", _COLUMNS[5].show),
    Column("runs", "earlier runs", _COLUMNS[5].show),
    Column("crashes", "earlier crashes", _COLUMNS[5].show),
    Column("first_failed_ms", "first failed", as_time),
    Column("why", "why again"),
)


@click.group(
    "pending",
    cls=Noun,
    examples=[
        ("millstream pending orders billing", "what is being handled or stuck, oldest first"),
        ("millstream pending orders billing --idle 5m", "what nobody has touched for five minutes"),
        ("millstream pending show orders billing 1700000000000-0", "one entry, with its events"),
        ("millstream pending retry orders billing --all", "what dead consumers left behind runs at once"),
        ("millstream pending bury orders billing 1700000000000-0 --reason 'see #41'", "a dead letter"),
    ],
)
def verb() -> None:
    """Pending entries of a group: read, and not settled yet."""


@verb.command(
    "ls",
    cls=Verb,
    examples=[
        ("millstream pending ls orders billing --consumer web-1-4133", "what one consumer holds"),
        ("millstream pending ls orders billing --from 1700000000000-0", "the next page"),
    ],
)
@click.argument("stream", type=STREAM)
@click.argument("group", type=GROUP)
@click.option("--consumer", type=CONSUMER, metavar="NAME", help="Only what this consumer holds.")
@click.option(
    "--idle", type=DURATION, default=0, metavar="DURATION", help="Only what was idle at least so long."
)
@click.option("--from", "start", type=POSITION, metavar="POSITION", help="Only from this entry on.")
@click.option(
    "--again", "again_only", is_flag=True, help="Only what stands in the group's own `again` stream."
)
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
    session: Session,
    stream: str,
    group: str,
    consumer: str | None,
    idle: int,
    start: str | None,
    again_only: bool,
    limit: int,
) -> None:
    """List pending entries, in the order of their ids: first those of the stream, then those that run again."""
    link = session.link("pending")
    begin = position_id(start, server_ms(link), "--from") if start else "-"
    begin = "+" if begin == "$" else begin
    found: list[PendingFacts] = []
    for again in (True,) if again_only else (False, True):
        ref = GroupRef(StreamKeys(stream), group, again=again)
        room = limit + 1 - len(found)
        if room:
            found += pending(
                link,
                ref,
                start="-" if again and not again_only else begin,
                count=room,
                consumer=consumer,
                min_idle_ms=idle,
            )
    kinds = {one.name: one.kind for one in consumers(link, stream, group)} if found else {}
    rows = [asdict(one) | {"kind": kinds.get(one.consumer, "leftover")} for one in found[:limit]]
    session.out.rows(_COLUMNS, rows, none=f"nothing is pending with group {group} of {stream}")
    if len(found) > limit:
        more = found[limit]
        where = " --again" if more.again else ""
        session.out.talk(
            f"there is more: millstream pending ls {stream} {group} --from {more.entry_id}{where}"
        )


@verb.command(
    "show",
    cls=Verb,
    examples=[
        ("millstream pending show orders billing 1700000000000-0", "who holds it, and what it holds"),
        ("millstream pending show orders billing 1700000000000-0 --json", "for a script"),
    ],
)
@click.argument("stream", type=STREAM)
@click.argument("group", type=GROUP)
@click.argument("entry_id", metavar="ENTRY")
@click.pass_obj
def show(session: Session, stream: str, group: str, entry_id: str) -> None:
    """One pending entry: who holds it, how often it was delivered, and its events."""
    link, out = session.link("pending"), session.out
    facts, again, views = _find(link, StreamKeys(stream), group, entry_id)
    row = asdict(facts) | (_earlier(again) if again is not None else {})
    if not out.for_people:
        out.done("", **row, events=[view.as_json() for view in views])
        return
    out.record([column for column in _FACTS if column.name in row], row)
    out.line("")
    for view in views:
        out.line(view.as_line(named=False, colored=out.stdout_colored))
    if not views:
        out.talk("its entry was trimmed: it will be settled without being handled")


def _acting(
    does: str, short_help: str, examples: Sequence[tuple[str, str]], *more: Any
) -> Callable[..., Any]:
    """What retry and bury have in common."""

    def declare(function: Callable[..., Any]) -> Callable[..., Any]:
        chosen = click.pass_obj(function)
        for option in (
            click.option("--execute", is_flag=True, help="Do it without asking."),
            click.option("--rate", type=RATE, metavar="RATE",
                         help="At most so many events a second, evenly: 500/s, 30/m."),
            *more,
            click.option("--force", is_flag=True, help="Also what is being handled just now."),
            click.option("--idle", type=DURATION, metavar="DURATION",
                         help="Left alone for so long or longer; if not said, the group's claim-after, or 30s."),
            click.option("--all", "everything", is_flag=True, help="All that was left alone."),
        ):  # fmt: skip
            chosen = option(chosen)
        chosen = selecting(chosen)
        chosen = click.argument("ids", metavar="[ENTRY]...", nargs=-1)(chosen)
        chosen = click.argument("group", type=GROUP)(chosen)
        chosen = click.argument("stream", type=STREAM)(chosen)
        return verb.command(does, cls=Verb, short_help=short_help, examples=examples)(chosen)

    return declare


@_acting(
    "retry",
    "Have abandoned entries run again at once.",
    [
        ("millstream pending retry orders billing 1700000000000-0", "this one"),
        ("millstream pending retry orders billing --type order.refund", "events of one type"),
        ("millstream pending retry orders billing --all --idle 5m --execute", "without asking"),
    ],
)
def retry(
    session: Session, stream: str, group: str, ids: tuple[str, ...], selection: Selection, everything: bool,
    idle: int | None, force: bool, rate: float | None, execute: bool,
) -> None:  # fmt: skip
    """Have pending entries run again at once, instead of waiting to be taken over one by one.

    Only entries that their consumer stopped renewing, but for --force: what is being handled then runs twice. Each is
    moved in one step; of a pack, the events that are not meant run again as after a crash.
    """
    with Replay(stream, group, connector=session.connector()) as replay:
        plan = _planned(session, replay, ids, selection, everything, idle, force, "retry")
        if plan is None:
            return
        session.consent("have them run again at once?", execute)
        done = _carry_out(session, plan, "retried", lambda tell: replay.run(plan, rate=rate, progress=tell))
    session.out.done(
        f"{counted(done.handed_over, 'event')} of group {group} of {stream} to be run again at once",
        stream=stream, group=group, entries=plan.entries, events=done.handed_over,
    )  # fmt: skip


@_acting(
    "bury",
    "Make dead letters of abandoned entries.",
    [
        ("millstream pending bury orders billing 1700000000000-0 --reason 'see #41'", "this one"),
        ("millstream pending bury orders billing --type order.test --reason tests", "events of one type"),
    ],
    click.option(
        "--reason", metavar="TEXT", required=True, help="Why, for whoever looks at the dead letters."
    ),
)
def bury(
    session: Session, stream: str, group: str, ids: tuple[str, ...], selection: Selection, everything: bool,
    idle: int | None, force: bool, reason: str, rate: float | None, execute: bool,
) -> None:  # fmt: skip
    """Make dead letters of pending entries: the group handles them no more, and `millstream dead` has them.

    Only entries that their consumer stopped renewing, but for --force: a handler that has one just now may end it all
    the same. Each is moved in one step; of a pack, the events that are not meant run again as after a crash.
    """
    with Replay(stream, group, connector=session.connector()) as replay:
        plan = _planned(session, replay, ids, selection, everything, idle, force, "bury")
        if plan is None:
            return
        session.consent("make dead letters of them?", execute)
        done = _carry_out(
            session, plan, "buried", lambda tell: replay.bury(plan, reason, rate=rate, progress=tell)
        )
    session.out.done(
        f"{counted(done.handed_over, 'event')} of group {group} of {stream} made dead letters: {reason}",
        stream=stream, group=group, entries=plan.entries, events=done.handed_over,
    )  # fmt: skip


def _planned(
    session: Session, replay: Replay, ids: Sequence[str], selection: Selection, everything: bool,
    idle: int | None, force: bool, does: str,
) -> ReplayPlan | None:  # fmt: skip
    """Look through what is meant and say it; None if it is nothing, which has been said then.

    Raises:
        UsageError: it was not said which. NotFoundError: one that was named is not pending.
        MillstreamError: one that was named is being handled.
    """
    stream, group, out = replay.keys.stream, replay.group, session.out
    if sum(map(bool, (ids, selection, everything))) != 1:
        raise UsageError(
            f"which pending entries of group {group!r} are meant? Name some by id, or choose by --type, --key or "
            "--match, or take --all"
        )
    named = list(dict.fromkeys(ids))
    for one in named:
        parse_entry_id(one)
    plan = replay.plan_pending(
        idle=None if idle is None else idle / 1_000, force=force, ids=named, **selection.as_facts(),
        names=("--from", "--to", "--idle"),
    )  # fmt: skip
    if plan.entries < len(named):
        for one in named:
            facts, _, _ = _find(session.link("pending"), replay.keys, group, one)
            if facts.idle_ms < plan.idle_ms:
                raise MillstreamError(
                    f"entry {one} is held by {facts.consumer}, which renewed it {show_duration(facts.idle_ms)} ago; "
                    f"--force takes it all the same"
                )
    if not plan.selected:
        what = (
            f"no entry was left alone for {show_duration(plan.idle_ms)}"
            if plan.idle_ms
            else "nothing is pending"
        )
        if plan.entries:
            what = "what was left alone was trimmed"
        out.done(
            f"nothing to {does}: {what}" + (" and is selected" if selection else ""),
            stream=stream, group=group, entries=plan.entries, events=0,
        )  # fmt: skip
        return None
    left = f"left alone for {show_duration(plan.idle_ms)} or longer" if plan.idle_ms else "pending"
    of = f" of {selection.shown}" if selection else ""
    out.talk(f"{counted(plan.entries, 'entry')} {left}, {counted(plan.selected, 'event')}{of} in them")
    if plan.running:
        out.warn(f"{counted(plan.running, 'event')} of these may be being handled just now")
    return plan


def _carry_out(
    session: Session, plan: ReplayPlan, done: str, act: Callable[[Callable[[ReplayProgress], None]], ReplayDone]
) -> ReplayDone:  # fmt: skip
    """Do it; interrupted, say how far it came."""
    so_far = 0
    with Bar(session.out, done, plan.selected) as bar:

        def tell(at: ReplayProgress) -> None:
            nonlocal so_far
            so_far = at.handed_over
            bar.at(so_far, at.trouble)

        try:
            return act(tell)
        except KeyboardInterrupt:
            bar.clear()
            session.out.warn(
                f"interrupted: {so_far:,} of {plan.selected:,} {done}; the same command goes on with the rest"
            )
            raise


def _find(
    link: Link, keys: StreamKeys, group: str, entry_id: str
) -> tuple[PendingFacts, Again | None, list[EventView]]:
    parse_entry_id(entry_id)
    for again in (False, True):
        ref = GroupRef(keys, group, again=again)
        found = [one for one in pending(link, ref, start=entry_id, count=1) if one.entry_id == entry_id]
        if found:
            entries = parse_entries(link.call("XRANGE", ref.key, entry_id, entry_id))
            views: Iterator[EventView] = iter(())
            envelope = None
            if entries:
                envelope, views = unwrapped(keys.stream, entries[0][0], entries[0][1] or [])
            return found[0], envelope, list(views)
    raise NotFoundError(f"entry {entry_id} is not pending with group {group!r} of stream {keys.stream!r}")


def unwrapped(stream: str, entry_id: bytes, fields: list[bytes]) -> tuple[Again | None, Iterator[EventView]]:
    """An entry of a stream or of an `again` stream: how it came there, and its events."""
    try:
        again, original = read_again(fields)
    except (
        MillstreamError
    ):  # the envelope itself is corrupt: the events behind it are shown as far as they can be
        return None, views_of(stream, entry_id, fields)
    if again is None:
        return None, views_of(stream, entry_id, original)
    return again, views_of(stream, entry_id, original, origin=again.entry_id, only=again.index)


def _earlier(again: Again) -> dict[str, Any]:
    return {
        "runs": again.runs,
        "crashes": again.crashes,
        "first_failed_ms": again.first_failed_ms or None,
        "why": text(again.why),
    }
