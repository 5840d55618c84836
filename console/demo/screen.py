"""Screen: the demo as lines of text, for a terminal of any size. Draws what the watch knows, and changes nothing."""

import time

from rich.text import Text

from console.demo.folder import GROUPS
from console.demo.log_files import LAST_LINES
from console.demo.stage import Stage
from console.safe_text import safe
from pipeline.units import show_duration

KEYS = "k kill a worker   s kill the server   b bad event   r rewind alerts by 1 min   q quit"
KEYS_SHORT = "k kill worker  s kill server  b bad event  r rewind alerts  q quit"
LABEL = 9
"""Width of what stands before a line, in cells."""
LAGGING_MS = 5_000
MOST_FILES = 3
HINT = (
    "Each event goes through the stream `logs` to both groups; two workers share",
    "the events of a group. Press k, or kill -9 a worker or the server from another",
    "terminal: what it held is taken over, and nothing is lost.",
)
WIDE = 100
"""A terminal from this width on has room for what can be left out."""

_COLUMNS = (
    ("handled", 11),
    ("unread", 9),
    ("behind", 10),
    ("running", 9),
    ("retrying", 10),
    ("dead", 6),
    ("lost", 6),
)


def draw(stage: Stage, phase: str, width: int, height: int) -> Text:
    """The whole screen."""
    head = [
        _title(stage, phase, width),
        *_server(stage),
        *_sources(stage),
        Text(),
        *_groups(stage, width),
        Text(),
    ]
    foot = [_sum(stage, width), _keys(width, phase)]
    room = height - len(head) - len(foot) - 1
    lines = [*head, *_happenings(stage, width, max(room, 1)), Text(), *foot]
    screen = Text(no_wrap=True, overflow="ellipsis")
    for number, line in enumerate(lines[:height] if room >= 1 else [*head, *foot][:height]):
        screen.append("\n" if number else "")
        line.truncate(width, overflow="ellipsis")
        screen.append_text(line)
    return screen


def _title(stage: Stage, phase: str, width: int) -> Text:
    minutes, seconds = divmod(int(time.monotonic() - stage.began_s), 60)
    right = f"{phase}  {minutes}:{seconds:02d}"
    left = " Millstream demo"
    return Text(left + " " * max(width - len(left) - len(right) - 1, 1) + right + " ", style="reverse")


def _labelled(label: str, text: str | Text) -> Text:
    return Text.assemble((f"{label:<{LABEL}}", "bold"), text)


def _server(stage: Stage) -> list[Text]:
    watch = stage.watch
    product, _, durable = stage.about.partition(", ")
    if watch.away_since_s is None:
        state: str | Text = f"{product}, pid {watch.server_pid}, data in {safe(stage.options.folder)}"
    else:
        state = Text("away: it is started again", style="bold red")
    label, colon, what = durable.partition(": ")
    if not colon or len(label) >= LABEL:
        label, what = "", durable
    return [
        _labelled("server", state),
        _labelled(label, Text(what, style="red" if "NOT" in durable else "green")),
    ]


def _sources(stage: Stage) -> list[Text]:
    watch = stage.watch
    lines = [
        _labelled(
            "service",
            f"logs to the stream: {watch.sent_by('service'):,} events, pid {stage.service_pid or '-'}",
        )
    ]
    for number, file in enumerate(stage.options.files[:MOST_FILES]):
        count = watch.sent_by(f"file{number}")
        since = "" if file.whole else f" from its last {LAST_LINES:,} on"
        lines.append(_labelled("file", f"{safe(file.path)}: {count:,} lines, followed{since}"))
    if len(stage.options.files) > MOST_FILES:
        rest = range(MOST_FILES, len(stage.options.files))
        count = sum(watch.sent_by(f"file{number}") for number in rest)
        lines.append(_labelled("files", f"{len(rest)} more, followed: {count:,} lines"))
    rate = f"{watch.rate_per_s:,.0f} a second"
    lines.append(
        _labelled(
            "sent", Text.assemble((f"{watch.sent:,}", "bold"), f" events confirmed by the server, {rate}")
        )
    )
    return lines


def _groups(stage: Stage, width: int) -> list[Text]:
    watch = stage.watch
    lines = [
        Text(f"{'group':<{LABEL}}" + "".join(f"{name:>{width}}" for name, width in _COLUMNS), style="bold")
    ]
    counts = watch.ledger.counts()
    for group in GROUPS:
        now = watch.standings.get(group)
        lost = len(watch.lost[group])
        cells = [
            (f"{counts[group].handled:,}", ""),
            ("?" if now is None or now.unread is None else f"{now.unread:,}", ""),
            (
                "?" if now is None else show_duration(now.behind_ms),
                "yellow" if now and now.behind_ms > LAGGING_MS else "",
            ),
            ("?" if now is None else f"{now.running:,}", ""),
            ("?" if now is None else f"{now.retrying:,}", "yellow" if now and now.retrying else ""),
            (f"{counts[group].dead:,}", "yellow" if counts[group].dead else ""),
            (f"{lost:,}", "bold red" if lost else "green"),
        ]
        line = Text(f"{group:<{LABEL}}")
        for (text, style), (_, width) in zip(cells, _COLUMNS, strict=True):
            line.append(f"{text:>{width}}", style)
        lines += [line, _workers(stage, group, width)]
    return lines


def _workers(stage: Stage, group: str, width: int) -> Text:
    now = stage.watch.standings.get(group)
    line = Text("  workers", style="dim")
    for pid in stage.pids(group):
        line.append("  ")
        if pid is None:
            line.append("one is gone, its successor starts at once", "red")
        elif now is None or pid not in now.held:
            line.append(f"{pid} starting", "yellow")
        else:
            line.append(f"{pid} running", "")
            line.append(f" (holds {now.held[pid]:,})", "dim")
    if width >= WIDE:
        line.append(f"  writes {safe(stage.options.folder / stage.run.output(group).name)}", "dim")
    return line


def _happenings(stage: Stage, width: int, room: int) -> list[Text]:
    said = stage.happenings.last(room)
    if not said:
        return [Text(line, style="dim") for line in HINT[:room]] + [Text()] * (room - len(HINT))
    lines: list[Text] = []
    for one in reversed(said):
        first, *rest = one.lines(width)
        clock = len(one.clock)
        block = [Text.assemble((first[:clock], "cyan"), first[clock:]), *map(Text, rest)]
        if len(lines) + len(block) > room:
            break
        lines[:0] = block
    return lines + [Text()] * (room - len(lines))


def _sum(stage: Stage, width: int) -> Text:
    watch = stage.watch
    lost = len(set().union(*watch.lost.values()))
    return Text.assemble(
        (f"sent {watch.sent:,}", "bold"),
        " · handled by every group ",
        (f"{watch.ledger.handled_by_all:,}", "bold"),
        f" · on the way {watch.waiting:,} · " if width >= WIDE else " · ",
        (f"lost {lost:,}", "bold red" if lost else "bold green"),
        " (compared id by id)",
    )


def _keys(width: int, phase: str) -> Text:
    if phase == "starting":
        return Text("starting: the workers join their groups; q or Ctrl-C quits", style="reverse dim")
    if phase != "running":
        return Text("waiting for what is on its way; Ctrl-C or q again ends at once", style="reverse dim")
    return Text(KEYS if width >= len(KEYS) else KEYS_SHORT, style="reverse")
