"""PostgreSQL through psycopg 3 (both), psycopg2, pg8000 and asyncpg.

All but asyncpg begin a transaction by themselves before a statement unless they are in autocommit, so what must stand outside
one needs autocommit for that while. asyncpg never does: there a branch is begun through its own transaction object, so that
``async with connection.transaction()`` inside the block is a savepoint as usual.
"""

from __future__ import annotations

import contextlib
from typing import Any, Final, Self

from raftcoord.databases.patience import CONNECT_S, shut_down
from raftcoord.databases.postgresql import DATABASE
from raftcoord.databases.session import NO_BRANCH, AsyncDriverSession, Base, DriverSession
from raftcoord.databases.steps import (
    POOLED,
    BranchEnded,
    ConnectionLost,
    LoginRefused,
    NeverSent,
    Result,
    SqlError,
    Statement,
)
from raftcoord.databases.urls import UNREADABLE, Url
from raftcoord.errors import ConfigError
from raftcoord.types import Branch

_PROXY: Final = "PoolConnectionProxy"  # a pool of asyncpg gives it out; its _con is None once the pool has it back
_LOST_CLASSES: Final = ("08",)
_LOST_CODES: Final = ("57P01", "57P02", "57P03", "57P05", "25P03", "25P04")
"""Connection exceptions, and the server's announcements that it ends the session."""


def _judged(error: Exception, code: object) -> SqlError | ConnectionLost:
    text = _first_line(error)
    if not isinstance(code, str) or not code or code[:2] in _LOST_CLASSES or code in _LOST_CODES:
        return ConnectionLost(f"the connection to PostgreSQL failed: {text or type(error).__name__}")
    return SqlError(code, text)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]


class _PostgreSqlBase(Base):
    """What the sessions of all drivers but asyncpg's share."""

    database = DATABASE
    _switched = False

    def is_closed(self) -> bool:
        """Closed or broken."""
        return bool(self.connection.closed)

    def is_autocommit(self) -> bool:
        """The driver's own setting."""
        return bool(self.connection.autocommit)

    def _must_switch(self, statement: Statement) -> bool:
        """Whether the driver would begin a transaction before a statement that must not stand in one."""
        return statement.outside and not statement.ahead and not self.connection.autocommit


class _PostgreSqlSyncSession(_PostgreSqlBase, DriverSession):
    """What the synchronous drivers share."""

    def clean(self) -> None:
        """Roll back what is open, or what the driver takes for open; the caller's autocommit setting again."""
        if not self.connection.autocommit:
            self.connection.rollback()
        if self._switched:
            self.connection.autocommit = self._switched = False

    def _step_outside(self, statement: Statement) -> None:
        if self._must_switch(statement):
            self.connection.autocommit = self._switched = True


class _Psycopg(_PostgreSqlBase):
    """What libpq knows of a connection of psycopg 3."""

    at_once = True

    def is_failed(self) -> bool:
        """As libpq knows."""
        return self._status() == "INERROR"

    def is_in_transaction(self) -> bool:
        """As libpq knows."""
        return self._status() != "IDLE"

    def _status(self) -> str:
        from psycopg.pq import TransactionStatus

        return TransactionStatus(self.connection.info.transaction_status).name


class PsycopgSession(_Psycopg, _PostgreSqlSyncSession):
    """psycopg 3."""

    @classmethod
    def connect(cls, url: str) -> Self:
        """With libpq's own reading of the URL."""
        import psycopg

        try:
            return cls(psycopg.connect(url, autocommit=True, connect_timeout=CONNECT_S))
        except psycopg.ProgrammingError:
            raise ConfigError(UNREADABLE) from None
        except psycopg.Error as error:
            asked = error.pgconn is not None and (error.pgconn.needs_password or error.pgconn.used_password)
            if asked:  # libpq tells no SQLSTATE here; it knows that the server asked for a password
                raise LoginRefused(f"the server refuses the login: {_first_line(error)}") from None
            raise _judged(error, error.sqlstate) from None

    def execute(self, statement: Statement) -> Result:
        """In the simple protocol, which takes several statements; on a cursor of plain rows if rows are wanted."""
        import psycopg
        from psycopg.rows import tuple_row

        conn = self.connection
        try:
            self._step_outside(statement)
            if not statement.reads:
                return _read(conn.wait(_said(conn, statement)), len(statement.ahead))
            with psycopg.Cursor(conn, row_factory=tuple_row) as cursor:
                cursor.execute("; ".join((*statement.ahead, statement.sql)), prepare=False)
                tags = [_tag(cursor.statusmessage)]
                while cursor.nextset():
                    tags.append(_tag(cursor.statusmessage))
                rows = cursor.fetchall() if cursor.description else []
                return Result(rows, tags[-1], cursor.rowcount, tuple(tags[:-1]))
        except psycopg.Error as error:
            raise _judged(error, error.sqlstate) from None


