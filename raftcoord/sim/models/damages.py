"""Damage once more: see the head of the folder."""

from __future__ import annotations

from typing import Any

from raftcoord.core.machine import Ledger
from raftcoord.core.tables.damages import Acknowledge, Heuristic, Settle
from raftcoord.core.tables.table import Command
from raftcoord.sim.models import LedgerModel, TableModel
from raftcoord.types import TxId


class DamagesModel(TableModel):
    """Who has acknowledged which damage ("": nobody yet)."""

    def __init__(self, models: LedgerModel) -> None:
        super().__init__(models)
        self.damages: dict[tuple[TxId, str], str] = {}
        self._settled: set[tuple[TxId, str]] = set()

    def apply(self, command: Command, term: int, index: int) -> None:
        """See TableModel."""
        match command:
            case Heuristic(txid, branch):
                self.damages.setdefault((txid, branch), "")
            case Acknowledge(txid, branch, who):
                if self.damages.get((txid, branch)) == "":
                    self.damages[txid, branch] = who
            case Settle(pairs, who):
                for key in [(txid, branch) for txid, branches in pairs for branch in branches]:
                    if self.damages.get(key) == "":
                        self.damages[key] = who
                        self._settled.add(key)

    def forget(self, before_ms: int) -> None:
        """The horizon has moved there."""
        for key in [key for key in self._settled if key[0].ms < before_ms]:
            self._settled.remove(key)
            del self.damages[key]

    def expected(self) -> Any:
        """See TableModel."""
        return self.damages

    def found(self, ledger: Ledger) -> Any:
        """See TableModel."""
        return {(damage.txid, damage.branch): damage.acknowledged_by for damage in ledger.damages()}
