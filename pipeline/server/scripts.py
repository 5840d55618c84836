"""Script: one Lua script of the lua/ folder, named by its SHA-1 as the server names it."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import TypeAlias

Arg: TypeAlias = str | bytes | int | float


@dataclass(frozen=True, slots=True)
class Script:
    """A script's text and SHA-1. command() is the EVALSHA that runs it, to be sent or called."""

    name: str
    text: str = field(repr=False)
    sha: str = field(repr=False)

    def command(self, keys: Sequence[str], args: Sequence[Arg]) -> tuple[Arg, ...]:
        """The EVALSHA command; a server that does not know the script answers NOSCRIPT and does nothing."""
        return ("EVALSHA", self.sha, str(len(keys)), *keys, *args)


@cache
def script(name: str) -> Script:
    """The script lua/<name>.lua: append, take, settle, renew, move, hand_back, duty, promote, group, positions."""
    text = files(__package__).joinpath("lua", f"{name}.lua").read_text(encoding="utf-8")
    return Script(name, text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())
