"""Small histories: told by a ledger in a log that nodes apply at their own pace, and then, perhaps, falsified.

``played`` is right by construction: commands are committed in entries of one log, each node has applied some prefix of it, and
every answer is read from there as a node of raftcoord reads it: a decision at once, however old the node's view is; absence
only through a barrier.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from raftcoord.history.operations import CallKind, Ending, RecordedCall
from raftcoord.types import State, TxId, Verdict

TXIDS = tuple(TxId.new(ms, bytes([ms // 1000] * 10)) for ms in (1000, 2000))
HORIZONS = (0, 1500, 2500)
"""Nothing forgotten, the first transaction, both."""

BARRIER = "barrier"
RETIRE = "retire"


class History(NamedTuple):
    """What was recorded, and what it is to be judged on."""

    operations: list[RecordedCall]
    unseen_resolves: bool
    horizon_ms: int


class Entry(NamedTuple):
    """One entry of the log, and every transaction's state after it: (state, term, index of the decision)."""

    term: int
    index: int
    states: dict[TxId, tuple[State, int, int]]


UNDECIDED = (State.UNDECIDED, 0, 0)


@dataclass
class Call:
    """An operation on its way. ``tries``: proposals that may still be committed; ``answer``: what a proposal was told."""

    operation: RecordedCall
    tries: int
    waiting: bool = True
    answer: tuple[State, int, int] | None = None


@dataclass
class Cluster:
    """The log, two nodes, and the clients' calls."""

    rng: random.Random
    unseen_resolves: bool
    horizon_ms: int = 0
    now: int = 0
    term: int = 1
    log: list[Entry] = field(default_factory=lambda: [Entry(0, 0, dict.fromkeys(TXIDS, UNDECIDED))])
    applied: list[int] = field(default_factory=lambda: [0, 0])
    calls: list[Call] = field(default_factory=list)

    def call(self) -> None:
        kind = self.rng.choice([CallKind.DECIDE, CallKind.SUBMIT, CallKind.RESOLVE, *[CallKind.STATUS] * 4])
        proposed = self.rng.choice(list(Verdict)) if kind is CallKind.DECIDE else None
        txid = self.rng.choices(TXIDS, (3, 1))[0]
        operation = RecordedCall(len(self.calls), kind, txid, self.now, proposed)
        self.calls.append(Call(operation, self.rng.choice([1, 1, 2]) if kind is not CallKind.SUBMIT else 1))

    def commit(self) -> None:
        """One entry with some of what is proposed, and perhaps with what others than the clients propose."""
        self.term += self.rng.random() < 0.2
        index = self.log[-1].index + self.rng.choice([1, 1, 2])
        states = dict(self.log[-1].states)
        proposals = [call for call in self.calls if call.tries]
        chosen = self.rng.sample(proposals, min(len(proposals), self.rng.choice([1, 1, 2])))
        for call in chosen:
            call.tries -= 1
            self._apply(call, states, index)
        if self.unseen_resolves and self.rng.random() < 0.15:
            self._decide(self.rng.choice(TXIDS), State.ABORTED, states, index)
        if self.rng.random() < 0.1:
            self.horizon_ms = min(
                horizon for horizon in HORIZONS if horizon > self.horizon_ms or horizon == HORIZONS[-1]
            )
            states |= {txid: (State.FORGOTTEN, 0, 0) for txid in TXIDS if txid.ms < self.horizon_ms}
        self.log.append(Entry(self.term, index, states))
        for call in chosen:
            if call.operation.kind is CallKind.STATUS:  # its barrier
                call.answer = self._as_of(call.operation.txid, self.log[-1])

    def _apply(self, call: Call, states: dict[TxId, tuple[State, int, int]], index: int) -> None:
        txid = call.operation.txid
        match call.operation.kind, call.operation.proposed:
            case CallKind.STATUS, _:
                return
            case CallKind.RESOLVE, _:
                made = State.ABORTED
            case CallKind.DECIDE, proposed:
                made = State.COMMITTED if proposed is Verdict.COMMIT else State.ABORTED
            case _:
                made = self.rng.choice([State.COMMITTED, State.ABORTED])
        self._decide(txid, made, states, index)
        stands = states[txid]
        call.answer = stands if stands[0] is not State.FORGOTTEN else (State.FORGOTTEN, self.term, index)

    def _decide(self, txid: TxId, made: State, states: dict[TxId, tuple[State, int, int]], index: int) -> None:
        if states[txid] == UNDECIDED:
            states[txid] = (made, self.term, index)

    @staticmethod
    def _as_of(txid: TxId, entry: Entry) -> tuple[State, int, int]:
        state, term, index = entry.states[txid]
        return (state, term, index) if index else (state, entry.term, entry.index)

    def apply(self) -> None:
        node = self.rng.randrange(2)
        self.applied[node] = self.rng.randint(self.applied[node], len(self.log) - 1)

    def end(self) -> None:
        """A call comes to its end: an answer, a refusal, or nothing at all."""
        waiting = [call for call in self.calls if call.waiting]
        if not waiting:
            return
        call = self.rng.choice(waiting)
        operation = call.operation
        at_once = self._as_of(operation.txid, self.log[self.rng.choice(self.applied)])
        untouched = call.answer is None and call.tries == (1 if operation.kind is CallKind.SUBMIT else call.tries)
        if at_once[0] is not State.UNDECIDED and operation.kind is not CallKind.SUBMIT:
            self._tell(call, at_once)
        elif call.answer is not None and self.rng.random() < 0.9:
            self._tell(call, call.answer)
        elif self.rng.random() < 0.2:
            call.waiting = False
            if untouched and operation.kind is CallKind.SUBMIT:
                call.tries = 0
                operation.not_attempted(self.now)

    def _tell(self, call: Call, answer: tuple[State, int, int]) -> None:
        call.waiting = False
        state, term, index = answer
        call.operation.told(self.now, state, *((term, index) if self.rng.random() < 0.7 else (0, 0)))


