"""MariaDB and MySQL through PyMySQL, mysqlclient, mariadb, asyncmy and aiomysql.

XA statements may stand anywhere, so no driver needs to be told anything. Outside a branch, a reading statement opens a
transaction when autocommit is off; ``clean`` ends it.
"""

from __future__ import annotations

import abc
import contextlib
from typing import Any, Final, Self

from raftcoord.databases.mariadb import DATABASE
from raftcoord.databases.patience import CONNECT_S
from raftcoord.databases.session import AsyncDriverSession, Base, DriverSession
from raftcoord.databases.steps import ConnectionLost, Result, SqlError, Statement
from raftcoord.databases.urls import UNREADABLE, Url
from raftcoord.errors import ConfigError

_CLIENT_ERRORS: Final = range(2000, 3000)
"""Errors of the client library (MySQL reference, Client Error Message Reference): no answer of the server."""
_LOST: Final = (1040, 1053, 1152, 1153, 1158, 1159, 1160, 1161, 1184, 1203, 1927, 3169, 4031)
"""The server's own ends of a connection: too many, shutdown, aborted, packets, killed, timed out."""


def _judged(error: BaseException, code: object) -> SqlError | ConnectionLost:
    text = str(error.args[1]) if len(error.args) > 1 else str(error)
    text = text.strip().partition("\n")[0]
    if not isinstance(code, int) or code < 1000 or code in _CLIENT_ERRORS or code in _LOST:
        return ConnectionLost(f"the connection to MariaDB failed: {text or type(error).__name__}")
    return SqlError(str(code), text)


def _code(error: BaseException) -> object:
    return error.args[0] if error.args else None


class _MariaDbBase(Base):
    """What the sessions of all drivers share."""

    database = DATABASE
    _looked = False

    def is_autocommit(self) -> bool:
        """The session's, as the server said."""
        return bool(self.connection.get_autocommit())

    @abc.abstractmethod
    def _cursor(self) -> Any:
        """A cursor of plain rows."""


class _MariaDbSyncSession(_MariaDbBase, DriverSession):
    """What the synchronous drivers share."""

    def is_closed(self) -> bool:
        """The driver's own knowledge."""
        return not self.connection.open

    def _code(self, error: Exception) -> object:
        return _code(error)

    def execute(self, statement: Statement) -> Result:
        """On a cursor of plain rows."""
        self._looked = self._looked or statement.outside
        try:
            cursor = self._cursor()
            try:
                cursor.execute(statement.sql)
                rows = [tuple(row) for row in cursor.fetchall()] if cursor.description else []
                return Result(rows, None, len(rows) if cursor.description else cursor.rowcount)
            finally:
                cursor.close()
        except Exception as error:
            raise _judged(error, self._code(error)) from None

    def clean(self) -> None:
        """End the transaction that looking has opened."""
        if self._looked:
            self._looked = False
            self.connection.rollback()


class PyMySqlSession(_MariaDbSyncSession):
    @classmethod
    def connect(cls, url: str) -> Self:
        """By TCP, or by ?unix_socket=."""
        import pymysql

        made = _connected(pymysql.connect, url, read_timeout=CONNECT_S)
        made._read_timeout = None  # that was for the greeting; a statement may take longer
        return cls(made)

    def fileno(self) -> int:
        return int(self.connection._sock.fileno())

    def _cursor(self) -> Any:
        from pymysql.cursors import Cursor

        return self.connection.cursor(Cursor)


class MySqlClientSession(_MariaDbSyncSession):
    """mysqlclient (MySQLdb)."""

    @classmethod
    def connect(cls, url: str) -> Self:
        """By TCP, or by ?unix_socket=."""
        import MySQLdb

        return cls(_connected(MySQLdb.connect, url))

    def _cursor(self) -> Any:
        from MySQLdb.cursors import Cursor

        return self.connection.cursor(Cursor)


class MariaDbSession(_MariaDbSyncSession):
    """MariaDB Connector/Python."""

    @classmethod
    def connect(cls, url: str) -> Self:
        """By TCP, or by ?unix_socket=."""
        import mariadb

        return cls(_connected(mariadb.connect, url))

    def is_autocommit(self) -> bool:
        """The session's, as the server said."""
        return bool(self.connection.autocommit)

    def is_closed(self) -> bool:
        """Its ``open`` asks the server, and fails when there is none."""
        try:
            return not self.connection.open
        except Exception:
            return True

    def fileno(self) -> int:
        return int(self.connection._get_socket())

    def _cursor(self) -> Any:
        return self.connection.cursor(named_tuple=False, dictionary=False)

    def _code(self, error: Exception) -> object:
        return getattr(error, "errno", None)


class _AsyncSession(_MariaDbBase, AsyncDriverSession):
    """What the asynchronous drivers share."""

    def hang_up(self) -> None:
        self.connection.close()

    async def execute(self, statement: Statement) -> Result:
        """On a cursor of plain rows."""
        self._looked = self._looked or statement.outside
        try:
            async with self._cursor() as cursor:
                await cursor.execute(statement.sql)
                rows = [tuple(row) for row in await cursor.fetchall()] if cursor.description else []
                return Result(rows, None, len(rows) if cursor.description else cursor.rowcount)
        except Exception as error:
            raise _judged(error, _code(error)) from None

    async def clean(self) -> None:
        """End the transaction that looking has opened."""
        if self._looked:
            self._looked = False
            await self.connection.rollback()

    async def close(self) -> None:
        """Hang up."""
        with contextlib.suppress(Exception):
            self.connection.close()


class AsyncmySession(_AsyncSession):
    def is_closed(self) -> bool:
        """The driver's own knowledge."""
        return not self.connection.connected

    def _cursor(self) -> Any:
        from asyncmy.cursors import Cursor

        return self.connection.cursor(Cursor)


class AiomysqlSession(_AsyncSession):
    def is_closed(self) -> bool:
        """The driver's own knowledge."""
        return bool(self.connection.closed)

    def _cursor(self) -> Any:
        from aiomysql import Cursor

        return self.connection.cursor(Cursor)


def _connected(connect: Any, url: str, **more: Any) -> Any:
    read = Url.parse(url, 3306)
    given: dict[str, Any] = {"connect_timeout": CONNECT_S, "autocommit": True, **more}
    if read.user:
        given["user"] = read.user
    if read.password:
        given["password"] = read.password
    if read.database:
        given["database"] = read.database
    if read.unix_socket:
        given["unix_socket"] = read.unix_socket
    else:
        given.update(host=read.host, port=read.port)
    try:
        return connect(**given)
    except (TypeError, ValueError):
        raise ConfigError(UNREADABLE) from None
    except Exception as error:
        raise _judged(error, getattr(error, "errno", _code(error))) from None
