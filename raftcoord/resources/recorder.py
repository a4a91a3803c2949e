"""The connection and the cursors that a SQLite branch is worked on with: sqlite3's, and every change is written down.

Owed: a statement that succeeded and may have changed the file is recorded with its parameters as they are stored; one that
could not be repeated alike is a LocalProtocolError before it is carried out.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, Self

from raftcoord.errors import LocalProtocolError
from raftcoord.resources.sqlite import Work

_WORD: Final = re.compile(r"(?:\s|;|--[^\n]*(?:\n|$)|/\*.*?(?:\*/|$))*([A-Za-z]*)", re.DOTALL)
_READS: Final = {"SELECT", "VALUES", "EXPLAIN"}
_CHANGES: Final = {"INSERT", "REPLACE", "UPDATE", "DELETE", "WITH", "SAVEPOINT", "RELEASE"}
_BACK_TO: Final = re.compile(r"ROLLBACK\s+(?:TRANSACTION\s+)?TO\b", re.IGNORECASE)
_PRAGMA: Final = re.compile(
    r"PRAGMA\s+(?:\w+\.)?(?:(?:table_info|table_xinfo|table_list|index_list|index_info|index_xinfo|foreign_key_list|"
    r"foreign_key_check)\b(?!\s*=)|(?:foreign_keys|user_version|schema_version|journal_mode|encoding|database_list)\s*;?\s*$)",
    re.IGNORECASE,
)
_STORED: Final = (type(None), int, float, str, bytes)


class Recorder:
    """Stands for a sqlite3.Connection while a branch is open."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._work = Work()
        self._ended = False
        self.start = connection.total_changes
        self.row_factory = connection.row_factory

    def end(self) -> Work:
        """Record no more: what was recorded."""
        self._ended = True
        return self._work

    def cursor(self, factory: Any = None) -> RecorderCursor:
        """A cursor. A ``factory`` of the program's own is refused, because it could not be recorded."""
        if factory is not None:
            raise _refused("a cursor class of one's own", "use cursor() without an argument")
        return RecorderCursor(self, self._open().cursor())

    def execute(self, sql: str, parameters: Any = ()) -> RecorderCursor:
        """As sqlite3.Connection.execute."""
        return self.cursor().execute(sql, parameters)

    def executemany(self, sql: str, parameters: Iterable[Any]) -> RecorderCursor:
        """As sqlite3.Connection.executemany."""
        return self.cursor().executemany(sql, parameters)

    @property
    def in_transaction(self) -> bool:
        """True while the branch is open."""
        return self._connection.in_transaction

    @property
    def total_changes(self) -> int:
        """As sqlite3.Connection.total_changes."""
        return self._connection.total_changes

    def __getattr__(self, name: str) -> Any:
        if not hasattr(sqlite3.Connection, name):
            raise AttributeError(f"'Recorder' object has no attribute {name!r}")
        raise _refused(
            f"connection.{name}", "leave commit, rollback and close to the block, and change data by execute()"
        )

    def __enter__(self) -> Self:
        raise _refused("with connection:", "it would commit; the block commits")

    def __exit__(self, *_: object) -> None:
        raise AssertionError("it is never entered")

    def _open(self) -> sqlite3.Connection:
        if self._ended:
            raise LocalProtocolError(
                "the branch has ended, and with it the connection that enlist() returned; use your own connection again"
            )
        return self._connection

    def _carry_out(self, real: sqlite3.Cursor, sql: str, parameters: Any) -> list[Any] | None:
        """Execute; the rows if it was a recorded statement, because only then has all of it been done."""
        conn = self._open()
        if not _is_change(sql):
            real.execute(sql, parameters)
            return None
        stored = _stored(parameters)
        before = conn.total_changes
        real.execute(sql, stored)
        rows = real.fetchall()
        self._work.statements.append((sql, stored))
        self._work.changes += conn.total_changes - before
        return rows


