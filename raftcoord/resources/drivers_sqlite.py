"""SQLite through the standard library's sqlite3: the caller works on a Recorder, which writes down what is to be repeated.

Owed: every statement that changes the file is recorded or refused; what goes past the Recorder is found at prepare, by
the count of changed rows. Never: a commit by the module itself while a branch is open.
"""

from __future__ import annotations

import re
import sqlite3
from typing import Any, Final, Self
from urllib.parse import unquote

from raftcoord.errors import ConfigError
from raftcoord.resources.dialects import DIALECTS
from raftcoord.resources.recorder import Recorder
from raftcoord.resources.session import NO_BRANCH, Session
from raftcoord.resources.sqlite import Work
from raftcoord.resources.steps import ConnectionLost, NotPossible, Result, SqlError, Statement
from raftcoord.types import Branch

_FULL: Final = 2
_LEGACY: Final = -1
"""sqlite3.LEGACY_TRANSACTION_CONTROL, new in Python 3.12."""
_FATE_UNKNOWN: Final = re.compile(r"SQLITE_IOERR|SQLITE_CORRUPT|SQLITE_NOTADB|SQLITE_CANTOPEN")


class SqliteSession(Session):
    """A connection of sqlite3."""

    dialect = DIALECTS["sqlite"]

    def __init__(self, connection: Any, branch: Branch = NO_BRANCH) -> None:
        super().__init__(connection, branch)
        self._recorder: Recorder | None = None
        self._before: tuple[str | None, int] | None = None

    @classmethod
    def connect(cls, url: str) -> Self:
        """sqlite:///relative/path or sqlite:////absolute/path; the file must be there."""
        path = unquote(url.partition(":///")[2])
        if not path:
            raise ConfigError("the URL of a SQLite file is sqlite:///path; this one names no file")
        try:
            made = sqlite3.connect(
                f"file:{path.replace('?', '%3f').replace('#', '%23')}?mode=rw", uri=True, isolation_level=None
            )
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
        """See Session."""
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
        ((synchronous,),) = self.execute(Statement("PRAGMA synchronous", reads=True)).rows
        self._before = (conn.isolation_level, synchronous)
        conn.isolation_level = None
        if synchronous < _FULL:
            self.execute(Statement(f"PRAGMA synchronous = {_FULL}"))
        self._recorder = self.given = Recorder(conn)

    def work(self) -> bytes:
        """What was recorded. Raises NotPossible if more was changed than that."""
        assert self._recorder is not None
        work: Work = self._recorder.end()
        if self.connection.total_changes - self._recorder.start != work.changes:
            raise NotPossible("it was worked on beside the connection that enlist() returned; use that one alone")
        ((foreign_keys,),) = self.execute(Statement("PRAGMA foreign_keys", reads=True)).rows
        work.foreign_keys = bool(foreign_keys)
        return work.pack()

    def execute(self, statement: Statement) -> Result:
        """On a cursor of plain rows."""
        try:
            cursor = self.connection.cursor()
            cursor.row_factory = None
            try:
                cursor.execute(statement.sql, statement.params)
                return Result(cursor.fetchall() if cursor.description else [], None, cursor.rowcount)
            finally:
                cursor.close()
        except sqlite3.Error as error:
            name = getattr(error, "sqlite_errorname", "")
            if _FATE_UNKNOWN.match(name) or self.is_closed():
                raise ConnectionLost(f"the SQLite file failed: {error}") from None
            raise SqlError(name, str(error)) from None

    def clean(self) -> None:
        """As it was given."""
        if self._recorder is not None:
            self._recorder.end()
        if self.connection.in_transaction:
            self.connection.rollback()
        if self._before is not None:
            isolation_level, synchronous = self._before
            self._before = None
            self.execute(Statement(f"PRAGMA synchronous = {synchronous}"))
            self.connection.isolation_level = isolation_level

    def close(self) -> None:
        """Close it, and the Recorder with it."""
        if self._recorder is not None:
            self._recorder.end()
        super().close()
