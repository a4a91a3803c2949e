"""raftcoord participant run: a SQLite participant in this process."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .options import Output, with_config, with_output

if TYPE_CHECKING:
    from raftcoord.config import Config


@click.group()
def participant() -> None:
    """Run a participant."""


@participant.command()
@click.option(
    "--name", required=True, help="The participant's name, which is the name of its branches: a-z, 0-9 and '-'."
)
@click.option(
    "--db", required=True, type=click.Path(dir_okay=False, path_type=Path), help="Its SQLite file; made if absent."
)
@click.option(
    "--open",
    "accounts",
    multiple=True,
    metavar="KEY=AMOUNT",
    help="Open an account with so many cents, only the first time for a file. Repeatable.",
)
@with_config
@with_output
def run(name: str, db: Path, accounts: tuple[str, ...], config: Config, output: Output) -> None:
    """Run the SQLite participant NAME on a file until Ctrl-C. It keeps accounts, and dials in to every node.

    Its operations: {"op": "add", "key": "alice", "amount": -10, "min": 0}, set, delete, expect. Amounts are integers (cents).
    """
    from raftcoord.participants.serve import accounts_of, serve_accounts

    opened = accounts_of(accounts)
    serve_accounts(db, name, config, opened, lambda ready: output.line({"participant": name, "ready": True}, ready))
