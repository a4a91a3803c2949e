"""How much the coordinator costs: transfers between two real databases, with it and without, in one run.

It owes a fair comparison: the same processes, threads, connections and statements (transfers.py), the two kinds in turn
(plain, coordinated, coordinated, plain), so that a machine that drifts weighs on both alike; and true counts: afterwards the
money, the payments and the lists of prepared transactions must agree with what was counted. Each database is a server of its
own, with its syncs on, and the nodes are processes of a throwaway cluster. It never counts the warm-up.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Final

from raftcoord.bench import transferring as transfers
from raftcoord.bench.measuring import BenchOptions, BenchReport, measured_on
from raftcoord.databases.database import NotHere
from raftcoord.drills.client_history import percentile
from raftcoord.drills.database_banks import raise_banks
from raftcoord.drills.props import StagePlan
from raftcoord.drills.stage import Stage
from raftcoord.errors import ConfigError, RaftcoordError
from raftcoord.processes.commands import python
from raftcoord.processes.database_servers import DatabaseServer
from raftcoord.types import Branch

KINDS: Final = {
    "postgresql": ("postgresql", "postgresql"),
    "mariadb": ("mariadb", "mariadb"),
    "mixed": ("postgresql", "mariadb"),
}
WARM_UP_S: Final = 0.5
_ROUND_S: Final = 1.0
"""About how long one kind runs until it is the other's turn (seconds)."""
_IN_TURN: Final = (transfers.PLAIN, transfers.COORDINATED, transfers.COORDINATED, transfers.PLAIN)
_STALL_S: Final = 120.0
_CENTS: Final = 10**9
_LINE_BYTES_MAX: Final = 1 << 28


@dataclass(frozen=True, slots=True)
class Rate:
    """One kind of transfer: how many in how many seconds, and what each took (ms)."""

    transfers: int
    seconds: float
    rate_per_s: float
    latency_ms_p50: float
    latency_ms_p99: float


@dataclass(frozen=True, slots=True)
class Compared:
    """Both kinds, over one pair of databases at one number of workers.

    ``ratio``: of the rates, coordinated to plain; ``ratio_min`` and ``ratio_max``: of a single turn of each.
    """

    pair: str
    workers: int
    processes: int
    plain: Rate
    coordinated: Rate
    ratio: float
    ratio_min: float
    ratio_max: float


def databases(options: BenchOptions, on_result: Callable[[Compared], None] = lambda compared: None) -> BenchReport:
    """Compare them; blocks. ConfigError if a server or a driver is not installed."""

    async def scene(stage: Stage) -> BenchReport:
        results = []
        for pair in options.pairs:
            async with contextlib.AsyncExitStack() as stack:
                kinds = zip(KINDS[pair], transfers.BRANCHES, strict=True)
                banks = [await stack.enter_async_context(_running(kind, branch)) for kind, branch in kinds]
                for workers in options.workers:
                    results.append(await _compare(stage, options, pair, workers, banks))
                    on_result(results[-1])
        return BenchReport("databases", options.nodes, tuple(results))

    return measured_on(StagePlan(options.nodes, seed=1, clients=0), scene)


class Bank:
    """A bank in a database on a server of its own. Everything here blocks."""

    def __init__(self, kind: str, branch: str) -> None:
        try:
            self._server = DatabaseServer(kind, durable=True)
        except NotHere as error:
            raise ConfigError(f"{error}; or choose other pairs with --pairs") from None
        try:
            self._server.start()
            self.banks = raise_banks(self._server, branch)
            self.banks.open({Branch(branch): {str(account): _CENTS for account in range(transfers.ACCOUNTS)}})
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._server.stop()

    def count(self) -> tuple[int, int]:
        """The payments that were made, and the cents that they moved. Raises RaftcoordError if the accounts say otherwise."""
        ((payments, moved),) = self.banks.rows("SELECT count(*), coalesce(sum(cents), 0) FROM payments")
        gained, prepared = self.banks.cents() - transfers.ACCOUNTS * _CENTS, self.banks.prepared()
        if moved != gained or prepared:
            raise RaftcoordError(
                f"the payments moved {moved} cents, the accounts {gained}, and {len(prepared)} branches are prepared: a bug in "
                "raftcoord; please report it"
            )
        return int(payments), int(moved)


@contextlib.asynccontextmanager
async def _running(kind: str, branch: str) -> AsyncIterator[Bank]:
    """A bank; a caller that is interrupted while it starts waits until it can be stopped."""
    starting = asyncio.ensure_future(asyncio.to_thread(Bank, kind, branch))
    try:
        bank = await asyncio.shield(starting)
    except asyncio.CancelledError:
        with contextlib.suppress(Exception):
            (await starting).close()
        raise
    try:
        yield bank
    finally:
        bank.close()


