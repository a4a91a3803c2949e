"""A connection that dies is never called the program's fault: before the decision it is Aborted, after it the commit goes on."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from raftcoord import Aborted, AsyncClient, Client
from raftcoord.config import Config

from .banks import Bank, PostgreSqlBank, SqliteBank
from .connecting import ASYNC, SYNC, Made, add, connected, import_or_skip, pg

OTHERS = {
    "postgresql": "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()",
    "mariadb": "SELECT id FROM information_schema.processlist WHERE db = DATABASE() AND id <> CONNECTION_ID()",
}


def terminate(bank: Bank) -> None:
    """End every session in the bank but our own, and wait until they have ended."""
    for (number,) in bank.sql(OTHERS[bank.kind]):
        bank.sql(f"SELECT pg_terminate_backend({number})" if bank.kind == "postgresql" else f"KILL {number}")
    deadline = time.monotonic() + 10
    while bank.sql(OTHERS[bank.kind]):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@asynccontextmanager
async def pooled(bank: Bank) -> AsyncIterator[Any]:
    """A connection of asyncpg's pool; a pool that cannot be closed politely is terminated."""
    pool = await import_or_skip("asyncpg").create_pool(min_size=1, max_size=1, **pg(bank))
    try:
        yield await pool.acquire()
    finally:
        pool.terminate()


class TestSynchronous:
    @pytest.fixture(params=[name for name in SYNC if name != "sqlite3"])
    def driver(self, request: pytest.FixtureRequest) -> Made:
        return SYNC[request.param]

    def test_before_the_prepare_it_is_aborted_and_can_be_tried_again(
        self, client: Client, driver: Made, bank: Bank, other: SqliteBank
    ) -> None:
        for again in (False, True):
            connection = driver[1](bank)

            def block(connection: Any = connection, again: bool = again) -> None:
                with client.transaction() as tx:
                    other.add(tx.enlist(other.connect(), "other"), -1)
                    bank.add(tx.enlist(connection, "bank"), 1)
                    if not again:
                        terminate(bank)

            if again:
                block()
                connection.close()
            else:
                with pytest.raises(Aborted, match="Nothing was committed; try the transaction again") as raised:
                    block()
                assert raised.value.branch == "bank"
        assert (bank.balance(), other.balance()) == (101, 99)


class TestAsynchronous:
    @pytest.fixture(params=[*(name for name in ASYNC if name != "sqlite3"), "asyncpg's pool"])
    def opened(self, request: pytest.FixtureRequest) -> Any:
        return request.param

    @pytest.fixture
    def driver(self, opened: str) -> Made:
        return ASYNC[opened.partition("'")[0]]

    @pytest.mark.parametrize("noticed", [False, True])
    async def test_before_the_prepare_it_is_aborted_and_can_be_tried_again(
        self, config: Config, client: Client, driver: Made, bank: Bank, other: SqliteBank, opened: str, noticed: bool
    ) -> None:
        connect = pooled(bank) if "pool" in opened else connected(driver, bank)
        async with AsyncClient.from_config(config) as asynchronous, connect as connection:

            async def block() -> None:
                async with asynchronous.transaction() as tx:
                    other.add(await tx.enlist(other.connect(), "other"), -1)
                    await add(await tx.enlist(connection, "bank"), 1)
                    terminate(bank)
                    if noticed:
                        await asyncio.sleep(0.1)  # the loop reads what the server has said last

            with pytest.raises(Aborted, match="Nothing was committed; try the transaction again") as raised:
                await block()
            assert raised.value.branch == "bank"
        assert (bank.balance(), other.balance()) == (100, 100)
        assert not bank.prepared()


class TestThePoolOfAsyncpg:
    @pytest.fixture
    def driver(self) -> Made:
        return ASYNC["asyncpg"]

    async def test_a_server_that_is_stopped_is_aborted_in_time(
        self, config: Config, client: Client, bank: Bank, other: SqliteBank
    ) -> None:
        async with AsyncClient.from_config(config, grace=0.5) as asynchronous, pooled(bank) as connection:
            stopped = [number for (number,) in bank.sql(OTHERS["postgresql"])]

            async def block() -> None:
                async with asynchronous.transaction(timeout=0.5) as tx:
                    await add(await tx.enlist(connection, "bank"), 1)
                    other.add(await tx.enlist(other.connect(), "other"), -1)
                    for pid in stopped:
                        os.kill(pid, signal.SIGSTOP)

            try:
                with pytest.raises(Aborted, match="Nothing was committed; try the transaction again"):
                    await block()
            finally:
                for pid in stopped:
                    os.kill(pid, signal.SIGCONT)
        assert other.balance() == 100

    @pytest.mark.parametrize("read", [False, True], ids=["alone", "decided"])
    async def test_the_only_connection_is_aborted_too_because_nothing_was_sent(
        self, config: Config, client: Client, bank: Bank, read: bool
    ) -> None:
        async with AsyncClient.from_config(config) as asynchronous, pooled(bank) as connection:

            async def block() -> None:
                async with asynchronous.transaction() as tx:
                    await add(await tx.enlist(connection, "bank"), 1)
                    assert not read or tx.txid
                    terminate(bank)
                    await asyncio.sleep(0.1)

            with pytest.raises(Aborted, match="Nothing was committed; try the transaction again"):
                await block()
        assert bank.balance() == 100

    async def test_after_the_decision_the_resolver_finishes(
        self, config: Config, client: Client, bank: Bank, other: SqliteBank, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert isinstance(bank, PostgreSqlBank)
        async with AsyncClient.from_config(config) as asynchronous, pooled(bank) as connection:
            decide = asynchronous.decide
            monkeypatch.setattr(asynchronous, "decide", then(decide, lambda: terminate(bank)))
            async with asynchronous.transaction() as tx:
                await add(await tx.enlist(connection, "bank"), 1)
                other.add(await tx.enlist(other.connect(), "other"), -1)
                txid = tx.txid
        assert bank.prepared() == [txid]
        (left,) = bank.other.run(bank.dialect.list_prepared(None))
        bank.other.run(bank.dialect.commit_prepared(left.gid))
        assert (bank.balance(), other.balance()) == (101, 99)


def then(decide: Callable[..., Awaitable[Any]], what: Callable[[], None]) -> Callable[..., Awaitable[Any]]:
    async def decided(*args: Any, **kwargs: Any) -> Any:
        outcome = await decide(*args, **kwargs)
        what()
        await asyncio.sleep(0.1)
        return outcome

    return decided
