"""Who plays in one simulation, made once and handed down as a value."""

from __future__ import annotations

from dataclasses import dataclass

from raftcoord.sim.estate import Estate
from raftcoord.sim.invariants import Invariants
from raftcoord.sim.nemesis import Nemesis
from raftcoord.sim.workload import Workload
from raftcoord.sim.world import World


@dataclass(frozen=True)
class Cast:
    """See the module's head. ``estate`` None: this world has no databases."""

    world: World
    invariants: Invariants
    nemesis: Nemesis
    workload: Workload
    estate: Estate | None
