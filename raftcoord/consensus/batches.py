"""Proposals that share a log entry, until they are answered.

A batch gathers what one node proposes between two steps. It owes every proposal exactly one answer: the ledger's result, or at
its deadline an error that says truly whether the proposal was ever handed to a leader (hazard H14).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from raftcoord import limits
from raftcoord.core.commands import Command
from raftcoord.core.decisions import Result
from raftcoord.errors import RaftcoordError

Done = Callable[[Result | RaftcoordError], None]
BarrierDone = Callable[[tuple[int, int] | RaftcoordError], None]

NEVER: Final = float("inf")
NEVER_HANDED_OVER: Final = (
    "no leader could be reached before the deadline, so nothing was attempted; check that a majority of the nodes is up "
    "(raftcoord status) and try again"
)


@dataclass(slots=True)
class Batch:
    """Proposals that share an entry. ``encoded`` is emptied when the batch is sealed under its ``seq``."""

    commands: list[Command] = field(default_factory=list)
    encoded: list[bytes] = field(default_factory=list)
    waiting: list[tuple[float, Done]] = field(default_factory=list)
    barriers: list[tuple[float, BarrierDone]] = field(default_factory=list)
    size: int = 0
    seq: int = 0
    entry: bytes = b""
    deadline: float = NEVER

    def full(self, more: int) -> bool:
        """Whether a command of ``more`` bytes belongs into the next entry."""
        return len(self.commands) >= limits.ENTRY_COMMANDS_MAX or (
            bool(self.commands) and self.size + more > limits.ENTRY_BYTES_MAX
        )

    def drop_late(self, now: float) -> list[Callable[[RaftcoordError], None]]:
        """Not handed over yet: take out what is late, command and all; return whom to tell."""
        late: list[Callable[[RaftcoordError], None]] = [done for at, done in self.waiting if at <= now]
        late += [done for at, done in self.barriers if at <= now]
        keep = [i for i, (at, _) in enumerate(self.waiting) if at > now]
        self.commands = [self.commands[i] for i in keep]
        self.encoded = [self.encoded[i] for i in keep]
        self.waiting = [self.waiting[i] for i in keep]
        self.barriers = [pair for pair in self.barriers if pair[0] > now]
        self.size = sum(map(len, self.encoded))
        self._next_deadline()
        return late

    def answer_late(self, now: float) -> tuple[list[Callable[[RaftcoordError], None]], bool]:
        """Handed over: return whom to tell, and whether nobody waits any more. The entry may still be applied."""
        late: list[Callable[[RaftcoordError], None]] = [done for at, done in self.waiting if at <= now]
        late += [done for at, done in self.barriers if at <= now]
        self.waiting = [(NEVER, _answered) if at <= now else (at, done) for at, done in self.waiting]
        self.barriers = [(NEVER, _answered) if at <= now else (at, done) for at, done in self.barriers]
        self._next_deadline()
        return late, self.deadline == NEVER

    def _next_deadline(self) -> None:
        self.deadline = min((at for at, _ in (*self.waiting, *self.barriers)), default=NEVER)


def _answered(_: object) -> None:
    """Its caller was told NotKnown at the deadline."""
