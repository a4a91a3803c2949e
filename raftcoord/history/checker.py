"""The verdict on a history: could one write-once, replicated ledger have told all of this?

Exact: it finds a violation if and only if there is no order of events, consistent with real time, in which the ledger of
rules.py and the log of log.py give these answers (tests/history holds it against a general search). It never answers
"perhaps": a record that cannot be judged is a violation, and names the operation.

Linear: a write-once register needs no search, because its only event is one write (and the horizon's passing). Each operation
is looked at once, to keep of each transaction the few answers that bind most (evidence.py); then a fixed number of comparisons
for each transaction (rules.py), and one pass over at most two bounds of each answer with an index, in the order of time (log.py):
O(n), and O(n log n) for that sorting. The memory is one Evidence for each transaction.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from raftcoord.history.evidence import Evidence
from raftcoord.history.log import LOG_RULES
from raftcoord.history.operations import RecordedCall
from raftcoord.history.rules import HistoryViolation, Premises, first_violation
from raftcoord.types import TxId


@dataclass(frozen=True, slots=True)
class Judgement:
    """``valid``: there is no violation. At most one of rules.py for each transaction; log.py's are sought among the others.

    ``operations`` and ``transactions``: how many were judged; an empty history is valid, and proves nothing.
    """

    violations: tuple[HistoryViolation, ...]
    operations: int
    transactions: int

    @property
    def valid(self) -> bool:
        """Whether a write-once ledger can have given all these answers."""
        return not self.violations


def judge(operations: Iterable[RecordedCall], *, unseen_resolves: bool, horizon_ms: int) -> Judgement:
    """Judge a history; what it must contain stands in operations.py. The order of ``operations`` does not matter.

    ``unseen_resolves``: participants, or anybody else who is not recorded, may have resolved: an ABORTED that nobody in the
    history can have written is then accepted; if it is False, it is a violation. ``horizon_ms``: the highest horizon of any
    node at the end (``horizon_ms`` of its ``node`` answer; 0: nothing can have been forgotten).
    """
    premises = Premises(unseen_resolves, horizon_ms)
    evidences: dict[TxId, Evidence] = {}
    count = 0
    for operation in operations:
        count += 1
        evidence = evidences.get(operation.txid)
        if evidence is None:
            evidence = evidences[operation.txid] = Evidence(operation.txid)
        evidence.add(operation)
    violations: list[HistoryViolation] = []
    sound: list[Evidence] = []
    for evidence in evidences.values():
        found = first_violation(evidence, premises)
        if found is None:
            sound.append(evidence)
        else:
            violations.append(found)
    for rule in LOG_RULES.values():
        violations += rule(sound, premises)
    return Judgement(tuple(violations), count, len(evidences))
