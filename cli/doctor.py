"""raftcoord doctor: what is wrong, and the command that fixes it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click

from .errors import BROKEN, UNAVAILABLE, USAGE
from .options import Output, with_config, with_output

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

    from raftcoord.config import Config
    from raftcoord.doctor.findings import DoctorReport, Row

_STYLES: Final = {"OK": "green", "NOTE": "cyan", "WARNING": "yellow", "ERROR": "bold red"}


@click.command()
@with_config
@with_output
def doctor(config: Config, output: Output) -> int:
    """Say what is wrong with nodes, databases, clocks and disks, and how to fix it.

    It looks at every node and resource of cluster.yaml, and changes nothing.

    Run it on each machine that has a node: data directories are looked at where they are. It takes 15 s at most.

    \b
    Exit code: 0  no errors; there may be warnings
               2  something is set up wrongly, or nobody finishes a prepared
                  branch
               5  a node or a resource cannot be reached, or there is no leader
               6  a branch is damaged, and nobody has acknowledged it
    """
    from raftcoord.doctor.examine import examine
    from raftcoord.doctor.findings import DAMAGE, LEADER, REACHABLE, Severity

    def tell(text: str) -> None:
        if not output.as_json:
            click.echo(text, err=True)

    report = examine(config, tell)
    counted = {verdict.name.lower(): report.count(verdict) for verdict in Severity}
    rows = [row.to_json() for rows in report.by_subject().values() for row in rows]
    output.result({"cluster": config.cluster, "rows": rows, "counted": counted}, lambda: _shown(report))
    if report.fails(DAMAGE):
        return BROKEN
    if report.fails(REACHABLE, LEADER):
        return UNAVAILABLE
    return USAGE if report.fails() else 0


def _shown(report: DoctorReport) -> Group:
    from rich.console import Group
    from rich.text import Text

    from raftcoord.doctor.findings import Severity
    from raftcoord.errors import check

    parts: list[Text | Table] = []
    for subject, rows in report.by_subject().items():
        parts += [Text(subject, style="bold"), _table(rows)]
    counted = {verdict.name: report.count(verdict) for verdict in Severity}
    check(sum(counted.values()) == len(report.rows), f"{len(report.rows)} checks are not {counted}")
    last = (
        f"{len(report.rows)} checks: {', '.join(f'{count} {_counted(name, count)}' for name, count in counted.items())}"
    )
    style = next(name for name in ("ERROR", "WARNING", "OK") if counted[name] or name == "OK")
    return Group(*parts, Text(last, style=_STYLES[style]))


def _counted(name: str, count: int) -> str:
    return name.lower() if name == "OK" or count == 1 else f"{name.lower()}s"


def _table(rows: list[Row]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(min_width=9, no_wrap=True)
    table.add_column(min_width=14, no_wrap=True)
    table.add_column(overflow="fold")
    for row in rows:
        style = _STYLES[row.verdict.name]
        table.add_row(Text(f"  {row.verdict.name.lower()}", style=style), row.check, Text(row.what))
        if row.mend:
            table.add_row("", "", Text(f"to fix it: {row.mend}", style="bold"))
    return table
