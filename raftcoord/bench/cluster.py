"""How fast: decisions, transfers and failovers, measured from a client process over loopback.

It owes a remote client (the nodes and banks are processes of their own), a closed loop (as soon as one call is answered
the next one goes out), and every answer checked: a rate of refused calls is an error, not a rate. The client here is the bare
connection of the wire protocol, so that what is measured is the cluster. It never counts the warm-up. Time is
perf_counter, because the loop's own may be as coarse as a decision is long.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Final

from raftcoord.bench.measuring import BenchOptions, BenchReport, measured_on
from raftcoord.config import Config
from raftcoord.drills.client_history import percentile
from raftcoord.drills.faults import kill_leader
from raftcoord.drills.load import wait_until
from raftcoord.drills.node_link import NodeLink, leader_among
from raftcoord.drills.orders import Generated
from raftcoord.drills.play import run
from raftcoord.drills.props import StagePlan, host_banks
from raftcoord.drills.report import DrillReport, OnEvent
from raftcoord.drills.stage import Stage
from raftcoord.drills.trial import Trial, tried
from raftcoord.errors import ConfigError, RaftcoordError, Unavailable
from raftcoord.rpc import codes
from raftcoord.rpc.codes import RpcError
from raftcoord.types import State, TxId, Verdict

KILLS_MAX: Final = 10_000
WARM_UP_S: Final = 0.5
CALL_TIMEOUT_MS: Final = 10_000
STALL_S: Final = 15.0
"""How long after its end a measurement waits for its last answers (seconds)."""

_ACCOUNTS: Final = 10_000
_FAILOVER_RATE_PER_S: Final = 200.0
_FAILOVER_REST_S: Final = (0.3, 0.8)
_FAILOVER_HOLD_S: Final = (0.8, 1.2)

Call = tuple[str, list[Any]]


@dataclass(frozen=True, slots=True)
class Measured:
    """One closed loop. ``through``: the node or nodes that were called; latency from the call to its answer (ms)."""

    what: str
    through: str
    in_flight: int
    seconds: float
    answers: int
    rate_per_s: float
    latency_ms_p50: float
    latency_ms_p99: float
    latency_ms_max: float


def decide(
    options: BenchOptions, config: Config | None = None, on_result: Callable[[Measured], None] = lambda measured: None
) -> BenchReport:
    """Decisions without branches, on the running cluster of ``config`` or on a throwaway one; blocks.

    Through the leader; with one call in flight through a follower as well. Unavailable if the cluster has no leader.
    """
    if config is not None:
        return run(_decide_on(config, options, on_result), fast=True)
    plan = StagePlan(options.nodes, options.seed, clients=0)
    return measured_on(plan, lambda stage: _decide(tuple(stage.links.values()), options, on_result))


def transfer(options: BenchOptions, on_result: Callable[[Measured], None] = lambda measured: None) -> BenchReport:
    """Transactions over two SQLite participants on a throwaway cluster, through all nodes in turn; blocks."""
    source = Generated(options.seed, banks=1, accounts=_ACCOUNTS)
    opening = source.opening()
    plan = StagePlan(options.nodes, options.seed, opening, host_banks(opening, 1), clients=0)
    orders = source.orders()

    def call() -> Call:
        return "submit", [TxId.new(), next(orders).payloads(), CALL_TIMEOUT_MS, "decided"]

    async def scene(stage: Stage) -> BenchReport:
        links = tuple(stage.links.values())
        results = []
        for number in options.in_flight:
            results.append(await measure("transfer", links, call, number, options.seconds))
            on_result(results[-1])
        return BenchReport("transfer", len(links), tuple(results))

    return measured_on(plan, scene)


def failover(kills: int = 20, nodes: int = 3, seed: int = 1, on_event: OnEvent = lambda event: None) -> DrillReport:
    """kill -9 of the leader ``kills`` times (1 to KILLS_MAX) under load; blocks. See ``failover_s_*`` in the figures."""
    if not 1 <= kills <= KILLS_MAX:
        raise ConfigError(f"{kills} kills of the leader is out of range; give 1 to {KILLS_MAX}")
    if nodes not in (3, 5, 7):
        raise ConfigError(f"a failover needs 3, 5 or 7 nodes, not {nodes}")
    source = Generated(seed, banks=1)
    opening = source.opening()
    rng = random.Random(seed)

    async def scene(trial: Trial) -> DrillReport:
        async with asyncio.TaskGroup() as group, trial.told_progress():
            group.create_task(trial.load.at_rate(source.orders(), _FAILOVER_RATE_PER_S, in_flight_max=256))
            while len(trial.faults) < kills and not trial.broken:
                await asyncio.sleep(rng.uniform(*_FAILOVER_REST_S))
                await trial.strike(kill_leader, rng.uniform(*_FAILOVER_HOLD_S))
            trial.load.stop()
        await trial.settle()
        violations, figures, directory = await trial.judge(keep=False)
        return DrillReport("bench failover", violations, figures, seed, directory, trial.faults)

    plan = StagePlan(nodes, seed, opening, host_banks(opening, 1))
    return tried(plan, opening, on_event, scene)


async def _decide_on(config: Config, options: BenchOptions, on_result: Callable[[Measured], None]) -> BenchReport:
    links = tuple(NodeLink(node, random.Random(options.seed)) for node in config.nodes)
    for link in links:
        link.start()
    try:
        return await _decide(links, options, on_result)
    finally:
        for link in links:
            await link.stop()


async def _decide(
    links: Sequence[NodeLink], options: BenchOptions, on_result: Callable[[Measured], None]
) -> BenchReport:
    leader_name = (await leader_among(links)).name
    leader = next(link for link in links if link.name == leader_name)
    follower = next((link for link in links if link is not leader and link.connection), None)
    results = []
    for number in options.in_flight:
        for link, role in ((leader, "leader"), (follower, "follower")):
            if link is None or (role == "follower" and number > 1):
                continue
            what = f"decide through the {role}"
            results.append(await measure(what, [link], _decision, number, options.seconds))
            on_result(results[-1])
    return BenchReport("decide", len(links), tuple(results))


def _decision() -> Call:
    return "decide", [TxId.new(), int(Verdict.COMMIT), [], "", CALL_TIMEOUT_MS]


async def measure(
    what: str, links: Sequence[NodeLink], call: Callable[[], Call], in_flight: int, seconds: float
) -> Measured:
    """Keep ``in_flight`` calls open over ``links`` in turn for ``seconds``, after a warm-up.

    Each must be answered with COMMITTED. Raises the first error that a node answers, Unavailable if answers stay away.
    """
    closed_loop = _ClosedLoop(links, call)
    for _ in range(in_flight):
        closed_loop.send()
    await wait_until(lambda: closed_loop.failed is not None, WARM_UP_S)
    latencies = closed_loop.latencies_s = []
    began_s = perf_counter()
    await wait_until(lambda: closed_loop.failed is not None, seconds)
    closed_loop.latencies_s = None
    ran_s = perf_counter() - began_s
    closed_loop.stopped = True
    if not await wait_until(lambda: closed_loop.open == 0 or closed_loop.failed is not None, STALL_S):
        raise Unavailable(f"{closed_loop.open} calls have no answer for {STALL_S:g} s; look at `raftcoord status`")
    if closed_loop.failed is not None:
        raise closed_loop.failed
    milliseconds = [latency * 1000 for latency in latencies]
    return Measured(
        what,
        ", ".join(link.name for link in links),
        in_flight,
        ran_s,
        len(latencies),
        len(latencies) / ran_s,
        percentile(milliseconds, 50),
        percentile(milliseconds, 99),
        max(milliseconds, default=math.nan),
    )


def _refused(error: RpcError) -> RaftcoordError:
    if error.code == codes.CONNECTION_LOST:
        return Unavailable(f"{error.message}; look at `raftcoord status`, and run it again")
    return codes.to_error(error)


class _ClosedLoop:
    """Each answer sends the next call, until ``stopped``. Without futures and tasks: they would be what is measured."""

    def __init__(self, links: Sequence[NodeLink], call: Callable[[], Call]) -> None:
        self.latencies_s: list[float] | None = None
        self.failed: RaftcoordError | None = None
        self.stopped = False
        self.open = 0
        self._turn = itertools.cycle(links)
        self._call = call

    def send(self) -> None:
        link = next(self._turn)
        connection = link.connection
        if connection is None:
            self.failed = self.failed or Unavailable(f"node {link.name} cannot be reached; start it")
            return
        method, params = self._call()
        self.open += 1
        connection.call(method, params, functools.partial(self._answered, perf_counter()))

    def _answered(self, called_s: float, error: RpcError | None, result: Any) -> None:
        self.open -= 1
        if error is not None:
            self.failed = self.failed or _refused(error)
        elif result[0] != State.COMMITTED:
            self.failed = self.failed or RaftcoordError(
                f"not committed but {State(result[0])}: {result[1]}; run it again"
            )
        elif self.latencies_s is not None:
            self.latencies_s.append(perf_counter() - called_s)
        if not self.stopped and self.failed is None:
            self.send()
