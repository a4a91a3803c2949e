"""Many rows in one step of SQLite.

Owes: ``run`` inserts all rows, in order, with as few calls into SQLite as can be. The sqlite3 module gives up the interpreter
lock in every call, and a busy event loop takes up to 5 ms to hand it back: with executemany, 200 rows then cost most of a
second, where one statement costs a few such waits.

A statement must be compiled for each number of rows, so the numbers are powers of two, and what is missing is filled
with rows of NULL, which the statement leaves out.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any


class BulkInsert:
    """``verb`` (such as "INSERT INTO log") for rows of ``columns`` values, at most ``rows_max`` (a power of two) at once."""

    def __init__(self, verb: str, *, columns: int, rows_max: int) -> None:
        row = f"({','.join('?' * columns)})"
        self._columns = columns
        self._rows_max = rows_max
        self._statements = {
            1 << power: f"{verb} SELECT * FROM (VALUES {','.join([row] * (1 << power))}) WHERE column1 IS NOT NULL"
            for power in range(rows_max.bit_length())
        }

    def run(self, connection: sqlite3.Connection, rows: Sequence[tuple[Any, ...]]) -> None:
        """Insert ``rows``; the first value of a row is never None."""
        for start in range(0, len(rows), self._rows_max):
            part = rows[start : start + self._rows_max]
            size = 1 << (len(part) - 1).bit_length()
            values = [value for row in part for value in row]
            values.extend([None] * (self._columns * (size - len(part))))
            connection.execute(self._statements[size], values)
