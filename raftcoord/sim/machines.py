"""The machines of a simulated world, and the labelled moments at which a process may be killed. world.py moves them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from raftcoord.node.node import Node
from raftcoord.participants.interface import Participant
from raftcoord.participants.worker import Worker
from raftcoord.sim.disk import SimDisk, SimNodeDb, SimRunner
from raftcoord.sim.loop import Process
from raftcoord.sim.mischief import SufferingConsensus


@dataclass
class Machine:
    """One machine and what runs on it. ``lives``: how often its process was started."""

    name: str
    directory: Path
    process: Process | None = None
    lives: int = 0
    offset_ms: int = 0
    """How far its wall clock is ahead (ms)."""
    was_ms: tuple[float, int] = (float("-inf"), 0)
    """Until when (virtual s) it was how far ahead."""
    clock_offset_s: float = 0.0
    clock_rate: float = 1.0
    disk: SimDisk | None = None
    runner: SimRunner | None = None
    db: SimNodeDb | None = None
    node: Node | None = None
    consensus: SufferingConsensus | None = None
    participant: Participant | None = None
    worker: Worker | None = None
    damaged: bool = False
    """Whether its disk was made bad on purpose: then it may refuse to start."""
    names: tuple[str, ...] | None = None
    """The nodes that a wrong cluster.yaml names; None: its cluster.yaml is right."""
    faulty: bool = False
    """Whether its disk is about to fail on purpose: then it may halt."""

    @property
    def runs(self) -> bool:
        """Whether its process lives."""
        return self.process is not None and self.process.alive


@dataclass
class Points:
    """The moments at which a process is to be killed: (name, label) -> how many times it passes before, and how it ends."""

    armed: dict[tuple[str, str], tuple[int, bool]] = field(default_factory=dict)
    passed: dict[str, int] = field(default_factory=dict)
    """How often a process was killed at each label."""


def serving(participants: Iterable[str], instances: Mapping[str, int]) -> dict[str, str]:
    """The machines of all participants, and whom each serves: ``instances`` of a name run on as many machines, else one."""
    return {
        name if number == 1 else f"{name}.{number}": name
        for name in participants
        for number in range(1, instances.get(name, 1) + 1)
    }
