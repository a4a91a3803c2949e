"""What a leader proposes by itself: the cluster's id and the horizon."""

from __future__ import annotations

import pytest

from node.local_consensus import Log
from node.world import NOW_MS, Caller, Clock, Served, new_txid, serving, serving_one, until
from raftcoord import limits
from raftcoord.core.tables.founding import Found
from raftcoord.core.tables.horizon import Retire
from raftcoord.errors import Unavailable
from raftcoord.limits import NodeBounds
from raftcoord.types import NodeName, State, Verdict

STEP = NodeBounds.retire_step_ms_max
NEAR, FAR = limits.ClockBounds.spread_ms_max, limits.ClockBounds.spread_ms_max + 1


def offsets(*ms: int | None) -> dict[NodeName, int | None]:
    return {NodeName(f"n{i + 2}"): value for i, value in enumerate(ms)}


@pytest.mark.parametrize(
    ("peers", "ahead_ms"),
    [
        ([], 0),
        ([NEAR, FAR], 0),
        ([-NEAR, None], -NEAR),
        ([-NEAR, -1], -1),
        ([FAR, -FAR], None),
        ([None, None], None),
        ([0, 0, FAR, None], 0),
        ([-5, -3, FAR, None], -3),
        ([0, None, FAR, None], None),
    ],
)
async def test_the_horizon_moves_only_while_a_majority_of_the_clocks_agree(
    peers: list[int | None], ahead_ms: int | None
) -> None:
    """``ahead_ms``: how far ahead of the leader's clock the time is that the horizon follows; None: it stays."""
    log = Log("n1")
    log.nodes[0].offsets = offsets(*peers)
    async with serving(log, bounds=NodeBounds(retire_every_ms=5)) as (served,):
        assert served.node.retirement.clock_agrees() is (ahead_ms is not None)
        if ahead_ms is not None:
            latest_ms = NOW_MS + ahead_ms - limits.RETENTION_MS_DEFAULT
            await until(lambda: served.consensus.ledger.horizon_ms == latest_ms)
        else:
            served.node.retirement._periodic()
            assert served.proposed(Retire) == []


async def test_a_follower_does_not_move_the_horizon() -> None:
    async with serving(Log("n1", "n2")) as (n1, n2):
        for one in (n1, n2):
            one.consensus.offsets = offsets(0)
            one.node.retirement._periodic()
        assert len(n1.proposed(Retire)) == 1
        assert n2.proposed(Retire) == []


async def test_a_horizon_that_would_not_advance_is_not_proposed() -> None:
    clock = Clock()
    async with serving_one(clock=clock) as served:
        for _ in range(3):
            served.node.retirement._periodic()
            await until(lambda: served.consensus.ledger.horizon_ms)
        assert len(served.proposed(Retire)) == 1
        clock.ms += 1
        served.node.retirement._periodic()
        assert len(served.proposed(Retire)) == 2


@pytest.mark.parametrize(("late_ms", "moved_ms"), [(0, 0), (1, 1), (STEP, STEP), (STEP + 1, STEP), (1 << 40, STEP)])
async def test_the_horizon_moves_by_one_step_at_a_time(late_ms: int, moved_ms: int) -> None:
    clock = Clock()
    async with serving_one(clock=clock) as served:
        served.node.retirement._periodic()
        await until(lambda: served.consensus.ledger.horizon_ms)
        before_ms = served.consensus.ledger.horizon_ms
        clock.ms += late_ms
        served.node.retirement._periodic()
        await until(lambda: served.consensus.ledger.horizon_ms == before_ms + moved_ms)


async def test_what_is_open_is_not_forgotten_and_what_is_finished_is() -> None:
    clock = Clock()
    async with serving_one(clock=clock) as served:
        client, finished, open_ = await Caller.of(served), new_txid(), new_txid()
        await client.decide(finished, Verdict.COMMIT)
        await client.decide(open_, Verdict.COMMIT, "a")
        clock.ms += limits.RETENTION_MS_DEFAULT + 1
        served.node.retirement._periodic()
        await until(lambda: served.consensus.ledger.horizon_ms)
        assert await client.outcome(finished) is State.FORGOTTEN
        assert await client.outcome(open_) is State.COMMITTED


# -- founding -----------------------------------------------------------------------------------------------------


async def test_the_first_leader_founds_the_cluster_once() -> None:
    log = Log("n1", "n2", founded=False)
    async with serving(log) as (n1, n2):
        await until(lambda: n1.consensus.ledger.cluster)
        cluster = n1.consensus.ledger.cluster
        assert len(cluster) == 16
        assert int(cluster, 16) >= 0
        log.lead(n2.consensus)
        assert n2.consensus.ledger.cluster == cluster
        assert n2.proposed(Found) == []


async def found_late(served: Served) -> str:
    await until(lambda: served.consensus.ledger.cluster)
    return served.consensus.ledger.cluster


@pytest.mark.parametrize("how", ["refused", "lost"])
async def test_founding_is_tried_until_it_succeeds(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raftcoord.node.retirement._FOUND_RETRY_MS", 2)
    monkeypatch.setattr("raftcoord.node.retirement._DEADLINE_MS", 10)
    log = Log("n1", founded=False)
    log.nodes[0].refusing = Unavailable("full") if how == "refused" else None
    log.nodes[0].held = how == "lost"
    async with serving(log) as (served,):
        await until(lambda: served.consensus.refusing or served.consensus.waiting)
        served.consensus.lose()
        assert served.consensus.ledger.cluster == ""
        served.consensus.refusing, served.consensus.held = None, False
        assert len(await found_late(served)) == 16
