"""What a client returns stands; what it raises says truly what is known. Against nodes that follow a script."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from raftcoord import (
    ABORT,
    COMMIT,
    AsyncClient,
    InDoubt,
    LocalProtocolError,
    Outcome,
    Overloaded,
    RaftcoordError,
    RemoteProtocolError,
    State,
    TxId,
    Unavailable,
    limits,
)
from raftcoord.client import link, retry
from raftcoord.errors import NotYet
from raftcoord.rpc.codes import RpcError, to_rpc

from .scripted_node import (
    CLUSTER,
    HANG_UP,
    SILENCE,
    ScriptedNode,
    aborted,
    client_of,
    cluster,
    committed,
    in_turn,
    raw,
    until,
)

UNAVAILABLE = RpcError("unavailable", "no leader is known")
OVERLOADED = RpcError("overloaded", "the queue is full")
IN_DOUBT = RpcError("in_doubt", "no answer from the leader", {"why": "no answer"})
USED = RpcError("txid_used", "it stands as COMMITTED with other branches")
BAD = RpcError("bad_request", "no participant is called 'x'")

Script = Callable[[list[ScriptedNode]], Awaitable[None]]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same rules with less waiting."""
    monkeypatch.setattr(retry, "PAUSE_S_MIN", 0.001)
    monkeypatch.setattr(retry, "PAUSE_S_MAX", 0.002)
    monkeypatch.setattr(retry, "PATIENCE_S", 0.01)
    monkeypatch.setattr("raftcoord.client.asynchronous.PATIENCE_S", 0.01)
    monkeypatch.setattr(retry, "SHARE_S_MIN", 0.05)


def on_cluster(script: Script, count: int = 3) -> None:
    async def main() -> None:
        async with cluster(count) as nodes:
            await script(nodes)

    asyncio.run(main())


def all_answer(nodes: list[ScriptedNode], method: str, answer: Any) -> None:
    for node in nodes:
        node.answers[method] = answer


async def caught(call: Awaitable[object]) -> RaftcoordError:
    with pytest.raises(RaftcoordError) as error:
        await call
    return error.value


# -- the common case --------------------------------------------------------------------------------------------------


def test_submit_returns_what_stands() -> None:
    async def script(nodes: list[ScriptedNode]) -> None:
        n1 = nodes[0]
        n1.answers["submit"] = in_turn(committed(4, 9), aborted("too poor", "bank-a"))
        async with client_of(nodes, n1) as client:
            outcome = await client.submit({"bank-a": [1], "bank-b": [2]}, timeout=2.0, wait="completed")
            assert outcome == Outcome(outcome.txid, True, "", 4, 9)
            method, (txid, payloads, timeout_ms, wait) = n1.asked[-1]
            assert (method, txid, payloads, wait) == (
                "submit",
                outcome.txid,
                {"bank-a": [1], "bank-b": [2]},
                "completed",
            )
            assert 1900 <= timeout_ms <= 2000
            given = TxId.new()
            refused = await client.submit({"bank-a": []}, txid=given.hex())
            assert refused == Outcome(given, False, "too poor", 3, 7, "bank-a")

    on_cluster(script)


def test_status_resolve_decide_and_complete_say_what_the_node_says() -> None:
    async def script(nodes: list[ScriptedNode]) -> None:
        n1, txid = nodes[0], TxId.new()
        n1.answers |= {
            "status": [int(State.UNDECIDED), "", "", 2, 5],
            "resolve": aborted("nobody decided it"),
            "decide": committed(),
            "complete": True,
        }
        async with client_of(nodes, n1) as client:
            answer = await client.status(txid)
            assert (answer.state, answer.term, answer.index, answer.final) == (State.UNDECIDED, 2, 5, False)
            answer = await client.resolve(txid)
            assert (answer.state, answer.reason, answer.final) == (State.ABORTED, "nobody decided it", True)
            assert (await client.decide(txid, COMMIT, ["pg", "my"])).committed
            assert n1.asked[-1][1][:4] == [raw(txid), 1, ["pg", "my"], ""]
            await client.decide(txid, ABORT, reason="changed my mind")
            assert n1.asked[-1][1][:4] == [raw(txid), 0, [], "changed my mind"]
            await client.complete(txid)
            await client.complete(txid, ["pg"])
            assert [asked for asked in n1.asked if asked[0] == "complete"] == [
                ("complete", [raw(txid), None]),
                ("complete", [raw(txid), ["pg"]]),
            ]

    on_cluster(script)


