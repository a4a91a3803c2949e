"""The faults: what goes wrong on purpose, and how it ends.

A fault owes two things: ``inject`` does it and says to whom, ``heal`` undoes exactly that. It never looks at the outcome of a
transaction; a promise about the cluster itself that it finds broken is an Unkept. One object serves one injection. To add a
kind: derive from Fault, and name it in the catalog.
"""

from __future__ import annotations

import abc
import asyncio
from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

from raftcoord.errors import RaftcoordError

STEADY_S: Final = 1.5
"""How long a leader must stay after a follower has come back: longer than an election takes."""


class Leader(NamedTuple):
    """A node that says it leads, and its term."""

    name: str
    term: int


class Unkept(RaftcoordError):
    """A promise that is broken. ``kind``: of the violation."""

    def __init__(self, kind: str, what: str) -> None:
        super().__init__(what)
        self.kind = kind


class Target(Protocol):
    """What a fault may do to a running cluster."""

    nodes: Sequence[str]
    hosts: Sequence[str]
    """The processes that run the banks."""

    def choose(self, names: Sequence[str]) -> str:
        """One of ``names``, by the drill's seed."""
        ...

    async def leader(self) -> Leader:
        """The present leader; waits for one."""
        ...

    async def busiest_node(self) -> str:
        """The node that coordinates the most transactions now."""
        ...

    async def kill_node(self, name: str) -> None:
        """SIGKILL."""
        ...

    async def start_node(self, name: str) -> None:
        """Start it again on its own directory."""
        ...

    async def wipe_node(self, name: str) -> None:
        """Delete the data directory of a killed node."""
        ...

    async def refused_by(self, name: str) -> str:
        """A node that refuses node ``name`` as wiped or replaced, or ""; waits a while for one."""
        ...

    async def takes_part(self, name: str) -> bool:
        """Whether node ``name`` follows a leader or leads; waits a while for that."""
        ...

    async def replace_node(self, name: str) -> None:
        """Have the new node ``name`` taken in for the one of that name whose data is lost."""
        ...

    async def pause_node(self, name: str) -> None:
        """SIGSTOP."""
        ...

    async def resume_node(self, name: str) -> None:
        """SIGCONT."""
        ...

    async def kill_host(self, name: str) -> None:
        """SIGKILL the process of some banks."""
        ...

    async def start_host(self, name: str) -> None:
        """Start it again on its databases."""
        ...


class Injected(NamedTuple):
    """``what`` was done, for people. ``deposed``: the leader that it took away while a majority stayed, and so elects another."""

    what: str
    deposed: Leader | None = None


class Fault(abc.ABC):
    """One thing that goes wrong, once."""

    @abc.abstractmethod
    async def inject(self, target: Target) -> Injected:
        """Do it. It has happened when this returns."""

    @abc.abstractmethod
    async def heal(self, target: Target) -> str:
        """Undo it, and say what was undone. Whatever was killed runs again when this returns."""


class KillNode(Fault):
    """kill -9 of one node; ``heal`` starts it again."""

    def __init__(self) -> None:
        self._name = ""

    async def inject(self, target: Target) -> Injected:
        """Kill the chosen node."""
        leader = await target.leader()
        self._name = await self._choose(target, leader)
        await target.kill_node(self._name)
        if self._name == leader.name:
            return Injected(f"kill -9 of {self._name}, the leader of term {leader.term}", leader)
        return Injected(f"kill -9 of {self._name}, a follower")

    async def heal(self, target: Target) -> str:
        """Start it again."""
        await target.start_node(self._name)
        return f"{self._name} started again"

    async def _choose(self, target: Target, leader: Leader) -> str:
        return target.choose(target.nodes)


class KillLeader(KillNode):
    """kill -9 of the leader."""

    async def _choose(self, target: Target, leader: Leader) -> str:
        return leader.name


class KillFollower(KillNode):
    """kill -9 of a node that does not lead."""

    async def _choose(self, target: Target, leader: Leader) -> str:
        return target.choose([name for name in target.nodes if name != leader.name] or target.nodes)


