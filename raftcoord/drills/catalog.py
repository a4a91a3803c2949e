"""The drills there are: a name, one line for people, what runs it, and the options that it takes. To add one, add an entry.

The command line, its help, ``scripts/nightly`` and the check of the options follow from the entry.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from raftcoord.drills import crash_matrix, transfers, under_load
from raftcoord.drills.faults import (
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
from raftcoord.drills.options import FLAGS, DrillOptions
from raftcoord.drills.report import DrillReport, OnEvent
from raftcoord.drills.under_load import FaultDrill
from raftcoord.errors import ConfigError, did_you_mean


@dataclass(frozen=True, slots=True)
class Drill:
    """``run``: blocks, and calls the OnEvent as it goes on; ``takes``: the options of DrillOptions that mean something to it.

    Owed by ``run``: what was started is stopped, also on KeyboardInterrupt; the files are removed unless a promise was broken or
    ``options.keep``.
    """

    name: str
    summary: str
    run: Callable[[DrillOptions, OnEvent], DrillReport]
    takes: frozenset[str]
    nodes_min: int = 3

    def check(self, options: DrillOptions) -> None:
        """Raise ConfigError for options that it does not take."""
        if options.nodes < self.nodes_min:
            raise ConfigError(
                f"drill {self.name} cannot run on {options.nodes} nodes; give 3, 5 or 7, so that one may be lost"
            )
        if strange := sorted(options.given() - self.takes):
            known = ", ".join(FLAGS[name] for name in FLAGS if name in self.takes)
            raise ConfigError(f"drill {self.name} does not take {FLAGS[strange[0]]}; give some of {known}")


FAULT_DRILLS: Final = (
    FaultDrill("kill-leader", "kill -9 of the leader, again and again", (kill_leader,)),
    FaultDrill("kill-follower", "kill -9 of a node that follows", (kill_follower,)),
    FaultDrill("kill-all", "kill -9 of every node at once: what was promised is on the disks", (kill_all,)),
    FaultDrill("pause-leader", "the leader is paused, deposed, and comes back believing it leads", (pause_leader,)),
    FaultDrill(
        "pause-follower",
        "a follower is paused for 3 s: when it goes on, the leader and its term stay",
        (pause_follower,),
        hold_s=(3.0, 3.0),
    ),
    FaultDrill(
        "wipe-node",
        "a follower loses its data: it is refused under its old name until it is replaced",
        (wipe_node,),
    ),
    FaultDrill("kill-participant", "kill -9 of a bank with prepared branches", (kill_host,)),
    FaultDrill(
        "kill-coordinator",
        "kill -9 of the node that coordinates the most transactions",
        (kill_coordinator,),
    ),
    FaultDrill(
        "rounds-kill-node",
        "50 rounds of: kill -9 of a node (the leader every second time), start it again",
        (kill_leader, kill_node),
        rest_s=(0.1, 0.5),
        hold_s=(0.5, 1.0),
        rounds=50,
    ),
    FaultDrill(
        "rounds-kill-all",
        "10 rounds of: kill -9 of all nodes at once, start them again",
        (kill_all,),
        rest_s=(0.3, 0.8),
        hold_s=(0.1, 0.3),
        rounds=10,
    ),
)
"""The drills that make a fault under load, again and again. To add one, add an entry here."""

_ALL: Final = (
    *(Drill(each.name, each.summary, each.run, under_load.TAKES) for each in FAULT_DRILLS),
    Drill(
        transfers.NAME,
        "orders between PostgreSQL and MariaDB; kill -9 of programs, nodes and the resolver",
        transfers.run,
        transfers.TAKES,
    ),
    Drill(
        crash_matrix.NAME,
        "kill -9 of a program or a database server at every point of a transaction, through every driver",
        crash_matrix.run,
        crash_matrix.TAKES,
        nodes_min=1,
    ),
)

DRILLS: Final[dict[str, Drill]] = {drill.name: drill for drill in _ALL}
"""Every drill by its name."""


def drill_named(name: str) -> Drill:
    """The drill called ``name``. ConfigError lists those that there are."""
    try:
        return DRILLS[name]
    except KeyError:
        raise ConfigError(
            f"there is no drill {name!r}; choose one of {', '.join(DRILLS)}{did_you_mean(name, DRILLS)}"
        ) from None


def run(name: str, options: DrillOptions, on_event: OnEvent = lambda event: None) -> DrillReport:
    """Run the drill ``name``. ConfigError for an unknown one, or for options that it does not take."""
    drill = drill_named(name)
    drill.check(options)
    return drill.run(options, on_event)
