"""A node as a participant's worker sees it: it listens, takes the hello, asks, and answers status and resolve."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from raftcoord import limits
from raftcoord.config import Address
from raftcoord.env import Env
from raftcoord.errors import RaftcoordError
from raftcoord.participants.interface import Participant
from raftcoord.participants.worker import Worker
from raftcoord.rpc.codes import RpcError
from raftcoord.rpc.connection import Connection
from raftcoord.rpc.server import Server, listen
from raftcoord.types import State, TxId

CLUSTER = "00000000000000aa"
SILENCE = object()


class FakeNode:
    def __init__(self, name: str = "n1", cluster: str = CLUSTER) -> None:
        self.name = name
        self.cluster = cluster
        self.conn: Connection | None = None
        self.hellos: list[dict[str, Any]] = []
        self.asked: list[tuple[str, TxId]] = []
        self.outcome: Callable[[str, TxId], object] = lambda method, txid: State.UNDECIDED
        self.server: Server | None = None
        self.port = 0

    @property
    def address(self) -> Address:
        return Address("127.0.0.1", self.port)

    async def start(self) -> None:
        self.server = await listen(
            "127.0.0.1", self.port, lambda: self, max_frame_bytes=limits.CLIENT_FRAME_BYTES_MAX, label=self.name
        )
        self.port = self.server.port

    async def stop(self) -> None:
        if self.server is not None:
            self.server.close()
            await self.server.wait_closed()
            self.server = None

    async def ask(self, method: str, txid: TxId, *params: Any) -> Any:
        """The answer, or the RpcError as a value."""
        await until(lambda: self.conn is not None and not self.conn.closed)
        assert self.conn is not None
        try:
            return await self.conn.request(method, [bytes(txid), *params])
        except RpcError as error:
            return error

    async def prepare(self, txid: TxId, payload: object, timeout_ms: int = 60_000) -> Any:
        return await self.ask("prepare", txid, payload, timeout_ms)

    async def ask_bad(self) -> None:
        """Ask what the worker refuses at once: the answer shows that all that was sent before has arrived."""
        assert isinstance(await self.ask("nothing", TxId.new()), RpcError)

    def on_open(self, conn: Connection) -> None:
        pass

    def on_hello(self, conn: Connection, role: str, details: dict[str, Any]) -> dict[str, Any]:
        assert role == "participant"
        self.hellos.append(details)
        self.conn = conn
        return {"node": self.name, "cluster": self.cluster, "cluster_name": "demo"}

    def on_request(self, conn: Connection, request_id: int, method: str, params: list[Any]) -> None:
        txid = TxId(params[0])
        self.asked.append((method, txid))
        assert params[1] == self.hellos[-1]["name"]
        answer = self.outcome(method, txid)
        if isinstance(answer, RaftcoordError):
            raise answer
        if isinstance(answer, State):
            conn.reply(request_id, [int(answer), "", "", 1, 1])
        elif answer is not SILENCE:
            conn.reply(request_id, answer)

    def on_notify(self, conn: Connection, method: str, params: list[Any]) -> None:
        pass

    def on_closed(self, conn: Connection, reason: str) -> None:
        if self.conn is conn:
            self.conn = None


@asynccontextmanager
async def serving(participant: Participant, *nodes: FakeNode, **options: Any) -> AsyncIterator[Worker]:
    """A worker that is connected to every node that is of its cluster."""
    async with listening(*nodes):
        worker = Worker(participant, "bank-a", [node.address for node in nodes], Env.real(), **options)
        async with running(worker):
            await until(lambda: all(node.hellos for node in nodes))
            yield worker


@asynccontextmanager
async def listening(*nodes: FakeNode) -> AsyncIterator[Sequence[FakeNode]]:
    for node in nodes:
        await node.start()
    try:
        yield nodes
    finally:
        for node in nodes:
            await node.stop()


@asynccontextmanager
async def running(worker: Worker) -> AsyncIterator[None]:
    task = asyncio.create_task(worker.run())
    ready = asyncio.create_task(worker.ready.wait())
    try:
        await asyncio.wait([task, ready], return_when=asyncio.FIRST_COMPLETED, timeout=10)
        yield
    finally:
        ready.cancel()
        worker.stop()
        await asyncio.wait_for(task, 10)


async def until(condition: Callable[[], bool]) -> None:
    """Wait, at most 10 s, until the condition holds."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what is waited for is another's state
            await asyncio.sleep(0.002)
