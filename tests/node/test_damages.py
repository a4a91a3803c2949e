"""Damage is recorded, listed and acknowledged; it is never hidden, and in nobody else's way."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from node import world
from node.local_consensus import Log
from node.world import SILENCE, Bank, Caller, Served, new_txid, until
from raftcoord import limits
from raftcoord.core.tables.damages import SETTLED, Acknowledge, Heuristic, Settle
from raftcoord.core.tables.decisions import Closing, Complete, Decide
from raftcoord.core.tables.horizon import Retire
from raftcoord.errors import Unavailable
from raftcoord.limits import NodeBounds
from raftcoord.rpc.codes import RpcError
from raftcoord.types import State, TxId, Verdict

NOT_PREPARED = RpcError("not_prepared", "never heard of it")


SHORT = NodeBounds(delivery_retry_ms_min=1, acks_gather_ms=1)
serving = partial(world.serving, bounds=SHORT)
serving_one = partial(world.serving_one, bounds=SHORT)


async def listed(client: Caller, **query: Any) -> list[tuple[TxId, str, str]]:
    found = await client.ask("damages", query)
    assert len(found["damages"]) <= found["total"]
    return [(TxId(row["txid"]), row["branch"], row["acknowledged_by"]) for row in found["damages"]]


def commit_of(served: Served, *branches: str) -> TxId:
    txid = new_txid()
    served.consensus.log.append(Decide(txid, Verdict.COMMIT, branches, "", "", 0))
    return txid


# -- reporting ----------------------------------------------------------------------------------------------------


async def test_reported_damage_is_recorded_once_and_the_first_word_stands() -> None:
    async with serving_one() as served:
        client, txid = await Caller.of(served), commit_of(served, "ledger")
        assert await client.ask("report_damage", txid, "ledger", "rolled back by hand") is True
        assert await client.ask("report_damage", txid, "ledger", "or was it?") is True
        assert len(served.proposed(Heuristic)) == 1
        (row,) = (await client.ask("damages", {}))["damages"]
        assert (row["what"], row["acknowledged_by"]) == ("rolled back by hand", "")
        assert (await client.ask("node"))["damages"] == 1


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ([b"short", "ledger", "gone"], "is not a txid"),
        (["TXID", "Le dger", "gone"], "is not a name"),
        (["TXID", "ledger", ""], "say what happened"),
        (["TXID", "ledger", 7], "say what happened"),
        (["TXID", "ledger"], "2 parameters were given"),
    ],
)
async def test_a_report_that_says_nothing_is_refused(params: list[Any], says: str) -> None:
    async with serving_one() as served:
        client, txid = await Caller.of(served), new_txid()
        error = await client.refused("report_damage", *[txid if value == "TXID" else value for value in params])
        assert (error.code, says in error.message) == ("bad_request", True), error.message
        assert served.proposed(Heuristic) == []


async def test_a_report_that_is_not_confirmed_says_that_it_may_be_repeated() -> None:
    async with serving_one() as served:
        client, txid = await Caller.of(served), commit_of(served, "ledger")
        served.consensus.held = True
        asked = client.begin("report_damage", txid, "ledger", "gone")
        await until(lambda: served.consensus.waiting)
        served.consensus.lose()
        with pytest.raises(RpcError, match="ask for the same again, that is safe"):
            await asked


async def test_damage_of_what_was_never_decided_or_is_forgotten_is_refused() -> None:
    """Anybody could fill every node's memory and disk with damage of txids that he made up, for ever."""
    async with serving_one() as served:
        client, complete = await Caller.of(served), commit_of(served, "ledger")
        undecided = await client.refused("report_damage", new_txid(), "ledger", "gone")
        assert (undecided.code, "is UNDECIDED" in undecided.message) == ("bad_request", True)
        nobody = await client.refused("report_damage", complete, "orders", "gone")
        assert (nobody.code, "no branch 'orders'" in nobody.message) == ("bad_request", True)
        await client.ask("complete", complete, ["ledger"])
        served.consensus.log.append(Retire(complete.ms + 1))
        forgotten = await client.refused("report_damage", complete, "ledger", "gone")
        assert (forgotten.code, "is FORGOTTEN" in forgotten.message) == ("bad_request", True)
        assert served.proposed(Heuristic) == []


