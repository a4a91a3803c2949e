"""Runs a drill: a cluster under load, the fault of the catalog again and again at seeded times, then the verdict."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from typing import Final

from raftcoord.drills.catalog import Drill, drill_named
from raftcoord.drills.orders import Generated
from raftcoord.drills.play import play
from raftcoord.drills.report import DrillReport, OnEvent, timed
from raftcoord.drills.stage import Plan, Stage, host_banks
from raftcoord.drills.trial import Trial
from raftcoord.errors import ConfigError

IN_FLIGHT_MAX: Final = 256
"""Transactions that the load holds open; an order beyond it is held back, as a client with a bounded pool would."""

DURATION_S_MAX: Final = 24 * 3600.0
RATE_MAX: Final = 20_000.0
ROUNDS_MAX: Final = 10_000
NODES_ALLOWED: Final = (3, 5, 7)
_BANKS: Final = 3
_ACCOUNTS: Final = 500
_EMPTY_EVERY: Final = 20


@dataclass(frozen=True, slots=True)
class DrillOptions:
    """``duration_s``: how long faults are injected, 1 to DURATION_S_MAX; ``rate``: orders per second, 0.1 to RATE_MAX.

    ``seed``: of orders, victims and times; ``nodes``: one of NODES_ALLOWED; ``keep``: keep the files; ``rounds``: so many
    faults (1 to ROUNDS_MAX) instead of a duration, None: as the drill has it; ``node_module``: see Plan. ConfigError otherwise.
    """

    duration_s: float = 15.0
    rate: float = 200.0
    seed: int = 1
    nodes: int = 3
    keep: bool = False
    rounds: int | None = None
    node_module: str = "raftcoord.node"

    def __post_init__(self) -> None:
        if not 1 <= self.duration_s <= DURATION_S_MAX:
            raise ConfigError(
                f"a duration of {self.duration_s:g} s is out of range; give 1 to {DURATION_S_MAX:g} seconds"
            )
        if not 0.1 <= self.rate <= RATE_MAX:
            raise ConfigError(f"{self.rate:g} orders per second is out of range; give 0.1 to {RATE_MAX:g}")
        if self.nodes not in NODES_ALLOWED:
            raise ConfigError(f"a drill cannot run on {self.nodes} nodes; give 3, 5 or 7, so that one may be lost")
        if self.rounds is not None and not 1 <= self.rounds <= ROUNDS_MAX:
            raise ConfigError(f"{self.rounds} rounds is out of range; give 1 to {ROUNDS_MAX}")


def run(name: str, options: DrillOptions, on_event: OnEvent = lambda event: None) -> DrillReport:
    """Run the drill ``name``; blocks. ``on_event`` is called as it goes on.

    ConfigError for an unknown name. What was started is stopped, also on KeyboardInterrupt. The files are removed unless a
    promise was broken or ``options.keep``.
    """
    drill = drill_named(name)
    orders = Generated(options.seed, banks=_BANKS, accounts=_ACCOUNTS, empty_every=_EMPTY_EVERY)
    opening = orders.opening()
    plan = Plan(options.nodes, opening, host_banks(opening, 1), options.seed, node_module=options.node_module)

    async def scene(stage: Stage) -> DrillReport:
        return await _drill(Trial(stage, opening, on_event), drill, options, orders)

    return timed(lambda: play(plan, scene, keep=lambda report: report.directory is not None))


async def _drill(trial: Trial, drill: Drill, options: DrillOptions, orders: Generated) -> DrillReport:
    trial.event("start", f"{drill.summary}: {options.nodes} nodes, {_BANKS + 1} banks, {options.rate:g} orders/s")
    async with asyncio.TaskGroup() as group, trial.told_progress():
        load = group.create_task(trial.load.at_rate(orders.orders(), options.rate, IN_FLIGHT_MAX))
        await _faults(trial, drill, options)
        trial.load.stop()
        await load
    await trial.settle()
    violations, figures, directory = await trial.judge(keep=options.keep)
    figures = {**figures, "orders_held_back": trial.load.held_back}
    return DrillReport(drill.name, not violations, violations, trial.faults, figures, options.seed, directory)


async def _faults(trial: Trial, drill: Drill, options: DrillOptions) -> None:
    """One after the other, each healed before the next; at least one."""
    rng = random.Random(options.seed)
    rounds = options.rounds or drill.rounds
    await trial.commits_again("after the start, before any fault")
    until_s = trial.now_s() + options.duration_s
    while not trial.broken:
        await asyncio.sleep(rng.uniform(*drill.rest_s))
        await trial.strike(drill.fault(len(trial.faults)), rng.uniform(*drill.hold_s))
        if len(trial.faults) >= rounds if rounds else trial.now_s() >= until_s:
            return
