"""millstream replay: hands a selection of history to one group again; other groups see nothing of it."""

import shlex
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import click

from console.cli.kinds import DURATION, GROUP, POSITION, RATE, STREAM
from console.cli.progress import Bar, Progress
from console.cli.selecting import selecting
from console.cli.session import Session
from console.cli.verb import Noun, Verb
from console.output import Column, Output, as_time, counted, number
from consumers.replay import PATIENCE, Replay
from pipeline.errors import MillstreamError, NotFoundError, UsageError
from pipeline.position import parse_entry_id
from pipeline.replay_plan import ReplayPlan, ReplayProgress
from pipeline.selection import Selection
from pipeline.units import show_duration

_EXECUTE = click.option("--execute", is_flag=True, help="Do it without asking.")
_RATE = click.option("--rate", type=RATE, metavar="RATE",
                     help="At most so many events a second, evenly: 500/s, 30/m. Default: no bound.")  # fmt: skip
_AGAIN = click.option("--again", is_flag=True,
                      help="Also run again what `once=` would skip, since it was done before.")  # fmt: skip
_UNFINISHED = (
    Column("id", "REPLAY"),
    Column("begun_ms", "BEGUN", as_time),
    number("handed_over", "HANDED OVER"),
    number("selected", "OF"),
    Column("what", "WHAT", shrinks=True),
)


@click.group(
    "replay",
    cls=Noun,
    default="range",
    subcommand_metavar="[pending|dead|ls] STREAM GROUP ...",
    examples=[
        ("millstream replay orders billing --from -15m", "shows how many events that is, and asks"),
        (
            "millstream replay orders billing --from 2026-11-23T14:00 --to 2026-11-23T15:00 --execute",
            "one hour",
        ),
        (
            "millstream replay orders billing --from -1d --key c-7 --rate 500/s",
            "some of it, gently; `replay range --help` has --match, --again and --resume too",
        ),
        ("millstream replay pending orders billing", "what dead consumers left behind runs at once"),
        ("millstream replay dead orders billing --type 'order.*'", "what failed for good has another try"),
    ],
)
def verb() -> None:
    """Hand history to one group again. What is replayed runs beside what is new; no other group sees it.

    Its events say so in their headers: replay-id, replay-time, replay-of. To move the group's position itself, see
    `millstream group reset`.
    """


@verb.command(
    "range",
    cls=Verb,
    short_help="A stretch of the stream, by ids or times.",
    examples=[
        ("millstream replay orders billing --from start", "all that the stream still holds"),
        ("millstream replay orders billing --from -1h --to -30m --execute", "without asking"),
        ("millstream replay orders billing --from -1d --type 'order.*' --key c-7 --rate 500/s", "some of it"),
        ("millstream replay orders billing --resume 3f9a1c20b7d4e581 --execute", "goes on where it stopped"),
    ],
)
@click.argument("stream", type=STREAM)
@click.argument("group", type=GROUP)
@click.option("--from", "start", type=POSITION, metavar="POSITION",
              help="The first entry: an id, start, -15m, or an ISO time.")  # fmt: skip
@click.option("--to", "end", type=POSITION, default="end", show_default=True, metavar="POSITION",
              help="Up to this entry or time; end is what the stream holds now.")  # fmt: skip
