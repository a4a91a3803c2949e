"""What is refused before a transaction begins: by clocks, by nodes that are silent, down, or without a leader."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from client.scripted_node import HANG_UP, SILENCE, ScriptedNode, client_of, cluster, committed, until
from raftcoord import COMMIT, AsyncClient, TxId, limits
from raftcoord.client import admission, retry
from raftcoord.errors import ForgottenTxid, FutureTxid, InDoubt, Overloaded, Unavailable
from raftcoord.rpc.codes import RpcError
from raftcoord.types import State

HOUR_MS = 3_600_000
FUTURE = RpcError("bad_request", "txid lies in the future", {"clock": True})


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "REACH_S", 0.4)
    monkeypatch.setattr(admission, "_PAUSE_S", 0.01)
    monkeypatch.setattr(retry, "PATIENCE_S", 0.05)
    monkeypatch.setattr("raftcoord.client.asynchronous.PATIENCE_S", 0.05)
    monkeypatch.setattr(retry, "SHARE_S_MIN", 0.05)


class Clocked(ScriptedNode):
    """A node that says what time it is. ``ahead_ms``: of this machine's clock."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.ahead_ms = 0
        self.horizon_ms = 0
        self.leader: str | None = "n1"

    def info(self) -> dict[str, Any]:
        wall_ms = time.time_ns() // 1_000_000 + self.ahead_ms
        return super().info() | {"wall_ms": wall_ms, "horizon_ms": self.horizon_ms, "leader": self.leader}


def on_nodes(script: Callable[[list[Clocked], AsyncClient], Awaitable[None]]) -> None:
    async def main() -> None:
        async with cluster(make=Clocked) as nodes, client_of(nodes, nodes[0]) as client:
            await script(nodes, client)  # type: ignore[arg-type]

    asyncio.run(main())


def test_a_healthy_node_admits_without_being_asked() -> None:
    async def script(nodes: list[Clocked], client: AsyncClient) -> None:
        assert await client.admit(TxId.new(), 5) == nodes[0].cluster
        asked = sum(len(node.asked) for node in nodes)
        for _ in range(3):
            await client.admit(TxId.new(), 5)
        assert sum(len(node.asked) for node in nodes) == asked

    on_nodes(script)


def test_a_program_whose_clock_is_an_hour_ahead_begins_nothing() -> None:
    async def script(nodes: list[Clocked], client: AsyncClient) -> None:
        for node in nodes:
            node.ahead_ms = -HOUR_MS
        with pytest.raises(FutureTxid, match=r"the clock of this machine is 3\d\d\d s ahead"):
            await client.admit(TxId.new(), 5)

    on_nodes(script)


