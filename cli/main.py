"""The root command, and how every command ends: an exit code, and for an error one sentence.

Owed: no traceback, whatever happens (RAFTCOORD_TRACEBACK=1 asks for it); with ``-o json`` the error is JSON on stdout.
A command is imported when it is called, so that ``raftcoord --help`` answers at once.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any, Final, NoReturn

import click

from .errors import INTERRUPTED, report, report_usage, wants_json

_COMMANDS: Final = {
    "demo": (".demo", "A throwaway cluster: transfers, kill -9 of the leader, an audit, a verdict."),
    "up": (".cluster", "Start the nodes of cluster.yaml on this machine, and a resolver if it names resources."),
    "down": (".cluster", "Stop what was started by up."),
    "status": (".status", "Each node: its role, its term, what it has applied, who is connected."),
    "top": (".status", "The same, live."),
    "node": (".node", "One node: start, stop, kill, pause, resume, logs, run."),
    "participant": (".participant", "Run a SQLite participant."),
    "submit": (".submit", "Run one transaction, read from a JSON file or standard input."),
    "txn": (".txn", "Transactions: ls, show, resolve, acknowledge."),
    "resource": (".resource", "The databases of cluster.yaml: init, ls."),
    "resolver": (".resolver", "Finish what crashed programs leave prepared in databases: run."),
    "doctor": (".doctor", "What is wrong with nodes, databases, clocks and disks, and what mends it."),
    "drill": (".drill", "Real faults under load, then an audit and a verdict."),
    "sim": (".sim", "The real code on a virtual clock, with faults from a seed: run, replay, faults."),
    "bench": (".bench", "How fast: decide, transfer, databases, failover."),
}


class Root(click.Group):
    """The group of all commands."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands in the order in which one meets them."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported now."""
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(_COMMANDS[cmd_name][0], __package__)
        command: click.Command = getattr(module, cmd_name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in _COMMANDS.items()])

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
        except (click.Abort, KeyboardInterrupt):
            sys.exit(INTERRUPTED)
        except Exception as error:  # the last line of defence: whatever it is, one sentence
            sys.exit(report(error, as_json))
        sys.exit(code if isinstance(code, int) else 0)


@click.group(cls=Root, context_settings={"help_option_names": ["-h", "--help"]}, no_args_is_help=True)
@click.version_option(package_name="raftcoord", message="%(prog)s %(version)s")
def main() -> None:
    """The transaction coordinator that does not forget.

    \b
    Start here:  raftcoord demo
    Then:        raftcoord up -d; raftcoord status; raftcoord down

    Exit codes: 0 committed or held, 2 wrong usage, 3 aborted, 4 in doubt, 5 unavailable, 6 a promise was broken, 1 any
    other failure, 130 Ctrl-C. Every command takes -o json.
    """
