"""What goes wrong in a simulation: a plan, drawn from the seed before anything begins.

A plan is a list of faults with their times. Each seed takes a random subset of the kinds (a swarm: a fault that is always there
hides what happens without it), each kind with a rate and a bound. A fault can be left out without moving the others, so a plan
that fails can be shrunk (hunt.py).

    links        clog-one-way, clog-two-way, isolate, isolate-leader, split, ring, break, slow, repeat
    processes    kill, power, outage, kill-all, power-all, late-start, storm, crash-at, pause, silent
    clocks       drift, jump, client-jump, moved-horizon
    disks        slow-disk, disk-error, participant-disk, flip-bit, wipe
    copies       break-copy, flip-copy, late-copy
    strangers    stranger
    operators    twin, close
    members      node-remove, other-file
    databases    program-crash, program-pause, program-jump, resolver-kill, resolver-pause, database-kill, database-silent
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

POINTS: Final = (
    *("before-stage", "after-stage", "before-sync", "after-sync", "before-apply", "after-apply"),
    *("before-send-peer", "after-send-peer", "before-send-participant", "after-send-participant"),
    *("before-send-reply", "after-send-reply"),
)
SERVERS: Final = ("ledger", "orders")
PROGRAMS: Final = ("p1", "p2")
RESOLVERS: Final = ("r1", "r2")
"""Databases, the programs that commit over them, and resolvers: one or both."""

PROGRAM_POINTS: Final = ("before-statement", "after-statement", "before-send-reply", "after-send-reply")
PARTICIPANT_POINTS: Final = ("before-prepare", "after-prepare", "before-commit", "after-commit", "before-send-reply")


class Fault(NamedTuple):
    """``at``, ``until``: virtual time (s); ``who``: machines; ``value``: what the kind makes of it."""

    at: float
    until: float
    kind: str
    who: tuple[str, ...] = ()
    value: float = 0.0
    label: str = ""

    def __str__(self) -> str:
        who = " ".join(self.who)
        return f"{self.at:.3f}-{self.until:.3f} s {self.kind} {who} {self.label}".rstrip()


class _Stage(NamedTuple):
    rng: random.Random
    nodes: Sequence[str]
    banks: Sequence[str]
    end: float
    resolvers: Sequence[str] = ()

    def span(self, longest: float) -> tuple[float, float]:
        """A time in the simulation, and one a little later."""
        at = self.rng.uniform(0.6, self.end)
        return at, min(self.end, at + self.rng.uniform(0.05, longest))

    def fault(self, kind: str, longest: float, who: Sequence[str] = (), value: float = 0.0, label: str = "") -> Fault:
        at, until = self.span(longest)
        return Fault(at, until, kind, tuple(who), value, label)

    def anybody(self) -> str:
        return self.rng.choice([*self.nodes, *self.nodes, *self.banks])


def _pair(kind: str) -> Callable[[_Stage], Fault]:
    return lambda stage: stage.fault(kind, 2.0, stage.rng.sample([*stage.nodes, *stage.banks], 2))


def _minority(stage: _Stage) -> list[str]:
    return stage.rng.sample(list(stage.nodes), stage.rng.randint(1, (len(stage.nodes) - 1) // 2))


def _crash_at(stage: _Stage) -> Fault:
    who = stage.anybody()
    label = stage.rng.choice(PARTICIPANT_POINTS if who in stage.banks else POINTS)
    return stage.fault("crash-at", 1.5, (who,), float(stage.rng.randrange(8)), label)


def _wrong_by_ms(rng: random.Random) -> float:
    """A minute or an hour: some are refused for it, some are not."""
    return float(rng.uniform(-1.0, 1.0) ** 3 * 7.2e6)


def _statements(rng: random.Random) -> float:
    """How many statements a program says before something happens to it: two to four transactions."""
    return float(rng.randrange(24))


def _program_crash(stage: _Stage) -> Fault:
    who, label = stage.rng.choice(PROGRAMS), stage.rng.choice(PROGRAM_POINTS)
    return stage.fault("program-crash", 1.5, (who,), _statements(stage.rng), label)


def _storm(stage: _Stage) -> Fault:
    return stage.fault("storm", 1.5, [stage.anybody() for _ in range(stage.rng.randint(4, 10))])


KINDS: Final[dict[str, tuple[int, Callable[[_Stage], Fault]]]] = {
    "clog-one-way": (4, _pair("clog-one-way")),
    "clog-two-way": (3, _pair("clog-two-way")),
    "isolate": (2, lambda stage: stage.fault("isolate", 2.5, (stage.anybody(),))),
    "isolate-leader": (2, lambda stage: stage.fault("isolate-leader", 2.5)),
    "split": (2, lambda stage: stage.fault("split", 2.5, _minority(stage))),
    "ring": (1, lambda stage: stage.fault("ring", 2.5)),
    "break": (12, lambda stage: stage.fault("break", 0.1, value=stage.rng.random())),
    "slow": (2, lambda stage: stage.fault("slow", 2.0, value=stage.rng.choice((0.005, 0.03, 0.1)))),
    "repeat": (1, lambda stage: stage.fault("repeat", 8.0, value=stage.rng.choice((0.02, 0.2)))),
    "kill": (4, lambda stage: stage.fault("kill", 1.5, (stage.anybody(),))),
    "power": (3, lambda stage: stage.fault("power", 1.5, (stage.anybody(),))),
    "outage": (1, lambda stage: Fault(stage.rng.uniform(0.6, 2.0), stage.end, "outage", (stage.anybody(),))),
    "kill-all": (1, lambda stage: stage.fault("kill-all", 1.0, stage.nodes)),
    "power-all": (1, lambda stage: stage.fault("power-all", 1.0, stage.nodes)),
    "late-start": (
        1,
        lambda stage: Fault(0.0, stage.rng.uniform(0.2, 2.0), "late-start", (stage.rng.choice(stage.nodes),)),
    ),
    "storm": (1, _storm),
    "crash-at": (8, _crash_at),
    "pause": (3, lambda stage: stage.fault("pause", 2.0, (stage.anybody(),))),
    "drift": (1, lambda stage: Fault(0.0, 0.0, "drift", (), stage.rng.choice((0.001, 0.02, 0.1)))),
    "jump": (
        2,
        lambda stage: stage.fault("jump", 3.0, (stage.rng.choice(stage.nodes),), _wrong_by_ms(stage.rng)),
    ),
    "slow-disk": (2, lambda stage: stage.fault("slow-disk", 2.0, (stage.rng.choice(stage.nodes),), 0.05)),
    "disk-error": (
        2,
        lambda stage: stage.fault("disk-error", 1.0, (stage.rng.choice(stage.nodes),), stage.rng.random()),
    ),
    "participant-disk": (
        6,
        lambda stage: stage.fault("participant-disk", 4.0, (stage.rng.choice(stage.banks),), stage.rng.random()),
    ),
    "flip-bit": (1, lambda stage: stage.fault("flip-bit", 1.0, (stage.rng.choice(stage.nodes),))),
    "wipe": (1, lambda stage: stage.fault("wipe", 1.0, (stage.rng.choice(stage.nodes),))),
    "break-copy": (2, lambda stage: stage.fault("break-copy", 8.0)),
    "flip-copy": (1, lambda stage: stage.fault("flip-copy", 8.0)),
    "stranger": (4, lambda stage: stage.fault("stranger", 0.5, (stage.rng.choice(stage.nodes),), stage.rng.random())),
    "late-copy": (1, lambda stage: Fault(stage.rng.uniform(0.6, 2.0), stage.end, "late-copy")),
    "client-jump": (2, lambda stage: stage.fault("client-jump", 4.0, value=_wrong_by_ms(stage.rng))),
    "moved-horizon": (1, lambda stage: stage.fault("moved-horizon", 2.0, value=stage.rng.uniform(2_000.0, 2e8))),
    "silent": (2, lambda stage: stage.fault("silent", 4.0, _minority(stage))),
    "twin": (3, lambda stage: stage.fault("twin", 0.5, (stage.rng.choice(stage.banks),), stage.rng.random())),
    "close": (3, lambda stage: stage.fault("close", 0.5, (stage.rng.choice(stage.banks),), stage.rng.random())),
    "node-remove": (
        1,
        lambda stage: stage.fault("node-remove", 0.5, (stage.rng.choice(stage.nodes),), stage.rng.random()),
    ),
    "other-file": (2, lambda stage: stage.fault("other-file", 1.0, (stage.rng.choice(stage.nodes),))),
    "program-crash": (10, _program_crash),
    "program-pause": (
        5,
        lambda stage: stage.fault("program-pause", 5.0, (stage.rng.choice(PROGRAMS),), _statements(stage.rng)),
    ),
    "program-jump": (
        2,
        lambda stage: stage.fault(
            "program-jump", 4.0, (stage.rng.choice([*PROGRAMS, *stage.resolvers]),), _wrong_by_ms(stage.rng)
        ),
    ),
    "resolver-kill": (3, lambda stage: stage.fault("resolver-kill", 1.5, (stage.rng.choice(stage.resolvers),))),
    "resolver-pause": (3, lambda stage: stage.fault("resolver-pause", 2.0, (stage.rng.choice(stage.resolvers),))),
    "database-kill": (
        4,
        lambda stage: stage.fault("database-kill", 1.5, (stage.rng.choice(SERVERS),), _statements(stage.rng)),
    ),
    "database-silent": (
        3,
        lambda stage: stage.fault("database-silent", 2.5, (stage.rng.choice(SERVERS),), _statements(stage.rng)),
    ),
}
"""Kind -> (how many of them at most in one plan, how to draw one)."""

OF_DATABASES: Final = {
    "program-crash": PROGRAMS,
    "program-pause": PROGRAMS,
    "program-jump": (*PROGRAMS, *RESOLVERS),
    "resolver-kill": RESOLVERS,
    "resolver-pause": RESOLVERS,
    "database-kill": SERVERS,
    "database-silent": SERVERS,
}
"""Kinds that happen to databases and to those who work on them, only in seeds that have some; and to whom."""

_OF_MANY: Final = frozenset(
    {
        "isolate-leader",
        "split",
        "ring",
        "repeat",
        "flip-bit",
        "wipe",
        "stranger",
        "late-copy",
        "silent",
        "node-remove",
        "other-file",
    }
)
"""Kinds that make sense in a cluster of several nodes only: one node cannot lose its disk and keep its promises."""

SWARM_RATE: Final = 0.3
"""How likely a kind is in a plan."""

DATABASES_RATE: Final = 0.5
"""The same for OF_DATABASES, in a seed that has databases."""


def draw(
    rng: random.Random, nodes: Sequence[str], banks: Sequence[str], end: float, kinds: Sequence[str]
) -> list[Fault]:
    """The plan of one seed, in the order of time. ``kinds``: those that may occur."""
    stage = _Stage(rng, nodes, banks, end)
    plan: list[Fault] = []
    for kind in KINDS:
        if kind in OF_DATABASES or (len(nodes) == 1 and kind in _OF_MANY):
            continue
        most, one = KINDS[kind]
        wanted = rng.random() < SWARM_RATE
        drawn = [one(stage) for _ in range(rng.randint(1, most))]
        if wanted and kind in kinds:
            plan += drawn
    return sorted(_bounded(plan))


def draw_for_databases(rng: random.Random, resolvers: Sequence[str], end: float, kinds: Sequence[str]) -> list[Fault]:
    """What happens to the databases of one seed, in the order of time."""
    stage = _Stage(rng, (), (), end, resolvers)
    plan: list[Fault] = []
    for kind in KINDS:
        if kind not in OF_DATABASES:
            continue
        most, one = KINDS[kind]
        wanted = rng.random() < DATABASES_RATE
        drawn = [one(stage) for _ in range(rng.randint(1, most))]
        if wanted and kind in kinds:
            plan += drawn
    return sorted(plan)


def _bounded(plan: list[Fault]) -> list[Fault]:
    """At most one node loses its disk or is removed in one simulation: the promises hold for a minority."""
    lost = [fault for fault in plan if fault.kind in ("flip-bit", "wipe", "node-remove")]
    return [fault for fault in plan if fault not in lost[1:]]
