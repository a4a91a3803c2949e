"""A submit from end to end: a real node, real frames, a real ledger; only the order of events is the test's."""

from __future__ import annotations

import asyncio

import pytest

from node.local_consensus import Log
from node.world import NO, READ_ONLY, SILENCE, YES, Bank, Caller, new_txid, serving, serving_one, until
from raftcoord.core.tables.decisions import Decide
from raftcoord.errors import Overloaded, Unavailable
from raftcoord.limits import NodeBounds
from raftcoord.rpc.codes import RpcError
from raftcoord.types import State, Verdict


async def test_a_transaction_that_all_vote_for_is_committed_delivered_and_completed() -> None:
    async with serving_one() as served:
        a, b, client = await Bank("a").join(served), await Bank("b").join(served), await Caller.of(served)
        txid = new_txid()
        state, reason, branch, term, index = await client.submit(txid, "a", "b")
        decision = served.decision(txid)
        assert decision is not None
        assert (state, reason, branch, term, index) == (State.COMMITTED, "", "", decision.term, decision.index)
        assert decision.branches == ("a", "b")
        await a.hears("commit", txid)
        await b.hears("commit", txid)
        await until(lambda: served.consensus.ledger.open_count == 0)
        assert not served.node.transactions.running


async def test_a_no_aborts_and_only_those_that_may_have_prepared_are_told() -> None:
    async with serving_one() as served:
        yes = await Bank("yes").join(served)
        no = await Bank("no", prepare=NO).join(served)
        client, txid = await Caller.of(served), new_txid()
        state, reason, branch, *_ = await client.submit(txid, "no", "yes")
        assert (state, reason, branch) == (State.ABORTED, "sold out", "no")
        await yes.hears("abort", txid)
        assert no.told(txid) == []


async def test_read_only_branches_are_released_and_the_commit_is_recorded_all_the_same() -> None:
    async with serving_one() as served:
        bank = await Bank("a", prepare=READ_ONLY).join(served)
        client, txid = await Caller.of(served), new_txid()
        assert (await client.submit(txid, "a", wait="completed"))[0] == State.COMMITTED
        decision = served.decision(txid)
        assert decision is not None
        assert decision.branches == ()
        assert bank.told(txid) == []


async def test_a_participant_that_nobody_serves_aborts_with_its_name() -> None:
    async with serving_one() as served:
        bank, client, txid = await Bank("a").join(served), await Caller.of(served), new_txid()
        state, reason, branch, *_ = await client.submit(txid, "a", "nobody", timeout_ms=200)
        assert (state, branch) == (State.ABORTED, "nobody")
        assert reason.startswith("participant 'nobody' is not connected to this node: start it, or correct the name")
        await bank.hears("abort", txid)


async def test_a_participant_that_dials_in_shortly_after_is_waited_for() -> None:
    async with serving_one() as served:
        client, txid = await Caller.of(served), new_txid()
        answer = client.submit(txid, "late")
        await until(lambda: txid in served.node.transactions.running)
        await Bank("late").join(served)
        assert (await answer)[0] == State.COMMITTED


async def test_a_vote_that_does_not_come_in_time_aborts_before_the_callers_timeout() -> None:
    async with serving_one() as served:
        bank, client, txid = await Bank("a", prepare=SILENCE).join(served), await Caller.of(served), new_txid()
        state, reason, *_ = await client.submit(txid, "a", timeout_ms=100)
        assert (state, reason) == (State.ABORTED, "participant 'a' did not vote within 75 ms")
        await bank.hears("abort", txid)
        bank.speak(YES)
        await until(lambda: served.consensus.ledger.open_count == 0)
        assert await client.outcome(txid) is State.ABORTED


async def test_a_participant_that_is_lost_while_it_votes_aborts_and_is_told_when_it_is_back() -> None:
    async with serving_one() as served:
        bank, client, txid = await Bank("a", prepare=SILENCE).join(served), await Caller.of(served), new_txid()
        answer = client.submit(txid, "a")
        await bank.hears("prepare", txid)
        bank.leave()
        state, reason, branch, *_ = await answer
        assert (state, branch) == (State.ABORTED, "a")
        assert "gave no vote: the connection" in reason
        assert bank.told(txid) == []
        await bank.join(served)
        await bank.hears("abort", txid)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (RpcError("internal", "it broke"), ["abort"]),
        (RpcError("bad_request", "it did not understand"), ["abort"]),
        ([7, ""], ["abort"]),
        ([True, ""], ["abort"]),
        ([1.0, ""], ["abort"]),
        ("yes", ["abort"]),
        (RpcError("overloaded", "later"), []),
        (RpcError("unavailable", "not now"), []),
    ],
)
async def test_what_is_not_a_vote_aborts_and_is_told_unless_nothing_was_attempted(
    answer: object, told: list[str]
) -> None:
    async with serving_one() as served:
        bank, client, txid = await Bank("a", prepare=answer).join(served), await Caller.of(served), new_txid()
        assert (await client.submit(txid, "a", wait="completed"))[0] == State.ABORTED
        assert bank.told(txid) == told


