"""Every driver, on the real server: a transfer commits, a failure in the block leaves nothing, and the connection is clean."""

from __future__ import annotations

import contextlib
import importlib
import inspect
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from raftcoord import Aborted, AsyncClient, Client, LocalProtocolError
from raftcoord.config import Config

from .banks import Bank, MariaDbBank, PostgreSqlBank, SqliteBank


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


SYNC: dict[str, tuple[str, Callable[[Bank], Any]]] = {
    "psycopg": ("postgresql", lambda bank: import_or_skip("psycopg").connect(bank.url)),
    "psycopg2": ("postgresql", lambda bank: import_or_skip("psycopg2").connect(bank.url)),
    "pg8000": ("postgresql", lambda bank: import_or_skip("pg8000.dbapi").connect(**pg(bank))),
    "pymysql": ("mariadb", lambda bank: import_or_skip("pymysql").connect(database=bank.database, **my(bank))),
    "mysqlclient": ("mariadb", lambda bank: import_or_skip("MySQLdb").connect(database=bank.database, **my(bank))),
    "mariadb": ("mariadb", lambda bank: import_or_skip("mariadb").connect(database=bank.database, **my(bank))),
    "sqlite3": ("sqlite", lambda bank: bank.connect()),
}
ASYNC: dict[str, tuple[str, Callable[[Bank], Any]]] = {
    "psycopg": ("postgresql", lambda bank: import_or_skip("psycopg").AsyncConnection.connect(bank.url)),
    "asyncpg": ("postgresql", lambda bank: import_or_skip("asyncpg").connect(**pg(bank))),
    "asyncmy": ("mariadb", lambda bank: import_or_skip("asyncmy").connect(database=bank.database, **my(bank))),
    "aiomysql": ("mariadb", lambda bank: import_or_skip("aiomysql").connect(db=bank.database, **my(bank))),
    "sqlite3": ("sqlite", lambda bank: bank.connect()),
}


@pytest.fixture
def bank(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bank]:
    """Of the kind that the test's driver speaks to."""
    kind = request.getfixturevalue("driver")[0]
    made: Bank
    if kind == "postgresql":
        made = PostgreSqlBank(request.getfixturevalue("postgresql"))
    elif kind == "mariadb":
        made = MariaDbBank(request.getfixturevalue("mariadb"))
    else:
        made = SqliteBank(tmp_path / "bank.db")
    yield made
    made.close()


@pytest.fixture
def other(tmp_path: Path) -> Iterator[SqliteBank]:
    """The second branch."""
    made = SqliteBank(tmp_path / "other.db")
    yield made
    made.close()


Made = tuple[str, Callable[[Bank], Any]]


class TestSynchronous:
    @pytest.fixture(params=SYNC.values(), ids=SYNC)
    def driver(self, request: pytest.FixtureRequest) -> Made:
        return request.param  # type: ignore[no-any-return]

    @pytest.fixture
    def connection(self, driver: Made, bank: Bank) -> Iterator[Any]:
        made = driver[1](bank)
        yield made
        with contextlib.suppress(Exception):
            made.close()

    def test_it_commits_with_another_and_the_connection_serves_again(
        self, client: Client, bank: Bank, other: SqliteBank, connection: Any
    ) -> None:
        for _ in range(2):
            with client.transaction() as tx:
                bank.add(tx.enlist(connection, "bank"), 5)
                other.add(tx.enlist(other.connect(), "other"), -5)
            assert tx.outcome is not None
            assert tx.outcome.committed
        bank.add(connection, 100)
        connection.commit()
        assert (bank.balance(), other.balance()) == (210, 90)
        assert not bank.prepared()

    def test_alone_it_is_a_plain_local_commit(self, client: Client, bank: Bank, connection: Any) -> None:
        with client.transaction() as tx:
            bank.add(tx.enlist(connection, "bank"), 5)
        assert tx.outcome is None
        assert client.show(tx.txid) is None
        assert bank.balance() == 105
        bank.add(connection, 100)
        connection.rollback()
        assert bank.balance() == 105

    def test_an_exception_inside_leaves_nothing_and_a_clean_connection(
        self, client: Client, bank: Bank, other: SqliteBank, connection: Any
    ) -> None:
        def block() -> None:
            with client.transaction() as tx:
                bank.add(tx.enlist(connection, "bank"), 5)
                other.add(tx.enlist(other.connect(), "other"), -5)
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            block()
        assert (bank.balance(), other.balance()) == (100, 100)
        bank.add(connection, 7)
        connection.commit()
        assert bank.balance() == 107

    def test_a_prepare_that_fails_elsewhere_rolls_the_prepared_branch_back(
        self, client: Client, bank: Bank, other: SqliteBank, connection: Any
    ) -> None:
        beside = other.connect()

        def block() -> None:
            with client.transaction() as tx:
                bank.add(tx.enlist(connection, "bank"), 5)
                tx.enlist(beside, "other")
                other.add(beside, -5)  # and not on what enlist returned

        with pytest.raises(Aborted, match="beside the connection") as raised:
            block()
        assert raised.value.branch == "other"
        assert (bank.balance(), other.balance()) == (100, 100)
        assert not bank.prepared()
        bank.add(connection, 7)
        connection.commit()
        assert bank.balance() == 107

    def test_autocommit_is_refused(self, client: Client, bank: Bank, connection: Any) -> None:
        match bank.kind, connection:
            case "sqlite", _:
                connection.isolation_level = None
            case "mariadb", conn if callable(conn.autocommit):
                conn.autocommit(True)
            case _:
                connection.autocommit = True
        with client.transaction() as tx, pytest.raises(LocalProtocolError, match="in autocommit"):
            tx.enlist(connection, "bank")

    def test_a_closed_connection_is_refused(self, client: Client, connection: Any) -> None:
        connection.close()
        with client.transaction() as tx, pytest.raises(LocalProtocolError, match="is closed; connect anew"):
            tx.enlist(connection, "bank")

    def test_a_transaction_that_is_open_is_refused(self, client: Client, bank: Bank, connection: Any) -> None:
        bank.add(connection, 1)
        with client.transaction() as tx, pytest.raises(LocalProtocolError, match="has a transaction open"):
            tx.enlist(connection, "bank")
        connection.rollback()


