"""The demo on real databases: orders flow from a PostgreSQL to a MariaDB while everything that takes part is killed once.

Beside the leader these are: a program between its decision and its commits, the resolver together with another such program, and
a database server. It owes the same audit as the demo, over what stands in the two databases, and that no lock is left.
"""

from __future__ import annotations

import asyncio
import importlib.util
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from raftcoord.demos.participants import NODES_ALLOWED, DemoReport, orders_for, repeated
from raftcoord.drills import servers
from raftcoord.drills.audit import Violation
from raftcoord.drills.database_stage import CALLED, LEDGER, ORDERS, DatabaseProps, DatabaseStage
from raftcoord.drills.faults import Fault, Injected, KillLeader, Target
from raftcoord.drills.orders import ORDERS_MAX, Opening, Order, opening_for, text_of
from raftcoord.drills.play import play_with
from raftcoord.drills.programs import Program, Programs, Work
from raftcoord.drills.report import FaultRecord, OnEvent, timed, verdict_line
from raftcoord.drills.stage import Plan
from raftcoord.drills.trial import Trial
from raftcoord.errors import ConfigError
from raftcoord.types import TxId

PROGRAMS_MAX: Final = 16
SPAN_S: Final = 20.0
"""The orders fall due over so many seconds, so that each fault meets work."""

GIVE_UP_S: Final = 60.0
"""How long the last orders may take after the last fault (seconds)."""

_LEADER_HOLD_S: Final = 2.0
_HOLD_S: Final = 0.5
_CLIENTS: Final = 2
_SAFETY_NET: Final = "`raftcoord demo` needs no database, and no driver"


@dataclass(frozen=True, slots=True)
class DatabasesDemoOptions:
    """As DemoOptions. ``programs``: how many pay, an order at a time each, 2 to PROGRAMS_MAX."""

    orders: Path | None = None
    nodes: int = 3
    seed: int = 1
    count: int = 1_000
    programs: int = 4
    keep: bool = False

    def __post_init__(self) -> None:
        if self.nodes not in NODES_ALLOWED:
            raise ConfigError(f"a demo cannot run on {self.nodes} nodes; give 1, 3, 5 or 7")
        if not 1 <= self.count <= ORDERS_MAX:
            raise ConfigError(f"{self.count} orders cannot be generated; give 1 to {ORDERS_MAX}")
        if not 2 <= self.programs <= PROGRAMS_MAX:
            raise ConfigError(
                f"{self.programs} programs is out of range: two of them are killed on the way; give 2 to {PROGRAMS_MAX}"
            )


def check_possible() -> None:
    """Raise ConfigError with what to install, if the servers or the drivers are not here."""
    absent = [*servers.missing().values()]
    if not all(importlib.util.find_spec(driver) for driver in ("psycopg", "pymysql")):
        absent.append("the drivers psycopg and PyMySQL are not both installed (pip install 'raftcoord[databases]')")
    if absent:
        raise ConfigError(f"the demo on databases is not possible here: {'; '.join(absent)}. {_SAFETY_NET}")


def run_databases_demo(options: DatabasesDemoOptions, on_event: OnEvent = lambda event: None) -> DemoReport:
    """Run the demo; blocks. ``on_event`` is called as it goes on.

    ConfigError for a file of orders that cannot be read, or for servers or drivers that are missing. What was started is
    stopped, and what it stored removed, also on KeyboardInterrupt.
    """
    orders = orders_for(options.orders, options.seed, options.count)
    check_possible()
    opening = opening_for(orders)
    plan = Plan(options.nodes, {}, {}, options.seed, clients=_CLIENTS)

    async def scene(stage: DatabaseStage) -> DemoReport:
        return await _demo(stage, Trial(stage, opening, on_event), orders, opening, options)

    return timed(
        lambda: play_with(
            lambda directory: DatabaseProps(directory, plan, opening),
            lambda props: DatabaseStage(props, plan),
            scene,
            keep=lambda report: report.directory is not None,
        )
    )


class KillProgram(Fault):
    """kill -9 of a program in mid-commit: the resolver finishes what it has left, before it is started again."""

    def __init__(self, stage: DatabaseStage, programs: Programs, program: Program) -> None:
        self._stage = stage
        self._programs = programs
        self._program = program
        self._since_s = math.nan
        self._left: list[TxId] = []

    async def inject(self, target: Target) -> Injected:
        """Kill it."""
        self._left = [await self._programs.kill_in_mid_commit(self._program)]
        self._since_s = asyncio.get_running_loop().time()
        return Injected(f"kill -9 of {self._program.name} after its decision to commit, before its commits")

    async def heal(self, target: Target) -> str:
        """Its locks are free; then start it again."""
        held_s = await self._stage.freed(self._left, self._since_s)
        await self._programs.start(self._program)
        return f"the resolver committed both sides, {held_s:.2f} s after the kill; {self._program.name} started again"


class KillResolver(KillProgram):
    """kill -9 of the resolver and of a program in mid-commit: nobody is left to finish it until the resolver is back."""

    async def inject(self, target: Target) -> Injected:
        """Kill both, the resolver first."""
        await self._stage.kill_resolver()
        await super().inject(target)
        return Injected(f"kill -9 of the resolver, and of {self._program.name} before its commits")

    async def heal(self, target: Target) -> str:
        """Start the resolver; the locks are free; start the program."""
        await self._stage.start_resolver()
        self._since_s = asyncio.get_running_loop().time()
        held_s = await self._stage.freed(self._left, self._since_s)
        await self._programs.start(self._program)
        return (
            f"the resolver started again and committed both sides within {held_s:.2f} s; {self._program.name} as well"
        )


