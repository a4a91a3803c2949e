"""The whole examination: everything is asked at once, and what does not answer in time gets a row that says so.

Owed: about 13 s at the most, whatever hangs: names, nodes, databases, file systems. Never: an exception for what is wrong; it is
a row.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from raftcoord.api.answers import DamagePage, NodeStatus
from raftcoord.client.asynchronous import AsyncClient
from raftcoord.config import Config
from raftcoord.databases.resource_config import ResourceConfig
from raftcoord.doctor import access, clocks, databases, horizon, nodes, prepared
from raftcoord.doctor.databases import DatabaseLook
from raftcoord.doctor.findings import DoctorReport, Row, Severity
from raftcoord.doctor.in_thread import in_thread
from raftcoord.env import Env
from raftcoord.errors import RaftcoordError, Unavailable
from raftcoord.storage.founded import founded_in
from raftcoord.types import State, TxId

DATABASE_S: Final = 9.0
"""How long a database may take (s): drivers give up a connection after 5 s, and an old branch is looked at twice."""

DISK_S: Final = 9.0
LEDGER_S: Final = 2.0
"""How long the ledger may take to say what stands of one transaction (s)."""

TELL_AFTER_S: Final = 2.0
"""Silence after which it is told what is waited for (s)."""

DAMAGES_SHOWN: Final = 20

_T = TypeVar("_T")


def examine(config: Config, tell: Callable[[str], None] = lambda _: None) -> DoctorReport:
    """Look at everything that ``config`` names. ``tell``: progress, when it is slow. Blocks. ``config.path`` must be a file."""
    return asyncio.run(_Examination(config, tell).run())


class _Examination:
    def __init__(self, config: Config, tell: Callable[[str], None]) -> None:
        self._config = config
        self._tell = tell
        self._now_ms = Env.real().wall_ms
        self._waiting: dict[str, None] = {}

    async def run(self) -> DoctorReport:
        teller = asyncio.create_task(self._progress())
        try:
            async with asyncio.TaskGroup() as group:
                looks = [group.create_task(self._database(resource)) for resource in self._config.resources]
                local = group.create_task(self._local())
                asked = group.create_task(self._nodes(looks))
        finally:
            teller.cancel()
        return DoctorReport([_read(self._config), *asked.result(), *local.result()])

    # -- the nodes, and with them what they know of the databases ----------------------------------------------------

    async def _nodes(self, looks: list[asyncio.Task[DatabaseLook]]) -> list[Row]:
        reachable, unknown = await self._waits("the nodes' hosts", nodes.endpoints(self._config))
        rows: list[Row] = []
        found: DamagePage | RaftcoordError = Unavailable("no node of a founded cluster answers")
        states: dict[TxId, State | None] = {}
        cluster, looked = "", []
        said: dict[str, NodeStatus | RaftcoordError] = dict(unknown)
        if reachable:
            found_here, where = founded_in(node.data_dir for node in self._config.nodes)
            async with AsyncClient(
                reachable,
                cluster_name=self._config.cluster,
                cluster_id=found_here,
                source=str(where),
                name="doctor",
            ) as client:
                heard = await self._waits("the nodes", client.nodes(timeout=nodes.ASK_S))
                said.update(heard)
                ids = [info["cluster"] for info in heard.values() if isinstance(info, dict) and info["cluster"]]
                cluster = str(ids[0]) if ids else ""
                times = await nodes.clocks(client, heard, self._now_ms)
                answering = {name: info for name, info in heard.items() if isinstance(info, dict)}
                rows += clocks.judge(times, self._config.retention_ms)
                rows += horizon.judge(answering, times, self._now_ms(), self._config.retention_ms)
                found = await self._damages(client) if ids else found
                looked = await asyncio.gather(*looks)
                states = await self._states(client, looked, cluster) if ids else states
        else:
            looked = await asyncio.gather(*looks)
        in_order: nodes.Told = {str(node.name): said[node.name] for node in self._config.nodes}
        named = frozenset(resource.name for resource in self._config.resources)
        for resource, each in zip(self._config.resources, looked, strict=True):
            rows += each.rows
            if each.found is not None:
                rows += prepared.judge(resource.name, named, each.found, cluster, states)
        return [*nodes.judge(in_order), *nodes.judge_damages(found), *rows]

    async def _damages(self, client: AsyncClient) -> DamagePage | RaftcoordError:
        try:
            return await client.damages(limit=DAMAGES_SHOWN, timeout=nodes.ASK_S)
        except RaftcoordError as error:
            return error

    async def _states(self, client: AsyncClient, looked: list[DatabaseLook], cluster: str) -> dict[TxId, State | None]:
        """What the ledger says of each transaction that is prepared for long; None: it did not say."""

        async def ask(txid: TxId) -> tuple[TxId, State | None]:
            try:
                return txid, (await client.status(txid, timeout=LEDGER_S)).state
            except RaftcoordError:
                return txid, None

        txids = {txid for each in looked if each.found for txid in prepared.questions(each.found, cluster)}
        return dict(await asyncio.gather(*map(ask, txids)))

    # -- in threads -----------------------------------------------------------------------------------------------

    async def _database(self, resource: ResourceConfig) -> DatabaseLook:
        name = f"resource {resource.name}"
        try:
            work = in_thread(lambda: databases.look(resource, self._now_ms), DATABASE_S)
            return await self._waits(name, work)
        except TimeoutError:
            what = f"it did not answer within {DATABASE_S:g} s"
            return DatabaseLook([databases.unreachable(resource.name, what)], None)
        except Exception as error:  # a driver's own kind, which says more than silence would
            what = f"the driver failed: {type(error).__name__}: {resource.scrub(str(error))}"
            return DatabaseLook([databases.unreachable(resource.name, what)], None)

    async def _local(self) -> list[Row]:
        try:
            return await self._waits("the data directories", in_thread(self._here, DISK_S))
        except TimeoutError:
            what = f"the data directories did not answer within {DISK_S:g} s: their file system hangs"
            return [Row(clocks.HERE, "directory", Severity.ERROR, what, "look at dmesg, and at the mount")]
        except OSError as error:
            what = f"what runs on this machine cannot be seen: {error.strerror}: {error.filename}"
            return [Row(clocks.HERE, "directory", Severity.WARNING, what, "run this as the user that runs the nodes")]

    def _here(self) -> list[Row]:
        here = [*nodes.directories(self._config), *nodes.judge_resolver(self._config)]
        return [*here, *access.judge_ports(self._config)]

    # -- progress --------------------------------------------------------------------------------------------------

    async def _waits(self, what: str, work: Awaitable[_T]) -> _T:
        self._waiting[what] = None
        try:
            return await work
        finally:
            del self._waiting[what]

    async def _progress(self) -> None:
        while True:
            await asyncio.sleep(TELL_AFTER_S)
            if self._waiting:
                self._tell(f"waiting for {', '.join(self._waiting)}")


def _read(config: Config) -> Row:
    resources = f", {len(config.resources)} resources" if config.resources else ", no resources"
    return Row(nodes.CLUSTER, "cluster.yaml", Severity.OK, f"{config.path}: {len(config.nodes)} nodes{resources}")
