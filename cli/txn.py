"""raftcoord txn: what the ledger holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import click

from .damages import acknowledge_all, damage_json, damage_text, list_damages
from .errors import ABORTED
from .groups import Commands
from .options import Number, Output, when, with_config, with_output
from .tables import Column, PrintedTable

if TYPE_CHECKING:
    from raftcoord.config import Config

_LINE_MAX: Final = 5_000
"""Characters of a line about a transaction: 64 branches have long names."""


@click.group(cls=Commands)
def txn() -> None:
    """Transactions that are recorded."""


@txn.command()
@click.option(
    "--state", type=click.Choice(["committed", "aborted", "open"]), help="open: a branch has not acknowledged yet."
)
@click.option("--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="How many, newest first.")
@click.option("--before", help="Only those older than this txid, to page on.")
@click.option("--heuristic", is_flag=True, help="Damaged branches instead; first what nobody has acknowledged.")
@with_config
@with_output
def ls(state: str | None, limit: int, before: str | None, heuristic: bool, config: Config, output: Output) -> None:
    """Recorded transactions, newest first.

    --heuristic: branches that were finished by somebody else, against what the ledger says. They stay listed until somebody
    has acknowledged them and they are older than the horizon.
    """
    from raftcoord.client.synchronous import Client

    if heuristic:
        if state is not None or before is not None:
            raise click.UsageError("--heuristic lists damaged branches: it goes without --state and --before")
        list_damages(limit, config, output)
        return
    with Client.from_config(config, name="txn") as client:
        rows = client.transactions(state, limit=limit, before=before)
    output.result({"transactions": [_json(row) for row in rows]}, lambda: _table(rows))


@txn.command()
@click.argument("txid")
@with_config
@with_output
def show(txid: str, config: Config, output: Output) -> int:
    """One transaction: its outcome, the reason, and which branches are still open."""
    from raftcoord.client.synchronous import Client
    from raftcoord.types import State

    with Client.from_config(config, name="txn") as client:
        row = client.show(txid)
        damages = client.damages(txid).shown
        answer = client.status(txid) if row is None else None
    damaged = {"damages": [damage_json(damage) for damage in damages]} if damages else {}
    below = "".join(f"\n{'damage':>12}  {damage_text(damage)}" for damage in damages)
    if row is not None:
        shown = "\n".join(f"{name:>12}  {_safe(value)}" for name, value in _shown(row).items())
        output.result({**_json(row), **damaged}, shown + below)
        return 0
    assert answer is not None
    unknown = "older than the horizon and finished" if answer.state is State.FORGOTTEN else "no outcome is recorded"
    output.result(
        {"txid": str(answer.txid), "state": str(answer.state), "term": answer.term, "index": answer.index, **damaged},
        f"{answer.state} {answer.txid} as of term {answer.term}, index {answer.index}: {unknown}{below}",
    )
    return 0


@txn.command()
@click.argument("txid")
@click.option("--timeout", type=Number(0.001, 600), default=10.0, show_default=True, help="Seconds.")
@with_config
@with_output
def resolve(txid: str, timeout: float, config: Config, output: Output) -> int:
    """Learn the final outcome of a transaction; one that is undecided is aborted.

    An abort is for good: the program that ran the transaction can no longer commit it.

    Exit code 0: committed, or forgotten; 3: aborted; 4: still not known, ask again.
    """
    from raftcoord.client.synchronous import Client
    from raftcoord.types import State

    with Client.from_config(config, name="txn") as client:
        answer = client.resolve(txid, timeout=timeout)
    value = {
        "txid": str(answer.txid),
        "state": str(answer.state),
        "reason": answer.reason,
        "term": answer.term,
        "index": answer.index,
    }
    why = f": {_safe(answer.reason)}" if answer.reason else ""
    output.result(value, f"{answer.state} {answer.txid} (term {answer.term}, index {answer.index}){why}")
    return ABORTED if answer.state is State.ABORTED else 0


@txn.command()
@click.argument("txid", required=False)
@click.argument("branch", required=False)
@click.option("--as", "who", required=True, metavar="NAME", help="Who has dealt with it: a name or an address.")
@click.option("--all", "every", is_flag=True, help="All damage that nobody has acknowledged, up to the newest now.")
@click.option("--of", metavar="BRANCH", help="With --all: of this branch alone.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@with_config
@with_output
def acknowledge(
    txid: str | None,
    branch: str | None,
    who: str,
    every: bool,
    of: str | None,
    yes: bool,
    config: Config,
    output: Output,
) -> None:
    """Record that somebody has dealt with a damaged branch.

    The branch is BRANCH of transaction TXID; or --all. The ledger then waits for it no longer. The damage stays listed under
    that name until it is older than the horizon.
    """
    from raftcoord.client.synchronous import Client

    if every:
        if txid is not None:
            raise click.UsageError("--all is for all damage: it goes without TXID and BRANCH")
        acknowledge_all(who, of, yes, config, output)
        return
    if txid is None or branch is None or of is not None:
        raise click.UsageError("give TXID and BRANCH, or --all, perhaps with --of BRANCH")
    with Client.from_config(config, name="txn") as client:
        damage = client.acknowledge(txid, branch, who)
    first = "" if damage.acknowledged_by == who else f", who came first; {who} is not recorded"
    output.result(damage_json(damage), f"acknowledged by {_safe(damage.acknowledged_by)}{first}: {damage_text(damage)}")


def _safe(text: str) -> str:
    """On one line, and without what steers a terminal: anybody may have written it."""
    from raftcoord.foreign import shown

    return shown(text, _LINE_MAX)


@txn.command()
@click.argument("branch")
@click.argument("txid", required=False)
@click.option("--as", "who", required=True, metavar="NAME", help="Who does this: a name or an address.")
@click.option("--why", required=True, help="Why it will never come back: a sentence.")
@click.option("--all", "every", is_flag=True, help="In every open COMMIT, in place of TXID.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@with_config
@with_output
def close(
    branch: str, txid: str | None, who: str, why: str, every: bool, yes: bool, config: Config, output: Output
) -> None:
    """Give up waiting for BRANCH, which will never come back.

    The branch is one of the COMMIT TXID; or of every COMMIT that waits for it, with --all. The outcome is not changed and is
    never forgotten: if the branch comes back all the same, it hears COMMIT.
    """
    from .closing import close_all, close_one

    if every == (txid is not None):
        raise click.UsageError("give either TXID or --all")
    if txid is not None:
        close_one(txid, branch, who, why, config, output)
    else:
        close_all(branch, who, why, yes, config, output)


def _json(row: Mapping[str, Any]) -> dict[str, Any]:
    return {**row, "txid": str(row["txid"]), "state": str(row["state"])}


def _shown(row: Mapping[str, Any]) -> dict[str, str]:
    shown = {
        "txid": str(row["txid"]),
        "state": str(row["state"]),
        "decided": when(row["at_ms"]),
        "branches": ", ".join(row["branches"]) or "-",
        "outstanding": ", ".join(row["outstanding"]) or "none",
        "reason": row["reason"] or "-",
        "because of": row["branch"] or "-",
        "term, index": f"{row['term']}, {row['index']}",
    }
    if row.get("closed"):
        shown["closed"] = "; ".join(
            f"{closing['branch']} by {closing['who']} at {when(closing['at_ms'])}: {closing['why']}"
            for closing in row["closed"]
        )
    running = row.get("running")
    return {**shown, "running": ", ".join(f"{name}: {phase}" for name, phase in running.items())} if running else shown


def _table(rows: list[Any]) -> PrintedTable | str:
    if not rows:
        return "no transactions"
    table = PrintedTable(
        [
            Column("txid"),
            Column("state"),
            Column("decided", drop=3),
            Column("branches", drop=4, wrap=True),
            Column("outstanding", drop=2, wrap=True),
            Column("reason", drop=1, wrap=True),
        ]
    )
    for row in rows:
        lists = (", ".join(row["branches"]) or "-", ", ".join(row["outstanding"]) or "-")
        style = "dim" if str(row["state"]) == "ABORTED" else ""
        table.add(str(row["txid"]), str(row["state"]), when(row["at_ms"]), *lists, _because(row), style=style)
    return table


def _because(row: Mapping[str, Any]) -> str:
    """Why it was aborted, and which branch was the cause."""
    by = f"{row['branch']}: " if row["branch"] and row["reason"] else ""
    return _safe(f"{by}{row['reason']}")
