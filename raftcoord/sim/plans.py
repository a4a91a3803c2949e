"""A plan of faults as a file, so that a case can be run again, sent to somebody, or kept as a test.

{"seed": 7, "nodes": 3, "duration_s": 4.5, "faults": [{"at": 0.7, "until": 1.2, "kind": "kill", "who": ["n1"], ...}]}

Owed: what was written reads back as the same plan, to the last bit of every number; anything else is a ConfigError that names the
file and the fault, before anything runs.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from raftcoord.errors import ConfigError
from raftcoord.sim.faults import OF_DATABASES, PARTICIPANT_POINTS, POINTS, PROGRAM_POINTS, Fault
from raftcoord.sim.recipe import check_kinds
from raftcoord.sim.simulation import Settings

_ONE_NODE: Final = (
    "late-start",
    "jump",
    "slow-disk",
    "disk-error",
    "flip-bit",
    "wipe",
    "stranger",
    "node-remove",
    "other-file",
)
_ONE_PARTICIPANT: Final = ("participant-disk",)
_ONE: Final = (*_ONE_NODE, *_ONE_PARTICIPANT, "isolate", "crash-at", "pause", "outage")
_TWO: Final = ("clog-one-way", "clog-two-way")
_SHARES: Final = ("break", "repeat", "disk-error", "participant-disk", "stranger", "node-remove")
"""Kinds whose value is a share, 0 to under 1."""

_VALUE_MAX: Final = 1e9


@dataclass(frozen=True)
class Plan:
    """What a file holds."""

    seed: int
    nodes: int
    duration_s: float
    faults: tuple[Fault, ...]


def to_json(seed: int, settings: Settings, faults: Sequence[Fault]) -> dict[str, Any]:
    """A plan for programs."""
    return {
        "seed": seed,
        "nodes": settings.nodes,
        "duration_s": settings.duration_s,
        "faults": [fault._asdict() for fault in faults],
    }


def read(path: Path) -> Plan:
    """The plan in a file. Raises ConfigError."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the plan {path} cannot be read: {error}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"the plan {path} is not JSON: {error}") from error
    match found:
        case {
            "seed": int(seed),
            "nodes": int(nodes),
            "duration_s": int() | float() as duration_s,
            "faults": list(rows),
        }:
            faults = [_fault(f"{path}: fault {at}", row) for at, row in enumerate(rows, 1)]
            return Plan(seed, nodes, float(duration_s), tuple(sorted(faults)))
    raise ConfigError(
        f"{path} is not a plan: it has the keys seed, nodes, duration_s and faults, as sim run writes them"
    )


def _fault(where: str, row: Any) -> Fault:
    if not isinstance(row, dict) or not set(row) <= set(Fault._fields):
        raise ConfigError(f"{where} has other keys than {', '.join(Fault._fields)}")
    match {"who": [], "value": 0.0, "label": "", **row}:
        case {
            "at": int() | float() as at,
            "until": int() | float() as until,
            "kind": str(kind),
            "who": list(who),
            "value": int() | float() as value,
            "label": str(label),
        } if all(isinstance(name, str) for name in who):
            return Fault(float(at), float(until), kind, tuple(who), float(value), label)
    raise ConfigError(f"{where} lacks at, until or kind, or one of its values is of the wrong type")


def check(faults: Sequence[Fault], settings: Settings) -> None:
    """Raise ConfigError unless a world with these settings can carry it out."""
    nodes = [f"n{number}" for number in range(1, settings.nodes + 1)]
    for at, fault in enumerate(faults, 1):
        where = f"fault {at} ({fault.kind})"
        check_kinds([fault.kind])
        if not 0.0 <= fault.at <= fault.until <= settings.duration_s:
            raise ConfigError(
                f"{where} lasts from {fault.at} to {fault.until} s; the faults end at {settings.duration_s:g} s"
            )
        known = nodes if fault.kind in _ONE_NODE else [*nodes, *settings.machines]
        known = settings.machines if fault.kind in _ONE_PARTICIPANT else known
        known = list(OF_DATABASES.get(fault.kind, known))
        strange = [name for name in fault.who if name not in known]
        if strange:
            raise ConfigError(f"{where} names {strange[0]!r}; there are {', '.join(known)}")
        wanted = 1 if fault.kind in (*_ONE, *OF_DATABASES) else 2 if fault.kind in _TWO else None
        if wanted is not None and len(fault.who) != wanted:
            raise ConfigError(f"{where} names {len(fault.who)} machines; it happens to {wanted}")
        _check_value(where, fault)
        points: tuple[str, ...] = PARTICIPANT_POINTS if set(fault.who) <= set(settings.machines) else POINTS
        points = PROGRAM_POINTS if fault.kind == "program-crash" else points
        if fault.kind in ("crash-at", "program-crash") and fault.label not in points:
            raise ConfigError(f"{where} has no point {fault.label!r}; choose from: {', '.join(points)}")


def _check_value(where: str, fault: Fault) -> None:
    lowest = -_VALUE_MAX if fault.kind in ("jump", "client-jump", "program-jump") else 0.0
    good = math.isfinite(fault.value) and lowest <= fault.value <= _VALUE_MAX
    if not good or (fault.kind in _SHARES and fault.value >= 1.0) or (fault.kind == "drift" and fault.value > 0.5):
        raise ConfigError(f"{where} cannot have the value {fault.value}")
