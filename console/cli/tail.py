"""millstream tail: a stream's events as they are, and as they come. Reads without a group, so nothing is consumed."""

import heapq
from collections.abc import Iterator, Sequence

import click

from console.cli.kinds import DURATION, GROUP, SINCE, STREAM
from console.cli.selecting import WHERE, selecting
from console.cli.session import Session
from console.cli.tail_shown import Lines, Rates, Shown
from console.cli.verb import Verb
from console.event_view import EventView, Filter, views_of
from console.line_template import LineTemplate
from pipeline.errors import MillstreamError, NoSuchStreamError, NotConnectedError, UsageError
from pipeline.position import MAX_SEQ, after, parse_entry_id, position_id
from pipeline.selection import Selection
from pipeline.server.connect import Link
from pipeline.server.overview import groups, server_ms, stream_facts
from pipeline.server.replies import RawEntry, parse_entries, parse_read, text
from pipeline.where import Where

PAGE_ENTRIES = 100
LAST_EVENTS = 10
LOOK_BACK_ENTRIES = 100_000
"""How far back the last events that pass a filter are looked for, unless --since says how far."""
BLOCK_MS = 1_000
ANSWER_MS = 5_000
UP_MS = 60_000
"""How long a server that went away is waited for while following."""


@click.command(
    "tail",
    cls=Verb,
    examples=[
        ("millstream tail orders", "the last ten events"),
        ("millstream tail orders payments -f", "the last ten of each, and what comes, until Ctrl-C"),
        ("millstream tail orders --since 15m --type 'order.*' -o ndjson | jq .data", "for a script"),
        ("millstream tail logs -f --where 'level>=error' --where service=shop", "what is grave, as it comes"),
        (
            "millstream tail logs --since -1h --until -30m --template '{time} {level:8} {event}'",
            "lines of one's own",
        ),
        ("millstream tail logs --stats --since 1h", "how many of each level, and when"),
        (
            "millstream tail orders --as-group billing",
            "what the group has not read yet; the group does not notice",
        ),
    ],
)
@click.argument("streams", metavar="STREAM...", type=STREAM, nargs=-1, required=True)
@click.option(
    "--since", type=SINCE, metavar="POSITION", help="From there on: 15m, an ISO time, start, an entry id."
)
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes, until Ctrl-C.")
@click.option(
    "-n",
    "--events",
    type=click.IntRange(min=0),
    metavar="COUNT",
    help="The last so many of each stream; 10 unless something says from where.",
)
@click.option(
    "--as-group", type=GROUP, metavar="GROUP", help="From where this group stands: what it has not read yet."
)
@click.option(
    "--until",
    type=SINCE,
    metavar="POSITION",
    help="Up to there: an ISO time, 5m, an entry id (it is included).",
)
@selecting
@WHERE
@click.option(
    "--template",
    metavar="TEXT",
    help="A line per event: '{time} {level:8} {data.user.name}'; also {stream}, {entry_id}, {id}, {type}, {key}, "
    "{headers.NAME}, {data} and any field of the data.",
)
@click.option(
    "--stats", is_flag=True, help="How many events of each level in each interval, in place of the events."
)
@click.option("--interval", type=DURATION, metavar="DURATION",
              help="Of --stats; 10s with -f, else what makes at most 40 lines.")  # fmt: skip
@click.pass_obj
def verb(
    session: Session,
    streams: tuple[str, ...],
    since: str | None,
    follow: bool,
    events: int | None,
    as_group: str | None,
    until: str | None,
    selection: Selection,
    where: tuple[Where, ...],
    template: str | None,
    stats: bool,
    interval: int | None,
) -> None:
    """Show a stream's events: one per line, decoded, with nothing in it that a terminal would obey.

    An entry that Millstream did not write shows its fields; one that cannot be read says why. Several streams are
    merged in the order of their entry ids. What is graver than info is coloured by its level on a terminal.
    """
    if since is not None and as_group is not None:
        raise UsageError("--since and --as-group both say where to begin: give one of them")
    if until is not None and follow:
        raise UsageError("--until says where to end and -f not to: give one of them")
    if template is not None and (stats or not session.out.for_people):
        raise UsageError("--template makes lines for people: not with --stats, -o json or -o ndjson")
    if interval is not None and not stats:
        raise UsageError("--interval is for --stats")
    if interval is not None and interval < 1:
        raise UsageError("--interval must be at least 1 ms")
    names = list(dict.fromkeys(streams))
    shown: Shown
    if stats:
        shown = Rates(session.out, follow, interval)
    else:
        line = None if template is None else LineTemplate(template, "--template")
        shown = Lines(session.out, follow, named=len(names) > 1, template=line)
    link = session.link("tail")
    tail = _Tail(session, names, Filter(selection, where), shown)
    from_there = since is not None or as_group is not None
    if events is None and not from_there:
        if stats and follow:
            events = 0
        elif not stats:
            events = LAST_EVENTS
    seen, backlogs = {}, []
    for name in names:
        newest = tail.newest(link, name, follow)
        seen[name] = newest
        begin = tail.begin(link, name, since, as_group)
        end = newest if until is None else tail.end(link, until, newest)
        if until is not None and begin is not None and parse_entry_id(begin) > parse_entry_id(end):
            _check_order(begin, end, newest, since, until)
        if begin is None or parse_entry_id(begin) > parse_entry_id(end):
            continue
        if events is None:
            backlogs.append(tail.forward(session.link("tail"), name, begin, end))
        else:
            backlogs.append(iter(tail.last(link, name, begin, end, events, bounded=not from_there)))
    merged = heapq.merge(*backlogs, key=lambda view: parse_entry_id(view.entry_id))
    try:
        shown.add(merged)
        if follow:
            tail.follow(link, seen)
    except KeyboardInterrupt:
        shown.end()
        raise
    shown.end()