async def test_damage_of_what_this_node_has_not_applied_yet_is_recorded() -> None:
    async with serving(Log("n1", "n2")) as (n1, n2):
        n2.consensus.behind = True
        txid = commit_of(n1, "ledger")
        asked = (await Caller.of(n2)).begin("report_damage", txid, "ledger", "gone")
        await until(lambda: not n2.consensus.waiting)
        n2.consensus.behind = False
        n2.consensus.catch_up()
        assert await asked is True
        assert n1.consensus.ledger.damage(txid, "ledger") is not None


async def test_damage_of_an_abort_is_recorded_for_any_branch_but_not_for_any_number() -> None:
    async with serving_one() as served:
        client, txid = await Caller.of(served), new_txid()
        await client.decide(txid, Verdict.ABORT)
        for number in range(limits.BRANCHES_MAX):
            assert await client.ask("report_damage", txid, f"db-{number}", "it was committed by hand") is True
        assert "cannot have more" in (await client.refused("report_damage", txid, "one-more", "gone")).message
        assert await client.ask("report_damage", txid, "db-0", "again") is True


async def test_so_much_damage_is_recorded_and_no_more_until_somebody_looks() -> None:
    async with serving_one(bounds=replace(SHORT, damages_unseen_max=3, damage_retry_ms=1)) as served:
        bank = await Bank("ledger", commit=NOT_PREPARED).join(served)
        client = await Caller.of(served)
        txids = [commit_of(served, "orders") for _ in range(4)]
        for txid in txids[:3]:
            assert await client.ask("report_damage", txid, "orders", "gone") is True
        full = await client.refused("report_damage", txids[3], "orders", "gone")
        assert (full.code, "raftcoord txn acknowledge" in full.message) == ("overloaded", True)
        assert await client.ask("report_damage", txids[0], "orders", "again") is True
        made = new_txid()
        await client.submit(made, "ledger")
        await bank.hears("commit", made, times=3)
        assert served.consensus.ledger.damage(made, "ledger") is None
        await client.ask("acknowledge", txids[0], "orders", "ann")
        await until(lambda: served.consensus.ledger.damage(made, "ledger"))


# -- listing ------------------------------------------------------------------------------------------------------


async def test_what_nobody_has_acknowledged_is_listed_first_and_nothing_is_hidden() -> None:
    async with serving_one() as served:
        client = await Caller.of(served)
        txids = [commit_of(served, "ledger") for _ in range(3)]
        for txid in txids:
            served.clock.ms += 1
            await client.ask("report_damage", txid, "ledger", "gone")
        await client.ask("acknowledge", txids[2], "ledger", "ann")
        first, second, third = txids
        assert await listed(client) == [(second, "ledger", ""), (first, "ledger", ""), (third, "ledger", "ann")]
        assert await listed(client, txid=first) == [(first, "ledger", "")]
        found = await client.ask("damages", {"limit": 1})
        assert (len(found["damages"]), found["pending"], found["total"]) == (1, 2, 3)
        assert (await client.ask("node"))["damages"] == 2


@pytest.mark.parametrize(
    "query", [{"limit": 0}, {"limit": limits.DAMAGES_MAX + 1}, {"state": "open"}, [], {"txid": b"x"}]
)
async def test_a_listing_that_is_none_is_refused(query: object) -> None:
    async with serving_one() as served:
        assert (await (await Caller.of(served)).refused("damages", query)).code == "bad_request"


async def test_a_listing_at_the_bound_fits_in_a_frame() -> None:
    async with serving_one() as served:
        client = await Caller.of(served)
        what = "\N{EURO SIGN}" * limits.REASON_LENGTH_MAX
        for _ in range(limits.DAMAGES_MAX):
            served.consensus.log.append(Heuristic(new_txid(), "b" * limits.NAME_LENGTH_MAX, what, 1 << 62))
        assert len(await listed(client, limit=limits.DAMAGES_MAX)) == limits.DAMAGES_MAX


# -- acknowledging ------------------------------------------------------------------------------------------------


async def test_acknowledged_damage_is_waited_for_no_longer_and_stays_listed_until_the_horizon() -> None:
    async with serving_one() as served:
        bank = await Bank("ledger", commit=NOT_PREPARED).join(served)
        client, txid = await Caller.of(served), new_txid()
        await client.submit(txid, "ledger")
        await until(lambda: served.consensus.ledger.damage(txid, "ledger"))
        row = await client.ask("acknowledge", txid, "ledger", "ann")
        assert (row["branch"], row["acknowledged_by"]) == ("ledger", "ann")
        assert served.consensus.ledger.open_count == 0
        assert await listed(client) == [(txid, "ledger", "ann")]
        assert await client.outcome(txid) is State.COMMITTED
        assert bank.told(txid) == ["commit"]
        served.consensus.log.append(Retire(txid.ms + 1))
        assert await listed(client) == []
        assert await client.outcome(txid) is State.COMMITTED


