"""The connection and the cursors that a SQLite branch is worked on with: sqlite3's, except for what would escape the branch.

What a branch has changed is written down by triggers (file.py). They add one row to the journal for each row that is
changed, and SQLite counts both, so it may count at most twice the journal's length: a change that no trigger has seen is found.

Owed: a statement whose effect triggers cannot see is a LocalProtocolError before it is carried out, or it is found by the count
before the prepare.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Iterator
from typing import Any, Final, Self

from raftcoord.databases.sqlite.file import REPLACES
from raftcoord.databases.steps import NotPossible
from raftcoord.errors import LocalProtocolError

_HEAD: Final = re.compile(r"(?:\s|;|--[^\n]*(?:\n|$)|/\*.*?(?:\*/|$))*", re.DOTALL)
_READS: Final = {"SELECT", "VALUES", "EXPLAIN"}
_CHANGES: Final = {"INSERT", "REPLACE", "UPDATE", "DELETE", "WITH", "SAVEPOINT", "RELEASE"}
_BACK_TO: Final = re.compile(r"ROLLBACK\s+(?:TRANSACTION\s+)?TO\b", re.IGNORECASE)
_PRAGMA: Final = re.compile(
    r"PRAGMA\s+(?:\w+\.)?(?:(?:table_info|table_xinfo|table_list|index_list|index_info|index_xinfo|foreign_key_list|"
    r"foreign_key_check)\b(?!\s*=)|(?:foreign_keys|user_version|schema_version|journal_mode|encoding|database_list)\s*;?\s*$)",
    re.IGNORECASE,
)
_FAIL: Final = re.compile(r"\bFAIL\b", re.IGNORECASE)
"""A statement with it keeps what it had done when it fails."""


class Recorder:
    """Stands for a sqlite3.Connection while a branch is open."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._ended = False
        self._changes = 0
        self._counted, self._journal = 0, 0  # since the last moment at which the journal may have become shorter
        self._unseen = False
        self.row_factory = connection.row_factory

    def end(self) -> None:
        """Take no more statements."""
        self._ended = True

    def check(self) -> None:
        """Raise NotPossible unless all changes of the branch were made here, and seen by triggers."""
        begun = self._read(
            "SELECT changes, schema = (SELECT schema_version FROM pragma_schema_version) FROM raftcoord_open"
        )
        if not begun or not begun[1] or self._connection.total_changes - begun[0] != self._changes:
            raise NotPossible("it was worked on beside the connection that enlist() returned; use that one alone")
        self._compare()
        if self._unseen:
            raise NotPossible(
                "it has changed rows that triggers are not shown, of a table of SQLite's or raftcoord's own or behind a trigger "
                "with RAISE(IGNORE); what was changed there could not be prepared"
            )

    def cursor(self, factory: Any = None) -> RecorderCursor:
        """A cursor. A ``factory`` of the program's own is refused, because it could do what a branch cannot hold."""
        if factory is not None:
            raise _refused("a cursor class of one's own", "use cursor() without an argument")
        return RecorderCursor(self, self._open().cursor())

    def execute(self, sql: str, parameters: Any = ()) -> RecorderCursor:
        return self.cursor().execute(sql, parameters)

    def executemany(self, sql: str, parameters: Iterable[Any]) -> RecorderCursor:
        return self.cursor().executemany(sql, parameters)

    @property
    def in_transaction(self) -> bool:
        """True while the branch is open."""
        return self._connection.in_transaction

    @property
    def total_changes(self) -> int:
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
        """Execute; the rows if it was a change, because only then has all of it been done."""
        conn = self._open()
        if not _is_change(sql):
            real.execute(sql, parameters)
            return None
        goes_back = bool(_BACK_TO.match(_without_head(sql)))
        if goes_back:
            self._compare()
        elif REPLACES.search(sql) and self._read("PRAGMA recursive_triggers") != (1,):
            raise _refused(
                "REPLACE in a file with triggers of your own",
                "set PRAGMA recursive_triggers = ON before it is enlisted, or write ON CONFLICT ... DO UPDATE",
            )
        before = conn.total_changes
        try:
            real.execute(sql, parameters)
            rows: list[Any] = real.fetchall()
        except BaseException:
            self._failed(conn.total_changes - before, bool(_FAIL.search(sql)))
            raise
        changed = conn.total_changes - before
        self._changes += changed
        self._counted += changed
        if goes_back:
            self._start_over()
        return rows

    def _failed(self, changed: int, keeps: bool) -> None:
        """SQLite has counted what the triggers did, and has taken it back unless the statement ``keeps`` it."""
        self._changes += changed
        if not self._connection.in_transaction:  # OR ROLLBACK: the branch has ended, which its prepare finds
            return
        kept = 2 * (self._length() - self._journal) - self._counted
        self._unseen = self._unseen or kept < (changed if keeps else 0)
        self._start_over()

    def _compare(self) -> None:
        self._unseen = self._unseen or self._counted > 2 * (self._length() - self._journal)

    def _start_over(self) -> None:
        self._counted, self._journal = 0, self._length()

    def _length(self) -> int:
        length: int = self._read("SELECT coalesce(max(rowid), 0) FROM raftcoord_touched")[0]
        return length

    def _read(self, sql: str) -> Any:
        """One row of plain values."""
        cursor = self._connection.cursor()
        cursor.row_factory = None
        try:
            return cursor.execute(sql).fetchone()
        finally:
            cursor.close()


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
        return self._real.description

    @property
    def lastrowid(self) -> int | None:
        """As sqlite3.Cursor.lastrowid; it will be the same when the branch is committed."""
        return self._real.lastrowid

    @property
    def rowcount(self) -> int:
        return self._real.rowcount if self._many < 0 else self._many

    def execute(self, sql: str, parameters: Any = (), /) -> Self:
        self._many = -1
        rows = self._recorder._carry_out(self._real, sql, parameters)
        self._rows = self._real if rows is None else iter(rows)
        return self

    def executemany(self, sql: str, seq_of_parameters: Iterable[Any], /) -> Self:
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
        self._real.close()

    def executescript(self, sql_script: str, /) -> Self:
        """Refused: it commits."""
        raise _refused("executescript()", "it commits; use execute() for each statement")


def _is_change(sql: str) -> bool:
    """Whether ``sql`` may change rows; LocalProtocolError if it has no place in a branch."""
    rest = _without_head(sql)
    word = re.match("[A-Za-z]*", rest)[0].upper()  # type: ignore[index]
    if word in _CHANGES or _BACK_TO.match(rest):
        return True
    if word in _READS or _PRAGMA.match(rest):
        return False
    raise _refused(
        f"the statement {word or sql[:20]!r}",
        "a branch holds SELECT, INSERT, REPLACE, UPDATE, DELETE, WITH and savepoints",
    )


def _without_head(sql: str) -> str:
    """From its first word on."""
    return sql[_HEAD.match(sql).end() :]  # type: ignore[union-attr]


def _refused(what: str, instead: str) -> LocalProtocolError:
    return LocalProtocolError(f"{what} has no place in a SQLite branch: {instead}. Nothing was changed by it")
