"""One simulation: a seed in, a report out.

faults     clients work, faults happen as planned, every step is checked (invariants.py)
healing    the faults stop; within LIVENESS_S everything decided must be complete and nothing in doubt
audit      all ledgers are equal, money is conserved, the history can be told by one ledger
"""

from __future__ import annotations

import gc
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from raftcoord.events import Observer, Observers
from raftcoord.sim import strangers
from raftcoord.sim.cast import Cast
from raftcoord.sim.conduct import Conduct
from raftcoord.sim.estate import Estate
from raftcoord.sim.faults import KINDS, Fault, draw, draw_for_databases
from raftcoord.sim.happening import Began, See, listening, observers
from raftcoord.sim.healing import Healing
from raftcoord.sim.invariants import CLOCKS_WITHIN_S, Invariants
from raftcoord.sim.knobs import Knobs, knobs, one_machine
from raftcoord.sim.loop import SimLoop
from raftcoord.sim.machines import serving
from raftcoord.sim.nemesis import Nemesis
from raftcoord.sim.synced import Violation
from raftcoord.sim.workload import Audit, MakePayloads, Workload, bank, conserved, transfers, vault
from raftcoord.sim.world import MakeParticipant, World

BANKS: Final[Mapping[str, MakeParticipant]] = {"bank-a": bank, "bank-b": bank, "bank-c": bank, "vault": vault}
INSTANCES: Final = {"vault": 2}


@dataclass(frozen=True)
class Settings:
    """``duration_s``: of the faults (virtual s); ``kinds``: of faults; ``gap_s``: between two requests of one client.

    ``participants``: who serves which name; ``payloads(names, rng)``: the branches of a transaction;
    ``audit(participants)``: in the end, what does not add up, or "".
    """

    nodes: int = 3
    clients: int = 3
    duration_s: float = 8.0
    gap_s: float = 0.35
    kinds: tuple[str, ...] = tuple(KINDS)
    participants: Mapping[str, MakeParticipant] = field(default_factory=lambda: dict(BANKS))
    payloads: MakePayloads = transfers
    audit: Audit = conserved
    instances: Mapping[str, int] = field(default_factory=lambda: dict(INSTANCES))
    """How many instances of a participant run, if not one: they are given one directory, which no crash touches."""
    databases: float = 0.25
    """The share of seeds that have databases (estate.py)."""

    @property
    def machines(self) -> list[str]:
        """The machines of the participants."""
        return list(serving(self.participants, self.instances))


@dataclass
class Report:
    """What one simulation did. ``violation`` None: every promise was kept."""

    seed: int
    plan: list[Fault]
    violation: Violation | None = None
    digest: int = 0
    virtual_s: float = 0.0
    wall_s: float = 0.0
    settled_s: float = 0.0
    """Virtual seconds from the last fault until nothing was in doubt."""
    injected: dict[str, int] = field(default_factory=dict)
    outcomes: dict[str, int] = field(default_factory=dict)
    states: dict[str, int] = field(default_factory=dict)
    timeline: list[str] = field(default_factory=list)

    @property
    def held(self) -> bool:
        """Whether every promise was kept."""
        return self.violation is None


