"""What one node has proposed and nobody has been answered yet.

A batch gathers what is proposed between two steps. It becomes one entry, named (origin, boot, seq), when a leader is known.
Commands are idempotent, so an entry whose fate is not known is handed to the next leader again. Every proposal is owed exactly
one answer: the ledger's result, or at its deadline an error that says truly whether it was ever handed to a leader (hazard H14):
Unavailable if not, else NotKnown.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from raftcoord import limits
from raftcoord.core.commands import encode_command, encode_entry
from raftcoord.core.tables.decisions import Result
from raftcoord.core.tables.table import Command
from raftcoord.errors import NotKnown, Overloaded, RaftcoordError, Unavailable, check

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


class Proposals:
    """``gathering``: batches that no leader has got; ``flying``: those that one has got, by their seq."""

    def __init__(self, open_max: int) -> None:
        self._open_max: Final = open_max
        self.gathering: list[Batch] = []
        self.flying: dict[int, Batch] = {}
        self.open = 0
        """How many proposals and barriers are not answered."""
        self._seq = 0
        self._unplaced: list[Batch] = []  # sealed since the last time that everything was handed over
        self._placed_all: tuple[int, int, int] = (0, 0, 0)  # (leader, term, link generation) of that time
        self.earliest = NEVER
        """Before then nobody's deadline comes."""

    def propose(self, command: Command, deadline: float, done: Done) -> None:
        """Owe ``done`` an answer. Raises Overloaded when ``open_max`` are open."""
        encoded = encode_command(command)
        batch = self._room_for(len(encoded))
        batch.commands.append(command)
        batch.encoded.append(encoded)
        batch.size += len(encoded)
        batch.waiting.append((deadline, done))
        self._due(batch, deadline)

    def barrier(self, deadline: float, done: BarrierDone) -> None:
        """Owe ``done`` where the entry of a batch was applied. Raises as ``propose``."""
        batch = self._room_for(0)
        batch.barriers.append((deadline, done))
        self._due(batch, deadline)

    def _due(self, batch: Batch, deadline: float) -> None:
        if deadline < batch.deadline:
            batch.deadline = deadline
            if deadline < self.earliest:
                self.earliest = deadline

    def _room_for(self, more: int) -> Batch:
        if self.open >= self._open_max:
            raise Overloaded(f"{self.open} proposals are open at this node; try again in a moment, or more slowly")
        self.open += 1
        if not self.gathering or self.gathering[-1].full(more):
            self.gathering.append(Batch())
        return self.gathering[-1]

    # -- handing over ---------------------------------------------------------------------------------------------

    def seal(self, origin: int, boot: int) -> None:
        """A leader is known: each batch that gathered becomes an entry of that name."""
        for batch in self.gathering:
            self._seq += 1
            batch.seq = self._seq
            batch.entry = encode_entry(origin, boot, batch.seq, batch.encoded)
            batch.encoded = []
            self.flying[batch.seq] = batch
            self._unplaced.append(batch)
        self.gathering.clear()

    def hand_over(self, place: tuple[int, int, int]) -> list[Batch]:
        """The batches that the leader of ``place`` (leader, term, link generation) has not got."""
        batches = self._unplaced if place == self._placed_all else list(self.flying.values())
        self._placed_all, self._unplaced = place, []
        return batches

    def hand_over_again(self) -> None:
        """The entries that would have answered may be lost, or not be seen here."""
        self._placed_all = (0, 0, 0)

    def take_over(self, waiting: Proposals) -> None:
        """What gathered in ``waiting``, which never handed anything over, gathers here."""
        check(not waiting.flying, "proposals that were handed over would be proposed under another name")
        self.gathering, waiting.gathering = waiting.gathering, []
        self.open, waiting.open = waiting.open, 0
        self.earliest = waiting.earliest

    # -- answering ------------------------------------------------------------------------------------------------

    def landed(self, batch: Batch) -> bool:
        """The entry of ``batch`` is being applied. Whether anybody waits for it; if so, the caller answers."""
        if self.flying.pop(batch.seq, None) is None:  # answered before
            return False
        self.open -= len(batch.waiting) + len(batch.barriers)
        return True

    def expire(self, now: float) -> None:
        """Answer those whose deadline has come."""
        late: list[tuple[Callable[[RaftcoordError], None], RaftcoordError]] = []
        for batch in self.gathering:
            late += [(done, Unavailable(NEVER_HANDED_OVER)) for done in batch.drop_late(now)]
        self.open -= len(late)
        self.gathering = [batch for batch in self.gathering if batch.waiting or batch.barriers]
        for batch in list(self.flying.values()):
            answered, done_with = batch.answer_late(now)
            late += [(done, NotKnown()) for done in answered]
            if done_with:
                self.landed(batch)
        self.earliest = min((batch.deadline for batch in (*self.gathering, *self.flying.values())), default=NEVER)
        for done, error in late:
            done(error)

    def fail_all(self, error: Unavailable) -> None:
        """Answer ``error`` to what was never handed to a leader, NotKnown to what was."""
        batches: list[tuple[Batch, RaftcoordError]] = [(batch, NotKnown()) for batch in self.flying.values()]
        batches += [(batch, error) for batch in self.gathering]
        self.flying.clear()
        self.gathering.clear()
        self.open = 0
        for batch, answer in batches:
            for _, done in (*batch.waiting, *batch.barriers):
                done(answer)
