"""A fault hits whom it names, and heals exactly that."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

import pytest

from raftcoord.drills import faults
from raftcoord.drills.catalog import DRILLS, FAULT_DRILLS, drill_named
from raftcoord.drills.faults import (
    Fault,
    FaultStep,
    Leader,
    Unkept,
    kill_all,
    kill_coordinator,
    kill_follower,
    kill_host,
    kill_leader,
    kill_node,
    pause_follower,
    pause_leader,
    wipe_node,
)
from raftcoord.errors import ConfigError


class Recorded:
    """A target that writes down what is done to it. n2 leads term 7, n3 is the busiest."""

    def __init__(self) -> None:
        self.nodes: Sequence[str] = ("n1", "n2", "n3")
        self.hosts: Sequence[str] = ("bank-home", "banks-1")
        self.done: list[str] = []
        self.leads = Leader("n2", 7)
        self.refusing = "n1"
        self.partakes = True

    def choose(self, names: Sequence[str]) -> str:
        return names[-1]

    async def leader(self) -> Leader:
        return self.leads

    async def busiest_node(self) -> str:
        return "n3"

    async def kill_node(self, name: str) -> None:
        self.done.append(f"kill {name}")

    async def start_node(self, name: str) -> None:
        self.done.append(f"start {name}")

    async def wipe_node(self, name: str) -> None:
        self.done.append(f"wipe {name}")

    async def refused_by(self, name: str) -> str:
        return self.refusing

    async def takes_part(self, name: str) -> bool:
        return self.partakes

    async def replace_node(self, name: str) -> None:
        self.done.append(f"replace {name}")

    async def pause_node(self, name: str) -> None:
        self.done.append(f"pause {name}")

    async def resume_node(self, name: str) -> None:
        self.done.append(f"resume {name}")

    async def kill_host(self, name: str) -> None:
        self.done.append(f"kill {name}")

    async def start_host(self, name: str) -> None:
        self.done.append(f"start {name}")


def strike(fault: Fault) -> tuple[FaultStep, str, list[str]]:
    async def scenario() -> tuple[FaultStep, str, list[str]]:
        target = Recorded()
        steps = fault(target)  # type: ignore[arg-type]
        injected, healed = [step async for step in steps]
        return injected, healed.what, target.done

    return asyncio.run(scenario())


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "STEADY_S", 0.0)


@pytest.mark.parametrize(
    ("fault", "done"),
    [
        (kill_leader, ["kill n2", "start n2"]),
        (kill_follower, ["kill n3", "start n3"]),
        (kill_coordinator, ["kill n3", "start n3"]),
        (kill_node, ["kill n3", "start n3"]),
        (kill_all, ["kill n1", "kill n2", "kill n3", "start n1", "start n2", "start n3"]),
        (pause_leader, ["pause n2", "resume n2"]),
        (pause_follower, ["pause n3", "resume n3"]),
        (wipe_node, ["kill n3", "wipe n3", "start n3", "replace n3"]),
        (kill_host, ["kill banks-1", "start banks-1"]),
        (partial(kill_host, name="bank-home"), ["kill bank-home", "start bank-home"]),
    ],
)
def test_a_fault_heals_what_it_has_hit_and_nothing_else(fault: Fault, done: list[str]) -> None:
    injected, healed, recorded = strike(fault)
    assert recorded == done
    assert injected.what
    assert healed


def unkept(fault: Fault, **meanwhile: object) -> Unkept:
    """What healing it says, if this has become of the cluster meanwhile."""

    async def scenario() -> Unkept:
        target = Recorded()
        steps = fault(target)  # type: ignore[arg-type]
        await anext(steps)
        vars(target).update(meanwhile)
        with pytest.raises(Unkept) as caught:
            await anext(steps)
        return caught.value

    return asyncio.run(scenario())


@pytest.mark.parametrize("leader", [Leader("n2", 8), Leader("n3", 8)])
def test_a_follower_that_deposes_the_leader_breaks_a_promise(leader: Leader) -> None:
    error = unkept(pause_follower, leads=leader)
    assert error.kind == "deposed"
    assert f"{leader.name} leads in term 8" in str(error)


def test_a_wiped_node_that_nobody_refuses_breaks_a_promise() -> None:
    assert unkept(wipe_node, refusing="").kind == "not refused"
    assert unkept(wipe_node, partakes=False).kind == "not back"


def test_only_a_fault_that_takes_the_leader_from_a_majority_deposes_it() -> None:
    deposed = {fault: strike(fault)[0].deposed for fault in (kill_leader, pause_leader, kill_follower, kill_all)}
    assert deposed == {
        kill_leader: Leader("n2", 7),
        pause_leader: Leader("n2", 7),
        kill_follower: None,
        kill_all: None,
    }


def test_every_drill_of_the_issue_is_in_the_catalog() -> None:
    named = {"kill-leader", "kill-follower", "kill-all", "pause-leader", "kill-participant", "kill-coordinator"}
    assert named | {"pause-follower", "wipe-node"} <= DRILLS.keys()
    assert all(name == drill.name and drill.summary for name, drill in DRILLS.items())


def test_a_fault_is_made_anew_for_each_injection() -> None:
    for drill in FAULT_DRILLS:
        for fault in drill.faults:
            assert fault(Recorded()) is not fault(Recorded())  # type: ignore[arg-type]


def test_in_rounds_the_leader_is_killed_every_second_time() -> None:
    drill = next(drill for drill in FAULT_DRILLS if drill.name == "rounds-kill-node")
    assert drill.faults == (kill_leader, kill_node)
    assert drill.rounds == 50


def test_an_unknown_drill_is_refused_with_the_names_that_there_are() -> None:
    with pytest.raises(ConfigError, match="'kill-everything'; choose one of kill-leader, kill-follower"):
        drill_named("kill-everything")