@selecting
@_AGAIN
@_RATE
@click.option("--resume", metavar="ID", help="Go on with a replay that was interrupted: what it was is kept.")
@_EXECUTE
@click.pass_context
def entries(
    ctx: click.Context,
    stream: str,
    group: str,
    start: str | None,
    end: str,
    selection: Selection,
    again: bool,
    rate: float | None,
    resume: str | None,
    execute: bool,
) -> None:
    """Hand the entries from --from to --to to a group again.

    The group gets a copy of each event, marked as replayed; its position and what it has pending stay as they are.
    Interrupted, it says how to go on, and repeats nothing that was handed over.
    """
    session = ctx.ensure_object(Session)
    out = session.out
    with Replay(stream, group, connector=session.connector()) as replay:
        if resume is not None:
            given = ctx.get_parameter_source("end") is not click.core.ParameterSource.DEFAULT
            if start is not None or given or selection or again:
                raise UsageError(
                    "--resume goes on with what was asked for then: no --from, --to, filter or --again"
                )
            plan = replay.resume(resume)
            out.talk(f"replay {plan.id} of {stream} to group {group}: {plan.what}")
            out.talk(f"{plan.handed_over:,} of {counted(plan.selected, 'event')} are handed over")
            if plan.handed_over >= plan.selected:
                out.talk("none seems to be left")
        else:
            if start is None:
                raise UsageError("missing option '--from': an entry id, start, -15m, or an ISO time")
            with Progress(out, "counted") as progress:
                plan = replay.plan_range(
                    start, end, **_of(selection), again=again, counting=progress.at, names=("--from", "--to")
                )
            _say_range(out, stream, group, plan)
        _carry_out(session, replay, plan, rate, execute)


@verb.command(
    "pending",
    cls=Verb,
    short_help="Have abandoned entries run again at once.",
    examples=[
        (
            "millstream replay pending orders billing",
            "what nobody has renewed for as long as the group allows",
        ),
        ("millstream replay pending orders billing --idle 5m --execute", "without asking"),
        ("millstream replay pending orders billing --force --type order.refund", "also what is handled now"),
    ],
)
@click.argument("stream", type=STREAM)
@click.argument("group", type=GROUP)
@click.option("--idle", type=DURATION, metavar="DURATION",
              help="Left alone for so long or longer; if not said, the group's claim-after, or 30s.")  # fmt: skip
@click.option("--force", is_flag=True, help="Also what is being handled just now: it runs twice.")
@click.option("--from", "start", type=POSITION, default="start", metavar="POSITION",
              help="Only events that were sent from there on.")  # fmt: skip
@click.option("--to", "end", type=POSITION, default="end", metavar="POSITION",
              help="Only events that were sent up to this entry or time.")  # fmt: skip
@selecting
@_AGAIN
@_RATE
@_EXECUTE
@click.pass_obj
def pending(
    session: Session,
    stream: str,
    group: str,
    idle: int | None,
    force: bool,
    start: str,
    end: str,
    selection: Selection,
    again: bool,
    rate: float | None,
    execute: bool,
) -> None:
    """Have a group's abandoned entries run again at once, instead of waiting to be taken over one by one.

    Only entries that their consumer stopped renewing; what is being handled is left alone. Each is moved in one step.
    """
    out = session.out
    with Replay(stream, group, connector=session.connector()) as replay:
        plan = replay.plan_pending(
            idle=None if idle is None else idle / 1_000, force=force, start=start, end=end, again=again,
            **_of(selection), names=("--from", "--to", "--idle"),
        )  # fmt: skip
        left = f"left alone for {show_duration(plan.idle_ms)} or longer"
        if not plan.entries:
            what = f"no entry was {left}" if plan.idle_ms else "no entry is pending"
            _nothing_to_do(out, stream, group, plan, what + (" and is selected" if selection else ""))
            return
        out.talk(
            f"{counted(plan.entries, 'entry')} " + (left if plan.idle_ms else "pending") + ", "
            f"{counted(plan.selected, 'event')}{_by(selection)} in them: to be run again at once"
        )
        if plan.running:
            out.warn(
                f"{counted(plan.running, 'event')} of these may be being handled just now: they run twice"
            )
        _say_once(out, plan)
        _say_alone(out, group, plan)
        _carry_out(session, replay, plan, rate, execute)


@verb.command(
    "dead",
    cls=Verb,
    short_help="Have dead letters run again.",
    examples=[
        ("millstream replay dead orders billing", "all of them"),
        ("millstream replay dead orders billing --error '*Timeout*' --from -1h", "what timed out lately"),
    ],
)
@click.argument("stream", type=STREAM)
@click.argument("group", type=GROUP)
@click.option("--from", "start", type=POSITION, default="start", metavar="POSITION",
              help="Only what died from there on: a dead letter's id, -1h, an ISO time.")  # fmt: skip
