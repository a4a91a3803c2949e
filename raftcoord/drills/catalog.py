"""The drills there are: a name, one line for people, and a plan. To add one, add an entry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from raftcoord.drills.faults import (
    Fault,
    KillAll,
    KillCoordinator,
    KillFollower,
    KillHost,
    KillLeader,
    KillNode,
    PauseFollower,
    PauseLeader,
    WipeNode,
)
from raftcoord.errors import ConfigError, did_you_mean

Span = tuple[float, float]
"""Shortest and longest (seconds); the drill's seed chooses between them."""


@dataclass(frozen=True, slots=True)
class Drill:
    """``fault(n)`` makes the n-th fault, from 0. ``rest_s``: quiet before each; ``hold_s``: how long each lasts.

    ``rounds``: how many faults; None: as many as fit into the duration.
    """

    name: str
    summary: str
    fault: Callable[[int], Fault]
    rest_s: Span = (1.0, 2.5)
    hold_s: Span = (0.8, 2.0)
    rounds: int | None = None


def _leader_every_second_time(number: int) -> Fault:
    return KillLeader() if number % 2 == 0 else KillNode()


_ALL: Final = (
    Drill("kill-leader", "kill -9 of the leader, again and again", lambda _: KillLeader()),
    Drill("kill-follower", "kill -9 of a node that follows", lambda _: KillFollower()),
    Drill("kill-all", "kill -9 of every node at once: what was promised is on the disks", lambda _: KillAll()),
    Drill("pause-leader", "the leader is paused, deposed, and comes back believing it leads", lambda _: PauseLeader()),
    Drill(
        "pause-follower",
        "a follower is paused for 3 s: when it goes on, the leader and its term stay",
        lambda _: PauseFollower(),
        hold_s=(3.0, 3.0),
    ),
    Drill(
        "wipe-node",
        "a follower loses its data: it is refused under its old name until it is replaced",
        lambda _: WipeNode(),
    ),
    Drill("kill-participant", "kill -9 of a bank with prepared branches", lambda _: KillHost()),
    Drill(
        "kill-coordinator",
        "kill -9 of the node that coordinates the most transactions",
        lambda _: KillCoordinator(),
    ),
    Drill(
        "rounds-kill-node",
        "50 rounds of: kill -9 of a node (the leader every second time), start it again",
        _leader_every_second_time,
        rest_s=(0.1, 0.5),
        hold_s=(0.5, 1.0),
        rounds=50,
    ),
    Drill(
        "rounds-kill-all",
        "10 rounds of: kill -9 of all nodes at once, start them again",
        lambda _: KillAll(),
        rest_s=(0.3, 0.8),
        hold_s=(0.1, 0.3),
        rounds=10,
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