def test_one_connection_is_used_as_long_as_it_serves() -> None:
    async def script(nodes: list[ScriptedNode]) -> None:
        all_answer(nodes, "decide", committed())
        async with client_of(nodes) as client:
            await asyncio.gather(*(client.decide(TxId.new(), COMMIT) for _ in range(50)))
            assert sorted(len(node.asked) for node in nodes) == [0, 0, 50]
            assert sorted(len(node.conns) for node in nodes) == [0, 0, 1]

    on_cluster(script)


def test_clients_spread_over_the_nodes() -> None:
    async def script(nodes: list[ScriptedNode]) -> None:
        all_answer(nodes, "decide", committed())
        for _ in range(40):
            async with client_of(nodes) as client:
                await client.decide(TxId.new(), COMMIT)
        assert all(node.asked for node in nodes)

    on_cluster(script)


# -- a submit is never sent twice -------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [HANG_UP, IN_DOUBT, SILENCE, RpcError("internal", "bug"), RpcError("new_code", "?")])
def test_a_submit_whose_fate_is_unknown_is_resolved_elsewhere_and_not_repeated(first: object) -> None:
    async def script(nodes: list[ScriptedNode]) -> None:
        n1, *others = nodes
        n1.answers["submit"] = first
        all_answer(nodes, "resolve", committed(5, 50))
        async with client_of(nodes, n1) as client:
            outcome = await client.submit({"bank-a": []}, timeout=1.0)
            assert outcome == Outcome(outcome.txid, True, "", 5, 50)
        assert n1.methods == ["submit"]
        assert [node.methods for node in others if node.asked] == [["resolve"]]

    on_cluster(script)


def test_an_abort_by_our_own_resolve_says_so() -> None:
    async def script(nodes: list[ScriptedNode]) -> None:
        n1, *others = nodes
        n1.answers["submit"] = HANG_UP
        all_answer(others, "resolve", aborted("presumed abort"))
        async with client_of(nodes, n1) as client:
            outcome = await client.submit({"bank-a": []})
            assert not outcome.committed
            assert outcome.reason.startswith(f"resolved after {n1.address} was lost")
            assert outcome.reason.endswith("presumed abort")

    on_cluster(script)


def test_a_lost_node_that_is_the_only_one_is_asked_again() -> None:
    async def script(nodes: list[ScriptedNode]) -> None:
        nodes[0].answers |= {"submit": HANG_UP, "resolve": in_turn(UNAVAILABLE, HANG_UP, committed())}
        async with client_of(nodes) as client:
            assert (await client.submit({"bank-a": []})).committed

    on_cluster(script, 1)


@pytest.mark.parametrize("later", [UNAVAILABLE, OVERLOADED, BAD, HANG_UP, IN_DOUBT, SILENCE, [2, "", "", 1, 1], "?"])
def test_a_submit_that_nobody_can_tell_is_in_doubt_and_never_definite(later: object) -> None:
    async def script(nodes: list[ScriptedNode]) -> None:
        n1 = nodes[0]
        n1.answers["submit"] = HANG_UP
        all_answer(nodes, "resolve", later)
        given = TxId.new()
        async with client_of(nodes, n1) as client:
            error = await caught(client.submit({"bank-a": []}, timeout=0.5, txid=given))
            assert isinstance(error, InDoubt)
            assert error.txid == given
            assert f"raftcoord txn resolve {given}" in str(error)
        assert sum(node.methods.count("submit") for node in nodes) == 1

    on_cluster(script)


def test_a_submit_is_in_doubt_when_every_node_goes_down_behind_it() -> None:
    async def script(nodes: list[ScriptedNode]) -> None:
        n1 = nodes[0]
        n1.answers["submit"] = SILENCE
        async with client_of(nodes, n1) as client:
            waiting = asyncio.ensure_future(caught(client.submit({"bank-a": []}, timeout=0.5)))
            await until(lambda: n1.asked)
            for node in nodes:
                await node.stop()
            assert isinstance(await waiting, InDoubt)

    on_cluster(script)


