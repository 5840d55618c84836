"""Keys: the name of every key Millstream keeps, built here and nowhere else.

`orders` is the stream itself, exactly as the user named it. Everything beside it shares its cluster slot:
`{orders}:…`, or `{shop}:orders:…` for a name that already holds a tag. One key, one type (DESIGN.md, key table).
"""

import re
from binascii import crc_hqx
from dataclasses import dataclass

from pipeline.errors import UsageError

# The first word after the prefix of every key beside a stream. A tagged stream name may not start with one of
# them after its tag: `{shop}:dead:x` would be both a stream and the dead letters of a stream `{shop}`.
RESERVED_WORDS = frozenset(
    "lane meta producer source ids groups members lease again retry retry-bodies delayed delayed-bodies "
    "dead done duty never list".split()
)
MAX_NAME_BYTES = 512
_ESCAPED = str.maketrans({"%": "%25", ":": "%3A", "{": "%7B", "}": "%7D"})


def escape(part: str) -> str:
    """A group, producer, source or event id as part of a key: `:`, `%` and braces percent-escaped."""
    return part.translate(_ESCAPED)


def unescape(part: str) -> str:
    """The inverse of escape()."""
    return re.sub("%(25|3A|7B|7D)", lambda match: chr(int(match[1], 16)), part)


def check_name(what: str, name: str) -> str:
    """The name itself, if a group, consumer, producer or source may be called so.

    Raises:
        UsageError: empty, over 512 bytes, or with control characters.
    """
    if not isinstance(name, str) or not name:
        raise UsageError(f"a {what} name is text of 1 to {MAX_NAME_BYTES} bytes, not {name!r}")
    size = len(name.encode("utf-8", "surrogatepass"))
    if size > MAX_NAME_BYTES:
        raise UsageError(f"a {what} name has at most {MAX_NAME_BYTES} bytes, this one has {size:,}")
    if not name.isprintable():
        raise UsageError(f"a {what} name has no control characters: {name!r}")
    return name


def check_stream_name(name: str) -> str:
    """The name itself, if a stream may be called so.

    Raises:
        UsageError: empty, too long, a lone brace, only a tag, or a reserved word after the tag.
    """
    check_name("stream", name)
    tag = re.fullmatch(r"([^{}]*)\{([^{}]+)\}([^{}]*)", name)
    if tag is None:
        if "{" in name or "}" in name:
            raise UsageError(
                f"stream name {name!r}: braces come as one pair around a cluster tag, as in '{{shop}}:orders'"
            )
        return name
    before, _, after = tag.groups()
    if not before and not after.strip(":"):
        raise UsageError(f"stream name {name!r} is only a cluster tag: add a name, as in '{name}:orders'")
    word = after.lstrip(":").split(":", 1)[0]
    if word in RESERVED_WORDS:
        raise UsageError(f"stream name {name!r}: {word!r} after the tag is a word of Millstream's own keys")
    return name


class StreamKeys:
    """The keys of one stream. All share one cluster slot, so that a script may combine them."""

    __slots__ = ("prefix", "stream")

    def __init__(self, stream: str) -> None:
        self.stream = check_stream_name(stream)
        self.prefix = f"{stream}:" if "{" in stream else f"{{{stream}}}:"

    @property
    def groups(self) -> str:
        """Hash: per group its claims token, sweep mark, claim_after, saved position per stream, who runs alone."""
        return self.prefix + "groups"

    @property
    def never(self) -> str:
        """A key that never exists: deleting it first lets a script write on under OOM."""
        return self.prefix + "never"

    def producer(self, producer: str) -> str:
        """Hash, expiring: the last batch number, and first id and count of the last 16 batches."""
        return f"{self.prefix}producer:{escape(producer)}"

    def source(self, source: str) -> str:
        """String: the position of a source, written by the script that appends."""
        return f"{self.prefix}source:{escape(source)}"

    def ids(self, event_id: str) -> str:
        """String, expiring: the entry id of an event sent with `id=`."""
        return f"{self.prefix}ids:{escape(event_id)}"

    def done(self, group: str, once_id: str) -> str:
        """String, expiring: the group has done this event (`once=`); the id is what replayed.once_id() gives."""
        return f"{self.prefix}done:{escape(group)}:{escape(once_id)}"

    def members(self, group: str) -> str:
        """Hash: live members of the group with their claim_after and heartbeat time."""
        return f"{self.prefix}members:{escape(group)}"

    def duty(self, group: str) -> str:
        """String, expiring: the member that sweeps for the group just now."""
        return f"{self.prefix}duty:{escape(group)}"

    def again(self, group: str) -> str:
        """Stream: what is due again, replayed or split, for this group alone."""
        return f"{self.prefix}again:{escape(group)}"

    def retry(self, group: str) -> str:
        """Sorted set: deliveries due again later, by due time in ms."""
        return f"{self.prefix}retry:{escape(group)}"

    def retry_bodies(self, group: str) -> str:
        """Hash: the fields of the deliveries in retry()."""
        return f"{self.prefix}retry-bodies:{escape(group)}"

    def dead(self, group: str) -> str:
        """Stream: dead letters of the group."""
        return f"{self.prefix}dead:{escape(group)}"

    def __repr__(self) -> str:
        return f"StreamKeys({self.stream!r})"


