"""SQLite through SQLAlchemy: the file is frozen while it is prepared, and the pool gets its connection back as it was."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from databases.banks import SqliteBank
from sqlalchemy import create_engine, event, func, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import sessionmaker

from raftcoord import Aborted, Client, InDoubt, LocalProtocolError
from raftcoord.databases.steps import Effect
from raftcoord.integrations.sqlalchemy import Session, attach

from .recipes.model import User
from .shop import Shop, abort_once, create, in_doubt, spongebob
from .world import Astray


@pytest.fixture
def bank(tmp_path: Path) -> Iterator[SqliteBank]:
    made = SqliteBank(tmp_path / "users.db")
    yield made
    made.close()


@pytest.fixture
def engines(shop: Shop, bank: SqliteBank) -> Iterator[tuple[Any, Any]]:
    """Users in SQLite, addresses in MariaDB; one connection each."""
    engine = create_engine(f"sqlite:///{bank.path}", pool_size=1, max_overflow=0, connect_args={"timeout": 1})
    create(engine, User)
    yield attach(engine, "users"), shop.engines()[1]
    engine.dispose()


def users(bank: SqliteBank) -> int:
    ((number,),) = bank.sql("SELECT count(*) FROM user_account")
    return int(number)


def test_all_ends_of_a_transaction_on_the_same_connection(
    shop: Shop, client: Client, bank: SqliteBank, engines: Any
) -> None:
    make = shop.sessions(client, engines)
    for number in (1, 2):
        with make.begin() as session:
            session.add_all([spongebob(), User(name="patrick")])
            session.flush()
            assert session.scalar(select(func.count()).select_from(User)) == 2 * number
        assert session.outcome.committed
        assert (users(bank), shop.rows()[1]) == (2 * number, number)
    with make() as session:
        session.add(spongebob())
        session.flush()
        session.rollback()
        session.add(spongebob())
        session.flush()
    with make.begin() as session:
        session.add(User(name="alone"))
    assert session.outcome is None
    with make.begin() as session:
        session.add(spongebob())
        nested = session.begin_nested()
        session.add(spongebob())
        session.flush()
        nested.rollback()
    assert (users(bank), shop.rows()[1]) == (6, 3)
    assert not bank.prepared()
    with engines[0].begin() as connection:
        assert type(connection.connection.driver_connection).__name__ == "Connection"
        assert connection.scalar(select(func.count()).select_from(User)) == 6


def test_aborted_and_in_doubt(shop: Shop, astray: Astray, bank: SqliteBank, engines: Any) -> None:
    make = shop.sessions(astray, engines)
    with make() as session:
        session.add(spongebob())
        abort_once(astray)
        with pytest.raises(Aborted):
            session.commit()
        assert not bank.prepared()
        session.add(spongebob())
        astray.after = in_doubt
        with pytest.raises(InDoubt):
            session.commit()
        del astray.after
        assert bank.prepared() == [session.txid]
        with pytest.raises(IntegrityError, match="this file is frozen"), engines[0].begin() as connection:
            connection.execute(User.__table__.insert(), {"name": "other"})
    (left,) = bank.other.run(bank.dialect.list_prepared(None))
    assert bank.other.run(bank.dialect.commit_prepared(left.gid)) is Effect.COMMITTED
    shop.resolve(astray)
    assert (users(bank), shop.rows()[1]) == (1, 1)


def test_a_database_in_memory_is_refused_at_its_first_use(client: Client) -> None:
    engine = attach(create_engine("sqlite://"), "cache")
    create(engine, User)
    make: Any = sessionmaker(engine, class_=Session, client=client)
    with make() as session, pytest.raises(LocalProtocolError, match="use a file"):
        session.scalars(select(User))


def test_what_a_listener_has_set_on_the_connection_stays(
    shop: Shop, client: Client, bank: SqliteBank, engines: Any
) -> None:
    engines[0].dispose()
    event.listen(engines[0], "connect", lambda connection, _: connection.execute("PRAGMA foreign_keys = ON"))
    with shop.sessions(client, engines).begin() as session:
        session.add(spongebob())
    with engines[0].connect() as connection:
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
    assert users(bank) == 1