def test_a_resolved_submit_older_than_the_horizon_is_in_doubt() -> None:
    async def script(nodes: list[ScriptedNode]) -> None:
        n1, *others = nodes
        n1.answers["submit"] = HANG_UP
        all_answer(others, "resolve", [int(State.FORGOTTEN), "", "", 1, 1])
        async with client_of(nodes, n1) as client:
            assert isinstance(await caught(client.submit({"bank-a": []})), InDoubt)

    on_cluster(script)


# -- what was not attempted is tried elsewhere ------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["submit", "decide"])
def test_unavailable_is_tried_at_another_node(method: str) -> None:
    async def script(nodes: list[ScriptedNode]) -> None:
        n1, *others = nodes
        n1.answers[method] = UNAVAILABLE
        all_answer(others, method, committed())
        async with client_of(nodes, n1) as client:
            call = client.submit({"bank-a": []}) if method == "submit" else client.decide(TxId.new(), COMMIT)
            assert (await call).committed
            await client.decide(TxId.new(), COMMIT) if method == "decide" else await client.submit({"bank-a": []})
        assert n1.methods == [method], "the client went back to a node that could not serve"

    on_cluster(script)


def test_a_leader_that_is_elected_meanwhile_serves_the_request() -> None:
    async def script(nodes: list[ScriptedNode]) -> None:
        all_answer(nodes, "submit", in_turn(*[UNAVAILABLE] * 4, committed()))
        async with client_of(nodes) as client:
            assert (await client.submit({"bank-a": []})).committed

    on_cluster(script)


def test_a_node_that_is_down_is_passed_over() -> None:
    async def script(nodes: list[ScriptedNode]) -> None:
        n1, *others = nodes
        all_answer(others, "submit", committed())
        await n1.stop()
        async with client_of(nodes, n1) as client:
            assert (await client.submit({"bank-a": []})).committed

    on_cluster(script)


def test_all_down_is_unavailable_and_names_each_node_and_why() -> None:
    async def script(nodes: list[ScriptedNode]) -> None:
        addresses = [node.address for node in nodes]
        async with client_of(nodes) as client:
            for node in nodes[:2]:
                await node.stop()
            error = await caught(client.submit({"bank-a": []}, timeout=1.0))
            assert isinstance(error, Unavailable)
            assert all(address in str(error) for address in addresses)
            assert "cannot reach" in str(error)
            assert "n3 knows no leader" in str(error)

    on_cluster(script)


def test_a_node_that_comes_back_is_found_again() -> None:
    async def script(nodes: list[ScriptedNode]) -> None:
        (n1,) = nodes
        n1.answers["decide"] = committed()
        async with client_of(nodes) as client:
            await client.decide(TxId.new(), COMMIT)
            await n1.stop()
            await until(lambda: client._nodes.links[0].conn is None, "the client's notice that its node is gone")
            assert isinstance(await caught(client.decide(TxId.new(), COMMIT, timeout=0.5)), Unavailable)
            await n1.start()
            assert (await client.decide(TxId.new(), COMMIT)).committed

    on_cluster(script, 1)


def test_overloaded_is_tried_a_few_times_and_then_raised() -> None:
    async def script(nodes: list[ScriptedNode]) -> None:
        all_answer(nodes, "submit", OVERLOADED)
        async with client_of(nodes) as client:
            error = await caught(client.submit({"bank-a": []}))
            assert isinstance(error, Overloaded)
            assert sum(len(node.asked) for node in nodes) == limits.CLIENT_OVERLOAD_RETRIES_MAX + 1
            for node in nodes:
                node.asked.clear()
                node.answers["submit"] = in_turn(OVERLOADED, committed())
            assert (await client.submit({"bank-a": []})).committed

    on_cluster(script)


