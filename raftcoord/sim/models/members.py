"""The members once more: see the head of the folder."""

from __future__ import annotations

from typing import Any

from raftcoord.core.machine import Ledger
from raftcoord.core.tables.members import Members
from raftcoord.sim.models import LedgerModel, TableModel


class MembersModel(TableModel):
    """The newest set that an entry has brought; None: that of the founding, which no entry holds."""

    def __init__(self, models: LedgerModel) -> None:
        super().__init__(models)
        self.members: Members | None = None

    def follow(self, members: Members) -> None:
        """See TableModel."""
        self.members = members

    def expected(self) -> Any:
        """See TableModel."""
        return self.members

    def found(self, ledger: Ledger) -> Any:
        """See TableModel."""
        return ledger.members if self.members is not None else None
