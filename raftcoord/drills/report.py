"""What a drill, the demo and a benchmark say while they run and at their end: values, and the same as JSON."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from raftcoord.drills.audit import SHOWN_MAX, AuditViolation
from raftcoord.drills.client_history import History, percentile
from raftcoord.errors import check

EventKind = Literal["start", "progress", "fault", "heal", "settle", "audit", "kept"]


@dataclass(frozen=True, slots=True)
class Event:
    """Something worth a line while it runs. ``at_s``: seconds since the beginning. ``figures``: the state of the work."""

    at_s: float
    kind: EventKind
    text: str
    figures: Mapping[str, int | float] = field(default_factory=dict)


OnEvent = Callable[[Event], None]


@dataclass(slots=True)
class FaultRecord:
    """One fault: what was done and when (seconds since the beginning).

    ``first_commit_s``: from the fault to the first commit of a later term, if it took the leader away; else None.
    """

    what: str
    at_s: float
    healed: str = ""
    healed_at_s: float | None = None
    first_commit_s: float | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "what": self.what,
            "at_s": round(self.at_s, 3),
            "healed": self.healed,
            "healed_at_s": rounded(self.healed_at_s),
            "first_commit_s": rounded(self.first_commit_s),
        }


@dataclass(frozen=True, slots=True)
class DrillReport:
    """How a drill or a demo has ended. ``directory``: where the files are, if they were kept.

    ``if_held``: what its verdict says then; "": what the audit has compared. ``more``: JSON values that this one alone has.
    """

    name: str
    violations: Sequence[AuditViolation]
    figures: Mapping[str, int | float]
    seed: int
    directory: Path | None = None
    faults: Sequence[FaultRecord] = ()
    if_held: str = ""
    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def held(self) -> bool:
        return not self.violations

    @property
    def verdict(self) -> str:
        """HELD or BROKEN, and why, in one line."""
        if self.held:
            return f"HELD: {self.name}: {self.if_held or compared(self.figures)}"
        first = self.violations[0]
        of = f" of transaction {first.txid}" if first.txid else ""
        more = f" (and {len(self.violations) - 1} more)" if len(self.violations) > 1 else ""
        return f"BROKEN: {self.name}: {first.kind}{of}: {first.what}{more}"

    def to_json(self) -> dict[str, Any]:
        """As JSON values; at most SHOWN_MAX violations, and their number."""
        return {
            "drill": self.name,
            "held": self.held,
            "verdict": self.verdict,
            "seed": self.seed,
            "violation_count": len(self.violations),
            "violations": [violation.to_json() for violation in self.violations[:SHOWN_MAX]],
            "faults": [fault.to_json() for fault in self.faults],
            "figures": {name: rounded(value) for name, value in self.figures.items()},
            **self.more,
            "directory": str(self.directory) if self.directory else None,
        }


def compared(figures: Mapping[str, int | float]) -> str:
    """What the audit has compared, in words."""
    return (
        f"{figures['transactions']} transactions, {parts_of(figures)}; {figures['nodes_asked']} nodes and "
        f"{figures['banks']} banks agree, to the cent"
    )


def parts_of(figures: Mapping[str, int | float]) -> str:
    """What became of the transactions, in words. Every one is in exactly one part: figures that do not add up are a bug."""
    parts = {name: figures[name] for name in ("committed", "aborted", "never_attempted", "undecided")}
    check(sum(parts.values()) == figures["transactions"], f"{figures['transactions']} transactions are not {parts}")
    named = ("committed", "aborted")
    return ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in parts.items() if count or name in named)


def timed(make: Callable[[], DrillReport]) -> DrillReport:
    """The report that ``make`` returns, with all the time that it took, its start and its end included, as ``wall_s``."""
    began_s = time.monotonic()
    report = make()
    return replace(report, figures={**report.figures, "wall_s": time.monotonic() - began_s})


def client_figures(history: History) -> dict[str, int | float]:
    """What the clients have seen: latency of committed transactions (ms), and the longest time without a commit (s)."""
    latencies = history.latencies_ms()
    return {
        "commit_latency_ms_p50": percentile(latencies, 50),
        "commit_latency_ms_p99": percentile(latencies, 99),
        "longest_pause_s": history.longest_pause_s,
    }


def failover_figures(faults: Sequence[FaultRecord]) -> dict[str, int | float]:
    """From the loss of a leader to the first commit of a later term (seconds), over all faults that took one away."""
    times = [fault.first_commit_s for fault in faults if fault.first_commit_s is not None]
    if not times:
        return {}
    return {
        "failovers": len(times),
        "failover_s_p50": percentile(times, 50),
        "failover_s_p99": percentile(times, 99),
        "failover_s_max": max(times),
    }


def rounded(value: float | int | None) -> float | int | None:
    """Six digits are enough; NaN, which JSON does not have, becomes None."""
    if isinstance(value, float):
        return round(value, 6) if value == value else None
    return value
