"""The line between a group and its engine: another engine under ``group``, and two groups under ``host`` with one sync for both.

What is above the line knows nothing of PySyncObj, and a process that never opens a cluster does not load it.
"""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pytest
from cluster import HeldRunner, until
from one_node_engine import OneNodeEngine
from test_group import a_decide, settle
from world import ANCHOR, TIMING, founding, identity

from raftcoord import config, limits
from raftcoord.consensus.engine import MEMBERS, REGULAR, Engine, EngineTiming, Message, StoredLog
from raftcoord.consensus.group import Group, Start
from raftcoord.consensus.host import Errand, Host, Stores
from raftcoord.consensus.pysyncobj.guard import Guarded
from raftcoord.core.machine import Ledger
from raftcoord.core.tables.decisions import Standing
from raftcoord.events import Observers
from raftcoord.limits import NodeBounds
from raftcoord.types import State

ROOM = Path(__file__).parents[2] / "raftcoord" / "consensus"


def a_group_alone(now: float = 0.0) -> Group:
    """A group whose engine is the other one."""
    engine: Engine = OneNodeEngine(identity(1), StoredLog([ANCHOR], 0, None, 1), TIMING, random.Random(1), now)
    return Group(engine, Start(Ledger(), (1, 0), founding(1), hearsay=False), 7, now, NodeBounds())


# -- engine -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("heartbeat_ms", [limits.HEARTBEAT_MS_MIN, 50, 100, limits.HEARTBEAT_MS_MAX])
def test_every_timing_that_cluster_yaml_may_have_is_one_for_the_engine(heartbeat_ms: int) -> None:
    least = limits.ELECTION_HEARTBEATS_MIN * heartbeat_ms
    for shortest, longest in ((least, least + 1), (least, limits.ELECTION_MS_MAX)):
        timing = config.Timing(heartbeat_ms, shortest, longest)
        seconds = EngineTiming(timing.heartbeat_ms / 1000, timing.election_ms_min / 1000, timing.election_ms_max / 1000)
        Guarded(identity(1), StoredLog([ANCHOR], 0, None, 1), seconds, random.Random(1), 0.0, NodeBounds())


# -- group ------------------------------------------------------------------------------------------------------------


def test_a_decision_is_answered_when_the_other_engine_has_it_on_disk() -> None:
    one, answers = a_group_alone(), []
    one.propose(a_decide(1), 9.0, answers.append)
    one.barrier(9.0, answers.append)
    ready = one.step(1.0)
    assert ready.store is not None
    one.apply(1.0)
    assert answers == [], "answered before the sync"
    one.stored(ready.store, 1.0)
    settle(one, 1.0)
    standing, reached = answers
    assert (standing.state, standing.first) == (State.COMMITTED, True)
    assert reached == (one.applied_term, one.applied_index) == (1, 2)
    assert one.ledger.decision(a_decide(1).txid) is not None


def test_members_change_over_the_other_engine() -> None:
    one, answers = a_group_alone(), []
    confirmed = founding(1).confirmed()
    one.change_members(confirmed, 9.0, answers.append)
    assert one.members == confirmed, "it counts from when it is appended"
    assert not one.raft.may_change_members
    settle(one, 1.0)
    assert answers == [confirmed]
    assert one.raft.may_change_members


def test_a_group_over_the_other_engine_goes_on_where_its_log_ends() -> None:
    one = a_group_alone()
    one.propose(a_decide(1), 9.0, lambda _: None)
    one.change_members(founding(1).confirmed(), 9.0, lambda _: None)
    entries = list(one.log.between(0, 1))
    for store in settle(one, 1.0):
        entries += store.staged.append
    engine = OneNodeEngine(identity(1), StoredLog(entries, 1, None, 1), TIMING, random.Random(1), 2.0)
    again = Group(engine, Start(Ledger(), (1, 0), founding(1), hearsay=False), 8, 2.0, NodeBounds())
    assert again.members == founding(1).confirmed()
    settle(again, 2.0)
    assert again.ledger.state(a_decide(1).txid) is State.COMMITTED
    kinds = [data[:1] for data, _, _ in again.log.between(1, again.log.last_index)]
    assert kinds == [MEMBERS, REGULAR]


# -- host -------------------------------------------------------------------------------------------------------------


