"""The founding once more: see the head of the folder."""

from __future__ import annotations

from typing import Any

from raftcoord.core.machine import Ledger
from raftcoord.core.tables.founding import Enroll, Found
from raftcoord.core.tables.table import Command
from raftcoord.sim.models import LedgerModel, TableModel


class FoundingModel(TableModel):
    """The cluster's id, and who was enrolled as what."""

    def __init__(self, models: LedgerModel) -> None:
        super().__init__(models)
        self.cluster = ""
        self.enrolled: dict[str, str] = {}

    def apply(self, command: Command, term: int, index: int) -> None:
        """See TableModel."""
        match command:
            case Found(cluster):
                self.cluster = self.cluster or cluster
            case Enroll(name, identity):
                self.enrolled[name] = identity

    def expected(self) -> Any:
        """See TableModel."""
        return {"cluster": self.cluster, "enrolled": self.enrolled}

    def found(self, ledger: Ledger) -> Any:
        """See TableModel."""
        return {"cluster": ledger.cluster, "enrolled": dict(ledger.enrolled)}