async def test_nothing_is_delivered_and_nothing_replied_before_it_stands() -> None:
    async with serving_one() as served:
        bank, client, txid = await Bank("a").join(served), await Caller.of(served), new_txid()
        served.consensus.held = True
        answer = client.submit(txid, "a")
        await until(lambda: served.consensus.waiting)
        await client.ask("node")
        assert not answer.done()
        assert bank.told(txid) == []
        served.consensus.release()
        assert (await answer)[0] == State.COMMITTED
        await bank.hears("commit", txid)


async def test_late_commit_loses_to_presumed_abort_and_the_participants_are_told_abort() -> None:
    """Way 2 of FACTS, and the zombie coordinator of DESIGN section 4."""
    async with serving(Log("n1", "n2")) as (n1, n2):
        a, b = await Bank("a").join(n1, n2), await Bank("b").join(n1, n2)
        slow, asker, txid = await Caller.of(n1), await Caller.of(n2), new_txid()
        n1.consensus.held = True
        answer = slow.submit(txid, "a", "b")
        await until(lambda: n1.consensus.waiting)
        assert (await asker.ask("resolve", txid, 5000))[0] == State.ABORTED
        n1.consensus.release()
        state, reason, *_ = await answer
        assert state == State.ABORTED
        assert "presumed abort" in reason
        for bank in (a, b):
            await bank.hears("abort", txid)
            assert "commit" not in bank.told(txid)


async def test_resolve_loses_to_a_commit_that_was_first() -> None:
    async with serving(Log("n1", "n2")) as (n1, n2):
        await Bank("a").join(n1)
        client, asker, txid = await Caller.of(n1), await Caller.of(n2), new_txid()
        n2.consensus.behind = True
        assert (await client.submit(txid, "a"))[0] == State.COMMITTED
        answer = asker.begin("resolve", txid, 5000)
        await until(lambda: n2.proposed(Decide))
        n2.consensus.behind = False
        n2.consensus.catch_up()
        assert (await answer)[0] == State.COMMITTED


async def test_a_proposal_of_unknown_fate_is_in_doubt_and_nothing_is_delivered() -> None:
    async with serving_one() as served:
        bank, client, txid = await Bank("a").join(served), await Caller.of(served), new_txid()
        served.consensus.held = True
        with pytest.raises(RpcError) as caught:
            await client.submit(txid, "a", timeout_ms=100)
        assert caught.value.code == "in_doubt"
        assert caught.value.detail["txid"] == txid
        assert bank.told(txid) == []
        served.consensus.lose()
        served.consensus.held = False
        assert (await bank.ask("resolve", txid, "a", 5000))[0] == State.ABORTED


async def test_what_was_in_doubt_and_committed_after_all_is_driven_by_the_leader() -> None:
    async with serving_one(bounds=NodeBounds(redrive_every_ms=20)) as served:
        bank, client, txid = await Bank("a").join(served), await Caller.of(served), new_txid()
        served.consensus.held = True
        with pytest.raises(RpcError):
            await client.submit(txid, "a", timeout_ms=100)
        served.consensus.held = False
        served.consensus.release()
        await bank.hears("commit", txid)
        await until(lambda: served.consensus.ledger.open_count == 0)


async def test_a_refused_proposal_is_made_again_because_branches_are_prepared() -> None:
    async with serving_one() as served:
        bank, client, txid = await Bank("a", prepare=SILENCE).join(served), await Caller.of(served), new_txid()
        answer = client.submit(txid, "a")
        await bank.hears("prepare", txid)
        served.consensus.refusing = Overloaded("full")
        bank.speak(YES)
        await until(lambda: served.node.transactions.running[txid].coordinator.phase.value == "deciding")
        await client.ask("node")
        assert not answer.done()
        served.consensus.refusing = None
        assert (await answer)[0] == State.COMMITTED


async def test_a_proposal_that_is_refused_until_the_timeout_is_in_doubt_and_not_unavailable() -> None:
    async with serving_one() as served:
        bank, client, txid = await Bank("a", prepare=SILENCE).join(served), await Caller.of(served), new_txid()
        answer = client.submit(txid, "a", timeout_ms=150)
        await bank.hears("prepare", txid)
        served.consensus.refusing = Unavailable("no leader")
        bank.speak(YES)
        with pytest.raises(RpcError) as caught:
            await answer
        assert caught.value.code == "in_doubt"


async def test_submit_without_a_leader_is_unavailable_and_nobody_was_asked() -> None:
    log = Log("n1")
    async with serving(log) as (served,):
        bank, client, txid = await Bank("a").join(served), await Caller.of(served), new_txid()
        log.lead(None)
        with pytest.raises(RpcError) as caught:
            await client.submit(txid, "a")
        assert caught.value.code == "unavailable"
        assert bank.heard == []


