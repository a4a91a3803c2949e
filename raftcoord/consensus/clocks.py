"""The clocks of the other nodes, as far as they have been heard.

Owed: an offset is as old as its measurement, and is no vote beyond an election timeout.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from raftcoord.types import NodeName


class Clocks:
    """``now``: loop time (s); ``wall_ms``: this node's own clock; ``silence_s``: for how long one that was heard counts."""

    def __init__(self, now: Callable[[], float], wall_ms: Callable[[], int], silence_s: float) -> None:
        self._now = now
        self._wall_ms = wall_ms
        self._silence_s = silence_s
        self._heard: dict[NodeName, tuple[float, int]] = {}  # when, and what it showed (ms)

    def believe(self, name: NodeName, at: float, showed_ms: int) -> None:
        """The clock of that peer was heard ``at`` this loop time."""
        self._heard[name] = (at, showed_ms)

    def forget(self, name: NodeName) -> None:
        """The link to that peer is down."""
        self._heard.pop(name, None)

    def offset_ms(self, name: NodeName) -> int | None:
        """How far that peer's clock is ahead of ours (ms); None: it has not been heard for an election timeout.

        What a clock showed is carried on by the time that has passed since, so that ours, when it is set, agrees with nobody.
        A message that was long on its way makes a peer's clock look late, never early.
        """
        at, showed_ms = self._heard.get(name, (-math.inf, 0))
        age_s = self._now() - at
        return showed_ms + int(age_s * 1000) - self._wall_ms() if age_s <= self._silence_s else None
