"""List owner: which list an old key belongs to, whose tasks do not say it themselves.

An old processing list, and the old key of delayed tasks, hold payloads alone. Were two lists to name the same one,
tasks of either would come to the other: so the first to use it declares it, and the second is refused.
"""

from pipeline.errors import MillstreamError, UsageError
from pipeline.keys import StreamKeys
from pipeline.list_options import ListOptions
from pipeline.server.connect import Link
from pipeline.server.replies import text

OWNED_MS = 86_400_000
"""A declaration stands for so long without use, in ms."""


def owner_key(key: str) -> str:
    """The string beside `key`, in its slot, that says which list it belongs to."""
    return StreamKeys(key).prefix + "list:owner"


def declare_own(link: Link, options: ListOptions, option: str) -> None:
    """Declare the key that this option names as this list's own.

    Raises:
        UsageError: it is another list's.
    """
    key = getattr(options, option)
    owner = owner_key(key)
    _, whose = link.calls([("SET", owner, options.name, "PX", OWNED_MS, "NX"), ("GET", owner)])
    if whose is None or isinstance(
        whose, MillstreamError
    ):  # out of memory: whoever declared it did so before
        return
    if text(whose) != options.name:
        raise others_key(options, option, text(whose))
    link.call("PEXPIRE", owner, OWNED_MS)


def others_key(options: ListOptions, option: str, whose: str) -> UsageError:
    """The error for a key that another list has declared."""
    key = getattr(options, option)
    return UsageError(
        f"{option}={key!r} is what list {whose!r} has declared as its own: nothing in it says which list a task is of, "
        f"so only one list may name it, and list {options.name!r} has to name another (ListOptions; if it was declared "
        f"by mistake, delete the key {owner_key(key)!r})"
    )