class _Workers:
    """The processes that transfer; each has its share of the threads."""

    def __init__(self, processes: Sequence[Process]) -> None:
        self._processes = processes

    async def measure(self, kind: str, seconds: float) -> Turns:
        """All at once; RaftcoordError if one of them has failed."""
        began_s = perf_counter()
        async with asyncio.timeout(seconds + _STALL_S):
            told = await asyncio.gather(*(self._ask(process, f"{kind} {seconds}\n") for process in self._processes))
        return Turns([each for took in told for each in took], perf_counter() - began_s)

    async def _ask(self, process: Process, line: str) -> list[float]:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        with contextlib.suppress(ConnectionError):
            process.stdin.write(line.encode())
            await process.stdin.drain()
        if answer := await process.stdout.readline():
            took: list[float] = json.loads(answer)
            return took
        why = (await process.stderr.read()).decode(errors="replace").strip()
        raise RaftcoordError(f"a transfer failed: {why}")


@contextlib.asynccontextmanager
async def _started(stage: Stage, threads: Sequence[int], name: str, banks: Sequence[Bank]) -> AsyncIterator[_Workers]:
    """Workers; they are killed on the way out: what they were doing was finished or is an error."""
    config, urls = str(stage.directory / "cluster.yaml"), [bank.banks.url for bank in banks]
    processes: list[Process] = []
    try:
        for number, share in enumerate(threads):
            command = python(transfers.__name__, config, str(share), f"{name}-{number}", *urls)
            processes.append(
                await asyncio.create_subprocess_exec(
                    *command, stdin=PIPE, stdout=PIPE, stderr=PIPE, limit=_LINE_BYTES_MAX, start_new_session=True
                )
            )
        yield _Workers(processes)
    finally:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


@dataclass(slots=True)
class Turns:
    """Turns of one kind: what each transfer took (ms), and for how long (s)."""

    took_ms: list[float]
    seconds: float

    def add(self, other: Turns) -> None:
        self.took_ms += other.took_ms
        self.seconds += other.seconds

    @property
    def rate_per_s(self) -> float:
        return len(self.took_ms) / self.seconds

    def to_rate(self) -> Rate:
        p50, p99 = percentile(self.took_ms, 50), percentile(self.took_ms, 99)
        return Rate(len(self.took_ms), self.seconds, self.rate_per_s, p50, p99)


async def _compare(stage: Stage, options: BenchOptions, pair: str, workers: int, banks: Sequence[Bank]) -> Compared:
    processes = min(workers, options.processes or os.cpu_count() or 1)
    threads = [workers // processes + (number < workers % processes) for number in range(processes)]
    before = await asyncio.to_thread(_counted, banks)
    measured = {kind: Turns([], 0.0) for kind in (transfers.PLAIN, transfers.COORDINATED)}
    ratios = []
    async with _started(stage, threads, f"{pair}-{workers}", banks) as at_work:
        warm_up = [len((await at_work.measure(kind, WARM_UP_S)).took_ms) for kind in measured]
        turns = max(1, round(options.seconds / _ROUND_S / 2))
        for _ in range(turns):
            turn = [(kind, await at_work.measure(kind, options.seconds / turns / 2)) for kind in _IN_TURN]
            rates = {kind: [found.rate_per_s for its, found in turn if its == kind] for kind in measured}
            ratios += [
                _ratio(coordinated, plain)
                for coordinated, plain in zip(rates[transfers.COORDINATED], rates[transfers.PLAIN], strict=True)
            ]
            for kind, found in turn:
                measured[kind].add(found)
    counted = sum(warm_up) + sum(len(each.took_ms) for each in measured.values())
    if await asyncio.to_thread(_counted, banks) - before != counted:
        raise RaftcoordError(
            "the databases have other payments than were counted: a bug in raftcoord; please report it"
        )
    plain, coordinated = measured[transfers.PLAIN].to_rate(), measured[transfers.COORDINATED].to_rate()
    ratio = _ratio(coordinated.rate_per_s, plain.rate_per_s)
    return Compared(pair, workers, processes, plain, coordinated, ratio, min(ratios), max(ratios))


def _counted(banks: Sequence[Bank]) -> int:
    """The transfers that both banks have. Raises RaftcoordError if one has what the other has not."""
    (paid, moved), (received, gained) = (bank.count() for bank in banks)
    if paid != received or moved + gained:
        raise RaftcoordError(
            f"one database has {paid} payments of {moved} cents in all, the other {received} of {gained}: that is a bug in "
            "raftcoord; please report it"
        )
    return paid


def _ratio(coordinated: float, plain: float) -> float:
    return coordinated / plain if plain else math.nan
