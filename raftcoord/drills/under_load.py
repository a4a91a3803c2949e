"""A cluster under load, a fault again and again at seeded times, then the verdict."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from typing import Final

from raftcoord.drills.faults import Fault
from raftcoord.drills.options import DrillOptions
from raftcoord.drills.orders import Generated
from raftcoord.drills.props import StagePlan, host_banks
from raftcoord.drills.report import DrillReport, OnEvent
from raftcoord.drills.trial import Trial, tried

IN_FLIGHT_MAX: Final = 256
"""Transactions that the load holds open; an order beyond it is held back, as a client with a bounded pool would."""

TAKES: Final = frozenset(("duration_s", "rounds", "rate"))
DURATION_S: Final = 15.0
RATE_PER_S: Final = 200.0
_BANKS: Final = 3
_ACCOUNTS: Final = 500
_EMPTY_EVERY: Final = 20

Span = tuple[float, float]
"""Shortest and longest (seconds); the drill's seed chooses between them."""


@dataclass(frozen=True, slots=True)
class FaultDrill:
    """``faults``: in turn. ``rest_s``: quiet before each; ``hold_s``: how long each lasts.

    ``rounds``: how many faults; None: as many as fit into the duration.
    """

    name: str
    summary: str
    faults: tuple[Fault, ...]
    rest_s: Span = (1.0, 2.5)
    hold_s: Span = (0.8, 2.0)
    rounds: int | None = None

    def run(self, options: DrillOptions, on_event: OnEvent = lambda event: None) -> DrillReport:
        orders = Generated(options.seed, banks=_BANKS, accounts=_ACCOUNTS, empty_every=_EMPTY_EVERY)
        opening = orders.opening()
        hosts = host_banks(opening, 1)
        plan = StagePlan(options.nodes, options.seed, opening, hosts, node_module=options.node_module)
        return tried(plan, opening, on_event, lambda trial: self._play(trial, options, orders))

    async def _play(self, trial: Trial, options: DrillOptions, orders: Generated) -> DrillReport:
        rate_per_s = options.rate or RATE_PER_S
        trial.event("start", f"{self.summary}: {options.nodes} nodes, {_BANKS + 1} banks, {rate_per_s:g} orders/s")
        async with asyncio.TaskGroup() as group, trial.told_progress():
            load = group.create_task(trial.load.at_rate(orders.orders(), rate_per_s, IN_FLIGHT_MAX))
            await self._strike(trial, options)
            trial.load.stop()
            await load
        await trial.settle()
        violations, figures, directory = await trial.judge(keep=options.keep)
        figures = {**figures, "orders_held_back": trial.load.held_back}
        return DrillReport(self.name, violations, figures, options.seed, directory, trial.faults)

    async def _strike(self, trial: Trial, options: DrillOptions) -> None:
        """One fault after the other, each healed before the next; at least one."""
        rng = random.Random(options.seed)
        rounds = options.rounds or self.rounds
        await trial.commits_again("after the start, before any fault")
        until_s = trial.now_s() + (options.duration_s or DURATION_S)
        while not trial.broken:
            await asyncio.sleep(rng.uniform(*self.rest_s))
            fault = self.faults[len(trial.faults) % len(self.faults)]
            await trial.strike(fault, rng.uniform(*self.hold_s))
            if len(trial.faults) >= rounds if rounds else trial.now_s() >= until_s:
                return
