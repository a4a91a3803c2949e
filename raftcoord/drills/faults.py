"""The faults: what goes wrong on purpose, and how it ends.

A fault is a coroutine with two steps: up to its first ``yield`` it does something and says what and to whom, up to the second it
undoes exactly that. It never looks at the outcome of a transaction; a promise about the cluster itself that it finds broken is an
Unkept. Whatever was killed runs again in the end. To add a kind: write one, and name it in the catalog.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TYPE_CHECKING, Final, NamedTuple

from raftcoord.api.leading import Leader as Leader
from raftcoord.errors import RaftcoordError

if TYPE_CHECKING:
    from raftcoord.drills.stage import Stage

STEADY_S: Final = 1.5
"""How long a leader must stay after a follower has come back: longer than an election takes."""


class Unkept(RaftcoordError):
    """A promise that is broken. ``kind``: of the violation."""

    def __init__(self, kind: str, what: str) -> None:
        super().__init__(what)
        self.kind = kind


class FaultStep(NamedTuple):
    """``what`` was done, for people. ``deposed``: the leader that it took away while a majority stayed, and so elects another."""

    what: str
    deposed: Leader | None = None


FaultSteps = AsyncGenerator[FaultStep, None]
Fault = Callable[["Stage"], FaultSteps]
"""One thing that goes wrong, once for each call."""


def _kill_node(choose: Callable[[Stage, Leader], Awaitable[str]]) -> Fault:

    async def kill(stage: Stage) -> FaultSteps:
        leader = await stage.leader()
        name = await choose(stage, leader)
        await stage.kill_node(name)
        if name == leader.name:
            yield FaultStep(f"kill -9 of {name}, the leader of term {leader.term}", leader)
        else:
            yield FaultStep(f"kill -9 of {name}, a follower")
        await stage.start_node(name)
        yield FaultStep(f"{name} started again")

    return kill


async def _any(stage: Stage, leader: Leader) -> str:
    return stage.choose(stage.nodes)


async def _leader(stage: Stage, leader: Leader) -> str:
    return leader.name


async def _follower(stage: Stage, leader: Leader) -> str:
    return stage.choose([name for name in stage.nodes if name != leader.name] or stage.nodes)


async def _busiest(stage: Stage, leader: Leader) -> str:
    return await stage.busiest_node()


kill_node: Final = _kill_node(_any)
kill_leader: Final = _kill_node(_leader)
kill_follower: Final = _kill_node(_follower)
kill_coordinator: Final = _kill_node(_busiest)
"""Of the node that coordinates the most transactions: their participants and clients are left in doubt."""


async def kill_all(stage: Stage) -> FaultSteps:
    """kill -9 of every node at once: what was promised must be on the disks."""
    await asyncio.gather(*(stage.kill_node(name) for name in stage.nodes))
    yield FaultStep(f"kill -9 of all {len(stage.nodes)} nodes at once")
    await asyncio.gather(*(stage.start_node(name) for name in stage.nodes))
    yield FaultStep(f"all {len(stage.nodes)} nodes started again")


async def pause_leader(stage: Stage) -> FaultSteps:
    """SIGSTOP of the leader, longer than an election takes: it comes back and still believes that it leads."""
    leader = await stage.leader()
    await stage.pause_node(leader.name)
    yield FaultStep(f"{leader.name}, the leader of term {leader.term}, paused", leader)
    await stage.resume_node(leader.name)
    yield FaultStep(f"{leader.name} goes on")


async def pause_follower(stage: Stage) -> FaultSteps:
    """SIGSTOP of a follower, for many election timeouts: when it goes on, it must not depose the leader (hazard H12)."""
    before = await stage.leader()
    name = await _follower(stage, before)
    await stage.pause_node(name)
    yield FaultStep(f"{name}, a follower in term {before.term}, paused")
    await stage.resume_node(name)
    await asyncio.sleep(STEADY_S)
    leader = await stage.leader()
    if leader != before:
        raise Unkept(
            "deposed",
            f"{name} was paused and went on, and {before.name}, which led in term {before.term}, was deposed: {leader.name} "
            f"leads in term {leader.term}",
        )
    yield FaultStep(f"{name} goes on; {leader.name} leads as before, in term {leader.term}")


async def wipe_node(stage: Stage) -> FaultSteps:
    """kill -9 of a follower whose data directory is lost: the new node must be refused until it is taken in (hazard H16)."""
    leader = await stage.leader()
    name = await _follower(stage, leader)
    await stage.kill_node(name)
    await stage.wipe_node(name)
    await stage.start_node(name)
    what = f"kill -9 of {name}, a follower; its data directory deleted, and it was started without it"
    yield FaultStep(what, leader if name == leader.name else None)
    refusing = await stage.refused_by(name)
    if not refusing:
        raise Unkept("not refused", f"{name} was wiped, and no node refused it under its old name")
    await stage.replace_node(name)
    if not await stage.takes_part(name):
        raise Unkept("not back", f"{name} was replaced, and takes no part")
    yield FaultStep(f"{name} was refused by {refusing}, replaced, and takes part")


async def kill_host(stage: Stage, name: str = "") -> FaultSteps:
    """kill -9 of a process of banks: its prepared branches must survive, and learn their outcome. ``name`` "": any."""
    name = name or stage.choose(stage.hosts)
    await stage.kill_host(name)
    yield FaultStep(f"kill -9 of the participant {name}")
    await stage.start_host(name)
    yield FaultStep(f"the participant {name} started again")
