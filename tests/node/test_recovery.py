"""The leader drives what is decided and not complete. Ways 5 to 7 of FACTS."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest

from node import world
from node.local_consensus import Log
from node.world import SILENCE, Bank, Caller, new_txid, until
from raftcoord.core.tables.decisions import Complete, Decide
from raftcoord.errors import Unavailable
from raftcoord.limits import NodeBounds
from raftcoord.types import State, TxId, Verdict

SHORT = NodeBounds(acks_gather_ms=1)
serving = partial(world.serving, bounds=SHORT)
serving_one = partial(world.serving_one, bounds=SHORT)


def committed(*branches: str) -> Decide:
    return Decide(new_txid(), Verdict.COMMIT, branches, "", "", 0)


async def test_a_new_leader_drives_at_once_what_its_predecessor_left_open() -> None:
    """Way 7: a decided COMMIT that waits 130 s after a leader change. No period passes here: it is a minute."""
    log = Log("n1", "n2")
    async with serving(log) as (n1, n2):
        bank = await Bank("a").join(n2)
        made = committed("a")
        log.append(made)
        await n1.node.stop()
        log.lead(n2.consensus)
        await bank.hears("commit", made.txid)
        await until(lambda: n2.consensus.ledger.open_count == 0)


async def test_a_new_leader_drives_nothing_before_it_has_applied_what_was_committed() -> None:
    log = Log("n1", "n2")
    async with serving(log) as (_, n2):
        bank = await Bank("a").join(n2)
        n2.consensus.behind = True
        early, late = committed("a"), committed("a")
        log.append(early)
        log.lead(n2.consensus)
        log.append(late)
        await until(lambda: not n2.consensus.waiting)
        assert not n2.node.recovery.leads
        assert bank.heard == []
        n2.consensus.behind = False
        n2.consensus.catch_up()
        await bank.hears("commit", early.txid)
        await bank.hears("commit", late.txid)


@pytest.mark.parametrize("how", ["refused", "not known"])
async def test_a_leader_that_cannot_pass_its_barrier_tries_again(how: str) -> None:
    log = Log("n1", "n2")
    async with serving(log, bounds=replace(SHORT, redrive_every_ms=5, ask_ms=10)) as (_, n2):
        bank, made = await Bank("a").join(n2), committed("a")
        log.append(made)
        n2.consensus.refusing = Unavailable("full") if how == "refused" else None
        n2.consensus.held = how == "not known"
        log.lead(n2.consensus)
        await until(lambda: n2.consensus.waiting or n2.consensus.refusing)
        n2.consensus.lose()
        n2.consensus.refusing, n2.consensus.held = None, False
        await bank.hears("commit", made.txid)


async def test_a_participant_that_connects_to_the_leader_is_told_everything_that_is_open_for_it() -> None:
    log = Log("n1")
    async with serving(log) as (n1,):
        await until(lambda: n1.node.recovery.leads)
        made = [committed("a", "b") for _ in range(3)]
        for command in made:
            log.append(command)
        bank = await Bank("a").join(n1)
        for command in made:
            await bank.hears("commit", command.txid)
        decision = n1.decision(made[0].txid)
        assert decision is not None
        await until(lambda: n1.decision(made[0].txid).outstanding == ("b",))  # type: ignore[union-attr]


async def test_a_follower_drives_nothing() -> None:
    log = Log("n1", "n2")
    async with serving(log) as (n1, n2):
        at_leader, at_follower = Bank("a"), Bank("a")
        log.append(committed("a"))
        await at_follower.join(n2)
        await at_leader.join(n1)
        await until(lambda: n2.consensus.ledger.open_count == 0)
        assert at_follower.heard == []


async def test_what_nobody_completes_is_driven_again_within_two_periods() -> None:
    log = Log("n1")
    async with serving(log, bounds=replace(SHORT, redrive_every_ms=10)) as (n1,):
        bank = await Bank("a").join(n1)
        await until(lambda: n1.node.recovery.leads)
        made = committed("a")  # its coordinator died after the decision
        log.append(made)
        await bank.hears("commit", made.txid)
        await until(lambda: n1.consensus.ledger.open_count == 0)


async def test_a_decision_younger_than_a_period_is_left_to_its_coordinator() -> None:
    log = Log("n1", "n2")
    async with serving(log) as (n1, n2):
        bank, client, txid = await Bank("a", commit=SILENCE).join(n1, n2), await Caller.of(n2), new_txid()
        await until(lambda: n1.node.recovery.leads)
        assert (await client.submit(txid, "a"))[0] == State.COMMITTED
        await bank.hears("commit", txid)
        n1.node.recovery._periodic()
        await (await Caller.of(n1)).ask("node")
        assert bank.told(txid) == ["commit"]
        n1.node.recovery._periodic()  # the second sweep since: now it is the leader's
        await bank.hears("commit", txid, times=2)


async def test_what_this_node_is_delivering_is_not_driven_beside_it() -> None:
    async with serving_one() as served:
        bank, client, txid = await Bank("a", commit=SILENCE).join(served), await Caller.of(served), new_txid()
        await client.submit(txid, "a")
        await bank.hears("commit", txid)
        for _ in range(3):
            served.node.recovery._periodic()
        await client.ask("node")
        assert bank.told(txid) == ["commit"]


async def test_a_sweep_of_many_open_decisions_goes_in_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    log = Log("n1", "n2")
    async with serving(log, bounds=replace(SHORT, redrive_step=10, redrive_step_ms=60_000)) as (_, n2):
        made = [committed("a") for _ in range(35)]
        for command in made:
            log.append(command)
        bank = await Bank("a").join(n2)
        looked: list[TxId] = []
        park = n2.node.recovery._park
        monkeypatch.setattr(n2.node.recovery, "_park", lambda seen: (looked.append(seen.txid), park(seen)))
        log.lead(n2.consensus)
        await until(lambda: looked)
        await (await Caller.of(n2)).ask("node")
        assert len(looked) == 10
        while n2.node.recovery._sweep is not None:
            n2.node.recovery._step()
        await until(lambda: n2.consensus.ledger.open_count == 0)
        assert {txid for _, txid in bank.heard} == {command.txid for command in made}


async def test_undecided_transactions_are_left_alone_at_a_leader_change() -> None:
    """Way 5: every undecided transaction rolled back at each leader change."""
    log = Log("n1", "n2")
    async with serving(log) as (n1, n2):
        bank, client, txid = await Bank("a", prepare=SILENCE).join(n1, n2), await Caller.of(n1), new_txid()
        answer = client.submit(txid, "a")
        await bank.hears("prepare", txid)
        log.lead(n2.consensus)
        await until(lambda: n2.node.recovery.leads)
        bank.speak([1, ""])
        assert (await answer)[0] == State.COMMITTED
        await bank.hears("commit", txid)


async def test_a_long_backlog_is_driven_in_portions_and_leaves_room_for_what_is_new() -> None:
    log = Log("n1", "n2")
    async with serving(log, bounds=replace(SHORT, deliveries_pending_max=8, redrive_every_ms=5)) as (_, n2):
        made = [committed("a") for _ in range(20)]
        for command in made:
            log.append(command)
        bank = await Bank("a", commit=SILENCE).join(n2)
        log.lead(n2.consensus)
        await until(lambda: len(bank.silent) == 4)
        await (await Caller.of(n2)).ask("node")
        assert n2.node.delivery.pending("a") == 4
        bank.script["commit"] = True
        bank.speak(True)
        await until(lambda: n2.consensus.ledger.open_count == 0)
        assert {txid for _, txid in bank.heard} == {command.txid for command in made}


async def test_what_is_open_for_those_who_are_away_costs_a_sweep_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """20,000 open decisions of 64 participants that never came back made every transaction 30 times slower."""
    log = Log("n1")
    async with serving(log) as (n1,):
        await until(lambda: n1.node.recovery.leads)
        for _ in range(300):
            log.append(committed("gone-1", "gone-2"))
        for _ in range(2):
            n1.node.recovery._periodic()
        await until(lambda: n1.node.recovery._sweep is None)
        looked: list[object] = []
        outstanding = n1.node.recovery._outstanding
        monkeypatch.setattr(n1.node.recovery, "_outstanding", lambda *of: (looked.append(of), outstanding(*of))[1])
        monkeypatch.setattr(n1.node.recovery, "_park", looked.append)
        bank = await Bank("a").join(n1)
        for _ in range(3):
            n1.node.recovery._periodic()
        made = committed("a")
        assert looked == []
        monkeypatch.undo()
        log.append(made)
        for _ in range(2):
            n1.node.recovery._periodic()
        await bank.hears("commit", made.txid)
        back = await Bank("gone-1").join(n1)
        await until(lambda: len(back.heard) == 300)


async def test_a_participant_that_connects_is_told_at_once_what_is_younger_than_a_sweep() -> None:
    log = Log("n1")
    async with serving(log) as (n1,):
        await until(lambda: n1.node.recovery.leads and n1.node.recovery._sweep is None)
        n1.node.recovery._alarms.cancel(n1.node.recovery._alarm)  # no period passes
        made = committed("a")
        log.append(made)
        bank = await Bank("a").join(n1)
        await bank.hears("commit", made.txid)


async def test_what_was_handed_over_and_is_held_by_nobody_is_driven_again() -> None:
    """Delivery and the acknowledgements drop the oldest when they hold too much."""
    log = Log("n1")
    async with serving(log, bounds=replace(SHORT, redrive_every_ms=5)) as (n1,):
        bank = await Bank("a").join(n1)
        await until(lambda: n1.node.recovery.leads)
        n1.node.completion.add = lambda txid, branch: None  # type: ignore[method-assign]  # the acknowledgement is lost
        made = committed("a")
        log.append(made)
        await bank.hears("commit", made.txid, times=3)
        del n1.node.completion.add  # type: ignore[method-assign]
        await until(lambda: n1.consensus.ledger.open_count == 0)
        await until(lambda: not n1.node.recovery._parked and not n1.node.recovery._handed)


async def test_what_is_complete_does_not_stay_parked_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """The branches of databases are completed by clients: no participant of that name ever connects."""
    monkeypatch.setattr("raftcoord.node.recovery._PURGE_SLACK", 10)
    log = Log("n1")
    async with serving(log) as (n1,):
        await until(lambda: n1.node.recovery.leads)
        still_open = committed("db")
        log.append(still_open)
        for _ in range(100):
            made = committed("db")
            log.append(made)
            for _ in range(2):
                n1.node.recovery._periodic()
            log.append(Complete(((made.txid, ("db",)),)))
        parked = n1.node.recovery._parked["db"]
        assert len(parked) <= 14
        assert still_open.txid in parked


async def test_a_node_that_leads_no_more_holds_nothing() -> None:
    log = Log("n1", "n2")
    async with serving(log, bounds=replace(SHORT, redrive_every_ms=5)) as (n1, n2):
        log.append(committed("gone"))
        await until(lambda: n1.node.recovery._parked)
        log.lead(n2.consensus)
        await until(lambda: n2.node.recovery._parked and not n1.node.recovery._parked)