class TestAsynchronous:
    @pytest.fixture(params=ASYNC.values(), ids=ASYNC)
    def driver(self, request: pytest.FixtureRequest) -> Made:
        return request.param  # type: ignore[no-any-return]

    async def test_it_commits_with_another_and_the_connection_serves_again(
        self, config: Config, client: Client, driver: Made, bank: Bank, other: SqliteBank
    ) -> None:
        async with AsyncClient.from_config(config) as asynchronous, connected(driver, bank) as connection:
            for _ in range(2):
                async with asynchronous.transaction() as tx:
                    await add(await tx.enlist(connection, "bank"), 5)
                    other.add(await tx.enlist(other.connect(), "other"), -5)
                assert tx.outcome is not None
                assert tx.outcome.committed
            await add(connection, 100)
            await commit(connection)
        assert (bank.balance(), other.balance()) == (210, 90)
        assert not bank.prepared()

    async def test_alone_it_is_a_plain_local_commit(
        self, config: Config, client: Client, driver: Made, bank: Bank
    ) -> None:
        async with AsyncClient.from_config(config) as asynchronous, connected(driver, bank) as connection:
            async with asynchronous.transaction() as tx:
                await add(await tx.enlist(connection, "bank"), 5)
            assert tx.outcome is None
            assert await asynchronous.show(tx.txid) is None
        assert bank.balance() == 105

    async def test_an_exception_inside_leaves_nothing_and_a_clean_connection(
        self, config: Config, client: Client, driver: Made, bank: Bank, other: SqliteBank
    ) -> None:
        async with AsyncClient.from_config(config) as asynchronous, connected(driver, bank) as connection:

            async def block() -> None:
                async with asynchronous.transaction() as tx:
                    await add(await tx.enlist(connection, "bank"), 5)
                    other.add(await tx.enlist(other.connect(), "other"), -5)
                    raise ZeroDivisionError

            with pytest.raises(ZeroDivisionError):
                await block()
            assert (bank.balance(), other.balance()) == (100, 100)
            await add(connection, 7)
            await commit(connection)
        assert bank.balance() == 107

    async def test_a_prepare_that_fails_elsewhere_rolls_the_prepared_branch_back(
        self, config: Config, client: Client, driver: Made, bank: Bank, other: SqliteBank
    ) -> None:
        beside = other.connect()
        async with AsyncClient.from_config(config) as asynchronous, connected(driver, bank) as connection:

            async def block() -> None:
                async with asynchronous.transaction() as tx:
                    await add(await tx.enlist(connection, "bank"), 5)
                    await tx.enlist(beside, "other")
                    other.add(beside, -5)

            with pytest.raises(Aborted, match="beside the connection"):
                await block()
            assert (bank.balance(), other.balance()) == (100, 100)
            assert not bank.prepared()
            await add(connection, 7)
            await commit(connection)
        assert bank.balance() == 107

    async def test_a_closed_connection_is_refused(
        self, config: Config, client: Client, driver: Made, bank: Bank
    ) -> None:
        async with AsyncClient.from_config(config) as asynchronous, connected(driver, bank) as connection:
            await finished(connection.close())
            async with asynchronous.transaction() as tx:
                with pytest.raises(LocalProtocolError, match="is closed; connect anew"):
                    await tx.enlist(connection, "bank")


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
    sql = f"UPDATE accounts SET amount = amount + {amount} WHERE name = 'alice'"
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