class AsyncPsycopgSession(_Psycopg, AsyncDriverSession):
    """psycopg 3's AsyncConnection."""

    def hang_up(self) -> None:
        shut_down(self.connection.fileno())

    async def execute(self, statement: Statement) -> Result:
        """In the simple protocol, which takes several statements; on a cursor of plain rows if rows are wanted."""
        import psycopg
        from psycopg.rows import tuple_row

        conn = self.connection
        try:
            if self._must_switch(statement):
                await self.connection.set_autocommit(True)
                self._switched = True
            if not statement.reads:
                return _read(await conn.wait(_said(conn, statement)), len(statement.ahead))
            async with psycopg.AsyncCursor(conn, row_factory=tuple_row) as cursor:
                await cursor.execute("; ".join((*statement.ahead, statement.sql)), prepare=False)
                tags = [_tag(cursor.statusmessage)]
                while cursor.nextset():
                    tags.append(_tag(cursor.statusmessage))
                rows = await cursor.fetchall() if cursor.description else []
                return Result(rows, tags[-1], cursor.rowcount, tuple(tags[:-1]))
        except psycopg.Error as error:
            raise _judged(error, error.sqlstate) from None

    async def clean(self) -> None:
        """Roll back what is open; the caller's autocommit setting again."""
        if not self.connection.autocommit:
            await self.connection.rollback()
        if self._switched:
            await self.connection.set_autocommit(False)
            self._switched = False

    async def close(self) -> None:
        """Hang up."""
        with contextlib.suppress(Exception):
            await self.connection.close()


class Psycopg2Session(_PostgreSqlSyncSession):
    """psycopg2. It does not see that PREPARE TRANSACTION has ended the transaction, and until ``clean`` begins no other."""

    @classmethod
    def connect(cls, url: str) -> Self:
        """With libpq's own reading of the URL."""
        import psycopg2

        try:
            made = psycopg2.connect(url, connect_timeout=CONNECT_S)
            made.autocommit = True
        except psycopg2.ProgrammingError:
            raise ConfigError(UNREADABLE) from None
        except psycopg2.Error as error:
            raise _judged(error, error.pgcode) from None
        return cls(made)

    def is_failed(self) -> bool:
        """As libpq knows."""
        import psycopg2.extensions

        return bool(self.connection.info.transaction_status == psycopg2.extensions.TRANSACTION_STATUS_INERROR)

    def is_in_transaction(self) -> bool:
        """As the driver thinks."""
        import psycopg2.extensions

        return bool(self.connection.status != psycopg2.extensions.STATUS_READY)

    def _must_switch(self, statement: Statement) -> bool:
        return super()._must_switch(statement) and not self.is_in_transaction()

    def execute(self, statement: Statement) -> Result:
        """On a cursor of plain rows."""
        import psycopg2
        import psycopg2.extensions

        try:
            self._step_outside(statement)
            with self.connection.cursor(cursor_factory=psycopg2.extensions.cursor) as cursor:
                cursor.execute(statement.sql)
                rows = cursor.fetchall() if cursor.description else []
                return Result(rows, _tag(cursor.statusmessage), cursor.rowcount)
        except psycopg2.Error as error:
            raise _judged(error, error.pgcode) from None


class Pg8000Session(_PostgreSqlSyncSession):
    """pg8000's DB-API connection. It shows no command tag."""

    @classmethod
    def connect(cls, url: str) -> Self:
        """With our reading of the URL."""
        import pg8000.dbapi

        read = Url.parse(url, 5432)
        try:
            made = pg8000.dbapi.connect(
                user=read.user or "postgres",
                password=read.password or None,
                host=read.host,
                port=read.port,
                database=read.database or None,
                timeout=CONNECT_S,
            )
        except (pg8000.dbapi.Error, OSError) as error:
            raise _judged(error, _pg8000_code(error)) from None
        made.autocommit = True
        made._usock.settimeout(None)  # that was for the greeting; a statement may take longer
        return cls(made)

    def is_closed(self) -> bool:
        """It forgets its socket when it closes."""
        return self.connection._usock is None

    def is_failed(self) -> bool:
        """As the server said last."""
        return bool(self.connection._transaction_status == b"E")

    def is_in_transaction(self) -> bool:
        """As the server said last; nothing at all before the first answer."""
        return self.connection._transaction_status not in (b"I", None)

    def fileno(self) -> int:
        return int(self.connection._usock.fileno())

    def execute(self, statement: Statement) -> Result:
        """On a cursor."""
        import pg8000.dbapi

        try:
            self._step_outside(statement)
            cursor = self.connection.cursor()
            try:
                cursor.execute(statement.sql)
                rows = [tuple(row) for row in cursor.fetchall()] if cursor.description else []
                return Result(rows, None, cursor.rowcount)
            finally:
                cursor.close()
        except pg8000.dbapi.InterfaceError as error:  # a failed transaction, seen by the driver; or a lost connection
            failed = self.is_failed() and not self.is_closed() and "network" not in str(error)
            raise _judged(error, "25P02" if failed else None) from None
        except (pg8000.dbapi.Error, OSError) as error:
            raise _judged(error, _pg8000_code(error)) from None