class KillCoordinator(KillNode):
    """kill -9 of the node that coordinates the most transactions: their participants and clients are left in doubt."""

    async def _choose(self, target: Target, leader: Leader) -> str:
        return await target.busiest_node()


class KillAll(Fault):
    """kill -9 of every node at once: what was promised must be on the disks."""

    async def inject(self, target: Target) -> Injected:
        """Kill all."""
        await asyncio.gather(*(target.kill_node(name) for name in target.nodes))
        return Injected(f"kill -9 of all {len(target.nodes)} nodes at once")

    async def heal(self, target: Target) -> str:
        """Start all."""
        await asyncio.gather(*(target.start_node(name) for name in target.nodes))
        return f"all {len(target.nodes)} nodes started again"


class PauseLeader(Fault):
    """SIGSTOP of the leader, longer than an election takes: it comes back and still believes that it leads."""

    def __init__(self) -> None:
        self._name = ""

    async def inject(self, target: Target) -> Injected:
        """Pause it."""
        leader = await target.leader()
        self._name = leader.name
        await target.pause_node(leader.name)
        return Injected(f"{leader.name}, the leader of term {leader.term}, paused", leader)

    async def heal(self, target: Target) -> str:
        """Let it go on."""
        await target.resume_node(self._name)
        return f"{self._name} goes on"


class PauseFollower(Fault):
    """SIGSTOP of a follower, for many election timeouts: when it goes on, it must not depose the leader (hazard H12)."""

    def __init__(self) -> None:
        self._name = ""
        self._leader = Leader("", 0)

    async def inject(self, target: Target) -> Injected:
        """Pause one that does not lead."""
        self._leader = await target.leader()
        self._name = target.choose([name for name in target.nodes if name != self._leader.name])
        await target.pause_node(self._name)
        return Injected(f"{self._name}, a follower in term {self._leader.term}, paused")

    async def heal(self, target: Target) -> str:
        """Let it go on, and see that the leader stays."""
        await target.resume_node(self._name)
        await asyncio.sleep(STEADY_S)
        leader = await target.leader()
        if leader != self._leader:
            raise Unkept(
                "deposed",
                f"{self._name} was paused and went on, and {self._leader.name}, which led in term {self._leader.term}, was "
                f"deposed: {leader.name} leads in term {leader.term}",
            )
        return f"{self._name} goes on; {leader.name} leads as before, in term {leader.term}"


class WipeNode(KillFollower):
    """kill -9 of a follower whose data directory is lost: the new node must be refused until it is taken in (hazard H16)."""

    async def inject(self, target: Target) -> Injected:
        """Kill it, delete what it had, start it."""
        injected = await super().inject(target)
        await target.wipe_node(self._name)
        await target.start_node(self._name)
        return Injected(f"{injected.what}; its data directory deleted, and it was started without it", injected.deposed)

    async def heal(self, target: Target) -> str:
        """It was refused; have it taken in, and wait until it takes part."""
        refusing = await target.refused_by(self._name)
        if not refusing:
            raise Unkept("not refused", f"{self._name} was wiped, and no node refused it under its old name")
        await target.replace_node(self._name)
        if not await target.takes_part(self._name):
            raise Unkept("not back", f"{self._name} was replaced, and takes no part")
        return f"{self._name} was refused by {refusing}, replaced, and takes part"


class KillHost(Fault):
    """kill -9 of a process of banks: its prepared branches must survive, and learn their outcome. ``name`` "": any."""

    def __init__(self, name: str = "") -> None:
        self._name = name

    async def inject(self, target: Target) -> Injected:
        """Kill it."""
        self._name = self._name or target.choose(target.hosts)
        await target.kill_host(self._name)
        return Injected(f"kill -9 of the participant {self._name}")

    async def heal(self, target: Target) -> str:
        """Start it again."""
        await target.start_host(self._name)
        return f"the participant {self._name} started again"
