"""The Agreement of a node, without Raft: real ledgers, and an order of events that the test chooses.

``Log`` is what a majority keeps. Each ``LocalConsensus`` is one node's view of it: it applies at once, or when the test lets it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from shelf import fields

from raftcoord.consensus.position import Position
from raftcoord.core.commands import encode_command, encode_entry, open_entry
from raftcoord.core.machine import Ledger
from raftcoord.core.tables.decisions import Decision, Decisions, Result
from raftcoord.core.tables.members import Members
from raftcoord.core.tables.table import Command
from raftcoord.errors import NotKnown, RaftcoordError, Unavailable
from raftcoord.events import Observers
from raftcoord.types import NodeName

Done = Callable[[Result | RaftcoordError], None]
MembersDone = Callable[[Members | RaftcoordError], None]
BarrierDone = Callable[[tuple[int, int] | RaftcoordError], None]
CLUSTER = "00000000000000aa"


def through_the_codec(command: Command) -> Command:
    """What the other nodes would read."""
    (read,) = open_entry(encode_entry(1, 1, 1, [encode_command(command)])).commands()
    return read


class Log:
    """The replicated log. ``names``: the nodes; ``leader``: one of them, or None."""

    def __init__(self, *names: str, founded: bool = True) -> None:
        self.entries: list[tuple[int, Command | None]] = []
        self.term = 1
        self.nodes = [LocalConsensus(self, name, founded) for name in names]
        self.leader: LocalConsensus | None = self.nodes[0]

    def append(self, command: Command | None) -> int:
        """A committed entry, applied by every node that is not held back. Its index."""
        self.entries.append((self.term, command))
        index = len(self.entries)
        for node in self.nodes:
            node.catch_up()
        return index

    def lead(self, leader: LocalConsensus | None) -> None:
        """Another leader, or none."""
        self.leader = leader
        self.term += 1
        for node in self.nodes:
            for listener in node.on_leader_change:
                listener()


class LocalConsensus:
    """One node's view. ``held``: what it proposes waits until ``release``; ``behind``: it does not apply."""

    def __init__(self, log: Log, name: str, founded: bool) -> None:
        self.log = log
        self.name = NodeName(name)
        self.ledger = Ledger(fields(cluster=CLUSTER) if founded else {})
        self.applied_index = 0
        self.applied_term = 0
        self.held = False
        self.behind = False
        self.refusing: RaftcoordError | None = None
        self.offsets: dict[NodeName, int | None] = {}
        self.links: dict[NodeName, dict[str, Any]] = {}
        self.proposed: list[Command] = []
        self.changes: list[tuple[str, NodeName]] = []
        self.changed: Members | RaftcoordError = Unavailable("nobody leads")
        self.waiting: list[tuple[Command | None, Callable[[int], None]]] = []
        self.on_leader_change: list[Callable[[], None]] = []
        self.on_bound: list[Callable[[], None]] = []
        self.events = Observers(time.monotonic)
        self._answers: dict[int, Callable[[Result | None], None]] = {}

    async def start(self) -> None:
        """Tell the listeners who leads."""
        for listener in self.on_leader_change:
            listener()

    async def stop(self) -> None:
        """Nothing runs here."""

    @property
    def is_leader(self) -> bool:
        return self.log.leader is self

    @property
    def leader(self) -> NodeName | None:
        return None if self.log.leader is None else self.log.leader.name

    @property
    def term(self) -> int:
        return self.log.term

    def position(self) -> Position:
        last = len(self.log.entries)
        return Position("leader" if self.is_leader else "follower", self.leader, self.term, last, last, 1, last)

    def peers_status(self) -> dict[NodeName, dict[str, Any]]:
        others = [node.name for node in self.log.nodes if node is not self]
        return {name: {"up": True, "match": None, "refused": ""} | self.links.get(name, {}) for name in others}

    @property
    def members(self) -> Members | None:
        return None

    def change_members(self, step: str, name: NodeName, deadline: float, done: MembersDone) -> None:
        self.changes.append((step, name))
        done(self.changed)

    def clock_offsets(self) -> dict[NodeName, int | None]:
        return self.offsets

    # -- proposing ------------------------------------------------------------------------------------------------

    def propose(self, command: Command, deadline: float, done: Done) -> None:
        if self.refusing is not None:
            raise self.refusing
        self.proposed.append(through_the_codec(command))
        self._hand_over(command, deadline, done, done)

    def barrier(self, deadline: float, done: BarrierDone) -> None:
        if self.refusing is not None:
            raise self.refusing

        def reached(_: Result | None) -> None:
            done((self.applied_term, self.applied_index))

        self._hand_over(None, deadline, reached, done)

    def _hand_over(
        self,
        command: Command | None,
        deadline: float,
        answer: Callable[[Any], None],
        failed: Callable[[RaftcoordError], None],
    ) -> None:
        loop = asyncio.get_running_loop()
        answered = False

        def once(result: Result | None) -> None:
            nonlocal answered
            if not answered:
                answered = True
                timer.cancel()
                answer(result)

        def late() -> None:
            nonlocal answered
            answered = True
            failed(NotKnown() if self.leader is not None else Unavailable("no leader"))

        def appended(index: int) -> None:
            self._answers[index] = once

        timer = loop.call_at(deadline, late)
        self.waiting.append((command, appended))
        loop.call_soon(self._advance)

    def _advance(self) -> None:
        if not self.held and self.log.leader is not None:
            self.release()

    def release(self) -> None:
        """Commit what waits."""
        waiting, self.waiting = self.waiting, []
        for command, appended in waiting:
            appended(len(self.log.entries) + 1)
            self.log.append(command)

    def lose(self) -> None:
        """What waits is never committed: its leader was lost with it."""
        self.waiting.clear()

    def catch_up(self) -> None:
        """Apply what is committed, unless held back."""
        while not self.behind and self.applied_index < len(self.log.entries):
            index = self.applied_index + 1
            term, command = self.log.entries[index - 1]
            bound = self.ledger.participants
            result = None if command is None else self.ledger.apply(command, term, index)
            self.applied_index, self.applied_term = index, term
            if self.ledger.participants is not bound:
                for rebound in self.on_bound:
                    rebound()
            answer = self._answers.pop(index, None)
            if answer is not None:
                answer(result)

    # -- listing --------------------------------------------------------------------------------------------------

    def decisions(self, state: str | None, limit: int, before: bytes | None) -> list[Decision]:
        """As storage.NodeDb: newest first."""
        wanted = {
            None: lambda decision: True,
            "open": lambda decision: bool(decision.outstanding),
            "committed": lambda decision: bool(decision.verdict),
            "aborted": lambda decision: not decision.verdict,
        }[state]
        known = sorted(self.ledger[Decisions]._decisions.values(), reverse=True)
        return [d for d in known if wanted(d) and (before is None or d.txid < before)][:limit]
