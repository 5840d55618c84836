"""millstream group reset: moves a group's position, so that it reads a part of the stream again, or never."""

from dataclasses import asdict

import click

from console.cli.kinds import GROUP, POSITION, STREAM
from console.cli.progress import Progress
from console.cli.session import Session
from console.cli.verb import Verb
from console.output import Output, counted
from consumers.reset import plan_reset, reset_group
from pipeline.reset_plan import ResetPlan


@click.command(
    "reset",
    cls=Verb,
    short_help="Have it read from another position on.",
    examples=[
        ("millstream group reset orders billing --to -15m", "shows what is read again, and asks"),
        ("millstream group reset orders billing --to start --execute", "all that the stream still holds"),
        ("millstream group reset orders billing --to end", "skips what it has not read: never handled by it"),
    ],
)
@click.argument("stream", type=STREAM)
@click.argument("group", type=GROUP)
@click.option("--to", type=POSITION, required=True, metavar="POSITION",
              help="The first entry it reads: start, end (only what comes), -15m, an ISO time, or an id.")  # fmt: skip
@click.option("--execute", is_flag=True, help="Do it without asking.")
@click.pass_obj
def reset(session: Session, stream: str, group: str, to: str, execute: bool) -> None:
    """Move a group's position: what comes after it is read again, or what lies before it skipped. No copies are made.

    Refused while members of the group are alive. What it has pending behind the position is read again; what is pending
    before it, or waits to run again, runs all the same. Other groups notice nothing. To have a part of history run
    again beside what is new, with members running, see `millstream replay`.
    """
    out, connector = session.out, session.connector()
    with Progress(out, "counted") as progress:
        plan = plan_reset(stream, group, to, connector=connector, counting=progress.at, name="--to")
    _say(out, plan)
    if not (plan.changes or plan.pending_again):
        out.done(f"group {group} of {stream} stands there already", **asdict(plan), taken_out=0, moved=0)
        return
    if not plan.members:  # else it is refused, whatever anybody says
        session.consent("reset the group?", execute)
    done = reset_group(plan, connector=connector)
    out.done(
        f"group {group} of {stream} reads on after {plan.position}",
        **asdict(plan),
        taken_out=done.taken_out,
        moved=done.moved,
    )


def _say(out: Output, plan: ResetPlan) -> None:
    group = f"group {plan.group} of {plan.stream}"
    out.talk(f"{group} stands at {plan.from_position}, and would read on after {plan.position}")
    if plan.starts_at:
        older = "older ones" if plan.older_known else "older ones, if there were any,"
        out.warn(f"{plan.stream} starts at {plan.starts_at}: {older} are gone")
    if plan.read_again_entries:
        events = counted(plan.read_again_events, "event")
        out.talk(f"it reads {counted(plan.read_again_entries, 'entry')} with {events} again")
    if plan.skipped_entries:
        out.warn(
            f"{counted(plan.skipped_entries, 'entry')} with {counted(plan.skipped_events, 'event')}, from "
            f"{plan.skipped_first} to {plan.skipped_last}, were not read yet and NEVER WILL BE HANDLED by this group"
        )
    if plan.done:
        out.talk(f"{plan.done:,} of the events were done before (once=) and will be skipped")
    if plan.pending_again:
        out.talk(f"{counted(plan.pending_again, 'pending entry')} behind the position: read again")
    if plan.pending_before:
        out.talk(f"{counted(plan.pending_before, 'pending entry')} before the position: run all the same")
    if plan.waiting:
        out.talk(f"{counted(plan.waiting, 'event')} that wait to run again: run all the same")
