"""A node in a thread, over a log that the test writes: real service, real ledger, real client, and any decision at any time."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from node.local_consensus import CLUSTER, Log
from node.world import Clock, Served, serving

from raftcoord import Client, TxId
from raftcoord.core.tables.damages import Damage
from raftcoord.core.tables.decisions import Decision
from raftcoord.core.tables.table import Command
from raftcoord.databases import gid as gids
from raftcoord.databases.gid import Gid


class Nodes:
    """The node, and a ``client`` of it."""

    def __init__(self, served: Served, log: Log, loop: asyncio.AbstractEventLoop) -> None:
        self._served = served
        self._log = log
        self._loop = loop
        self.client = Client.from_addresses([f"127.0.0.1:{served.node.client_port}"])

    def append(self, command: Command) -> None:
        """Commit a command."""

        async def do() -> None:
            self._log.append(command)

        asyncio.run_coroutine_threadsafe(do(), self._loop).result(10)

    def set_clock(self, ahead_ms: int) -> None:
        """Set the node's clock."""
        self._served.clock.ms = int(time.time() * 1000) + ahead_ms

    def decision(self, txid: TxId) -> Decision | None:
        return self._served.decision(txid)

    def damages(self) -> list[Damage]:
        return list(self._served.consensus.ledger.damages())

    def state(self, txid: TxId) -> str:
        return str(self.client.status(txid).state)

    def outstanding(self, txid: TxId) -> tuple[str, ...]:
        decision = self.decision(txid)
        assert decision is not None
        return decision.outstanding

    @staticmethod
    def gid(branch: str, txid: TxId | None = None) -> Gid:
        return gids.make(CLUSTER, txid or TxId.new(), branch)


@contextmanager
def running() -> Iterator[Nodes]:
    """A cluster of one node."""
    made: list[Nodes] = []
    ready, done = threading.Event(), asyncio.Event()
    clock, log = Clock(), Log("n1")
    clock.ms = int(time.time() * 1000)
    loop = asyncio.new_event_loop()

    async def serve() -> None:
        async with serving(log, clock=clock) as (served,):
            made.append(Nodes(served, log, loop))
            ready.set()
            await done.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield made[0]
    finally:
        made[0].client.close()
        loop.call_soon_threadsafe(done.set)
        thread.join(10)
        loop.close()
