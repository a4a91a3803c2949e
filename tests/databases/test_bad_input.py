"""What programs do wrong, and what happens to them, through every driver: one sentence, the next step, and nothing is changed."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from raftcoord import Aborted, AsyncClient, Client, LocalProtocolError
from raftcoord.config import Config

from .banks import Bank, MariaDbBank, PostgreSqlBank, SqliteBank
from .connecting import ASYNC, SYNC, Made, add, commit, connected, finished, import_or_skip, my, pg, say

ALL = list(SYNC)
POSTGRESQL = [name for name in SYNC if SYNC[name][0] == "postgresql"]
SERVERS = [name for name in SYNC if SYNC[name][0] != "sqlite"]
ASYNC_POSTGRESQL = [name for name in ASYNC if ASYNC[name][0] == "postgresql"]
ASYNC_SERVERS = [name for name in ASYNC if ASYNC[name][0] != "sqlite"]
CHANGE = "UPDATE accounts SET amount = amount + 1 WHERE name = '{}'"


def sentence(error: BaseException) -> str:
    """The message, which is one line and bears nothing of a traceback."""
    text = str(error)
    assert "\n" not in text
    assert "Traceback" not in text
    assert error.__cause__ is None
    return text


class TestSynchronous:
    @pytest.fixture
    def driver(self, request: pytest.FixtureRequest) -> Made:
        return SYNC[request.param]

    @pytest.fixture
    def connection(self, driver: Made, bank: Bank) -> Iterator[Any]:
        made = driver[1](bank)
        yield made
        with contextlib.suppress(Exception):
            made.close()

    @pytest.mark.parametrize("driver", ALL, indirect=True)
    def test_the_same_connection_twice_and_a_wrong_name_are_refused_and_the_block_goes_on(
        self, client: Client, bank: Bank, connection: Any
    ) -> None:
        with client.transaction() as tx:
            for name in ("Bank", "b" * 33, "a.b", ""):
                with pytest.raises(LocalProtocolError, match="is not a name") as wrong:
                    tx.enlist(connection, name)
                sentence(wrong.value)
            given = tx.enlist(connection, "bank")
            for each in (connection, given):
                with pytest.raises(
                    LocalProtocolError, match=r"enlisted already, as branch 'bank'.*enlist each"
                ) as twice:
                    tx.enlist(each, "other")
                sentence(twice.value)
            bank.add(given, 1)
        assert bank.balance() == 101

    @pytest.mark.parametrize("driver", POSTGRESQL, indirect=True)
    def test_a_failed_transaction_is_refused(self, client: Client, bank: Bank, connection: Any) -> None:
        with pytest.raises(Exception, match="division by zero"):
            connection.cursor().execute("SELECT 1/0")
        with client.transaction() as tx:
            with pytest.raises(LocalProtocolError, match=r"failed transaction; rollback\(\) it before") as raised:
                tx.enlist(connection, "bank")
            sentence(raised.value)
            connection.rollback()
            bank.add(tx.enlist(connection, "bank"), 1)
        assert bank.balance() == 101

    @pytest.mark.parametrize("statement", ["LISTEN news", "CREATE TEMPORARY TABLE t (x int)"])
    @pytest.mark.parametrize("driver", POSTGRESQL, indirect=True)
    def test_what_cannot_be_prepared_rolls_everything_back_and_says_what_to_leave_out(
        self, client: Client, bank: Bank, other: SqliteBank, connection: Any, statement: str
    ) -> None:
        def block() -> None:
            with client.transaction() as tx:
                other.add(tx.enlist(other.connect(), "other"), -1)
                bank.add(tx.enlist(connection, "bank"), 1)
                connection.cursor().execute(statement)

        with pytest.raises(Aborted, match="temporary objects and held cursors cannot be prepared: keep them") as raised:
            block()
        assert raised.value.branch == "bank"
        sentence(raised.value)
        nothing_is_left(bank, other)

    @pytest.mark.parametrize("driver", SERVERS, indirect=True)
    def test_a_deadlock_victim_that_goes_on_is_rolled_back_everywhere_and_told_to_try_again(
        self, client: Client, bank: Bank, other: SqliteBank, connection: Any
    ) -> None:
        rival = rival_of(bank)
        codes: list[str] = []

        def block() -> None:
            with client.transaction() as tx:
                other.add(tx.enlist(other.connect(), "other"), -1)
                bank.add(tx.enlist(connection, "bank"), 1)
                crossing = threading.Thread(target=lambda: rival.cursor().execute(CHANGE.format("alice")))
                crossing.start()
                until_somebody_waits(bank)
                try:
                    connection.cursor().execute(CHANGE.format("bob"))
                except Exception as error:  # the program's mistake: it goes on
                    codes.append(str(error))
                crossing.join(20)

        with pytest.raises(Aborted) as raised:
            block()
        rival.rollback()
        rival.close()
        assert "eadlock" in codes[0]
        assert raised.value.branch == "bank"
        said = sentence(raised.value)
        assert "let the error leave the block" in said or "try the transaction again" in said
        nothing_is_left(bank, other)
        bank.add(connection, 7)
        connection.commit()
        assert bank.balance() == 107

    @pytest.mark.parametrize("driver", SERVERS, indirect=True)
    def test_a_connection_that_is_closed_inside_the_block_rolls_everything_back(
        self, client: Client, bank: Bank, other: SqliteBank, connection: Any
    ) -> None:
        def block() -> None:
            with client.transaction() as tx:
                other.add(tx.enlist(other.connect(), "other"), -1)
                bank.add(tx.enlist(connection, "bank"), 1)
                connection.close()

        with pytest.raises(Aborted, match="Nothing was committed; try the transaction again") as raised:
            block()
        assert raised.value.branch == "bank"
        sentence(raised.value)
        nothing_is_left(bank, other)

    @pytest.mark.parametrize("driver", ALL, indirect=True)
    def test_a_commit_inside_the_block_is_refused_or_found(
        self, client: Client, bank: Bank, other: SqliteBank, connection: Any
    ) -> None:
        def block() -> None:
            with client.transaction() as tx:
                other.add(tx.enlist(other.connect(), "other"), -1)
                given = tx.enlist(connection, "bank")
                given.commit()

        with pytest.raises(Exception, match=r"ended inside the block|has no place in a SQLite branch|XAER_RMFAIL"):
            block()
        nothing_is_left(bank, other)


def test_pools_of_psycopg_and_others_are_refused_with_what_to_enlist(client: Client) -> None:
    asyncpg_pool, aiomysql_pool = import_or_skip("asyncpg.pool"), import_or_skip("aiomysql.pool")
    pg8000 = import_or_skip("pg8000.native")
    for wrong, instead in (
        (asyncpg_pool.Pool, r"acquire\(\) has given"),
        (aiomysql_pool.Pool, r"acquire\(\) has given"),
        (pg8000.Connection, r"pg8000\.dbapi\.connect\(\)"),
        (type("Connection", (), {"__module__": "aiosqlite.core"}), "enlist a connection of sqlite3"),
        (type("MySQLConnection", (), {"__module__": "mysql.connector.connection"}), "PyMySQL, mysqlclient or mariadb"),
        (type("Engine", (), {"__module__": "sqlalchemy.engine.base"}), r"raftcoord\.integrations\.sqlalchemy"),
        (type("DatabaseWrapper", (), {"__module__": "django.db.backends"}), r"raftcoord\.integrations\.django"),
    ):
        with client.transaction() as tx, pytest.raises(LocalProtocolError, match=instead) as raised:
            tx.enlist(object.__new__(wrong), "bank")
        assert "Nothing was changed" in sentence(raised.value)


class TestAsynchronous:
    @pytest.fixture
    def driver(self, request: pytest.FixtureRequest) -> Made:
        return ASYNC[request.param]

    @pytest.mark.parametrize("driver", list(ASYNC), indirect=True)
    async def test_what_is_wrong_is_refused_and_the_block_goes_on(
        self, config: Config, client: Client, driver: Made, bank: Bank
    ) -> None:
        async with (
            AsyncClient.from_config(config) as asynchronous,
            connected(driver, bank) as connection,
            asynchronous.transaction() as tx,
        ):
            with pytest.raises(LocalProtocolError, match="is not a name"):
                await tx.enlist(connection, "Bank")
            given = await tx.enlist(connection, "bank")
            with pytest.raises(LocalProtocolError, match="enlisted already, as branch 'bank'"):
                await tx.enlist(connection, "other")
            await add(given, 1)
        assert bank.balance() == 101

    @pytest.mark.parametrize("driver", list(ASYNC), indirect=True)
    async def test_autocommit_and_an_open_transaction_are_refused(
        self, config: Config, client: Client, driver: Made, bank: Bank
    ) -> None:
        async with (
            AsyncClient.from_config(config) as asynchronous,
            connected(driver, bank) as connection,
            asynchronous.transaction() as tx,
        ):
            if hasattr(connection, "set_autocommit"):
                await connection.set_autocommit(True)
            elif hasattr(connection, "isolation_level"):
                connection.isolation_level = None
            elif not hasattr(connection, "fetchrow"):
                await connection.autocommit(True)
            if not hasattr(connection, "fetchrow"):  # asyncpg has no such mode
                with pytest.raises(LocalProtocolError, match="in autocommit; switch that off"):
                    await tx.enlist(connection, "bank")
            await say(connection, "BEGIN")
            await add(connection, 1)
            with pytest.raises(LocalProtocolError, match=r"has a transaction open|in autocommit"):
                await tx.enlist(connection, "bank")
        assert bank.balance() == 100

    @pytest.mark.parametrize("driver", ASYNC_POSTGRESQL, indirect=True)
    async def test_a_failed_transaction_is_refused(
        self, config: Config, client: Client, driver: Made, bank: Bank
    ) -> None:
        async with AsyncClient.from_config(config) as asynchronous, connected(driver, bank) as connection:
            await say(connection, "BEGIN")
            with pytest.raises(Exception, match="division by zero"):
                await say(connection, "SELECT 1/0")
            async with asynchronous.transaction() as tx:
                with pytest.raises(LocalProtocolError, match=r"(failed transaction|transaction open).*rollback\(\) it"):
                    await tx.enlist(connection, "bank")

    @pytest.mark.parametrize("driver", ASYNC_POSTGRESQL, indirect=True)
    async def test_what_cannot_be_prepared_rolls_everything_back(
        self, config: Config, client: Client, driver: Made, bank: Bank, other: SqliteBank
    ) -> None:
        async with AsyncClient.from_config(config) as asynchronous, connected(driver, bank) as connection:

            async def block() -> None:
                async with asynchronous.transaction() as tx:
                    other.add(await tx.enlist(other.connect(), "other"), -1)
                    await add(await tx.enlist(connection, "bank"), 1)
                    await say(connection, "LISTEN news")

            with pytest.raises(Aborted, match="cannot be prepared: keep them out of it") as raised:
                await block()
            sentence(raised.value)
            nothing_is_left(bank, other)
            await add(connection, 7)
            await commit(connection)
        assert bank.balance() == 107

    @pytest.mark.parametrize("driver", ASYNC_SERVERS, indirect=True)
    async def test_a_connection_that_is_closed_inside_the_block_rolls_everything_back(
        self, config: Config, client: Client, driver: Made, bank: Bank, other: SqliteBank
    ) -> None:
        async with AsyncClient.from_config(config) as asynchronous, connected(driver, bank) as connection:

            async def block() -> None:
                async with asynchronous.transaction() as tx:
                    other.add(await tx.enlist(other.connect(), "other"), -1)
                    await add(await tx.enlist(connection, "bank"), 1)
                    await finished(connection.close())

            with pytest.raises(Aborted, match="Nothing was committed; try the transaction again") as raised:
                await block()
            sentence(raised.value)
        nothing_is_left(bank, other)


@pytest.mark.parametrize("driver", [("postgresql", None)], ids=["asyncpg"])
async def test_a_pool_of_asyncpg_that_gets_the_connection_back_too_early_is_named(
    config: Config, client: Client, driver: Made, bank: Bank, other: SqliteBank
) -> None:
    async with (
        AsyncClient.from_config(config) as asynchronous,
        import_or_skip("asyncpg").create_pool(min_size=1, max_size=1, **pg(bank)) as pool,
    ):

        async def block() -> None:
            async with asynchronous.transaction() as tx:
                other.add(await tx.enlist(other.connect(), "other"), -1)
                async with pool.acquire() as connection:
                    await add(await tx.enlist(connection, "bank"), 1)

        with pytest.raises(LocalProtocolError, match="given back to the pool inside the block; return it after"):
            await block()
        nothing_is_left(bank, other)
        async with pool.acquire() as connection, asynchronous.transaction() as tx:
            await add(await tx.enlist(connection, "bank"), 7)
            other.add(await tx.enlist(other.connect(), "other"), -7)
    assert (bank.balance(), other.balance()) == (107, 93)


@pytest.mark.parametrize("name", ["aiomysql", "asyncmy"])
@pytest.mark.parametrize("driver", [("mariadb", None)], ids=["pool"])
async def test_a_pool_of_mariadb_that_gets_the_connection_back_too_early_leaves_nothing(
    config: Config, client: Client, driver: Made, bank: Bank, other: SqliteBank, name: str
) -> None:
    module = import_or_skip(name)
    database = {"aiomysql": {"db": bank.database}, "asyncmy": {"database": bank.database}}[name]  # type: ignore[attr-defined]
    pool = await module.create_pool(minsize=1, maxsize=1, **my(bank), **database)
    async with AsyncClient.from_config(config) as asynchronous:

        async def block() -> None:
            async with asynchronous.transaction() as tx:
                other.add(await tx.enlist(other.connect(), "other"), -1)
                async with pool.acquire() as connection:
                    await add(await tx.enlist(connection, "bank"), 1)

        with contextlib.suppress(ResourceWarning), pytest.raises((Aborted, LocalProtocolError)) as raised:
            await block()
        sentence(raised.value)
        nothing_is_left(bank, other)
    pool.terminate()
    await pool.wait_closed()


def nothing_is_left(bank: Bank, other: SqliteBank) -> None:
    """Both as they were, also when the server takes a moment to see that a session has gone."""
    assert (bank.balance(), other.balance()) == (100, 100)
    assert not bank.prepared()
    assert not other.prepared()


def rival_of(bank: Bank) -> Any:
    """A connection that holds bob, and is not the one that is sacrificed."""
    bank.sql("INSERT INTO accounts VALUES ('bob', 100)")
    if isinstance(bank, PostgreSqlBank):
        made = psycopg.connect(bank.url)
        made.execute("SET deadlock_timeout = '100s'")  # so that the other one finds it
        made.execute(CHANGE.format("bob"))  # type: ignore[arg-type]
        return made
    assert isinstance(bank, MariaDbBank)
    bank.sql("CREATE TABLE big (x INT PRIMARY KEY)")
    bank.sql("INSERT INTO big SELECT seq FROM seq_1_to_200")
    rival = bank.connect()
    rival.begin()
    rival.cursor().execute("UPDATE big SET x = x + 1000")  # the heavier one survives
    rival.cursor().execute(CHANGE.format("bob"))
    return rival


def until_somebody_waits(bank: Bank) -> None:
    """For a lock."""
    if bank.kind == "postgresql":
        waiting = "SELECT 1 FROM pg_locks WHERE NOT granted"
    else:
        waiting = "SELECT 1 FROM information_schema.innodb_trx WHERE trx_state = 'LOCK WAIT'"
    deadline = time.monotonic() + 20
    while not bank.sql(waiting):
        assert time.monotonic() < deadline
        time.sleep(0.15)  # MariaDB shows what it saw 100 ms ago to whoever asks more often
