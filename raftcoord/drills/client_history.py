"""What the clients were told, and when.

The history is the drill's only witness: what is not in it was not promised to anybody. It owes every call of every client
with the time before it was made and the time after it returned, on one clock (``loop.time()``, seconds). It never asks a
node, and it never corrects what it was told.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, Literal, NamedTuple

from raftcoord.drills.orders import Order
from raftcoord.errors import check
from raftcoord.history.operations import CallKind, Ending, RecordedCall
from raftcoord.types import Answer, State, TxId

Op = Literal["submit", "resolve"]
Certainty = Literal["known", "unknown", "not attempted"]

_ENDINGS: Final[dict[Certainty, Ending]] = {
    "known": Ending.TOLD,
    "unknown": Ending.OPEN,
    "not attempted": Ending.NOT_ATTEMPTED,
}


class Told(NamedTuple):
    """One answer to one client. ``state``: COMMITTED or ABORTED if ``certainty`` is "known", else None.

    "unknown": the call ended in doubt. "not attempted": the client was promised that nothing was done. ``reason`` is the
    abort's reason or the error; (``term``, ``index``) is where the decision stands in the log, 0 if not known.
    """

    txid: TxId
    client: int
    op: Op
    called_s: float
    returned_s: float
    certainty: Certainty
    state: State | None
    reason: str = ""
    term: int = 0
    index: int = 0  # type: ignore[assignment]

    def resolved(self, answer: Answer) -> Told:
        """The same after ``answer``: known, if that is final."""
        if not answer.final:
            return self
        return self._replace(
            certainty="known", state=answer.state, reason=answer.reason, term=answer.term, index=answer.index
        )

    def operation(self) -> RecordedCall:
        """The same for the history checker."""
        ending = _ENDINGS[self.certainty]
        return RecordedCall(
            self.client,
            CallKind(self.op),
            self.txid,
            self.called_s,
            None,
            self.returned_s,
            ending,
            self.state,
            self.term,
            self.index,
        )


def operations(attempts: Iterable[TxId], told: Iterable[Told]) -> list[RecordedCall]:
    """Every submit and resolve of the clients. A submit that never returned is open, and called before all that was told."""
    recorded = [answer.operation() for answer in told]
    returned = {operation.txid for operation in recorded if operation.kind is CallKind.SUBMIT}
    recorded += [RecordedCall("?", CallKind.SUBMIT, txid, -math.inf) for txid in attempts if txid not in returned]
    return recorded


class History:
    """Everything that the clients of one run were told, in the order of the returns."""

    def __init__(self) -> None:
        self.attempts: dict[TxId, Order] = {}
        """Each transaction that a client has begun, before it was called for the first time, and its order."""
        self.told: list[Told] = []
        self.committed = 0
        """Answers that said COMMITTED."""
        self.last_commit_s = -math.inf
        """When the latest of them returned."""
        self.longest_pause_s = 0.0
        """The largest gap between the returns of two successive commits (seconds)."""
        self._doubtful: dict[TxId, None] = {}

    def begin(self, txid: TxId, order: Order) -> None:
        """A client is about to submit ``order`` as ``txid``."""
        check(txid not in self.attempts, f"txid {txid} is submitted twice by the drill")
        self.attempts[txid] = order
        self._doubtful[txid] = None

    def add(self, told: Told) -> None:
        check(told.txid in self.attempts, f"an answer for txid {told.txid}, which nobody submitted")
        self.told.append(told)
        if told.certainty != "unknown":
            self._doubtful.pop(told.txid, None)
        if told.state is State.COMMITTED:
            if self.committed:
                self.longest_pause_s = max(self.longest_pause_s, told.returned_s - self.last_commit_s)
            self.committed += 1
            self.last_commit_s = told.returned_s

    def doubtful(self) -> tuple[TxId, ...]:
        """Transactions whose client does not know the outcome: no answer yet, or only answers in doubt."""
        return tuple(self._doubtful)

    def commits(self) -> Iterator[Told]:
        """The answers that said COMMITTED, in the order of the returns."""
        return (told for told in self.told if told.state is State.COMMITTED)

    def latencies_ms(self) -> list[float]:
        """How long each committed submit took its client (ms), in the order of the returns."""
        return [(told.returned_s - told.called_s) * 1000 for told in self.commits() if told.op == "submit"]

    def first_commit_after(self, answers: int, term: int) -> float | None:
        """When the first commit of a later term than ``term`` came back, leaving out the first ``answers`` answers."""
        later = itertools.islice(self.told, answers, None)
        return next((told.returned_s for told in later if told.state is State.COMMITTED and told.term > term), None)

    def write(self, path: Path) -> None:
        """Keep the history as JSON lines, one answer each, for a person who looks into a broken promise."""
        with path.open("w", encoding="utf-8") as file:
            for told in self.told:
                row = told._asdict() | {
                    "txid": str(told.txid),
                    "state": str(told.state) if told.state is not None else None,
                }
                row["order_id"] = self.attempts[told.txid].order_id
                file.write(json.dumps(row) + "\n")


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest of ``values`` that at least ``percent`` (0 to 100) of them do not exceed; NaN if there are none."""
    if not values:
        return math.nan
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]
