"""The ledger once more, in the fewest lines: what every node must agree with. A file for each table, of the table's name.

It is written apart from core/tables on purpose and shares no rule with it: a mistake there is not repeated here. It applies the
committed commands in order and keeps everything, so it can be asked about any moment.
"""

from __future__ import annotations

import abc
from collections.abc import Iterable, Sequence
from importlib import import_module
from typing import Any, Final, TypeVar, cast

from raftcoord.consensus import engine
from raftcoord.consensus.members_in_log import members_in
from raftcoord.core.commands import open_entry
from raftcoord.core.machine import Ledger
from raftcoord.core.tables import TABLES
from raftcoord.core.tables.members import Members
from raftcoord.core.tables.table import Command, Table
from raftcoord.types import TxId

LAST: Final = 1 << 62
"""After the last entry, whichever that is."""

M = TypeVar("M", bound="TableModel")

Difference = tuple[TxId | None, str]
"""The transaction that it is about, if it is one, and a clause: in what a ledger is not what the log gives."""


class TableModel(abc.ABC):
    """One table once more, as ``DamagesModel`` of damages. It sees every command, and the ``models`` of the other tables."""

    def __init__(self, models: LedgerModel) -> None:
        self.models = models

    def apply(self, command: Command, term: int, index: int) -> Any:
        """The next command, of whichever table; None, or what it made."""
        return None

    def follow(self, members: Members) -> None:  # noqa: B027 - only the table of the members looks at it
        """The next entry brings this set of members."""

    @abc.abstractmethod
    def expected(self) -> Any:
        """What a node must have."""

    @abc.abstractmethod
    def found(self, ledger: Ledger) -> Any:
        """What ``ledger`` has, to be compared with that."""

    def difference(self, ledger: Ledger, txids: Iterable[TxId]) -> Difference | None:
        """In what ``ledger`` is not this, or None. ``txids``: every transaction that was ever decided, maybe later."""
        found, expected = self.found(ledger), self.expected()
        return None if found == expected else (None, f"has {found}, not {expected}")


def _model_of(table: type[Table]) -> type[TableModel]:
    found: type[TableModel] = getattr(import_module(f"{__name__}.{table.name}"), f"{table.name.capitalize()}Model")
    return found


class LedgerModel:
    """The models of all tables."""

    def __init__(self) -> None:
        self._models: dict[type[TableModel], TableModel] = {made: made(self) for made in map(_model_of, TABLES)}

    def __getitem__(self, model: type[M]) -> M:
        """The model of that class."""
        return cast("M", self._models[model])

    def replay(self, data: bytes, term: int, index: int) -> None:
        """Apply the next entry."""
        if data[:1] == engine.MEMBERS:
            for model in self._models.values():
                model.follow(members_in(data))
        elif data[:1] == engine.REGULAR:
            for command in open_entry(data[1:]).commands():
                self.apply(command, term, index)

    def apply(self, command: Command, term: int, index: int) -> Any:
        """Apply the next command; what it made, if a model says so."""
        made = [model.apply(command, term, index) for model in self._models.values()]
        return next((one for one in made if one is not None), None)

    def difference(self, ledger: Ledger, txids: Iterable[TxId]) -> Difference | None:
        """In what a node's ledger is not what the replay of its log gives, or None."""
        found = (model.difference(ledger, txids) for model in self._models.values())
        return next((one for one in found if one is not None), None)


def replayed(entries: Sequence[bytes], log: Sequence[tuple[int, int]], upto: int) -> LedgerModel:
    """The model after the entries up to ``upto``. ``log``: the term of each entry comes first."""
    model = LedgerModel()
    for index in range(2, upto + 1):
        model.replay(entries[index], log[index][0], index)
    return model
