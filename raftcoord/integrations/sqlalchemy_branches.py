"""A branch on a connection that SQLAlchemy has checked out of its pool.

Owed: statements of the protocols go to the driver's own connection, past SQLAlchemy; the connection is returned to the pool
outside any transaction, or invalidated, which closes it. For an asynchronous engine everything here runs in SQLAlchemy's
greenlet, so that one text serves both kinds.
"""

from __future__ import annotations

import abc
from typing import Any, Final

from sqlalchemy.engine import Connection
from sqlalchemy.pool import ManagesConnection, PoolResetState
from sqlalchemy.util import await_only

from raftcoord.databases import drivers
from raftcoord.databases.session import AsyncDriverSession, DriverSession
from raftcoord.databases.steps import ConnectionLost, Result, SqlError, Statement
from raftcoord.errors import LocalProtocolError
from raftcoord.types import Branch

_OPEN: Final = "raftcoord branch"
"""In the ``info`` of a pool's connection while a branch is open on it."""


def refuse_open(connection: object, record: ManagesConnection, state: PoolResetState) -> None:
    """For the event "reset": a connection that is given back with its branch open is closed by its pool, and that is logged."""
    if _OPEN in record.info and not state.terminate_only:
        raise LocalProtocolError(
            f"a connection came back to its pool with branch {record.info[_OPEN]!r} open, and is closed; close() the session"
        )


def session(connection: Connection, branch: Branch) -> DriverSession:
    """The session over ``connection``. Raises LocalProtocolError for a driver that is not known."""
    driver_connection = connection.connection.driver_connection
    if not connection.dialect.is_async:
        return _Pooled(connection, drivers.session(driver_connection, branch))
    inner = drivers.async_session(driver_connection, branch)
    assert isinstance(inner, AsyncDriverSession)
    return (_PooledAsyncpg if connection.dialect.driver == "asyncpg" else _PooledAsync)(connection, inner)


class _PooledBase(DriverSession):
    """What both kinds share. ``connection``: the driver's."""

    def __init__(self, outer: Connection, inner: DriverSession | AsyncDriverSession) -> None:
        super().__init__(inner.connection, inner.branch)
        self.database = inner.database
        self._outer = outer
        self._inner = inner
        self._info = outer.connection.info

    def enter(self) -> None:
        """From here to ``clean`` the pool refuses the connection."""
        self._info[_OPEN] = self.branch

    def clean(self) -> None:
        """As the kind does it."""
        self._clean()
        self._info.pop(_OPEN, None)

    @abc.abstractmethod
    def _clean(self) -> None:
        """Let the driver's session clean the connection."""

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
        """By the driver's own rule. What a listener or a ping of the pool has begun goes on as the branch's, where it can.

        A pool that gives one connection to two sessions would put the work of both into one branch.
        """
        if _OPEN in self._info:
            raise self.unfit("is in another session's transaction", "use a pool that gives each its own")
        if self.database.joins:
            super().check_fit()
        else:
            self._inner.check_fit()

    def check_work(self) -> None:
        """As the driver says."""
        self._inner.check_work()

    def close(self) -> None:
        """Close it, and tell SQLAlchemy, which then sends nothing over it any more."""
        if not self._outer.closed:
            self._outer.invalidate()


class _Pooled(_PooledBase):
    """Over a synchronous driver."""

    _inner: DriverSession

    def fileno(self) -> int:
        return self._inner.fileno()

    def enter(self) -> None:
        """As the driver needs it. SQLAlchemy works on what is recorded, where the driver's session records (SQLite)."""
        super().enter()
        self._inner.enter()
        self._lend(self._inner.given)

    def execute(self, statement: Statement) -> Result:
        """By the driver's session."""
        return self._inner.execute(statement)

    def _clean(self) -> None:
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
    """Over an asynchronous driver, which begins a transaction by itself."""

    _inner: AsyncDriverSession

    def execute(self, statement: Statement) -> Result:
        """By the driver's session."""
        result: Result = await_only(self._inner.execute(statement))
        return result

    def _clean(self) -> None:
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

    def _clean(self) -> None:
        self._adapted.rollback()  # its object has not seen the end: for the server, a ROLLBACK of nothing

    @property
    def _adapted(self) -> Any:
        return self._outer.connection.dbapi_connection
