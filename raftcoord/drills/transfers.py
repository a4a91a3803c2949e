"""Orders between a PostgreSQL and a MariaDB, paid by several programs while programs, nodes and the resolver are killed.

Half of the commits are left to the resolver; orders with an even id are paid back. Owed: in the end every order is paid exactly
once, on both sides, to the cent, and nothing is prepared; the verdict rests on the audit. Which victim when is the seed's; what
the machine makes of it is not.

MariaDB may answer OK to a commit from another session and keep the branch, unlisted and locked, until it is restarted. The
resolver records that as damage and says so; this drill then does what the record says, and counts it.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import random
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Final

from raftcoord.drills import orders as order_files
from raftcoord.drills.audit import AuditViolation
from raftcoord.drills.database_banks import DatabaseBanks
from raftcoord.drills.database_faults import LEDGER, ORDERS, kill_program, kill_resolver, two_databases
from raftcoord.drills.faults import Fault, kill_node
from raftcoord.drills.load import wait_until
from raftcoord.drills.options import DrillOptions
from raftcoord.drills.orders import ORDERS_MAX, Generated, Order, both_ways, opening_for
from raftcoord.drills.paying_programs import PayingPrograms, PayingWork
from raftcoord.drills.props import StagePlan
from raftcoord.drills.report import DrillReport, OnEvent
from raftcoord.drills.trial import Trial, tried
from raftcoord.errors import Overloaded, Unavailable
from raftcoord.types import State

NAME: Final = "databases-transfers"
TAKES: Final = frozenset(("transfers", "workers", "orders", "duration_s"))
TRANSFERS: Final = 2_000
WORKERS: Final = 8
LEFT: Final = 0.5
"""The part of the commits that is left to the resolver."""

SETTLE_S: Final = 90.0
"""How long after the last order everything may take to be finished (s); what is not is found by the audit."""

STALLED_S: Final = 120.0
"""Without an order paid for so long (s) it is broken."""

_ORDERS_PER_S_MAX: Final = 200
"""So many orders are made for each second of a duration."""

_SPARE_CENTS: Final = 1_000_000_00
_ORDERS_PER_KILL: Final = {"program": (8, 80), "node": (16, 160), "resolver": (16, 160)}
"""A kill comes when so many more orders are paid, so that a slow machine gets on as well."""

_DOWN_S: Final = {"program": (0.0, 0.0), "node": (0.3, 1.5), "resolver": (0.3, 1.5)}
_LOOK_EVERY_S: Final = 1.0
_CLIENTS: Final = 2


def run(options: DrillOptions, on_event: OnEvent = lambda event: None) -> DrillReport:
    """Run it; blocks. ConfigError if a server is not installed."""
    orders = orders_of(options)
    opening = opening_for(both_ways(orders), _SPARE_CENTS)
    plan = StagePlan(options.nodes, options.seed, databases=two_databases(opening), clients=_CLIENTS)
    return tried(plan, opening, on_event, lambda trial: _Transfers(trial, orders, options).play())


def orders_of(options: DrillOptions) -> tuple[Order, ...]:
    """Numbered from 1, whatever a file calls them: one that is used twice is two orders."""
    count = options.transfers or TRANSFERS
    if options.transfers is None and options.duration_s is not None:
        count = min(ORDERS_MAX, math.ceil(options.duration_s * _ORDERS_PER_S_MAX))
    given: Iterator[Order] = Generated(options.seed).orders()
    if options.orders is not None:
        given = itertools.cycle(order_files.load(options.orders))
    numbered = (replace(order, order_id=number) for number, order in enumerate(itertools.islice(given, count), 1))
    return tuple(numbered)


class _Transfers:
    """The run."""

    def __init__(self, trial: Trial, orders: tuple[Order, ...], options: DrillOptions) -> None:
        self._stage = stage = trial.stage
        self._options = options
        self._trial = trial
        trial.back_s, trial.quiet_s = STALLED_S, SETTLE_S
        self._orders = orders
        work = PayingWork(stage.directory, stage.config, orders, (LEDGER, ORDERS), math.inf, both_ways=True, left=LEFT)
        self._programs = PayingPrograms(work, stage.raise_programs(options.workers or WORKERS, work), trial.load)
        self._killed: Counter[str] = Counter()
        self._hidden = 0
        self._is_over = False

    async def play(self) -> DrillReport:
        trial, options, programs = self._trial, self._options, self._programs
        count = len(programs.programs)
        trial.event("start", f"{len(self._orders)} orders, {count} programs, {options.nodes} nodes, a resolver")
        async with self._hidden_branches_shown():
            async with programs.at_work(), trial.told_progress(), asyncio.TaskGroup() as group:
                strikers = [group.create_task(self._strikes(kind)) for kind in _ORDERS_PER_KILL]
                began_s = trial.now_s()
                await self._until_paid()
                load_s = trial.now_s() - began_s
                self._is_over = True
                await asyncio.gather(*strikers)
            over_s = trial.now_s()
            if options.duration_s is None and (unpaid := programs.unpaid()):
                what = f"{len(unpaid)} orders were not paid, the first is order {unpaid[0].order_id}"
                trial.broken.append(AuditViolation("unpaid", None, what))
            await trial.settle()
            left_over_s = trial.now_s() - over_s
        violations, found, directory = await trial.judge(keep=options.keep)
        figures = {
            "orders": len(self._orders) if options.duration_s is None else found.get("committed", 0),
            "load_s": load_s,
            "orders_per_s": trial.load.paid / load_s,
            "left_over_s": left_over_s,
            **self._counted(found),
            "payments": sum(await asyncio.gather(*map(self._payments, self._stage.props.banks.values()))),
        }
        kills = sum(self._killed.values())
        held = (
            f"{figures['orders']:,} orders, each paid once on both sides, to the cent; 0 lost, 0 left over, 0 created; "
            f"{kills} kills"
        )
        more = {"killed": dict(self._killed)}
        return DrillReport(NAME, violations, figures, options.seed, directory, trial.faults, held, more)

    # -- load and kills ---------------------------------------------------------------------------------------------

    async def _until_paid(self) -> None:
        """Until every order is paid, the time is over, or nothing moves."""
        loop, load = asyncio.get_running_loop(), self._trial.load
        until_s = loop.time() + (self._options.duration_s or math.inf)
        while load.paid < len(self._orders) and loop.time() < until_s and not self._trial.broken:
            paid = load.paid
            await self._programs.have_paid(paid + 1, min(STALLED_S, until_s - loop.time()))
            for fallen in self._programs.fallen():
                self._trial.broken.append(AuditViolation("program fell", None, fallen))
            if load.paid == paid and loop.time() < until_s:
                self._trial.broken.append(AuditViolation("stalled", None, f"no order was paid for {STALLED_S:g} s"))

    async def _strikes(self, victim: str) -> None:
        """One kind of victim, again and again; those of other kinds may be down at the same time."""
        trial, rng = self._trial, random.Random(f"{self._options.seed}-{victim}")
        await self._have_paid(rng.randint(1, _ORDERS_PER_KILL[victim][0]))
        while not self._is_over:
            await trial.strike(self._fault(victim, rng), rng.uniform(*_DOWN_S[victim]), lambda: self._is_over)
            self._killed[victim] += 1
            await self._have_paid(trial.load.paid + rng.randint(*_ORDERS_PER_KILL[victim]))

    async def _have_paid(self, orders: int) -> None:
        await wait_until(lambda: self._is_over or self._trial.load.paid >= orders, math.inf)

    def _fault(self, victim: str, rng: random.Random) -> Fault:
        if victim == "program":
            return partial(kill_program, self._programs, rng.choice(self._programs.programs))
        return kill_node if victim == "node" else kill_resolver

    @contextlib.asynccontextmanager
    async def _hidden_branches_shown(self) -> AsyncIterator[None]:
        """What MariaDB hides is found there again when it is started anew."""
        over = asyncio.Event()

        async def look() -> None:
            while not over.is_set():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(over.wait(), _LOOK_EVERY_S)
                with contextlib.suppress(Unavailable, Overloaded):
                    await self._show_hidden()

        looking = asyncio.create_task(look())
        try:
            yield
        finally:
            over.set()
            await looking

    async def _show_hidden(self) -> None:
        found = await self._stage.clients[0].damages()
        if found.total > self._hidden:
            self._hidden = found.total
            self._trial.event("fault", f"damage is recorded: {found.shown[0].what}; MariaDB is started anew")
            await self._stage.kill_server("mariadb")
            await self._stage.start_server("mariadb")
            self._killed["mariadb"] += 1

    # -- the end ----------------------------------------------------------------------------------------------------

    def _counted(self, found: Mapping[str, int | float]) -> dict[str, int | float]:
        told = self._trial.history.told
        resolved = [each for each in told if each.op == "resolve" and each.certainty == "known"]
        return {
            **found,
            "attempts": found.get("transactions", 0),
            "never_decided": found.get("never_attempted", 0) + found.get("undecided", 0),
            "commits_left_to_the_resolver": self._programs.left,
            "told_aborted": sum(each.state is State.ABORTED for each in told),
            "asked_for": len(resolved),
            "cents_before": found.get("opening_cents", 0),
            "cents_after": found.get("closing_cents", 0),
            "hidden_by_mariadb": self._hidden,
        }

    async def _payments(self, banks: DatabaseBanks) -> int:
        ((count,),) = await asyncio.to_thread(banks.rows, "SELECT count(*) FROM payments")
        return int(count)
