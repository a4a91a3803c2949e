"""The way out when the horizon was moved into the future: who may take it, when, and how far."""

from __future__ import annotations

from typing import Any

import pytest

from node.local_consensus import Log
from node.world import NOW_MS, Caller, Clock, Served, new_txid, serving, serving_one
from raftcoord import limits
from raftcoord.core.tables.horizon import LOWERED, Lower, Retire
from raftcoord.types import NodeName, State, TxId, Verdict

DAY_MS = 86_400_000
MOVED_MS = NOW_MS + 2 * DAY_MS
BEYOND_MS = limits.ClockBounds.future_ms_max + limits.ClockBounds.spread_ms_max


async def ask(served: Served, client: Caller, after_ms: int = 0) -> Any:
    return await client.ask("lower_horizon", "anna", after_ms)


def offsets(served: Served, *ms: int | None) -> None:
    served.consensus.offsets = {NodeName(f"n{at}"): value for at, value in enumerate(ms, 2)}


async def test_a_moved_horizon_is_lowered_beyond_every_clock_and_fresh_txids_are_accepted_again() -> None:
    clock = Clock()
    async with serving_one(clock=clock) as served:
        client, before = await Caller.of(served), new_txid()
        await client.decide(before, Verdict.COMMIT)
        served.consensus.log.append(Retire(MOVED_MS))
        offsets(served, 3_000, -7_000)
        found = await ask(served, client)
        lowest_ms = NOW_MS + 3_000 + BEYOND_MS
        assert found == {"was_ms": MOVED_MS, "horizon_ms": lowest_ms, "who": "anna", "at_ms": NOW_MS}
        assert served.consensus.ledger.horizon_ms == lowest_ms
        for forgotten in (before, new_txid(), new_txid(lowest_ms - 1)):
            assert await client.outcome(forgotten) is State.FORGOTTEN
            assert (await client.decide(forgotten, Verdict.COMMIT))[0] == State.FORGOTTEN
        clock.ms = lowest_ms
        assert (await client.decide(new_txid(lowest_ms), Verdict.COMMIT))[0] == State.COMMITTED
        (record,) = served.consensus.ledger.damages()
        assert (record.branch, record.acknowledged_by) == (LOWERED, "anna")


@pytest.mark.parametrize(
    ("peers", "why"),
    [
        ((0, None), "the clock of node n3 is not known"),
        ((0, limits.ClockBounds.spread_ms_max + 1), "the clock of node n3 is more than 60 s"),
        ((-limits.ClockBounds.spread_ms_max - 1, 0), "the clock of node n2 is more than 60 s"),
    ],
)
async def test_every_clock_must_be_known_and_agree(peers: tuple[int | None, ...], why: str) -> None:
    async with serving_one() as served:
        client = await Caller.of(served)
        served.consensus.log.append(Retire(MOVED_MS))
        offsets(served, *peers)
        error = await client.refused("lower_horizon", "anna", 0)
        assert error.code == "unavailable"
        assert why in error.message
        assert served.proposed(Lower) == []


@pytest.mark.parametrize("over_ms", [0, 1])
async def test_a_horizon_that_is_not_ahead_stays(over_ms: int) -> None:
    async with serving_one() as served:
        client = await Caller.of(served)
        served.consensus.log.append(Retire(NOW_MS + BEYOND_MS + over_ms))
        if over_ms:
            assert (await ask(served, client))["horizon_ms"] == NOW_MS + BEYOND_MS
        else:
            assert "nothing to lower" in (await client.refused("lower_horizon", "anna", 0)).message


async def test_a_machine_whose_clock_was_ahead_is_taken_into_account() -> None:
    async with serving_one() as served:
        client, ahead = await Caller.of(served), new_txid(NOW_MS + DAY_MS)
        await client.decide(ahead, Verdict.COMMIT, "a")
        served.consensus.log.append(Retire(MOVED_MS))
        error = await client.refused("lower_horizon", "anna", 0)
        assert f"a clock that showed {ahead.ms} ms" in error.message
        assert (await ask(served, client, ahead.ms))["horizon_ms"] == ahead.ms + 1
        assert await client.outcome(ahead) is State.COMMITTED


async def test_only_the_leader_lowers_it() -> None:
    async with serving(Log("n1", "n2")) as (n1, n2):
        n1.consensus.log.append(Retire(MOVED_MS))
        client = await Caller.of(n2)
        assert "does not lead" in (await client.refused("lower_horizon", "anna", 0)).message
        assert n2.proposed(Lower) == []


@pytest.mark.parametrize(
    "params", [[], ["anna"], ["", 0], ["anna", -1], ["anna", "now"], ["anna", True], ["anna", limits.TIME_MS_MAX + 1]]
)
async def test_bad_input_lowers_nothing(params: list[Any]) -> None:
    async with serving_one() as served:
        client = await Caller.of(served)
        served.consensus.log.append(Retire(MOVED_MS))
        assert (await client.refused("lower_horizon", *params)).code == "bad_request"
        assert served.consensus.ledger.horizon_ms == MOVED_MS


async def test_what_is_in_a_txid_of_the_record_is_a_time() -> None:
    async with serving_one() as served:
        client = await Caller.of(served)
        served.consensus.log.append(Retire(MOVED_MS))
        await ask(served, client)
        (record,) = served.consensus.ledger.damages()
        assert TxId(bytes(record.txid)).ms == NOW_MS