@click.option(
    "--to", "end", type=POSITION, default="end", metavar="POSITION", help="Only what died up to there."
)
@click.option("--error", "errors", metavar="NAME", multiple=True,
              help="Only what died of this exception; * for any part. Several: any of them.")  # fmt: skip
@selecting
@_AGAIN
@_RATE
@_EXECUTE
@click.pass_obj
def dead(
    session: Session,
    stream: str,
    group: str,
    start: str,
    end: str,
    errors: tuple[str, ...],
    selection: Selection,
    again: bool,
    rate: float | None,
    execute: bool,
) -> None:
    """Have dead letters run again, with all attempts before them. Each is moved in one step; no other group sees it."""
    out = session.out
    with Replay(stream, group, connector=session.connector()) as replay:
        plan = replay.plan_dead(start=start, end=end, errors=errors, again=again, **_of(selection))
        if not plan.selected:
            one = "is selected" if plan.entries else "is there"
            _nothing_to_do(out, stream, group, plan, f"no dead letter {one}")
            return
        of_these = (
            "" if plan.selected == plan.events else f", {counted(plan.selected, 'event')} of them selected"
        )
        out.talk(
            f"{counted(plan.entries, 'dead letter')} of group {group}{of_these}: to be run again, with all attempts "
            "before them"
        )
        _say_once(out, plan)
        _say_alone(out, group, plan)
        _carry_out(session, replay, plan, rate, execute)


@verb.command(
    "ls",
    cls=Verb,
    short_help="Replays that were interrupted.",
    examples=[("millstream replay ls orders billing", "what --resume can go on with")],
)
@click.argument("stream", type=STREAM)
@click.argument("group", type=GROUP)
@click.pass_obj
def ls(session: Session, stream: str, group: str) -> None:
    """List the replays of ranges that have not come to their end: interrupted, or running. Kept for seven days."""
    with Replay(stream, group, connector=session.connector()) as replay:
        found = replay.unfinished()
    rows = [
        {
            "id": plan.id, "begun_ms": plan.begun_ms, "handed_over": plan.handed_over,
            "selected": plan.selected, "what": plan.what, "again": plan.again,
        }
        for plan in found
    ]  # fmt: skip
    session.out.rows(_UNFINISHED, rows, none=f"no replay of {stream} to group {group} was interrupted")
    if rows:
        session.out.talk(f"go on with one: millstream replay {_words(stream, group)} --resume ID")


def _of(selection: Selection) -> dict[str, Any]:
    return selection.as_facts()


def _by(selection: Selection) -> str:
    return f" of {selection.shown}" if selection else ""


def _say_range(out: Output, stream: str, group: str, plan: ReplayPlan) -> None:
    out.talk(
        f"{stream} holds {counted(plan.entries, 'entry')} with {counted(plan.events, 'event')} from "
        f"{_when(plan.first_id)} to {_when(plan.last_id)}"
    )
    if plan.starts_at:
        older = "older ones" if plan.older_known else "older ones, if there were any,"
        out.warn(f"{stream} starts at {_when(plan.starts_at)}: {older} are gone")
    out.talk(f"{counted(plan.selected, 'event')}{_by(plan.selection)} of these: to group {group} again")
    if plan.unread:
        out.warn(f"group {group} has not read {plan.unread:,} of them yet: it will handle them twice")
    if plan.running:
        out.warn(f"group {group} has {plan.running:,} of them in its hands: they may run twice")
    _say_once(out, plan)
    _say_alone(out, group, plan)


def _say_once(out: Output, plan: ReplayPlan) -> None:
    if plan.done and plan.again:
        out.talk(f"{plan.done:,} of them were done before (once=): with --again they are done once more")
    elif plan.done:
        out.talk(
            f"{plan.done:,} of them were done before (once=) and will be skipped; --again does them once more"
        )


