"""A throwaway cluster of real processes: nodes, banks, clients, and the means to break them.

It owes true answers about what runs, and it never touches a process or a directory that is not its own. Whoever makes Props
owes ``end``; play.py does.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
import sys
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from raftcoord.client.asynchronous import AsyncClient
from raftcoord.drills.audit import Books, Row
from raftcoord.drills.books import open_banks, prepared_count, read_books
from raftcoord.drills.faults import Leader
from raftcoord.drills.link import NodeLink, eventually, leader_among, shown_by
from raftcoord.drills.orders import Opening
from raftcoord.errors import RaftcoordError
from raftcoord.processes.local_cluster import LocalCluster, write_local_config
from raftcoord.processes.local_process import LocalProcess
from raftcoord.rpc.codes import RpcError
from raftcoord.types import Branch, TxId

READY_TIMEOUT_S: Final = 30.0
"""How long the cluster may take until it has a leader and every bank is connected to every node (seconds)."""

REFUSED_TIMEOUT_S: Final = 10.0
"""How long it may take until a wiped node was refused: it is dialed at least every second."""

LEDGER_TIMEOUT_S: Final = 60.0
"""How long all nodes together may take to tell their ledgers (seconds)."""


@dataclass(frozen=True, slots=True)
class Plan:
    """``hosts``: process name -> the banks that run in it. ``node_module``: what a node process runs.

    ``clients``: so many that each node has some; a client chooses its node at random and stays with it.
    """

    nodes: int
    opening: Opening
    hosts: Mapping[str, tuple[Branch, ...]]
    seed: int
    clients: int = 12
    node_module: str = "raftcoord.node"


def host_banks(opening: Opening, processes: int) -> dict[str, tuple[Branch, ...]]:
    """The first bank, which is the home bank, in a process of its own; the others dealt over ``processes`` more."""
    home, *others = opening
    groups: dict[str, tuple[Branch, ...]] = {str(home): (home,)}
    for number in range(min(processes, len(others))):
        dealt = tuple(others[number::processes])
        groups[str(dealt[0]) if len(dealt) == 1 else f"banks-{number + 1}"] = dealt
    return groups


class Props:
    """The files and processes of a stage. Everything here blocks."""

    def __init__(self, directory: Path, plan: Plan) -> None:
        self.directory = directory
        self.databases = open_banks(directory, plan.opening)
        config = write_local_config(directory, plan.nodes)
        self.cluster = LocalCluster(config, throwaway=True, node_module=plan.node_module)
        self.hosts = {name: self._host(name, banks) for name, banks in plan.hosts.items()}

    def _host(self, name: str, banks: Iterable[Branch]) -> LocalProcess:
        command = [
            sys.executable,
            "-m",
            "raftcoord.drills.banks",
            "--config",
            str(self.cluster.config.path),
            "--name",
            name,
        ]
        command += [f"{bank}={self.databases[bank]}" for bank in banks]
        return LocalProcess(
            f"participant {name}",
            command,
            self.directory / f"{name}.log",
            self.directory / f"{name}.pid",
            throwaway=True,
        )

    def end(self) -> None:
        """SIGKILL what still runs: everything that matters is on the disk by now."""
        for process in self.hosts.values():
            process.kill()
        for node in self.cluster.config.nodes:
            self.cluster.kill(node.name)


class Stage:
    """What a scene plays on. It is a ``faults.Target``."""

    def __init__(self, props: Props, plan: Plan) -> None:
        self.directory = props.directory
        self.rng = random.Random(plan.seed)
        self.nodes: Sequence[str] = tuple(node.name for node in props.cluster.config.nodes)
        self.hosts: Sequence[str] = tuple(props.hosts)
        self.clients: list[AsyncClient] = []
        self.links = {node.name: NodeLink(node, random.Random(plan.seed)) for node in props.cluster.config.nodes}
        self._props = props
        self._plan = plan
        self._cluster = props.cluster
        self._running: set[str] = set()

    @contextlib.asynccontextmanager
    async def lit(self) -> AsyncIterator[Self]:
        """Everything runs and is connected inside; on the way out the connections are closed."""
        async with contextlib.AsyncExitStack() as stack:
            await asyncio.gather(
                asyncio.to_thread(self._cluster.start_all),
                *(self.start_host(name) for name in self.hosts),
            )
            self._running.update(self.nodes)
            for link in self.links.values():
                link.start()
                stack.push_async_callback(link.stop)
            await self._everything_connected()
            for _ in range(self._plan.clients):
                client = AsyncClient.from_config(str(self._cluster.config.path))
                self.clients.append(await stack.enter_async_context(client))
            yield self

    async def _everything_connected(self) -> None:
        banks = set(self._plan.opening)

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
        """What each node that answers says of itself."""
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
        prepared = await self.prepared_count()
        return [*left, f"{prepared} branches prepared"] if prepared else left

    async def prepared_count(self) -> int:
        """How many branches are prepared now in all banks together."""
        return prepared_count(self._props.databases)

    async def ledgers(self, txids: Iterable[TxId]) -> dict[str, dict[TxId, Row]]:
        """What each node's ledger says of ``txids``. Unavailable if one does not tell."""
        asked = tuple(txids)
        until_s = asyncio.get_running_loop().time() + LEDGER_TIMEOUT_S
        rows = await asyncio.gather(*(link.rows(asked, until_s) for link in self.links.values()))
        return dict(zip(self.links, rows, strict=True))

    def books(self) -> dict[str, Books]:
        """Every bank's books, as they are now."""
        return {bank: read_books(path) for bank, path in self._props.databases.items()}

    # -- breaking and mending -------------------------------------------------------------------------------------

    async def kill_node(self, name: str) -> None:
        """SIGKILL."""
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
        """SIGSTOP."""
        await asyncio.to_thread(self._cluster.pause, name)

    async def resume_node(self, name: str) -> None:
        """SIGCONT."""
        await asyncio.to_thread(self._cluster.resume, name)

    async def kill_host(self, name: str) -> None:
        """SIGKILL a process of banks."""
        await asyncio.to_thread(self._props.hosts[name].kill)

    async def start_host(self, name: str) -> None:
        """Start a process of banks; it has opened its databases when this returns."""
        process = self._props.hosts[name]
        await asyncio.to_thread(process.start)
        await asyncio.to_thread(process.wait_ready)


def _takes_part(node: dict[str, Any] | None) -> bool:
    return node is not None and node["role"] in ("leader", "follower") and node["leader"] is not None
