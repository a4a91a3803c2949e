"""Reading the rows of an open node.db.

Owes: every row that it gives has just passed its checksum, and every read shows each write that has returned. Never writes.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

from raftcoord.core.tables.decisions import Decision, Decisions
from raftcoord.core.tables.table import Part, Rows, Table
from raftcoord.errors import LocalProtocolError
from raftcoord.storage.faults import corrupt, refused_read
from raftcoord.storage.records import UNREADABLE, LogRow, log_crc
from raftcoord.storage.schema import connect, stored_tables

_FLAGS_OF: Final[dict[str, tuple[int, ...]]] = {"aborted": (0, 2), "committed": (1, 3, 5, 7), "open": (2, 3, 7)}
_DECISIONS: Final = Decisions.rows
_ROW: Final = ", ".join(_DECISIONS.columns)
_ABOVE_ALL: Final = b"\xff" * 17

_NEWEST: Final = f"SELECT {_ROW} FROM decisions WHERE txid < ? ORDER BY txid DESC LIMIT ?"
_WITH_FLAGS: Final = (
    f"SELECT * FROM (SELECT {_ROW} FROM decisions INDEXED BY decisions_by_flags "
    "WHERE flags = ? AND txid < ? ORDER BY txid DESC LIMIT ?)"
)
_NEWEST_IN_STATE: Final = {
    state: f"{' UNION ALL '.join([_WITH_FLAGS] * len(flags))} ORDER BY txid DESC LIMIT ?"
    for state, flags in _FLAGS_OF.items()
}


class Reader:
    """A read-only connection to the node.db at ``path``. Its calls raise CorruptionError, and StorageError if the disk does."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection = connect(path, "mode=ro")

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def item(self, table: type[Table], key: Any) -> Any:
        """What is stored of ``table`` under ``key``, or None."""
        rows, sql = _by_key(table.name)
        found = self._items(rows, sql, rows.key(key))
        return found[0] if found else None

    def newest(self, state: str | None, limit: int, before: bytes | None) -> list[Decision]:
        """The newest ``limit`` decisions in ``state`` with a txid below ``before``; see NodeDb.decisions."""
        if limit < 1 or (state is not None and state not in _FLAGS_OF):
            raise LocalProtocolError(
                f"cannot list {limit} decisions in state {state!r}: use a limit of 1 or more, and one of "
                f"{', '.join(_FLAGS_OF)}, or no state for all"
            )
        below = _ABOVE_ALL if before is None else before
        if state is None:
            return self._items(_DECISIONS, _NEWEST, (below, limit))
        parameters = [value for flags in _FLAGS_OF[state] for value in (flags, below, limit)]
        return self._items(_DECISIONS, _NEWEST_IN_STATE[state], (*parameters, limit))

    def part(self, table: type[Table], fields: Mapping[str, Any], older: Callable[[Any], Any], keep: int) -> Part:
        """What a node starts with of ``table``, whose fields are these.

        ``older``: reads one item by its key. ``keep``: of a table with ``Many``, how many of the newest rows are read.
        """
        rows = table.rows
        if rows is None:
            return Part(fields)
        select, key = f"SELECT {', '.join(rows.columns)} FROM {table.name}", rows.columns[0]
        if rows.many is None:
            return Part(fields, self._items(rows, select, ()))
        newest = self._rows(f"{select} ORDER BY {key} DESC LIMIT ?", (keep,))
        floor = b"" if len(newest) < keep else bytes(newest[-1][0])
        pinned = self._rows(f"{select} {rows.many.pinned} AND {key} < ? ORDER BY {key} DESC", (floor,))
        return Part(fields, [self._item(rows, row) for row in newest + pinned], floor, older)

    def log(self) -> list[LogRow]:
        """The whole log."""
        return [self._log_row(*row) for row in self._rows("SELECT idx, term, data, crc FROM log ORDER BY idx")]

    def _rows(self, sql: str, parameters: tuple[Any, ...] = ()) -> list[Any]:
        try:
            # fetchall ends the read transaction: a cursor left half read would go on showing the past.
            return self._connection.execute(sql, parameters).fetchall()
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise refused_read(error, self._path) from error

    def _items(self, rows: Rows, sql: str, parameters: tuple[Any, ...]) -> list[Any]:
        return [self._item(rows, row) for row in self._rows(sql, parameters)]

    def _item(self, rows: Rows, row: tuple[Any, ...]) -> Any:
        with contextlib.suppress(*UNREADABLE):
            if rows.is_right(*row):
                return rows.unpack(*row)
        raise corrupt(self._path, f"{rows.called(*row)} has a wrong checksum")

    def _log_row(self, index: int, term: int, data: bytes, crc: int) -> LogRow:
        with contextlib.suppress(*UNREADABLE):
            if log_crc(index, term, data) == crc:
                return LogRow(index, term, data)
        raise corrupt(self._path, f"log entry {index} has a wrong checksum")


@cache
def _by_key(table: str) -> tuple[Rows, str]:
    rows = stored_tables()[table]
    key = " AND ".join(f"{column} = ?" for column in rows.columns[: rows.keys])
    return rows, f"SELECT {', '.join(rows.columns)} FROM {table} WHERE {key}"
