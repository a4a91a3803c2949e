"""The root command, and how every command ends: an exit code, and for an error one sentence.

Owed: no traceback, whatever happens (RAFTCOORD_TRACEBACK=1 asks for it); with ``-o json`` the error is JSON on stdout.
A command is imported when it is called, so that ``raftcoord --help`` answers at once.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Sequence
from typing import Any, Final, NoReturn

import click

from .errors import report, report_interrupt, report_usage, wants_json
from .groups import Commands

_COMMANDS: Final = {
    "demo": ".demo",
    "init": ".init",
    "up": ".cluster",
    "down": ".cluster",
    "status": ".status",
    "top": ".status",
    "node": ".node",
    "participant": ".participant",
    "submit": ".submit",
    "txn": ".txn",
    "resource": ".resource",
    "resolver": ".resolver",
    "doctor": ".doctor",
    "horizon": ".horizon",
    "drill": ".drill",
    "sim": ".sim",
    "bench": ".bench",
}
"""Each command and the module that it is in, in the order in which one meets them."""


class Root(Commands):
    """The group of all commands."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands in the order in which one meets them."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported now."""
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(_COMMANDS[cmd_name], __package__)
        command: click.Command = getattr(module, cmd_name)
        return command

    def main(  # type: ignore[override]
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any
    ) -> NoReturn:
        """Run the command that ``args`` names and exit with its code."""
        arguments = list(sys.argv[1:] if args is None else args)
        as_json = wants_json(arguments)
        extra["standalone_mode"] = False
        if "NO_COLOR" in os.environ:
            extra["color"] = False
        try:
            code = super().main(arguments, prog_name or "raftcoord", **extra)
        except click.ClickException as error:
            sys.exit(report_usage(error, as_json))
        except (click.Abort, KeyboardInterrupt) as interrupt:
            sys.exit(report_interrupt(interrupt, as_json))
        except Exception as error:  # the last line of defence: whatever it is, one sentence
            sys.exit(report(error, as_json))
        sys.exit(code if isinstance(code, int) else 0)


def _version(ctx: click.Context, parameter: click.Parameter, asked: bool) -> None:
    if asked and not ctx.resilient_parsing:
        from importlib.metadata import version

        number = version("raftcoord")
        json_wanted = ctx.params.get("output") == "json"
        click.echo(json.dumps({"raftcoord": number}) if json_wanted else f"raftcoord {number}")
        ctx.exit()


@click.group(cls=Root, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--version", is_flag=True, expose_value=False, callback=_version, help="Show the version and exit.")
@click.option(
    "-o",
    "--output",
    type=click.Choice(["text", "json"]),
    is_eager=True,
    help="text for people, json for programs; before a command or after it.",
)
def main(output: str | None) -> None:
    """The transaction coordinator that does not forget.

    \b
    Start here:  raftcoord demo
    Then:        raftcoord up -d; raftcoord status; raftcoord down

    Exit codes: 0 committed or held, 2 wrong usage, 3 aborted, 4 in doubt, 5 unavailable, 6 a promise was broken, 1 any
    other failure, 130 Ctrl-C. Every command takes -o json.
    """