@pytest.mark.parametrize(
    "ahead_ms", [limits.ClockBounds.future_ms_max - 2_000, limits.ClockBounds.future_ms_max + 2_000]
)
def test_the_clock_is_compared_to_the_bound(ahead_ms: int) -> None:
    async def script(nodes: list[Clocked], client: AsyncClient) -> None:
        txid = TxId.new(time.time_ns() // 1_000_000 + ahead_ms)
        if ahead_ms < limits.ClockBounds.future_ms_max:
            assert await client.admit(txid, 5)
        else:
            with pytest.raises(FutureTxid):
                await client.admit(txid, 5)

    on_nodes(script)


def test_a_node_whose_clock_is_half_an_hour_behind_does_not_stop_a_program() -> None:
    async def script(nodes: list[Clocked], client: AsyncClient) -> None:
        nodes[0].ahead_ms = -HOUR_MS // 2
        assert await client.admit(TxId.new(), 5)
        assert client._nodes.in_use is not client._nodes.links[0]

    on_nodes(script)


def test_a_program_whose_clock_is_behind_the_horizon_begins_nothing() -> None:
    async def script(nodes: list[Clocked], client: AsyncClient) -> None:
        for node in nodes:
            node.horizon_ms = time.time_ns() // 1_000_000 - HOUR_MS
            node.answers["status"] = [State.FORGOTTEN, "", "", 1, 1]
        old = TxId.new(time.time_ns() // 1_000_000 - HOUR_MS - 5_000)
        with pytest.raises(ForgottenTxid, match="older than the horizon"):
            await client.admit(old, 5)
        assert await client.admit(TxId.new(), 5)
        for node in nodes:  # it has lagged, and the horizon was lowered
            node.answers["status"] = [State.UNDECIDED, "", "", 1, 1]
        assert await client.admit(old, 5)

    on_nodes(script)


@pytest.mark.parametrize("how", ["down", "silent", "without a leader"])
def test_nothing_begins_while_no_node_could_decide_it(how: str) -> None:
    async def script(nodes: list[Clocked], client: AsyncClient) -> None:
        for node in nodes:
            node.leader = None
            if how == "silent":
                node.answers["node"] = SILENCE
            elif how == "down":
                await node.stop()
        began = time.monotonic()
        client._nodes.failing = True
        with pytest.raises(Unavailable, match="nothing was begun"):
            await client.admit(TxId.new(), 5)
        assert time.monotonic() - began < 0.4 + 1.0

    on_nodes(script)


@pytest.mark.parametrize("how", [SILENCE, HANG_UP], ids=["silent", "hangs up"])
def test_after_a_decision_that_nobody_answered_the_next_program_asks_first(how: object) -> None:
    async def script(nodes: list[Clocked], client: AsyncClient) -> None:
        assert await client.admit(TxId.new(), 5)
        for node in nodes:
            node.answers["decide"] = how
        with pytest.raises(InDoubt):
            await client.decide(TxId.new(), COMMIT, ["a"], timeout=0.3)
        for node in nodes:
            node.answers["node"] = SILENCE
        with pytest.raises(Unavailable):
            await client.admit(TxId.new(), 5)
        for node in nodes:
            node.answers["node"] = lambda method, params, node=node: node.info()
        assert await client.admit(TxId.new(), 5)

    on_nodes(script)


def test_a_leader_that_is_elected_meanwhile_is_waited_for() -> None:
    async def script(nodes: list[Clocked], client: AsyncClient) -> None:
        for node in nodes:
            node.leader = None
        client._nodes.failing = True
        admitted = asyncio.ensure_future(client.admit(TxId.new(), 5))
        await until(lambda: all("node" in node.methods for node in nodes))
        nodes[2].leader = "n2"
        assert await admitted
        assert client._nodes.in_use is client._nodes.links[2]

    on_nodes(script)


# -- clocks that refuse a request -------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["submit", "decide", "resolve"])
def test_one_node_by_whose_clock_it_is_the_future_is_passed_over(method: str) -> None:
    async def script(nodes: list[Clocked], client: AsyncClient) -> None:
        nodes[0].answers[method] = FUTURE
        for node in nodes[1:]:
            node.answers[method] = committed()
        calls: dict[str, Callable[[], Awaitable[Any]]] = {
            "submit": lambda: client.submit({"a": 1}, timeout=1),
            "decide": lambda: client.decide(TxId.new(), COMMIT, ["a"], timeout=1),
            "resolve": lambda: client.resolve(TxId.new(), timeout=1),
        }
        assert str((await calls[method]()).state) == "COMMITTED"

    on_nodes(script)


def test_a_majority_by_whose_clocks_it_is_the_future_is_believed_at_once() -> None:
    async def script(nodes: list[Clocked], client: AsyncClient) -> None:
        for node in nodes[:2]:
            node.answers["decide"] = FUTURE
        began = time.monotonic()
        with pytest.raises(FutureTxid):
            await client.decide(TxId.new(), COMMIT, ["a"], timeout=30)
        assert time.monotonic() - began < 15

    on_nodes(script)


def test_a_clock_refuses_nothing_for_certain_once_it_may_have_been_decided() -> None:
    async def script(nodes: list[Clocked], client: AsyncClient) -> None:
        nodes[0].answers["decide"] = HANG_UP
        for node in nodes[1:]:
            node.answers["decide"] = FUTURE
        with pytest.raises(InDoubt):
            await client.decide(TxId.new(), COMMIT, ["a"], timeout=0.5)

    on_nodes(script)


# -- time -------------------------------------------------------------------------------------------------------------


def test_what_was_not_attempted_ends_at_the_timeout_and_what_may_be_decided_within_the_grace() -> None:
    async def script(nodes: list[Clocked], client: AsyncClient) -> None:
        client.grace = 0.5
        began = time.monotonic()
        with pytest.raises(Unavailable):
            await client.decide(TxId.new(), COMMIT, ["a"], timeout=0.3)
        assert 0.25 < time.monotonic() - began < 0.3 + 0.3
        for node in nodes:
            node.answers["decide"] = HANG_UP
        began = time.monotonic()
        with pytest.raises(InDoubt):
            await client.decide(TxId.new(), COMMIT, ["a"], timeout=0.3)
        assert 0.75 < time.monotonic() - began < 0.8 + 0.3

    on_nodes(script)


def test_an_outcome_that_comes_within_the_grace_is_learned() -> None:
    async def script(nodes: list[Clocked], client: AsyncClient) -> None:
        client.grace = 5.0
        began = time.monotonic()

        def step(method: str, params: list[Any]) -> Any:
            return committed() if time.monotonic() - began > 0.4 else HANG_UP

        for node in nodes:
            node.answers["decide"] = step
        assert (await client.decide(TxId.new(), COMMIT, ["a"], timeout=0.2)).committed

    on_nodes(script)


# -- what it is called ------------------------------------------------------------------------------------------------


def test_overload_that_lasts_until_the_timeout_is_called_overload() -> None:
    async def script(nodes: list[Clocked], client: AsyncClient) -> None:
        for node in nodes:
            node.answers["decide"] = RpcError("overloaded", "65536 proposals are open at this node")
        with pytest.raises(Overloaded, match="nothing was changed"):
            await client.decide(TxId.new(), COMMIT, ["a"], timeout=0.05)

    on_nodes(script)


def test_an_abort_does_not_carry_the_advice_for_what_is_in_doubt() -> None:
    async def script(nodes: list[Clocked], client: AsyncClient) -> None:
        txid = TxId.new()
        why = "the proposal was handed over, and no majority confirmed it in time"
        text = (
            f"the outcome of transaction {txid} is in doubt: {why}. Do not repeat it; ask for its outcome with resolve"
        )
        nodes[0].answers["submit"] = RpcError("in_doubt", text, {"txid": bytes(txid), "why": why})
        for node in nodes:
            node.answers["resolve"] = [0, "presumed abort", "", 3, 7]
        outcome = await client.submit({"a": 1}, txid=txid, timeout=1)
        assert not outcome.committed
        assert why in outcome.reason
        assert "is in doubt" not in outcome.reason
        assert "Do not repeat" not in outcome.reason

    on_nodes(script)
