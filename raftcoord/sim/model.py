"""The ledger once more, in the fewest lines: what every node must agree with.

It is written apart from core/ledger.py on purpose and shares no rule with it: a mistake there is not repeated here. It applies
the committed commands in order and keeps everything, so it can be asked about any moment.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from raftcoord.consensus import engine
from raftcoord.core.commands import (
    Acknowledge,
    Bind,
    Command,
    Complete,
    Decide,
    Enroll,
    Found,
    Heuristic,
    Retire,
    open_entry,
)
from raftcoord.core.ledger import Ledger
from raftcoord.types import State, TxId, Verdict


class Decided(NamedTuple):
    """What was decided first, by the log entry (term, index)."""

    verdict: Verdict
    branches: frozenset[str]
    term: int
    index: int  # type: ignore[assignment]


class Model:
    """See the module's head."""

    def __init__(self) -> None:
        self.decided: dict[TxId, Decided] = {}
        self.outstanding: dict[TxId, set[str]] = {}
        self.horizon_ms = 0
        self.retirements = 0
        self.cluster = ""
        self.damages: dict[tuple[TxId, str], str] = {}
        self.enrolled: dict[str, str] = {}
        self.bound: dict[str, str] = {}

    def apply(self, command: Command, term: int, index: int) -> Decided | None:
        """Apply the next command; the decision, if this command made one."""
        match command:
            case Decide(txid, verdict, branches):
                if txid not in self.decided and txid.ms >= self.horizon_ms:
                    made = self.decided[txid] = Decided(verdict, frozenset(branches), term, index)
                    if branches:
                        self.outstanding[txid] = set(branches)
                    return made
            case Complete(acks):
                for txid, branches in acks:
                    self.outstanding.get(txid, set()).difference_update(branches)
            case Retire(before_ms):
                self.retirements += before_ms > self.horizon_ms
                self.horizon_ms = max(self.horizon_ms, before_ms)
            case Found(cluster):
                self.cluster = self.cluster or cluster
            case Enroll(name, identity):
                self.enrolled[name] = identity
            case Bind(name, identity, before):
                if self.bound.get(name, "") == before:
                    self.bound[name] = identity
            case Heuristic(txid, branch):
                self.damages.setdefault((txid, branch), "")
            case Acknowledge(txid, branch, who):
                if self.damages.get((txid, branch)) == "":
                    self.damages[txid, branch] = who
        return None

    def is_open(self, txid: TxId) -> bool:
        """Whether a branch has not acknowledged."""
        return bool(self.outstanding.get(txid))

    def state(self, txid: TxId) -> State:
        """What every node must say of ``txid``."""
        known = self.decided.get(txid)
        if txid.ms < self.horizon_ms and not (
            known is not None and known.verdict is Verdict.COMMIT and self.is_open(txid)
        ):
            return State.FORGOTTEN
        if known is None:
            return State.UNDECIDED
        return State.COMMITTED if known.verdict is Verdict.COMMIT else State.ABORTED


def replayed(entries: Sequence[bytes], log: Sequence[tuple[int, int]], upto: int) -> Model:
    """The model after the entries up to ``upto``. ``log``: the term of each entry comes first."""
    model = Model()
    for index in range(2, upto + 1):
        data = entries[index]
        if data[:1] == engine.REGULAR:
            for command in open_entry(data[1:]).commands():
                model.apply(command, log[index][0], index)
    return model


def difference(ledger: Ledger, model: Model, txids: Iterable[TxId]) -> tuple[TxId | None, str] | None:
    """In what a node's ledger is not what the replay of its log gives: a transaction, if it is one, and a clause. Or None."""
    if (ledger.cluster, ledger.horizon_ms) != (model.cluster, model.horizon_ms):
        return (
            None,
            f"has cluster {ledger.cluster} and horizon {ledger.horizon_ms}, not {model.cluster} and {model.horizon_ms}",
        )
    if dict(ledger.enrolled) != model.enrolled:
        return None, f"has enrolled {dict(ledger.enrolled)}, not {model.enrolled}"
    bound = {binding.name: binding.identity for binding in ledger.participants.values()}
    if bound != {name: identity for name, identity in model.bound.items() if identity}:
        return None, f"has bound {bound}, not {model.bound}"
    if {(damage.txid, damage.branch): damage.acknowledged_by for damage in ledger.damages()} != model.damages:
        return None, "has other damage recorded than the log"
    for txid in txids:
        state, found = model.state(txid), ledger.decision(txid)
        good = ledger.state(txid) is state and (found is None) == (state in (State.FORGOTTEN, State.UNDECIDED))
        if good and found is not None:
            left = model.outstanding.get(txid, set())
            good = set(found.outstanding) == left and found.index == model.decided[txid].index
        if not good:
            return txid, f"says {ledger.state(txid)} ({found}), the log says {state}"
    opened = {decision.txid for decision in ledger.open_decisions()}
    missing = {
        txid for txid, left in model.outstanding.items() if left and model.state(txid) is not State.FORGOTTEN
    } - opened
    if missing:
        return min(missing), "does not list as open what the log leaves open"
    return None
