"""Programs that commit over two simulated databases: the real transaction block of the real client, one after the other."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping
from typing import Final, Protocol

from raftcoord.client.async_transaction import AsyncTransaction
from raftcoord.client.asynchronous import AsyncClient
from raftcoord.databases.steps import Statement
from raftcoord.errors import Aborted, InDoubt, RaftcoordError
from raftcoord.sim.database import UPDATE, SimConnection, SimServer
from raftcoord.sim.loop import Process
from raftcoord.sim.sessions import ProgramSession
from raftcoord.types import Branch, TxId

_GAP_S: Final = 0.4
"""The usual pause between two transactions of a program (s)."""


class ProgramHost(Protocol):
    """Whose program it is."""

    @property
    def servers(self) -> Mapping[str, SimServer]:
        """By name."""

    @property
    def stopped(self) -> bool:
        """Whether no more transactions begin."""

    def point(self, process: Process, label: str) -> None:
        """A program passes ``label``."""

    def aborted(self, txid: TxId) -> None:
        """A program was told Aborted."""

    def read(self, txid: TxId) -> None:
        """A program has read that txid."""

    def counted(self, program: str, txid: TxId, outcome: str) -> None:
        """That is how a transaction ended for its program."""


class Program:
    """One life of a program."""

    def __init__(self, owner: ProgramHost, process: Process, client: AsyncClient, rng: random.Random) -> None:
        self._owner = owner
        self._process = process
        self._client = client
        self._rng = rng
        self._pool: dict[str, SimConnection] = {}

    async def live(self) -> None:
        """One transaction after the other."""
        while not self._owner.stopped:
            await asyncio.sleep(self._rng.expovariate(1 / _GAP_S))
            tx = self._client.transaction(timeout=self._rng.choice((0.3, 1.0, 3.0)))
            txid = tx._committing.minted  # unread: whether a block reads it is a choice of its own
            self._owner.counted(self._process.name, txid, await self._transaction(tx, txid))

    async def _transaction(self, tx: AsyncTransaction, txid: TxId) -> str:
        rng = self._rng
        names = rng.sample(list(self._owner.servers), 2 if rng.random() < 0.85 else 1)
        amount = rng.randrange(1, 100) if len(names) == 2 else 0
        try:
            async with tx:
                for name, part in zip(names, (amount, -amount), strict=False):
                    session = self._session(name)
                    await tx.enlist_session(session)
                    await session.execute(Statement(f"{UPDATE}{part}"))
                if rng.random() < 0.1:
                    raise _OutOfStock
                if rng.random() < 0.3 and tx.txid is not None:
                    self._owner.read(txid)
        except _OutOfStock:
            return "left with an exception"
        except InDoubt:
            return "InDoubt"
        except Aborted:
            self._owner.aborted(txid)
            return "Aborted"
        except RaftcoordError as error:
            self._owner.aborted(txid)
            return type(error).__name__
        return "committed"

    def _session(self, name: str) -> ProgramSession:
        """Over the connection of the time before, perhaps."""
        connection = self._pool.pop(name, None)
        if connection is None or not connection.open or self._rng.random() < 0.5:
            if connection is not None:
                connection.hang_up()
            connection = self._owner.servers[name].connect(self._process, "program")
        self._pool[name] = connection
        return ProgramSession(connection, Branch(name), lambda label: self._owner.point(self._process, label))


class _OutOfStock(Exception):
    """The program's own error."""
