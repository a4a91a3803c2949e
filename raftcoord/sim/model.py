"""The ledger once more, in the fewest lines: what every node must agree with.

It is written apart from core/ledger.py on purpose and shares no rule with it: a mistake there is not repeated here. It applies
the committed commands in order and keeps everything, so it can be asked about any moment.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from raftcoord.consensus import engine
from raftcoord.consensus.members_in_log import members_in
from raftcoord.core.commands import (
    Acknowledge,
    Bind,
    Close,
    Command,
    Complete,
    Decide,
    Enroll,
    Found,
    Heuristic,
    Lower,
    Retire,
    Settle,
    open_entry,
)
from raftcoord.core.ledger import Ledger
from raftcoord.core.tables.members import Members
from raftcoord.types import State, TxId, Verdict

LAST: Final = 1 << 62
"""After the last entry, whichever that is."""


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
        self.acknowledged: dict[TxId, dict[str, int]] = {}
        """By which entry each branch of a decision was complete."""
        self._horizons: list[tuple[int, int]] = [(0, 0)]  # (index, ms), each later than the one before
        self.lost: dict[TxId, int] = {}
        """Forgotten, and no longer below the horizon since that entry lowered it: nothing keeps it from being decided again."""
        self.retirements = 0
        self.cluster = ""
        self.damages: dict[tuple[TxId, str], str] = {}
        self.enrolled: dict[str, str] = {}
        self.members: Members | None = None
        """The newest set of members that an entry has brought; None: that of the founding."""
        self.bound: dict[str, str] = {}
        self.closed: dict[TxId, dict[str, int]] = {}
        self.settled: set[tuple[TxId, str]] = set()

    def replay(self, data: bytes, term: int, index: int) -> None:
        """Apply the next entry."""
        if data[:1] == engine.MEMBERS:
            self.members = members_in(data)
        elif data[:1] == engine.REGULAR:
            for command in open_entry(data[1:]).commands():
                self.apply(command, term, index)

    def apply(self, command: Command, term: int, index: int) -> Decided | None:
        """Apply the next command; the decision, if this command made one."""
        match command:
            case Decide(txid, verdict, branches):
                if (txid not in self.decided or txid in self.lost) and txid.ms >= self.horizon_ms:
                    made = self.decided[txid] = Decided(verdict, frozenset(branches), term, index)
                    if branches:
                        self.outstanding[txid] = set(branches)
                    return made
            case Complete(acks):
                for txid, branches in acks:
                    for branch in branches:
                        self._done(txid, branch, index)
            case Retire(before_ms) if before_ms > self.horizon_ms:
                self.retirements += 1
                self._horizons.append((index, before_ms))
                for key in [key for key in self.settled if key[0].ms < before_ms]:
                    self.settled.remove(key)
                    del self.damages[key]
            case Lower(was_ms, horizon_ms, who, at_ms) if was_ms == self.horizon_ms > horizon_ms:
                within = [txid for txid in self.decided if horizon_ms <= txid.ms < was_ms]
                if not any(self.state(txid) is State.COMMITTED and self.open_branches(txid) for txid in within):
                    for txid in [txid for txid in within if txid not in self.closed]:
                        self.outstanding.pop(txid, None)
                        self.lost[txid] = index
                    self._horizons.append((index, horizon_ms))
                    self.damages[TxId.new(at_ms, was_ms.to_bytes(10, "big")), "horizon"] = who
            case Found(cluster):
                self.cluster = self.cluster or cluster
            case Enroll(name, identity):
                self.enrolled[name] = identity
            case Bind(name, identity, before):
                if self.bound.get(name, "") == before:
                    self.bound[name] = identity
            case Close(pairs):
                for txid, branches in pairs:
                    for branch in branches:
                        self._close(txid, branch, index)
            case Settle(pairs, who):
                for txid, branches in pairs:
                    for branch in branches:
                        self._settle(txid, branch, who, index)
            case Heuristic(txid, branch):
                self.damages.setdefault((txid, branch), "")
            case Acknowledge(txid, branch, who):
                if self.damages.get((txid, branch)) == "":
                    self.damages[txid, branch] = who
        return None

    def _close(self, txid: TxId, branch: str, index: int) -> None:
        if branch in self.outstanding.get(txid, set()) and self.decided[txid].verdict is Verdict.COMMIT:
            self.closed.setdefault(txid, {})[branch] = index
            self._done(txid, branch, index)

    def _settle(self, txid: TxId, branch: str, who: str, index: int) -> None:
        if (txid, branch) not in self.damages:
            return
        if not self.damages[txid, branch]:
            self.damages[txid, branch] = who
            self.settled.add((txid, branch))
        self._close(txid, branch, index)
        self._done(txid, branch, index)

    def _done(self, txid: TxId, branch: str, index: int) -> None:
        left = self.outstanding.get(txid, set())
        if branch in left:
            left.remove(branch)
            self.acknowledged.setdefault(txid, {})[branch] = index

    @property
    def horizon_ms(self) -> int:
        """The horizon after the last command."""
        return self._horizons[-1][1]

    @property
    def horizon_max_ms(self) -> int:
        """The highest that it ever was."""
        return max(ms for _, ms in self._horizons)

    def open_branches(self, txid: TxId, index: int = LAST) -> set[str]:
        """The branches that had not acknowledged after entry ``index``."""
        known = self.decided.get(txid)
        if known is None or known.index > index:
            return set()
        done = self.acknowledged.get(txid, {})
        return {branch for branch in known.branches if done.get(branch, LAST) > index or branch not in done}

    def closed_branches(self, txid: TxId, index: int = LAST) -> set[str]:
        """Those that an operator had closed after entry ``index``."""
        return {branch for branch, at in self.closed.get(txid, {}).items() if at <= index}

    def state(self, txid: TxId, index: int = LAST) -> State:
        """What every node must say of ``txid`` that has applied the entries up to ``index``."""
        known = self.decided.get(txid)
        if known is not None and (known.index > index or self.lost.get(txid, index + 1) <= index):
            known = None
        horizon_ms = self._horizons[bisect_right(self._horizons, (index, LAST)) - 1][1]
        if txid.ms < horizon_ms and not (
            known is not None
            and known.verdict is Verdict.COMMIT
            and (self.open_branches(txid, index) or self.closed_branches(txid, index))
        ):
            return State.FORGOTTEN
        if known is None:
            return State.UNDECIDED
        return State.COMMITTED if known.verdict is Verdict.COMMIT else State.ABORTED


def replayed(entries: Sequence[bytes], log: Sequence[tuple[int, int]], upto: int) -> Model:
    """The model after the entries up to ``upto``. ``log``: the term of each entry comes first."""
    model = Model()
    for index in range(2, upto + 1):
        model.replay(entries[index], log[index][0], index)
    return model


def difference_of(ledger: Ledger, model: Model, txid: TxId, index: int = LAST) -> str:
    """In what a node's ledger that has applied the entries up to ``index`` disagrees about ``txid``: a clause, or ""."""
    state, found = model.state(txid, index), ledger.decision(txid)
    good = ledger.state(txid) is state and (found is None) == (state in (State.FORGOTTEN, State.UNDECIDED))
    if good and found is not None:
        left = model.open_branches(txid, index)
        good = set(found.outstanding) == left and found.index == model.decided[txid].index
        good = good and {closing.branch for closing in found.closed} == model.closed_branches(txid, index)
    return "" if good else f"says {ledger.state(txid)} ({found}), the log says {state}"