async def test_the_first_who_acknowledges_stands() -> None:
    async with serving_one() as served:
        client, txid = await Caller.of(served), commit_of(served, "ledger")
        await client.ask("report_damage", txid, "ledger", "gone")
        await client.ask("acknowledge", txid, "ledger", "ann")
        assert (await client.ask("acknowledge", txid, "ledger", "bob"))["acknowledged_by"] == "ann"
        assert served.decision(txid).closed == (Closing("ledger", "ann", SETTLED, served.clock.ms),)  # type: ignore[union-attr]


async def test_damage_that_nobody_reported_cannot_be_acknowledged() -> None:
    async with serving_one() as served:
        client, txid = await Caller.of(served), commit_of(served, "ledger")
        error = await client.refused("acknowledge", txid, "ledger", "ann")
        assert (error.code, "no damage is recorded" in error.message) == ("bad_request", True)
        assert served.proposed(Settle) == served.proposed(Complete) == []
        assert served.consensus.ledger.open_count == 1


@pytest.mark.parametrize("who", ["", "  ", "a\nb", "x" * (limits.WHO_LENGTH_MAX + 1), 7, None])
async def test_nobody_acknowledges_nothing(who: object) -> None:
    async with serving_one() as served:
        client, txid = await Caller.of(served), commit_of(served, "ledger")
        await client.ask("report_damage", txid, "ledger", "gone")
        assert (await client.refused("acknowledge", txid, "ledger", who)).code == "bad_request"
        assert (await client.ask("acknowledge", txid, "ledger", "x" * limits.WHO_LENGTH_MAX))["acknowledged_by"]


async def test_what_an_older_release_acknowledged_half_way_is_finished_by_the_next() -> None:
    async with serving_one() as served:
        client, txid = await Caller.of(served), commit_of(served, "ledger")
        await client.ask("report_damage", txid, "ledger", "gone")
        served.consensus.log.append(Acknowledge(txid, "ledger", "ann", 0))
        assert served.consensus.ledger.open_count == 1
        await client.ask("acknowledge", txid, "ledger", "ann")
        assert served.consensus.ledger.open_count == 0


async def test_an_acknowledgement_without_a_leader_changes_nothing() -> None:
    async with serving_one() as served:
        client, txid = await Caller.of(served), commit_of(served, "ledger")
        await client.ask("report_damage", txid, "ledger", "gone")
        served.consensus.refusing = Unavailable("no leader")
        assert (await client.refused("acknowledge", txid, "ledger", "ann")).code == "unavailable"
        assert await listed(client) == [(txid, "ledger", "")]


async def test_all_damage_is_acknowledged_at_once_in_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BRANCHES_SETTLED_MAX", 2)
    async with serving_one() as served:
        client = await Caller.of(served)
        txids = [commit_of(served, "orders", "ledger") for _ in range(3)]
        for txid in txids:
            await client.ask("report_damage", txid, "orders", "marks were dropped")
        await client.ask("report_damage", txids[0], "ledger", "something else")
        seen_ms = served.clock.ms
        served.clock.ms += 1
        await client.ask("report_damage", txids[1], "ledger", "nobody has seen this yet")
        assert await client.ask("acknowledge_all", "orders", seen_ms, "ann") == {"acknowledged": 2, "left": 1}
        assert await client.ask("acknowledge_all", "orders", seen_ms, "ann") == {"acknowledged": 1, "left": 0}
        assert await client.ask("acknowledge_all", "orders", seen_ms, "ann") == {"acknowledged": 0, "left": 0}
        assert (await client.ask("damages", {}))["pending"] == 2
        assert await client.ask("acknowledge_all", None, seen_ms, "ann") == {"acknowledged": 1, "left": 0}
        assert [served.decision(txid).outstanding for txid in txids] == [(), ("ledger",), ("ledger",)]  # type: ignore[union-attr]
        assert (await client.ask("node"))["damages"] == 1