def test_a_refusal_is_the_callers_to_hear() -> None:
    async def script(nodes: list[ScriptedNode]) -> None:
        all_answer(nodes, "submit", in_turn(BAD, USED))
        async with client_of(nodes, nodes[0]) as client:
            for says in ("no participant is called 'x'", "stands as COMMITTED"):
                error = await caught(client.submit({"bank-a": []}))
                assert isinstance(error, LocalProtocolError)
                assert says in str(error)
        assert nodes[0].methods == ["submit"] * 2

    on_cluster(script)


# -- what may be asked twice is asked again ---------------------------------------------------------------------------


@pytest.mark.parametrize("first", [HANG_UP, IN_DOUBT, SILENCE, RpcError("internal", "bug")])
@pytest.mark.parametrize("method", ["status", "resolve", "decide"])
def test_a_repeatable_request_goes_on_at_another_node(method: str, first: object) -> None:
    async def script(nodes: list[ScriptedNode]) -> None:
        n1, *others = nodes
        n1.answers[method] = first
        all_answer(others, method, committed())
        txid = TxId.new()
        async with client_of(nodes, n1) as client:
            await client.nodes()
            calls: dict[str, Callable[[], Awaitable[Any]]] = {
                "status": lambda: client.status(txid, timeout=0.5),
                "resolve": lambda: client.resolve(txid, timeout=0.5),
                "decide": lambda: client.decide(txid, COMMIT, timeout=0.5),
            }
            assert (await calls[method]()).state is State.COMMITTED
            again = [params[0] for node in nodes for asked, params in node.asked if asked == method]
            assert again == [raw(txid)] * 2

    on_cluster(script)


@pytest.mark.parametrize("later", [UNAVAILABLE, OVERLOADED, BAD, HANG_UP, SILENCE])
def test_a_decide_that_may_have_been_heard_is_never_called_definite(later: object) -> None:
    async def script(nodes: list[ScriptedNode]) -> None:
        n1, *others = nodes
        n1.answers["decide"] = in_turn(IN_DOUBT, later)
        all_answer(others, "decide", later)
        txid = TxId.new()
        async with client_of(nodes, n1) as client:
            error = await caught(client.decide(txid, COMMIT, timeout=1.0))
            assert isinstance(error, InDoubt)
            assert error.txid == txid

    on_cluster(script)


def test_a_decide_that_was_never_heard_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "PAUSE_S_MIN", 2.0)  # each node is asked once: no question is on its way at the deadline

    async def script(nodes: list[ScriptedNode]) -> None:
        all_answer(nodes, "decide", UNAVAILABLE)
        async with client_of(nodes) as client:
            assert isinstance(await caught(client.decide(TxId.new(), COMMIT, timeout=1.0)), Unavailable)

    on_cluster(script)


def test_a_decide_with_other_branches_is_refused_also_after_a_lost_try() -> None:
    async def script(nodes: list[ScriptedNode]) -> None:
        n1, *others = nodes
        n1.answers["decide"] = HANG_UP
        all_answer(others, "decide", USED)
        async with client_of(nodes, n1) as client:
            assert isinstance(await caught(client.decide(TxId.new(), COMMIT)), LocalProtocolError)

    on_cluster(script)


def test_a_status_that_nobody_answers_is_unavailable() -> None:
    async def script(nodes: list[ScriptedNode]) -> None:
        all_answer(nodes, "status", HANG_UP)
        async with client_of(nodes) as client:
            assert isinstance(await caught(client.status(TxId.new(), timeout=0.5)), Unavailable)

    on_cluster(script)


def test_a_silent_node_is_left_for_one_that_speaks() -> None:
    async def script(nodes: list[ScriptedNode]) -> None:
        n1, *others = nodes
        n1.answers["decide"] = SILENCE
        all_answer(others, "decide", committed())
        async with client_of(nodes, n1) as client:
            for _ in range(5):
                await client.decide(TxId.new(), COMMIT, timeout=1.0)
        assert n1.methods == ["decide"]

    on_cluster(script)


# -- forgotten, and answers that cannot be read -----------------------------------------------------------------------


