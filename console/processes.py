"""Processes of our own: how a module of ours is run in one, in the repository as in the wheel."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path


def module_command(module: str, *args: str) -> list[str]:
    """The command line that runs a module; its name is made from __name__ or __package__, which the wheel changes."""
    # -P: what lies in the working directory is the user's, and none of our business.
    return [sys.executable, "-P", "-m", module, *args]


def environment(base: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment in which module_command() works: this process's own, or the one given, and what it takes."""
    found = dict(os.environ if base is None else base)
    if not str(__package__).startswith("millstream."):
        # The repository may be run without having been installed.
        root = str(Path(__file__).resolve().parents[1])
        found["PYTHONPATH"] = os.pathsep.join(filter(None, [root, found.get("PYTHONPATH")]))
    return found
