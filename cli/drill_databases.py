"""raftcoord drill databases: programs, database servers, nodes and the resolver killed over real databases."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .errors import BROKEN
from .groups import Commands
from .options import Output, with_output
from .tables import Column, Listing

if TYPE_CHECKING:
    from raftcoord.drills.crashes import CrashReport


@click.group(cls=Commands)
def databases() -> None:
    """The same over real PostgreSQL, MariaDB and SQLite."""


@databases.command()
@click.option("--pair", "pairs", multiple=True, help="Such as postgresql-mariadb; may be repeated. [default: all]")
@click.option("--driver", "drivers", multiple=True, help="Such as psycopg; may be repeated. [default: all]")
@click.option("--few", is_flag=True, help="Each pair once and each driver once; servers are killed for one pair.")
@click.option(
    "--kill",
    "victims",
    multiple=True,
    type=click.Choice(["program", "server"]),
    help="What is killed; may be repeated. [default: both]",
)
@click.option("--at-a-time", "lanes", type=int, help="Programs side by side, each on its own databases. [default: 3]")
@click.option("--nodes", type=int, help="1, 3 or 5. [default: 3]")
@click.option("--keep", is_flag=True, help="Keep the files and logs also when every promise held.")
@with_output
def crashes(output: Output, **given: Any) -> int:
    """Kill a program, or a database server, at every point of a transaction.

    For every pair of databases, through each driver that is installed; what is not there is named. Both sides must be equal
    afterwards, and nothing may stay prepared or locked. Exit code 0: HELD; 6: BROKEN.
    """
    from raftcoord.drills.crashes import CrashOptions, run

    from .telling import Teller, figures_text, verdict_text

    options = CrashOptions(**{name: value for name, value in given.items() if value not in (None, ())})
    with Teller(output) as teller:
        report = run(options, teller)
    output.result(report.to_json(), lambda: _table(report))
    if not output.as_json:
        untested = [click.style(f"not tested: {each}", fg="yellow") for each in report.not_tested]
        parts = [figures_text(report.figures), *untested, *report.wrong[:10], verdict_text(report.held, report.verdict)]
        click.echo("\n".join(parts))
    return 0 if report.held else BROKEN


@databases.command()
@click.option("--transfers", type=click.IntRange(1), help="How many orders are paid. [default: 2000]")
@click.option("--workers", type=click.IntRange(1), help="Programs that pay, at a time. [default: 8]")
@click.option(
    "--orders",
    type=click.Path(dir_okay=False, path_type=Path),
    help="A file of payment orders, tab-separated, used again until there are enough; without it orders are generated.",
)
@click.option("--seed", type=int, help="Chooses the orders, the victims and the times. [default: 1]")
@click.option("--nodes", type=int, help="3 or 5. [default: 3]")
@click.option("--keep", is_flag=True, help="Keep the files and logs also when every promise held.")
@with_output
def transfers(output: Output, **given: Any) -> int:
    """Pay orders between databases while programs, nodes and the resolver are killed.

    The databases are PostgreSQL and MariaDB. Half of the commits are left to the resolver.

    Then the audit: every order is paid exactly once, on both sides, to the cent,
    and nothing is left prepared. Exit code 0: HELD; 6: BROKEN.
    """
    from raftcoord.drills.crashes_transfers import TransferOptions, run

    from .telling import Teller, figures_text, verdict_text, violations_text

    options = TransferOptions(**{name: value for name, value in given.items() if value is not None})
    with Teller(output) as teller:
        report = run(options, teller)
    killed = ", ".join(f"{count} x {what}" for what, count in report.killed.items())
    parts = [
        figures_text(report.figures),
        f"  killed: {killed}",
        violations_text(report.violations),
        verdict_text(report.held, report.verdict),
    ]
    output.result(report.to_json(), "\n".join(part for part in parts if part))
    return 0 if report.held else BROKEN


def _table(report: CrashReport) -> Listing:
    table = Listing(
        [
            Column("pair"),
            Column("drivers", drop=3, wrap=True),
            Column("killed", drop=4),
            Column("when", drop=2, wrap=True),
            Column("outcome", drop=1),
            Column("told", drop=6),
            Column("locks free s", drop=5, right=True),
            Column("held"),
        ]
    )
    for row in report.rows:
        couple, point, victim = row.case
        end = (str(row.told), f"{row.free_s:.2f}", "BROKEN" if row.wrong else "yes")
        table.add(couple.pair, str(couple), victim, str(point), row.outcome, *end)
    return table