def test_forgotten_is_an_answer_and_not_an_outcome() -> None:
    async def script(nodes: list[ScriptedNode]) -> None:
        forgotten = [int(State.FORGOTTEN), "", "", 2, 5]
        for method in ("status", "resolve", "decide", "submit"):
            all_answer(nodes, method, forgotten)
        async with client_of(nodes) as client:
            txid = TxId.new()
            for answer in (await client.status(txid), await client.resolve(txid)):
                assert answer.state is State.FORGOTTEN
                assert not answer.final
            for call in (client.decide(txid, COMMIT), client.submit({"bank-a": []}, txid=txid)):
                error = await caught(call)
                assert isinstance(error, LocalProtocolError)
                assert "use a new txid" in str(error)

    on_cluster(script)


UNREADABLE = [
    None,
    True,
    [],
    "x",
    [1, "", "", 3],
    [9, "", "", 3, 7],
    [1, None, "", 3, 7],
    [1, "", "", "3", 7],
    [2, "", "", 3, 7],
]


@pytest.mark.parametrize("answer", UNREADABLE, ids=repr)
def test_an_answer_that_cannot_be_read_is_never_an_outcome(answer: object) -> None:
    async def script(nodes: list[ScriptedNode]) -> None:
        for method in ("status", "resolve", "decide", "submit"):
            all_answer(nodes, method, answer)
        async with client_of(nodes) as client:
            txid = TxId.new()
            for call in (client.resolve(txid), client.decide(txid, COMMIT), client.submit({"bank-a": []}, txid=txid)):
                assert isinstance(await caught(call), InDoubt)
            if answer != [2, "", "", 3, 7]:
                assert isinstance(await caught(client.status(txid)), RemoteProtocolError)

    on_cluster(script)


# -- one cluster only -------------------------------------------------------------------------------------------------


def test_a_node_of_another_cluster_is_never_asked() -> None:
    """It would presume abort for what our cluster has committed."""

    async def script(nodes: list[ScriptedNode]) -> None:
        ours, foreign = nodes
        foreign.cluster = "00000000000000bb"
        ours.answers["submit"] = HANG_UP
        foreign.answers["resolve"] = aborted("presumed abort")
        async with client_of(nodes, ours) as client:
            waiting = asyncio.ensure_future(caught(client.submit({"bank-a": []}, timeout=0.5)))
            error = await waiting
            assert isinstance(error, InDoubt)
            assert "the id 00000000000000bb" in str(error)
        assert "resolve" not in foreign.methods

    on_cluster(script, 2)


def test_what_must_be_done_first_is_said_alone_and_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "FIRST_S", 0.05)
    first = to_rpc(NotYet("the leader has not heard of a new node n4; start it"))

    async def script(nodes: list[ScriptedNode]) -> None:
        for node in nodes:
            node.answers["change_members"] = UNAVAILABLE
        nodes[2].answers["change_members"] = in_turn(first)
        async with client_of(nodes) as client:
            error = await caught(client.add_node("n4", timeout=60))
            assert isinstance(error, Unavailable)
            assert str(error) == "the leader has not heard of a new node n4; start it"

    on_cluster(script)


def test_a_node_that_was_just_started_gets_its_moment() -> None:
    first = to_rpc(NotYet("the leader has not heard of a new node n4; start it"))

    async def script(nodes: list[ScriptedNode]) -> None:
        (n1,) = nodes
        n1.answers["change_members"] = in_turn(first, first, {"node": "n4", "epoch": 3, "members": []})
        async with client_of(nodes) as client:
            assert (await client.add_node("n4", timeout=60))["epoch"] == 3

    on_cluster(script, 1)


def test_a_node_without_a_cluster_id_is_asked_for_it_first() -> None:
    async def script(nodes: list[ScriptedNode]) -> None:
        (n1,) = nodes
        n1.cluster = ""
        n1.answers["decide"] = committed()
        async with client_of(nodes) as client:
            assert (await client.node_info())["node"] == "n1"
            error = await caught(client.decide(TxId.new(), COMMIT, timeout=0.5))
            assert isinstance(error, Unavailable)
            assert "not been founded" in str(error)
            assert "decide" not in n1.methods
            n1.cluster = CLUSTER
            assert (await client.decide(TxId.new(), COMMIT)).committed
        assert len(n1.conns) <= 1

    on_cluster(script, 1)


