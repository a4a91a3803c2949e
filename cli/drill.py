"""raftcoord drill: real faults under load, then the audit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click

from .groups import Commands
from .options import Function, Number, Output, with_output

_SEED: Final = click.option("--seed", type=int, help="Chooses the orders, the victims and the times. [default: 1]")
_NODES: Final = click.option("--nodes", type=int, help="3, 5 or 7; of databases-crash-matrix also 1. [default: 3]")
_KEEP: Final = click.option("--keep", is_flag=True, help="Keep the files and logs also when every promise held.")
_FAULTS: Final = (
    click.option("--duration", "duration_s", type=Number(1), help="Seconds in which faults are made. [default: 15]"),
    click.option("--rounds", type=click.IntRange(1), help="This many faults, instead of a duration."),
    click.option("--rate", type=Number(0, min_open=True), help="Orders per second. [default: 200]"),
)
_TRANSFERS: Final = (
    click.option("--transfers", type=click.IntRange(1), help="How many orders are paid. [default: 2000]"),
    click.option("--workers", type=click.IntRange(1), help="Programs that pay, at a time. [default: 8]"),
    click.option(
        "--orders",
        type=click.Path(dir_okay=False, path_type=Path),
        help="A file of payment orders, tab-separated, used again until there are enough; without it orders are generated.",
    ),
)
_CRASHES: Final = (
    click.option("--pair", "pairs", multiple=True, help="Such as postgresql-mariadb; may be repeated. [default: all]"),
    click.option("--driver", "drivers", multiple=True, help="Such as psycopg; may be repeated. [default: all]"),
    click.option("--few", is_flag=True, help="Each pair once and each driver once; servers are killed for one pair."),
    click.option(
        "--kill",
        "victims",
        multiple=True,
        type=click.Choice(["program", "server"]),
        help="What is killed; may be repeated. [default: both]",
    ),
    click.option(
        "--at-a-time", "lanes", type=int, help="Programs side by side, each on its own databases. [default: 3]"
    ),
)


def _with(*options: Callable[[Function], Function]) -> Callable[[Function], Function]:
    def decorate(function: Function) -> Function:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


@click.group(cls=Commands)
def drill() -> None:
    """Real faults under load, then an audit and a verdict."""


@drill.command()
@with_output
def ls(output: Output) -> None:
    """The drills there are."""
    from raftcoord.drills.catalog import DRILLS
    from raftcoord.drills.options import FLAGS

    drills = [
        {
            "name": name,
            "summary": drill.summary,
            "options": [flag for option, flag in FLAGS.items() if option in drill.takes],
        }
        for name, drill in DRILLS.items()
    ]
    width = max(map(len, DRILLS))
    output.result({"drills": drills}, "\n".join(f"{each['name']:<{width}}  {each['summary']}" for each in drills))


def _complete(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    from raftcoord.drills.catalog import DRILLS

    return [name for name in DRILLS if name.startswith(incomplete)]


@drill.command()
@click.argument("name", shell_complete=_complete)
@_with(*_FAULTS, *_TRANSFERS, *_CRASHES, _SEED, _NODES, _KEEP)
@with_output
def run(name: str, output: Output, **given: Any) -> int:
    """Run the drill NAME on a throwaway cluster.

    raftcoord drill ls shows the names. Not every drill takes every option: --duration, --rounds and --rate are of those that make
    faults under load, --transfers, --workers, --orders and --duration of databases-transfers, the others of
    databases-crash-matrix. Exit code 0: HELD; 6: BROKEN, and the verdict names the transaction."""
    return _run(name, output, given)


@drill.group(cls=Commands)
def databases() -> None:
    """The drills over real PostgreSQL, MariaDB and SQLite."""


@databases.command()
@_with(*_CRASHES, _NODES, _KEEP)
@with_output
def crashes(output: Output, **given: Any) -> int:
    """Kill a program, or a database server, at every point of a transaction.

    The drill databases-crash-matrix. For every pair of databases, through each driver that is installed; what is not there is
    named. Both sides must be equal afterwards, and nothing may stay prepared or locked. Exit code 0: HELD; 6: BROKEN.
    """
    return _run("databases-crash-matrix", output, given)


@databases.command()
@_with(*_TRANSFERS, _SEED, _NODES, _KEEP)
@with_output
def transfers(output: Output, **given: Any) -> int:
    """Pay orders between databases while programs, nodes and the resolver are killed.

    The drill databases-transfers. The databases are PostgreSQL and MariaDB. Half of the commits are left to the resolver.

    Then the audit: every order is paid exactly once, on both sides, to the cent,
    and nothing is left prepared. Exit code 0: HELD; 6: BROKEN.
    """
    return _run("databases-transfers", output, given)


def _run(name: str, output: Output, given: dict[str, Any]) -> int:
    from raftcoord.drills import catalog
    from raftcoord.drills.options import DrillOptions

    from .telling import Teller, show_report

    options = DrillOptions(**{name: value for name, value in given.items() if value not in (None, ())})
    with Teller(output) as teller:
        report = catalog.run(name, options, teller)
    return show_report(report, output)
