"""Notes once more."""

from __future__ import annotations

from typing import Any

from raftcoord.core.tables.notes import Note, Notes

from raftcoord.core.machine import Ledger
from raftcoord.core.tables.table import Command
from raftcoord.sim.models import LedgerModel, TableModel


class NotesModel(TableModel):
    def __init__(self, models: LedgerModel) -> None:
        super().__init__(models)
        self.texts: dict[str, str] = {}

    def apply(self, command: Command, term: int, index: int) -> None:
        if isinstance(command, Note):
            self.texts[command.name] = command.text

    def expected(self) -> Any:
        return self.texts

    def found(self, ledger: Ledger) -> Any:
        return {note.name: note.text for note in ledger[Notes].by_name.values()}
