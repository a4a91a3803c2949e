"""An outcome is told until it is acknowledged, and what is not an acknowledgement is never taken for one."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from functools import partial

import pytest

from node import world
from node.local_consensus import Log
from node.world import SILENCE, YES, Bank, Caller, Served, new_txid, until
from raftcoord.core.tables.damages import Heuristic
from raftcoord.core.tables.decisions import Complete, Decide
from raftcoord.core.tables.horizon import Retire
from raftcoord.errors import Unavailable
from raftcoord.limits import NodeBounds
from raftcoord.rpc.codes import RpcError
from raftcoord.types import State, TxId, Verdict

BROKEN = RpcError("internal", "the disk is full")
NOT_PREPARED = RpcError("not_prepared", "never heard of it")


SHORT = NodeBounds(delivery_retry_ms_min=1, delivery_retry_ms_max=4, acks_gather_ms=1)
serving = partial(world.serving, bounds=SHORT)
serving_one = partial(world.serving_one, bounds=SHORT)


def outstanding(served: Served, txid: TxId) -> tuple[str, ...]:
    decision = served.decision(txid)
    assert decision is not None
    return decision.outstanding


async def test_a_commit_is_told_again_and_again_until_it_is_acknowledged() -> None:
    async with serving_one() as served:
        bank, client, txid = await Bank("a", commit=BROKEN).join(served), await Caller.of(served), new_txid()
        assert (await client.submit(txid, "a"))[0] == State.COMMITTED
        await bank.hears("commit", txid, times=4)
        assert outstanding(served, txid) == ("a",)
        bank.script["commit"] = True
        await until(lambda: outstanding(served, txid) == ())


async def test_an_answer_that_is_not_true_is_no_acknowledgement() -> None:
    async with serving_one() as served:
        bank, client, txid = await Bank("a", commit="done").join(served), await Caller.of(served), new_txid()
        await client.submit(txid, "a")
        await bank.hears("commit", txid, times=3)
        assert outstanding(served, txid) == ("a",)


async def test_a_participant_that_was_away_is_told_at_once_when_it_connects() -> None:
    async with serving_one(bounds=replace(SHORT, delivery_retry_ms_min=60_000, delivery_retry_ms_max=60_000)) as served:
        bank, client, txid = await Bank("a", commit=BROKEN).join(served), await Caller.of(served), new_txid()
        await client.submit(txid, "a")
        await bank.hears("commit", txid)
        bank.leave()
        bank.script["commit"] = True
        await until(lambda: not served.node.sessions.names())
        await bank.join(served)
        await bank.hears("commit", txid, times=2)
        await until(lambda: outstanding(served, txid) == ())


async def test_an_outcome_whose_answer_is_lost_with_the_connection_is_told_again() -> None:
    async with serving_one() as served:
        bank, client, txid = await Bank("a", commit=SILENCE).join(served), await Caller.of(served), new_txid()
        await client.submit(txid, "a")
        await bank.hears("commit", txid)
        bank.leave()
        bank.script["commit"] = True
        await bank.join(served)
        await until(lambda: outstanding(served, txid) == ())


async def test_an_instance_that_hangs_does_not_keep_the_outcome_from_another() -> None:
    async with serving_one(bounds=replace(SHORT, delivery_answer_ms=10)) as served:
        hangs, client, txid = await Bank("a", commit=SILENCE).join(served), await Caller.of(served), new_txid()
        await client.submit(txid, "a")
        await hangs.hears("commit", txid)
        other = Bank("a")
        other.instance = "a-2"
        await other.join(served)
        await other.hears("commit", txid)
        await until(lambda: outstanding(served, txid) == ())
        assert hangs.told(txid) == ["commit"]
        hangs.speak(True)  # too late to matter, and no bug


async def test_not_more_than_the_bound_is_in_flight_to_one_participant() -> None:
    async with serving_one(bounds=replace(SHORT, deliveries_in_flight_max=2)) as served:
        bank = await Bank("a", commit=SILENCE).join(served)
        client = await Caller.of(served)
        txids = [new_txid() for _ in range(5)]
        for txid in txids:
            await client.submit(txid, "a")
        await until(lambda: len(bank.silent) == 2)
        await client.ask("node")
        assert len(bank.silent) == 2
        bank.script["commit"] = True
        bank.speak(True)
        await until(lambda: served.consensus.ledger.open_count == 0)
        assert [heard[1] for heard in bank.heard if heard[0] == "commit"] == txids


async def test_outcomes_beyond_the_bound_are_left_to_the_leader() -> None:
    async with serving_one(bounds=replace(SHORT, deliveries_pending_max=2)) as served:
        delivery, txids = served.node.delivery, [new_txid() for _ in range(3)]
        for txid in txids[:2]:
            delivery.deliver(txid, Verdict.ABORT, "a")
        assert delivery.pending("a") == 2
        delivery.deliver(txids[2], Verdict.ABORT, "a")
        assert delivery.pending("a") == 2
        bank = await Bank("a").join(served)
        await until(lambda: delivery.pending("a") == 0)
        assert {txid for _, txid in bank.heard} == set(txids[1:])


async def test_the_same_outcome_is_not_delivered_twice_at_a_time() -> None:
    async with serving_one() as served:
        bank, txid = await Bank("a", abort=SILENCE).join(served), new_txid()
        for _ in range(3):
            served.node.delivery.deliver(txid, Verdict.ABORT, "a")
        await bank.hears("abort", txid)
        bank.speak(True)
        await until(lambda: served.node.delivery.pending("a") == 0)
        assert bank.told(txid) == ["abort"]


async def test_what_another_node_has_completed_is_told_no_more() -> None:
    async with serving(Log("n1", "n2")) as (n1, _):
        bank, client, txid = await Bank("a", commit=BROKEN).join(n1), await Caller.of(n1), new_txid()
        await client.submit(txid, "a")
        await bank.hears("commit", txid, times=2)
        n1.consensus.log.append(Complete(((txid, ("a",)),)))
        await until(lambda: n1.node.delivery.pending("a") == 0)


# -- damage -------------------------------------------------------------------------------------------------------


async def test_not_prepared_is_damage_and_never_an_acknowledgement(caplog: pytest.LogCaptureFixture) -> None:
    """Way 1 of FACTS: "no such transaction" taken for success created money."""
    async with serving_one() as served:
        await Bank("a", commit=NOT_PREPARED).join(served)
        client, txid = await Caller.of(served), new_txid()
        with caplog.at_level(logging.CRITICAL):
            await client.submit(txid, "a")
            await until(lambda: list(served.consensus.ledger.damages()))
        (damage,) = served.consensus.ledger.damages()
        assert (damage.txid, damage.branch, damage.acknowledged_by) == (txid, "a", "")
        assert "never heard of it" in damage.what
        assert outstanding(served, txid) == ("a",)
        assert [record for record in caplog.records if "DAMAGE" in record.message]
        assert await client.outcome(txid) is State.COMMITTED


async def test_damage_is_said_once_recorded_once_and_told_slowly(caplog: pytest.LogCaptureFixture) -> None:
    async with serving_one(bounds=replace(SHORT, damage_retry_ms=2)) as served:
        bank, client, txid = await Bank("a", commit=NOT_PREPARED).join(served), await Caller.of(served), new_txid()
        with caplog.at_level(logging.CRITICAL):
            await client.submit(txid, "a")
            await bank.hears("commit", txid, times=4)
        assert len([record for record in caplog.records if "DAMAGE" in record.message]) == 1
        assert len(served.proposed(Heuristic)) == 1
        assert served.proposed(Complete) == []
        bank.script["commit"] = True  # a person has put it right
        await until(lambda: outstanding(served, txid) == ())


async def test_damage_that_could_not_be_recorded_is_recorded_later() -> None:
    async with serving_one(bounds=replace(SHORT, damage_retry_ms=2)) as served:
        bank, client, txid = await Bank("a", commit=SILENCE).join(served), await Caller.of(served), new_txid()
        await client.submit(txid, "a")
        await bank.hears("commit", txid)
        served.consensus.refusing = Unavailable("no leader")
        bank.script["commit"] = NOT_PREPARED
        for conn, request_id in bank.silent:
            conn.reply_failure(request_id, NOT_PREPARED)
        bank.silent.clear()
        await bank.hears("commit", txid, times=3)
        assert not list(served.consensus.ledger.damages())
        served.consensus.refusing = None
        await until(lambda: list(served.consensus.ledger.damages()))


async def test_an_abort_of_what_the_participant_has_committed_is_damage() -> None:
    async with serving_one() as served:
        bank = await Bank("a", prepare=[1, ""], abort=RpcError("already_committed", "it is")).join(served)
        await Bank("b", prepare=[0, "no"]).join(served)
        client, txid = await Caller.of(served), new_txid()
        await client.submit(txid, "a", "b")
        await until(lambda: list(served.consensus.ledger.damages()))
        assert bank.told(txid) == ["abort"]


async def test_an_abort_behind_the_horizon_of_what_was_committed_before_it_is_no_damage(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Found by the simulator: a txid is used again when its COMMIT is forgotten, at a node that does not know that yet."""
    async with serving_one() as served:
        committed = await Bank("a", prepare=SILENCE, abort=RpcError("already_committed", "it is")).join(served)
        refusing = await Bank("b", prepare=SILENCE).join(served)
        client, txid = await Caller.of(served), new_txid()
        with caplog.at_level(logging.CRITICAL):
            asked = asyncio.ensure_future(client.submit(txid, "a", "b"))
            await until(lambda: committed.silent and refusing.silent)
            served.consensus.log.append(Retire(txid.ms + 1))
            refusing.speak([0, "it was finished here"])
            await committed.hears("abort", txid)
            await until(lambda: served.node.delivery.pending("a") == 0)
            await asyncio.wait((asked,))
        assert not list(served.consensus.ledger.damages())
        assert not [record for record in caplog.records if record.levelno >= logging.CRITICAL]