async def test_a_caller_who_waits_for_completion_is_answered_after_the_acknowledgements() -> None:
    async with serving_one() as served:
        bank, client, txid = await Bank("a", commit=SILENCE).join(served), await Caller.of(served), new_txid()
        answer = client.submit(txid, "a", wait="completed")
        await bank.hears("commit", txid)
        await client.ask("node")
        assert not answer.done()
        bank.speak(True)
        assert (await answer)[0] == State.COMMITTED


async def test_a_caller_who_waits_for_completion_learns_at_the_timeout_what_stands() -> None:
    async with serving_one() as served:
        await Bank("a", commit=SILENCE).join(served)
        client, txid = await Caller.of(served), new_txid()
        assert (await client.submit(txid, "a", timeout_ms=150, wait="completed"))[0] == State.COMMITTED
        assert not served.node.transactions.running


# -- a txid used twice --------------------------------------------------------------------------------------------


async def test_a_txid_that_is_running_here_is_refused() -> None:
    async with serving_one() as served:
        bank, client, txid = await Bank("a", prepare=SILENCE).join(served), await Caller.of(served), new_txid()
        first = client.submit(txid, "a")
        await bank.hears("prepare", txid)
        assert (await client.refused("submit", txid, {"a": 1}, 5000, "decided")).code == "txid_used"
        bank.speak(YES)
        assert (await first)[0] == State.COMMITTED
        assert bank.heard.count(("prepare", txid)) == 1


async def test_a_txid_that_is_decided_is_refused_and_the_error_says_what_stands() -> None:
    async with serving_one() as served:
        bank, client, txid = await Bank("a").join(served), await Caller.of(served), new_txid()
        await client.submit(txid, "a")
        error = await client.refused("submit", txid, {"b": 1}, 5000, "decided")
        assert error.code == "txid_used"
        assert "COMMITTED stands for it" in error.message
        assert error.detail["stands"][0] == State.COMMITTED
        assert bank.heard.count(("prepare", txid)) == 1


async def test_of_two_nodes_that_run_one_txid_with_other_branches_the_second_says_txid_used() -> None:
    async with serving(Log("n1", "n2")) as (n1, n2):
        a, b = await Bank("a").join(n1, n2), await Bank("b").join(n1, n2)
        one, two, txid = await Caller.of(n1), await Caller.of(n2), new_txid()
        n2.consensus.held = True
        second = two.submit(txid, "b")
        await until(lambda: n2.consensus.waiting)
        n2.consensus.behind = True
        assert (await one.submit(txid, "a"))[0] == State.COMMITTED
        n2.consensus.release()
        n2.consensus.behind = False
        n2.consensus.catch_up()
        with pytest.raises(RpcError) as caught:
            await second
        assert caught.value.code == "txid_used"
        await b.hears("abort", txid)
        await a.hears("commit", txid)
        assert a.told(txid) == ["commit"]
        assert b.told(txid) == ["abort"]


# -- bounds -------------------------------------------------------------------------------------------------------


async def test_transactions_beyond_the_bound_are_refused_before_anybody_is_asked() -> None:
    async with serving_one(bounds=NodeBounds(transactions_running_max=2)) as served:
        bank, client = await Bank("a", prepare=SILENCE).join(served), await Caller.of(served)
        running = [client.submit(new_txid(), "a") for _ in range(2)]
        await until(lambda: len(bank.silent) == 2)
        assert (await client.refused("submit", new_txid(), {"a": 1}, 5000, "decided")).code == "overloaded"
        bank.speak(YES)
        assert [answer[0] for answer in await asyncio.gather(*running)] == [State.COMMITTED] * 2
        assert len([heard for heard in bank.heard if heard[0] == "prepare"]) == 2
        assert (await client.submit(new_txid(), "a", timeout_ms=100))[0] == State.ABORTED  # there is room again


async def test_a_participant_with_too_much_to_answer_is_left_alone() -> None:
    async with serving_one(bounds=NodeBounds(prepares_open_max=2)) as served:
        bank, other = await Bank("a", prepare=SILENCE).join(served), await Bank("b").join(served)
        client = await Caller.of(served)
        running = [client.submit(new_txid(), "a") for _ in range(2)]
        await until(lambda: len(bank.silent) == 2)
        txid = new_txid()
        error = await client.refused("submit", txid, {"b": 1, "a": 1}, 5000, "decided")
        assert error.code == "overloaded"
        assert "'a' has 2 requests" in error.message
        assert other.heard == []
        bank.speak(YES)
        await asyncio.gather(*running)


async def test_the_verdict_of_a_client_that_is_gone_is_reached_all_the_same() -> None:
    async with serving_one() as served:
        bank, client, txid = await Bank("a", prepare=SILENCE).join(served), await Caller.of(served), new_txid()
        client.submit(txid, "a").add_done_callback(lambda answer: answer.exception())
        await bank.hears("prepare", txid)
        client.conn.close("the test says so")
        bank.speak(YES)
        await bank.hears("commit", txid)
        decision = served.decision(txid)
        assert decision is not None
        assert decision.verdict is Verdict.COMMIT
