"""Pause: that a group reads nothing for now, since when, who said so, and why; as it is kept in S:groups. Pure."""

from dataclasses import dataclass

MAX_REASON_CHARS = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """A pause of a group. It holds for all members, through restarts, until somebody resumes the group."""

    since_ms: int
    """By the server's clock, in ms since 1970."""
    by: str
    """A member, whose breaker tripped; or a person."""
    reason: str


def pause_text(by: str, reason: str) -> str:
    """What is kept of a pause behind its time: who and why, a line each."""
    return f"{_line(by)}\n{_line(reason)}"


def read_pause(kept: str) -> Pause | None:
    """The pause that is kept; None where there is none. What cannot be read is a pause all the same."""
    if not kept:
        return None
    since_ms, _, rest = kept.partition("\n")
    by, _, reason = rest.partition("\n")
    known = since_ms.isascii() and since_ms.isdigit()
    return Pause(since_ms=int(since_ms) if known else 0, by=by, reason=reason if known else kept)


def _line(text: str) -> str:
    return " ".join(text.split())[:MAX_REASON_CHARS]