class ListKeys:
    """The keys of a list queue `emails`: the list itself, and ours, all in its slot and none named `processing…`.

    What our workers hold stands in a stream of the list's own, `{emails}:tasks`, with the keys that every stream has.
    Old recoverers, which scan `processing:*`, see none of them.
    """

    __slots__ = ("list", "tasks")

    def __init__(self, name: str) -> None:
        check_name("list", name)
        self.list = name
        stream = f"{name}:tasks" if "{" in name else f"{{{name}}}:tasks"
        try:
            self.tasks = StreamKeys(stream)
        except UsageError as error:
            raise UsageError(f"list name {name!r}: {error}") from None

    @property
    def stream(self) -> str:
        """Stream: what workers of ours have taken, from the list's end until it is settled, when it is deleted."""
        return self.tasks.stream

    @property
    def hand(self) -> str:
        """List: what a waiting worker was handed, until the next step, anybody's, adds it to the stream."""
        return self.tasks.prefix + "list:hand"

    @property
    def popped(self) -> str:
        """Hash: what callers of a plain pop were handed and have not yet said to have, by the token of each call."""
        return self.tasks.prefix + "list:popped"

    @property
    def due(self) -> str:
        """Sorted set: delayed tasks in the format `unique`, by due time in ms."""
        return self.tasks.prefix + "list:due"

    @property
    def seen(self) -> str:
        """Hash: what stands in old workers' processing list without a record, and since when."""
        return self.tasks.prefix + "list:seen"

    def producer(self, producer: str) -> str:
        """Hash, expiring: the number of the last push of a producer, so that one repeated is pushed once."""
        return self.tasks.producer(producer)

    def bridge(self, bridge: str) -> str:
        """List: what a bridge to another slot or server has taken and not yet delivered."""
        return f"{self.tasks.prefix}list:bridge:{escape(bridge)}"

    def bridging(self, way: str, stream: str) -> str:
        """String, expiring: a bridge `to` or `from` this stream is at work."""
        return f"{self.tasks.prefix}list:bridging:{way}:{escape(stream)}"

    def position(self, source: str) -> str:
        """String: how far a bridge has come."""
        return self.tasks.source(source)

    def __repr__(self) -> str:
        return f"ListKeys({self.list!r})"


@dataclass(frozen=True, slots=True, eq=False)
class GroupRef:
    """A group on one of the streams it reads: the stream itself, or its own `again` stream.

    Compared by identity, which is quick: a member makes its refs once, and every entry it holds points to one.
    """

    keys: StreamKeys
    group: str
    again: bool = False
    """The group's own stream of what is due again."""
    private: bool = False
    """Nobody else reads the stream: a list's tasks."""

    @property
    def deletes(self) -> bool:
        """Whether its entries are deleted when they are settled."""
        return self.again or self.private

    @property
    def alone(self) -> str:
        """What the fields of S:groups begin with that note which of its entries have begun to run alone."""
        return f"{escape(self.group)}:{'alone-again' if self.again else 'alone'}:"

    @property
    def key(self) -> str:
        """The key of the stream this refers to."""
        return self.keys.again(self.group) if self.again else self.keys.stream


def slot_of(key: str) -> int:
    """The cluster slot of a key: one script may use keys of one slot only, where there is a cluster.

    Source: https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/#key-distribution-model
    """
    tag = re.search(r"\{([^}]*)\}", key)
    hashed = tag[1] if tag and tag[1] else key
    return crc_hqx(hashed.encode("utf-8", "surrogatepass"), 0) % 16_384


def stream_of(key: str) -> tuple[str, str] | None:
    """(stream name, rest) of a key beside a stream, such as ("orders", "dead:billing"); None for other keys."""
    match = re.fullmatch(r"\{([^{}]+)\}:(.*)", key, re.DOTALL)
    if match and match[2].split(":", 1)[0] in RESERVED_WORDS:
        return match[1], match[2]
    match = re.fullmatch(
        r"([^{}]*\{[^{}]+\}[^{}]*?):((?:%s)(?::.*)?)" % "|".join(RESERVED_WORDS), key, re.DOTALL
    )
    return (match[1], match[2]) if match else None
