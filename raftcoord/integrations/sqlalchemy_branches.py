"""A branch on a connection that SQLAlchemy has checked out of its pool.

Owed: statements of the protocols go to the driver's own connection, past SQLAlchemy; the connection is returned to the pool
outside any transaction, or invalidated, which closes it. For an asynchronous engine everything here runs in SQLAlchemy's
greenlet, so that one text serves both kinds.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy.engine import Connection
from sqlalchemy.util import await_only

from raftcoord.resources import drivers
from raftcoord.resources.session import AsyncSession, Session
from raftcoord.resources.steps import ConnectionLost, Result, SqlError, Statement
from raftcoord.types import Branch


def session(connection: Connection, branch: Branch) -> Session:
    """The session over ``connection``. Raises LocalProtocolError for a driver that is not known."""
    driver_connection = connection.connection.driver_connection
    if not connection.dialect.is_async:
        return _Pooled(connection, drivers.session(driver_connection, branch))
    inner = drivers.async_session(driver_connection, branch)
    assert isinstance(inner, AsyncSession)
    return (_PooledAsyncpg if connection.dialect.driver == "asyncpg" else _PooledAsync)(connection, inner)


class _PooledBase(Session):
    """What both kinds share. ``connection``: the driver's."""

    def __init__(self, outer: Connection, inner: Session | AsyncSession) -> None:
        super().__init__(inner.connection, inner.branch)
        self.dialect = inner.dialect
        self._outer = outer
        self._inner = inner

    def is_closed(self) -> bool:
        """Also when SQLAlchemy has given it up."""
        return self._outer.closed or self._outer.invalidated or self._inner.is_closed()

    def is_autocommit(self) -> bool:
        """As the driver says."""
        return self._inner.is_autocommit()

    def is_failed(self) -> bool:
        """As the driver says."""
        return self._inner.is_failed()

    def check_fit(self) -> None:
        """By the driver's own rule. What a listener or a ping of the pool has begun in PostgreSQL goes on as the branch's."""
        if self.dialect.name == "postgresql":
            super().check_fit()
        else:
            self._inner.check_fit()

    def work(self) -> bytes:
        """What a SQLite branch has done."""
        return self._inner.work()

    def close(self) -> None:
        """Close it, and tell SQLAlchemy, which then sends nothing over it any more."""
        if not self._outer.closed:
            self._outer.invalidate()


class _Pooled(_PooledBase):
    """Over a synchronous driver."""

    _inner: Session

    def enter(self) -> None:
        """As the driver needs it. SQLAlchemy works on what is recorded, where the driver's session records (SQLite)."""
        self._inner.enter()
        self._lend(self._inner.given)

    def execute(self, statement: Statement) -> Result:
        """By the driver's session."""
        return self._inner.execute(statement)

    def clean(self) -> None:
        """By the driver's session."""
        self._lend(self.connection)
        self._inner.clean()

    def close(self) -> None:
        """As any; first the driver's own connection again."""
        self._lend(self.connection)
        super().close()

    def _lend(self, connection: Any) -> None:
        if not self._outer.closed and not self._outer.invalidated:
            pooled: Any = self._outer.connection
            pooled.dbapi_connection = connection


class _PooledAsync(_PooledBase):
    """Over an asynchronous driver."""

    _inner: AsyncSession

    def execute(self, statement: Statement) -> Result:
        """By the driver's session."""
        result: Result = await_only(self._inner.execute(statement))
        return result

    def clean(self) -> None:
        """By the driver's session."""
        await_only(self._inner.clean())


class _PooledAsyncpg(_PooledAsync):
    """Over asyncpg, where SQLAlchemy begins the transaction, before the first statement that goes through it."""

    _begun = False

    def is_autocommit(self) -> bool:
        """As SQLAlchemy plays it."""
        return bool(self._adapted.autocommit)

    def execute(self, statement: Statement) -> Result:
        """The first one, which names the branch, through SQLAlchemy."""
        if self._begun:
            return super().execute(statement)
        self._begun = True
        cursor = self._adapted.cursor()
        try:
            cursor.execute(statement.sql)
        except Exception as error:
            code = getattr(error, "sqlstate", None)
            raise SqlError(code, str(error)) if code else ConnectionLost(str(error)) from None
        finally:
            cursor.close()
        return Result([], None, -1)

    def clean(self) -> None:
        """SQLAlchemy's transaction object has not seen the end: for the server this is a ROLLBACK of nothing."""
        self._adapted.rollback()

    @property
    def _adapted(self) -> Any:
        return self._outer.connection.dbapi_connection
