"""The demo: payment orders flow through a throwaway cluster while its leader and a bank are killed; then the audit.

It owes that every order is paid exactly once in the end, and says so only if the audit does. It asks no question and leaves
nothing behind, unless a promise was broken.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

from raftcoord.drills import orders as order_files
from raftcoord.drills.audit import SHOWN_MAX, Violation
from raftcoord.drills.faults import Fault, KillHost, KillLeader
from raftcoord.drills.load import wait_until
from raftcoord.drills.orders import HOME_BANK, ORDERS_MAX, Generated, Order, opening_for, text_of
from raftcoord.drills.play import play
from raftcoord.drills.report import FaultRecord, OnEvent, rounded, timed, verdict_line
from raftcoord.drills.stage import Plan, Stage, host_banks
from raftcoord.drills.trial import Trial
from raftcoord.errors import ConfigError, check

NODES_ALLOWED: Final = (1, 3, 5, 7)
IN_FLIGHT_MAX: Final = 1_024
GIVE_UP_S: Final = 60.0
"""How long one order is tried (seconds), through the loss of the leader and of a bank."""

STRIKE_AT: Final = 0.4
"""The leader is killed when this part of the first half of the orders is paid, the home bank in the second half."""

_LEADER_HOLD_S: Final = 2.0
_BANK_HOLD_S: Final = 0.5
_BANKS: Final = 4
_OTHER_HOSTS: Final = 2


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """``orders``: a file of payment orders, else ``count`` generated from ``seed``; ``nodes``: one of NODES_ALLOWED.

    ``in_flight``: orders at a time, 1 to IN_FLIGHT_MAX. ``keep``: keep the files. ConfigError for anything else.
    """

    orders: Path | None = None
    nodes: int = 3
    seed: int = 1
    count: int = 1_500
    in_flight: int = 64
    keep: bool = False

    def __post_init__(self) -> None:
        if self.nodes not in NODES_ALLOWED:
            raise ConfigError(f"a demo cannot run on {self.nodes} nodes; give 1, 3, 5 or 7")
        if not 1 <= self.count <= ORDERS_MAX:
            raise ConfigError(f"{self.count} orders cannot be generated; give 1 to {ORDERS_MAX}")
        if not 1 <= self.in_flight <= IN_FLIGHT_MAX:
            raise ConfigError(f"{self.in_flight} orders at a time is out of range; give 1 to {IN_FLIGHT_MAX}")


@dataclass(frozen=True, slots=True)
class DemoReport:
    """The demo's end. ``did``: what was done, a line each; ``next_steps``: commands to try; ``directory``: kept files."""

    held: bool
    verdict: str
    violations: Sequence[Violation]
    faults: Sequence[FaultRecord]
    figures: Mapping[str, int | float]
    did: Sequence[str]
    next_steps: Sequence[str]
    directory: Path | None

    def to_json(self) -> dict[str, Any]:
        """As JSON values; at most SHOWN_MAX violations, and their number."""
        return {
            "held": self.held,
            "verdict": self.verdict,
            "violation_count": len(self.violations),
            "violations": [violation.to_json() for violation in self.violations[:SHOWN_MAX]],
            "faults": [fault.to_json() for fault in self.faults],
            "figures": {name: rounded(value) for name, value in self.figures.items()},
            "did": list(self.did),
            "next_steps": list(self.next_steps),
            "directory": str(self.directory) if self.directory else None,
        }


def run_demo(options: DemoOptions, on_event: OnEvent = lambda event: None) -> DemoReport:
    """Run the demo; blocks. ``on_event`` is called as it goes on.

    ConfigError for a file of orders that cannot be read. What was started is stopped, also on KeyboardInterrupt.
    """
    orders = orders_for(options.orders, options.seed, options.count)
    opening = opening_for(orders)
    plan = Plan(options.nodes, opening, host_banks(opening, _OTHER_HOSTS), options.seed)

    async def scene(stage: Stage) -> DemoReport:
        return await _demo(Trial(stage, opening, on_event), orders, options, len(opening))

    return timed(lambda: play(plan, scene, keep=lambda report: report.directory is not None))


