"""words_of: what a target says, as one short line that may be shown and kept. Pure."""

MAX_WORDS = 500


def words_of(said: bytes | str) -> str:
    """The text on one line, of at most MAX_WORDS printable characters."""
    text = said[: MAX_WORDS * 4]
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= MAX_WORDS else line[: MAX_WORDS - 1] + "…"
