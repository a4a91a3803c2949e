"""raftcoord participant: a SQLite participant in this process, and which state goes by a participant's name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .groups import Commands
from .options import Output, confirm, when, with_config, with_output
from .tables import Column, PrintedTable

if TYPE_CHECKING:
    from raftcoord.api.answers import ParticipantRow
    from raftcoord.config import Config


@click.group(cls=Commands)
def participant() -> None:
    """Participants: services that vote."""


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
    help="Open an account with this many cents, only the first time for a file. Repeatable.",
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


@participant.command()
@with_config
@with_output
def ls(config: Config, output: Output) -> None:
    """Participants as one node knows them, and the identity of the state that goes by each name.

    connected: how many instances are connected to that node; raftcoord status shows who is connected to each.
    """
    from raftcoord.client.synchronous import Client

    with Client.from_config(config, name="participant") as client:
        rows = client.participants()
    output.result({"participants": [row._asdict() for row in rows]}, lambda: _table(rows))


@participant.command()
@click.argument("name")
@click.option("--as", "who", required=True, metavar="NAME", help="Who does this: a name or an address.")
@click.option("--identity", help="Of the new state; without it, the one that was refused under this name.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@with_config
@with_output
def replace(name: str, who: str, identity: str | None, yes: bool, config: Config, output: Output) -> None:
    """Give up the state that participant NAME had, for good, and take the new one for it.

    The old one must be stopped, the new one running: it is refused until this is done. What the old state had prepared is lost
    with it, and is reported as damage.
    """
    from raftcoord.client.synchronous import Client

    confirm(f"give up the state that participant {name} had, for good?", yes)
    with Client.from_config(config, name="participant") as client:
        done = client.replace_participant(name, who, identity=identity)
    output.result(done, f"participant {name} is now the state {done['identity'][:8]}, in place of {done['before'][:8]}")


@participant.command()
@click.argument("name")
@click.option("--as", "who", required=True, metavar="NAME", help="Who does this: a name or an address.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@with_config
@with_output
def forget(name: str, who: str, yes: bool, config: Config, output: Output) -> None:
    """Forget which state goes by NAME, a participant that does not exist any more. The next one that comes under it is taken."""
    from raftcoord.client.synchronous import Client

    confirm(f"forget which state participant {name} has?", yes)
    with Client.from_config(config, name="participant") as client:
        done = client.forget_participant(name, who)
    output.result(done, f"participant {name} (state {done['before'][:8]}) is forgotten")


def _table(rows: list[ParticipantRow]) -> PrintedTable | str:
    if not rows:
        return "no participants"
    table = PrintedTable(
        [
            Column("name"),
            Column("state"),
            Column("since", drop=3),
            Column("bound by", drop=4, wrap=True),
            Column("connected", drop=2),
            Column("refused", drop=1, wrap=True),
        ]
    )
    for row in rows:
        by = f"{row.who}, in place of {row.before[:8]}" if row.who else "first admission" if row.identity else "-"
        since = when(row.at_ms) if row.identity else "-"
        refused = ", ".join(identity[:8] for identity in row.refused) or "-"
        table.add(row.name, row.identity[:8] or "not known", since, by, str(row.sessions), refused)
    return table
