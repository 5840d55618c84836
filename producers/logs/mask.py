"""Mask: keeps secrets out of what is shipped, by the names of values and by what texts look like.

Pure. Texts may be long and patterns careless, and the thread that logs must not be held up: a text is looked at in
pieces, and a pattern that takes far too long for a short one is refused where it is given.
"""

import re
import time
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from pipeline.errors import UsageError

MASKED = "***"
DEFAULT_MASK = (
    "password", "passwd", "secret", "token", "authorization", "cookie", "set_cookie", "api_key", "apikey",
    "private_key", "credentials",
)  # fmt: skip
PATTERNS: Mapping[str, str] = {
    "assignment": r"(?i)(?:password|passwd|pwd|secret|token|api[_-]?key)[\"']?\s{0,5}[=:]\s{0,5}[\"']?([^\s\"'&,;]+)",
    "bearer": r"(?i)\b(?:bearer|basic)\s{1,5}([a-z0-9._~+/=-]{8,})",
    "card": r"\b(?:\d[ -]?){12,18}\d\b",
    "email": r"\b[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9.-]{1,255}",
    "jwt": r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*",
    "url_password": r"\b[a-z][a-z0-9+.-]{0,20}://[^\s/:@]{0,256}:([^\s/@]+)@",
}
"""Patterns that may be given by name."""
PIECE = 1_024
"""So many characters are looked at in one go, so that a pattern whose time grows with the square stays quick."""
OVERLAP = 256
"""A match up to this long is found wherever pieces end."""
LONGEST_MATCH = 8_192
"""What goes on beyond the end of a piece is followed up to here."""
PROBE_S = 0.2
"""What a pattern may take for a probe of PIECE characters, in seconds of computing."""
# Where a match depends on what is not in it: at the edge of a value it is another than in the midst of a text.
_EDGY = re.compile(r"\^|\$|\\A|\\Z|\\B|\(\?<?!|\(\?>|[+*?}]\+")

Pattern: TypeAlias = str | re.Pattern[str]


def name_pattern(words: Sequence[str]) -> re.Pattern[str] | None:
    """Matches the names that are one of the words, or begin or end with it as a word of their own: db_password."""
    if isinstance(words, str):
        raise UsageError(f"mask={words!r}: a list of names")
    escaped = [re.escape(word.lower().replace("-", "_")) for word in words]
    if not escaped:
        return None
    return re.compile(rf"(?:.*[_.\s])?(?:{'|'.join(escaped)})(?:[_.\s].*)?", re.DOTALL)


class TextMask:
    """Replaces what patterns find in texts.

    Raises:
        UsageError: a pattern that is none, or that takes too long.
    """

    def __init__(self, patterns: Sequence[Pattern]) -> None:
        if isinstance(patterns, str | re.Pattern):
            raise UsageError(f"mask_patterns={patterns!r}: a list of patterns")
        self._patterns = [_compiled(pattern) for pattern in patterns]
        self._together = [pattern for pattern in self._patterns if not _EDGY.search(pattern.pattern)]
        self._alone = [pattern for pattern in self._patterns if _EDGY.search(pattern.pattern)]

    def __bool__(self) -> bool:
        return bool(self._patterns)

    def finds(self, texts: Sequence[str]) -> bool:
        """Whether there may be something to mask in these short texts."""
        together = "\n".join(texts)
        if len(together) > PIECE:
            return True
        for pattern in self._together:
            if pattern.search(together):
                return True
        return any(pattern.search(text) for pattern in self._alone for text in texts)

    def __call__(self, text: str) -> str:
        """The text with what the patterns find as ***: of a pattern with a group, what the group holds."""
        for pattern in self._patterns:
            text = _masked(pattern, text)
        return text


def _masked(pattern: re.Pattern[str], text: str) -> str:
    parts: list[str] = []
    done = start = 0
    while start < len(text):
        end = min(start + PIECE, len(text))
        at = start
        while (match := pattern.search(text, at, end)) is not None:
            if match.end() == end < len(text):  # it may go on
                match = pattern.match(text, match.start(), match.start() + LONGEST_MATCH) or match
            first, last = match.span(1 if pattern.groups and match.start(1) >= 0 else 0)
            if first >= done:
                parts += (text[done:first], MASKED)
                done = last
            at = match.end() if match.end() > match.start() else match.end() + 1
            if at >= end:
                break
        if end == len(text):
            break
        start = max(end - OVERLAP, min(at, end), start + 1) if at < end else at
    if not parts:
        return text
    parts.append(text[done:])
    return "".join(parts)


def _compiled(given: Pattern) -> re.Pattern[str]:
    if isinstance(given, str):
        try:
            pattern = re.compile(PATTERNS.get(given, given))
        except re.error as error:
            raise UsageError(f"mask_patterns: {given!r} is not a regular expression: {error}") from error
    elif isinstance(given, re.Pattern) and isinstance(given.pattern, str):
        pattern = given
    else:
        raise UsageError(f"mask_patterns: {given!r} is neither a text nor a compiled pattern of texts")
    if pattern.search("") is not None:
        raise UsageError(f"mask_patterns: {pattern.pattern!r} matches a text that holds nothing")
    _check_quick(pattern)
    return pattern


def _check_quick(pattern: re.Pattern[str]) -> None:
    """Refuse a pattern that takes too long: tried on what makes patterns slow, many of what they look for."""
    literal = re.sub(r"\\.|[][(){}?*+|^$.]", "", pattern.pattern)
    seeds = [*dict.fromkeys("a1 =-./@_" + literal)][:40]
    for seed in [*seeds, "a1", "a ", "1-", "a.", "a=", 'a"']:
        for size in (*range(8, 34, 2), 64, 256, PIECE):
            text = (seed * size)[:size] + "\x00"
            began_s = time.thread_time()
            pattern.search(text)
            took_s = time.thread_time() - began_s
            if took_s > PROBE_S:
                raise UsageError(
                    f"mask_patterns: {pattern.pattern!r} takes {took_s * 1_000:,.0f} ms for {size:,} characters like "
                    f"{seed!r}, at most {PROBE_S * 1_000:g} ms are allowed: bound its repeats, as in {{1,64}}"
                )
