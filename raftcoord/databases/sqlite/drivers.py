"""SQLite through the standard library's sqlite3: the caller works on a Recorder, which refuses what a branch cannot hold.

Owed: what goes past the Recorder is found at prepare, by the count of changed rows. Never: a commit by the module itself while
a branch is open.
"""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import unquote

from raftcoord.databases.session import NO_BRANCH, DriverSession
from raftcoord.databases.sqlite import DATABASE
from raftcoord.databases.sqlite.recorder import Recorder
from raftcoord.databases.steps import ConnectionLost, NotPossible, Result, SqlError, Statement
from raftcoord.errors import ConfigError
from raftcoord.types import Branch

_FULL: Final = 2
_LEGACY: Final = -1
"""sqlite3.LEGACY_TRANSACTION_CONTROL, new in Python 3.12."""
_FATE_UNKNOWN: Final = re.compile(r"SQLITE_IOERR|SQLITE_CORRUPT|SQLITE_NOTADB|SQLITE_CANTOPEN")


class SqliteSession(DriverSession):
    """A connection of sqlite3."""

    database = DATABASE

    def __init__(self, connection: Any, branch: Branch = NO_BRANCH) -> None:
        super().__init__(connection, branch)
        self._recorder: Recorder | None = None
        self._before: tuple[str | None, int, int] | None = None
        self._apart: sqlite3.Connection | None = None

    @classmethod
    def connect(cls, url: str) -> Self:
        """sqlite:///relative/path or sqlite:////absolute/path; the file must be there."""
        path = unquote(url.partition(":///")[2])
        if not path:
            raise ConfigError("the URL of a SQLite file is sqlite:///path; this one names no file")
        try:
            made = _open(path)
            made.execute("PRAGMA synchronous = FULL")
        except sqlite3.Error as error:
            raise ConnectionLost(f"the SQLite file {path} cannot be opened: {error}") from None
        return cls(made)

    def is_closed(self) -> bool:
        """It is known from asking."""
        try:
            self.connection.total_changes  # noqa: B018 - raises when it is closed
        except sqlite3.ProgrammingError:
            return True
        return False

    def fileno(self) -> int:
        return -1

    def is_autocommit(self) -> bool:
        """isolation_level None, or autocommit=True."""
        return self.connection.isolation_level is None or getattr(self.connection, "autocommit", _LEGACY) is True

    def is_in_transaction(self) -> bool:
        """As SQLite knows."""
        return bool(self.connection.in_transaction)

    def check_fit(self) -> None:
        """Beside the usual: the module must let go of the transactions, which autocommit=False never does."""
        if not self.is_closed() and getattr(self.connection, "autocommit", _LEGACY) is False:
            raise self.unfit("was opened with autocommit=False", "open it without that argument")
        super().check_fit()

    def enter(self) -> None:
        """No BEGIN by the module, and a yes that outlives a power cut."""
        conn = self.connection
        self._check_one_name()
        synchronous, recursive = self._setting("synchronous"), self._setting("recursive_triggers")
        self._before = (conn.isolation_level, synchronous, recursive)
        conn.isolation_level = None
        if synchronous < _FULL:
            self.execute(Statement(f"PRAGMA synchronous = {_FULL}"))
        self._recorder = self.given = Recorder(conn)

    def check_work(self) -> None:
        """Raise NotPossible if more was changed than triggers have seen."""
        assert self._recorder is not None
        self._recorder.end()
        if self.connection.in_transaction:  # otherwise somebody has ended the branch, which the prepare finds
            try:
                self._recorder.check()
            except sqlite3.Error as error:
                raise _judged(error, self.is_closed()) from None

    def execute(self, statement: Statement) -> Result:
        """On a cursor of plain rows."""
        try:
            conn = self._other() if statement.apart else self.connection
            text_factory = conn.text_factory
            conn.text_factory = str
            cursor = conn.cursor()
            try:
                cursor.row_factory = None
                cursor.execute(statement.sql, statement.params)
                return Result(cursor.fetchall() if cursor.description else [], None, cursor.rowcount)
            finally:
                cursor.close()
                conn.text_factory = text_factory
        except sqlite3.Error as error:
            raise _judged(error, self.is_closed()) from None

    def clean(self) -> None:
        """As it was given."""
        self._end_both()
        if self.connection.in_transaction:
            self.connection.rollback()
        if self._before is not None:
            isolation_level, synchronous, recursive = self._before
            self._before = None
            self.execute(Statement(f"PRAGMA synchronous = {synchronous}"))
            self.execute(Statement(f"PRAGMA recursive_triggers = {recursive}"))
            self.connection.isolation_level = isolation_level

    def close(self) -> None:
        """Close it, and the Recorder with it."""
        self._end_both()
        super().close()

    def _end_both(self) -> None:
        if self._recorder is not None:
            self._recorder.end()
        if self._apart is not None:
            self._apart.close()
            self._apart = None

    def _setting(self, name: str) -> int:
        ((value,),) = self.execute(Statement(f"PRAGMA {name}", reads=True)).rows
        return int(value)

    def _path(self) -> str:
        files = self.execute(Statement("PRAGMA database_list", reads=True)).rows
        return next((str(file or "") for _, name, file in files if name == "main"), "")

    def _other(self) -> sqlite3.Connection:
        if self._apart is None:
            self._apart = _open(self._path())
        return self._apart

    def _check_one_name(self) -> None:
        """SQLite finds the journal of a crash by the file's name, so a file of two names loses what was committed."""
        path = self._path()
        try:
            names = Path(path).stat().st_nlink if path else 1
        except OSError as error:
            raise NotPossible(f"the file {path} is not there: {error}") from None
        if names > 1:
            raise NotPossible(
                f"the file {path} has {names} names (hard links), and SQLite finds the journal of a crash by one of them alone; "
                "keep that one"
            )


def _open(path: str) -> sqlite3.Connection:
    """A connection that has nothing of the program's."""
    place = path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    return sqlite3.connect(f"file:{place}?mode=rw", uri=True, isolation_level=None)


def _judged(error: sqlite3.Error, is_closed: bool) -> SqlError | ConnectionLost:
    name = getattr(error, "sqlite_errorname", "")
    if _FATE_UNKNOWN.match(name) or is_closed:
        return ConnectionLost(f"the SQLite file failed: {error}")
    return SqlError(name, str(error))
