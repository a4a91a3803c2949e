"""The hunt: every seed gets exactly one result, whoever runs it and however it ends."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from raftcoord.errors import ConfigError
from raftcoord.sim.faults import KINDS
from raftcoord.sim.hunt import WORKERS_MAX, hunt, run_one
from raftcoord.sim.kinds import SUMMARIES
from raftcoord.sim.recipe import Recipe
from raftcoord.sim.summary import SeedResult, Summary
from sim import hunted

SHORT = Recipe(duration_s=2.0)


def summary_of(results: Any) -> Summary:
    summary = Summary()
    for result in results:
        summary.add(result)
    return summary


def test_the_summary_is_the_same_whatever_the_number_of_workers_and_the_order() -> None:
    seeds = range(30, 34)
    alone, together = (summary_of(hunt(SHORT, seeds, workers=workers)).to_json() for workers in (1, 2))
    here = summary_of(run_one(seed, SHORT.made()) for seed in reversed(seeds)).to_json()
    assert alone == together == here
    assert alone["held"] is True
    assert alone["seeds"] == 4
    assert alone["decisions"] > 0
    assert multiprocessing.active_children() == []


def test_a_seed_that_hangs_dies_or_raises_is_a_failure_that_names_it_and_the_others_are_run() -> None:
    recipe = Recipe(duration_s=1.0, kinds=(), around="sim.hunted:misbehaving")
    summary = summary_of(hunt(recipe, range(2, 9), workers=1, seed_s_max=5.0))
    assert summary.seeds == 7
    failures = {result.seed: result.failure for result in summary.failed}
    assert set(failures) == {hunted.HANGS, hunted.DIES, hunted.RAISES}
    assert failures[hunted.HANGS] == "took longer than 5 s"
    assert failures[hunted.DIES] == "ended its process with exit code 9"
    assert failures[hunted.RAISES].startswith("raised KeyError: 'surprise' (")
    assert not summary.held
    assert summary.verdict.startswith("FAILED: 3 of 7 seeds came to no verdict: seed 3 took longer")
    assert multiprocessing.active_children() == []


def test_who_stops_listening_ends_the_workers() -> None:
    results = hunt(SHORT, range(10_000), workers=2)
    next(results)
    assert len(multiprocessing.active_children()) == 2
    results.close()  # type: ignore[attr-defined]
    assert multiprocessing.active_children() == []


def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    program = (
        "import multiprocessing, sys\n"
        "from raftcoord.sim.hunt import hunt\n"
        "from raftcoord.sim.recipe import Recipe\n"
        "if __name__ == '__main__':\n"
        "    for result in hunt(Recipe(duration_s=1.0), range(100_000), workers=1):\n"
        "        print(*(child.pid for child in multiprocessing.active_children()), flush=True)\n"
    )
    script = tmp_path / "hunting.py"
    script.write_text(program)
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        (child,) = map(int, parent.stdout.readline().split())
        parent.kill()
    deadline = time.monotonic() + 20
    while runs(child) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not runs(child)


def runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat")
    return not state.exists() or state.read_text().rpartition(")")[2].split()[0] != "Z"


def test_ctrl_c_is_for_the_parent_alone() -> None:
    results = hunt(SHORT, range(6), workers=1)
    first = next(results)
    (worker,) = multiprocessing.active_children()
    assert worker.pid is not None
    os.kill(worker.pid, signal.SIGINT)
    assert summary_of([first, *results]).held


def test_settings_may_be_the_users_own() -> None:
    assert Recipe(settings="sim.hunted:SHORT").made() == hunted.SHORT
    assert Recipe(settings="sim.hunted:five", duration_s=3.0, kinds=()).made() == replace(
        hunted.five(), duration_s=3.0, kinds=()
    )
    (result,) = hunt(Recipe(settings="sim.hunted:five", kinds=()), [1], workers=1)
    assert result.held
    assert result.injected == {}
    assert "n5" not in result.outcomes


@pytest.mark.parametrize(
    ("recipe", "says"),
    [
        (Recipe(nodes=4), "a simulation has 3 or 5 nodes, not 4"),
        (Recipe(duration_s=0.9), "from 1 to 600 virtual seconds, not 0.9"),
        (Recipe(duration_s=600.1), "not 600.1"),
        (Recipe(duration_s=float("nan")), "not nan"),
        (Recipe(kinds=("kill", "kil")), "there is no fault 'kil'; choose from: clog-one-way, "),
        (Recipe(around="nothing"), "'nothing' does not name anything; write module:attribute"),
        (Recipe(around=":x"), "does not name anything"),
        (Recipe(around="no.such.module:x"), "module no.such.module cannot be imported: ModuleNotFoundError"),
        (Recipe(around="sim.hunted:absent"), "module sim.hunted has no absent"),
        (Recipe(around="sim.hunted:NOT_SETTINGS"), "name a callable that returns a context manager"),
        (Recipe(around="sim.hunted:not_a_context"), "sim.hunted:not_a_context() returned 7, not a context manager"),
        (Recipe(settings="sim.hunted:NOT_SETTINGS"), "sim.hunted:NOT_SETTINGS is 7, not a"),
        (Recipe(settings="sim.hunted:run"), "has no run"),
    ],
)
def test_what_cannot_be_run_is_refused_before_anything_is(recipe: Recipe, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        hunt(recipe, range(4), workers=1)
    assert says in str(caught.value)
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("workers", [0, -1, WORKERS_MAX + 1])
def test_the_number_of_workers_has_bounds(workers: int) -> None:
    with pytest.raises(ConfigError, match=f"1 to {WORKERS_MAX} workers, not {workers}"):
        hunt(SHORT, range(4), workers=workers)


def test_what_cannot_be_entered_ends_the_hunt_and_says_so() -> None:
    with pytest.raises(ConfigError, match=r"sim\.hunted:failing failed: RuntimeError: no such place"):
        list(hunt(replace(SHORT, around="sim.hunted:failing"), range(4), workers=1))
    assert multiprocessing.active_children() == []


def test_a_summary_has_every_seed_that_broke_a_promise_by_invariant() -> None:
    summary = summary_of(
        SeedResult(seed, "one outcome" if seed % 2 else "liveness", f"what {seed}", settled_s=9.0) for seed in (5, 4, 1)
    )
    for seed in range(100, 200):
        summary.add(SeedResult(seed, settled_s=(seed - 99) / 100))
    assert summary.by_invariant == {"liveness": [4], "one outcome": [1, 5]}
    assert summary.verdict == "BROKEN: 3 of 103 seeds; seed 1: one outcome: what 1"
    assert summary.settled() == {"p50": 0.5, "p99": 0.99, "max": 1.0}
    assert summary.to_json()["seeds_held"] == 100


def test_every_kind_of_fault_is_explained() -> None:
    assert list(SUMMARIES) == list(KINDS)
