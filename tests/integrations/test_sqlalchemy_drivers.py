"""Every driver that SQLAlchemy and raftcoord both know: committed, aborted, in doubt, and what the pool gets back."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine

from raftcoord import ABORT, Aborted, Client, InDoubt, LocalProtocolError, TxId
from raftcoord.config import Config
from raftcoord.integrations.sqlalchemy import AsyncSession, attach

from .recipes.model import Address, User
from .shop import AsyncAstray, Shop, abort_once, in_doubt, spongebob, url
from .world import Astray

MODULES = {"mysqldb": "MySQLdb", "mariadbconnector": "mariadb"}
SYNC = [
    ("psycopg", "pymysql"),
    ("psycopg2", "pymysql"),
    ("pg8000", "pymysql"),
    ("psycopg", "mysqldb"),
    ("psycopg", "mariadbconnector"),
]
ASYNC = [("asyncpg", "asyncmy"), ("psycopg", "aiomysql")]


def installed(*drivers: str) -> None:
    for driver in drivers:
        if importlib.util.find_spec(MODULES.get(driver, driver)) is None:
            pytest.skip(f"{driver} is not installed")


def count() -> Any:
    return select(func.count()).select_from(User)


# -- synchronous


@pytest.fixture(params=SYNC, ids="-".join)
def engines(request: pytest.FixtureRequest, shop: Shop) -> Any:
    installed(*request.param)
    return shop.engines(url(shop.ledger, request.param[0]), url(shop.orders, request.param[1]), pool_pre_ping=True)


def test_all_ends_of_a_transaction_on_the_same_connections(shop: Shop, client: Client, engines: Any) -> None:
    """The pools hold one connection each: whatever an end leaves on it is the next transaction's trouble."""
    make = shop.sessions(client, engines)
    for number in (1, 2):
        with make.begin() as session:
            session.add(spongebob())
        assert session.outcome.committed
        assert shop.rows() == (number, number)
    with make() as session:
        session.add(spongebob())
        session.flush()
        session.rollback()
        session.add(spongebob())
        session.flush()
        session.close()
        assert session.scalar(count()) == 2
    with suppress(ZeroDivisionError), make.begin() as session:
        session.add(spongebob())
        session.flush()
        raise ZeroDivisionError
    with make.begin() as session:
        session.add(User(name="alone"))
    assert session.outcome is None
    assert session.txid is None
    with make.begin() as session:
        session.add(spongebob())
        with suppress(ZeroDivisionError), session.begin_nested():
            session.add(spongebob())
            session.flush()
            raise ZeroDivisionError
    assert shop.rows() == (4, 3)
    assert not shop.prepared(client)
    for engine in engines:
        with engine.begin() as connection:
            assert connection.scalar(text("SELECT 1")) == 1


def test_an_abort_that_stands_is_rolled_back_and_the_session_goes_on(shop: Shop, astray: Astray, engines: Any) -> None:
    with shop.sessions(astray, engines)() as session:
        session.add(spongebob())
        abort_once(astray)
        with pytest.raises(Aborted):
            session.commit()
        assert not session.outcome.committed
        assert not shop.prepared(astray)
        session.add(spongebob())
        session.commit()
    assert shop.rows() == (1, 1)


def test_in_doubt_nothing_is_touched_and_the_resolver_finishes(shop: Shop, astray: Astray, engines: Any) -> None:
    with shop.sessions(astray, engines)() as session:
        session.add(spongebob())
        astray.after = in_doubt
        with pytest.raises(InDoubt) as caught:
            session.commit()
        assert caught.value.txid == session.txid
        del astray.after
        assert shop.prepared(astray) == [session.txid] * 2
        shop.resolve(astray)
        assert shop.rows() == (1, 1)
        session.add(spongebob())
        session.commit()
    assert shop.rows() == (2, 2)


# -- asynchronous


@asynccontextmanager
async def asynchronous(
    shop: Shop, config: Config, drivers: tuple[str, str], **options: Any
) -> AsyncIterator[tuple[AsyncAstray, Any]]:
    installed(*drivers)
    engines = [
        attach(create_async_engine(url(bank, driver), pool_size=1, max_overflow=0, pool_timeout=5, **options), name)
        for bank, driver, name in zip(shop.all(), drivers, ("ledger", "orders"), strict=True)
    ]
    async with AsyncAstray.from_config(config) as client:
        binds = {User: engines[0], Address: engines[1]}
        yield client, async_sessionmaker(class_=AsyncSession, client=client, timeout=60, binds=binds)
    for engine in engines:
        await engine.dispose()