class AsyncpgSession(AsyncDriverSession):
    """asyncpg, also through its pool."""

    database = DATABASE
    _transaction: Any = None

    def __init__(self, connection: Any, branch: Branch = NO_BRANCH) -> None:
        super().__init__(connection, branch)
        self._inner = connection._con if type(connection).__name__ == _PROXY else connection

    def is_closed(self) -> bool:
        """Closed, or given back to its pool."""
        try:
            return bool(self.connection.is_closed())
        except Exception:  # a pool's connection that was released
            return True

    def is_autocommit(self) -> bool:
        """It has no such mode: a transaction is open or is not."""
        return False

    def is_in_transaction(self) -> bool:
        """As the server said last."""
        return bool(self.connection.is_in_transaction())

    def hang_up(self) -> None:
        self.connection.terminate()

    async def enter(self) -> None:
        """BEGIN."""
        self._transaction = self.connection.transaction()
        try:
            await self._transaction.start()
        except Exception as error:
            raise _judged(error, getattr(error, "sqlstate", None)) from None

    async def execute(self, statement: Statement) -> Result:
        """Without a prepared statement, unless rows are wanted."""
        self._check_held()
        try:
            if statement.reads:
                rows = [tuple(row) for row in await self.connection.fetch(statement.sql)]
                return Result(rows, None, len(rows))
            status = await self.connection.execute(statement.sql)
        except Exception as error:
            raise _judged(error, getattr(error, "sqlstate", None)) from None
        tag, _, number = status.rpartition(" ")
        return Result([], _tag(status), int(number)) if number.isdigit() else Result([], _tag(tag + " " + number), -1)

    def _check_held(self) -> None:
        """A pool takes its connection back when the program gives it, and as well when it dies: the connection knows which."""
        if type(self.connection).__name__ == _PROXY and self.connection._con is None:
            if self._inner.is_closed():
                raise NeverSent("the connection to PostgreSQL failed: it was closed, by the server or on the way there")
            raise BranchEnded(POOLED)

    async def clean(self) -> None:
        """End its transaction object, which has not seen the end: for the server it is a ROLLBACK of nothing."""
        transaction, self._transaction = self._transaction, None
        if transaction is not None:
            await transaction.rollback()

    async def close(self) -> None:
        """Hang up at once: a polite close would wait for what cannot be answered any more."""
        with contextlib.suppress(Exception):
            self.connection.terminate()


def _said(conn: Any, statement: Statement) -> Any:
    """Have psycopg send the statements in one string, behind the BEGIN that it would send by itself, and read the answers."""
    from psycopg import errors, generators
    from psycopg.pq import ExecStatus, TransactionStatus

    begins = not conn.autocommit and conn.pgconn.transaction_status == TransactionStatus.IDLE
    conn.pgconn.send_query("; ".join((*([_begin(conn)] if begins else []), *statement.ahead, statement.sql)).encode())
    results = yield from generators.execute(conn.pgconn)
    for result in results:
        if result.status == ExecStatus.FATAL_ERROR:
            raise errors.error_from_result(result, encoding=conn.info.encoding)
    return results


def _begin(conn: Any) -> str:
    """As psycopg begins a transaction, with the connection's own settings."""
    words = ["BEGIN"]
    if conn.isolation_level is not None:
        words += ["ISOLATION LEVEL", conn.isolation_level.name.replace("_", " ")]
    if conn.read_only is not None:
        words.append("READ ONLY" if conn.read_only else "READ WRITE")
    if conn.deferrable is not None:
        words.append("DEFERRABLE" if conn.deferrable else "NOT DEFERRABLE")
    return " ".join(words)


def _read(results: Any, ahead: int) -> Result:
    """The last of psycopg's results, and the tags of those ``ahead`` of it."""
    tags = [_tag((result.command_status or b"").decode()) for result in results[-ahead - 1 :]]
    touched = results[-1].command_tuples
    return Result([], tags[-1], -1 if touched is None else touched, tuple(tags[:-1]))


def _tag(status: str | None) -> str | None:
    """The command without its count."""
    return None if status is None else status.rstrip("0123456789 ").strip()


def _pg8000_code(error: Exception) -> str | None:
    given = error.args[0] if error.args else None
    code = given.get("C") if isinstance(given, dict) else None
    return code if isinstance(code, str) else None
