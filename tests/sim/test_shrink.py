"""A seed that breaks a promise is run again with fewer faults, and its timeline names the transaction and what came of it."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from raftcoord.errors import ConfigError, RaftcoordError
from raftcoord.sim import plans
from raftcoord.sim.case import Case, explain
from raftcoord.sim.faults import KINDS, RESOLVERS, Fault, draw, draw_for_databases
from raftcoord.sim.hunt import run_one
from raftcoord.sim.recipe import Recipe
from raftcoord.sim.shrink import shrink
from raftcoord.sim.simulation import BANKS, Settings, Simulation
from raftcoord.sim.timeline import Traced
from sim import hunted

PLANTED = Recipe(around="sim.hunted:overwriting")


@pytest.fixture(scope="module")
def case() -> Case:
    """The first case that the planted bug makes."""
    with hunted.overwriting():
        broken = (seed for seed in range(30) if run_one(seed, Settings()).invariant)
        seed = next(broken)
    return explain(seed, PLANTED)


def test_a_planted_bug_is_found_and_takes_few_faults(case: Case) -> None:
    assert case.invariant
    assert case.drawn > 4
    assert len(case.plan) <= 4


def test_the_timeline_names_the_transaction_and_both_decisions(case: Case) -> None:
    assert case.txid
    assert case.timeline[-1].partition("BROKEN")[2].strip().startswith(f"{case.invariant}: ")
    told = "\n".join(case.timeline)
    assert "leads in term " in told
    assert "n1        starts (life 1)" in told
    assert " is committed: " in told
    assert all(str(fault) in told for fault in case.plan if fault.at < float(case.timeline[-1].split()[0]))


def test_the_shrunk_plan_breaks_the_same_promise_with_the_same_digest_when_it_is_read_back(
    case: Case, tmp_path: Path
) -> None:
    file = tmp_path / "plan.json"
    file.write_text(json.dumps(case.to_json()["plan"]))
    found = plans.read(file)
    plans.check(found.faults, case.settings)
    assert found.faults == case.plan
    with hunted.overwriting():
        report = Simulation(
            found.seed, Settings(nodes=found.nodes, duration_s=found.duration_s), plan=found.faults
        ).run()
    assert report.violation is not None
    assert (report.violation.invariant, str(report.violation.txid)) == (case.invariant, case.txid)
    assert report.digest == case.digest


def test_a_case_is_the_same_each_time(case: Case) -> None:
    again = explain(case.seed, PLANTED)
    assert again == case


def test_a_bound_on_the_runs_still_gives_a_plan_that_breaks_the_promise(case: Case) -> None:
    with hunted.overwriting():
        shrunk = shrink(case.seed, Settings(), runs_max=1)
    assert shrunk is not None
    assert (shrunk.runs, len(shrunk.plan)) == (1, shrunk.drawn)


def test_a_seed_that_holds_cannot_be_shrunk() -> None:
    assert shrink(1, hunted.SHORT) is None
    with pytest.raises(RaftcoordError, match="seed 1 broke a promise and does not break it again"):
        explain(1, Recipe(settings="sim.hunted:SHORT"))


def test_a_traced_run_is_the_same_run_and_tells_it_all() -> None:
    settings = replace(hunted.SHORT, duration_s=4.0)
    traced, plain = Traced(1, settings), Simulation(1, settings).run()
    assert traced.report.digest == plain.digest
    assert [line.at for line in traced.lines] == sorted(line.at for line in traced.lines)
    told = "\n".join(traced.everything())
    assert all(str(fault) in told for fault in plain.plan if fault.at < settings.duration_s)
    for what in ("asks: submit", "is told: COMMITTED", "is prepared and votes yes", "has committed", "leads in term"):
        assert what in told, what
    assert Traced(1, settings).everything() == traced.everything()
    assert "/raftcoord-sim-" not in told
    txid = next(line.txid for line in traced.lines if line.txid is not None)
    about = traced.about(txid)
    others = {str(line.txid) for line in traced.lines if line.txid not in (None, txid)}
    assert len(about) < len(traced.lines)
    assert not any(other in line for other in others for line in about)


GOOD: dict[str, Any] = Fault(1.0, 1.5, "kill", ("n1",))._asdict()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"kind": "kil"}, "there is no fault 'kil'"),
        ({"who": ["n4"]}, "fault 1 (kill) names 'n4'; there are n1, n2, n3, bank-a, bank-b, bank-c"),
        ({"kind": "wipe", "who": ["bank-a"]}, "names 'bank-a'; there are n1, n2, n3"),
        ({"kind": "pause", "who": []}, "names 0 machines; it happens to 1"),
        ({"kind": "clog-one-way"}, "names 1 machines; it happens to 2"),
        ({"until": 0.5}, "lasts from 1.0 to 0.5 s"),
        ({"until": 9.0}, "the faults end at 8 s"),
        ({"at": float("nan")}, "lasts from nan"),
        ({"at": -1.0}, "lasts from -1.0"),
        ({"value": float("inf")}, "cannot have the value inf"),
        ({"kind": "slow", "value": -1}, "cannot have the value -1.0"),
        ({"kind": "break", "who": [], "value": 1.0}, "cannot have the value 1.0"),
        ({"kind": "crash-at", "label": "before-lunch"}, "has no point 'before-lunch'"),
        ({"who": "n1"}, "one of its values is of the wrong type"),
        ({"who": [1]}, "one of its values is of the wrong type"),
        ({"at": "1"}, "one of its values is of the wrong type"),
        ({"when": 1}, "has other keys than at, until, kind, who, value, label"),
    ],
)
def test_a_plan_that_no_world_can_carry_out_is_refused(change: dict[str, Any], says: str, tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    file.write_text(json.dumps({"seed": 1, "nodes": 3, "duration_s": 8, "faults": [GOOD | change]}))
    with pytest.raises(ConfigError) as caught:
        plans.check(plans.read(file).faults, Settings())
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "is not a plan: it has the keys seed, nodes"),
        ('{"seed": 1, "nodes": 3, "duration_s": "8", "faults": []}', "is not a plan"),
        ("\udcff", "cannot be read"),
    ],
)
def test_a_file_that_is_no_plan_is_refused(text: str, says: str, tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    file.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ConfigError) as caught:
        plans.read(file)
    assert says in str(caught.value)
    assert str(file) in str(caught.value)
    with pytest.raises(ConfigError, match="cannot be read"):
        plans.read(tmp_path / "absent.json")


def test_every_plan_that_is_drawn_can_be_carried_out_as_a_file() -> None:
    settings = Settings(nodes=5)
    kinds = set()
    for seed in range(60):
        plan = draw(random.Random(seed), ["n1", "n2", "n3", "n4", "n5"], list(BANKS), 8.0, tuple(KINDS))
        plan += draw_for_databases(random.Random(seed), RESOLVERS, 8.0, tuple(KINDS))
        plans.check(plan, settings)
        kinds |= {fault.kind for fault in plan}
    assert kinds == set(KINDS)
