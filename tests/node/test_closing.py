"""A branch that never comes back is closed by an operator; if it comes back all the same, it hears COMMIT."""

from __future__ import annotations

from typing import Any

import pytest

from node.local_consensus import Log
from node.world import SILENCE, Bank, Caller, Served, new_txid, serving, serving_one, until
from raftcoord import limits
from raftcoord.core.tables.decisions import Close, Closing, Complete, Decide
from raftcoord.core.tables.horizon import Retire
from raftcoord.errors import Unavailable
from raftcoord.types import State, TxId, Verdict


def decided(served: Served, *branches: str, verdict: Verdict = Verdict.COMMIT) -> TxId:
    txid = new_txid()
    served.consensus.log.append(Decide(txid, verdict, branches, "", "", 0))
    return txid


async def test_a_closed_branch_is_waited_for_no_longer_and_it_is_recorded_by_whom_and_why() -> None:
    async with serving_one() as served:
        client, txid = await Caller.of(served), decided(served, "a", "gone")
        assert await client.ask("close", [[txid, ["gone"]]], "ops", "the shop was sold") == {"closed": 1}
        assert served.decision(txid).outstanding == ("a",)  # type: ignore[union-attr]
        row = await client.ask("show", txid)
        assert row["closed"] == [
            {"branch": "gone", "who": "ops", "why": "the shop was sold", "at_ms": served.clock.ms},
        ]
        assert await client.ask("close", [[txid, ["gone"]]], "dev", "again") == {"closed": 1}
        assert len(served.proposed(Close)) == 1


async def test_a_closed_branch_that_comes_back_hears_commit_for_ever() -> None:
    async with serving_one() as served:
        client, txid = await Caller.of(served), decided(served, "a", "gone")
        await client.ask("complete", txid, ["a"])
        await client.ask("close", [[txid, ["gone"]]], "ops", "gone")
        served.consensus.log.append(Retire(txid.ms + 1))
        assert served.consensus.ledger.open_count == 0
        back = await Bank("gone").join(served)
        assert (await back.ask("resolve", txid, "gone", 5000))[0] == State.COMMITTED
        assert (await back.ask("status", txid, "gone"))[0] == State.COMMITTED
        assert (await client.ask("resolve_branch", txid, "gone", 5000))[0] == State.COMMITTED
        assert await client.outcome(txid) is State.COMMITTED


async def test_only_what_is_outstanding_of_a_commit_is_closed() -> None:
    async with serving_one() as served:
        client = await Caller.of(served)
        commit, abort = decided(served, "a"), decided(served, "a", verdict=Verdict.ABORT)
        forgotten = decided(served, "a")
        for txid, branch, says in (
            (new_txid(), "a", "is UNDECIDED"),
            (abort, "a", "is ABORTED"),
            (commit, "b", "has no branch 'b'"),
        ):
            error = await client.refused("close", [[txid, [branch]]], "ops", "gone")
            assert (error.code, says in error.message) == ("bad_request", True), error.message
        served.consensus.log.append(Complete(((forgotten, ("a",)),)))
        assert await client.ask("close", [[forgotten, ["a"]]], "ops", "gone") == {"closed": 0}
        served.consensus.log.append(Retire(forgotten.ms + 1))
        assert "is FORGOTTEN" in (await client.refused("close", [[forgotten, ["a"]]], "ops", "gone")).message
        assert served.proposed(Close) == []


async def test_all_are_closed_or_none() -> None:
    async with serving_one() as served:
        client = await Caller.of(served)
        good, bad = decided(served, "a"), decided(served, "a", verdict=Verdict.ABORT)
        await client.refused("close", [[good, ["a"]], [bad, ["a"]]], "ops", "gone")
        assert served.decision(good).outstanding == ("a",)  # type: ignore[union-attr]


async def test_a_participant_that_is_connected_is_not_lost() -> None:
    async with serving_one() as served:
        await Bank("a", commit=SILENCE).join(served)
        client, txid = await Caller.of(served), new_txid()
        await client.submit(txid, "a")
        assert "is connected" in (await client.refused("close", [[txid, ["a"]]], "ops", "gone")).message


async def test_a_node_that_lags_closes_what_it_did_not_know() -> None:
    async with serving(Log("n1", "n2")) as (n1, n2):
        n2.consensus.behind = True
        txid = decided(n1, "a")
        asked = (await Caller.of(n2)).begin("close", [[txid, ["a"]]], "ops", "gone")
        await until(lambda: not n2.consensus.waiting)
        n2.consensus.behind = False
        n2.consensus.catch_up()
        assert await asked == {"closed": 1}
        assert n1.decision(txid).closed[0].who == "ops"  # type: ignore[union-attr]


async def test_without_a_majority_nothing_is_closed() -> None:
    async with serving_one() as served:
        client, txid = await Caller.of(served), decided(served, "a")
        served.consensus.refusing = Unavailable("no leader")
        assert (await client.refused("close", [[txid, ["a"]]], "ops", "gone")).code == "unavailable"


T = new_txid()


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ([[], "ops", "gone"], "0 branches"),
        ([[[T, []]], "ops", "gone"], "0 branches"),
        ([[[T]], "ops", "gone"], "give a list"),
        (["all", "ops", "gone"], "give a list"),
        ([[[T, ["a b"]]], "ops", "gone"], "is not a name"),
        ([[[b"x", ["a"]]], "ops", "gone"], "is not a txid"),
        ([[[T, ["a"]]], "", "gone"], "names nobody"),
        ([[[T, ["a"]]], "ops", " "], "is no reason"),
        ([[[T, ["a"]]], "ops", "a\nb"], "is no reason"),
        ([[[T, ["a"]]], "ops", "x" * (limits.REASON_LENGTH_MAX + 1)], "is no reason"),
        ([[[T, ["a"]]], "ops"], "2 parameters"),
    ],
)
async def test_a_closing_that_says_nothing_is_refused(params: list[Any], says: str) -> None:
    async with serving_one() as served:
        error = await (await Caller.of(served)).refused("close", *params)
        assert (error.code, says in error.message) == ("bad_request", True), error.message


async def test_so_many_are_closed_at_a_time_and_not_one_more() -> None:
    async with serving_one() as served:
        client = await Caller.of(served)
        txids = [decided(served, "a") for _ in range(limits.BRANCHES_SETTLED_MAX + 1)]
        pairs = [[txid, ["a"]] for txid in txids]
        assert "branches: give 1 to" in (await client.refused("close", pairs, "ops", "gone")).message
        assert await client.ask("close", pairs[1:], "ops", "gone") == {"closed": limits.BRANCHES_SETTLED_MAX}
        assert served.consensus.ledger.open_count == 1
        assert served.decision(txids[1]).closed == (Closing("a", "ops", "gone", served.clock.ms),)  # type: ignore[union-attr]
