"""Reset: moves a group's position, so that it reads a part of the stream again, or never.

No copies are made, and other groups are not touched. The position is moved first; then what was pending is put in
order, in bounded steps. Killed in between, what is left of it is taken over or read again by the group's members, as
after any crash: an event may run twice, none is lost.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from consumers import replay_pending
from consumers.persistent import Persistent
from consumers.replay_history import Counting, counted, starts_at
from pipeline.errors import UsageError
from pipeline.keys import GroupRef, StreamKeys, check_name
from pipeline.position import after, before, parse_entry_id, position_id
from pipeline.replay_plan import ReplayPlan
from pipeline.reset_plan import ResetDone, ResetPlan
from pipeline.server.connect import Connector
from pipeline.server.groups import save_position
from pipeline.server.overview import count_entries, groups, server_ms, stream_facts
from pipeline.server.replaying import is_ours, pending_count
from pipeline.server.resetting import in_use, move_position

PATIENCE_MS = 30_000
"""A server that goes away while a reset is under way is waited for so long, in ms."""


def plan_reset(
    stream: str,
    group: str,
    to: str,
    *,
    url: str | None = None,
    connector: Connector | None = None,
    counting: Counting | None = None,
    name: str = "to",
) -> ResetPlan:
    """What moving a group to a position would do: what it reads again, what it never will. Nothing is changed.

    Example:
        plan = plan_reset("orders", "billing", to="-15m", url="redis://localhost:6379/0")
        if not plan.skipped_events:
            reset_group(plan, url="redis://localhost:6379/0")

    Args:
        to: the first entry to be read: start, end (what comes from now on), -15m, an ISO time, or an entry id.
        url: where the server is, else MILLSTREAM_URL, else REDIS_URL; connector: one to use, which stays open.
        counting: told how many entries were looked at so far. name: what errors call `to`.

    Raises:
        UsageError: no position. NoSuchStreamError, NoSuchGroupError: there is none.
    """
    check_name("group", group)
    keys = StreamKeys(stream)
    with _server(url, connector) as server:
        facts = server.ask(lambda link: stream_facts(link, stream))
        state = server.ask(lambda link: groups(link, stream, only=group))[0]
        if state.of_list:
            raise UsageError(
                f"stream {stream!r} holds what workers have taken from the list {state.of_list!r} until it is settled: "
                "there is no position to move"
            )
        first = position_id(to, server.ask(server_ms), name)
        position = (
            facts.newest_id if first == "$" else min(before(first), facts.newest_id, key=parse_entry_id)
        )
        read = state.last_read_id
        oldest, known = starts_at(facts, after(position))
        plan = ResetPlan(
            stream=stream, group=group, position=position, from_position=read, members=state.members,
            waiting=state.waiting, starts_at=oldest, older_known=known,
        )  # fmt: skip
        back = parse_entry_id(position) < parse_entry_id(read)
        looked = ReplayPlan(
            id="", source="range", first_id=after(min(position, read, key=parse_entry_id)),
            last_id=max(position, read, key=parse_entry_id),
        )  # fmt: skip
        if plan.changes:
            looked = counted(server, keys, group, looked, read_id=read, counting=counting)
        if back:
            plan = replace(
                plan, read_again_entries=looked.entries, read_again_events=looked.events, done=looked.done
            )
        elif looked.entries:
            plan = replace(
                plan,
                skipped_entries=looked.entries,
                skipped_events=looked.events,
                skipped_first=after(read),
                skipped_last=position,
            )
        ref = GroupRef(keys, group)
        behind = server.ask(lambda link: pending_count(link, ref, after(position), "+"))
        ahead = server.ask(lambda link: pending_count(link, ref, "-", position))
        plan = replace(plan, pending_again=behind, pending_before=ahead)
        if facts.added is not None:
            newest = facts.newest_id
            beyond = server.ask(lambda link: sum(count_entries(link, stream, after(position), newest)))
            plan = replace(plan, entries_read=facts.added - beyond)
    return plan


def reset_group(plan: ResetPlan, *, url: str | None = None, connector: Connector | None = None) -> ResetDone:
    """Move the group as planned. What was pending behind the position is read again; what lies before it runs
    from the group's own stream, its crashes counted on. Nothing is copied but that.

    Args:
        url, connector: as of plan_reset().

    Raises:
        MillstreamError: members of the group are alive. UsageError: it has read on since the plan was made.
        NoSuchStreamError, NoSuchGroupError: it is gone. In all these cases nothing was done.
    """
    if plan.members:
        raise in_use(plan.stream, plan.group, plan.members)
    keys = StreamKeys(plan.stream)
    with _server(url, connector) as server:
        server.patience_ms = PATIENCE_MS
        moved = server.ask(lambda link: move_position(link, plan))
        taken_out = moved.taken_out
        while not moved.complete:
            begun_ms = moved.begun_ms
            moved = server.ask(lambda link, at=begun_ms: move_position(link, plan, at))  # type: ignore[misc]
            taken_out += moved.taken_out
        count = 0
        if server.ask(lambda link: is_ours(link, keys, plan.group)):
            count = replay_pending.put_aside(server, keys, plan.group, plan.position, moved.begun_ms)
            server.ask(lambda link: save_position(link, keys, plan.group))
    return ResetDone(position=plan.position, taken_out=taken_out, moved=count)


@contextmanager
def _server(url: str | None, connector: Connector | None) -> Iterator[Persistent]:
    own = connector or Connector(url)
    server = Persistent(own, "reset")
    try:
        yield server
    finally:
        server.close()
        if connector is None:
            own.close()