def orders_for(file: Path | None, seed: int, count: int) -> tuple[Order, ...]:
    """The orders in ``file``; without one, ``count`` of them made from ``seed``. ConfigError says what is wrong with it."""
    if file is not None:
        return order_files.load(file)
    return tuple(islice(Generated(seed, banks=_BANKS).orders(), count))


async def _demo(trial: Trial, orders: tuple[Order, ...], options: DemoOptions, banks: int) -> DemoReport:
    trial.event("start", f"{options.nodes} nodes, {banks} banks, {len(orders)} orders, {options.in_flight} at a time")
    half = len(orders) // 2
    async with trial.told_progress():
        unpaid = await _pay(trial, orders[:half], options.in_flight, KillLeader(), _LEADER_HOLD_S)
        unpaid += await _pay(trial, orders[half:], options.in_flight, KillHost(HOME_BANK), _BANK_HOLD_S)
    paid_in_s = trial.now_s()
    await trial.settle()
    if unpaid:
        what = f"{len(unpaid)} orders could not be paid in {GIVE_UP_S:g} s, the first is order {unpaid[0].order_id}"
        trial.broken.append(Violation("unpaid", None, what))
    violations, figures, directory = await trial.judge(keep=options.keep)
    figures = {
        "orders": len(orders),
        "orders_paid": trial.load.paid,
        "orders_cents": sum(order.cents for order in orders),
        "orders_per_s": trial.load.paid / paid_in_s,
        **figures,
    }
    held = not violations
    verdict = verdict_line("demo", held, violations, figures)
    did = _did(figures, trial.faults, banks, options.nodes) if held else ()
    return DemoReport(held, verdict, violations, trial.faults, figures, did, _next_steps(options), directory)


async def _pay(trial: Trial, orders: Sequence[Order], in_flight: int, fault: Fault, hold_s: float) -> list[Order]:
    """Pay ``orders`` and strike on the way. Returns those that could not be paid."""
    load = trial.load
    strike_at = load.paid + STRIKE_AT * len(orders)
    async with asyncio.TaskGroup() as group:
        paying = group.create_task(load.pay_all(orders, in_flight, GIVE_UP_S))
        await wait_until(lambda: paying.done() or load.paid >= strike_at, math.inf)
        await trial.strike(fault, hold_s, until=lambda: load.exhausted)
    return paying.result()


def _did(figures: Mapping[str, int | float], faults: Sequence[FaultRecord], banks: int, nodes: int) -> tuple[str, ...]:
    return (
        f"started {nodes} nodes and {banks} banks as processes of their own, and opened {figures['accounts']:,} accounts",
        *(f"{fault.at_s:.1f} s: {fault.what}; {fault.healed}" for fault in faults),
        f"paid {figures['orders_paid']:,} orders, {text_of(int(figures['moved_cents']))} in all, each exactly once"
        + repeated(figures),
        f"the longest pause without a commit was {figures['longest_pause_s']:.2f} s",
        f"asked each of the {nodes} nodes for every outcome, compared both banks of every order with it, and counted the "
        f"money: {text_of(int(figures['opening_cents']))} before and after",
    )


def repeated(figures: Mapping[str, int | float]) -> str:
    """The attempts that did not pay an order: with the orders they are all transactions."""
    check(figures["committed"] == figures["orders_paid"], "each order is paid by one committed transaction")
    again = int(figures["transactions"] - figures["orders_paid"])
    kinds = {"aborted": "aborted", "never_attempted": "refused before anything was attempted"}
    named = ", ".join(f"{figures[name]} {words}" for name, words in kinds.items() if figures[name])
    return f"; attempts that came to nothing and were repeated: {again} ({named})" if again else ""


def _next_steps(options: DemoOptions) -> tuple[str, ...]:
    other = 5 if options.nodes != 5 else 3
    return (
        f"raftcoord demo --nodes {other}",
        "raftcoord drill run kill-all",
        "raftcoord up -d; raftcoord status",
    )
