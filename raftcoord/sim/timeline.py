"""What happened in one simulation, in the order of virtual time: for the person who reads a violation.

A traced run is the same run: the observer draws no chance and schedules nothing, and its digest is that of the run without.

    lines of the world      faults, starts, kills, pauses, halts
    leaders                 who leads in which term
    clients                 what they ask, and what they are told
    participants            votes, commits, aborts
    the log                 each entry that is committed, and when each node applies it
    the rooms' own log      from INFO on
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterable, Sequence
from typing import Any, Final, NamedTuple

from raftcoord.consensus import engine
from raftcoord.consensus.group import Group
from raftcoord.core.commands import open_entry
from raftcoord.core.tables.decisions import Complete, Decide
from raftcoord.core.tables.founding import Found
from raftcoord.core.tables.horizon import Retire
from raftcoord.core.tables.table import Command
from raftcoord.participants.interface import Abort, Commit, Prepare, Reply, Request
from raftcoord.sim.estate import Estate
from raftcoord.sim.faults import Fault
from raftcoord.sim.invariants import Invariants
from raftcoord.sim.nemesis import Nemesis
from raftcoord.sim.simulation import Report, Settings, Simulation
from raftcoord.sim.workload import Workload
from raftcoord.sim.world import World
from raftcoord.types import TxId, Vote, VoteKind

_OF_THIS_MACHINE: Final = re.compile(r"; [\d,]+ bytes are free on its disk(?=\.)")
"""What an error tells of the disk on which the simulation runs: each replay would be another one."""

LINES_MAX: Final = 20_000
"""Of one run; what comes later is counted."""


class Line(NamedTuple):
    """``at``: virtual time (s). ``txid``: whom it is about, or None. ``always``: it is shown whatever one asks about."""

    at: float
    who: str
    what: str
    txid: TxId | None = None
    always: bool = False

    def text(self, *, named: bool) -> str:
        """One line; ``named``: with its txid."""
        about = f"  [{self.txid}]" if named and self.txid is not None and str(self.txid) not in self.what else ""
        return f"{self.at:9.4f}  {self.who:9} {self.what}{about}"


class Traced:
    """One simulation with its timeline."""

    def __init__(self, seed: int, settings: Settings, plan: Sequence[Fault] | None = None) -> None:
        self._simulation = _Traced(seed, settings, plan=plan)
        self.report = self._simulation.run()
        self.lines: list[Line] = self._simulation.lines

    def everything(self) -> list[str]:
        """Every line."""
        return [line.text(named=True) for line in self.lines]

    def about(self, txid: TxId | None) -> list[str]:
        """What happened to that transaction, with the faults, leaders, starts and kills around it."""
        return [line.text(named=False) for line in self.lines if line.always or _is_about(line, txid)]


def _is_about(line: Line, txid: TxId | None) -> bool:
    return txid is not None and (line.txid == txid or str(txid) in line.what)


class _Traced(Simulation):
    """The simulation, with somebody who looks at all that it hands to ``_live``."""

    _log_level = logging.INFO

    def __init__(self, seed: int, settings: Settings, *, plan: Sequence[Fault] | None) -> None:
        super().__init__(seed, settings, plan=plan)
        self.lines: list[Line] = []
        self._listener = _Listener(self)
        self._world: World | None = None
        self._applied: dict[str, int] = {}
        self._told = 1
        self._root = ""

    def run(self) -> Report:
        """As Simulation's."""
        logger = logging.getLogger("raftcoord")
        before = logger.propagate
        logger.addHandler(self._listener)
        logger.propagate = False
        try:
            report = super().run()
        finally:
            logger.propagate = before
            logger.removeHandler(self._listener)
        self._conclude(report)
        return report

    def add(self, who: str, what: str, txid: TxId | None = None, *, always: bool = False) -> None:
        """One more line, now."""
        if self._world is not None and len(self.lines) < LINES_MAX:
            what = " ".join(what.replace(self._root, "").removeprefix(f"{who}: ").split())
            what = _OF_THIS_MACHINE.sub("", what)
            self.lines.append(Line(self._world.loop.now, who, what, txid, always))

    @property
    def acting(self) -> str:
        """The process in which this happens."""
        return "world" if self._world is None else self._world.loop.current.name

    def _conclude(self, report: Report) -> None:
        if len(self.lines) >= LINES_MAX:
            self.lines.append(Line(report.virtual_s, "timeline", f"ends after {LINES_MAX} lines", None, True))
        broken = report.violation
        if broken is not None:
            self.lines.append(Line(report.virtual_s, "BROKEN", str(broken), broken.txid, True))
        report.timeline = [line.text(named=True) for line in self.lines]

    def _live(
        self,
        world: World,
        invariants: Invariants,
        nemesis: Nemesis,
        workload: Workload,
        report: Report,
        estate: Estate | None,
    ) -> None:
        self._world, self._root = world, f"{world.machines[world.nodes[0]].directory}/"
        for fault in report.plan:
            if fault.at == 0.0:  # carried out before anybody could look
                self.add("fault", str(fault), always=True)
        world.log = lambda who, what: self.add(who, what, always=True)
        self._watch_log(world, invariants)
        self._watch_participants(invariants)
        workload.log = self.add
        if estate is not None:
            estate.effects.log = self.add
        try:
            super()._live(world, invariants, nemesis, workload, report, estate)
        finally:
            self._applied.clear()

    # -- who looks at what ---------------------------------------------------------------------------------------------

    def _watch_log(self, world: World, invariants: Invariants) -> None:
        on_step, on_born, on_decided = invariants.on_step, invariants.on_born, invariants.on_decided

        def stepped(name: str, replica: Group, *rest: Any) -> None:
            terms = len(invariants.leaders)
            on_step(name, replica, *rest)
            if len(invariants.leaders) > terms:
                self.add(name, f"leads in term {replica.raft.term}", always=True)
            self._follow(name, replica.applied_index, invariants)

        def born(name: str, *rest: Any) -> None:
            on_born(name, *rest)
            consensus = world.machines[name].consensus
            self._applied[name] = 1 if consensus is None else consensus.applied_index

        def decided(txid: TxId, made: Any) -> None:
            branches = ", ".join(sorted(made.branches)) or "nobody"
            self.add(self.acting, f"sees it decided: {made.verdict.name} for {branches}", txid)
            on_decided(txid, made)

        invariants.on_step = stepped  # type: ignore[method-assign, assignment]
        invariants.on_born = born  # type: ignore[method-assign, assignment]
        invariants.on_decided = decided

    def _follow(self, name: str, applied: int, invariants: Invariants) -> None:
        """Tell each entry as it is committed, and as this node applies it."""
        while self._told + 1 < len(invariants.entries):
            self._told += 1
            term = invariants.log[self._told][0]
            for command in _commands(invariants.entries[self._told]):
                for txid, what in _told(command):
                    self.add("log", f"entry {self._told} of term {term} is committed: {what}", txid)
        before = self._applied.get(name, applied)
        for index in range(before + 1, min(applied + 1, len(invariants.entries))):
            for command in _commands(invariants.entries[index]):
                if isinstance(command, Decide):
                    self.add(name, f"applies entry {index}: {command.verdict.name}", command.txid)
        self._applied[name] = applied

    def _watch_participants(self, invariants: Invariants) -> None:
        on_answered = invariants.on_answered

        def answered(name: str, replies: Sequence[tuple[Request, Reply]], prepared: Collection[TxId]) -> None:
            for request, reply in replies:
                self.add(name, _answer(request, reply), request.txid)
            on_answered(name, replies, prepared)

        invariants.on_answered = answered  # type: ignore[method-assign]


