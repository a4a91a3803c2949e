"""raftcoord demo: the whole product in a minute, on a throwaway cluster."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .errors import BROKEN
from .options import Output, with_output

if TYPE_CHECKING:
    from raftcoord.demos.participants import DemoReport
    from raftcoord.drills.report import OnEvent


@click.command()
@click.option(
    "--orders",
    type=click.Path(dir_okay=False, path_type=Path),
    help="A file of payment orders, tab-separated; without it orders are generated.",
)
@click.option("--nodes", type=int, help="1, 3, 5 or 7. [default: 3]")
@click.option(
    "--databases", is_flag=True, help="On a real PostgreSQL and a real MariaDB, each in a temporary directory."
)
@click.option(
    "--count", type=click.IntRange(1), help="How many orders are generated. [default: 1500; --databases: 1000]"
)
@click.option("--seed", type=int, help="Generates the orders. [default: 1]")
@click.option("--in-flight", type=click.IntRange(1), help="Orders at a time. [default: 64; --databases: 4 programs]")
@click.option("--keep", is_flag=True, default=None, help="Keep the files and logs also when every promise held.")
@with_output
def demo(output: Output, databases: bool, **given: Any) -> int:
    """A throwaway cluster that is killed under load, then an audit and a verdict.

    Payment orders between several banks go on while the leader and a bank are killed with kill -9.

    With --databases programs pay from one server to the other, and a program in mid-commit, the resolver and a server are
    killed as well.

    It asks nothing and leaves nothing behind. Exit code 0: every promise held; 6: one was broken.
    """
    from .telling import Teller, verdict_text, violations_text

    run = _demo_on_databases if databases else _demo
    with Teller(output) as teller:
        report = run({name: value for name, value in given.items() if value is not None}, teller)
    parts = [
        "\n".join(["", "What was done", *(f"  {line}" for line in report.did)]) if report.did else "",
        violations_text(report.violations),
        "\n".join(["What to try next", *(f"  {line}" for line in report.next_steps)]),
        verdict_text(report.held, report.verdict),
    ]
    output.result(report.to_json(), "\n\n".join(part for part in parts if part))
    return 0 if report.held else BROKEN


def _demo(given: dict[str, Any], on_event: OnEvent) -> DemoReport:
    from raftcoord.demos.participants import DemoOptions, run_demo

    return run_demo(DemoOptions(**given), on_event)


def _demo_on_databases(given: dict[str, Any], on_event: OnEvent) -> DemoReport:
    from raftcoord.demos.databases import DatabasesDemoOptions, run_databases_demo

    if "in_flight" in given:
        given["programs"] = given.pop("in_flight")
    return run_databases_demo(DatabasesDemoOptions(**given), on_event)
