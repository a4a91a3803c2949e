"""Groups of commands: summaries that are shown whole, and "did you mean" for a name that is not there.

Owed: a command and an option that do not exist are usage errors of one sentence, with the nearest name and where to look.
"""

from __future__ import annotations

from typing import Final

import click

from .errors import USAGE

_WHOLE: Final = 1_000
"""Characters of a summary: more than any has, so that click cuts none."""


class Commands(click.Group):
    """A group that shows its commands in the order in which they are defined, and each summary whole."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands in the order in which one meets them."""
        return list(self.commands)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, and what those of a group are."""
        found = ((name, self.get_command(ctx, name)) for name in self.list_commands(ctx))
        rows = [(name, summary(command)) for name, command in found if command is not None]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Without a command the help is shown; as wrong usage, because a script that names none has a mistake."""
        if not args and not ctx.resilient_parsing:
            click.echo(ctx.get_help())
            ctx.exit(USAGE)
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that ``args`` begins with."""
        name = args[0]
        if not ctx.resilient_parsing and not name.startswith("-") and self.get_command(ctx, name) is None:
            from raftcoord.errors import did_you_mean

            known = self.list_commands(ctx)
            nearest = did_you_mean(name, known) or f"; there are {', '.join(known)}"
            raise click.UsageError(f"there is no command {name!r}{nearest}", ctx)
        return super().resolve_command(ctx, args)


def summary(command: click.Command) -> str:
    """The first sentence of a command's help, without its full stop; of a group also the names of its commands."""
    said = command.get_short_help_str(_WHOLE).removesuffix(".")
    return f"{said}: {', '.join(command.commands)}" if isinstance(command, click.Group) else said
