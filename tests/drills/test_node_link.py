"""The audit and the benchmarks hear the node that they asked, or an error."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from raftcoord import limits
from raftcoord.bench.cluster import Measured, measure
from raftcoord.config import Address, NodeConfig
from raftcoord.drills.audit import LedgerRow
from raftcoord.drills.faults import Leader
from raftcoord.drills.node_link import NodeLink, eventually, leader_among
from raftcoord.errors import LocalProtocolError, RaftcoordError, Unavailable
from raftcoord.rpc.connection import Connection
from raftcoord.rpc.server import listen
from raftcoord.types import NodeName, State, TxId

T = TypeVar("T")
KNOWN, UNKNOWN = TxId.new(), TxId.new()
FREE_PORT = 1
"""Nobody listens on tcpmux."""


class Node:
    """A node's client port that has one decision and commits whatever it is told to decide, until ``refuses``."""

    def __init__(self) -> None:
        self.refuses = ""
        self.open = 0
        self.open_max = 0

    def on_open(self, conn: Connection) -> None:
        pass

    def on_hello(self, conn: Connection, role: str, details: dict[str, Any]) -> dict[str, Any]:
        return {"node": "n1", "cluster": "0123456789abcdef", "cluster_name": "demo"}

    def on_request(self, conn: Connection, request_id: int, method: str, params: list[Any]) -> None:
        match method:
            case "node":
                conn.reply(request_id, {"role": "leader", "term": 4, "leader": "n1"})
            case "show":
                row = {"state": 1, "outstanding": ["bank-aa"], "term": 3, "index": 9}
                conn.reply(request_id, row if params[0] == KNOWN else None)
            case "status":
                conn.reply(request_id, [2, "", "", 4, 20])
            case "decide":
                self.open += 1
                self.open_max = max(self.open, self.open_max)
                asyncio.get_running_loop().call_soon(self._decide, conn, request_id)
            case "silence":
                pass
            case _:
                raise LocalProtocolError(f"no method {method}")

    def _decide(self, conn: Connection, request_id: int) -> None:
        self.open -= 1
        conn.reply(request_id, [0, self.refuses, "", 4, 21] if self.refuses else [1, "", "", 4, 21])

    def on_notify(self, conn: Connection, method: str, params: list[Any]) -> None:
        pass

    def on_closed(self, conn: Connection, reason: str) -> None:
        pass


def config_of(port: int) -> NodeConfig:
    return NodeConfig(NodeName("n1"), Address("127.0.0.1", FREE_PORT), Address("127.0.0.1", port), Path("n1"))


def linked(scene: Callable[[NodeLink, Node], Awaitable[T]]) -> T:
    async def scenario() -> T:
        node = Node()
        server = await listen("127.0.0.1", 0, lambda: node, max_frame_bytes=limits.CLIENT_FRAME_BYTES_MAX, label="test")
        link = NodeLink(config_of(server.port), random.Random(0))
        link.start()
        try:
            assert await eventually(lambda: _up(link), 5.0)
            return await scene(link, node)
        finally:
            await link.stop()
            server.close()
            await server.wait_closed()

    return asyncio.run(scenario())


async def _up(link: NodeLink) -> bool:
    return link.connection is not None


def test_a_recorded_decision_is_a_row_and_an_unrecorded_one_is_asked_for_with_a_barrier() -> None:
    async def scene(link: NodeLink, node: Node) -> dict[TxId, LedgerRow]:
        return await link.rows([KNOWN, UNKNOWN], asyncio.get_running_loop().time() + 5)

    assert linked(scene) == {
        KNOWN: LedgerRow(State.COMMITTED, ("bank-aa",), 3, 9),
        UNKNOWN: LedgerRow(State.UNDECIDED, (), 4, 20),
    }


def test_the_leader_is_the_node_that_says_so() -> None:
    assert linked(lambda link, node: leader_among([link])) == Leader("n1", 4)


def test_a_node_that_does_not_answer_is_unavailable_and_not_waited_for() -> None:
    async def scene(link: NodeLink, node: Node) -> None:
        with pytest.raises(Unavailable, match="has not answered 'silence'"):
            await link.ask("silence", timeout_s=0.01)

    linked(scene)


def test_a_node_that_cannot_be_reached_is_unavailable() -> None:
    async def scenario() -> None:
        link = NodeLink(config_of(FREE_PORT), random.Random(0))
        link.start()
        try:
            with pytest.raises(Unavailable, match="node n1 cannot be reached"):
                await link.ask("node")
            with pytest.raises(Unavailable, match="node n1 cannot be reached"):
                await link.rows([KNOWN], asyncio.get_running_loop().time())
        finally:
            await link.stop()

    asyncio.run(scenario())


def test_a_refusal_keeps_its_kind() -> None:
    async def scene(link: NodeLink, node: Node) -> None:
        with pytest.raises(LocalProtocolError, match="no method nonsense"):
            await link.ask("nonsense")

    linked(scene)


def measured(in_flight: int, refuses: str = "") -> tuple[Measured, Node]:
    async def scene(link: NodeLink, node: Node) -> tuple[Measured, Node]:
        node.refuses = refuses
        return await measure("decide", [link], lambda: ("decide", []), in_flight, 0.1), node

    return linked(scene)


@pytest.mark.parametrize("in_flight", [1, 16])
def test_a_closed_loop_keeps_so_many_calls_open_and_no_more(in_flight: int) -> None:
    result, node = measured(in_flight)
    assert node.open_max == in_flight
    assert node.open == 0
    assert result.answers > 0
    assert result.rate_per_s == result.answers / result.seconds
    assert 0 < result.latency_ms_p50 <= result.latency_ms_p99 <= result.latency_ms_max


def test_a_benchmark_that_loses_its_node_is_unavailable() -> None:
    async def scene(link: NodeLink, node: Node) -> None:
        def hang_up() -> tuple[str, list[object]]:
            assert link.connection is not None
            asyncio.get_running_loop().call_later(0.02, link.connection.close, "killed")
            return "decide", []

        await measure("decide", [link], hang_up, 1, 0.1)

    with pytest.raises(Unavailable, match=r"run it again|cannot be reached"):
        linked(scene)


def test_a_benchmark_of_refused_calls_is_an_error_and_no_rate() -> None:
    with pytest.raises(RaftcoordError, match="not committed but ABORTED: no such thing"):
        measured(4, refuses="no such thing")
