"""The tutorial's model over two real databases: committed in both or in none, and the session is as its users know it."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import select

from raftcoord import Client, State

from .shop import Shop, spongebob
from .tutorial import Address, User


@pytest.fixture
def made(shop: Shop, client: Client) -> Any:
    return shop.sessions(client)


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
