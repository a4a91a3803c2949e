"""Nodes that do what a test's script says, on real sockets."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from raftcoord import AsyncClient, TxId, limits
from raftcoord.rpc.codes import RpcError
from raftcoord.rpc.connection import Connection
from raftcoord.rpc.server import Server, listen
from raftcoord.types import State

CLUSTER = "00000000000000aa"
GRACE_S = 0.3
SILENCE = object()
HANG_UP = object()

Step = Callable[[str, list[Any]], Any]
"""What a node answers to (method, params): a result, an RpcError, SILENCE, or HANG_UP."""


def committed(term: int = 3, index: int = 7) -> list[Any]:
    return [int(State.COMMITTED), "", "", term, index]


def aborted(reason: str, branch: str = "", term: int = 3, index: int = 7) -> list[Any]:
    return [int(State.ABORTED), reason, branch, term, index]


class ScriptedNode:
    """``answers[method]``: a Step, or what a Step would return. ``asked``: every (method, params) so far."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.cluster = CLUSTER
        self.answers: dict[str, Any] = {"node": lambda method, params: self.info()}
        self.asked: list[tuple[str, list[Any]]] = []
        self.conns: set[Connection] = set()
        self.server: Server | None = None
        self.port = 0

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def methods(self) -> list[str]:
        return [method for method, _ in self.asked]

    def info(self) -> dict[str, Any]:
        return {"node": self.name, "cluster": self.cluster, "cluster_name": "demo"}

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

    def on_open(self, conn: Connection) -> None:
        self.conns.add(conn)

    def on_hello(self, conn: Connection, role: str, details: dict[str, Any]) -> dict[str, Any]:
        assert role == "client"
        return self.info()

    def on_request(self, conn: Connection, request_id: int, method: str, params: list[Any]) -> None:
        self.asked.append((method, params))
        answer = self.answers.get(method, RpcError("unavailable", f"{self.name} knows no leader"))
        if callable(answer):
            answer = answer(method, params)
        if answer is HANG_UP:
            conn.close("scripted")
        elif isinstance(answer, RpcError):
            conn.reply_failure(request_id, answer)
        elif answer is not SILENCE:
            conn.reply(request_id, answer)

    def on_notify(self, conn: Connection, method: str, params: list[Any]) -> None:
        raise AssertionError("a client notifies nobody")

    def on_closed(self, conn: Connection, reason: str) -> None:
        self.conns.discard(conn)


def in_turn(*answers: Any) -> Step:
    """Each of ``answers`` once, in order, and then the last for ever."""
    left = list(answers)

    def step(method: str, params: list[Any]) -> Any:
        answer = left.pop(0) if len(left) > 1 else left[0]
        return answer(method, params) if callable(answer) else answer

    return step


@asynccontextmanager
async def cluster(count: int = 3, make: type[ScriptedNode] = ScriptedNode) -> AsyncIterator[list[ScriptedNode]]:
    nodes = [make(f"n{number}") for number in range(1, count + 1)]
    for node in nodes:
        await node.start()
    try:
        yield nodes
    finally:
        for node in nodes:
            await node.stop()


@asynccontextmanager
async def client_of(nodes: Sequence[ScriptedNode], first: ScriptedNode | None = None) -> AsyncIterator[AsyncClient]:
    """A client that begins with ``first``."""
    before = asyncio.all_tasks()
    async with AsyncClient.from_addresses([node.address for node in nodes], grace=GRACE_S) as client:
        if first is not None:
            client._nodes.in_use = client._nodes.links[nodes.index(first)]
        yield client
    assert asyncio.all_tasks() == before, "the client left a task"


def raw(txid: TxId) -> bytes:
    return bytes(txid)


async def until(condition: Callable[[], object], what: str = "the condition") -> None:
    """Pass the loop until ``condition`` holds, for at most 5 s."""
    deadline = asyncio.get_running_loop().time() + 5
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, f"{what} did not come about within 5 s"
        await asyncio.sleep(0.001)
