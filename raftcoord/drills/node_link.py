"""A connection to one named node, for those who must know which node answered: the audit, the faults, the benchmarks.

It owes the answer of that node or an error; it never asks another node instead.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any, Final

from raftcoord import limits
from raftcoord.api import leading
from raftcoord.api.leading import Leader
from raftcoord.config import NodeConfig
from raftcoord.drills.audit import LedgerRow
from raftcoord.errors import RemoteProtocolError, Unavailable
from raftcoord.rpc import codes
from raftcoord.rpc.codes import RpcError
from raftcoord.rpc.connection import Connection
from raftcoord.rpc.dial import Dialer
from raftcoord.types import State, TxId

ASK_TIMEOUT_S: Final = 1.0
ROWS_IN_FLIGHT: Final = 256
"""Questions about the ledger that are open at one node at a time."""

LEADER_TIMEOUT_S: Final = 15.0
"""How long to wait for a leader (seconds): dozens of elections."""

_LOOK_S: Final = 0.02


class NodeLink:
    """Keeps a client connection to ``node`` up between ``start`` and ``stop``."""

    def __init__(self, node: NodeConfig, rng: random.Random) -> None:
        self.name: str = node.name
        self._dialer = Dialer(
            node.client.host,
            node.client.port,
            self,
            role="client",
            details=lambda: {"name": "drill"},
            rng=rng,
            on_up=lambda conn, hello: None,
            on_down=lambda reason: None,
            max_frame_bytes=limits.CLIENT_FRAME_BYTES_MAX,
            label=f"drill to {node.name}",
        )

    def start(self) -> None:
        self._dialer.start()

    async def stop(self) -> None:
        await self._dialer.stop()

    @property
    def connection(self) -> Connection | None:
        return self._dialer.conn

    async def ask(self, method: str, params: Iterable[Any] = (), *, timeout_s: float = ASK_TIMEOUT_S) -> Any:
        """One question to this node. Unavailable if it is not connected, hangs up or does not answer in time."""
        connection = self._dialer.conn
        if connection is None:
            raise Unavailable(f"node {self.name} cannot be reached: {self._dialer.last_error}; start it")
        try:
            return await asyncio.wait_for(connection.request(method, list(params)), timeout_s)
        except TimeoutError:
            raise Unavailable(f"node {self.name} has not answered {method!r} within {timeout_s} s") from None
        except RpcError as error:
            if error.code == codes.CONNECTION_LOST:
                raise Unavailable(f"node {self.name} hung up; start it") from None
            raise codes.to_error(error) from None

    async def rows(self, txids: Iterable[TxId], until_s: float) -> dict[TxId, LedgerRow]:
        """What this node's ledger says of each of ``txids``. Unavailable if it does not say by ``until_s`` (``loop.time()``)."""
        rows: dict[TxId, LedgerRow] = {}
        waiting = iter(txids)

        async def asker(waiting: Iterator[TxId]) -> None:
            for txid in waiting:
                rows[txid] = await self._row(txid, until_s)

        try:
            async with asyncio.TaskGroup() as askers:
                for _ in range(ROWS_IN_FLIGHT):
                    askers.create_task(asker(waiting))
        except* Unavailable as errors:
            first = errors.exceptions[0]
        else:
            return rows
        raise first

    async def _row(self, txid: TxId, until_s: float) -> LedgerRow:
        loop = asyncio.get_running_loop()
        while True:
            try:
                shown = await self.ask("show", [txid])
                if shown is None:
                    state, _, _, term, index = await self.ask("status", [txid], timeout_s=5 * ASK_TIMEOUT_S)
                    return LedgerRow(State(state), (), term, index)
                return LedgerRow(State(shown["state"]), tuple(shown["outstanding"]), shown["term"], shown["index"])
            except Unavailable:
                if loop.time() >= until_s:
                    raise
                await asyncio.sleep(_LOOK_S)

    # -- as a connection's handler: a node asks its clients nothing -----------------------------------------------

    def on_open(self, conn: Connection) -> None:
        """Nothing to do before the hello."""

    def on_hello(self, conn: Connection, role: str, details: dict[str, Any]) -> dict[str, Any]:
        raise RemoteProtocolError("a hello from the end that was dialed")

    def on_request(self, conn: Connection, request_id: int, method: str, params: list[Any]) -> None:
        raise RemoteProtocolError(f"the request {method!r} to a client")

    def on_notify(self, conn: Connection, method: str, params: list[Any]) -> None:
        raise RemoteProtocolError(f"the notification {method!r} to a client")

    def on_closed(self, conn: Connection, reason: str) -> None:
        """The dialer takes care of it."""


async def eventually(condition: Callable[[], Awaitable[bool]], seconds: float) -> bool:
    """Look every 20 ms until ``condition()`` holds. False if it does not within ``seconds``."""
    loop = asyncio.get_running_loop()
    until_s = loop.time() + seconds
    while True:
        if await condition():
            return True
        if loop.time() >= until_s:
            return False
        await asyncio.sleep(_LOOK_S)


async def shown_by(links: Iterable[NodeLink]) -> dict[str, dict[str, Any]]:
    """What each node that answers says of itself."""
    asked = tuple(links)
    answers = await asyncio.gather(*(link.ask("node") for link in asked), return_exceptions=True)
    return {link.name: answer for link, answer in zip(asked, answers, strict=True) if isinstance(answer, dict)}


async def leader_among(links: Iterable[NodeLink]) -> Leader:
    """The node that leads the latest term. Unavailable if there is none for LEADER_TIMEOUT_S."""
    asked = tuple(links)
    found: list[Leader] = []

    async def led() -> bool:
        leader = leading.leader_among(await shown_by(asked))
        found[:] = [] if leader is None else [leader]
        return leader is not None

    if not await eventually(led, LEADER_TIMEOUT_S):
        raise Unavailable(f"no node has led for {LEADER_TIMEOUT_S:g} s; start a majority of the nodes")
    return found[0]
