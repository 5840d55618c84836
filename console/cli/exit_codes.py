"""Exit codes, and the one line on stderr that says why a verb did not do what was asked."""

import os
import re
import shlex
import sys
import traceback

import click
from click.core import ParameterSource

from console.output import Output, write
from console.safe_text import safe
from pipeline.errors import (
    AccessDeniedError,
    MillstreamError,
    NoServerError,
    NoSuchGroupError,
    NoSuchStreamError,
    NotConnectedError,
    NotFoundError,
    UnsupportedServerError,
    UsageError,
    WrongKeyTypeError,
)
from pipeline.keys import ListKeys

OK, FAILED, USAGE, NOT_FOUND, CHECK_WARNS, CHECK_FAILS, NO_CONSENT, UNREACHABLE = range(8)
INTERRUPTED = 130


class NoConsentError(MillstreamError):
    """What was asked changes history or a position, and nobody agreed to it."""


def exit_code(error: BaseException) -> int:
    """The exit code an error stands for."""
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    if isinstance(error, click.UsageError | UsageError):
        return USAGE
    if isinstance(error, NotFoundError | FileNotFoundError):
        return NOT_FOUND
    if isinstance(error, NoConsentError):
        return NO_CONSENT
    if isinstance(error, NotConnectedError | NoServerError):
        return UNREACHABLE
    return FAILED


def report(error: BaseException, out: Output) -> int:
    """Say on stderr what went wrong, in one line and a hint where one helps, and return the exit code."""
    if out.verbose and not isinstance(error, click.ClickException | KeyboardInterrupt):
        traceback.print_exception(error, file=sys.stderr)
    if not isinstance(error, KeyboardInterrupt):
        label = "\x1b[31merror:\x1b[0m" if out.colored(sys.stderr) else "error:"
        write(sys.stderr, f"{label} {_one_line(error)}")
        for hint in _hints(error):
            write(sys.stderr, f"hint: {safe(hint)}")
    if isinstance(error, AccessDeniedError | UnsupportedServerError | WrongKeyTypeError):
        from consumers.supervisor import FINAL_EXIT, restarted  # --help and completion answer without it

        if restarted():
            return FINAL_EXIT
    return exit_code(error)


def reader_went_away() -> None:
    """Whoever read our output has stopped (`| head`): write no more, not even when Python flushes at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _one_line(error: BaseException) -> str:
    if isinstance(error, click.ClickException):
        text = error.format_message().strip().removesuffix(".")
        return safe(" ".join(text.split())[:1].lower() + " ".join(text.split())[1:])
    if isinstance(error, OSError) and error.strerror:
        return safe(f"{error.filename}: {error.strerror}" if error.filename else error.strerror)
    if isinstance(error, MillstreamError):
        return safe(error)
    return safe(f"unexpected {type(error).__name__}: {error} (a fault of Millstream; -v shows where)")


def _hints(error: BaseException) -> list[str]:
    notes = list(getattr(error, "__notes__", []))
    if notes:
        return notes
    if isinstance(error, click.BadParameter) and (variable := _from_environment(error)):
        return [f"the value comes from the environment variable {variable}"]
    if isinstance(error, click.UsageError) and error.ctx is not None:
        return [f"{error.ctx.command_path} --help shows what there is"]
    if isinstance(error, NotConnectedError) and "efused" in str(error):
        return [
            "is a server running there? `millstream server` starts one here; --url or MILLSTREAM_URL names another"
        ]
    if isinstance(error, AccessDeniedError) and (
        "NOAUTH" in str(error) or "Authentication required" in str(error)
    ):
        return ["put user and password into MILLSTREAM_URL: redis://USER:PASSWORD@HOST:PORT/DB"]
    if isinstance(error, NoSuchGroupError):
        return ["`millstream group ls STREAM` shows the groups there are"]
    if isinstance(error, NoSuchStreamError):
        return ["`millstream stream ls` shows the streams there are", *_of_a_list(str(error))]
    if isinstance(error, WrongKeyTypeError):
        return _of_a_list(str(error))
    return []


def _of_a_list(said: str) -> list[str]:
    """What to look at, if what an error calls a stream is a list queue."""
    found = re.search(r"^(?:there is no )?stream '([^'{}]+)'", said)
    if found is None:
        return []
    name = found[1]
    return [
        f"of a list queue {name}, what its workers took is the stream {shlex.quote(ListKeys(name).stream)}"
    ]


def _from_environment(error: click.BadParameter) -> str:
    """The variable that gave the refused value; empty if it was typed."""
    option, ctx = error.param, error.ctx
    if not isinstance(option, click.Option) or ctx is None or not option.name:
        return ""
    if ctx.get_parameter_source(option.name) is not ParameterSource.ENVIRONMENT:
        return ""
    return str(option.envvar)
