"""A stage whose banks are a PostgreSQL and a MariaDB: nodes, a resolver, two servers, and paying programs beside them.

It owes the end of both servers and their directories, as the stage does of everything else; their logs stay with the others.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import shutil
import threading
from collections.abc import AsyncIterator, Iterable, Mapping
from pathlib import Path
from typing import Final, Self

from raftcoord.config import Config
from raftcoord.drills.audit import Books
from raftcoord.drills.database_banks import DatabaseBanks, raise_banks
from raftcoord.drills.link import eventually
from raftcoord.drills.orders import HOME_BANK, Opening
from raftcoord.drills.programs import Program, Work
from raftcoord.drills.servers import MariaDbServer, NotHere, PostgreSqlServer, Server
from raftcoord.drills.stage import Plan, Props, Stage
from raftcoord.errors import ConfigError, RaftcoordError
from raftcoord.processes.local_cluster import LocalCluster
from raftcoord.resource_config import ResourceConfig
from raftcoord.resources.steps import ConnectionLost
from raftcoord.types import Branch, TxId

LEDGER: Final = "ledger"
"""The resource in PostgreSQL: the home bank."""
ORDERS: Final = "orders"
"""The resource in MariaDB: all other banks."""

KINDS: Final[Mapping[str, type[Server]]] = {LEDGER: PostgreSqlServer, ORDERS: MariaDbServer}
CALLED: Final = {LEDGER: "PostgreSQL", ORDERS: "MariaDB"}

LOCKS_TIMEOUT_S: Final = 30.0
"""How long a prepared branch may stay after whoever can finish it is back (seconds); more is a violation."""


class DatabaseProps(Props):
    """``opening``: of all banks. The servers and programs are not here before somebody has raised them."""

    def __init__(self, directory: Path, plan: Plan, opening: Opening) -> None:
        super().__init__(directory, plan)
        self.opening = opening
        self.servers: dict[str, Server] = {}
        self.banks: dict[str, DatabaseBanks] = {}
        self.programs: list[Program] = []
        self._raising = threading.Lock()

    def raise_servers(self) -> None:
        """Start both servers, open the accounts, and write the resources into cluster.yaml."""
        with self._raising:
            for name, kind in KINDS.items():
                try:
                    self.servers[name] = kind(durable=True)
                    self.servers[name].start()
                except NotHere as error:
                    raise ConfigError(str(error)) from None
                except RuntimeError as error:
                    raise RaftcoordError(f"{CALLED[name]} cannot be started for the demo: {error}") from None
                self.banks[name] = raise_banks(self.servers[name], name)
            others = {bank: accounts for bank, accounts in self.opening.items() if bank != HOME_BANK}
            self.banks[LEDGER].open({HOME_BANK: self.opening[HOME_BANK]})
            self.banks[ORDERS].open(others)
        config = self.cluster.config
        resources = tuple(ResourceConfig(Branch(name), bank.url) for name, bank in self.banks.items())
        assert config.path is not None
        config.path.write_text(dataclasses.replace(config, resources=resources).to_yaml(), encoding="utf-8")
        self.cluster = LocalCluster(Config.load(config.path), throwaway=True)

    def stop_servers(self) -> None:
        """End them and what they have stored; their logs are kept with the other files."""
        with self._raising:
            for name, server in self.servers.items():
                with contextlib.suppress(OSError):
                    shutil.copyfile(server.log, self.directory / f"{CALLED[name]}.log")
                server.stop()
            self.servers.clear()

    def end(self) -> None:
        """SIGKILL what still runs."""
        with contextlib.ExitStack() as stack:
            stack.callback(self.stop_servers)
            stack.callback(super().end)
            stack.callback(self.cluster.resolver.kill)
            for program in self.programs:
                stack.callback(program.process.kill)


class DatabaseStage(Stage):
    """What the demo on databases plays on. ``locks_held_s``: how long, after each kill, until its locks were free."""

    def __init__(self, props: DatabaseProps, plan: Plan) -> None:
        super().__init__(props, plan)
        self.locks_held_s: list[float] = []
        self._things = props

    @contextlib.asynccontextmanager
    async def lit(self) -> AsyncIterator[Self]:
        """See Stage; the servers and the resolver run as well."""
        try:
            await asyncio.to_thread(self._things.raise_servers)
            self._cluster = self._things.cluster
            async with super().lit():
                await asyncio.to_thread(self._cluster.start_resolver)
                yield self
        finally:
            # In a thread of the running loop: a server ends with the thread that has started it.
            await asyncio.to_thread(self._things.stop_servers)

    def raise_programs(self, count: int, work: Work) -> list[Program]:
        """``count`` programs that are ended with the stage. They do not run yet."""
        self._things.programs = [Program(work, number, count) for number in range(count)]
        return self._things.programs

    @property
    def config(self) -> Path:
        """cluster.yaml."""
        assert self._cluster.config.path is not None
        return self._cluster.config.path

    # -- looking --------------------------------------------------------------------------------------------------

    def books(self) -> dict[str, Books]:
        """See Stage."""
        return {bank: book for banks in self._things.banks.values() for bank, book in banks.books().items()}

    async def prepared_count(self) -> int:
        """See Stage."""
        return len(await asyncio.to_thread(self.prepared))

    def prepared(self, name: str = "") -> list[TxId]:
        """What is prepared in resource ``name``, or in both. Blocks."""
        chosen = [self._things.banks[name]] if name else self._things.banks.values()
        return [txid for banks in chosen for txid in banks.prepared()]

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

    # -- breaking and mending -------------------------------------------------------------------------------------

    async def kill_resolver(self) -> None:
        """SIGKILL."""
        await asyncio.to_thread(self._cluster.resolver.kill)

    async def start_resolver(self) -> None:
        """Start it again; it looks at both databases when this returns."""
        await asyncio.to_thread(self._cluster.start_resolver)

    async def kill_server(self, name: str) -> None:
        """SIGKILL of the database server of resource ``name``."""
        await asyncio.to_thread(self._things.servers[name].kill)

    async def start_server(self, name: str) -> None:
        """Start it again; it answers when this returns."""
        try:
            await asyncio.to_thread(self._things.servers[name].start)
        except RuntimeError as error:
            raise RaftcoordError(f"{CALLED[name]} did not come back: {error}") from None
