"""What a node takes from outside: the wall clock and randomness. Nothing else in raftcoord reads either.

Time that is compared (deadlines, backoff) is the event loop's ``loop.time()``; the wall clock only dates what people and
the horizon see. A simulator passes an Env of its own.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from raftcoord.limits import ClockBounds


@dataclass(frozen=True)
class Env:
    """``wall_ms``: Unix time in milliseconds. ``rng``: for jitter and for ids; never for secrets.

    ``clocks``: how far the clocks of others may be from this one.
    """

    wall_ms: Callable[[], int]
    rng: random.Random
    clocks: ClockBounds = ClockBounds()

    @classmethod
    def real(cls) -> Env:
        """The machine's clock, and a generator seeded by the operating system."""
        return cls(wall_ms, random.Random(random.SystemRandom().getrandbits(128)))


def wall_ms() -> int:
    """The machine's clock: Unix time, ms."""
    return time.time_ns() // 1_000_000
