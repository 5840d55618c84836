"""millstream queue status: what list queues hold, who works them, and what of it is late or stuck."""

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import click

from console.cli.kinds import DURATION
from console.cli.queue_options import LIST, Layout, laid_out
from console.cli.session import Session
from console.cli.verb import Verb
from console.output import Column, as_count, as_duration, as_text, as_time, counted, number
from pipeline.server.list_status import CLASSIC_PROCESSING, ListStatus, list_names, list_status

CLEAR = "\x1b[H\x1b[2J"


def _age(ms: int | None) -> str:
    return "unknown" if ms is None else as_duration(ms)


_EACH = (
    Column("list", "LIST", shrinks=True),
    number("depth", "WAITING"),
    number("in_progress", "IN PROGRESS"),
    number("timed_out", "TIMED OUT"),
    number("delayed", "DELAYED"),
    number("overdue", "OVERDUE"),
    number("retries", "TO RETRY"),
    number("dead", "DEAD"),
    number("members", "WORKERS"),
    Column("note", "", shrinks=True),
)
_FACTS = (
    Column("list", "list"),
    Column("kind", "kind"),
    Column("depth", "waiting", as_count),
    Column("priorities", "by priority"),
    Column("oldest_waiting", "oldest waiting"),
    Column("in_progress", "in progress", as_count),
    Column("oldest_taken_age_ms", "oldest taken", lambda ms: "-" if ms is None else f"{as_duration(ms)} ago"),
    Column("timed_out", "timed out", as_count),
    Column("hand", "in the hand", as_count),
    Column("popped", "being popped", as_count),
    Column("retries", "to retry", as_count),
    Column("dead", "dead", as_count),
    Column("note", "note"),
)
_GROUPS = (
    Column("group", "GROUP", shrinks=True),
    Column("state", "STATE"),
    number("unread", "TAKEN"),
    number("running", "RUNNING"),
    number("waiting", "TO RETRY"),
    number("next_due_ms", "NEXT DUE", lambda ms: "-" if ms is None else as_duration(ms)),
    number("dead", "DEAD"),
    number("members", "WORKERS"),
)
_WORKERS = (
    Column("name", "WORKER", shrinks=True),
    Column("kind", "KIND"),
    number("pending", "HOLDS"),
    number("idle_ms", "IDLE", lambda ms: "-" if ms is None else as_duration(ms)),
)
_DELAYED = (
    Column("key", "DELAYED IN", shrinks=True),
    Column("format", "FORMAT"),
    number("count", "TASKS"),
    number("overdue", "OVERDUE"),
    Column("next_due_ms", "NEXT DUE", as_time),
    Column("error", "", as_text, shrinks=True),
)
_OLD = (
    Column("key", "OLD WORKERS' LIST", shrinks=True),
    number("processing", "TASKS"),
    number("records", "RECORDS"),
    number("expired", "TIMED OUT"),
    Column("oldest_ms", "OLDEST TAKEN", as_time),
    Column("error", "", as_text, shrinks=True),
)


@click.command(
    "status",
    cls=Verb,
    examples=[
        (
            "millstream queue status emails",
            "what waits, is in progress, timed out, delayed, to be retried, dead",
        ),
        ("millstream queue status emails --old-processing processing", "also what old workers hold"),
        ("millstream queue status jobs --order priority", "tasks by priority"),
        ("millstream queue status", "all lists that workers of ours have worked"),
        ("millstream queue status emails --watch", "again every second, until Ctrl-C"),
    ],
)
@click.argument("names", metavar="[LIST]...", type=LIST, nargs=-1)
@click.option("--watch", is_flag=True, help="Look again and again, until Ctrl-C.")
@click.option("--every", type=DURATION, metavar="DURATION", default="1s", show_default=True,
              help="With --watch: how often.")  # fmt: skip
