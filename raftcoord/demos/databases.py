"""The demo on real databases: orders flow from a PostgreSQL to a MariaDB while everything that takes part is killed once.

Beside the leader these are: a program between its decision and its commits, the resolver together with another such program, and
a database server. It owes the same audit as the demo, over what stands in the two databases, and that no lock is left.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Final

from raftcoord.demos.demo import DemoOptions, faults_of, judged, orders_for, paid
from raftcoord.drills.audit import AuditViolation
from raftcoord.drills.database_faults import (
    LEDGER,
    ORDERS,
    kill_in_mid_commit,
    kill_resolver_in_mid_commit,
    kill_server,
    two_databases,
)
from raftcoord.drills.faults import Fault, kill_leader
from raftcoord.drills.orders import Order, opening_for, text_of
from raftcoord.drills.paying_programs import PayingPrograms, PayingWork
from raftcoord.drills.props import StagePlan
from raftcoord.drills.report import DrillReport, OnEvent
from raftcoord.drills.trial import Trial, tried
from raftcoord.errors import ConfigError
from raftcoord.processes import database_servers as servers

COUNT: Final = 1_000
PROGRAMS: Final = 4
SPAN_S: Final = 20.0
"""The orders fall due over so many seconds, so that each fault meets work."""

GIVE_UP_S: Final = 60.0
"""How long the last orders may take after the last fault (seconds)."""

_LEADER_HOLD_S: Final = 2.0
_HOLD_S: Final = 0.5
_CLIENTS: Final = 2
_SAFETY_NET: Final = "`raftcoord demo` needs no database, and no driver"


def check_possible() -> None:
    """Raise ConfigError with what to install, if the servers or the drivers are not here."""
    absent = [*servers.missing().values()]
    if not all(importlib.util.find_spec(driver) for driver in ("psycopg", "pymysql")):
        absent.append("the drivers psycopg and PyMySQL are not both installed (pip install 'raftcoord[databases]')")
    if absent:
        raise ConfigError(f"the demo on databases is not possible here: {'; '.join(absent)}. {_SAFETY_NET}")


def run_databases_demo(options: DemoOptions, on_event: OnEvent = lambda event: None) -> DrillReport:
    """Run the demo; blocks. ``on_event`` is called as it goes on.

    ConfigError for a file of orders that cannot be read, or for servers or drivers that are missing. What was started is
    stopped, and what it stored removed, also on KeyboardInterrupt.
    """
    orders = orders_for(options, COUNT)
    check_possible()
    opening = opening_for(orders)
    plan = StagePlan(options.nodes, options.seed, databases=two_databases(opening), clients=_CLIENTS)
    return tried(plan, opening, on_event, lambda trial: _demo(trial, orders, options, len(opening)))


def strikes(programs: PayingPrograms, seed: int) -> tuple[tuple[float, Fault, float], ...]:
    """What goes wrong: what part of the orders is paid when it strikes, and for how many seconds it is held.

    An odd ``seed`` kills MariaDB, an even one PostgreSQL.
    """
    first, second = programs.programs[:2]
    return (
        (0.08, kill_leader, _LEADER_HOLD_S),
        (0.3, partial(kill_in_mid_commit, programs, first), 0.0),
        (0.5, partial(kill_resolver_in_mid_commit, programs, second), _HOLD_S),
        (0.72, partial(kill_server, ("postgresql", "mariadb")[seed % 2]), _HOLD_S),
    )


async def _demo(trial: Trial, orders: tuple[Order, ...], options: DemoOptions, banks: int) -> DrillReport:
    stage, nodes, count = trial.stage, options.nodes, options.in_flight or PROGRAMS
    trial.event(
        "start",
        f"{nodes} nodes, a resolver, PostgreSQL with the home bank, MariaDB with {banks - 1} others; "
        f"{count} programs pay {len(orders)} orders",
    )
    work = PayingWork(stage.directory, stage.config, orders, (LEDGER, ORDERS), len(orders) / SPAN_S)
    programs = PayingPrograms(work, stage.raise_programs(count, work), trial.load)
    async with programs.at_work(), trial.told_progress():
        for part, fault, hold_s in strikes(programs, options.seed):
            await programs.have_paid(part * len(orders), GIVE_UP_S)
            await trial.strike(fault, hold_s)
        await programs.have_paid(len(orders), GIVE_UP_S)
        trial.broken += (AuditViolation("program fell", None, fallen) for fallen in programs.fallen())

    def did(figures: Mapping[str, int | float]) -> tuple[str, ...]:
        return (
            f"started {nodes} nodes, a resolver, a PostgreSQL and a MariaDB in directories of their own, and opened "
            f"{figures['accounts']:,} accounts",
            f"{count} programs, processes of their own, {paid(figures)}",
            *faults_of(trial),
            f"the longest pause without a commit was {figures['longest_pause_s']:.2f} s; the longest time that a lock was "
            f"held after the process that could free it was back was {max(stage.locks_held_s, default=math.nan):.2f} s",
            f"asked each of the {nodes} nodes for every outcome, compared both sides of every order with it, and counted "
            f"the money: {text_of(int(figures['opening_cents']))} before and after; nothing is prepared in either database",
        )

    report = await judged(trial, "demo --databases", orders, programs.unpaid(), options, did, _NEXT_STEPS)
    return replace(report, figures={**report.figures, "programs": count})


_NEXT_STEPS: Final = (
    "raftcoord demo --databases --seed 2     # other orders, and the PostgreSQL server is killed",
    "raftcoord resource init --help          # your own databases; docs/databases.md tells how",
    "raftcoord drill run kill-all",
)
