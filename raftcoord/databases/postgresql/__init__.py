"""PostgreSQL."""

from __future__ import annotations

from typing import Any, Final

from raftcoord.databases.database import ByHand, Database, Driver, ServerKind, Statements
from raftcoord.databases.postgresql.checks import PostgreSqlChecks
from raftcoord.databases.postgresql.dialect import PostgreSql
from raftcoord.databases.postgresql.server import PostgreSqlRecipe, find
from raftcoord.databases.urls import ServerPlace, Url

_PORT: Final = 5432
_SESSIONS: Final = "raftcoord.databases.postgresql.drivers"


def _by_url(module: Any, url: str) -> Any:
    return module.connect(url)


def _by_parts(module: Any, url: str) -> Any:
    read = Url.parse(url, _PORT)
    return module.connect(host=read.host, port=read.port, user=read.user, database=read.database)


_DRIVERS: Final = (
    Driver(
        "postgresql",
        "psycopg",
        "psycopg",
        f"{_SESSIONS}:PsycopgSession",
        _by_url,
        class_name="Connection",
        sqlalchemy=("psycopg",),
    ),
    Driver("postgresql", "psycopg2", "psycopg2", f"{_SESSIONS}:Psycopg2Session", _by_url, sqlalchemy=("psycopg2",)),
    Driver("postgresql", "pg8000", "pg8000.dbapi", f"{_SESSIONS}:Pg8000Session", _by_parts, sqlalchemy=("pg8000",)),
    Driver(
        "postgresql",
        "psycopg-async",
        "psycopg",
        f"{_SESSIONS}:AsyncPsycopgSession",
        lambda module, url: module.AsyncConnection.connect(url),
        title="psycopg",
        asynchronous=True,
        class_name="AsyncConnection",
        sqlalchemy=("psycopg_async",),
    ),
    Driver(
        "postgresql",
        "asyncpg",
        "asyncpg",
        f"{_SESSIONS}:AsyncpgSession",
        _by_url,
        asynchronous=True,
        sqlalchemy=("asyncpg",),
    ),
)

DATABASE: Final = Database(
    name="postgresql",
    title="PostgreSQL",
    place=ServerPlace(("postgresql", "postgres"), _PORT),
    dialect=PostgreSql(),
    checks=PostgreSqlChecks(),
    statements=Statements(
        locked=frozenset({"55P03"}),  # lock_not_available
        lock_wait=lambda ms: f"SET lock_timeout = '{ms}ms'",
        create=lambda name: f'CREATE DATABASE "{name}"',
        by_hand=ByHand((), ("PREPARE TRANSACTION '{}'",), "COMMIT PREPARED '{}'", True, {"prepare": False}),
    ),
    drivers=_DRIVERS,
    package="psycopg[binary]",
    advice={
        "42501": "only the user that prepared a branch, or a superuser, may end it: put that user into the resource's url",
        "0A000": "a branch is ended in the database in which it was prepared: put that database into the resource's url",
        "55006": "another session is ending it at this moment",
    },
    gone="rolled back by hand, or lost with a backup or a failover; or committed before raftcoord.marks was made. Compare it "
    "with the other branches",
    instead={
        "pg8000.native": "connect with pg8000.dbapi.connect()",
        "psycopg_pool": "enlist a connection that the pool has given, inside pool.connection()",
        "psycopg2.pool": "enlist a connection that getconn() has given",
        "asyncpg.pool.Pool": "enlist a connection that acquire() has given",
    },
    joins=True,
    django="postgresql",
    server=ServerKind(find, PostgreSqlRecipe),
)
