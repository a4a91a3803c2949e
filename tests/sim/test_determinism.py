"""The same seed is the same simulation: in this process, in another one, and whatever order Python gives to sets of strings."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter

import pytest

from raftcoord import events
from raftcoord.sim.happening import (
    AtNode,
    Began,
    Born,
    BranchAnswered,
    EntryCommitted,
    Logged,
    Noted,
    OutcomeMade,
)
from raftcoord.sim.simulation import Report, Settings, Simulation
from raftcoord.sim.timeline import Traced

DURATION_S = 5.0
PROGRAM = """
import sys
from raftcoord.sim.simulation import Settings, Simulation
seed, nodes, databases, duration_s = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4])
report = Simulation(seed, Settings(nodes=nodes, duration_s=duration_s, databases=databases)).run()
print(report.digest, report.settled_s, report.virtual_s, report.outcomes, report.states, report.violation)
"""


def told(report: Report) -> str:
    parts = (report.digest, report.settled_s, report.virtual_s, report.outcomes, report.states, report.violation)
    return " ".join(map(str, parts))


def in_another_process(seed: int, nodes: int, databases: float, hash_seed: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, (seed, nodes, databases, DURATION_S))],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
    )
    return done.stdout.strip()


@pytest.mark.parametrize(
    ("seed", "nodes", "databases"), [(11, 3, 0.0), (20, 3, 0.0), (12, 5, 0.0), (11, 3, 1.0), (55, 3, 1.0), (12, 5, 1.0)]
)
def test_the_same_seed_gives_the_same_trace_in_another_process_and_under_another_hash_seed(
    seed: int, nodes: int, databases: float
) -> None:
    here = told(Simulation(seed, Settings(nodes=nodes, duration_s=DURATION_S, databases=databases)).run())
    assert [in_another_process(seed, nodes, databases, hash_seed) for hash_seed in ("1", "2")] == [here, here]


def test_a_simulation_leaves_nothing_that_changes_the_next() -> None:
    settings = Settings(duration_s=3.0)
    first = told(Simulation(5, settings).run())
    Simulation(6, settings).run()
    assert told(Simulation(5, settings).run()) == first


def test_another_seed_is_another_simulation() -> None:
    settings = Settings(duration_s=2.0)
    assert Simulation(1, settings).run().digest != Simulation(2, settings).run().digest


def test_a_traced_run_is_the_same_run() -> None:
    settings = Settings(duration_s=3.0)
    assert told(Traced(9, settings).report) == told(Simulation(9, settings).run())


def test_an_observer_sees_all_that_a_simulation_shows_and_changes_nothing() -> None:
    """Also one that fails: what it raises is its own."""
    settings, seen = Settings(duration_s=3.0, databases=1.0), Counter[str]()

    def see(at: float, acting: str, event: object) -> None:
        assert at >= 0.0
        assert acting
        seen[type(event.event if isinstance(event, AtNode) else event).__name__] += 1
        raise RuntimeError("of the observer")

    simulation = Simulation(9, settings)
    simulation.observe(see)
    assert told(simulation.run()) == told(Simulation(9, settings).run())
    shown = (Began, Noted, Logged, Born, EntryCommitted, OutcomeMade, BranchAnswered, events.Led, events.Applied)
    assert {each.__name__ for each in shown} <= seen.keys()
