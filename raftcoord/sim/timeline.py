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
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from raftcoord.consensus import engine
from raftcoord.core.commands import open_entry
from raftcoord.core.tables.decisions import Complete, Decide
from raftcoord.core.tables.founding import Found
from raftcoord.core.tables.horizon import Retire
from raftcoord.core.tables.table import Command
from raftcoord.events import Applied, Copied, Led
from raftcoord.participants.interface import Abort, Commit, Prepare, Reply, Request
from raftcoord.sim.faults import Fault
from raftcoord.sim.happening import (
    AtNode,
    Began,
    Born,
    BranchAnswered,
    EntryCommitted,
    Logged,
    Noted,
    OutcomeMade,
)
from raftcoord.sim.simulation import Report, Settings, Simulation
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
        self.lines: list[Line] = []
        self._root = ""
        self._entries: dict[int, bytes] = {}
        """What is committed, by index."""
        self._applied: dict[str, int] = {}
        """Up to where each node has applied it."""
        simulation = Simulation(seed, settings, plan=plan)
        simulation.observe(self._see)
        self.report = simulation.run()
        self._conclude(self.report)

    def everything(self) -> list[str]:
        """Every line."""
        return [line.text(named=True) for line in self.lines]

    def about(self, txid: TxId | None) -> list[str]:
        """What happened to that transaction, with the faults, leaders, starts and kills around it."""
        return [line.text(named=False) for line in self.lines if line.always or _is_about(line, txid)]

    def _conclude(self, report: Report) -> None:
        if len(self.lines) >= LINES_MAX:
            self.lines.append(Line(report.virtual_s, "timeline", f"ends after {LINES_MAX} lines", None, True))
        broken = report.violation
        if broken is not None:
            self.lines.append(Line(report.virtual_s, "BROKEN", str(broken), broken.txid, True))
        report.timeline = self.everything()

    def _see(self, at: float, acting: str, event: object) -> None:
        """What the simulation shows: see happening.py."""
        for who, what, txid, always in self._told(acting, event):
            if len(self.lines) < LINES_MAX:
                what = " ".join(what.replace(self._root, "").removeprefix(f"{who}: ").split())
                self.lines.append(Line(at, who, _OF_THIS_MACHINE.sub("", what), txid, always))

    def _told(self, acting: str, event: object) -> Iterable[tuple[str, str, TxId | None, bool]]:
        match event:
            case Began(root):
                self._root = f"{root}/"
            case Noted(who, what, txid, aloud):
                yield who, what, txid, aloud
            case Logged(level, message):
                word = "" if level < logging.WARNING else f"{logging.getLevelName(level).lower()}: "
                yield acting, f"{word}{message}", None, False
            case OutcomeMade(txid, verdict, branches):
                named = ", ".join(sorted(branches)) or "nobody"
                yield acting, f"sees it decided: {verdict.name} for {named}", txid, False
            case BranchAnswered(participant, request, reply):
                yield participant, _answer(request, reply), request.txid, False
            case EntryCommitted(index, term, entry):
                self._entries[index] = entry
                for command in _commands(entry):
                    for txid, what in _in_words(command):
                        yield "log", f"entry {index} of term {term} is committed: {what}", txid, False
            case Born(node, index) | AtNode(node, Copied(index)):
                self._applied[node] = index
            case AtNode(node, Applied(index)):
                yield from self._applies(node, index)
            case AtNode(node, Led(leader, term)) if leader == node:
                yield node, f"leads in term {term}", None, True

    def _applies(self, node: str, upto: int) -> Iterable[tuple[str, str, TxId | None, bool]]:
        for index in range(self._applied.get(node, upto) + 1, upto + 1):
            for command in _commands(self._entries.get(index, b"")):
                if isinstance(command, Decide):
                    yield node, f"applies entry {index}: {command.verdict.name}", command.txid, False
        self._applied[node] = upto


def _is_about(line: Line, txid: TxId | None) -> bool:
    return txid is not None and (line.txid == txid or str(txid) in line.what)


def _commands(entry: bytes) -> Iterable[Command]:
    return open_entry(entry[1:]).commands() if entry[:1] == engine.REGULAR else ()


def _in_words(command: Command) -> list[tuple[TxId | None, str]]:
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
