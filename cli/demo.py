"""raftcoord demo: the whole product in a minute, on a throwaway cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .errors import BROKEN
from .options import Output, with_output


@click.command()
@click.option(
    "--orders",
    type=click.Path(dir_okay=False, path_type=Path),
    help="A file of payment orders, tab-separated; without it orders are generated.",
)
@click.option("--nodes", type=int, help="1, 3, 5 or 7. [default: 3]")
@click.option("--count", type=click.IntRange(1), help="How many orders are generated. [default: 1500]")
@click.option("--seed", type=int, help="Generates the orders. [default: 1]")
@click.option("--in-flight", type=click.IntRange(1), help="Orders at a time. [default: 64]")
@click.option("--keep", is_flag=True, default=None, help="Keep the files and logs also when every promise held.")
@with_output
def demo(output: Output, **given: Any) -> int:
    """A throwaway cluster, several banks, payment orders, kill -9 of the leader and of a bank, an audit, a verdict.

    It asks nothing and leaves nothing behind. Exit code 0: every promise held; 6: one was broken.
    """
    from raftcoord.drills.demo import DemoOptions, run_demo

    from .telling import Teller, verdict_text, violations_text

    options = DemoOptions(**{name: value for name, value in given.items() if value is not None})
    with Teller(output) as teller:
        report = run_demo(options, teller)
    parts = [
        "\n".join(["", "What was done", *(f"  {line}" for line in report.did)]) if report.did else "",
        violations_text(report.violations),
        "\n".join(["What to try next", *(f"  {line}" for line in report.next_steps)]),
        verdict_text(report.held, report.verdict),
    ]
    output.result(report.to_json(), "\n\n".join(part for part in parts if part))
    return 0 if report.held else BROKEN
