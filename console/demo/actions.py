"""Actions: what the demo's keys do: kill a worker, kill the server, send a bad event, rewind a group by a minute."""

import threading

from console.demo.account import AccountWriter, Confirmed
from console.demo.folder import GROUPS, STREAM
from console.demo.stage import Stage
from consumers.replay import Replay
from pipeline.errors import MillstreamError
from pipeline.event import Event
from pipeline.replay_plan import ReplayProgress
from pipeline.server.overview import server_ms, stream_facts
from pipeline.server.replies import text
from pipeline.wire import encode_entry

REWOUND = "alerts"
REWIND_MS = 60_000
HOLDING_S = 0.8
"""A worker that holds something just then is looked for so long."""
NEVER_USED = b"\xc1"
"""The one byte that no msgpack begins with."""


class Actions:
    """What a person may do to a running demo. For the thread that looks."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._say = stage.happenings.say
        self._turn = 0
        self._bad = 0
        self._account: AccountWriter | None = None
        self._rewinding: threading.Thread | None = None

    @property
    def rewinding(self) -> bool:
        """Whether a rewind is still being fed to its group."""
        return self._rewinding is not None and self._rewinding.is_alive()

    def kill_worker(self) -> None:
        """Kill a worker, of one group and of the other in turn, but not the last one of its group."""
        for _ in GROUPS:
            group = GROUPS[self._turn % len(GROUPS)]
            self._turn += 1
            if len(self._stage.ready(group)) > 1 and self._stage.kill_worker(group, HOLDING_S) is not None:
                return
        self._say("no worker is killed: those left are the last of their groups; others are just starting")

    def kill_server(self) -> None:
        """Kill the server."""
        if self._stage.watch.link() is None:
            self._say("the server is away already")
        else:
            self._stage.kill_server()

    def bad_event(self) -> None:
        """Append an event whose bytes are corrupt, as a faulty program or a bit flip might."""
        link = self._stage.watch.link()
        if link is None:
            self._say("the server is away: no bad event just now")
            return
        self._bad += 1
        # Its header is whole, so that it can be told which event it is; its body is not.
        *head, body = encode_entry(
            Event({"event": "this will not arrive"}, type="log.info"),
            producer=f"bad-{self._stage.run.path.name}",
            number=self._bad,
        )
        event_id = f"bad-{self._stage.run.path.name}-{self._bad}"
        try:
            entry_id = text(link.call("XADD", STREAM, "*", *head, NEVER_USED + body[1:]))
        except MillstreamError as error:
            self._say(f"the bad event was not taken: {error}")
            return
        if self._account is None:
            self._account = AccountWriter(self._stage.run.confirmed("keys"))
        self._account.write([Confirmed(event_id, entry_id)])
        self._say(f"you sent a bad event ({entry_id}): its bytes are corrupt")

    def rewind(self) -> None:
        """Give the last minute to one group again; the other notices nothing."""
        link = self._stage.watch.link()
        if self.rewinding or link is None:
            self._say("not now: " + ("the last rewind is still going on" if link else "the server is away"))
            return
        try:
            start = f"{server_ms(link) - REWIND_MS}-0"
            end = stream_facts(link, STREAM).newest_id
        except MillstreamError as error:
            self._say(f"{REWOUND} cannot be rewound: {error}")
            return
        self._rewinding = threading.Thread(
            target=self._feed, args=(start, end), name="demo-rewind", daemon=True
        )
        self._rewinding.start()

    def _feed(self, start: str, end: str) -> None:
        line = self._say(f"you rewound {REWOUND} by a minute …")

        def progress(at: ReplayProgress) -> None:
            line.text = f"you rewound {REWOUND} by a minute: {at.handed_over:,} events so far"

        try:
            with Replay(STREAM, REWOUND, connector=self._stage.connector) as replay:
                fed = replay.run(replay.plan_range(start, end), progress=progress).handed_over
        except MillstreamError as error:
            line.text = f"rewinding {REWOUND} failed: {error}"
            return
        line.text = (
            f"you rewound {REWOUND} by a minute: it handles {fed:,} events again; archive notices nothing"
        )