class _Listener(logging.Handler):
    """Hears what the rooms log."""

    def __init__(self, traced: _Traced) -> None:
        super().__init__(logging.INFO)
        self._traced = traced

    def emit(self, record: logging.LogRecord) -> None:
        """One more line."""
        level = "" if record.levelno < logging.WARNING else f"{record.levelname.lower()}: "
        self._traced.add(self._traced.acting, f"{level}{record.getMessage()}")


def _commands(entry: bytes) -> Iterable[Command]:
    return open_entry(entry[1:]).commands() if entry[:1] == engine.REGULAR else ()


def _told(command: Command) -> list[tuple[TxId | None, str]]:
    match command:
        case Decide(txid, verdict, branches, reason, branch):
            why = f", because {f'{branch}: ' if branch else ''}{reason}" if reason else ""
            return [(txid, f"{verdict.name} for {', '.join(branches) or 'nobody'}{why}")]
        case Complete(acks):
            return [(txid, f"{', '.join(branches)} acknowledged") for txid, branches in acks]
        case Retire(before_ms):
            return [(None, f"what is older than {before_ms} is forgotten")]
        case Found(cluster):
            return [(None, f"this is cluster {cluster}")]
        case _:
            return [(getattr(command, "txid", None), str(command))]


def _answer(request: Request, reply: Reply) -> str:
    match request, reply:
        case Prepare(), Vote(VoteKind.YES):
            return "is prepared and votes yes"
        case Prepare(), Vote(VoteKind.NO, reason):
            return f"votes no: {reason}"
        case Prepare(), Vote():
            return "votes: it only read"
        case Commit(), None:
            return "has committed"
        case Abort(), None:
            return "has aborted"
        case _:
            return f"answers {type(request).__name__.lower()} with {reply!r}"
