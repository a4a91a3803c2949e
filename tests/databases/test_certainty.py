"""What the caller is told is true, and what is left behind is what the resolver can end: at each point of the protocol."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pymysql
import pytest

from raftcoord import (
    Aborted,
    Client,
    ConfigError,
    InDoubt,
    LocalProtocolError,
    Outcome,
    State,
    TxId,
    Unavailable,
    Verdict,
)
from raftcoord.client.asynchronous import AsyncClient
from raftcoord.config import Config
from raftcoord.databases import drivers, gid
from raftcoord.databases.steps import ConnectionLost, Effect
from raftcoord.processes.database_servers import DatabaseServer

from .banks import MariaDbBank, PostgreSqlBank


class Meddled(Client):
    """A client in whose ``decide`` something else happens first: ``before(txid)``, or afterwards: ``after``."""

    before: Callable[[TxId], None] = staticmethod(lambda txid: None)
    after: Callable[[], None] = staticmethod(lambda: None)

    def decide(self, txid: TxId | str, verdict: Verdict, *args: Any, **kwargs: Any) -> Outcome:
        self.before(TxId.parse(txid))
        outcome = super().decide(txid, verdict, *args, **kwargs)
        self.after()
        return outcome


class World:
    """Two banks, and a connection to each."""

    def __init__(self, postgresql: DatabaseServer, mariadb: DatabaseServer, client: Meddled) -> None:
        self.client, self.cluster = client, client.cluster_id()
        self.ledger, self.orders = PostgreSqlBank(postgresql), MariaDbBank(mariadb)
        self.pg, self.my = self.ledger.connect(), self.orders.connect()

    def transfer(self) -> TxId:
        """1 from orders to ledger."""
        with self.client.transaction(timeout=20) as tx:
            self.txid = tx.txid
            self.ledger.add(tx.enlist(self.pg, "ledger"), 1)
            self.orders.add(tx.enlist(self.my, "orders"), -1)
        return tx.txid

    def balances(self) -> tuple[int, int]:
        return self.ledger.balance(), self.orders.balance()

    def kill_pg(self) -> None:
        """End its session, and wait until it has ended."""
        pid = self.pg.info.backend_pid
        self.ledger.sql(f"SELECT pg_terminate_backend({pid}, 5000)")

    def kill_my(self) -> None:
        """End its session, and wait until it has ended."""
        thread = self.my.thread_id()
        self.orders.sql(f"KILL {thread}")
        deadline = time.monotonic() + 10
        while self.orders.sql(f"SELECT 1 FROM information_schema.processlist WHERE id = {thread}"):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(0.05)

    def finish(self, bank: PostgreSqlBank | MariaDbBank, branch: str, verdict: Verdict) -> Effect:
        """What the resolver does."""
        made = gid.make(self.cluster, self.txid, branch)
        end = bank.dialect.commit_prepared if verdict is Verdict.COMMIT else bank.dialect.rollback_prepared
        return bank.other.run(end(made))

    def close(self) -> None:
        for connection in (self.pg, self.my):
            try:
                connection.close()
            except pymysql.err.Error:
                continue
        self.ledger.close()
        self.orders.close()


@pytest.fixture
def world(postgresql: DatabaseServer, mariadb: DatabaseServer, config: Config, client: Client) -> Iterator[World]:
    with Meddled(AsyncClient.from_config(config)) as meddled:
        made = World(postgresql, mariadb, meddled)
        yield made
        made.close()


def test_a_commit_is_complete_in_the_ledger(world: World) -> None:
    txid = world.transfer()
    assert world.balances() == (101, 99)
    deadline = time.monotonic() + 10
    while (row := world.client.show(txid)) is None or row["outstanding"]:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert sorted(row["branches"]) == ["ledger", "orders"]


@pytest.mark.parametrize("lost", ["ledger", "orders"])
def test_a_connection_lost_behind_the_decision_is_success_and_left_to_the_resolver(
    world: World, client: Client, lost: str
) -> None:
    world.client.after = world.kill_pg if lost == "ledger" else world.kill_my
    world.transfer()
    assert world.balances() == ((100, 99) if lost == "ledger" else (101, 100))
    bank = world.ledger if lost == "ledger" else world.orders
    assert bank.prepared() == [world.txid]
    world.client.close()  # so that everything that was to be reported is
    row = client.show(world.txid)
    assert row is not None
    assert row["outstanding"] == [lost]
    assert world.finish(bank, lost, Verdict.COMMIT) is Effect.COMMITTED
    assert world.balances() == (101, 99)


@pytest.mark.parametrize("lost", ["ledger", "orders"])
def test_a_connection_lost_before_the_prepare_aborts_everywhere(world: World, lost: str) -> None:
    def block() -> None:
        with world.client.transaction(timeout=20) as tx:
            world.txid = tx.txid
            first, second = ("orders", "ledger") if lost == "ledger" else ("ledger", "orders")
            for name in (first, second):
                bank, connection = (world.ledger, world.pg) if name == "ledger" else (world.orders, world.my)
                bank.add(tx.enlist(connection, name), 1)
            (world.kill_pg if lost == "ledger" else world.kill_my)()

    with pytest.raises(Aborted, match="failed") as raised:
        block()
    assert raised.value.branch == lost
    assert world.balances() == (100, 100)
    assert not world.ledger.prepared()
    assert not world.orders.prepared()
    assert world.client.status(world.txid).state is State.ABORTED


def test_an_outcome_that_somebody_resolved_to_abort_is_rolled_back(world: World) -> None:
    world.client.before = lambda txid: world.client.resolve(txid) and None
    with pytest.raises(Aborted):
        world.transfer()
    assert world.balances() == (100, 100)
    assert not world.ledger.prepared()
    assert not world.orders.prepared()
    world.ledger.add(world.pg, 1)
    world.pg.commit()
    world.orders.add(world.my, 1)
    world.my.commit()
    assert world.balances() == (101, 101)


def test_in_doubt_leaves_both_prepared_and_hangs_up_so_that_the_resolver_can_act(world: World) -> None:
    def lost(txid: TxId) -> None:
        raise InDoubt(txid, "the answer was lost")

    world.client.before = lost
    with pytest.raises(InDoubt) as raised:
        world.transfer()
    assert raised.value.txid == world.txid
    assert world.pg.closed
    assert not world.my.open
    assert world.ledger.prepared() == [world.txid]
    assert world.orders.prepared() == [world.txid]
    assert world.client.resolve(world.txid).state is State.ABORTED
    time.sleep(0.1)
    assert world.finish(world.ledger, "ledger", Verdict.ABORT) is Effect.ABSENT
    assert world.finish(world.orders, "orders", Verdict.ABORT) is Effect.ABSENT
    assert world.balances() == (100, 100)


def test_ctrl_c_while_it_is_decided_leaves_both_prepared(world: World) -> None:
    def interrupted(txid: TxId) -> None:
        raise KeyboardInterrupt

    world.client.before = interrupted
    with pytest.raises(KeyboardInterrupt):
        world.transfer()
    assert world.pg.closed
    assert not world.my.open
    assert (world.ledger.prepared(), world.orders.prepared()) == ([world.txid], [world.txid])
    time.sleep(0.1)
    world.finish(world.ledger, "ledger", Verdict.ABORT)
    world.finish(world.orders, "orders", Verdict.ABORT)


def test_a_decision_that_no_node_took_is_rolled_back(world: World) -> None:
    def refused(txid: TxId) -> None:
        raise Unavailable("nothing was attempted")

    world.client.before = refused
    with pytest.raises(Aborted, match="no node took the decision"):
        world.transfer()
    assert world.balances() == (100, 100)
    assert not world.ledger.prepared()
    assert not world.orders.prepared()
    assert not world.pg.closed
    assert world.my.open


def test_a_branch_that_was_ended_by_hand_is_no_completed_one(world: World) -> None:
    """42704 at the commit behind the decision: the caller has its COMMIT, and the ledger keeps the branch open."""
    made: list[TxId] = []
    world.client.before = made.append

    def by_hand() -> None:
        world.ledger.sql(f"ROLLBACK PREPARED '{gid.make(world.client.cluster_id(), made[0], 'ledger')}'")

    world.client.after = by_hand
    world.transfer()
    assert world.pg.closed
    assert world.balances() == (100, 99)
    time.sleep(0.5)
    row = world.client.show(world.txid)
    assert row is not None
    assert row["outstanding"] == ["ledger"]


def test_the_timeout_aborts_before_anything_is_decided(world: World) -> None:
    def block() -> None:
        with world.client.transaction(timeout=0.3) as tx:
            world.ledger.add(tx.enlist(world.pg, "ledger"), 1)
            world.orders.add(tx.enlist(world.my, "orders"), 1)
            time.sleep(0.35)

    with pytest.raises(Aborted, match=r"the timeout of 0.3 s had passed"):
        block()
    assert world.balances() == (100, 100)


def test_no_branch_is_nothing(world: World) -> None:
    with world.client.transaction() as tx:
        pass
    assert tx.outcome is None
    assert tx.txid is None


# -- bad input


def test_a_connection_and_a_name_are_enlisted_once(world: World) -> None:
    with world.client.transaction() as tx:
        tx.enlist(world.pg, "ledger")
        with pytest.raises(LocalProtocolError, match="enlisted already, as branch 'ledger'"):
            tx.enlist(world.pg, "other")
        with pytest.raises(LocalProtocolError, match="a branch 'ledger' is enlisted already"):
            tx.enlist(world.my, "ledger")


@pytest.mark.parametrize("name", ["", "Ledger", "a_b", "a.b", "x" * 33, None, 7])
def test_a_wrong_name_is_refused(world: World, name: Any) -> None:
    with world.client.transaction() as tx, pytest.raises(LocalProtocolError, match="is not a name"):
        tx.enlist(world.pg, name)
    assert world.pg.info.transaction_status == psycopg.pq.TransactionStatus.IDLE


@pytest.mark.parametrize("connection", [None, "postgresql://x", object(), 7])
def test_what_is_no_connection_is_refused_with_those_that_are_known(world: World, connection: Any) -> None:
    with (
        world.client.transaction() as tx,
        pytest.raises(LocalProtocolError, match="psycopg, psycopg2, pg8000, PyMySQL"),
    ):
        tx.enlist(connection, "ledger")


def test_a_failed_transaction_is_refused(world: World) -> None:
    with pytest.raises(psycopg.Error):
        world.pg.execute("SELECT 1/0")
    with world.client.transaction() as tx, pytest.raises(LocalProtocolError, match="failed transaction; rollback"):
        tx.enlist(world.pg, "ledger")


async def test_the_other_kind_of_connection_is_refused(world: World, config: Config) -> None:
    asynchronous = await psycopg.AsyncConnection.connect(world.ledger.url)
    with world.client.transaction() as tx, pytest.raises(LocalProtocolError, match="of the other kind"):
        tx.enlist(asynchronous, "ledger")
    async with AsyncClient.from_config(config) as client, client.transaction() as other:
        with pytest.raises(LocalProtocolError, match="of the other kind"):
            await other.enlist(world.pg, "ledger")
    await asynchronous.close()


def test_a_block_is_entered_once_and_enlisted_in(world: World) -> None:
    tx = world.client.transaction()
    with pytest.raises(LocalProtocolError, match="inside the block"):
        tx.enlist(world.pg, "ledger")
    with tx:
        pass
    with pytest.raises(LocalProtocolError, match="is over"):
        tx.enlist(world.pg, "ledger")
    with pytest.raises(LocalProtocolError, match="entered once"), tx:
        pass


def test_a_url_that_is_wrong_says_so_without_its_password(tmp_path: Path) -> None:
    for url in ("", "oracle://x", "postgresql", "mysql://h:port/x", "sqlite:///"):
        with pytest.raises(ConfigError) as raised:
            drivers.connect(url)
        assert "URL" in str(raised.value)
    for url in ("postgresql://u:secret@127.0.0.1:1/x", "mysql://u:secret@127.0.0.1:1/x", f"sqlite:///{tmp_path}/no.db"):
        with pytest.raises(ConnectionLost) as lost:
            drivers.connect(url)
        assert "secret" not in str(lost.value)
