"""What of a ledger is stored, kept in memory: ``TableChange`` in its own words, and what a node would be given at a start."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raftcoord.core.machine import Ledger
from raftcoord.core.tables import TABLES
from raftcoord.core.tables.decisions import Decision
from raftcoord.core.tables.table import Changes, Part, TableChange
from raftcoord.types import TxId


def fields(**values: Any) -> dict[str, Part]:
    """A stored ledger of nothing but these fields."""
    return {
        table.name: Part({name: values[name] for name in table.fields if name in values})
        for table in TABLES
        if table.fields
    }


class Shelf:
    """``rows``: by table and key; ``fields``: of all tables; those that are given are not their defaults."""

    def __init__(self, **fields: Any) -> None:
        self.rows: dict[str, dict[Any, Any]] = {table.name: {} for table in TABLES if table.rows}
        self.fields = {name: field.default for table in TABLES for name, field in table.fields.items()} | fields

    @property
    def decisions(self) -> dict[TxId, Decision]:
        return self.rows["decisions"]

    def store(self, changes: Changes) -> None:
        for name, change in changes.items():
            self._store(self.rows.get(name, {}), change)

    def _store(self, rows: dict[Any, Any], change: TableChange) -> None:
        if change.before is not None:
            self._store(rows, change.before)
        for key in change.deletes:
            rows.pop(key, None)
        rows.update(change.puts)
        if change.forget_below is not None:
            for key in [key for key, item in rows.items() if key < change.forget_below and item.retirable]:
                del rows[key]
        self.fields.update(change.fields)

    def copy(self) -> Shelf:
        """As a copy for another node."""
        made = Shelf(**self.fields)
        made.rows = {name: dict(items) for name, items in self.rows.items()}
        return made

    def parts(self, keep: int) -> Mapping[str, Part]:
        """What NodeDb.load gives: of the decisions the newest ``keep`` and every open one."""
        parts = {}
        for table in TABLES:
            items = list(self.rows.get(table.name, {}).values())
            floor = b""
            if table.rows is not None and table.rows.many is not None:
                newest = sorted(items, reverse=True)[:keep]
                floor = bytes(newest[-1].txid) if len(newest) == keep else b""
                items = newest + [item for item in items if item.outstanding and item.txid < floor]
            own = {name: self.fields[name] for name in table.fields}
            parts[table.name] = Part(own, items, floor, lambda key, name=table.name: self.rows[name].get(key))
        return parts

    def ledger(self, keep: int) -> Ledger:
        """As a node that starts has it; what it looks up is what is stored then."""
        return Ledger(self.parts(keep))
