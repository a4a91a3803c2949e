"""How a program connects, through each driver, and what it says to a connection whichever driver that is of."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import inspect
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from raftcoord.databases import registry

from .banks import Bank, MariaDbBank, PostgreSqlBank

Made = tuple[str, Callable[[Bank], Any]]
"""The kind of database, and how a program connects to a bank of that kind."""


def pg(bank: Bank) -> dict[str, Any]:
    assert isinstance(bank, PostgreSqlBank)
    return {"host": "127.0.0.1", "port": bank.server.port, "user": "postgres", "database": bank.database}


def my(bank: Bank) -> dict[str, Any]:
    assert isinstance(bank, MariaDbBank)
    return {"host": "127.0.0.1", "port": bank.server.port, "user": "root"}


def import_or_skip(name: str) -> Any:
    """mysqlclient and mariadb need the C headers to be installed: where they are not, they are not tested."""
    try:
        return importlib.import_module(name)
    except ImportError:
        pytest.skip(f"the driver {name} is not installed: it was not tested")


SYNC: dict[str, Made] = {
    "psycopg": ("postgresql", lambda bank: import_or_skip("psycopg").connect(bank.url)),
    "psycopg2": ("postgresql", lambda bank: import_or_skip("psycopg2").connect(bank.url)),
    "pg8000": ("postgresql", lambda bank: import_or_skip("pg8000.dbapi").connect(**pg(bank))),
    "pymysql": ("mariadb", lambda bank: import_or_skip("pymysql").connect(database=bank.database, **my(bank))),
    "mysqlclient": ("mariadb", lambda bank: import_or_skip("MySQLdb").connect(database=bank.database, **my(bank))),
    "mariadb": ("mariadb", lambda bank: import_or_skip("mariadb").connect(database=bank.database, **my(bank))),
    "sqlite3": ("sqlite", lambda bank: bank.connect()),
}
ASYNC: dict[str, Made] = {
    "psycopg": ("postgresql", lambda bank: import_or_skip("psycopg").AsyncConnection.connect(bank.url)),
    "asyncpg": ("postgresql", lambda bank: import_or_skip("asyncpg").connect(**pg(bank))),
    "asyncmy": ("mariadb", lambda bank: import_or_skip("asyncmy").connect(database=bank.database, **my(bank))),
    "aiomysql": ("mariadb", lambda bank: import_or_skip("aiomysql").connect(db=bank.database, **my(bank))),
    "sqlite3": ("sqlite", lambda bank: bank.connect()),
}


@asynccontextmanager
async def connected(driver: Made, bank: Bank) -> AsyncIterator[Any]:
    connection = await finished(driver[1](bank))
    try:
        yield connection
    finally:
        with contextlib.suppress(Exception):
            await finished(connection.close())


async def finished(result: Any) -> Any:
    """``result``, awaited if the driver is asynchronous here."""
    return await result if inspect.isawaitable(result) else result


async def add(connection: Any, amount: int) -> None:
    await say(connection, f"UPDATE accounts SET amount = amount + {amount} WHERE name = 'alice'")


async def say(connection: Any, sql: str) -> None:
    if hasattr(connection, "fetchrow"):
        await connection.execute(sql)
        return
    cursor = connection.cursor()
    if inspect.isawaitable(cursor):
        cursor = await cursor
    await finished(cursor.execute(sql))
    await finished(cursor.close())


async def commit(connection: Any) -> None:
    if not hasattr(connection, "fetchrow"):
        await finished(connection.commit())


def the_only(module: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """As if no other driver of its database were installed than the one whose top-level module this is; the database's kind."""
    (found,) = [
        (database, driver)
        for database in registry.DATABASES
        for driver in database.drivers
        if driver.module.partition(".")[0] == module and not driver.asynchronous
    ]
    database, driver = found
    alone = dataclasses.replace(database, drivers=(driver,))
    known = tuple(alone if each is database else each for each in registry.DATABASES)
    monkeypatch.setattr(registry, "DATABASES", known)
    return database.name