def test_a_node_of_another_name_or_cluster_name_is_refused() -> None:
    async def script(nodes: list[ScriptedNode]) -> None:
        (n1,) = nodes
        for endpoint, cluster_name, says in (
            (link.NodeAddress("127.0.0.1", n1.port, "n2"), "demo", "node 'n1' answers there, not 'n2'"),
            (link.NodeAddress("127.0.0.1", n1.port), "prod", "of cluster 'demo', not of 'prod'"),
        ):
            async with AsyncClient([endpoint], cluster_name=cluster_name) as client:
                error = await caught(client.status(TxId.new(), timeout=1.0))
                assert isinstance(error, Unavailable)
                assert says in str(error)

    on_cluster(script, 1)


# -- the end of a client ----------------------------------------------------------------------------------------------


def test_closing_ends_open_calls_truly_and_leaves_no_task() -> None:
    async def script(nodes: list[ScriptedNode]) -> None:
        n1 = nodes[0]
        for method in ("submit", "decide", "status"):
            n1.answers[method] = SILENCE
        async with client_of(nodes, n1) as client:
            txid = TxId.new()
            calls = [client.submit({"bank-a": []}), client.decide(txid, COMMIT), client.status(txid)]
            waiting = [asyncio.ensure_future(caught(call)) for call in calls]
            await until(lambda: len(n1.asked) == 3)
            await client.close()
            assert [type(await future) for future in waiting] == [InDoubt, InDoubt, Unavailable]
            with pytest.raises(LocalProtocolError, match="closed"):
                await client.status(txid)

    on_cluster(script)


def test_a_cancelled_call_leaves_the_client_usable() -> None:
    async def script(nodes: list[ScriptedNode]) -> None:
        n1 = nodes[0]
        n1.answers["decide"] = in_turn(SILENCE, committed())
        async with client_of(nodes, n1) as client:
            task = asyncio.ensure_future(client.decide(TxId.new(), COMMIT))
            await until(lambda: n1.asked)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert not client._deadlines._waiting
            assert (await client.decide(TxId.new(), COMMIT)).committed

    on_cluster(script)


def test_a_client_belongs_to_one_event_loop() -> None:
    client = AsyncClient.from_addresses(["127.0.0.1:1"])

    async def use() -> RaftcoordError:
        return await caught(client.status(TxId.new(), timeout=0.01))

    assert isinstance(asyncio.run(use()), Unavailable)
    error = asyncio.run(use())
    assert isinstance(error, LocalProtocolError)
    assert "another event loop" in str(error)


# -- looking ----------------------------------------------------------------------------------------------------------


def test_nodes_shows_each_node_or_why_not() -> None:
    async def script(nodes: list[ScriptedNode]) -> None:
        async with client_of(nodes) as client:
            await nodes[2].stop()
            found = await client.nodes(timeout=1.0)
            assert set(found) == {"n1", "n2", nodes[2].address}
            assert found["n1"] == nodes[0].info()
            assert isinstance(found[nodes[2].address], Unavailable)
            assert (await client.node_info("n2"))["node"] == "n2"
            error = await caught(client.node_info("n9"))
            assert isinstance(error, LocalProtocolError)
            assert "'n9'" in str(error)

    on_cluster(script)


def test_transactions_and_show_give_rows() -> None:
    async def script(nodes: list[ScriptedNode]) -> None:
        txid = TxId.new()
        row = {"txid": raw(txid), "state": 1, "branches": ["a"], "outstanding": [], "term": 1, "index": 2}
        row |= {"reason": "", "branch": "", "at_ms": 5}
        all_answer(nodes, "txns", [row])
        all_answer(nodes, "show", in_turn(row, None, 5))
        async with client_of(nodes, nodes[0]) as client:
            (found,) = await client.transactions("committed", limit=1, before=txid)
            assert found == row
            assert isinstance(found["txid"], TxId)
            assert found["state"] is State.COMMITTED
            assert nodes[0].asked[-1] == ("txns", [{"state": "committed", "limit": 1, "before": raw(txid)}])
            assert await client.show(txid) == row
            assert await client.show(txid) is None
            assert isinstance(await caught(client.show(txid)), RemoteProtocolError)

    on_cluster(script)