class Surroundings:
    """All that a host needs: a disk that counts its commits, links to nobody, and an owner who notes what happens."""

    congested: Collection[int] = ()
    has_work = False

    def __init__(self) -> None:
        self.commits: list[list[Group]] = []
        self.happened: list[str] = []
        self.error: BaseException | None = None
        self.errands: list[Errand] = []

    def write(self, stores: Stores) -> None:
        """Disk."""
        self.commits.append([group for group, store in stores if store.applied is None])
        self.happened.append("sync")

    def send(self, messages: list[tuple[int, Message]]) -> None:
        """Transport."""
        assert messages == []

    def errand(self) -> Errand | None:
        """Owner."""
        return self.errands.pop() if self.errands else None

    def before_step(self, now: float) -> None: ...

    def after_step(self) -> None: ...

    def expire(self, now: float) -> None: ...

    def applied(self, group: Group) -> None:
        self.happened.append("apply")

    def halted(self, error: BaseException) -> None:
        self.error = error


def with_two_groups(test: Callable[[Host, Surroundings, HeldRunner], Any]) -> None:
    async def run() -> None:
        around, runner, now = Surroundings(), HeldRunner(), asyncio.get_running_loop().time()
        host = Host(
            [a_group_alone(now), a_group_alone(now)], around, around, around, runner, 0.01, Observers(lambda: 0.0)
        )
        host.start()
        await test(host, around, runner)
        host.stop()
        await host.settled()

    asyncio.run(run())


def decided(host: Host, number: int) -> list[list[Any]]:
    """Propose a decision in each group; the answers of each."""
    answers: list[list[Any]] = []
    for group in host.groups:
        answers.append([])
        group.propose(a_decide(number), asyncio.get_running_loop().time() + 30, answers[-1].append)
    host.wake()
    return answers


def test_two_groups_share_one_sync() -> None:
    async def test(host: Host, around: Surroundings, runner: HeldRunner) -> None:
        answers = decided(host, 1)
        await until(lambda: all(answers), "both answers")
        assert [answer.state for (answer,) in answers] == [State.COMMITTED] * 2
        assert [len(groups) for groups in around.commits if groups] == [2], "one commit for what both had staged"
        assert [group.applied_index for group in host.groups] == [2, 2]

    with_two_groups(test)


def test_no_group_is_answered_before_the_sync_of_both() -> None:
    async def test(host: Host, around: Surroundings, runner: HeldRunner) -> None:
        runner.held = True
        first = decided(host, 1)
        await until(lambda: runner.waiting, "the sync")
        second = decided(host, 2)  # gathers while the sync runs
        await asyncio.sleep(0)
        assert first == second == [[], []]
        runner.held = False
        runner.release()
        await until(lambda: all((*first, *second)), "all answers")
        assert [len(groups) for groups in around.commits if groups] == [2, 2]

    with_two_groups(test)


def test_a_group_without_news_is_not_stored() -> None:
    async def test(host: Host, around: Surroundings, runner: HeldRunner) -> None:
        answers: list[Any] = []
        group = host.groups[1]
        group.propose(a_decide(3), asyncio.get_running_loop().time() + 30, answers.append)
        host.wake()
        await until(lambda: answers, "the answer")
        assert isinstance(answers[0], Standing)
        assert [groups for groups in around.commits if groups] == [[group]]

    with_two_groups(test)


def test_a_sync_that_fails_halts_all_groups_once() -> None:
    async def test(host: Host, around: Surroundings, runner: HeldRunner) -> None:
        def fail(stores: Stores) -> None:
            raise OSError("the disk is gone")

        around.write = fail  # type: ignore[method-assign]
        answers = decided(host, 1)
        await until(lambda: around.error is not None, "the halt")
        assert isinstance(around.error, OSError)
        assert not host.running
        host.wake()
        await asyncio.sleep(0)
        assert answers == [[], []], "the owner answers them"

    with_two_groups(test)


def test_an_errand_comes_before_the_turn() -> None:
    async def test(host: Host, around: Surroundings, runner: HeldRunner) -> None:
        done: list[Any] = []
        around.errands.append(Errand(lambda: "stored", lambda result, error: done.append((result, error))))
        answers = decided(host, 1)
        runner.held = True
        await until(lambda: runner.waiting, "the errand")
        assert (answers, around.commits) == ([[], []], [])
        runner.held = False
        runner.release()
        await until(lambda: all(answers), "both answers")
        assert done == [("stored", None)]

    with_two_groups(test)


# -- the line ---------------------------------------------------------------------------------------------------------


def test_only_two_rooms_know_which_engine_it_is() -> None:
    knowing = {path.stem for path in ROOM.glob("*.py") if "consensus.pysyncobj" in path.read_text(encoding="utf-8")}
    assert knowing == {"consensus", "messages"}


@pytest.mark.parametrize("room", ["group", "host"])
def test_what_is_above_the_line_does_not_load_pysyncobj(room: str) -> None:
    program = f"import sys, raftcoord.consensus.{room}; sys.exit('pysyncobj' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)
