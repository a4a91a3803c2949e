"""The databases of the crash matrix, looked at from outside: an account, what is prepared, and whether anybody can change it.

Owed: ``is_free`` is true only if the row can be changed by somebody else at this moment. Never: a wait for a lock.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

from raftcoord.drills.crashes_drivers import MARIADB, POSTGRESQL, SQLITE
from raftcoord.drills.servers import MariaDbServer, PostgreSqlServer, Server
from raftcoord.resources import drivers
from raftcoord.resources.dialects import DIALECTS
from raftcoord.resources.session import Session
from raftcoord.resources.steps import ConnectionLost, SqlError, Statement
from raftcoord.types import Branch, TxId

OPENING_CENTS: Final = 1_000_000
_T = TypeVar("_T")
_NOT_PATIENT: Final = {
    POSTGRESQL: "SET lock_timeout = '1ms'",
    MARIADB: "SET innodb_lock_wait_timeout = 0",
    SQLITE: "PRAGMA busy_timeout = 0",
}
_LOCKED: Final = ("55P03", "1205", "SQLITE_CONSTRAINT_TRIGGER", "SQLITE_BUSY")
"""lock_not_available, ER_LOCK_WAIT_TIMEOUT, the frozen file of SQLite, and another writer in it."""


class Bank:
    """One account in a database. ``url``: of a database that is there; ``account``: a name of [a-z0-9-].

    Close it in the thread that has looked; another one may look then.
    """

    def __init__(self, kind: str, branch: Branch, url: str, account: str) -> None:
        self.kind = kind
        self.branch = branch
        self.url = url
        self.account = account
        self.dialect = DIALECTS[kind]
        self._session: Session | None = None
        self._sql("CREATE TABLE IF NOT EXISTS accounts (name VARCHAR(20) PRIMARY KEY, cents BIGINT NOT NULL)")
        self._do(lambda session: session.run(self.dialect.create_marks()))
        self._sql(f"INSERT INTO accounts VALUES ('{account}', {OPENING_CENTS})")
        self.close()

    def cents(self) -> int:
        """What the account holds."""
        ((cents,),) = self._sql(f"SELECT cents FROM accounts WHERE name = '{self.account}'")
        return int(cents)

    def prepared(self, cluster: str) -> list[TxId]:
        """What is prepared for this branch."""
        listed = self._do(lambda session: session.run(self.dialect.list_prepared(cluster)))
        return [each.gid.txid for each in listed if each.gid.branch == self.branch]

    def is_free(self, cluster: str, txid: TxId) -> bool:
        """Nothing of ``txid`` is prepared, and somebody else's update of the account succeeds."""
        if txid in self.prepared(cluster):
            return False
        try:
            self._sql(f"UPDATE accounts SET cents = cents WHERE name = '{self.account}'")
        except SqlError as error:
            if error.code in _LOCKED:
                return False
            raise
        return True

    def close(self) -> None:
        """Hang up."""
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def _sql(self, text: str) -> list[tuple[Any, ...]]:
        return self._do(lambda session: session.execute(Statement(text, reads=True, outside=True)).rows)

    def _do(self, work: Callable[[Session], _T]) -> _T:
        """On a connection that is made anew when the server was killed since."""
        if self._session is not None:
            with contextlib.suppress(ConnectionLost):
                return work(self._session)
            self.close()
        self._session = drivers.connect(self.url)
        self._session.execute(Statement(_NOT_PATIENT[self.kind], outside=True))
        return work(self._session)


def made_database(server: Server | None, name: str, directory: Path) -> str:
    """A new database; its URL. ``server``: None for SQLite."""
    if server is None:
        path = directory / f"{name}.db"
        with contextlib.closing(sqlite3.connect(path)) as made:
            made.execute("PRAGMA journal_mode = WAL")
        return f"sqlite:///{path}"
    assert isinstance(server, PostgreSqlServer | MariaDbServer)
    quote = '"' if isinstance(server, PostgreSqlServer) else "`"
    session = drivers.connect(server.url())
    session.execute(Statement(f"CREATE DATABASE {quote}{name}{quote}", outside=True))
    session.close()
    return server.url(name)
