"""Acknowledgements on their way into the ledger.

Owed: what a branch has acknowledged becomes a replicated ``Complete``, in batches, repeated until it is known to be applied.
Never: on anybody's path. What is lost here is delivered and acknowledged once more, because the ledger still calls it open.
"""

from __future__ import annotations

from typing import Final

from raftcoord.core.tables.decisions import Complete, Result
from raftcoord.errors import Overloaded, RaftcoordError, Unavailable
from raftcoord.limits import NodeBounds
from raftcoord.node.agreement import Agreement
from raftcoord.node.alarms import Alarm, Alarms
from raftcoord.types import TxId

_DEADLINE_MS: Final = 5_000
_RETRY_MS: Final = 500

Acks = dict[TxId, set[str]]


class Completion:
    """The acknowledgements of one node."""

    def __init__(self, agreement: Agreement, alarms: Alarms, bounds: NodeBounds) -> None:
        self._bounds: Final = bounds
        self._agreement = agreement
        self._alarms = alarms
        self._gathered: Acks = {}
        self._alarm: Alarm | None = None
        self._proposing = False

    @property
    def waiting(self) -> int:
        """Transactions with an acknowledgement that is not proposed yet."""
        return len(self._gathered)

    def add(self, txid: TxId, branch: str) -> None:
        """``branch`` has acknowledged the outcome of ``txid``. Ignored unless the ledger waits for it."""
        decision = self._agreement.ledger.decision(txid)
        if decision is None or branch not in decision.outstanding:
            return
        self._gathered.setdefault(txid, set()).add(branch)
        if len(self._gathered) > self._bounds.acks_held_max:
            del self._gathered[next(iter(self._gathered))]
        if self._proposing:
            return
        if len(self._gathered) >= self._bounds.acks_gathered_max:
            self._propose()
        elif self._alarm is None:
            self._alarm = self._alarms.after(self._bounds.acks_gather_ms, self._propose)

    def _propose(self) -> None:
        self._alarms.cancel(self._alarm)
        self._alarm = None
        batch: Acks = {}
        count = 0
        while self._gathered and count < self._bounds.acks_gathered_max:
            txid = next(iter(self._gathered))
            batch[txid] = self._gathered.pop(txid)
            count += len(batch[txid])
        if not batch:
            return

        def done(result: Result | RaftcoordError) -> None:
            self._proposing = False
            if isinstance(result, RaftcoordError):
                self._take_back(batch)
            elif self._gathered:
                self._wait(0 if len(self._gathered) >= self._bounds.acks_gathered_max else self._bounds.acks_gather_ms)

        command = Complete(tuple((txid, tuple(sorted(branches))) for txid, branches in batch.items()))
        self._proposing = True
        try:
            self._agreement.propose(command, self._alarms.time() + _DEADLINE_MS / 1000, done)
        except (Overloaded, Unavailable):
            self._proposing = False
            self._take_back(batch)

    def _take_back(self, batch: Acks) -> None:
        for txid, branches in self._gathered.items():
            if txid in batch:
                batch[txid] |= branches
            elif len(batch) < self._bounds.acks_held_max:
                batch[txid] = branches
        self._gathered = batch
        self._wait(_RETRY_MS)

    def _wait(self, delay_ms: int) -> None:
        self._alarms.cancel(self._alarm)
        self._alarm = self._alarms.after(delay_ms, self._propose)