@pytest.mark.parametrize("drivers", ASYNC, ids="-".join)
async def test_all_ends_of_an_asynchronous_transaction_on_the_same_connections(
    shop: Shop, config: Config, client: Client, drivers: tuple[str, str]
) -> None:
    async with asynchronous(shop, config, drivers, pool_pre_ping=True) as (_, make):
        for number in (1, 2):
            async with make.begin() as session:
                session.add(spongebob())
            assert session.outcome.committed
            assert shop.rows() == (number, number)
        async with make() as session:
            session.add(spongebob())
            await session.flush()
            await session.rollback()
            session.add(spongebob())
            await session.flush()
            await session.close()
            assert await session.scalar(count()) == 2
        with suppress(ZeroDivisionError):
            async with make.begin() as session:
                session.add(spongebob())
                await session.flush()
                raise ZeroDivisionError
        async with make.begin() as session:
            session.add(User(name="alone"))
        assert session.outcome is None
        assert session.txid is None
        async with make.begin() as session:
            session.add(spongebob())
            with suppress(ZeroDivisionError):
                async with session.begin_nested():
                    session.add(spongebob())
                    await session.flush()
                    raise ZeroDivisionError
        assert shop.rows() == (4, 3)
        assert not shop.prepared(client)


@pytest.mark.parametrize("drivers", ASYNC, ids="-".join)
async def test_a_task_that_is_cancelled_while_it_is_decided_leaves_it_to_the_resolver(
    shop: Shop, config: Config, client: Client, drivers: tuple[str, str]
) -> None:
    """COMMIT has been proposed: nothing may be rolled back, and no connection may keep the branch from the resolver."""
    decided = asyncio.Event()

    async def linger(txid: TxId) -> None:
        decided.set()
        await asyncio.Event().wait()

    async with asynchronous(shop, config, drivers) as (astray, make):
        astray.after = linger

        async def sign_up() -> None:
            async with make() as session:
                session.add(spongebob())
                await session.commit()

        task = asyncio.create_task(sign_up())
        await decided.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        del astray.after
        shop.resolve(client)
        assert shop.rows() == (1, 1)
        async with make.begin() as session:
            session.add(spongebob())
    assert shop.rows() == (2, 2)


@pytest.mark.parametrize("drivers", ASYNC, ids="-".join)
async def test_connections_lost_behind_the_decision_are_the_resolvers(
    shop: Shop, config: Config, client: Client, drivers: tuple[str, str]
) -> None:
    async def lose(txid: TxId) -> None:
        shop.cut(0)
        shop.cut(1)

    async with asynchronous(shop, config, drivers) as (astray, make):
        astray.after = lose
        async with make.begin() as session:
            session.add(spongebob())
        del astray.after
        assert session.outcome.committed
        shop.resolve(client)
        assert shop.rows() == (1, 1)
        async with make.begin() as session:
            session.add(spongebob())
    assert shop.rows() == (2, 2)


@pytest.mark.parametrize("drivers", ASYNC, ids="-".join)
@pytest.mark.parametrize("side", [0, 1])
async def test_asynchronous_autocommit_is_refused(
    shop: Shop, config: Config, drivers: tuple[str, str], side: int
) -> None:
    async with asynchronous(shop, config, drivers) as (_, make):
        switched = dict(make.kw["binds"])
        model = (User, Address)[side]
        switched[model] = switched[model].execution_options(isolation_level="AUTOCOMMIT")
        make.configure(binds=switched)
        async with make() as session:
            session.add(spongebob())
            with pytest.raises(LocalProtocolError, match="autocommit"):
                await session.commit()
    assert shop.rows() == (0, 0)


async def test_a_client_of_the_other_kind_is_refused(shop: Shop, config: Config, client: Client) -> None:
    async with asynchronous(shop, config, ASYNC[0]) as (astray, make):
        make.configure(client=client)
        async with make() as session:
            with pytest.raises(LocalProtocolError, match="different kinds"):
                await session.scalar(count())
        with shop.sessions(astray)() as session, pytest.raises(LocalProtocolError, match="different kinds"):
            session.scalar(count())


@pytest.mark.parametrize("drivers", ASYNC, ids="-".join)
async def test_asynchronous_aborts_and_doubts(
    shop: Shop, config: Config, client: Client, drivers: tuple[str, str]
) -> None:
    async def abort(txid: TxId) -> None:
        client.decide(txid, ABORT)

    async def doubt(txid: TxId) -> None:
        in_doubt(txid)

    async with asynchronous(shop, config, drivers) as (astray, make), make() as session:
        session.add(spongebob())
        astray.before = abort
        with pytest.raises(Aborted):
            await session.commit()
        del astray.before
        assert not shop.prepared(client)
        session.add(spongebob())
        astray.after = doubt
        with pytest.raises(InDoubt):
            await session.commit()
        del astray.after
        assert shop.prepared(client) == [session.txid] * 2
        shop.resolve(client)
        assert shop.rows() == (1, 1)
        session.add(spongebob())
        await session.commit()
    assert shop.rows() == (2, 2)
