"""The hunt of every test run: as many seeds as fit into seconds. scripts/nightly has the thousands."""

from __future__ import annotations

import pytest

from raftcoord.sim.healing import LIVENESS_S
from raftcoord.sim.hunt import hunt
from raftcoord.sim.recipe import Recipe
from raftcoord.sim.summary import Summary


@pytest.mark.parametrize(("nodes", "count"), [(3, 24), (5, 20)])
def test_every_seed_keeps_every_promise(nodes: int, count: int) -> None:
    summary = Summary()
    for result in hunt(Recipe(nodes=nodes), range(1, count + 1), workers=2):
        summary.add(result)
    again = f"raftcoord sim replay SEED --nodes {nodes}"
    assert summary.held, f"{summary.verdict}\nby invariant: {summary.by_invariant}\nrun one again: {again}"
    assert summary.seeds == count
    assert summary.decisions > 10 * count
    assert len(summary.unseen) < 3, "the seeds leave faults out"
    assert summary.settled()["max"] < LIVENESS_S