def played(rng: random.Random, operations: int = 6) -> History:
    """A history that a ledger has told, of up to ``operations`` calls."""
    cluster = Cluster(rng, unseen_resolves=rng.random() < 0.5)
    steps: list[Callable[[], None]] = [cluster.commit, cluster.commit, cluster.apply, cluster.end, cluster.end]
    while len(cluster.calls) < operations or rng.random() < 0.95:
        cluster.now += rng.choice([0, 1, 1])
        if len(cluster.calls) < operations and rng.random() < 0.25:
            cluster.call()
        else:
            rng.choice(steps)()
    return History([call.operation for call in cluster.calls], cluster.unseen_resolves, cluster.horizon_ms)


def falsified(rng: random.Random, history: History) -> History:
    """One to three lies in it. It may be a history that a ledger can have told all the same."""
    operations = [replace(operation) for operation in history.operations]
    for _ in range(rng.choice([1, 2, 3])):
        told = [operation for operation in operations if operation.ending is Ending.TOLD]
        if told:
            rng.choice(LIES)(rng, rng.choice(told), rng.choice(told))
    if rng.random() < 0.15:
        del operations[rng.randrange(len(operations))]
    unseen_resolves = history.unseen_resolves and rng.random() < 0.5
    horizon_ms = rng.choice(HORIZONS) if rng.random() < 0.05 else history.horizon_ms
    return History(operations, unseen_resolves, horizon_ms)


def _another_state(rng: random.Random, o: RecordedCall, other: RecordedCall) -> None:
    o.state = rng.choice([state for state in State if state is not o.state])


def _another_index(rng: random.Random, o: RecordedCall, other: RecordedCall) -> None:
    o.index, o.term = max(1, (other.index or o.index) + rng.choice([-1, 0, 1])), max(1, o.term)


def _another_term(rng: random.Random, o: RecordedCall, other: RecordedCall) -> None:
    if o.index:
        o.term = max(1, o.term + rng.choice([-1, 1]))


def _later(rng: random.Random, o: RecordedCall, other: RecordedCall) -> None:
    by = max(0, other.returned - o.called) + rng.choice([0, 1])
    o.called, o.returned = o.called + by, o.returned + by


def _earlier(rng: random.Random, o: RecordedCall, other: RecordedCall) -> None:
    by = max(0, o.returned - other.called) + rng.choice([0, 1])
    o.called, o.returned = o.called - by, o.returned - by


def _no_entry(rng: random.Random, o: RecordedCall, other: RecordedCall) -> None:
    o.term = o.index = 0


def _refused(rng: random.Random, o: RecordedCall, other: RecordedCall) -> None:
    if o.kind is not CallKind.STATUS:
        o.ending, o.state, o.term, o.index = Ending.NOT_ATTEMPTED, None, 0, 0


def _another_transaction(rng: random.Random, o: RecordedCall, other: RecordedCall) -> None:
    o.txid = TXIDS[1 - TXIDS.index(o.txid)]


Lie = Callable[[random.Random, RecordedCall, RecordedCall], None]
"""About the first operation; the second is one that it may be measured by."""

LIES: tuple[Lie, ...] = (
    _another_state,
    _another_index,
    _another_index,
    _another_term,
    _later,
    _later,
    _earlier,
    _earlier,
    _no_entry,
    _refused,
    _another_transaction,
)
