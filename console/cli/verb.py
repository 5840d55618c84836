"""Verb and Noun: click's command and group as every verb of the command line wants them.

Each takes the common options before or after its own, shows examples in its help, and suggests the near word for an
unknown one. A noun (stream, group, …) called without a verb lists.
"""

from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import Any

import click

from console.cli.session import Session
from console.output import FORMATS

NEAR = 0.75
"""How alike a word must be to a verb to be taken for a slip, where a stream's name may stand too."""
Example = tuple[str, str]
"""A command, and what it does."""


def common_options() -> list[click.Parameter]:
    """The options that every verb takes, before or after its own."""

    def option(*names: str, set_to: Callable[[Session, Any], None], **given: Any) -> click.Option:
        def callback(ctx: click.Context, _: click.Parameter, value: Any) -> None:
            if value and not ctx.resilient_parsing:
                set_to(ctx.ensure_object(Session), value)

        return click.Option(list(names), expose_value=False, callback=callback, **given)

    def use(name: str) -> Callable[[Session, Any], None]:
        return lambda session, value: setattr(session.out, name, value)

    def set_url(session: Session, url: str) -> None:
        session.url, session.url_on_command_line = url, True

    return [
        option("--url", set_to=set_url, metavar="URL", allow_from_autoenv=False,
               help="The server: redis://, rediss://, unix://, redis+sentinel:// or embedded://FOLDER. "
                    "Else MILLSTREAM_URL, else REDIS_URL."),
        option("-o", "--output", set_to=use("format"), type=click.Choice(FORMATS), metavar="FORMAT",
               help="How results are printed: table, json or ndjson."),
        option("--json", set_to=lambda session, _: setattr(session.out, "format", "json"), is_flag=True,
               help="The same as -o json."),
        option("-q", "--quiet", set_to=use("quiet"), is_flag=True, help="Results and errors only."),
        option("-v", "--verbose", set_to=use("verbose"), is_flag=True, help="More on stderr; tracebacks of errors."),
        click.Option(["--version"], is_flag=True, is_eager=True, expose_value=False, callback=_show_version,
                     help="Show the version."),
    ]  # fmt: skip


class _Helpful(click.Command):
    """Help with the verb's own options first, then those of all verbs, then examples; a variable for each option."""

    examples: Sequence[Example] = ()
    common: Sequence[click.Parameter] = ()

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Name each option's variable after what people type, not after what our function calls it."""
        name_variables(self, ctx)
        return super().parse_args(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Two sections, so that the options that matter here stand out."""
        shared = {id(param) for param in self.common}
        params = [param for param in self.get_params(ctx) if isinstance(param, click.Option)]
        for title, chosen in (
            ("Options", [p for p in params if id(p) not in shared and p.name != "help"]),
            ("Options of every verb", [p for p in params if id(p) in shared or p.name == "help"]),
        ):
            records = [record for param in chosen if (record := param.get_help_record(ctx)) is not None]
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The examples, each with what it does beneath it."""
        if self.examples:
            with formatter.section("Examples"):
                for command, does in self.examples:
                    formatter.write(f"{'':>{formatter.current_indent}}{command}\n")
                    formatter.write(f"{'':>{formatter.current_indent + 6}}{does}\n")
        super().format_epilog(ctx, formatter)


class Verb(_Helpful):
    """A command. Its callback gets the Session first."""

    def __init__(self, *args: Any, examples: Sequence[Example] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.examples = examples
        self.common = common_options()
        self.params.extend(self.common)


class Noun(_Helpful, click.Group):
    """A thing with verbs of its own; `ls` where none is given."""

    command_class = Verb

    def __init__(
        self, *args: Any, examples: Sequence[Example] = (), default: str = "ls", **kwargs: Any
    ) -> None:
        super().__init__(*args, **{"subcommand_metavar": "[VERB] ..."} | kwargs)
        self.examples = examples
        self.default = default
        self.common = common_options()
        self.params.extend(self.common)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the default verb where a verb is missing."""
        at = self._after_common(args)
        asked_by_shell = ctx.resilient_parsing  # what could stand here
        if not asked_by_shell and (at == len(args) or self._wants_default(ctx, args[at])):
            args.insert(at, self.default)
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The verb named, or an error that names the near one."""
        name = args[0]
        command = self.get_command(ctx, name)
        if command is None and not ctx.resilient_parsing:
            error = unknown_word(name, self.list_commands(ctx), ctx)
            if self.default and get_close_matches(name, self.commands, cutoff=NEAR):
                error.add_note(
                    f"if {name!r} is a name and no verb: {ctx.command_path} {self.default} {name} …"
                )
            raise error
        return name, command, args[1:]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The verbs first: they are what one looks for."""
        self.format_commands(ctx, formatter)
        super().format_options(ctx, formatter)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The verbs in the order they are written, the default one marked."""
        rows = []
        for name, command in self.commands.items():
            rows.append(
                (name, command.get_short_help_str(80) + (" (the default)" if name == self.default else ""))
            )
        with formatter.section("Verbs"):
            formatter.write_dl(rows)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order they are written: reading first, changing last."""
        return list(self.commands)

    def _after_common(self, args: Sequence[str]) -> int:
        """The index of the first argument behind common options that stand before the verb."""
        flags = {name for p in self.common if isinstance(p, click.Option) and p.is_flag for name in p.opts}
        valued = {
            name for p in self.common if isinstance(p, click.Option) and not p.is_flag for name in p.opts
        }
        at = 0
        while at < len(args):
            name = args[at].partition("=")[0]
            if name in flags or (name in valued and "=" in args[at]):
                at += 1
            elif name in valued:
                at += 2
            else:
                break
        return min(at, len(args))

    def _wants_default(self, ctx: click.Context, word: str) -> bool:
        if word in ctx.help_option_names or word in self.commands:
            return False
        if word.startswith("-"):
            return True
        takes_names = any(isinstance(param, click.Argument) for param in self.commands[self.default].params)
        return takes_names and not get_close_matches(word, self.commands, cutoff=NEAR)


def name_variables(command: click.Command, ctx: click.Context) -> None:
    """Give each option its environment variable: --keep of `stream trim` is MILLSTREAM_STREAM_TRIM_KEEP."""
    for param in command.params:
        if isinstance(param, click.Option) and param.allow_from_autoenv and ctx.auto_envvar_prefix:
            word = max(param.opts, key=len).lstrip("-").replace("-", "_").upper()
            param.envvar = f"{ctx.auto_envvar_prefix}_{word}"


def unknown_word(word: str, known: Sequence[str], ctx: click.Context) -> click.UsageError:
    """The error for a verb that does not exist, with the near one."""
    near = get_close_matches(word, known, n=1)
    guess = f"; did you mean {near[0]!r}?" if near else ""
    return click.UsageError(f"there is no verb {word!r} in {ctx.command_path}{guess}", ctx)


def _show_version(ctx: click.Context, _: click.Parameter, asked: bool) -> None:
    if asked and not ctx.resilient_parsing:
        from importlib.metadata import PackageNotFoundError, version

        try:
            number = version("millstream")
        except PackageNotFoundError:
            number = "(not installed)"
        click.echo(f"millstream {number}")
        ctx.exit()
