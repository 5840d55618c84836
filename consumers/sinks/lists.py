"""Lists: a sink that pushes events to a list queue, for old workers; each once, as far as its id is remembered.

A batch that comes again (a worker died, a reply was lost) is pushed again except for what is remembered, beside the
list and for a day: `list:emails?url=redis://…`. To carry a whole stream over, `millstream queue bridge LIST --from
STREAM` does the same without remembering each event.
"""

import threading

from consumers.sinks.event_rows import stream_of
from consumers.sinks.kind import SinkKind
from consumers.sinks.sink_url import Option, SinkUrl
from consumers.window import Held
from pipeline.errors import (
    AccessDeniedError,
    DecodeError,
    EncodeError,
    EventTooLargeError,
    MillstreamError,
    NoServerError,
    SinkAway,
    SinkRefused,
    UnsupportedServerError,
    UsageError,
    WrongKeyTypeError,
)
from pipeline.event import Event
from pipeline.list_options import ENDS, ListOptions
from pipeline.outcome import Outcomes
from pipeline.replayed import once_id
from pipeline.server.bridging import push_once_command
from pipeline.server.connect import Connector, Link
from pipeline.server.error_map import Reaction, row_of
from pipeline.server.locate import locate
from pipeline.server.scripts import script
from pipeline.task import PAYLOADS, encode_task

REMEMBER_MS = 86_400_000
_DAY = "1d"


class ListSink:
    """Pushes events to a list: `app.consumer("orders", group="old", batch=500)(Patient(ListSink("emails"), "emails"))`.

    Args:
        queue: the list's name, or ListOptions, which say at which end and in which format tasks are pushed.
        url: its server; without it MILLSTREAM_URL, then REDIS_URL.
        remember_ms: for how long an event that was pushed is not pushed again, in ms.
        connector: where the list is, instead of url; it stays the caller's.

    Raises:
        UsageError: a name or option that cannot be; the list is a sorted set. NoServerError: no address.
    """

    def __init__(
        self,
        queue: ListOptions | str,
        url: str | None = None,
        *,
        remember_ms: int = REMEMBER_MS,
        connector: Connector | None = None,
    ) -> None:
        self._queue = ListOptions(name=queue) if isinstance(queue, str) else queue
        if self._queue.is_sorted:
            raise UsageError(
                f"list {self._queue.name!r}: order=priority is a sorted set, and events have no priorities"
            )
        if remember_ms < 1:
            raise UsageError(f"remember_ms={remember_ms}: at least 1 (ListSink)")
        self._remember_ms = remember_ms
        self._owns = connector is None
        self._connector = connector or Connector(url, name="millstream-sink")
        self._lock = threading.Lock()
        self._link: Link | None = None

    def __call__(self, events: list[Event]) -> Outcomes:
        """Push the events, in order; one of which no task can be made fails alone.

        Raises:
            SinkAway: the server does not answer, or has no room. SinkRefused: it refuses us, or the key is no list.
        """
        outcomes, tasks = Outcomes(), []
        for index, event in enumerate(events):
            try:
                tasks.append((_id(event), encode_task(event.data, self._queue.codec)))
            except (EncodeError, EventTooLargeError) as error:
                outcomes.reject(index, str(error))
            except DecodeError as error:
                outcomes.fail(index, error)
        if tasks:
            with self._lock:
                self._push(tasks)
        return outcomes

    def close(self) -> None:
        """Close the connection; a later call opens another."""
        with self._lock:
            self._let_go()
            if self._owns:
                self._connector.close()

    def _push(self, tasks: list[tuple[str, bytes]]) -> None:
        name = self._queue.name
        try:
            if self._link is None:
                self._link = self._connector.link("sink")
                self._link.load(script("list_once"))
            for start in range(0, len(tasks), 500):
                self._link.call(
                    *push_once_command(self._queue, tasks[start : start + 500], self._remember_ms)
                )
        except (AccessDeniedError, UnsupportedServerError, WrongKeyTypeError) as error:
            self._let_go()
            raise SinkRefused(f"list {name!r}: {error}") from None
        except MillstreamError as error:
            self._let_go()
            if row_of(error).producer in (Reaction.WAIT, Reaction.ELSEWHERE, Reaction.TEACH):
                raise SinkAway(f"list {name!r}: {error}") from None
            raise SinkRefused(f"list {name!r}: {error}") from None

    def _let_go(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.close()


def _id(event: Event) -> str:
    """By what an event is remembered: unique among streams, and another one where it is to be done again."""
    held = event._origin
    again = held.again.why if isinstance(held, Held) and held.again else ""
    return f"{stream_of(event)}:{once_id(event.id, again)}"


def _from_url(url: SinkUrl) -> ListSink:
    address = url.options["url"]
    if not url.place:
        raise UsageError("the URL of sink list: names no list: list:emails")
    if address and locate(address).password:
        raise UsageError(
            "the URL of sink list: has a password in url=: name a file with password_file= in it, or leave url= out "
            "and set MILLSTREAM_URL"
        )
    queue = ListOptions(name=url.place, push=url.options["push"], payload=url.options["payload"])
    try:
        return ListSink(queue, address, remember_ms=url.options["remember"])
    except NoServerError as error:
        raise UsageError(f"the URL of sink list: {error}; or say url=redis://…") from None


KIND = SinkKind(
    make=_from_url,
    options=(
        Option("url", "text", None, "the list's server; by default that of MILLSTREAM_URL or REDIS_URL"),
        Option("push", "choice", "left", "the end to push to (left: LPUSH)", choices=ENDS),
        Option(
            "payload",
            "choice",
            "auto",
            "what tasks are: auto writes JSON, text as it is",
            choices=tuple(PAYLOADS),
        ),
        Option("remember", "duration", _DAY, "for how long no event is pushed a second time", least=1_000),
    ),
)
