"""What the benchmarks have in common: their options, their report, and a throwaway cluster on the fast loop."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, TypeVar

from raftcoord.drills.play import play
from raftcoord.drills.props import StagePlan
from raftcoord.drills.report import rounded
from raftcoord.drills.stage import Stage
from raftcoord.errors import ConfigError

IN_FLIGHT_MAX: Final = 4_096
"""The node's own bound on open requests of one connection."""

WORKERS_MAX: Final = 60
"""One connection each; the PostgreSQL of the drills takes 64."""

SECONDS_MAX: Final = 3_600.0
PAIRS: Final = ("postgresql", "mariadb", "mixed")

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """``seconds``: of each measurement; 0.1 to SECONDS_MAX. ConfigError for what is out of range.

    ``in_flight``: how many calls are open, one measurement each, 1 to IN_FLIGHT_MAX.

    Of databases: ``pairs``: of PAIRS; ``workers``: threads that transfer, one measurement each, 1 to WORKERS_MAX; ``processes``:
    over which the threads are dealt; 0 means one for each core.
    """

    in_flight: tuple[int, ...] = (1, 64, 512)
    seconds: float = 5.0
    nodes: int = 3
    seed: int = 1
    pairs: tuple[str, ...] = PAIRS
    workers: tuple[int, ...] = (1, 8, 32)
    processes: int = 0

    def __post_init__(self) -> None:
        for what, numbers, most in (
            ("calls in flight", self.in_flight, IN_FLIGHT_MAX),
            ("workers", self.workers, WORKERS_MAX),
        ):
            if not numbers or not all(1 <= number <= most for number in numbers):
                given = ", ".join(map(str, numbers)) or "none"
                raise ConfigError(f"{what}: {given}; give numbers from 1 to {most}")
        if not self.pairs or not all(pair in PAIRS for pair in self.pairs):
            raise ConfigError(f"pairs: {', '.join(self.pairs) or 'none'}; give some of {', '.join(PAIRS)}")
        if not 0.1 <= self.seconds <= SECONDS_MAX:
            raise ConfigError(f"{self.seconds:g} s per measurement is out of range; give 0.1 to {SECONDS_MAX:g}")
        if not 0 <= self.processes <= WORKERS_MAX:
            raise ConfigError(f"{self.processes} processes is out of range; give 1 to {WORKERS_MAX}")
        if self.nodes not in (1, 3, 5, 7):
            raise ConfigError(f"a benchmark cannot run on {self.nodes} nodes; give 1, 3, 5 or 7")


@dataclass(frozen=True, slots=True)
class BenchReport:
    """What was measured, in the order of the measurements: dataclasses."""

    benchmark: str
    nodes: int
    results: Sequence[Any]

    def to_json(self) -> dict[str, Any]:
        results = [_written(asdict(result)) for result in self.results]
        return {"benchmark": self.benchmark, "nodes": self.nodes, "results": results}


def measured_on(plan: StagePlan, scene: Callable[[Stage], Coroutine[Any, Any, _T]]) -> _T:
    """What ``scene`` measures on a throwaway cluster, of which nothing is kept."""
    return play(plan, scene, keep=lambda report: False, fast=True)


def _written(value: Any) -> Any:
    return {name: _written(each) for name, each in value.items()} if isinstance(value, dict) else rounded(value)
