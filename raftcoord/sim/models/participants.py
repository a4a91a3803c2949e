"""Participants once more: see the head of the folder."""

from __future__ import annotations

from typing import Any

from raftcoord.core.machine import Ledger
from raftcoord.core.tables.participants import Bind
from raftcoord.core.tables.table import Command
from raftcoord.sim.models import LedgerModel, TableModel


class ParticipantsModel(TableModel):
    """Which state goes by which name; "": none any more."""

    def __init__(self, models: LedgerModel) -> None:
        super().__init__(models)
        self.bound: dict[str, str] = {}

    def apply(self, command: Command, term: int, index: int) -> None:
        """See TableModel."""
        match command:
            case Bind(name, identity, before):
                if self.bound.get(name, "") == before:
                    self.bound[name] = identity

    def expected(self) -> Any:
        """See TableModel."""
        return {"bound": {name: identity for name, identity in self.bound.items() if identity}}

    def found(self, ledger: Ledger) -> Any:
        """See TableModel."""
        return {"bound": {binding.name: binding.identity for binding in ledger.participants.values()}}