class RecorderCursor:
    """Stands for a sqlite3.Cursor while a branch is open."""

    arraysize = 1

    def __init__(self, recorder: Recorder, real: sqlite3.Cursor) -> None:
        self._recorder = recorder
        self._real = real
        self._real.row_factory = recorder.row_factory
        self._rows: Iterator[Any] = iter(())
        self._many = -1

    @property
    def connection(self) -> Recorder:
        """The Recorder."""
        return self._recorder

    @property
    def description(self) -> Any:
        """As sqlite3.Cursor.description."""
        return self._real.description

    @property
    def lastrowid(self) -> int | None:
        """As sqlite3.Cursor.lastrowid; it will be the same when the branch is committed."""
        return self._real.lastrowid

    @property
    def rowcount(self) -> int:
        """As sqlite3.Cursor.rowcount."""
        return self._real.rowcount if self._many < 0 else self._many

    def execute(self, sql: str, parameters: Any = (), /) -> Self:
        """As sqlite3.Cursor.execute."""
        self._many = -1
        rows = self._recorder._carry_out(self._real, sql, parameters)
        self._rows = self._real if rows is None else iter(rows)
        return self

    def executemany(self, sql: str, seq_of_parameters: Iterable[Any], /) -> Self:
        """As sqlite3.Cursor.executemany."""
        if not _is_change(sql):
            raise sqlite3.ProgrammingError("executemany() can only execute DML statements.")
        count = 0
        for parameters in seq_of_parameters:
            self._recorder._carry_out(self._real, sql, parameters)
            count += max(0, self._real.rowcount)
        self._many, self._rows = count, iter(())
        return self

    def fetchone(self) -> Any:
        """The next row, or None."""
        return next(self._rows, None)

    def fetchmany(self, size: int | None = None) -> list[Any]:
        """At most ``size`` rows."""
        wanted = self.arraysize if size is None else size
        return [row for _, row in zip(range(wanted), self._rows, strict=False)]

    def fetchall(self) -> list[Any]:
        """The rows that are left."""
        return list(self._rows)

    def __iter__(self) -> Iterator[Any]:
        return self._rows

    def __next__(self) -> Any:
        return next(self._rows)

    def close(self) -> None:
        """As sqlite3.Cursor.close."""
        self._real.close()

    def executescript(self, sql_script: str, /) -> Self:
        """Refused: it commits."""
        raise _refused("executescript()", "it commits; use execute() for each statement")


def _is_change(sql: str) -> bool:
    """Whether ``sql`` is recorded; LocalProtocolError if it can be neither recorded nor let through."""
    found = _WORD.match(sql)
    word = found[1].upper() if found else ""
    rest = sql[found.start(1) :] if found else sql
    if word in _CHANGES or _BACK_TO.match(rest):
        return True
    if word in _READS or _PRAGMA.match(rest):
        return False
    raise _refused(
        f"the statement {word or sql[:20]!r}",
        "a branch holds SELECT, INSERT, REPLACE, UPDATE, DELETE, WITH and savepoints",
    )


def _stored(parameters: Any) -> Any:
    """The parameters as SQLite stores them, so that they can be written down."""
    if isinstance(parameters, dict):
        return {str(name): _plain(value) for name, value in parameters.items()}
    if isinstance(parameters, Sequence):
        return [_plain(value) for value in parameters]
    raise _refused(f"parameters of type {type(parameters).__name__}", "give a tuple, a list or a dict")


def _plain(value: Any) -> Any:
    if type(value) in _STORED:
        return value
    if isinstance(value, bool):
        return int(value)
    adapted: Any = sqlite3.adapt(value, sqlite3.PrepareProtocol, value)
    if isinstance(adapted, (bytearray, memoryview)):
        return bytes(adapted)
    if isinstance(adapted, bytes):
        return bytes(adapted)
    for kind in (int, float, str):
        if isinstance(adapted, kind):
            return kind(adapted)
    raise sqlite3.ProgrammingError(f"a parameter of type {type(value).__name__} is not supported")


def _refused(what: str, instead: str) -> LocalProtocolError:
    return LocalProtocolError(f"{what} has no place in a SQLite branch: {instead}. Nothing was changed by it")
