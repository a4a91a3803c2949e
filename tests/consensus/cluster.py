"""Real Consensus objects in one process: real node.db files, real loopback sockets, real time."""

from __future__ import annotations

import asyncio
import random
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from raftcoord.config import Address, Config, NodeConfig, Timing
from raftcoord.consensus.consensus import Consensus
from raftcoord.consensus.sync_thread import Runner
from raftcoord.core.tables.decisions import Decide, Result
from raftcoord.core.tables.table import Command
from raftcoord.env import Env
from raftcoord.errors import Unavailable
from raftcoord.limits import NodeBounds
from raftcoord.node.membership import change
from raftcoord.storage.node_db import NodeDb
from raftcoord.types import NodeName, TxId, Verdict

PATIENCE_S = 30.0
"""How long a condition may take on a busy machine; none of them takes it when all is well."""


async def until(condition: Callable[[], Any], what: str) -> None:
    """Wait for ``condition()``."""
    loop = asyncio.get_running_loop()
    end = loop.time() + PATIENCE_S
    while not condition():
        assert loop.time() < end, f"waited in vain for: {what}"
        await asyncio.sleep(0.005)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def config_in(directory: Path, nodes: int = 3, cluster: str = "test") -> Config:
    """A cluster whose data lies in ``directory``."""
    ports = iter(free_ports(2 * nodes))
    return Config(
        cluster,
        tuple(
            NodeConfig(
                NodeName(f"n{i}"),
                Address("127.0.0.1", next(ports)),
                Address("127.0.0.1", next(ports)),
                directory / f"n{i}",
            )
            for i in range(1, nodes + 1)
        ),
        Timing(20, 150, 300),
    )


class HeldRunner:
    """A sync that is finished when the test says so. ``held`` True: nothing is synced until ``release``."""

    def __init__(self) -> None:
        self.held = False
        self.waiting: list[tuple[Callable[[], Any], Callable[[Any, BaseException | None], None]]] = []
        self._loop = asyncio.get_running_loop()

    def run(self, work: Callable[[], Any], done: Callable[[Any, BaseException | None], None]) -> None:
        """Do it now, or keep it."""
        self.waiting.append((work, done))
        if not self.held:
            self.release()

    def release(self) -> None:
        """Do what was kept."""
        waiting, self.waiting = self.waiting, []
        for work, done in waiting:
            try:
                result, error = work(), None
            except Exception as caught:
                result, error = None, caught
            self._loop.call_soon(done, result, error)


