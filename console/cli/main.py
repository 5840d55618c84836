"""The command line's entry: which verbs there are, and how what goes wrong becomes one line and an exit code.

Only the verb that is called is imported, so that `millstream --help` and shell completion answer at once.
"""

import sys
from collections.abc import Sequence
from importlib import import_module

import click
from click.shell_completion import CompletionItem

from console.cli.exit_codes import OK, USAGE, reader_went_away, report
from console.cli.session import Session
from console.cli.verb import common_options, name_variables, unknown_word
from console.settings import PREFIX

# Section, then verb: its one line of help. Each verb is the attribute `verb` of the module of its name in this folder.
VERBS = {
    "Start": {
        "demo": "See it work: two groups, killed workers, nothing lost.",
        "server": "Run the embedded server in the foreground.",
    },
    "Send and read": {
        "produce": "Lines, JSON lines or logfmt into a stream.",
        "intake": "Take events over HTTP, TCP and syslog.",
        "tail": "Show a stream's events, and follow them.",
        "consume": "Hand a stream's events to a command or a sink.",
        "run": "Run the workers of an app.",
        "replay": "Hand history to one group again.",
        "sink": "Where consume can hand events: ls, show.",
        "queue": "List queues: status, peek, push, pop, bridge.",
        "postgres": "Inbox and outbox tables: ddl, create.",
    },
    "Look": {
        "top": "Streams and groups, live.",
        "stream": "ls, show, create, trim.",
        "group": "ls, show, create, reset, rm.",
        "consumer": "ls, rm.",
        "pending": "What is being handled, or stuck: ls, show.",
        "dead": "Dead letters: ls, show.",
        "bench": "This server's limit, and our share of it.",
    },
}
NOUNS = ("stream", "group", "consumer", "sink", "queue")
_PLURALS = {f"{noun}s": noun for noun in NOUNS}


class Root(click.Group):
    """The verbs, found by name."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As every verb does."""
        name_variables(self, ctx)
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All verbs, without importing one."""
        return [name for section in VERBS.values() for name in section]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The verb of this name; its module is imported now."""
        name = _PLURALS.get(cmd_name, cmd_name)
        if name not in self.list_commands(ctx):
            return None
        command: click.Command = import_module(f"{__package__}.{name}").verb
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The verb named, or an error that names the near one."""
        name = _PLURALS.get(args[0], args[0])
        command = self.get_command(ctx, name)
        if command is None and not ctx.resilient_parsing:
            raise unknown_word(args[0], self.list_commands(ctx), ctx)
        return name, command, args[1:]

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """The verbs that begin so, with their help, without importing any."""
        found = [
            CompletionItem(name, help=text)
            for section in VERBS.values()
            for name, text in section.items()
            if name.startswith(incomplete)
        ]
        return found + click.Command.shell_complete(self, ctx, incomplete)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The verbs by section."""
        width = max(len(name) for name in self.list_commands(ctx))
        for title, verbs in VERBS.items():
            with formatter.section(title):
                formatter.write_dl([(f"{name:<{width}}", text) for name, text in verbs.items()])

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The verbs first: they are what one looks for."""
        self.format_commands(ctx, formatter)
        click.Command.format_options(self, ctx, formatter)


@click.pass_context
def _help_without_verb(ctx: click.Context) -> None:
    """`millstream` alone: the help, but not as a success, since nothing was done."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), err=True)
        ctx.exit(USAGE)


root = Root(
    "millstream",
    params=common_options(),
    subcommand_metavar="VERB ...",
    invoke_without_command=True,
    callback=_help_without_verb,
    help="Events through Redis Streams: every consumer group gets every event, and what a dead worker held "
    "is taken over.",
    epilog="`millstream VERB --help` has examples. Every option has an environment variable: --type of produce is "
    "MILLSTREAM_PRODUCE_TYPE. Exit codes: 0 ok, 1 failed, 2 usage, 3 not found, 4 check warns, 5 check fails, "
    "6 refused without consent, 7 server unreachable, 130 interrupted. Completion: "
    'eval "$(_MILLSTREAM_COMPLETE=bash_source millstream)", or zsh_source, or fish_source.',
    context_settings={
        "auto_envvar_prefix": PREFIX,
        "help_option_names": ["-h", "--help"],
        "max_content_width": 100,
    },
)


def main(args: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code; whatever goes wrong is one line on stderr."""
    session = Session()
    if session.settings.completing:
        root.main(prog_name="millstream")
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a character gets its escape; it is no reason to stop.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        code = _invoke(sys.argv[1:] if args is None else args, session)
        sys.stdout.flush()
    except BrokenPipeError:
        reader_went_away()
        return OK
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - reported, with its exit code
        return report(error, session.out)
    return code


def _invoke(args: Sequence[str], session: Session) -> int:
    try:
        with root.make_context("millstream", list(args), obj=session) as ctx:
            code = root.invoke(ctx)
    except click.exceptions.Exit as asked:
        return asked.exit_code
    except click.exceptions.Abort:
        raise KeyboardInterrupt from None
    finally:
        session.close()
    return code if isinstance(code, int) else OK