class Simulation:
    """One run of one seed. ``plan`` None: drawn from the seed."""

    def __init__(self, seed: int, settings: Settings, *, plan: Sequence[Fault] | None = None) -> None:
        self._seed = seed
        self._settings = settings
        self._plan = plan
        self._observers: list[See] = []

    def observe(self, see: See) -> None:
        """Show ``see`` all that will happen (happening.py). Before ``run``."""
        self._observers.append(see)

    def run(self) -> Report:
        """Run it. Deterministic: the same seed, settings and plan give the same report (but for ``wall_s``)."""
        began = time.perf_counter()
        root = Path(tempfile.mkdtemp(prefix="raftcoord-sim-", dir=_memory_directory()))
        was_enabled = gc.isenabled()
        gc.disable()  # what is dropped is dropped at once or at the end, never at a moment that chance chooses
        events = observers()
        try:
            with one_machine(), listening(events if self._observers else None):
                report = self._run(root, knobs(self._seed), events)
        finally:
            shutil.rmtree(root, ignore_errors=True)
            if was_enabled:
                gc.enable()
        report.wall_s = time.perf_counter() - began
        return report

    def _run(self, root: Path, chosen: Knobs, events: Observers) -> Report:
        settings = self._settings
        report = Report(self._seed, [])
        strangers.executed.clear()
        names = [f"n{number}" for number in range(1, settings.nodes + 1)]

        def violated(violation: Violation) -> None:
            report.violation = violation
            world.loop.stop()

        invariants = Invariants(names, settings.participants, violated, events)
        world = World(
            self._seed,
            root,
            invariants,
            lambda what: invariants.violate("no unhandled error", what),
            nodes=settings.nodes,
            participants={
                name: partial(bank, lock_waiters_max=chosen.lock_waiters_max) if make is bank else make
                for name, make in settings.participants.items()
            },
            instances=settings.instances,
            knobs=chosen,
            events=events,
        )
        for see in self._observers:
            events.attach(_shown(world.loop, see))
        invariants.locking = frozenset(name for name, make in settings.participants.items() if make in (bank, vault))
        invariants.retention_ms = world.config.retention_ms
        invariants.clocks = lambda: world.clocks(CLOCKS_WITHIN_S)
        timing = world.config.timing
        election = (timing.election_ms_min / 1000, timing.election_ms_max / 1000)
        invariants.conduct = Conduct(names, invariants.must, lambda: world.loop.now, election, chosen.node)
        if events.wanted:
            events.tell(Began(str(root)))
        has_databases = world.rng("databases").random() < settings.databases
        estate = Estate(world, invariants) if has_databases else None
        plan = self._plan
        if plan is None:
            plan = draw(world.rng("plan"), names, list(world.serves), settings.duration_s, settings.kinds)
            if estate is not None:
                rng = world.rng("plan of databases")
                plan = sorted([*plan, *draw_for_databases(rng, estate.resolvers, settings.duration_s, settings.kinds)])
        report.plan = list(plan)
        nemesis = Nemesis(world, plan, estate)
        workload = Workload(world, invariants, settings.payloads, settings.audit, settings.clients, settings.gap_s)
        try:
            self._live(Cast(world, invariants, nemesis, workload, estate), report)
        finally:
            report.injected = dict(nemesis.injected)
            report.outcomes = workload.outcomes | ({} if estate is None else estate.outcomes)
            report.states = _states(world, invariants) | ({} if estate is None else estate.states)
            report.virtual_s = world.loop.now
            report.digest = world.network.digest
            world.close()
        return report

    def _live(self, cast: Cast, report: Report) -> None:
        world, workload, estate, end = cast.world, cast.workload, cast.estate, self._settings.duration_s
        world.run(world.start_all)
        world.run(workload.start)
        if estate is not None:
            world.run(estate.start)
        world.loop.run_until(end)
        if report.violation is not None:
            return
        world.log("world", "the faults stop")
        world.run(cast.nemesis.heal)
        workload.stop()
        healing = Healing(cast, end)
        report.settled_s = healing.settle()
        if report.violation is None:
            healing.audit()


def _shown(loop: SimLoop, see: See) -> Observer:
    return lambda event: see(loop.now, loop.current.name, event)


def _states(world: World, invariants: Invariants) -> dict[str, int]:
    """What was reached: a hunt that reaches little proves little."""
    return {
        "leaders elected": len(invariants.leaders),
        "entries committed": len(invariants.log) - 2,
        "decisions": invariants.decisions_committed,
        "copies installed": invariants.copies_installed,
        "lives of nodes": sum(world.machines[name].lives for name in world.nodes),
        "lives of participants": sum(world.machines[name].lives for name in world.serves),
        "moves of the horizon": invariants.horizon.retirements,
        "messages heard twice": world.mischief.repeated,
        "chunks of copies damaged": world.mischief.flipped,
        **{f"killed at {label}": count for label, count in sorted(world.points.passed.items())},
    }


def _memory_directory() -> str | None:
    """A file system in memory, if the machine has one: the disk is simulated, the files need not be synced."""
    return "/dev/shm" if Path("/dev/shm").is_dir() else None
