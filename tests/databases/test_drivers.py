"""Every driver, on the real server: a transfer commits, a failure in the block leaves nothing, and the connection is clean."""

from __future__ import annotations

import ast
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raftcoord import Aborted, AsyncClient, Client, LocalProtocolError, databases
from raftcoord.config import Config

from .banks import Bank, SqliteBank
from .connecting import ASYNC, SYNC, Made, add, commit, connected, finished


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
        assert tx.txid is None
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
            assert tx.txid is None
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


def test_no_driver_is_asked_for_two_phase_commit_of_its_own() -> None:
    """FACTS: tpc_prepare() returns though nothing is prepared, and mariadb's tpc_commit() cannot finish from a new connection."""
    for source in Path(databases.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(source.read_text())):
            assert not (isinstance(node, ast.Attribute) and node.attr.startswith("tpc_")), source