class Cluster:
    """Nodes n1, n2, ... of one configuration, of which some run."""

    def __init__(self, config: Config, bounds: NodeBounds = NodeBounds()) -> None:
        self.config = config
        self.bounds = bounds
        self.nodes: dict[str, Consensus] = {}
        self.dbs: dict[str, NodeDb] = {}
        self.halted: list[tuple[str, Exception]] = []

    @property
    def names(self) -> list[str]:
        """Every node's name."""
        return [node.name for node in self.config.nodes]

    async def start(self, *names: str, runner: Runner | None = None, config: Config | None = None) -> None:
        """Start these nodes (default: all that do not run) from what lies in their directories."""
        config = config or self.config
        for name in names or [name for name in self.names if name not in self.nodes]:
            db = NodeDb.open(config.node(name).data_dir, cluster_name=config.cluster, node=name, bounds=self.bounds)
            env = Env(lambda: time.time_ns() // 1_000_000, random.Random())

            def on_halt(error: Exception, name: str = name) -> None:
                self.halted.append((name, error))

            node = Consensus(config, NodeName(name), db, env, on_halt=on_halt, runner=runner, bounds=self.bounds)
            self.nodes[name], self.dbs[name] = node, db
            await node.start()

    async def stop(self, *names: str) -> None:
        """Stop these nodes (default: all)."""
        for name in names or list(self.nodes):
            await self.nodes.pop(name).stop()
            self.dbs.pop(name).close()

    async def wipe(self, name: str) -> None:
        """Stop this node, and start it without its data."""
        if name in self.nodes:
            await self.stop(name)
        shutil.rmtree(self.config.node(name).data_dir)
        await self.start(name)

    def link(self, name: str, to: str) -> dict[str, Any]:
        """What node ``name`` says of its peer ``to``."""
        return self.nodes[name].peers_status()[NodeName(to)]

    async def replace(self, name: str) -> Any:
        """Have the leader take in the one that it has refused under ``name``; the answer."""
        leader = await self.leader_but(name)
        await until(lambda: self.link(leader, name)["refused"], f"{leader} to have refused {name}")
        return await self.change("replace", name)

    async def change(self, step: str, name: str) -> Any:
        """What the leader answers to this change of the members, asked again while it says that it cannot be made yet."""
        loop = asyncio.get_running_loop()
        end = loop.time() + PATIENCE_S
        while True:
            leader = await self.leader_but(name)
            answer: asyncio.Future[Any] = loop.create_future()
            change(self.nodes[leader], leader, step, name, end, answer.set_result)
            async with asyncio.timeout_at(end + 5):  # a node that halts may owe it for ever
                await answer
            if not isinstance(answer.result(), Unavailable) or loop.time() > end:
                return answer.result()
            await asyncio.sleep(0.02)

    async def leader_but(self, name: str) -> str:
        """The name of the leader, whom all but ``name`` follow."""

        def others() -> set[str | None]:
            return {
                node.leader for other, node in self.nodes.items() if other != name and node.position().role != "waiting"
            }

        await until(lambda: len(others()) == 1 and None not in others(), "a leader")
        return str(others().pop())

    async def voting(self, *names: str) -> None:
        """Wait until these are the voters, on every running one of them."""

        def voters(node: Consensus) -> set[str]:
            members = node.members
            return set() if members is None else {member.name for member in members.members if member.voter}

        await until(
            lambda: all(voters(node) == set(names) for name, node in self.nodes.items() if name in names),
            f"the voters {names}",
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for node in self.nodes.values():
            runner: Any = node._host._runner
            if isinstance(runner, HeldRunner):
                runner.held = False
                runner.release()
        await self.stop()

    async def leader(self) -> str:
        """The name of the leader that every running node follows."""
        await until(
            lambda: (
                len({node.leader for node in self.nodes.values()}) == 1
                and next(iter(self.nodes.values())).leader in self.nodes
            ),
            "a leader",
        )
        name = next(iter(self.nodes.values())).leader
        assert name is not None
        return name

    async def followers(self) -> list[str]:
        """The names of the others."""
        leader = await self.leader()
        return [name for name in self.nodes if name != leader]

    def propose(self, name: str, command: Command, wait: float = PATIENCE_S) -> asyncio.Future[Any]:
        """Propose at that node; the future gets whatever the answer is."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()

        def done(result: Result | Exception) -> None:
            assert not future.done(), "a second answer"
            future.set_result(result)

        self.nodes[name].propose(command, loop.time() + wait, done)
        return future

    def decide(
        self, name: str, verdict: Verdict = Verdict.COMMIT, txid: TxId | None = None, wait: float = PATIENCE_S
    ) -> asyncio.Future[Any]:
        """Propose a decision there."""
        return self.propose(name, Decide(txid or TxId.new(), verdict, ("a",), "", "", 0), wait)

    async def decided(self, name: str, verdict: Verdict = Verdict.COMMIT) -> TxId:
        """Decide there, and wait until that stands."""
        txid = TxId.new()
        standing = await self.decide(name, verdict, txid)
        assert standing.decision.txid == txid
        assert standing.first
        return txid

    async def agreed(self) -> None:
        """Wait until every running node has applied the same."""
        nodes = self.nodes.values()
        await until(
            lambda: len({(node.applied_index, node.position().log_last) for node in nodes}) == 1,
            "the same applied index everywhere",
        )
