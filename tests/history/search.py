"""A general linearizability search, for small histories: every order of events is tried, and what was tried is remembered.

After Wing and Gong (1993), with Lowe's memory of configurations (2017): an operation may take its next step when every
operation that returned before its call has had its answer. With the checker it shares the record of an operation and nothing
else: it knows the ledger as a machine with steps (write, pass the horizon, answer), and a log whose committed index grows.

An index that nobody was told is chosen as small as it can be: whatever comes later only asks that it be no larger.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from raftcoord.history.operations import CallKind, Ending, RecordedCall
from raftcoord.types import State, TxId, Verdict


class Register(NamedTuple):
    """One transaction: the verdict and its entry, the entry that passed the horizon over it, the last UNDECIDED's entry."""

    verdict: Verdict | None = None
    decided_at: int = 0
    forgotten_at: int = 0
    undecided_at: int = 0


class World(NamedTuple):
    """A configuration: which operations have answered, every register, and up to where the log is committed."""

    answered: frozenset[int]
    registers: tuple[tuple[TxId, Register], ...]
    committed: int

    def register(self, txid: TxId) -> Register:
        return dict(self.registers)[txid]

    def having(self, txid: TxId, register: Register, committed: int) -> World:
        registers = tuple((known, register if known == txid else its) for known, its in self.registers)
        return World(self.answered, registers, max(committed, self.committed))


WRITES = {
    CallKind.SUBMIT: {Verdict.COMMIT, Verdict.ABORT},
    CallKind.RESOLVE: {Verdict.ABORT},
    CallKind.STATUS: set(),
}


class Search:
    """The search in one history."""

    def __init__(self, history: Sequence[RecordedCall], unseen_resolves: bool, horizon_ms: int) -> None:
        self.history = history
        self.unseen_resolves = unseen_resolves
        self.horizon_ms = horizon_ms
        self.told = frozenset(n for n, o in enumerate(history) if o.ending is Ending.TOLD)
        self.before = [
            frozenset(m for m in self.told if history[m].returned < operation.called) for operation in history
        ]
        self.txids = tuple(dict.fromkeys(operation.txid for operation in history))

    def finds_an_order(self) -> bool:
        """Whether there is an order of events in which every answer is right."""
        if not self._entries_are_of_one_log():
            return False
        start = World(frozenset(), tuple((txid, Register()) for txid in self.txids), 0)
        seen, open_worlds = {start}, [start]
        while open_worlds:
            world = open_worlds.pop()
            if world.answered >= self.told:
                return True
            for later in self._steps(world):
                if later not in seen:
                    seen.add(later)
                    open_worlds.append(later)
        return False

    def _entries_are_of_one_log(self) -> bool:
        entries = [(o.index, o.term) for o in self.history if o.index]
        return all(
            (i == j and s == t) or (i < j and s <= t) or (i > j and s >= t) for i, s in entries for j, t in entries
        )

    def _steps(self, world: World) -> Iterator[World]:
        for txid, register in world.registers:
            if self.unseen_resolves:
                yield from self._write(world, txid, Verdict.ABORT)
            if txid.ms < self.horizon_ms and not register.forgotten_at:
                at = max(world.committed, register.undecided_at + 1, 1)
                yield world.having(txid, register._replace(forgotten_at=at), at)
        for number, operation in enumerate(self.history):
            if number in world.answered or not self.before[number] <= world.answered:
                continue
            if operation.ending is not Ending.NOT_ATTEMPTED:
                writes = {operation.proposed} if operation.kind is CallKind.DECIDE else WRITES[operation.kind]
                for verdict in writes:
                    assert verdict is not None
                    yield from self._write(world, operation.txid, verdict)
            if operation.ending is Ending.TOLD:
                for later in self._answer(world, operation):
                    yield later._replace(answered=world.answered | {number})

    def _write(self, world: World, txid: TxId, verdict: Verdict) -> Iterator[World]:
        register = world.register(txid)
        if register.verdict is not None or register.forgotten_at:
            return
        told = {
            o.index for o in self.history if o.txid == txid and o.index and o.state in (State.COMMITTED, State.ABORTED)
        }
        at = max(told, default=max(world.committed, register.undecided_at + 1, 1))
        if at > register.undecided_at and at >= world.committed:
            yield world.having(txid, register._replace(verdict=verdict, decided_at=at), at)

    def _answer(self, world: World, o: RecordedCall) -> Iterator[World]:
        register = world.register(o.txid)
        if o.state is State.UNDECIDED:
            at = o.index or world.committed
            if (
                o.kind is CallKind.STATUS
                and register.verdict is None
                and not register.forgotten_at
                and at >= world.committed
            ):
                yield world.having(o.txid, register._replace(undecided_at=max(at, register.undecided_at)), at)
        elif o.state is State.FORGOTTEN:
            if register.forgotten_at and (not o.index or o.index >= register.forgotten_at):
                yield world.having(o.txid, register, o.index)
        else:
            verdict = Verdict.COMMIT if o.state is State.COMMITTED else Verdict.ABORT
            if register.verdict is verdict and o.index in (0, register.decided_at):
                yield world
