"""How a demo, a drill or a benchmark is told while it runs, and its verdict."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import click

from .errors import BROKEN
from .options import Output, console
from .tables import Column, PrintedTable

if TYPE_CHECKING:
    from rich.status import Status

    from raftcoord.drills.report import DrillReport, Event

_PROGRESS_EVERY_S: Final = 5.0
"""Seconds between two lines of progress where the last one cannot be overwritten."""


class Teller:
    """Prints events. On a terminal progress stays on one line; elsewhere it is a line now and then; for programs nothing."""

    def __init__(self, output: Output) -> None:
        self._silent = output.as_json
        self._status: Status | None = None
        if not self._silent and sys.stdout.isatty():
            self._status = console().status("")
        self._last_progress_s = 0.0

    def __enter__(self) -> Teller:
        if self._status is not None:
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._status is not None:
            self._status.stop()

    def __call__(self, event: Event) -> None:
        """Tell ``event``."""
        if self._silent:
            return
        line = f"{event.at_s:6.1f} s  {event.text}"
        if event.kind != "progress":
            self._print(line)
        elif self._status is not None:
            self._status.update(line)
        elif event.at_s >= self._last_progress_s + _PROGRESS_EVERY_S:
            self._last_progress_s = event.at_s
            self._print(line)

    def _print(self, line: str) -> None:
        if self._status is not None:
            self._status.console.print(line, markup=False)
        else:
            click.echo(line)


def reading(output: Output) -> Callable[[str, str], None]:
    """Tells how far a node has come with reading what it has stored: on stderr, because the result goes to stdout."""

    def tell(what: str, text: str) -> None:
        node = what.removeprefix("node ")
        click.echo(json.dumps({"node": node, "reading": text}) if output.as_json else f"{what}: {text}", err=True)

    return tell


def verdict_text(held: bool, verdict: str) -> str:
    """The verdict in its colour."""
    return click.style(verdict, fg="green" if held else "red", bold=True)


def figures_text(figures: Mapping[str, Any]) -> str:
    """Figures, one a line."""
    width = max((len(name) for name in figures), default=0)
    return "\n".join(f"  {name.replace('_', ' '):<{width}}  {_figure(value)}" for name, value in figures.items())


def violations_text(violations: Sequence[Any], shown: int = 10) -> str:
    """What was broken, the first few."""
    lines = [f"  {each.kind}{f' {each.txid}' if each.txid else ''}: {each.what}" for each in violations[:shown]]
    if len(violations) > shown:
        lines.append(f"  and {len(violations) - shown} more")
    return "\n".join(lines)


def show_report(report: DrillReport, output: Output) -> int:
    """Print how a drill or a demo has ended; the exit code."""
    more = report.more
    if output.as_json:
        output.result(report.to_json(), "")
        return 0 if report.held else BROKEN
    if more.get("rows"):
        output.result({}, lambda: _cases(more["rows"]))
    untested = [click.style(f"not tested: {each}", fg="yellow") for each in more.get("not_tested", ())]
    killed = ", ".join(f"{count} x {what}" for what, count in more.get("killed", {}).items())
    parts = [
        figures_text(report.figures) if "did" not in more else "",
        *untested,
        f"  killed: {killed}" if killed else "",
        _under("What was done", more.get("did", ())),
        violations_text(report.violations),
        _under("What to try next", more.get("next_steps", ())),
        verdict_text(report.held, report.verdict),
    ]
    click.echo("\n".join(part for part in parts if part))
    return 0 if report.held else BROKEN


def _under(title: str, lines: Sequence[str]) -> str:
    return "\n".join(["", title, *(f"  {line}" for line in lines), ""]) if lines else ""


def _cases(rows: Sequence[Mapping[str, Any]]) -> PrintedTable:
    """The crash matrix."""
    table = PrintedTable(
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
    for row in rows:
        end = (row["told"], f"{row['locks_free_s']:.2f}", "yes" if row["held"] else "BROKEN")
        table.add(row["pair"], " + ".join(row["drivers"]), row["killed"], row["point"], row["outcome"], *end)
    return table


def _figure(value: object) -> str:
    return f"{value:,.3f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