def _check_order(begin: str, end: str, newest: str, since: str | None, until: str) -> None:
    """What is reversed as it was typed is a slip; what only begins after the newest entry shows nothing."""
    if since is not None and parse_entry_id(end) < parse_entry_id(newest):
        raise UsageError(f"--since={since} --until={until}: the range is reversed: {begin} comes after {end}")


class _Tail:
    """What is shown of which streams."""

    def __init__(self, session: Session, names: Sequence[str], chosen: Filter, shown: Shown) -> None:
        self._session, self._out = session, session.out
        self._names, self._filter, self._shown = names, chosen, shown

    def newest(self, link: Link, name: str, follow: bool) -> str:
        """The highest id of the stream; 0-0 where one that does not exist yet is waited for."""
        try:
            return stream_facts(link, name).newest_id
        except NoSuchStreamError:
            if not follow:
                raise
            self._out.talk(f"there is no stream {name!r} yet: waiting for it")
            return "0-0"

    def begin(self, link: Link, name: str, since: str | None, as_group: str | None) -> str | None:
        """The id to begin with; None for nothing but what comes."""
        if as_group is not None:
            return after(groups(link, name, only=as_group)[0].last_read_id)
        position = position_id(since or "start", server_ms(link), "--since")
        return None if position == "$" else position

    def end(self, link: Link, until: str, newest: str) -> str:
        """The id to end with: of a time, the last one of its millisecond."""
        position = position_id(until, server_ms(link), "--until")
        if position == "$":
            return newest
        ms, seq = parse_entry_id(position)
        of_one_entry = until.strip() == f"{ms}-{seq}"
        return min(position if of_one_entry else f"{ms}-{MAX_SEQ}", newest, key=parse_entry_id)

    def forward(self, link: Link, name: str, begin: str, end: str) -> Iterator[EventView]:
        """The chosen events from begin to end, as they are asked for."""
        while True:
            page = parse_entries(link.call("XRANGE", name, begin, end, "COUNT", PAGE_ENTRIES))
            yield from self._chosen(name, page)
            if len(page) < PAGE_ENTRIES:
                return
            begin = f"({text(page[-1][0])}"

    def last(
        self, link: Link, name: str, begin: str, end: str, count: int, *, bounded: bool
    ) -> list[EventView]:
        """The last `count` of the chosen events from begin to end, in their order."""
        found: list[EventView] = []
        looked_at = 0
        while count and len(found) < count:
            size = PAGE_ENTRIES if self._filter else min(count, PAGE_ENTRIES)
            page = parse_entries(link.call("XREVRANGE", name, end, begin, "COUNT", size))
            looked_at += len(page)
            found = list(self._chosen(name, reversed(page))) + found
            if len(page) < size:
                break
            if bounded and looked_at >= LOOK_BACK_ENTRIES:
                self._out.talk(
                    f"looked through the last {looked_at:,} entries of {name}; --since start looks at all"
                )
                break
            end = f"({text(page[-1][0])}"
        return found[-count:] if count else []

    def follow(self, link: Link, seen: dict[str, str]) -> None:
        """What comes, until Ctrl-C. A server that restarts is waited for."""
        while True:
            try:
                link.send(
                    ("XREAD", "COUNT", PAGE_ENTRIES, "BLOCK", BLOCK_MS, "STREAMS", *seen, *seen.values())
                )
                came = parse_read(link.read(timeout_ms=BLOCK_MS + ANSWER_MS))
                for key, page in came.items():
                    name = text(key)
                    self._shown.add(self._chosen(name, page))
                    seen[name] = text(page[-1][0])
                if not came:
                    self._begin_anew(link, seen)
                if self._shown.wants_clock():
                    self._shown.clock(server_ms(link))
            except NotConnectedError as error:
                self._out.talk(f"{error}; waiting for the server")
                link = self._session.connector().wait_until_up(UP_MS)
                self._out.talk("the server is there again")

    def _chosen(self, name: str, page: "Iterator[RawEntry] | Sequence[RawEntry]") -> Iterator[EventView]:
        for entry_id, fields in page:
            for view in views_of(name, entry_id, fields or []):
                if self._filter.takes(view):
                    yield view

    def _begin_anew(self, link: Link, seen: dict[str, str]) -> None:
        """A stream that was deleted and made again has lower ids: nothing would ever come after those seen."""
        for name, last in seen.items():
            try:
                newest = stream_facts(link, name).newest_id
            except NoSuchStreamError:
                newest = "0-0"
            except NotConnectedError:
                raise
            except MillstreamError:  # the next XREAD says it
                continue
            if parse_entry_id(newest) < parse_entry_id(last):
                self._out.talk(f"stream {name!r} was emptied and begins anew")
                seen[name] = "0-0"