# -- acknowledgements into the ledger -----------------------------------------------------------------------------


async def test_acknowledgements_are_gathered_into_one_command() -> None:
    async with serving_one(bounds=replace(SHORT, acks_gather_ms=60_000, acks_gathered_max=4)) as served:
        await Bank("a").join(served)
        await Bank("b").join(served)
        client = await Caller.of(served)
        for _ in range(3):
            await client.submit(new_txid(), "a", "b", wait="completed")
        assert served.proposed(Complete) == []
        await client.submit(new_txid(), "a", "b", wait="completed")
        await until(lambda: served.proposed(Complete))
        (made,) = served.proposed(Complete)
        assert sum(len(branches) for _, branches in made.acks) >= 4


async def test_acknowledgements_survive_a_time_without_a_leader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raftcoord.node.completion._RETRY_MS", 2)
    async with serving_one() as served:
        bank, client, txid = await Bank("a", commit=SILENCE).join(served), await Caller.of(served), new_txid()
        await client.submit(txid, "a")
        await bank.hears("commit", txid)
        served.consensus.refusing = Unavailable("no leader")
        bank.speak(True)
        await until(lambda: served.node.completion.waiting)
        served.consensus.refusing = None
        await until(lambda: outstanding(served, txid) == ())


async def test_acknowledgements_whose_fate_is_not_known_are_proposed_again_with_those_that_came_since(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("raftcoord.node.completion._RETRY_MS", 2)
    monkeypatch.setattr("raftcoord.node.completion._DEADLINE_MS", 20)
    async with serving_one(bounds=replace(SHORT, acks_gathered_max=2)) as served:
        txids = [new_txid() for _ in range(4)]
        for txid in txids:
            served.consensus.log.append(Decide(txid, Verdict.COMMIT, ("a", "b"), "", "", 0))
        served.consensus.held = True
        completion = served.node.completion
        completion.add(txids[0], "a")
        completion.add(txids[1], "a")
        for txid in txids:
            completion.add(txid, "b")
        completion.add(txids[2], "a")
        completion.add(txids[3], "a")
        await until(lambda: len(served.proposed(Complete)) > 1)
        served.consensus.lose()
        served.consensus.held = False
        await until(lambda: served.consensus.ledger.open_count == 0)


async def test_acknowledgements_held_beyond_the_bound_lose_the_oldest() -> None:
    async with serving_one(bounds=replace(SHORT, acks_held_max=2, acks_gather_ms=60_000)) as served:
        txids = [new_txid() for _ in range(3)]
        for txid in txids:
            served.consensus.log.append(Decide(txid, Verdict.COMMIT, ("a",), "", "", 0))
        for txid in txids[:2]:
            served.node.completion.add(txid, "a")
        assert served.node.completion.waiting == 2
        served.node.completion.add(txids[2], "a")
        assert served.node.completion.waiting == 2


async def test_an_acknowledgement_that_the_ledger_does_not_wait_for_is_not_proposed() -> None:
    async with serving_one() as served:
        known, unknown = new_txid(), new_txid()
        served.consensus.log.append(Decide(known, Verdict.COMMIT, ("a",), "", "", 0))
        served.node.completion.add(known, "stranger")
        served.node.completion.add(unknown, "a")
        assert served.node.completion.waiting == 0


# -- sessions -----------------------------------------------------------------------------------------------------


async def test_an_instance_that_connects_anew_replaces_its_half_dead_session() -> None:
    async with serving_one() as served:
        bank = await Bank("a").join(served)
        old = bank.conns[0]
        await bank.join(served)
        await until(lambda: old.closed)
        assert served.node.sessions.names() == ["a"]
        assert (await (await Caller.of(served)).submit(new_txid(), "a"))[0] == State.COMMITTED


async def test_of_several_instances_the_one_with_less_to_do_is_asked() -> None:
    async with serving_one() as served:
        busy = await Bank("a", prepare=SILENCE).join(served)
        client = await Caller.of(served)
        first = client.submit(new_txid(), "a")
        await until(lambda: busy.silent)
        idle = Bank("a")
        idle.instance = "a-2"
        await idle.join(served)
        txid = new_txid()
        assert (await client.submit(txid, "a"))[0] == State.COMMITTED
        assert idle.heard[0] == ("prepare", txid)
        busy.speak(YES)
        await first
