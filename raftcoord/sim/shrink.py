"""A smaller plan that breaks the same promise: what is left is what it takes.

First without what came after the violation, then delta debugging (Zeller and Hildebrandt, 2002, section 3): without a half,
without a quarter, and so on, as long as what is left still fails; at last a shorter simulation. The same case gives the same
plan: nothing but the number of runs bounds it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from raftcoord.sim.faults import Fault
from raftcoord.sim.simulation import Report, Settings, Simulation
from raftcoord.sim.synced import Violation

RUNS_MAX: Final = 150

_MARGIN_S: Final = 0.5
_SHORTEST_S: Final = 1.0


@dataclass(frozen=True)
class Shrunk:
    """``settings``, ``plan``: what still breaks ``violation``; ``drawn``: so many faults there were; ``runs``: what it took."""

    seed: int
    settings: Settings
    plan: tuple[Fault, ...]
    violation: Violation
    drawn: int
    runs: int


def shrink(
    seed: int, settings: Settings, *, plan: Sequence[Fault] | None = None, runs_max: int = RUNS_MAX
) -> Shrunk | None:
    """The smallest plan found in ``runs_max`` runs; None: that seed keeps every promise. ``plan`` None: as drawn."""
    return _Shrinking(seed, settings, runs_max).shrunk(plan)


class _Shrinking:
    def __init__(self, seed: int, settings: Settings, runs_max: int) -> None:
        self._seed = seed
        self._settings = settings
        self._left = runs_max
        self._runs = 0
        self._invariant = ""
        self._violation: Violation | None = None
        self._tried: dict[tuple[Fault, ...], bool] = {}
        self._other: tuple[tuple[Fault, ...], Violation] | None = None
        """The smallest plan that broke another promise."""

    def shrunk(self, plan: Sequence[Fault] | None) -> Shrunk | None:
        first = self._run(plan)
        if first.violation is None:
            return None
        self._invariant, self._violation = first.violation.invariant, first.violation
        drawn = tuple(first.plan)
        best = drawn
        for smaller in ((), _before(drawn, first.virtual_s)):
            if len(smaller) < len(best) and self._breaks(smaller):
                best = smaller
                break
        best = self._minimal(best)
        if self._other is not None and len(best) == len(drawn) > len(self._other[0]):
            best, self._violation = self._other
            self._invariant = self._violation.invariant
        self._shorten(best, first.virtual_s)
        return Shrunk(self._seed, self._settings, best, self._violation, len(drawn), self._runs)

    def _minimal(self, plan: tuple[Fault, ...]) -> tuple[Fault, ...]:
        parts = 2
        while len(plan) > 1 and self._left > 0:
            size = -(-len(plan) // parts)
            starts = range(0, len(plan), size)
            smaller = next((rest for at in starts if self._breaks(rest := plan[:at] + plan[at + size :])), None)
            if smaller is not None:
                plan, parts = smaller, max(2, parts - 1)
            elif size == 1:
                break
            else:
                parts = min(len(plan), parts * 2)
        return plan

    def _shorten(self, plan: tuple[Fault, ...], broken_s: float) -> None:
        """A shorter time for faults and clients, if that is enough."""
        latest = max((fault.until for fault in plan), default=0.0)
        for end in (latest + _MARGIN_S, max(latest, broken_s) + _MARGIN_S):
            shorter = replace(self._settings, duration_s=max(_SHORTEST_S, round(end, 1)))
            if shorter.duration_s < self._settings.duration_s and self._breaks(plan, shorter):
                self._settings = shorter
                return

    def _breaks(self, plan: tuple[Fault, ...], settings: Settings | None = None) -> bool:
        if settings is None and plan in self._tried:
            return self._tried[plan]
        if self._left <= 0:
            return False
        try:
            found = self._run(plan, settings).violation
        except Exception:  # without that fault the simulation itself comes to no end: not this case
            found = None
        same = found is not None and found.invariant == self._invariant
        if same:
            self._violation = found
        elif found is not None and settings is None and (self._other is None or len(plan) < len(self._other[0])):
            self._other = (plan, found)
        if settings is None:
            self._tried[plan] = same
        return same

    def _run(self, plan: Sequence[Fault] | None, settings: Settings | None = None) -> Report:
        self._left -= 1
        self._runs += 1
        return Simulation(self._seed, settings or self._settings, plan=plan).run()


def _before(plan: tuple[Fault, ...], end: float) -> tuple[Fault, ...]:
    return tuple(fault for fault in plan if fault.at <= end)
