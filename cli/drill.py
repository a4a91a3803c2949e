"""raftcoord drill: real faults under load, then the audit."""

from __future__ import annotations

from typing import Any

import click

from .drill_databases import databases
from .errors import BROKEN
from .groups import Commands
from .options import Number, Output, with_output


@click.group(cls=Commands)
def drill() -> None:
    """Real faults under load, then an audit and a verdict."""


drill.add_command(databases)


@drill.command()
@with_output
def ls(output: Output) -> None:
    """The drills there are."""
    from raftcoord.drills.catalog import DRILLS

    drills = [{"name": name, "summary": drill.summary} for name, drill in DRILLS.items()]
    width = max(len(each["name"]) for each in drills)
    lines = [f"{each['name']:<{width}}  {each['summary']}" for each in drills]
    more = "Over PostgreSQL, MariaDB and SQLite: raftcoord drill databases crashes, raftcoord drill databases transfers"
    output.result({"drills": drills}, "\n".join([*lines, "", more]))


def _complete(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    from raftcoord.drills.catalog import DRILLS

    return [name for name in DRILLS if name.startswith(incomplete)]


@drill.command()
@click.argument("name", shell_complete=_complete)
@click.option("--duration", "duration_s", type=Number(1), help="Seconds in which faults are made. [default: 15]")
@click.option("--rounds", type=click.IntRange(1), help="This many faults, instead of a duration.")
@click.option("--rate", type=Number(0, min_open=True), help="Orders per second. [default: 200]")
@click.option("--seed", type=int, help="Chooses the orders and the times of the faults. [default: 1]")
@click.option("--nodes", type=int, help="3, 5 or 7. [default: 3]")
@click.option("--keep", is_flag=True, default=None, help="Keep the files and logs also when every promise held.")
@with_output
def run(name: str, output: Output, **given: Any) -> int:
    """Run the drill NAME on a throwaway cluster.

    raftcoord drill ls shows the names. Exit code 0: HELD; 6: BROKEN, and the verdict names the transaction."""
    from raftcoord.drills import runner

    from .telling import Teller, figures_text, verdict_text, violations_text

    options = runner.DrillOptions(**{name: value for name, value in given.items() if value is not None})
    with Teller(output) as teller:
        report = runner.run(name, options, teller)
    parts = [
        figures_text(report.figures),
        violations_text(report.violations),
        verdict_text(report.held, report.verdict),
    ]
    output.result(report.to_json(), "\n".join(part for part in parts if part))
    return 0 if report.held else BROKEN
