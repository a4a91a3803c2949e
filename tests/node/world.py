"""A node on loopback over a LocalConsensus, clients that speak the wire, and participants that follow a script."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from node.local_consensus import LocalConsensus, Log
from raftcoord import limits
from raftcoord.config import Address, Config, NodeConfig
from raftcoord.core.tables.decisions import Decision
from raftcoord.databases.resource_config import ResourceConfig
from raftcoord.env import Env
from raftcoord.errors import Unavailable
from raftcoord.limits import NodeBounds
from raftcoord.node.node import Node
from raftcoord.rpc.codes import RpcError
from raftcoord.rpc.connection import Connection
from raftcoord.rpc.dial import connect
from raftcoord.types import Branch, NodeName, State, TxId, Verdict

NOW_MS = 1_750_000_000_000
YES, NO, READ_ONLY = [1, ""], [0, "sold out"], [2, ""]
SILENCE = object()


async def until(condition: Callable[[], object]) -> None:
    """Wait, at most 10 s, until the condition holds."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what is waited for is another's state
            await asyncio.sleep(0.001)


class Clock:
    """A wall clock that stands still."""

    def __init__(self) -> None:
        self.ms = NOW_MS

    def __call__(self) -> int:
        return self.ms


_count = iter(range(1 << 40))


def new_txid(ms: int = NOW_MS) -> TxId:
    """A txid of the clock's time, later than those before."""
    return TxId.new(ms, next(_count).to_bytes(10, "big"))


class Served:
    """One running node and its parts."""

    def __init__(self, consensus: LocalConsensus, clock: Clock, resources: tuple[str, ...], bounds: NodeBounds) -> None:
        name = consensus.name
        address = NodeConfig(NodeName(name), Address("127.0.0.1", 1), Address("127.0.0.1", 0), Path("unused") / name)
        self.consensus = consensus
        self.clock = clock
        self.halted: list[Exception] = []
        databases = tuple(ResourceConfig(Branch(each), "postgresql://db/shop") for each in resources)
        config = Config("test", (address,), resources=databases)
        env = Env(clock, random.Random(7))
        self.node = Node(config, name, consensus, consensus, env, on_halt=self.halted.append, bounds=bounds)

    def decision(self, txid: TxId) -> Decision | None:
        return self.consensus.ledger.decision(txid)

    def proposed(self, kind: type) -> list[Any]:
        return [command for command in self.consensus.proposed if isinstance(command, kind)]


@asynccontextmanager
async def serving(
    log: Log, *, clock: Clock | None = None, resources: tuple[str, ...] = (), bounds: NodeBounds = NodeBounds()
) -> AsyncIterator[list[Served]]:
    """Every node of ``log``, on loopback. ``resources``: the names of those in cluster.yaml."""
    clock = clock or Clock()
    served = [Served(consensus, clock, resources, bounds) for consensus in log.nodes]
    for one in served:
        await one.node.start()
    try:
        yield served
    finally:
        for one in served:
            await one.node.stop()
            assert not one.halted


@asynccontextmanager
async def serving_one(*, clock: Clock | None = None, bounds: NodeBounds = NodeBounds()) -> AsyncIterator[Served]:
    """A cluster of one node."""
    async with serving(Log("n1"), clock=clock, bounds=bounds) as (served,):
        yield served


class End:
    """The dialing end of a connection: it is asked nothing unless a subclass answers."""

    def on_open(self, conn: Connection) -> None:
        pass

    def on_hello(self, conn: Connection, role: str, details: dict[str, Any]) -> dict[str, Any]:
        raise AssertionError("a dialer is not asked")

    def on_request(self, conn: Connection, request_id: int, method: str, params: list[Any]) -> None:
        raise AssertionError("a client is not asked")

    def on_notify(self, conn: Connection, method: str, params: list[Any]) -> None:
        raise AssertionError("nobody notifies")

    def on_closed(self, conn: Connection, reason: str) -> None:
        pass


