"""Settings: what the environment says to the command line. It is read here, and nowhere else in the console.

Every option has a variable of its own, which click looks up by this prefix: `--type` of `produce` is
MILLSTREAM_PRODUCE_TYPE, `--output` of all verbs is MILLSTREAM_OUTPUT. The server's address alone is read further
down, where the connection is made (pipeline/server/locate.py: MILLSTREAM_URL, else REDIS_URL).
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

PREFIX = "MILLSTREAM"
COMPLETE_VARIABLE = f"_{PREFIX}_COMPLETE"
INTAKE_TOKEN = f"{PREFIX}_INTAKE_TOKEN"
"""What every request to `millstream intake` has to bring: an option would show it to everyone who lists processes."""
WORKER_URL = f"{PREFIX}_WORKER_URL"
"""What a supervisor tells its workers: --url would show a password to everyone who lists processes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a person's environment asks of every verb."""

    color: bool = True
    """Colour may be used where the output is a terminal: not under NO_COLOR (https://no-color.org) or TERM=dumb."""
    completing: bool = False
    """A shell asks for completions: nothing else is to be done."""
    intake_token: str = field(default="", repr=False)
    """The token of an intake over HTTP; empty: none, unless a file holds one."""
    worker_url: str | None = field(default=None, repr=False)
    """The address a supervisor gives its workers; None: this is no worker, or it is to look for itself."""


def settings_from(environ: Mapping[str, str] | None = None) -> Settings:
    """The settings of this process's environment, or of the one given."""
    environ = os.environ if environ is None else environ
    return Settings(
        color=not environ.get("NO_COLOR") and environ.get("TERM") != "dumb",
        completing=bool(environ.get(COMPLETE_VARIABLE)),
        intake_token=environ.get(INTAKE_TOKEN, ""),
        worker_url=environ.get(WORKER_URL) or None,
    )


def worker_environment(url: str | None = None) -> dict[str, str]:
    """The environment of a process we start; of a worker, with the address it is to use."""
    return dict(os.environ) | ({WORKER_URL: url} if url else {})