@laid_out
@click.pass_obj
def status(session: Session, names: tuple[str, ...], watch: bool, every: int, layout: Layout) -> None:
    """Show how much waits in each LIST, is in progress, timed out, delayed, to be retried, and dead.

    Nothing is changed, and nothing walked: it costs the server next to nothing. A plain list carries no times, so how
    long a task has waited in it is unknown; times are known of tasks that were taken, are delayed or failed.
    """
    link, out = session.link("queue"), session.out
    while True:
        chosen: Sequence[str] = names
        whole = True
        if not names:
            chosen, whole = list_names(link)
        found = [list_status(link, layout.of(name)) for name in chosen]
        if watch and out.for_people and sys.stdout.isatty():
            sys.stdout.write(CLEAR)
        _show(session, found, one=len(names) == 1)
        if not whole:
            out.warn("the server holds more keys than were looked at: name the lists, if one is missing")
        if not watch:
            return
        out.flush()
        time.sleep(max(every, 100) / 1_000)


def _show(session: Session, found: Sequence[ListStatus], *, one: bool) -> None:
    out = session.out
    rows = [_row(facts) for facts in found]
    if not one:
        none = "no list has been worked by workers of ours; name a list to see it all the same"
        out.rows(_EACH, rows, none=none)
        return
    facts, row = found[0], rows[0]
    if not out.for_people:
        out.done("", **row)
        return
    out.record([column for column in _FACTS if row.get(column.name) not in ("", None)], row)
    for columns, listed in (
        (_DELAYED, row["scheduled"]),
        (_GROUPS, row["groups"]),
        (_WORKERS, row["workers"]),
        (_OLD, [row["old"]] if facts.old else []),
    ):
        if listed:
            out.line("")
            out.rows(columns, listed)
    if facts.old and not facts.old.whole:
        out.warn("the server holds more keys than were looked at: there may be more records of old workers")


def _row(facts: ListStatus) -> dict[str, Any]:
    """All that is known, for scripts; and what the tables make of it."""
    kind = {"zset": "sorted set", "none": "none: the key does not exist, so no task waits"}
    scores = facts.by_priority
    taken = facts.oldest_taken_ms
    return {
        "list": facts.name,
        "kind": kind.get(facts.kind, facts.kind),
        "depth": facts.depth,
        "by_priority": None if scores is None else [{"priority": at, "tasks": count} for at, count in scores],
        "priorities": ", ".join(f"{at:g}: {count:,}" for at, count in scores or ()),
        "oldest_waiting_ms": None,
        "oldest_waiting": "unknown: a list carries no times" if facts.depth else "",
        "in_progress": facts.in_progress,
        "oldest_taken_ms": taken,
        "oldest_taken_age_ms": None if taken is None else max(facts.now_ms - taken, 0),
        "timed_out": facts.timed_out,
        "hand": facts.hand,
        "popped": facts.popped,
        "delayed": sum(one.count for one in facts.scheduled),
        "overdue": facts.overdue,
        "scheduled": [asdict(one) for one in facts.scheduled],
        "retries": sum(group.waiting for group in facts.groups),
        "dead": sum(group.dead for group in facts.groups),
        "members": sum(group.members for group in facts.groups),
        "groups": [asdict(group) for group in facts.groups],
        "workers": [asdict(one) for one in facts.workers],
        "old": asdict(facts.old) if facts.old else None,
        "note": facts.error or _note(facts),
    }


def _note(facts: ListStatus) -> str:
    """What is to be looked at, in words."""
    said = []
    if facts.overdue:
        said.append(f"{counted(facts.overdue, 'delayed task')} overdue: nobody promotes, or it is under way")
    if any(group.state == "stuck" for group in facts.groups):
        said.append("stuck: tasks were taken, and no worker of ours is there")
    if any(group.state == "paused" for group in facts.groups):
        said.append("paused")
    if facts.unnamed_processing:
        said.append(
            f"{counted(facts.unnamed_processing, 'task')} in {CLASSIC_PROCESSING!r}: if only workers of this list put "
            f"tasks there, --old-processing {CLASSIC_PROCESSING} counts them, and workers of ours recover them by "
            "ListOptions(old_processing=…)"
        )
    return "; ".join(said)
