"""millstream queue promote, recover and return: what somebody has to do for a list whose workers do not."""

from dataclasses import asdict

import click

from console.cli.kinds import GROUP
from console.cli.queue_options import LIST, Layout, laid_out
from console.cli.session import Session
from console.cli.verb import Verb
from console.output import as_time, counted
from consumers.list_queue import ListQueue
from pipeline.errors import UsageError
from pipeline.list_options import WORKERS
from pipeline.server.list_status import list_status

_execute = click.option("--execute", is_flag=True, help="Do it without asking.")


@click.command(
    "promote",
    cls=Verb,
    examples=[
        ("millstream queue promote emails", "shows how many delayed tasks are due, and asks"),
        (
            "millstream queue promote emails --format classic --execute",
            "those that old producers scheduled, without asking: for cron",
        ),
    ],
)
@click.argument("name", metavar="LIST", type=LIST)
@_execute
@laid_out
@click.pass_obj
def promote(session: Session, name: str, execute: bool, layout: Layout) -> None:
    """Move delayed tasks that are due to LIST, where they are taken next. Workers of ours do so by themselves.

    Each is moved in one step, whoever else does the same at the same time.
    """
    options, out = layout.of(name), session.out
    key = options.scheduled if options.format == "classic" else options.keys.due
    facts = next(
        (one for one in list_status(session.link("queue"), options).scheduled if one.key == key), None
    )
    if facts is not None and facts.error:
        raise UsageError(f"delayed tasks of {name}: {key} holds something else ({facts.error})")
    due = facts.overdue if facts else 0
    if due:
        out.talk(
            f"{counted(due, 'delayed task')} of {name} are due"
            if due > 1
            else f"1 delayed task of {name} is due"
        )
        session.consent(f"move {'them' if due > 1 else 'it'} to the list?", execute)
    moved, next_due_ms = 0, float(facts.next_due_ms) if facts and facts.next_due_ms is not None else None
    if due:
        with ListQueue(options, connector=session.connector()) as queue:
            moved, next_due_ms = queue.promote()
    out.done(
        (f"{counted(moved, 'task')} moved to {name}" if due else f"no delayed task of {name} is due")
        + (f"; the next is due {as_time(round(next_due_ms))}" if next_due_ms is not None else ""),
        list=name, moved=moved, next_due_ms=next_due_ms,
    )  # fmt: skip


@click.command(
    "recover",
    cls=Verb,
    examples=[
        (
            "millstream queue recover emails --old-processing processing",
            "shows what old workers hold and what of it timed out, and asks",
        ),
        ("millstream queue recover emails --old-processing processing --execute", "without asking: for cron"),
    ],
)
@click.argument("name", metavar="LIST", type=LIST)
@_execute
@laid_out
@click.pass_obj
def recover(session: Session, name: str, execute: bool, layout: Layout) -> None:
    """Put tasks back to LIST that dead old workers left in their processing list. Workers of ours do so by themselves.

    A task whose record timed out is put back, in one step; where it was done, only the record goes. A copy without a
    record is noted, and put back by a later call once it has stood for the old timeout.
    """
    options, out = layout.of(name), session.out
    if not options.old_processing:
        raise UsageError(
            "--old-processing KEY says in which list old workers hold tasks of this queue, and of no other"
        )
    old = list_status(session.link("queue"), options).old
    assert old is not None, "old_processing is not empty"
    if old.error:
        raise UsageError(f"{old.key} is not a list of tasks: {old.error}")
    out.talk(
        f"{old.key} holds {counted(old.processing, 'task')}; of {counted(old.records, 'record')} "
        f"{old.expired:,} timed out"
    )
    if old.processing or old.records or not old.whole:  # else there is nothing to ask about
        session.consent("put back what timed out?", execute)
    with ListQueue(options, connector=session.connector()) as queue:
        found = queue.recover_old()
    for key, why in found.malformed.items():
        out.warn(f"record {key} says nothing that can be used, and is left alone: {why}")
    out.done(
        f"{counted(found.tasks + found.bare, 'task')} put back to {name}, {found.bare:,} of them without a record; "
        f"{counted(found.forgotten, 'record')} of tasks that were done removed",
        list=name, **asdict(found),
    )  # fmt: skip


@click.command(
    "return",
    cls=Verb,
    examples=[
        ("millstream queue return emails", "what workers of ours took and never began: shows it, and asks"),
        (
            "millstream queue return emails --everything",
            "also what waits to be retried, or was left by dead workers: before going back to old workers",
        ),
    ],
)
@click.argument("name", metavar="LIST", type=LIST)
@click.option("-g", "--group", type=GROUP, default=WORKERS, show_default=True, help="The workers' group.")
@click.option("--everything", is_flag=True,
              help="Also what ran and is to run again: it begins anew. Not what a live worker holds, "
                   "nor dead letters.")  # fmt: skip
@_execute
@laid_out
@click.pass_obj
def return_(session: Session, name: str, group: str, everything: bool, execute: bool, layout: Layout) -> None:
    """Put tasks back to LIST that workers of ours took, so that old workers get them.

    The last worker to leave does so by itself with what it never began.
    """
    options, out = layout.of(name), session.out
    facts = list_status(session.link("queue"), options)
    ours = next((one for one in facts.groups if one.group == group), None)
    taken = (ours.unread or 0) if ours else 0
    out.talk(
        f"{name}: {taken + facts.hand:,} taken and not begun, {facts.popped:,} popped and not arrived, "
        f"{ours.running if ours else 0:,} held by workers, {ours.waiting if ours else 0:,} to run again"
    )
    if not any((taken, facts.hand, facts.popped, ours and (ours.running or ours.waiting))):
        out.done("nothing is to be put back", list=name, group=group, returned=0)
        return
    if ours and ours.members:
        out.warn(f"{counted(ours.members, 'worker')} of group {group} will take what is put back")
    session.consent("put back what can be?" if everything else "put back what was not begun?", execute)
    with ListQueue(options, group=group, connector=session.connector()) as queue:
        back = queue.give_back(everything=everything)
    out.done(f"{counted(back, 'task')} put back to {name}", list=name, group=group, returned=back)
