"""Decisions once more: see the head of the folder."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from raftcoord.core.machine import Ledger
from raftcoord.core.tables.damages import Settle
from raftcoord.core.tables.decisions import Close, Complete, Decide
from raftcoord.core.tables.table import Command
from raftcoord.sim.models import LAST, Difference, LedgerModel, TableModel, damages, horizon
from raftcoord.types import State, TxId, Verdict


class ModelDecision(NamedTuple):
    """What was decided first, by the log entry (term, index)."""

    verdict: Verdict
    branches: frozenset[str]
    term: int
    index: int  # type: ignore[assignment]


class DecisionsModel(TableModel):
    """All that was ever decided."""

    def __init__(self, models: LedgerModel) -> None:
        super().__init__(models)
        self.decided: dict[TxId, ModelDecision] = {}
        self.outstanding: dict[TxId, set[str]] = {}
        self.acknowledged: dict[TxId, dict[str, int]] = {}
        """By which entry each branch of a decision was complete."""
        self.lost: dict[TxId, int] = {}
        """Forgotten, and no longer below the horizon since that entry lowered it: nothing keeps it from being decided again."""
        self.closed: dict[TxId, dict[str, int]] = {}

    def apply(self, command: Command, term: int, index: int) -> ModelDecision | None:
        """The decision, if this command made one."""
        match command:
            case Decide(txid, verdict, branches):
                forgets_ms = self.models[horizon.HorizonModel].ms
                if (txid not in self.decided or txid in self.lost) and txid.ms >= forgets_ms:
                    made = self.decided[txid] = ModelDecision(verdict, frozenset(branches), term, index)
                    if branches:
                        self.outstanding[txid] = set(branches)
                    return made
            case Complete(acks):
                for txid, branches in acks:
                    for branch in branches:
                        self._done(txid, branch, index)
            case Close(pairs):
                for txid, branches in pairs:
                    for branch in branches:
                        self._close(txid, branch, index)
            case Settle(pairs):
                recorded = self.models[damages.DamagesModel].damages
                for txid, branches in pairs:
                    for branch in [branch for branch in branches if (txid, branch) in recorded]:
                        self._close(txid, branch, index)
                        self._done(txid, branch, index)
        return None

    def lower(self, low_ms: int, high_ms: int, index: int) -> bool:
        """Entry ``index`` lowers the horizon, if nothing between the two is open."""
        within = [txid for txid in self.decided if low_ms <= txid.ms < high_ms]
        if any(self.state(txid) is State.COMMITTED and self.open_branches(txid) for txid in within):
            return False
        for txid in [txid for txid in within if txid not in self.closed]:
            self.outstanding.pop(txid, None)
            self.lost[txid] = index
        return True

    def _close(self, txid: TxId, branch: str, index: int) -> None:
        if branch in self.outstanding.get(txid, set()) and self.decided[txid].verdict is Verdict.COMMIT:
            self.closed.setdefault(txid, {})[branch] = index
            self._done(txid, branch, index)

    def _done(self, txid: TxId, branch: str, index: int) -> None:
        left = self.outstanding.get(txid, set())
        if branch in left:
            left.remove(branch)
            self.acknowledged.setdefault(txid, {})[branch] = index

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
        if txid.ms < self.models[horizon.HorizonModel].ms_after(index) and not (
            known is not None
            and known.verdict is Verdict.COMMIT
            and (self.open_branches(txid, index) or self.closed_branches(txid, index))
        ):
            return State.FORGOTTEN
        if known is None:
            return State.UNDECIDED
        return State.COMMITTED if known.verdict is Verdict.COMMIT else State.ABORTED

    def difference_of(self, ledger: Ledger, txid: TxId, index: int = LAST) -> str:
        """In what a ledger that has applied the entries up to ``index`` disagrees about ``txid``: a clause, or ""."""
        state, found = self.state(txid, index), ledger.decision(txid)
        good = ledger.state(txid) is state and (found is None) == (state in (State.FORGOTTEN, State.UNDECIDED))
        if good and found is not None:
            left = self.open_branches(txid, index)
            good = set(found.outstanding) == left and found.index == self.decided[txid].index
            good = good and {closing.branch for closing in found.closed} == self.closed_branches(txid, index)
        return "" if good else f"says {ledger.state(txid)} ({found}), the log says {state}"

    def difference(self, ledger: Ledger, txids: Iterable[TxId]) -> Difference | None:
        """See TableModel."""
        for txid in txids:
            if wrong := self.difference_of(ledger, txid):
                return txid, wrong
        missing = self.expected() - self.found(ledger)
        return (min(missing), "does not list as open what the log leaves open") if missing else None

    def expected(self) -> Any:
        """What is open."""
        return {txid for txid, left in self.outstanding.items() if left and self.state(txid) is not State.FORGOTTEN}

    def found(self, ledger: Ledger) -> Any:
        """What it lists as open."""
        return {decision.txid for decision in ledger.open_decisions()}