class KillServer(Fault):
    """kill -9 of a database server: what was prepared there is finished when it is back."""

    def __init__(self, stage: DatabaseStage, resource: str) -> None:
        self._stage = stage
        self._resource = resource

    async def inject(self, target: Target) -> Injected:
        """Kill it."""
        await self._stage.kill_server(self._resource)
        return Injected(f"kill -9 of the {CALLED[self._resource]} server")

    async def heal(self, target: Target) -> str:
        """Start it, and see that what was prepared there comes to its end."""
        await self._stage.start_server(self._resource)
        since_s = asyncio.get_running_loop().time()
        left = await asyncio.to_thread(self._stage.prepared, self._resource)
        came_back = f"{CALLED[self._resource]} started again"
        if not left:
            return f"{came_back}; no branch was left prepared there"
        held_s = await self._stage.freed(left, since_s)
        return f"{came_back}; the branches left prepared there, {len(left)}, were finished within {held_s:.2f} s"


def strikes(stage: DatabaseStage, programs: Programs, seed: int) -> tuple[tuple[float, Fault, float], ...]:
    """What goes wrong: what part of the orders is paid when it strikes, and for how many seconds it is held.

    An odd ``seed`` kills MariaDB, an even one PostgreSQL.
    """
    first, second = programs.programs[:2]
    return (
        (0.08, KillLeader(), _LEADER_HOLD_S),
        (0.3, KillProgram(stage, programs, first), 0.0),
        (0.5, KillResolver(stage, programs, second), _HOLD_S),
        (0.72, KillServer(stage, (LEDGER, ORDERS)[seed % 2]), _HOLD_S),
    )


async def _demo(
    stage: DatabaseStage, trial: Trial, orders: tuple[Order, ...], opening: Opening, options: DatabasesDemoOptions
) -> DemoReport:
    trial.event(
        "start",
        f"{options.nodes} nodes, a resolver, PostgreSQL with the home bank, MariaDB with {len(opening) - 1} others; "
        f"{options.programs} programs pay {len(orders)} orders",
    )
    work = Work(stage.directory, stage.config, orders, (LEDGER, ORDERS), len(orders) / SPAN_S)
    programs = Programs(work, stage.raise_programs(options.programs, work), trial.load)
    async with programs.at_work(), trial.told_progress():
        for part, fault, hold_s in strikes(stage, programs, options.seed):
            await programs.have_paid(part * len(orders), GIVE_UP_S)
            await trial.strike(fault, hold_s)
        await programs.have_paid(len(orders), GIVE_UP_S)
        for name in programs.fallen():
            trial.broken.append(Violation("program fell", None, f"{name} has ended by itself; look at its log"))
    paid_in_s = trial.now_s()
    if unpaid := programs.unpaid():
        what = f"{len(unpaid)} orders were not paid in {paid_in_s:.0f} s, the first is order {unpaid[0].order_id}"
        trial.broken.append(Violation("unpaid", None, what))
    await trial.settle()
    violations, figures, directory = await trial.judge(keep=options.keep)
    figures = {
        "orders": len(orders),
        "orders_paid": trial.load.paid,
        "orders_cents": sum(order.cents for order in orders),
        "orders_per_s": trial.load.paid / paid_in_s,
        "programs": options.programs,
        "locks_held_s_max": max(stage.locks_held_s, default=math.nan),
        **figures,
    }
    held = not violations
    verdict = verdict_line("demo --databases", held, violations, figures)
    did = _did(figures, trial.faults, options) if held else ()
    return DemoReport(held, verdict, violations, trial.faults, figures, did, _NEXT_STEPS, directory)


def _did(
    figures: Mapping[str, int | float], faults: list[FaultRecord], options: DatabasesDemoOptions
) -> tuple[str, ...]:
    return (
        f"started {options.nodes} nodes, a resolver, a PostgreSQL and a MariaDB in directories of their own, and opened "
        f"{figures['accounts']:,} accounts",
        f"{options.programs} programs, processes of their own, paid {figures['orders_paid']:,} orders, "
        f"{text_of(int(figures['moved_cents']))} in all, each exactly once" + repeated(figures),
        *(f"{fault.at_s:.1f} s: {fault.what}; {fault.healed}" for fault in faults),
        f"the longest pause without a commit was {figures['longest_pause_s']:.2f} s; the longest time that a lock was held "
        f"after whoever could free it was back was {figures['locks_held_s_max']:.2f} s",
        f"asked each of the {options.nodes} nodes for every outcome, compared both sides of every order with it, and counted "
        f"the money: {text_of(int(figures['opening_cents']))} before and after; nothing is prepared in either database",
    )


_NEXT_STEPS: Final = (
    "raftcoord demo --databases --seed 2     # other orders, and the PostgreSQL server is killed",
    "raftcoord resource init --help          # your own databases; docs/databases.md tells how",
    "raftcoord drill run kill-all",
)
