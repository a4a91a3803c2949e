"""raftcoord bench: rates and latencies, measured from a client process over loopback."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from .groups import Commands
from .options import Function, Number, Output, with_output
from .tables import Column, PrintedTable

if TYPE_CHECKING:
    from pathlib import Path

    from raftcoord.bench.cluster import Measured
    from raftcoord.bench.databases import Compared
    from raftcoord.bench.measuring import BenchOptions, BenchReport


def with_measurement(function: Function) -> Function:
    """The options of a benchmark that keeps calls in flight."""
    for option in (
        click.option("--nodes", type=int, help="Nodes of the throwaway cluster: 1, 3, 5 or 7. [default: 3]"),
        click.option("--seconds", type=Number(0, min_open=True), help="Of each measurement. [default: 5]"),
        click.option("--in-flight", type=int, multiple=True, help="Calls at a time. Repeatable. [default: 1, 64, 512]"),
    ):
        function = option(function)
    return function


@click.group(cls=Commands)
def bench() -> None:
    """How fast it is."""


@bench.command()
@click.option(
    "-c",
    "--config",
    type=click.Path(),
    help="Measure this running cluster. Without it: a throwaway cluster on this machine.",
)
@with_measurement
@with_output
def decide(config: Path | None, output: Output, **given: Any) -> None:
    """Decisions alone, replicated and synced.

    Through the leader and, one at a time, through a follower.
    """
    from raftcoord.bench import cluster
    from raftcoord.config import Config

    if config is not None and given["nodes"] is not None:
        raise click.UsageError("--nodes is for a throwaway cluster: it goes without -c")
    running = None if config is None else Config.load(config)
    _finish(cluster.decide(_options(given), running, lambda measured: _tell(output, measured)), output)


@bench.command()
@with_measurement
@with_output
def transfer(output: Output, **given: Any) -> None:
    """Whole transactions over two SQLite banks.

    Through all nodes in turn, on a throwaway cluster.
    """
    from raftcoord.bench import cluster

    _finish(cluster.transfer(_options(given), lambda measured: _tell(output, measured)), output)


@bench.command()
@click.option(
    "--pairs", multiple=True, help="postgresql, mariadb or mixed: two servers each. Repeatable. [default: all three]"
)
@click.option("--workers", type=int, multiple=True, help="Threads that transfer. Repeatable. [default: 1, 8, 32]")
@click.option(
    "--processes", type=click.IntRange(1), help="How many processes share the threads. [default: one for each core]"
)
@click.option("--seconds", type=Number(0, min_open=True), help="Of each kind per measurement. [default: 6]")
@click.option("--nodes", type=int, help="Nodes of the throwaway cluster: 1, 3, 5 or 7. [default: 3]")
@with_output
def databases(output: Output, **given: Any) -> None:
    """Transfers between two databases, coordinated and plain.

    Real servers with their syncs on, each in a temporary directory; a throwaway cluster; all on this machine. A transfer is an
    UPDATE of an account and an INSERT of the payment, in both databases.

    plain: BEGIN, these statements, PREPARE in both, then COMMIT PREPARED in both (XA for MariaDB), as raw SQL. Nothing is
    recorded, nothing is looked up: after a crash nobody knows what became of it.

    coordinated: the same statements in `with client.transaction()`: with the marks, the proofs of prepare, and the decision
    replicated and synced by the nodes before the first commit.

    The same threads and connections (psycopg 3, PyMySQL) do both, in turns of about a second: plain, coordinated, coordinated,
    plain. ratio: coordinated transfers/s to plain ones; the range is that of single turns. Afterwards money, payments and lists
    of prepared transactions are compared with what was counted.
    """
    from raftcoord.bench import databases

    options = _options({"seconds": 6.0} | _given(given))
    report = databases.databases(options, lambda compared: output.progress(_sentence(compared)))
    output.result(report.to_json(), lambda: _databases_table(report))


@bench.command()
@click.option("--kills", type=click.IntRange(1), help="How often. [default: 20]")
@click.option("--nodes", type=int, help="3, 5 or 7. [default: 3]")
@click.option("--seed", type=int, help="Chooses the orders and the times of the kills. [default: 1]")
@with_output
def failover(output: Output, **given: Any) -> int:
    """kill -9 of the leader, again and again.

    The time from the kill to the first commit of the next leader, under load. It is audited as a drill is.
    Exit code 6: a promise was broken.
    """
    from raftcoord.bench import cluster

    from .telling import Teller, show_report

    with Teller(output) as teller:
        report = cluster.failover(**_given(given), on_event=teller)
    return show_report(report, output)


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value not in (None, ())}


def _options(options: dict[str, Any]) -> BenchOptions:
    from raftcoord.bench.measuring import BenchOptions

    return BenchOptions(**_given(options))


def _tell(output: Output, measured: Measured) -> None:
    output.progress(f"{measured.what}, {measured.in_flight} in flight: {measured.rate_per_s:,.0f}/s")


def _finish(report: BenchReport, output: Output) -> None:
    output.result(report.to_json(), lambda: _table(report))


def _table(report: BenchReport) -> PrintedTable:
    drops = {"in flight": 0, "rate/s": 0, "p50 ms": 1, "p99 ms": 2, "max ms": 3}
    table = PrintedTable([Column("what", wrap=True), *(Column(name, drop, right=True) for name, drop in drops.items())])
    for each in report.results:
        latencies = (each.latency_ms_p50, each.latency_ms_p99, each.latency_ms_max)
        table.add(each.what, str(each.in_flight), f"{each.rate_per_s:,.0f}", *(f"{ms:.2f}" for ms in latencies))
    return table


def _sentence(compared: Compared) -> str:
    plain, coordinated = compared.plain.rate_per_s, compared.coordinated.rate_per_s
    return (
        f"{compared.pair}, {compared.workers} workers: coordinated {coordinated:,.0f}/s, plain {plain:,.0f}/s, "
        f"ratio {compared.ratio:.2f}"
    )


def _databases_table(report: BenchReport) -> PrintedTable:
    drops = {"transfers/s": 0, "p50 ms": 2, "p99 ms": 3, "ratio": 1, "of single turns": 4}
    table = PrintedTable(
        [
            Column("pair"),
            Column("workers", right=True),
            Column("kind"),
            *(Column(name, drop, right=True) for name, drop in drops.items()),
        ]
    )
    for each in report.results:
        for kind, rate in (("plain", each.plain), ("coordinated", each.coordinated)):
            ratios = ("", "")
            if kind == "coordinated":
                ratios = (f"{each.ratio:.2f}", f"{each.ratio_min:.2f} to {each.ratio_max:.2f}")
            figures = (f"{rate.rate_per_s:,.0f}", f"{rate.latency_ms_p50:.2f}", f"{rate.latency_ms_p99:.2f}")
            table.add(each.pair, str(each.workers), kind, *figures, *ratios)
    return table
