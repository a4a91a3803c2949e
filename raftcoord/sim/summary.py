"""What a hunt found: the result of each seed, added up.

Owed: the same results in any order give the same summary; nothing that went wrong is left out.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from raftcoord.errors import check
from raftcoord.sim.faults import KINDS
from raftcoord.sim.healing import LIVENESS_S


@dataclass(frozen=True)
class SeedResult:
    """One seed. ``invariant``: the promise that was broken, or "". ``failure``: why there is no verdict, or ""."""

    seed: int
    invariant: str = ""
    what: str = ""
    txid: str = ""
    failure: str = ""
    digest: int = 0
    virtual_s: float = 0.0
    wall_s: float = 0.0
    settled_s: float = 0.0
    injected: Mapping[str, int] = field(default_factory=dict)
    outcomes: Mapping[str, int] = field(default_factory=dict)
    states: Mapping[str, int] = field(default_factory=dict)

    @property
    def held(self) -> bool:
        """Whether every promise was kept."""
        return not self.invariant and not self.failure


class Summary:
    """See the module's head."""

    def __init__(self) -> None:
        self.seeds = 0
        self.broken: list[SeedResult] = []
        """The seeds that broke a promise."""
        self.failed: list[SeedResult] = []
        """The seeds without a verdict: the simulation raised, died or took too long."""
        self.injected: Counter[str] = Counter()
        self.outcomes: Counter[str] = Counter()
        self.states: Counter[str] = Counter()
        self.virtual_s = 0.0
        self.wall_s = 0.0
        """Of all simulations together, whichever process ran them."""
        self.digest = 0
        """Of all digests: two hunts over the same seeds that differ here did not run the same simulations."""
        self._settled: list[float] = []

    def add(self, result: SeedResult) -> None:
        """Count one more seed."""
        self.seeds += 1
        if result.failure:
            self.failed.append(result)
        elif result.invariant:
            self.broken.append(result)
        else:
            self._settled.append(result.settled_s)
        self.injected.update(result.injected)
        self.outcomes.update(result.outcomes)
        self.states.update(result.states)
        self.virtual_s += result.virtual_s
        self.wall_s += result.wall_s
        self.digest ^= result.digest ^ (result.seed * 0x9E3779B1 & 0xFFFFFFFF)

    @property
    def decisions(self) -> int:
        """How many transactions were decided."""
        return self.states["decisions"]

    @property
    def held(self) -> bool:
        """Whether every seed kept every promise."""
        return not self.broken and not self.failed

    @property
    def verdict(self) -> str:
        """One line."""
        seeds = "1 seed" if self.seeds == 1 else f"{self.seeds:,} seeds"
        failed = "; ".join(f"seed {each.seed} {each.failure}" for each in _sorted(self.failed)[:3])
        if self.broken:
            first = _sorted(self.broken)[0]
            about = f" of {first.txid}" if first.txid else ""
            also = f"; without a verdict: {len(self.failed)}" if failed else ""
            return f"BROKEN: {len(self.broken)} of {seeds}; seed {first.seed}: {first.invariant}{about}: {first.what}{also}"
        if failed:
            return f"FAILED: {len(self.failed)} of {seeds} came to no verdict: {failed}"
        return f"HELD: {seeds}, {self.decisions:,} decisions, every promise kept" if self.seeds else "nothing was run"

    def parts(self) -> dict[str, int]:
        """What became of the seeds; each is in exactly one part."""
        parts = {"held": len(self._settled), "broken": len(self.broken), "without a verdict": len(self.failed)}
        check(sum(parts.values()) == self.seeds, f"{self.seeds} seeds are not {parts}")
        return {name: count for name, count in parts.items() if count or name == "held"}

    @property
    def by_invariant(self) -> dict[str, list[int]]:
        """Invariant -> the seeds that broke it."""
        found: dict[str, list[int]] = {}
        for result in _sorted(self.broken):
            found.setdefault(result.invariant, []).append(result.seed)
        return dict(sorted(found.items()))

    @property
    def unseen(self) -> list[str]:
        """The kinds of faults that no seed had."""
        return [kind for kind in KINDS if not self.injected[kind]]

    def settled(self) -> dict[str, float]:
        """How long (virtual s) it took after the last fault until nothing was in doubt; the bound is LIVENESS_S."""
        ordered = sorted(self._settled)
        if not ordered:
            return {}
        at = {"p50": 0.5, "p99": 0.99, "max": 1.0}
        return {name: round(ordered[math.ceil(share * len(ordered)) - 1], 3) for name, share in at.items()}

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "held": self.held,
            "verdict": self.verdict,
            "seeds": self.seeds,
            "seeds_held": len(self._settled),
            "seeds_broken": len(self.broken),
            "seeds_without_a_verdict": len(self.failed),
            "violations": self.by_invariant,
            "failures": {str(each.seed): each.failure for each in _sorted(self.failed)},
            "injected": _ordered(self.injected, list(KINDS)),
            "outcomes": _ordered(self.outcomes),
            "states": _ordered(self.states),
            "decisions": self.decisions,
            "settled_s": self.settled(),
            "liveness_s": LIVENESS_S,
            "virtual_s": round(self.virtual_s, 3),
            "digest": f"{self.digest:08x}",
        }


def _sorted(results: Sequence[SeedResult]) -> list[SeedResult]:
    return sorted(results, key=lambda result: result.seed)


def _ordered(counted: Counter[str], first: Sequence[str] = ()) -> dict[str, int]:
    names = [name for name in first if counted[name]]
    return {name: counted[name] for name in (*names, *sorted(set(counted) - set(names)))}
