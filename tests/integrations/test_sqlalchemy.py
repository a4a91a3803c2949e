"""The tutorial's model over two real databases: committed in both or in none, and the session is as its users know it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import create_engine, select
from sqlalchemy.orm import sessionmaker

from raftcoord import Client, State
from raftcoord.config import Config
from raftcoord.drills.servers import MariaDbServer, PostgreSqlServer
from raftcoord.integrations.sqlalchemy import Session, attach

from .tutorial import Address, User, create, url
from .world import Banks


class Shop(Banks):
    """Users in PostgreSQL, addresses in MariaDB."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.engines = [create_engine(url(self.ledger, "psycopg")), create_engine(url(self.orders, "pymysql"))]
        for engine, model in zip(self.engines, (User, Address), strict=True):
            create(engine, model)

    def rows(self) -> tuple[int, int]:
        ((users,),) = self.ledger.sql("SELECT count(*) FROM user_account")
        ((addresses,),) = self.orders.sql("SELECT count(*) FROM address")
        return int(users), int(addresses)


@pytest.fixture(scope="module")
def the_shop(postgresql: PostgreSqlServer, mariadb: MariaDbServer, config: Config) -> Iterator[Shop]:
    made = Shop(postgresql, mariadb, config)
    yield made
    made.close()


@pytest.fixture
def shop(the_shop: Shop) -> Shop:
    the_shop.ledger.sql("DELETE FROM user_account")
    the_shop.orders.sql("DELETE FROM address")
    return the_shop


@pytest.fixture
def made(shop: Shop, client: Client) -> Any:
    ledger, orders = shop.engines
    attach(ledger, "ledger")
    attach(orders, "orders")
    return sessionmaker(class_=Session, client=client, binds={User: ledger, Address: orders}, timeout=60)


def spongebob() -> User:
    return User(name="spongebob", fullname="Spongebob Squarepants", addresses=[Address(email_address="s@example.org")])


def test_a_block_is_committed_in_both(shop: Shop, client: Client, made: Any) -> None:
    with made.begin() as session:
        session.add(spongebob())
    assert shop.rows() == (1, 1)
    assert session.outcome.committed
    assert client.status(session.txid).state is State.COMMITTED
    assert not shop.prepared(client)


def test_commit_and_the_next_transaction_on_the_same_session(shop: Shop, client: Client, made: Any) -> None:
    with made() as session:
        session.add(spongebob())
        session.commit()
        first = session.txid
        user = session.scalars(select(User)).one()
        user.addresses.append(Address(email_address="t@example.org"))
        session.commit()
        assert session.txid != first
    assert shop.rows() == (1, 2)
    assert not shop.prepared(client)
