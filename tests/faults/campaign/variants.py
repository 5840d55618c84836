"""Variants: the product with one guarantee deliberately broken, and the row that must catch it.

A variant is a copy of the product's folders in which a few lines read otherwise. Each text it replaces must be there
exactly once, so that none can rot unseen. A variant that its row does not catch is a hole in the suite.
"""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.faults.campaign.processes import ROOT

FOLDERS = ("millstream", "pipeline", "producers", "consumers")
LUA = "pipeline/server/lua/"


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to break the product."""

    name: str
    breaks: str
    """The guarantee, by its number."""
    row: str
    """The row that must catch it."""
    shows: Sequence[str]
    """The counts of which at least one must not be 0 then."""
    changes: Sequence[tuple[str, str, str]]
    """(file, text, what stands there instead)."""
    quick: bool = False
    """Part of the quick lane."""


_IN_DOUBT = "                batch.on_wire, batch.in_doubt = False, True\n"
_SPLIT = """\
                if held.is_pack and held.deliveries > 1:
                    self._split(held, held.all_events())
                    return False
"""
_AFTER_SILENCE = "            if now - since_ms > state.claim_after_ms // RENEWED:\n"
_WRITTEN = "            self._exchange.write(taken, now_ms())\n        return bool(taken)"
_WRITTEN_AND_CONFIRMED = """\
            self._exchange.write(taken, now_ms())
            with self._lock:
                ends = [b._end(one, Fate.CONFIRMED) for b, one in taken if not one.settled]
                self._end(self.outbox.release([end for some in ends for end in some]))
        return bool(taken)"""
_AT_ONCE = "                        exchange.write(taken, now)\n"
_AT_ONCE_AND_CONFIRMED = (
    _AT_ONCE
    + """\
                        ends = [b._end(one, Fate.CONFIRMED) for b, one in taken if not one.settled]
                        self._end(self.outbox.release([end for some in ends for end in some]))
"""
)
_ONE = "                    exchange.write_one(batches, batch, now)\n"
_ONE_AND_CONFIRMED = (
    _ONE
    + """\
                    self._end(self.outbox.release(batches._end(batch, Fate.CONFIRMED)))
"""
)

_HANDED = "        return self._moved(link, fed, hand_only=True)\n"
_HANDED_AND_ADDED = """\
        if handed is not None:
            from pipeline.server.lists import task_header

            link.call("XADD", self._options.keys.stream, "*", "h", task_header(self._options), "b", handed[1])
        return self._moved(link, fed, hand_only=True)