def _say_alone(out: Output, group: str, plan: ReplayPlan) -> None:
    if not plan.members:
        out.talk(f"no member of group {group} is alive: the events wait for one")


def _nothing_to_do(out: Output, stream: str, group: str, plan: ReplayPlan, why: str) -> None:
    out.done(f"nothing to replay: {why}", stream=stream, group=group, **_facts(plan), handed_over=0)


def _facts(plan: ReplayPlan) -> dict[str, Any]:
    facts = asdict(plan) | {"selection": plan.selection.as_facts(), "replay": plan.id}
    del facts["id"], facts["handed_over"]
    return facts


def _carry_out(session: Session, replay: Replay, plan: ReplayPlan, rate: float | None, execute: bool) -> None:
    """Ask, and hand over what was planned; interrupted, say how to go on."""
    out, stream, group = session.out, replay.keys.stream, replay.group
    if not plan.selected:
        _nothing_to_do(out, stream, group, plan, f"none of the {counted(plan.events, 'event')} is selected")
        return
    session.consent("replay them?", execute)
    go_on = f"millstream replay {_words(stream, group)} --resume {plan.id} --execute"
    go_on += f" --rate {rate:g}/s" if rate else ""
    if plan.source != "range":
        go_on = "the same command again replays the rest"
    elif not plan.handed_over:
        out.talk(f"this is replay {plan.id}; should it be interrupted, go on with: {go_on}")
    handed_over = plan.handed_over
    said: set[str] = set()
    with Bar(out, "handed over", plan.selected, done=plan.handed_over) as bar:

        def progress(at: ReplayProgress) -> None:
            nonlocal handed_over
            handed_over = at.handed_over
            note = at.trouble
            if at.held_up and not note:
                note = f"waiting for group {group}, which has {at.waiting:,} entries before it"
            bar.at(handed_over, note if at.trouble or not note else f"{at.waiting:,} wait before it")
            about = at.trouble or ("held up" if at.held_up else "")
            if about and about not in said and not bar.wanted:
                said.add(about)
                out.talk(note)

        try:
            done = replay.run(plan, rate=rate, patience=PATIENCE, progress=progress)
        except KeyboardInterrupt:
            bar.clear()
            out.warn(f"interrupted: {_standing(replay, plan, handed_over, go_on)}")
            raise
        except MillstreamError as error:
            bar.clear()
            error.add_note(
                f"{handed_over:,} of {counted(plan.selected, 'event')} are handed over; go on with: {go_on}"
            )
            raise
    if done.fewer:
        out.warn(f"{done.fewer:,} fewer than planned: trimmed, settled or taken over meanwhile")
    out.done(
        f"{counted(done.handed_over, 'event')} handed to group {group} of {stream} again",
        stream=stream,
        group=group,
        **_facts(plan),
        handed_over=done.handed_over,
        fewer=done.fewer,
    )


def _standing(replay: Replay, plan: ReplayPlan, confirmed: int, go_on: str) -> str:
    """How much is handed over, as far as it can be known just now, and how to go on."""
    then = f"of {counted(plan.selected, 'event')} are handed over; go on with: {go_on}"
    if plan.source != "range":
        return f"{confirmed:,} {then}"
    try:
        return f"{replay.resume(plan.id).handed_over:,} {then}"
    except NotFoundError:
        return "nothing was handed over yet: the same command begins anew"
    except MillstreamError:  # the server is away: what it confirmed before is known
        return f"at least {confirmed:,} {then}"


def _words(*words: str) -> str:
    return " ".join(map(shlex.quote, words))


def _when(entry_id: str) -> str:
    ms = parse_entry_id(entry_id)[0]
    if not ms:
        return "the start"
    try:
        return f"{datetime.fromtimestamp(ms / 1_000, tz=UTC).astimezone():%Y-%m-%d %H:%M:%S} ({entry_id})"
    except (ValueError, OverflowError, OSError):
        return entry_id
