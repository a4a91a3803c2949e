"""raftcoord demo: the whole product in a minute, on a throwaway cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .options import Output, with_output


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
    from raftcoord.demos.databases import run_databases_demo
    from raftcoord.demos.demo import DemoOptions, run_demo

    from .telling import Teller, show_report

    options = DemoOptions(databases=databases, **{name: value for name, value in given.items() if value is not None})
    with Teller(output) as teller:
        report = (run_databases_demo if databases else run_demo)(options, teller)
    return show_report(report, output)