async def dial(served: Served, handler: End, role: str, details: dict[str, Any]) -> tuple[Connection, dict[str, Any]]:
    return await connect(
        "127.0.0.1",
        served.node.client_port,
        handler,
        role=role,
        details=details,
        max_frame_bytes=limits.CLIENT_FRAME_BYTES_MAX,
        label=role,
        timeout=10,
    )


class Caller:
    """A client."""

    def __init__(self, conn: Connection) -> None:
        self.conn = conn

    @classmethod
    async def of(cls, served: Served) -> Caller:
        conn, _ = await dial(served, End(), "client", {"name": "test"})
        return cls(conn)

    def begin(self, method: str, *params: Any) -> asyncio.Future[Any]:
        return self.conn.request(method, list(params))

    async def ask(self, method: str, *params: Any) -> Any:
        return await asyncio.wait_for(self.begin(method, *params), 10)

    async def refused(self, method: str, *params: Any) -> RpcError:
        """The error that answers."""
        try:
            answer = await self.ask(method, *params)
        except RpcError as error:
            return error
        raise AssertionError(f"{method} answered {answer!r}")

    async def decide(self, txid: TxId, verdict: Verdict = Verdict.COMMIT, *branches: str) -> Any:
        return await self.ask("decide", txid, int(verdict), list(branches), "", 5000)

    def submit(self, txid: TxId, *banks: str, timeout_ms: int = 5000, wait: str = "decided") -> asyncio.Future[Any]:
        return self.begin("submit", txid, dict.fromkeys(banks, "pay"), timeout_ms, wait)

    async def outcome(self, txid: TxId) -> State:
        return State((await self.ask("status", txid))[0])


class Bank(End):
    """A participant that answers what ``script`` says and remembers what it ``heard``.

    ``script[method]``: the answer, an RpcError, SILENCE, or a function of the txid that gives one of them.
    """

    def __init__(self, name: str, **script: Any) -> None:
        self.name = name
        self.script: dict[str, Any] = {"prepare": YES, "commit": True, "abort": True, **script}
        self.heard: list[tuple[str, TxId]] = []
        self.silent: list[tuple[Connection, int]] = []
        self.conns: list[Connection] = []
        self.instance = f"{name}-1"
        self.identity = ""

    async def join(self, *served: Served) -> Bank:
        """Connect to each node."""
        for one in served:
            conn, hello = await self._dial(one)
            assert hello["cluster"]
            self.conns.append(conn)
        return self

    async def _dial(self, served: Served) -> tuple[Connection, dict[str, Any]]:
        """Dial until it is not refused for a moment only, as a worker does."""
        details = {"name": self.name, "instance": self.instance, "identity": self.identity}
        async with asyncio.timeout(10):
            while True:
                try:
                    return await dial(served, self, "participant", details)
                except Unavailable:
                    await asyncio.sleep(0.002)

    def leave(self) -> None:
        """End every connection."""
        for conn in self.conns:
            conn.close("the test says so")
        self.conns.clear()

    def on_request(self, conn: Connection, request_id: int, method: str, params: list[Any]) -> None:
        txid = TxId(params[0])
        self.heard.append((method, txid))
        answer = self.script[method]
        if callable(answer):
            answer = answer(txid)
        if answer is SILENCE:
            self.silent.append((conn, request_id))
        elif isinstance(answer, RpcError):
            conn.reply_failure(request_id, answer)
        else:
            conn.reply(request_id, answer)

    def speak(self, answer: Any) -> None:
        """Answer what was met with silence."""
        silent, self.silent = self.silent, []
        for conn, request_id in silent:
            conn.reply(request_id, answer)

    async def hears(self, method: str, txid: TxId, times: int = 1) -> None:
        await until(lambda: self.heard.count((method, txid)) >= times)

    def told(self, txid: TxId) -> list[str]:
        """What it was told of ``txid``, other than to prepare."""
        return [method for method, of in self.heard if of == txid and method != "prepare"]

    async def ask(self, method: str, *params: Any) -> Any:
        """Ask its first node."""
        return await asyncio.wait_for(self.conns[0].request(method, list(params)), 10)
