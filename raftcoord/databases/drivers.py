"""The caller's connection, recognised and spoken to: which driver, which dialect, and how one statement is carried out.

Owed: a driver is imported only when a connection is of it. An error that the server answered becomes SqlError; anything
else that a driver raises is ConnectionLost, because nobody knows what it did. Cursors are made with a plain row, whatever the
connection's own row factory. Never: a call of tpc_*.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, Final

from raftcoord import limits
from raftcoord.databases.patience import keep_alive
from raftcoord.databases.session import AsyncSession, Session
from raftcoord.databases.steps import LoginRefused, SqlError
from raftcoord.errors import ConfigError, LocalProtocolError
from raftcoord.types import Branch

_SYNC: Final = {
    "psycopg": "postgresql.drivers:PsycopgSession",
    "psycopg2": "postgresql.drivers:Psycopg2Session",
    "pg8000": "postgresql.drivers:Pg8000Session",
    "pymysql": "mariadb.drivers:PyMySqlSession",
    "MySQLdb": "mariadb.drivers:MySqlClientSession",
    "mariadb": "mariadb.drivers:MariaDbSession",
    "sqlite3": "sqlite.drivers:SqliteSession",
}
_ASYNC: Final = {
    "psycopg": "postgresql.drivers:AsyncPsycopgSession",
    "asyncpg": "postgresql.drivers:AsyncpgSession",
    "asyncmy": "mariadb.drivers:AsyncmySession",
    "aiomysql": "mariadb.drivers:AiomysqlSession",
}
_KNOWN: Final = (
    "psycopg, psycopg2, pg8000, PyMySQL, mysqlclient, mariadb and sqlite3 (synchronous), psycopg, asyncpg, asyncmy and "
    "aiomysql (asynchronous)"
)
_INSTEAD: Final = {
    "aiosqlite": "enlist a connection of sqlite3, which AsyncClient.transaction() takes too",
    "pg8000.native": "connect with pg8000.dbapi.connect()",
    "mysql": "connect with PyMySQL, mysqlclient or mariadb",
    "psycopg_pool": "enlist a connection that the pool has given, inside pool.connection()",
    "psycopg2.pool": "enlist a connection that getconn() has given",
    "asyncpg.pool.Pool": "enlist a connection that acquire() has given",
    "aiomysql.pool": "enlist a connection that acquire() has given",
    "asyncmy.pool": "enlist a connection that acquire() has given",
    "mariadb.connectionpool": "enlist a connection that get_connection() has given",
    "sqlalchemy": "use raftcoord.integrations.sqlalchemy, whose Session enlists by itself",
    "django": "use raftcoord.integrations.django, whose atomic() enlists by itself",
}
"""What is often tried, by the beginning of its type's name, and what to do instead."""
_URLS: Final = {
    "postgresql": ("psycopg", "psycopg2", "pg8000"),
    "mysql": ("pymysql", "MySQLdb", "mariadb"),
    "sqlite": ("sqlite3",),
}


def session(connection: Any, branch: Branch) -> Session:
    """The session over a synchronous ``connection``. Raises LocalProtocolError if it is none that is known."""
    driver = _driver_of(connection)
    if driver in _SYNC and not _is_asynchronous(connection):
        made = _load(_SYNC[driver])(connection, branch)
        assert isinstance(made, Session)
        return made
    raise _unknown(connection, branch, driver in _ASYNC, "Client.transaction() takes synchronous ones")


def async_session(connection: Any, branch: Branch) -> AsyncSession | Session:
    """The session over an asynchronous ``connection``, or over one of sqlite3. Raises LocalProtocolError if it is neither."""
    driver = _driver_of(connection)
    if driver == "sqlite3":
        return session(connection, branch)
    if driver in _ASYNC and _is_asynchronous(connection):
        made = _load(_ASYNC[driver])(connection, branch)
        assert isinstance(made, AsyncSession)
        return made
    raise _unknown(
        connection, branch, driver in _SYNC, "AsyncClient.transaction() takes asynchronous ones, and sqlite3's"
    )


def connect(url: str) -> Session:
    """A session of its own, synchronous and in autocommit: postgresql://..., mysql://... or sqlite:///path.

    With the first driver of its kind that is installed. Raises ConfigError for a URL that is wrong or a driver that is
    missing, LoginRefused, and ConnectionLost if the database does not answer; so does later every protocol that takes too long.
    """
    kind = url.partition("://")[0].partition("+")[0]
    kind = {"mariadb": "mysql", "postgres": "postgresql"}.get(kind, kind)
    if kind not in _URLS or "://" not in url:
        raise ConfigError("the URL of a database begins with postgresql://, mysql:// or sqlite:///; this one does not")
    for driver in _URLS[kind]:
        try:
            import_module(driver)
        except ImportError:
            continue
        try:
            made = _load(_SYNC[driver]).connect(url)
        except SqlError as error:
            raise LoginRefused(f"the server refuses the login: {error}") from None
        assert isinstance(made, Session)
        keep_alive(made.fileno())
        made.answer_s = limits.RESOURCE_ANSWER_MS / 1000
        return made
    package = {"postgresql": "psycopg[binary]", "mysql": "PyMySQL"}[kind]
    raise ConfigError(f"no driver for {kind} is installed: pip install '{package}'")


def _driver_of(connection: Any) -> str:
    """The driver's top-level module, also for a subclass of its connection that the program has made; "" if there is none."""
    if _instead(connection):
        return ""
    for base in type(connection).__mro__:
        top = base.__module__.partition(".")[0]
        top = {"_sqlite3": "sqlite3", "_mysql": "MySQLdb"}.get(top, top)
        if top in _SYNC or top in _ASYNC:
            return top
    return ""


def _is_asynchronous(connection: Any) -> bool:
    driver = _driver_of(connection)
    if driver == "psycopg":
        return any(base.__name__ == "AsyncConnection" for base in type(connection).__mro__)
    return driver in _ASYNC


def _load(where: str) -> Any:
    module, _, name = where.partition(":")
    return getattr(import_module(f"raftcoord.databases.{module}"), name)


def _unknown(connection: Any, branch: str, is_the_other_kind: bool, rule: str) -> LocalProtocolError:
    kind = type(connection)
    what = f"branch {branch!r}: {kind.__module__}.{kind.__qualname__}"
    if is_the_other_kind:
        return LocalProtocolError(f"{what} is a connection of the other kind: {rule}")
    instead = _instead(connection) or f"enlist one of {_KNOWN}, and not its wrapper"
    return LocalProtocolError(f"{what} is no connection that is known here; {instead}. Nothing was changed")


def _instead(connection: Any) -> str:
    """What to do with what is often tried and is no connection of a driver; empty for anything else."""
    name = f"{type(connection).__module__}.{type(connection).__qualname__}."
    return next((advice for beginning, advice in _INSTEAD.items() if name.startswith(f"{beginning}.")), "")
