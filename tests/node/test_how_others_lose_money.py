"""The nine ways of FACTS "How others lose money", as far as a node could go them. Each test names its way."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest

from node import world
from node.local_consensus import Log
from node.world import NO, SILENCE, YES, Bank, Caller, new_txid, until
from raftcoord.core.tables.damages import Heuristic
from raftcoord.core.tables.decisions import Decide
from raftcoord.limits import NodeBounds
from raftcoord.rpc.codes import RpcError
from raftcoord.types import State, Verdict

SHORT = NodeBounds(acks_gather_ms=1, delivery_retry_ms_min=1)
serving = partial(world.serving, bounds=SHORT)
serving_one = partial(world.serving_one, bounds=SHORT)


async def test_1_no_such_transaction_is_not_taken_for_success() -> None:
    async with serving_one() as served:
        await Bank("a", commit=RpcError("not_prepared", "XAER_NOTA: does not exist")).join(served)
        client, txid = await Caller.of(served), new_txid()
        assert (await client.submit(txid, "a", timeout_ms=200, wait="completed"))[0] == State.COMMITTED
        await until(lambda: served.proposed(Heuristic))
        assert served.consensus.ledger.open_count == 1


async def test_2_absence_is_not_read_as_abort_and_no_transaction_has_zero_branches() -> None:
    async with serving_one() as served:
        client, txid = await Caller.of(served), new_txid()
        assert await client.outcome(txid) is State.UNDECIDED
        assert (await client.refused("submit", txid, {}, 5000, "decided")).code == "bad_request"
        assert served.decision(txid) is None


async def test_3_no_command_contradicts_a_decision() -> None:
    async with serving_one() as served:
        client, txid = await Caller.of(served), new_txid()
        await client.decide(txid, Verdict.COMMIT, "a")
        for method, params in [
            ("decide", [txid, int(Verdict.ABORT), [], "force-stop", 5000]),
            ("resolve", [txid, 5000]),
            ("status", [txid]),
        ]:
            assert (await client.ask(method, *params))[0] == State.COMMITTED


async def test_4_an_abort_reaches_a_branch_whose_prepare_may_still_be_on_its_way() -> None:
    """The tombstone itself is the participant's. Here: whoever was asked and has not answered is told."""
    async with serving_one() as served:
        slow, no = await Bank("slow", prepare=SILENCE).join(served), await Bank("no", prepare=NO).join(served)
        client, txid = await Caller.of(served), new_txid()
        assert (await client.submit(txid, "slow", "no"))[0] == State.ABORTED
        await slow.hears("abort", txid)
        slow.speak(YES)
        await until(lambda: served.consensus.ledger.open_count == 0)
        assert "commit" not in slow.told(txid)
        assert no.told(txid) == []


async def test_5_a_leader_change_rolls_nothing_back_and_no_error_reads_as_success() -> None:
    log = Log("n1", "n2")
    async with serving(log) as (n1, n2):
        bank, client, txid = await Bank("a", prepare=SILENCE).join(n1, n2), await Caller.of(n1), new_txid()
        answer = client.submit(txid, "a")
        await bank.hears("prepare", txid)
        log.lead(None)
        assert (await client.refused("submit", new_txid(), {"a": 1}, 5000, "decided")).code == "unavailable"
        log.lead(n2.consensus)
        await until(lambda: n2.node.recovery.leads)
        bank.speak(YES)
        assert (await answer)[0] == State.COMMITTED


async def test_6_a_decision_that_is_finished_is_answered_as_it_was() -> None:
    async with serving_one() as served:
        await Bank("a").join(served)
        client, txid = await Caller.of(served), new_txid()
        first = await client.submit(txid, "a", wait="completed")
        await until(lambda: served.consensus.ledger.open_count == 0)
        assert await client.decide(txid, Verdict.COMMIT, "a") == first
        assert await client.ask("resolve", txid, 5000) == first
        assert await client.ask("complete", txid, None) is True


async def test_7_a_decided_commit_is_driven_at_once_by_the_next_leader() -> None:
    """No period of the sweeps passes in this test: ``redrive_every_ms`` is set beyond its end."""
    log = Log("n1", "n2")
    async with serving(log, bounds=replace(SHORT, redrive_every_ms=3_600_000)) as (_, n2):
        bank, txid = await Bank("a").join(n2), new_txid()
        log.append(Decide(txid, Verdict.COMMIT, ("a",), "", "", 0))
        log.lead(n2.consensus)
        await bank.hears("commit", txid)


async def test_8_the_decision_is_recorded_before_any_branch_is_told() -> None:
    async with serving_one() as served:
        recorded: list[State] = []

        def commit(txid: bytes) -> bool:
            recorded.append(served.consensus.ledger.state(txid))  # type: ignore[arg-type]
            return True

        await Bank("a", commit=commit).join(served)
        await Bank("b", commit=commit).join(served)
        client = await Caller.of(served)
        await client.submit(new_txid(), "a", "b", wait="completed")
        assert recorded == [State.COMMITTED, State.COMMITTED]


async def test_9_an_outcome_is_never_inferred_from_which_branches_remain() -> None:
    """Both branches are prepared, nothing is decided, and their coordinator has gone: the ledger is asked and decides once."""
    async with serving(Log("n1", "n2")) as (n1, n2):
        a, b = await Bank("a").join(n1), await Bank("b").join(n1)
        client, txid = await Caller.of(n1), new_txid()
        n1.consensus.held = True
        answer = client.submit(txid, "a", "b", timeout_ms=100)
        await until(lambda: n1.consensus.waiting)
        n1.consensus.lose()
        with pytest.raises(RpcError):
            await answer
        a.leave()
        b.leave()
        await a.join(n2)
        await b.join(n2)
        assert (await a.ask("status", txid, "a"))[0] == State.UNDECIDED
        assert (await b.ask("resolve", txid, "b", 5000))[0] == State.ABORTED
        assert (await a.ask("status", txid, "a"))[0] == State.ABORTED
