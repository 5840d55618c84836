"""play: one demo from beginning to end, on a screen or without, and what is said when it is over."""

import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path

from console.cli.exit_codes import FAILED, INTERRUPTED, OK
from console.cli.run import own_command
from console.demo.folder import STREAM, embedded_url
from console.demo.happenings import Happenings
from console.demo.interrupts import Interrupts
from console.demo.ledger import GroupCounts
from console.demo.live import Live
from console.demo.log_files import found, named
from console.demo.once import Once
from console.demo.result import Result
from console.demo.stage import Stage, StageOptions
from console.output import Column, Output, number
from console.safe_text import safe

SHOWN_IDS = 5
_COLUMNS = (
    Column("group", "GROUP"),
    number("handled", "HANDLED"),
    number("redelivered", "REDELIVERED"),
    number("dead", "DEAD"),
    number("lost", "LOST"),
    number("replayed", "REPLAYED"),
)


def play(out: Output, *, folder: Path, files: Sequence[Path], events: int | None, per_s: float) -> int:
    """Play it; the exit code. events None: on the screen, until somebody quits.

    Raises:
        MillstreamError: it cannot be played: no server, folder in use, a file that cannot be read.
    """
    log_files = named(files) if files else found()
    options = StageOptions(folder=folder, files=log_files, events=events, per_s=per_s)
    watched = events is None
    happenings = Happenings(None if watched else out.talk)
    with Interrupts() as interrupts:
        with Stage(options, happenings, interrupts, me="you" if watched else "the demo") as stage:
            if watched:
                with Live(stage, color=out.color) as live:
                    result, whole = live.play()
            else:
                result, whole = Once(stage, out.talk).play()
        if out.for_people:
            _report(out, result, happenings if watched else None, folder)
        else:
            out.done("", **result.as_json())
        if not whole and not interrupts.asked:
            out.warn("not every event was handled in the end")
        if result.lost_count or not whole:
            return INTERRUPTED if interrupts.number and not result.lost_count else FAILED
        return OK


def _report(out: Output, result: Result, happenings: Happenings | None, folder: Path) -> None:
    """The counts, and what can be done with the data now."""
    width = shutil.get_terminal_size().columns
    for one in happenings.said() if happenings else ():
        for line in one.lines(width):
            out.line(line)
    out.line(f"sent {result.sent:,} events, each confirmed by the server")
    columns = _COLUMNS if any(counts.replayed for counts in result.groups.values()) else _COLUMNS[:-1]
    out.rows(columns, [_row(name, counts) for name, counts in result.groups.items()])
    out.line(f"lost {result.lost_count:,} (compared id by id: what was confirmed with what each group wrote)")
    for name, ids in result.lost.items():
        if ids:
            more = ", …" if len(ids) > SHOWN_IDS else ""
            out.line(f"lost in {name}: {safe(', '.join(ids[:SHOWN_IDS]))}{more}")
    out.line(f"the groups wrote {' and '.join(safe(folder / f'{group}.jsonl') for group in result.groups)}")
    url = shlex.quote(f"embedded://{folder}" if not folder.is_absolute() else embedded_url(folder))
    out.line("the data is kept; to look at it:")
    program = _program()
    out.line(f"  {program} tail {STREAM} --since 15m --url {url}")
    out.line(f"  {program} group show {STREAM} alerts --url {url}")
    out.line(f"  {program} replay {STREAM} alerts --from {result.last_from} --to end --url {url}")


def _program() -> str:
    """What to type for this program: its name if that finds it, else the way it was called, as by `make demo`."""
    command = own_command()
    name = Path(command[-1]).name
    found = shutil.which(name)
    if len(command) == 2 and found is not None and Path(found).samefile(command[1]):
        return name
    return shlex.join(command if len(command) > 2 else command[1:])


def _row(name: str, counts: GroupCounts) -> dict[str, object]:
    return {
        "group": name,
        "handled": counts.handled,
        "redelivered": counts.redelivered,
        "dead": counts.dead,
        "lost": counts.lost,
        "replayed": counts.replayed,
    }
