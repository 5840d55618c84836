"""Defects: guarantees broken on purpose, one at a time, to show that the machine notices.

Each changes a few words of a script, or one step of a member, for as long as its block runs.
"""

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from consumers import reader
from consumers.dispatch import Dispatch
from consumers.membership import Membership
from consumers.settler import Settler
from consumers.state import MemberState
from pipeline.keys import StreamKeys
from pipeline.server.connect import Link
from pipeline.server.groups import Duty
from pipeline.server.scripts import script

SCRIPTS: dict[str, tuple[str, str, str]] = {
    "append: a number may come before the one that goes before it": (
        "append", "if n ~= last + 1 and n ~= tonumber(ARGV[2]) then", "if false then",
    ),
    "append: no record is kept": (
        "append", "redis.call('HSET', KEYS[2], 'last', ARGV[1], n % 16, ARGV[1] .. '=' .. record)", "",
    ),
    "append: a given id is not looked for": ("append", "known = redis.pcall('GET', KEYS[key])", ""),
    "settle: no look at the owner": ("settle", "if token ~= '' and token == ARGV[5] then", "if true then"),
    "settle: its own stream's entries are not deleted": (
        "settle", "if ARGV[4] == '1' then redis.call('XDEL', KEYS[1], unpack(ids)) end", "",
    ),
    "take: the token stays": ("take", "redis.call('HSET', KEYS[2], ARGV[2] .. ':token', token)", ""),
    "take: no look at the idle time": ("take", "ARGV[1], ARGV[3], ARGV[4], ARGV[5]", "ARGV[1], ARGV[3], 0, ARGV[5]"),
    "move: nothing is acknowledged": (
        "move", "redis.call('XACK', KEYS[1], ARGV[1], id)", "",
    ),
    "move: no look at the owner": (
        "move", "elseif not held[1] or held[1][2] ~= consumer then", "elseif not held[1] then",
    ),
    "move: its own stream's entries are not deleted": (
        "move", "if ARGV[3] == '1' then redis.call('XDEL', KEYS[1], id) end", "",
    ),
    "promote: what the server refuses is lost": ("promote", "if type(added) == 'table' then return added end", ""),
    "promote: what is promoted stays": ("promote", "redis.call('ZREM', KEYS[2], member)", ""),
    "group: a lost one comes back at the end": (
        "group", "position = redis.call('HGET', KEYS[2], ARGV[2] .. ':pos:main') or '0-0'", "position = last",
    ),
    "group: a lost one comes back with its token": (
        "group", "if state ~= 'exists' or not failed(again) then", "if false then",
    ),
    "positions: what is pending does not count": (
        "positions", "if oldest[1] and not below(position, oldest[1][1]) then", "if false then",
    ),
    "hand back: the attempt is spent": ("hand_back", "math.max(held[1][4] - 1, 0)", "held[1][4]"),
    "hand back: the token stays": ("hand_back", "redis.call('HSET', KEYS[2], ARGV[2] .. ':token', mark)", ""),
    "hand back: no look at the owner": ("hand_back", "if held[1] and held[1][2] == ARGV[3] then", "if held[1] then"),
    "renew: no look at the owner": ("renew", "if token ~= '' and token == ARGV[4] then", "if true then"),
    "renew: it counts as a delivery": ("renew", "command[#command + 1] = 'JUSTID' --", "--"),
    "fetch: no look at the owner": ("fetch", "if held[1] and held[1][2] == ARGV[2] then", "if held[1] then"),
    "retire: what the name holds goes with it": ("retire", "if held[1] then return 0 end", ""),
    "reset: what pends before the position is taken out too": (
        "reset", "local from = '(' .. ARGV[3]", "local from = '-'",
    ),
    "reset: what the first call leaves stays pending": (
        "reset", "return {'moved', begun, #ids}", "return {'moved', begun, 0}",
    ),
    "reset: the token stays": (
        "reset", "redis.call('HSET', KEYS[2], ARGV[2] .. ':token', begun .. '-' .. ARGV[7])", "",
    ),
    "reset: what pends does not hold the saved position back": ("reset", "if not ahead[1] then", "if true then"),
    "reset: no look for members": ("reset", "if live > 0 then", "if false then"),
    "revive: what is retried stays": ("revive", "if not removed then redis.call('XDEL', KEYS[1], id) end", ""),
    "revive: no look whether it is there still": ("revive", "if not there[1] then", "if false then"),
    "trim: what is pending does not count": ("trim", "if oldest[1] then", "if false then"),
    "feed: no look at how far the replay has come": (
        "feed", "if stored ~= ARGV[2] then return {'elsewhere', stored, waiting} end", "",
    ),
}  # fmt: skip
"""Name of the defect to the script, its text, and what stands there instead."""


def _nothing(*args: Any, **given: Any) -> None:
    """What is to be done is not done."""


def _adopting(beat: Callable[..., Duty]) -> Callable[..., Duty]:
    """A heartbeat whose token counts for all that is held, whoever has it meanwhile."""

    def run_once(self: Membership, link: Link, **given: Any) -> Duty:
        duty = beat(self, link, **given)
        for held in self._state.window:
            held.token = duty.token
        return duty

    return run_once


MEMBERS: dict[str, tuple[object, str, Any]] = {
    "member: what it holds and never saw is not looked for": (reader, "unseen", _nothing),
    "member: what was not answered is not asked again": (Settler, "put_back", _nothing),
    "member: a token heard of later is taken for the one known before": (
        Membership, "run_once", _adopting(Membership.run_once),
    ),
    "member: in a pause it reads on": (MemberState, "waiting", False),
    "member: packs are not split": (Dispatch, "_split", lambda self, held, events: self._return(held)),
    "keys: the retries of all groups are one": (StreamKeys, "retry", lambda self, group: f"{self.prefix}retry:all"),
    "keys: all groups run the same again": (StreamKeys, "again", lambda self, group: f"{self.prefix}again:all"),
}  # fmt: skip
"""Name of the defect to what is replaced, and by what."""

DEFECTS = [*SCRIPTS, *MEMBERS]


@contextlib.contextmanager
def broken(defect: str) -> Iterator[None]:
    """Everything works but for this."""
    if defect in MEMBERS:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(*MEMBERS[defect])
            yield
        return
    name, old, new = SCRIPTS[defect]
    sound = script(name)
    text, sha = sound.text, sound.sha
    assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in {name}.lua"
    _become(sound, text.replace(old, new))
    try:
        yield
    finally:
        _become(sound, text)
        assert sound.sha == sha


def _become(one: object, text: str) -> None:
    """The script has this text: the same object, since callers keep it."""
    object.__setattr__(one, "text", text)
    object.__setattr__(one, "sha", hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())