@pytest.mark.parametrize(
    "params", [["a b", 1, "ann"], [None, -1, "ann"], [None, "now", "ann"], [None, 1, ""], [None, 1]]
)
async def test_a_bulk_acknowledgement_that_says_nothing_is_refused(params: list[object]) -> None:
    async with serving_one() as served:
        assert (await (await Caller.of(served)).refused("acknowledge_all", *params)).code == "bad_request"


# -- in nobody's way ----------------------------------------------------------------------------------------------


async def test_a_damaged_branch_does_not_keep_the_others_from_completing() -> None:
    async with serving_one() as served:
        await Bank("ledger", commit=NOT_PREPARED).join(served)
        await Bank("orders").join(served)
        client, txid = await Caller.of(served), new_txid()
        await client.submit(txid, "ledger", "orders")
        await until(lambda: served.decision(txid).outstanding == ("ledger",))  # type: ignore[union-attr]


async def test_what_is_damaged_takes_no_room_from_what_is_not() -> None:
    """With five thousand damaged branches the leader would otherwise drive that participant's decisions no more."""
    log = Log("n1", "n2")
    async with serving(log, bounds=replace(SHORT, deliveries_pending_max=8, redrive_every_ms=5)) as (n1, n2):
        damaged = {commit_of(n1, "ledger") for _ in range(6)}
        bank = await Bank("ledger", commit=lambda txid: NOT_PREPARED if txid in damaged else True).join(n2)
        log.lead(n2.consensus)
        await until(lambda: len(list(n2.consensus.ledger.damages())) == 6)
        healthy = [commit_of(n1, "ledger") for _ in range(6)]
        await until(lambda: n2.consensus.ledger.open_count == 6)
        assert all(bank.told(txid) == ["commit"] for txid in healthy)
        assert {decision.txid for decision in n2.consensus.ledger.open_decisions()} == damaged


# -- what may be inferred of a branch that is still prepared ---------------------------------------------------------


async def test_a_client_asks_for_any_branch_and_is_told_what_that_branch_has_to_do() -> None:
    async with serving_one() as served:
        client, txid = await Caller.of(served), commit_of(served, "ledger")
        assert (await client.ask("resolve_branch", txid, "ledger", 5000))[0] == State.COMMITTED
        assert (await client.ask("resolve_branch", txid, "orders", 5000))[0] == State.ABORTED
        undecided = new_txid()
        assert (await client.ask("resolve_branch", undecided, "ledger", 5000))[0] == State.ABORTED
        assert await client.outcome(undecided) is State.ABORTED


async def test_a_forgotten_branch_is_aborted_only_if_its_own_word_was_the_last() -> None:
    async with serving_one() as served:
        client = await Caller.of(served)
        sound, damaged = commit_of(served, "ledger"), commit_of(served, "ledger")
        await client.ask("complete", sound, ["ledger"])
        await client.ask("report_damage", damaged, "ledger", "nothing is prepared there")
        await client.ask("acknowledge", damaged, "ledger", "ann")
        older = commit_of(served, "ledger")  # as an older release acknowledged it
        for command in (Heuristic(older, "ledger", "gone", 0), Acknowledge(older, "ledger", "ann", 0)):
            served.consensus.log.append(command)
        served.consensus.log.append(Complete(((older, ("ledger",)),)))
        served.consensus.log.append(Retire(max(sound.ms, damaged.ms, older.ms) + 1))
        assert await client.outcome(sound) is State.FORGOTTEN
        assert (await client.ask("resolve_branch", sound, "ledger", 5000))[0] == State.ABORTED
        assert (await client.ask("resolve_branch", damaged, "ledger", 5000))[0] == State.COMMITTED
        assert await client.outcome(older) is State.FORGOTTEN
        state, reason, *_ = await client.ask("resolve_branch", older, "ledger", 5000)
        assert (state, "by hand" in reason) == (State.FORGOTTEN, True)


async def test_a_participant_is_told_the_same_of_its_damaged_branch() -> None:
    async with serving_one() as served:
        bank, client, txid = await Bank("a", commit=SILENCE).join(served), await Caller.of(served), new_txid()
        served.consensus.log.append(Heuristic(txid, "a", "restored from a backup", 0))
        served.consensus.log.append(Retire(txid.ms + 1))
        assert (await bank.ask("resolve", txid, "a", 5000))[0] == State.FORGOTTEN
        assert await client.outcome(txid) is State.FORGOTTEN
