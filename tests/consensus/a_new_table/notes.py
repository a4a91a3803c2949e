"""A table that is there for the test alone: the last text under each name."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple, Self

from raftcoord.core.tables.table import (
    CHANGED,
    UNCHANGED,
    CommandKind,
    Done,
    Part,
    Rows,
    Table,
    Tables,
    beyond,
    keyed_records,
)


class Note(NamedTuple):
    name: str
    text: str

    def excess(self, horizon_ms_max: int) -> str:
        return "" if len(self.text) <= 100 else beyond(self)

    @classmethod
    def read(cls, row: tuple[Any, ...]) -> Self | None:
        match row:
            case (_, str(name), str(text)):
                return cls(name, text)
        return None


class Notes(Table):
    name = "notes"
    rows: ClassVar[Rows] = keyed_records(
        name,
        ("name",),
        key=lambda name: (name.encode(),),
        write=lambda note: ((note.name.encode(),), (note.text,)),
        read=lambda name, fields: Note(name.decode(), *fields),
        called=lambda name, *_: f"the note {name!r}",
        since=3,
    )

    def __init__(self, ledger: Tables, stored: Part) -> None:
        super().__init__(ledger, stored)
        self.by_name: dict[str, Note] = {note.name: note for note in stored.rows}

    def _note(self, command: Note, term: int, index: int) -> Done:
        if self.by_name.get(command.name) == command:
            return UNCHANGED
        self.by_name[command.name] = self.pending.puts[command.name] = command
        return CHANGED

    commands: ClassVar[dict[int, CommandKind]] = {99: CommandKind(Note, _note)}
