"""Banks in databases: what they show is what stands there, and nothing of an order that was not committed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from raftcoord import Aborted, Client, TxId
from raftcoord.databases import gid as gids
from raftcoord.drills.database_banks import DatabaseBanks, OrderRefused, pay, raise_banks
from raftcoord.drills.orders import HOME_BANK, Order, opening_for
from raftcoord.processes.database_servers import DatabaseServer
from raftcoord.processes.local_cluster import LocalCluster, write_local_config
from raftcoord.types import Branch, State

AA = Branch("bank-aa")
ORDER = Order(7, "1", AA, "2", 2_500, "")
POOR = Order(8, "1", AA, "2", 200_00, "")


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    config = write_local_config(tmp_path_factory.mktemp("banks"), nodes=1)
    cluster = LocalCluster(config)
    cluster.start_all()
    try:
        with Client.from_config(config) as made:
            yield made
    finally:
        cluster.kill("n1")


@pytest.fixture(scope="module")
def banks(postgresql: DatabaseServer, mariadb: DatabaseServer) -> tuple[DatabaseBanks, DatabaseBanks]:
    home, other = raise_banks(postgresql, "bank-home"), raise_banks(mariadb, "other-banks")
    opening = opening_for([ORDER])
    home.open({HOME_BANK: opening[HOME_BANK]})
    other.open({AA: opening[AA]})
    return home, other


def attempt(client: Client, banks: tuple[DatabaseBanks, DatabaseBanks], order: Order) -> TxId:
    home, other = banks
    with contextlib.closing(home.connect()) as pg, contextlib.closing(other.connect()) as my:
        with client.transaction() as tx:
            pay(order, tx.txid, tx.enlist(pg, home.name), tx.enlist(my, other.name))
        return tx.txid


def test_an_order_stands_on_both_sides_with_its_transaction(
    client: Client, banks: tuple[DatabaseBanks, DatabaseBanks]
) -> None:
    home, other = banks
    sum_before, home_before = home.cents() + other.cents(), home.cents()
    txid = attempt(client, banks, ORDER)
    assert home.cents() == home_before - ORDER.cents
    assert home.cents() + other.cents() == sum_before
    assert home.books()[HOME_BANK].finished[txid] is State.COMMITTED
    assert other.books()[AA].finished[txid] is State.COMMITTED
    assert home.rows("SELECT account, cents FROM payments WHERE order_id = 7") == [("1", -2_500)]
    assert home.prepared() == other.prepared() == []


def test_an_order_that_is_refused_leaves_nothing_on_either_side(
    client: Client, banks: tuple[DatabaseBanks, DatabaseBanks]
) -> None:
    before = [each.books() for each in banks]
    with pytest.raises(OrderRefused, match="order 8: account 1 of bank-home is not there, or would be overdrawn"):
        attempt(client, banks, POOR)
    unknown = Order(9, "1", AA, "404", 1, "")
    with pytest.raises((OrderRefused, Aborted), match="account 404 of bank-aa"):
        attempt(client, banks, unknown)
    assert [each.books() for each in banks] == before


def test_a_prepared_branch_is_in_the_books(banks: tuple[DatabaseBanks, DatabaseBanks]) -> None:
    for each, bank in zip(banks, (HOME_BANK, AA), strict=True):
        gid = gids.make("00000000000000bb", TxId.new(), each.name)
        with each.outside() as session:
            if session.dialect.name == "postgresql":
                statements, undo = ("BEGIN", f"PREPARE TRANSACTION '{gid}'"), f"ROLLBACK PREPARED '{gid}'"
            else:
                statements = (f"XA START {gid.xid}", f"XA END {gid.xid}", f"XA PREPARE {gid.xid}")
                undo = f"XA ROLLBACK {gid.xid}"
            cursor = session.connection.cursor()
            for statement in statements:
                cursor.execute(statement)
            assert each.prepared() == [gid.txid]
            assert gid.txid in each.books()[bank].prepared
            cursor.execute(undo)
        assert each.prepared() == []
