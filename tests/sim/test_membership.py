"""Faults of members do in a simulation what they say."""

from __future__ import annotations

import random

import pytest

from raftcoord.sim.faults import Fault
from raftcoord.sim.membership import STRANGE, other_names
from raftcoord.sim.simulation import Settings
from raftcoord.sim.timeline import Traced

SETTINGS = Settings(duration_s=5.0)


@pytest.mark.parametrize("value", [0.1, 0.2, 0.5, 0.7, 0.9])
def test_a_node_is_removed_and_votes_again_as_a_new_one(value: float) -> None:
    plan = [Fault(1.2, 1.5, "node-remove", ("n2",), value)]
    report = Traced(3, SETTINGS, plan).report
    assert report.held, report.violation
    told = [line.split(maxsplit=1)[1] for line in report.timeline]
    order = [told.index(f"n2        {what}") for what in ("is removed", "is emptied", "votes again")]
    assert order == sorted(order)


def test_a_node_refuses_a_file_of_other_names_and_comes_back_with_the_right_one() -> None:
    refused = 0
    for seed in range(4):
        report = Traced(seed, SETTINGS, [Fault(1.2, 1.5, "other-file", ("n2",))]).report
        assert report.held, report.violation
        refused += sum("n2        refuses to start: cluster.yaml names" in line for line in report.timeline)
    assert refused


def test_a_wrong_file_names_others() -> None:
    rng = random.Random(1)
    nodes = ["n1", "n2", "n3"]
    drawn = {other_names(nodes, "n2", rng) for _ in range(100)}
    assert all("n2" in names and set(names) != set(nodes) for names in drawn)
    assert {STRANGE in names for names in drawn} == {True, False}