def difference(ledger: Ledger, model: Model, txids: Iterable[TxId]) -> tuple[TxId | None, str] | None:
    """In what a node's ledger is not what the replay of its log gives: a transaction, if it is one, and a clause. Or None."""
    if (ledger.cluster, ledger.horizon_ms) != (model.cluster, model.horizon_ms):
        return (
            None,
            f"has cluster {ledger.cluster} and horizon {ledger.horizon_ms}, not {model.cluster} and {model.horizon_ms}",
        )
    if model.members is not None and ledger.members != model.members:
        return None, f"has the members {ledger.members}, not {model.members}"
    if dict(ledger.enrolled) != model.enrolled:
        return None, f"has enrolled {dict(ledger.enrolled)}, not {model.enrolled}"
    bound = {binding.name: binding.identity for binding in ledger.participants.values()}
    if bound != {name: identity for name, identity in model.bound.items() if identity}:
        return None, f"has bound {bound}, not {model.bound}"
    if {(damage.txid, damage.branch): damage.acknowledged_by for damage in ledger.damages()} != model.damages:
        return None, "has other damage recorded than the log"
    for txid in txids:
        if wrong := difference_of(ledger, model, txid):
            return txid, wrong
    opened = {decision.txid for decision in ledger.open_decisions()}
    missing = {
        txid for txid, left in model.outstanding.items() if left and model.state(txid) is not State.FORGOTTEN
    } - opened
    if missing:
        return min(missing), "does not list as open what the log leaves open"
    return None
