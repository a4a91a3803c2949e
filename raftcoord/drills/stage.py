"""A throwaway cluster of real processes: nodes, banks, databases with a resolver, clients, and the means to break them.

It owes true answers about what runs, and it never touches a process or a directory that is not its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path
from typing import Any, Final, Self

from raftcoord.client.asynchronous import AsyncClient
from raftcoord.databases.registry import named
from raftcoord.databases.steps import ConnectionLost
from raftcoord.drills.audit import Books, LedgerRow
from raftcoord.drills.books import prepared_count, read_books
from raftcoord.drills.faults import Leader
from raftcoord.drills.node_link import NodeLink, eventually, leader_among, shown_by
from raftcoord.drills.paying_programs import PayingProgram, PayingWork
from raftcoord.drills.props import Props
from raftcoord.errors import RaftcoordError
from raftcoord.processes.local_cluster import LocalCluster
from raftcoord.rpc.codes import RpcError
from raftcoord.types import Branch, TxId

READY_TIMEOUT_S: Final = 30.0
"""How long the cluster may take until it has a leader and every bank is connected to every node (seconds)."""

REFUSED_TIMEOUT_S: Final = 10.0
"""How long it may take until a wiped node was refused: it is dialed at least every second."""

LEDGER_TIMEOUT_S: Final = 60.0
"""How long all nodes together may take to tell their ledgers (seconds)."""


LOCKS_TIMEOUT_S: Final = 30.0
"""How long a prepared branch may stay after the process that can finish it is back (seconds); more is a violation."""


class Stage:
    """What a scene plays on; a ``faults.Target``. ``locks_held_s``: how long, after each kill, until its locks were free."""

    def __init__(self, props: Props) -> None:
        plan = props.plan
        self.directory = props.directory
        self.rng = random.Random(plan.seed)
        self.nodes: Sequence[str] = tuple(node.name for node in props.cluster.config.nodes)
        self.hosts: Sequence[str] = tuple(props.hosts)
        self.clients: list[AsyncClient] = []
        self.links = {node.name: NodeLink(node, random.Random(plan.seed)) for node in props.cluster.config.nodes}
        self.locks_held_s: list[float] = []
        self.props = props
        self._running: set[str] = set()

    def raise_programs(self, count: int, work: PayingWork) -> list[PayingProgram]:
        """``count`` programs that are ended with the stage. They do not run yet."""
        self.props.programs = [PayingProgram(work, number, count) for number in range(count)]
        return self.props.programs

    @property
    def config(self) -> Path:
        assert self._cluster.config.path is not None
        return self._cluster.config.path

    @property
    def _cluster(self) -> LocalCluster:
        return self.props.cluster

    @contextlib.asynccontextmanager
    async def lit(self) -> AsyncIterator[Self]:
        """Everything runs and is connected inside; on the way out the connections are closed, and the servers stopped."""
        async with contextlib.AsyncExitStack() as stack:
            if self.props.plan.databases:
                # In a thread of the running loop: a server ends with the thread that has started it.
                stack.push_async_callback(asyncio.to_thread, self.props.stop_servers)
                await asyncio.to_thread(self.props.raise_databases)
            await asyncio.gather(
                asyncio.to_thread(self._cluster.start_all),
                *(self.start_host(name) for name in self.hosts),
            )
            self._running.update(self.nodes)
            for link in self.links.values():
                link.start()
                stack.push_async_callback(link.stop)
            await self._everything_connected()
            for _ in range(self.props.plan.clients):
                client = AsyncClient.from_config(str(self.config))
                self.clients.append(await stack.enter_async_context(client))
            await asyncio.to_thread(self._cluster.start_resolver)
            yield self

    async def _everything_connected(self) -> None:
        banks = set(self.props.plan.opening)

        async def connected() -> bool:
            shown = await self.shown()
            return len(shown) == len(self.nodes) and all(
                node["leader"] is not None and banks <= set(node["participants"]) for node in shown.values()
            )

        if not await eventually(connected, READY_TIMEOUT_S):
            raise RaftcoordError(
                f"the cluster was not ready within {READY_TIMEOUT_S:g} s; look at the logs in {self.directory}"
            )

    # -- looking --------------------------------------------------------------------------------------------------

    def choose(self, names: Sequence[str]) -> str:
        """One of ``names``, by the seed."""
        return self.rng.choice(names)

    async def shown(self) -> dict[str, dict[str, Any]]:
        return await shown_by(self.links.values())

    async def leader(self) -> Leader:
        """The node that leads the latest term. Unavailable if there is none for a while."""
        return await leader_among(self.links.values())

    async def busiest_node(self) -> str:
        """The node that coordinates the most transactions now."""
        shown = await self.shown()
        return max(self.nodes, key=lambda name: shown[name]["running"] if name in shown else -1)

    def fallen(self) -> list[str]:
        """Nodes that have ended although nobody killed them."""
        return sorted(name for name in self._running if self._cluster.pid(name) is None)

    async def quiet(self, seconds: float) -> str:
        """Wait until nothing is running, outstanding or prepared. What still is after ``seconds``; "" if nothing."""
        left = ["the nodes were not asked"]

        async def settled() -> bool:
            left[:] = await self._unsettled()
            return not left

        await eventually(settled, seconds)
        return "; ".join(left)

    async def _unsettled(self) -> list[str]:
        shown = await self.shown()
        left = [f"node {name} does not answer" for name in self.nodes if name not in shown]
        for name, node in shown.items():
            left += [f"{node[what]} {what} at node {name}" for what in ("running", "open") if node[what]]
        if len({node["applied_index"] for node in shown.values()}) > 1:
            left.append("the nodes have not applied the same entries")
        try:
            prepared = prepared_count(self.props.files) + len(await asyncio.to_thread(self.prepared))
        except ConnectionLost as error:
            return [*left, str(error)]
        return [*left, f"{prepared} branches prepared"] if prepared else left

    def prepared(self, kind: str = "") -> list[TxId]:
        """What is prepared in the databases, or in those of ``kind`` alone. Blocks."""
        chosen = [name for name, database in self.props.plan.databases.items() if kind in ("", database.kind)]
        return [txid for name in chosen for txid in self.props.banks[name].prepared()]

    async def freed(self, txids: Iterable[TxId], since_s: float) -> float:
        """Wait until none of ``txids`` is prepared anywhere; the seconds since ``since_s`` (``loop.time()``)."""
        waiting = set(txids)

        async def is_free() -> bool:
            try:
                return not waiting.intersection(await asyncio.to_thread(self.prepared))
            except ConnectionLost:
                return False

        if not await eventually(is_free, LOCKS_TIMEOUT_S):
            raise RaftcoordError(f"{len(waiting)} transactions are still prepared after {LOCKS_TIMEOUT_S:g} s")
        held_s = asyncio.get_running_loop().time() - since_s
        self.locks_held_s.append(held_s)
        return held_s

    async def ledgers(self, txids: Iterable[TxId]) -> dict[str, dict[TxId, LedgerRow]]:
        """What each node's ledger says of ``txids``. Unavailable if one does not tell."""
        asked = tuple(txids)
        until_s = asyncio.get_running_loop().time() + LEDGER_TIMEOUT_S
        rows = await asyncio.gather(*(link.rows(asked, until_s) for link in self.links.values()))
        return dict(zip(self.links, rows, strict=True))

    def books(self) -> dict[str, Books]:
        """Every bank's books, as they are now. A bank in a database that it has not been opened in is a bank of its own."""
        books: dict[str, Books] = {bank: read_books(path) for bank, path in self.props.files.items()}
        for name, banks in self.props.banks.items():
            opened = self.props.plan.databases[Branch(name)].opening
            books |= {bank if bank in opened else f"{bank} in {name}": book for bank, book in banks.books().items()}
        return books

    # -- breaking and repairing -------------------------------------------------------------------------------------

    async def kill_node(self, name: str) -> None:
        self._running.discard(name)
        await asyncio.to_thread(self._cluster.kill, name)

    async def start_node(self, name: str) -> None:
        """Start a killed node on its own directory; it is ready when this returns."""
        await asyncio.to_thread(self._cluster.start, name)
        self._running.add(name)

    async def wipe_node(self, name: str) -> None:
        """Delete the data directory of a killed node."""
        await asyncio.to_thread(shutil.rmtree, self._cluster.config.node(name).data_dir)

    async def refused_by(self, name: str) -> str:
        """A node that refuses node ``name`` as wiped or replaced; "" if ``name`` takes part, or after REFUSED_TIMEOUT_S."""
        refusing = [""]

        async def told() -> bool:
            shown = await self.shown()
            others = [other for other in shown if other != name and shown[other]["peers"][name]["refused"]]
            refusing[:] = others or [""]
            return bool(others) or _takes_part(shown.get(name))

        await eventually(told, REFUSED_TIMEOUT_S)
        return refusing[0]

    async def takes_part(self, name: str) -> bool:
        """Whether node ``name`` follows a leader or leads, within READY_TIMEOUT_S."""

        async def told() -> bool:
            return _takes_part((await self.shown()).get(name))

        return await eventually(told, READY_TIMEOUT_S)

    async def replace_node(self, name: str) -> None:
        """Have the new node ``name`` taken in for the one of that name whose data is lost."""

        async def replaced() -> bool:
            for node, link in self.links.items():
                with contextlib.suppress(
                    RaftcoordError, RpcError
                ):  # it does not lead, or has not heard of the new node yet
                    if node != name:
                        await link.ask("change_members", ["replace", name], timeout_s=REFUSED_TIMEOUT_S)
                        return True
            return False

        await eventually(replaced, REFUSED_TIMEOUT_S)

    async def pause_node(self, name: str) -> None:
        await asyncio.to_thread(self._cluster.pause, name)

    async def resume_node(self, name: str) -> None:
        await asyncio.to_thread(self._cluster.resume, name)

    async def kill_host(self, name: str) -> None:
        await asyncio.to_thread(self.props.hosts[name].kill)

    async def start_host(self, name: str) -> None:
        """Start a process of banks; it has opened its databases when this returns."""
        process = self.props.hosts[name]
        await asyncio.to_thread(process.start)
        await asyncio.to_thread(process.wait_ready)

    async def kill_resolver(self) -> None:
        await asyncio.to_thread(self._cluster.resolver.kill)

    async def start_resolver(self) -> None:
        """Start it again; it looks at the databases when this returns."""
        await asyncio.to_thread(self._cluster.start_resolver)

    async def kill_server(self, kind: str) -> None:
        await asyncio.to_thread(self.props.servers[kind].kill)

    async def start_server(self, kind: str) -> None:
        """Start it again; it answers when this returns."""
        try:
            await asyncio.to_thread(self.props.servers[kind].start)
        except RuntimeError as error:
            raise RaftcoordError(f"{named(kind).title} did not come back: {error}") from None


def _takes_part(node: dict[str, Any] | None) -> bool:
    return node is not None and node["role"] in ("leader", "follower") and node["leader"] is not None
