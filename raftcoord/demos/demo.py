"""The demo: payment orders flow through a throwaway cluster while its leader and a bank are killed; then the audit.

It owes that every order is paid exactly once in the end, and says so only if the audit does. It asks no question and leaves
nothing behind, unless a promise was broken. What the demo on databases (databases.py) does alike stands here as well.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Final

from raftcoord.drills import orders as order_files
from raftcoord.drills.audit import AuditViolation
from raftcoord.drills.faults import Fault, kill_host, kill_leader
from raftcoord.drills.load import wait_until
from raftcoord.drills.orders import HOME_BANK, ORDERS_MAX, Generated, Order, opening_for, text_of
from raftcoord.drills.props import StagePlan, host_banks
from raftcoord.drills.report import DrillReport, OnEvent
from raftcoord.drills.trial import Trial, tried
from raftcoord.errors import ConfigError, check

NODES_ALLOWED: Final = (1, 3, 5, 7)
COUNT: Final = 1_500
IN_FLIGHT: Final = 64
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

    ``in_flight``: orders at a time, 1 to 1024; with ``databases`` that many programs, 2 to 16. ``keep``: keep the files. None:
    what the demo has. ConfigError for anything else.
    """

    orders: Path | None = None
    nodes: int = 3
    seed: int = 1
    count: int | None = None
    in_flight: int | None = None
    keep: bool = False
    databases: bool = False

    def __post_init__(self) -> None:
        if self.nodes not in NODES_ALLOWED:
            raise ConfigError(f"a demo cannot run on {self.nodes} nodes; give 1, 3, 5 or 7")
        if self.count is not None and not 1 <= self.count <= ORDERS_MAX:
            raise ConfigError(f"{self.count} orders cannot be generated; give 1 to {ORDERS_MAX}")
        least, most, what = (
            (2, 16, "programs: two of them are killed") if self.databases else (1, 1_024, "orders at a time")
        )
        if self.in_flight is not None and not least <= self.in_flight <= most:
            raise ConfigError(f"{self.in_flight} is out of range for {what}; give {least} to {most}")


def run_demo(options: DemoOptions, on_event: OnEvent = lambda event: None) -> DrillReport:
    """Run the demo; blocks. ``on_event`` is called as it goes on.

    ConfigError for a file of orders that cannot be read. What was started is stopped, also on KeyboardInterrupt.
    """
    orders = orders_for(options, COUNT)
    opening = opening_for(orders)
    plan = StagePlan(options.nodes, options.seed, opening, host_banks(opening, _OTHER_HOSTS))
    return tried(plan, opening, on_event, lambda trial: _demo(trial, orders, options, len(opening)))


def orders_for(options: DemoOptions, count: int) -> tuple[Order, ...]:
    """The orders of the file; without one, those that are generated. ConfigError says what is wrong with the file."""
    if options.orders is not None:
        return order_files.load(options.orders)
    return tuple(islice(Generated(options.seed, banks=_BANKS).orders(), options.count or count))


async def _demo(trial: Trial, orders: tuple[Order, ...], options: DemoOptions, banks: int) -> DrillReport:
    in_flight = options.in_flight or IN_FLIGHT
    trial.event("start", f"{options.nodes} nodes, {banks} banks, {len(orders)} orders, {in_flight} at a time")
    half = len(orders) // 2
    async with trial.told_progress():
        unpaid = await _pay(trial, orders[:half], in_flight, kill_leader, _LEADER_HOLD_S)
        unpaid += await _pay(trial, orders[half:], in_flight, partial(kill_host, name=HOME_BANK), _BANK_HOLD_S)
    other = 5 if options.nodes != 5 else 3
    next_steps = (
        f"raftcoord demo --nodes {other}",
        "raftcoord drill run kill-all",
        "raftcoord up -d; raftcoord status",
    )

    def did(figures: Mapping[str, int | float]) -> tuple[str, ...]:
        return (
            f"started {options.nodes} nodes and {banks} banks as processes of their own, and opened {figures['accounts']:,} "
            "accounts",
            *faults_of(trial),
            paid(figures),
            f"the longest pause without a commit was {figures['longest_pause_s']:.2f} s",
            f"asked each of the {options.nodes} nodes for every outcome, compared both banks of every order with it, and counted "
            f"the money: {text_of(int(figures['opening_cents']))} before and after",
        )

    return await judged(trial, "demo", orders, unpaid, options, did, next_steps)


async def _pay(trial: Trial, orders: Sequence[Order], in_flight: int, fault: Fault, hold_s: float) -> list[Order]:
    """Pay ``orders`` and strike on the way. Returns those that could not be paid."""
    load = trial.load
    strike_at = load.paid + STRIKE_AT * len(orders)
    async with asyncio.TaskGroup() as group:
        paying = group.create_task(load.pay_all(orders, in_flight, GIVE_UP_S))
        await wait_until(lambda: paying.done() or load.paid >= strike_at, math.inf)
        await trial.strike(fault, hold_s, until=lambda: load.exhausted)
    return paying.result()


async def judged(
    trial: Trial,
    name: str,
    orders: Sequence[Order],
    unpaid: Sequence[Order],
    options: DemoOptions,
    did: Callable[[Mapping[str, int | float]], Sequence[str]],
    next_steps: Sequence[str],
) -> DrillReport:
    """The end, as soon as nothing more is paid. ``did``: what was done, a line each, if every promise held."""
    paid_in_s = trial.now_s()
    if unpaid:
        what = f"{len(unpaid)} orders were not paid in {paid_in_s:.0f} s, the first is order {unpaid[0].order_id}"
        trial.broken.append(AuditViolation("unpaid", None, what))
    await trial.settle()
    violations, found, directory = await trial.judge(keep=options.keep)
    figures = {
        "orders": len(orders),
        "orders_paid": trial.load.paid,
        "orders_cents": sum(order.cents for order in orders),
        "orders_per_s": trial.load.paid / paid_in_s,
        **found,
    }
    if trial.stage.locks_held_s:
        figures["locks_held_s_max"] = max(trial.stage.locks_held_s)
    more = {"did": [] if violations else list(did(figures)), "next_steps": list(next_steps)}
    return DrillReport(name, violations, figures, options.seed, directory, trial.faults, more=more)


def faults_of(trial: Trial) -> list[str]:
    return [f"{fault.at_s:.1f} s: {fault.what}; {fault.healed}" for fault in trial.faults]


def paid(figures: Mapping[str, int | float]) -> str:
    """What was paid, and the attempts that did not pay an order: with the orders they are all transactions."""
    check(figures["committed"] == figures["orders_paid"], "each order is paid by one committed transaction")
    again = int(figures["transactions"] - figures["orders_paid"])
    kinds = {"aborted": "aborted", "never_attempted": "refused before anything was attempted"}
    named = ", ".join(f"{figures[name]} {words}" for name, words in kinds.items() if figures[name])
    repeated = f"; attempts that came to nothing and were repeated: {again} ({named})" if again else ""
    return f"paid {figures['orders_paid']:,} orders, {text_of(int(figures['moved_cents']))} in all, each exactly once{repeated}"