"""

_FEED = "feed_command(self._options, 1, group=self._state.group, hand_only=True)"
_READ_HANDED = "        handed = link.read_or_error(self._block_ms + SLACK_MS)\n"
_HAND_AND_FEED = f"""\
            {_FEED},
        )
{_READ_HANDED}"""
_HAND_THEN_FEED = f"""\
        )
{_READ_HANDED}        link.send({_FEED})
"""

_ALL = (
    Variant(
        "acknowledged-before-handled",
        "G3",
        "workers-killed",
        ("lost", "early"),
        [
            (
                "pipeline/server/groups.py",
                '"COUNT", count, *block, "STREAMS"',
                '"COUNT", count, *block, "NOACK", "STREAMS"',
            )
        ],
        quick=True,
    ),
    Variant(
        "settled-without-owner",
        "G5",
        "workers-stopped",
        ("early",),
        [(f"{LUA}settle.lua", "if token ~= '' and token == ARGV[5] then", "if true then")],
        quick=True,
    ),
    Variant(
        "taken-without-token",
        "G5",
        "workers-stopped",
        ("early",),
        [(f"{LUA}take.lua", "  redis.call('HSET', KEYS[2], ARGV[2] .. ':token', token)\n", "")],
    ),
    Variant(
        "group-recreated-at-the-end",
        "G10",
        "group-destroyed",
        ("lost",),
        [
            (
                f"{LUA}group.lua",
                "  position = redis.call('HGET', KEYS[2], ARGV[2] .. ':pos:main') or '0-0'\n",
                "  position = last\n",
            )
        ],
        quick=True,
    ),
    Variant(
        "position-saved-too-far",
        "G10",
        "group-destroyed",
        ("lost",),
        [(f"{LUA}positions.lua", "if oldest[1] and not below(position, oldest[1][1]) then", "if false then")],
    ),
    Variant(
        "retried-in-all-groups",
        "G6",
        "scripts-forgotten",
        ("unexplained", "twice"),
        [
            (
                "pipeline/server/groups.py",
                'script("promote"), [keys.again(group),',
                'script("promote"), [keys.stream,',
            )
        ],
        quick=True,
    ),
    Variant(
        "gap-not-checked",
        "G2",
        "out-of-memory",
        ("doubtful", "reordered", "lost"),
        [(f"{LUA}append.lua", "if n ~= last + 1 and n ~= tonumber(ARGV[2]) then", "if false then")],
    ),
    Variant(
        "numbered-anew",
        "G2",
        "append-replies-swallowed",
        ("twice", "unexplained"),
        [
            (
                "producers/batch.py",
                _IN_DOUBT,
                _IN_DOUBT
                + "                batch.number, self.next_number = self.next_number, self.next_number + 1\n",
            )
        ],
        quick=True,
    ),
    Variant(
        "window-of-the-producer-not-bounded",
        "G2",
        "appends-piled-up",
        ("doubtful", "lost", "twice"),
        [("pipeline/server/append.py", "MAX_UNCONFIRMED = 16", "MAX_UNCONFIRMED = 500")],
    ),
    Variant(
        "confirmed-before-the-reply",
        "G1",
        "server-killed-fsync-always",
        ("lost",),
        [
            ("producers/sender.py", _WRITTEN, _WRITTEN_AND_CONFIRMED),
            ("producers/sender.py", _AT_ONCE, _AT_ONCE_AND_CONFIRMED),
            ("producers/sender.py", _ONE, _ONE_AND_CONFIRMED),
        ],
    ),
    Variant(
        "dedupe-id-not-recorded",
        "G2",
        "scripts-forgotten",
        ("twice",),
        [
            (
                f"{LUA}append.lua",
                "    if i == due then redis.call('SET', KEYS[key], id, 'PX', ARGV[6]) end\n",
                "",
            )
        ],
        quick=True,
    ),
    Variant(
        "window-not-bounded",
        "G11",
        "workers-hold-little",
        ("hoarded",),
        [
            (
                "consumers/window.py",
                "        if self._fixed is not None:\n            return self._fixed\n",
                "        if self._fixed is not None:\n            return 100_000\n",
            )
        ],
    ),
    Variant(
        "renewals-stopped",
        "G4",
        "handlers-outlive-lease",
        ("unexplained",),
        [
            (
                "consumers/heartbeat.py",
                "due = [h for h in state.window.due_for_renewal(now_ms(), state.claim_after_ms) if not h.returning]",
                "due: list[Held] = []",
            )
        ],
        quick=True,
    ),
    Variant(
        "claimed-though-renewed",
        "G4",
        "handlers-outlive-lease",
        ("unexplained",),
        [(f"{LUA}take.lua", "ARGV[3], ARGV[4], ARGV[5], 'COUNT'", "ARGV[3], 0, ARGV[5], 'COUNT'")],
    ),
    Variant(
        "cursor-not-kept",
        "G4",
        "dead-behind-a-crowd",
        ("late", "lost", "stuck"),
        [("consumers/claimer.py", "self._cursors[ref] = taken.cursor", 'self._cursors[ref] = "0-0"')],
    ),
    Variant("pack-not-split", "G6", "events-that-kill", ("buried",), [("consumers/dispatch.py", _SPLIT, "")]),
    Variant(
        "hand-back-spends-an-attempt",
        "G9",
        "workers-told-to-go",
        ("miscounted",),
        [(f"{LUA}hand_back.lua", "math.max(held[1][4] - 1, 0)", "held[1][4]")],
    ),
    Variant(
        "dead-letter-not-acknowledged-with-it",
        "G6",
        "scripts-forgotten",
        ("buried", "unexplained"),
        [
            (
                f"{LUA}move.lua",
                "  redis.call('XACK', KEYS[1], ARGV[1], id)\n  if ARGV[3]",
                "  if (moves[1] or {}).kind ~= 'dead' then redis.call('XACK', KEYS[1], ARGV[1], id) end\n  if ARGV[3]",
            )
        ],
    ),
    Variant(
        "outcome-lost-when-refused",
        "G3",
        "too-few-replicas",
        ("stuck",),
        [
            (
                "consumers/settler.py",
                "                self.put_back([settlement])\n                code = ",
                "                code = ",
            )
        ],
    ),
    Variant(
        "unseen-not-fetched",
        "G3",
        "read-replies-swallowed",
        ("stuck",),
        [
            (
                "consumers/reader.py",
                "    with state.seeing:\n        for ref in state.refs:\n",
                "    with state.seeing:\n        for ref in ():\n",
            )
        ],
    ),
    Variant(
        "clock-believed",
        "G4",
        "clock-stepped",
        ("unexplained",),
        [
            (f"{LUA}take.lua", "if now_ms > tonumber(ARGV[7]) then", "if false then"),
            ("pipeline/clock.py", "        if jumped:\n", "        if False:\n"),
        ],
    ),
    Variant(
        "silence-not-waited-out",
        "G4",
        "too-few-replicas",
        ("unexplained",),
        [("consumers/member.py", _AFTER_SILENCE, "            if False:\n")],
    ),
    Variant(
        "restart-not-waited-out",
        "G4",
        "server-killed-fsync-always",
        ("unexplained",),
        [
            ("consumers/member.py", _AFTER_SILENCE, "            if False:\n"),
            (
                "consumers/member.py",
                "            self._run_id = run_id\n            state.clock.suspend(now_ms(), state.claim_after_ms)\n",
                "            self._run_id = run_id\n",
            ),
        ],
    ),
    Variant(
        "retry-dropped-when-refused",
        "G6",
        "out-of-memory",
        ("lost",),
        [(f"{LUA}promote.lua", "    if type(added) == 'table' then return added end\n", "")],
    ),
    Variant(
        "suspects-in-any-company",
        "G6",
        "events-that-kill",
        ("buried",),
        [
            ("pipeline/ladder.py", "return _COMPANY[min(crashes, len(_COMPANY) - 1)]", "return None"),
            (
                "pipeline/ladder.py",
                "crashes >= MAX_CRASHES and 0 < noted < deliveries",
                "crashes >= MAX_CRASHES",
            ),
        ],
    ),
    Variant(
        "duty-held-for-ever",
        "G4",
        "workers-killed",
        ("late", "stuck"),
        [
            (
                f"{LUA}duty.lua",
                "redis.call('SET', KEYS[3], ARGV[2], 'PX', ARGV[5])",
                "redis.call('SET', KEYS[3], ARGV[2])",
            )
        ],
    ),
    Variant(
        "fetched-as-another-run",
        "G6",
        "read-replies-swallowed",
        ("miscounted",),
        [(f"{LUA}fetch.lua", "math.max(held[1][4], 1)", "math.max(held[1][4], 1) + 1")],
    ),
    Variant(
        "list-popped-and-then-added",
        "G3",
        "list-handed-replies-swallowed",
        ("lost",),
        [
            (
                "pipeline/server/lists.py",
                '("BLMOVE", keys.list, keys.hand, options.take.upper(), "LEFT", block_ms / 1_000)',
                '("BRPOP", keys.list, block_ms / 1_000)',
            ),
            ("consumers/list_watcher.py", _HANDED, _HANDED_AND_ADDED),
        ],
        quick=True,
    ),
    Variant(
        "list-push-not-numbered",
        "G2",
        "list-push-replies-swallowed",
        ("twice", "unexplained"),
        [(f"{LUA}list_push.lua", "if n == last then\n", "if false then\n")],
        quick=True,
    ),
    Variant(
        "list-popped-and-not-kept",
        "G3",
        "list-pop-replies-swallowed",
        ("lost",),
        [(f"{LUA}list_pop.lua", "redis.pcall('HSET', KEYS[3], ARGV[2], cmsgpack.pack(", "#(cmsgpack.pack(")],
    ),
    Variant(
        "list-hand-left-to-its-taker",
        "G3",
        "list-handed-replies-swallowed",
        ("stuck", "reordered"),
        [
            (
                f"{LUA}list_feed.lua",
                "local problem = drain(KEYS[2], 'right')\n",
                "local problem = nil\nif ARGV[3] == '' then problem = drain(KEYS[2], 'right') end\n",
            ),
            ("consumers/list_watcher.py", _HAND_AND_FEED, _HAND_THEN_FEED),
            (
                "consumers/member.py",
                "            drain_hand(link, self.state.list_options, self.state.group)\n",
                "            pass\n",
            ),
        ],
    ),
    Variant(
        "list-tasks-kept-when-settled",
        "G3",
        "list-scripts-forgotten",
        ("stuck",),
        [("pipeline/keys.py", "        return self.again or self.private\n", "        return self.again\n")],
        quick=True,
    ),
    Variant(
        "list-given-back-at-the-other-end",
        "G9",
        "list-worker-restarted",
        ("reordered",),
        [
            (
                f"{LUA}list_give_back.lua",
                "redis.pcall(ARGV[2] == 'left' and 'LPUSH' or 'RPUSH', KEYS[1], body)",
                "redis.pcall(ARGV[2] == 'left' and 'RPUSH' or 'LPUSH', KEYS[1], body)",
            )
        ],
    ),
    Variant(
        "list-group-recreated-at-the-end",
        "G10",
        "list-group-destroyed",
        ("lost", "stuck"),
        [
            (
                f"{LUA}group.lua",
                "if ARGV[6] ~= '' or later(position, last) then position = '0-0'",
                "if ARGV[6] ~= '' then position = last",
            )
        ],
    ),
)

VARIANTS: Mapping[str, Variant] = {variant.name: variant for variant in _ALL}


@contextlib.contextmanager
def tree_of(variant: Variant) -> Iterator[Path]:
    """A folder with the product as this variant has it; the tests are those of the repository."""
    with tempfile.TemporaryDirectory(prefix="ms-variant-") as folder:
        tree = Path(folder)
        for name in FOLDERS:
            shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        (tree / "tests").symlink_to(ROOT / "tests")
        for name, text in changed(variant).items():
            (tree / name).write_text(text, encoding="utf-8")
        yield tree


def changed(variant: Variant) -> dict[str, str]:
    """The files that read otherwise, by name.

    Raises:
        ValueError: a text is not there exactly once: the product has changed, and the variant must.
    """
    files: dict[str, str] = {}
    for name, text, instead in variant.changes:
        known = files.get(name) or (ROOT / name).read_text(encoding="utf-8")
        if known.count(text) != 1:
            raise ValueError(
                f"variant {variant.name}: {name} has this text {known.count(text)} times, not once: {text!r}"
            )
        files[name] = known.replace(text, instead)
    return files
