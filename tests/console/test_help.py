"""Help: quick, complete, and true: each example it shows can be typed as it stands."""

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator

import click
import pytest

from console.cli.main import VERBS, root
from console.cli.verb import Noun, Verb
from tests.console.command import ROOT, apart, command, environ, here

HEAVY = ("redis", "rich", "structlog", "msgpack", "asyncio")


def verbs(
    group: click.Group = root, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """All verbs, with those of nouns."""
    ctx = click.Context(group)
    for name in group.list_commands(ctx):
        found = group.get_command(ctx, name)
        assert found is not None
        yield (*path, name), found
        if isinstance(found, Noun):
            yield from verbs(found, (*path, name))


ALL = list(verbs())


def test_help_takes_next_to_no_time() -> None:
    """Within 0.15 s of CPU time, user and system, the best of three."""

    def cpu_s() -> float:
        process = subprocess.Popen(command("--help"), stdout=subprocess.DEVNULL, env=environ(None))
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        return used.ru_utime + used.ru_stime

    assert min(cpu_s() for _ in range(3)) < 0.15


def test_help_imports_no_client_and_no_renderer() -> None:
    """Neither does a mistyped verb, nor completion."""
    look = (
        "import sys; from console.cli.main import main; main(['--help']); main(['nope']); "
        f"print([m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", look], cwd=ROOT, capture_output=True, check=False, env=environ(None)
    )
    assert done.stdout.decode().splitlines()[-1] == "[]"


def test_help_names_every_verb() -> None:
    """Each in its section, with its line."""
    shown = here("--help").out
    for section in VERBS.values():
        for name, text in section.items():
            assert name in shown
            assert text in shown


@pytest.mark.parametrize(
    ("path", "found"), ALL, ids=lambda value: " ".join(value) if isinstance(value, tuple) else ""
)
def test_every_verb_teaches(path: tuple[str, ...], found: click.Command) -> None:
    """Its help says what it does and shows an example, and every option says what it is for."""
    assert isinstance(found, Verb | Noun)
    ran = here(*path, "--help")
    assert ran.code == 0
    assert "Examples:" in ran.out
    for param in found.params:
        if isinstance(param, click.Option):
            assert param.help, f"{path} {param.opts}"


EXAMPLES = sorted({example for _, found in ALL for example, _ in found.examples})  # type: ignore[attr-defined]


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_example_can_be_typed(example: str) -> None:
    """Its verbs and options exist, and its values are accepted."""
    for part in example.split(" && "):
        words = shlex.split(part.partition(" | ")[0].partition(" < ")[0])
        assert words.pop(0) == "millstream"
        group: click.Command = root
        ctx = root.make_context("millstream", words)
        while isinstance(group, click.Group):
            held = (
                "_protected_args" if hasattr(ctx, "_protected_args") else "protected_args"
            )  # before click 8.2
            rest = [*getattr(ctx, held), *ctx.args]
            name, found, rest = group.resolve_command(ctx, rest)
            assert found is not None
            group, ctx = found, found.make_context(name, rest, parent=ctx)


def test_millstream_alone_shows_its_help_but_is_no_success() -> None:
    """A script that lost its verb must not go on as if something had been done."""
    ran = here()
    assert ran.code == 2
    assert ran.out == ""
    assert "produce" in ran.err


@pytest.mark.parametrize(
    ("args", "guess"),
    [
        (("strem",), "stream"),
        (("tial", "orders"), "tail"),
        (("group", "shwo"), "show"),
        (("stream", "crate", "x"), "create"),
    ],
)
def test_an_unknown_verb_suggests_the_near_one(args: tuple[str, ...], guess: str) -> None:
    """In one line, as a usage error."""
    ran = here(*args)
    assert ran.code == 2
    assert f"did you mean {guess!r}?" in ran.error


def test_a_name_that_looks_like_a_verb_can_be_given_all_the_same() -> None:
    """A stream called slow is not `show`: it is said how to write it."""
    ran = here("dead", "slow", "g")
    assert ran.code == 2
    assert "hint: if 'slow' is a name and no verb: millstream dead ls slow …" in ran.err


def test_the_version_is_shown() -> None:
    """By the program's name and number."""
    assert here("--version").out.startswith("millstream ")
    assert here("tail", "--version").code == 0


@pytest.mark.parametrize(
    ("words", "wanted"),
    [("millstream str", "stream"), ("millstream stream ", "trim"), ("millstream stream trim --", "--keep")],
)
def test_a_shell_can_complete(words: str, wanted: str) -> None:
    """Verbs, verbs of nouns, and options, as bash asks for them."""
    asked = {
        "_MILLSTREAM_COMPLETE": "bash_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(words.count(" ")),
    }
    assert f"plain,{wanted}" in apart(environment=asked).out.splitlines()
