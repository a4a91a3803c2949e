"""A data manager of the package ``transaction``: one decision for all branches, after every other vote, and never before."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from databases.banks import SqliteBank

from raftcoord import Aborted, Client, InDoubt, LocalProtocolError, Outcome, State, TxId
from raftcoord.config import Config
from raftcoord.processes.database_servers import DatabaseServer

from .stopping import STOPS
from .world import Astray, Banks

transaction = pytest.importorskip("transaction")


class Voter:
    """Another data manager, which writes down what it is asked. ``fails``: the call that raises."""

    def __init__(self, key: str = "a", fails: str = "") -> None:
        self.key, self.fails = key, fails
        self.told: list[str] = []
        self.transaction_manager = transaction.manager

    def sortKey(self) -> str:
        return self.key

    def __getattr__(self, name: str) -> Any:
        if name not in ("abort", "tpc_begin", "commit", "tpc_vote", "tpc_finish", "tpc_abort"):
            raise AttributeError(name)

        def told(_: object) -> None:
            self.told.append(name)
            if name == self.fails:
                raise ZeroDivisionError(name)

        return told


class World(Banks):
    """Connections that are opened anew when they were closed."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.pg, self.my = self.ledger.connect(), self.orders.connect()

    def reopen(self) -> None:
        self.pg.close()
        if self.my.open:
            self.my.close()
        self.pg, self.my = self.ledger.connect(), self.orders.connect()

    def pay(self, client: Client, amount: int = 10) -> Any:
        """From ledger to orders, in the current transaction."""
        from raftcoord.integrations.zope import join

        branches = join(client, timeout=60)
        self.ledger.add(branches.enlist(self.pg, "ledger"), -amount)
        self.orders.add(branches.enlist(self.my, "orders"), amount)
        return branches


@pytest.fixture(scope="module")
def the_world(
    postgresql: DatabaseServer,
    mariadb: DatabaseServer,
    config: Config,
) -> Iterator[World]:
    made = World(postgresql, mariadb, config)
    yield made
    made.close()


@pytest.fixture
def world(the_world: World) -> Iterator[World]:
    the_world.reset()
    the_world.reopen()
    transaction.abort()
    yield the_world
    transaction.abort()
    the_world.reopen()


def test_it_is_a_data_manager_with_savepoints_and_retries(client: Client) -> None:
    from transaction.interfaces import IRetryDataManager, ISavepointDataManager
    from zope.interface.verify import verifyObject

    from raftcoord.integrations.zope import join

    branches = join(client)
    for interface in (ISavepointDataManager, IRetryDataManager):
        assert verifyObject(interface, branches)
    assert join(client) is branches
    transaction.abort()
    assert join(client) is not branches
    transaction.abort()


def test_it_commits_everywhere_after_all_others_have_voted(client: Client, world: World) -> None:
    first, told = Voter("zzz"), []
    with transaction.manager as current:
        branches = world.pay(client)
        current.join(first)
        current.addAfterCommitHook(lambda status: told.append((status, world.balances())))
    assert first.told[:4] == ["tpc_begin", "commit", "tpc_vote", "tpc_finish"]
    assert told == [(True, (90, 110))]
    assert client.status(branches.txid).state is State.COMMITTED
    assert not world.prepared(client)


@pytest.mark.parametrize("is_read", [True, False])
def test_one_branch_alone_is_recorded_if_its_txid_was_read(client: Client, world: World, is_read: bool) -> None:
    from raftcoord.integrations.zope import join

    with transaction.manager:
        branches = join(client)
        txid = branches.txid if is_read else None
        world.ledger.add(branches.enlist(world.pg, "ledger"), 1)
    assert branches.txid == txid
    assert txid is None or client.resolve(txid).state is State.COMMITTED
    assert world.balances() == (101, 100)


def test_a_manager_of_ones_own_in_explicit_mode(client: Client, world: World) -> None:
    from raftcoord.integrations.zope import join

    manager = transaction.TransactionManager(explicit=True)
    with pytest.raises(transaction.interfaces.NoTransaction):
        join(client, manager)
    for end, balance in ((manager.abort, 100), (manager.commit, 99)):
        manager.begin()
        branches = join(client, manager, timeout=60)
        world.ledger.add(branches.enlist(world.pg, "ledger"), -1)
        world.orders.add(branches.enlist(world.my, "orders"), -1)
        end()
        assert world.balances() == (balance, balance)
    with pytest.raises(LocalProtocolError, match="is over"):
        branches.enlist(world.pg, "ledger")


def test_abort_an_exception_and_doom_roll_everything_back(client: Client, world: World) -> None:
    world.pay(client)
    transaction.abort()

    def raising() -> None:
        with transaction.manager:
            world.pay(client)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        raising()

    def doomed() -> None:
        with transaction.manager:
            world.pay(client)
            transaction.doom()

    with pytest.raises(transaction.interfaces.DoomedTransaction):
        doomed()
    transaction.abort()
    assert world.balances() == (100, 100)
    with transaction.manager:
        world.pay(client)
    assert world.balances() == (90, 110)


def test_a_no_of_another_comes_before_anything_is_prepared(client: Client, world: World) -> None:
    other = Voter(fails="tpc_vote")
    branches = world.pay(client)
    transaction.get().join(other)
    with pytest.raises(ZeroDivisionError):
        transaction.commit()
    assert world.balances() == (100, 100)
    assert client.status(branches.txid).state is State.UNDECIDED
    assert not world.prepared(client)


def test_one_that_would_vote_after_the_decision_is_refused(client: Client, world: World) -> None:
    late = Voter("\x7f")
    branches = world.pay(client)
    transaction.get().join(late)
    with pytest.raises(LocalProtocolError, match="would vote after"):
        transaction.commit()
    assert "tpc_vote" not in late.told
    assert world.balances() == (100, 100)
    assert client.status(branches.txid).state is State.UNDECIDED


def test_one_that_commits_in_its_vote_is_refused_before_it_votes(client: Client, world: World) -> None:
    hasty = Voter("~sqlalchemy:1")
    world.pay(client)
    transaction.get().join(hasty)
    with pytest.raises(LocalProtocolError, match="may commit in its vote"):
        transaction.commit()
    assert "tpc_vote" not in hasty.told
    assert world.balances() == (100, 100)


def test_what_others_do_after_the_decision_changes_nothing(client: Client, world: World) -> None:
    broken = Voter(fails="tpc_finish")
    branches = world.pay(client)
    transaction.get().join(broken)
    with pytest.raises(ZeroDivisionError):
        transaction.commit()
    world.ledger.add(world.pg, -1)  # the connections are the caller's again, and tpc_abort lets them be
    transaction.abort()
    branches.abort(None)
    branches.tpc_abort(None)
    world.pg.commit()
    assert world.balances() == (89, 110)
    assert client.status(branches.txid).state is State.COMMITTED


def test_attempts_try_again_after_aborted(astray: Astray, world: World) -> None:
    tried: list[TxId] = []

    def meddle(txid: TxId) -> None:
        if len(tried) == 1:
            astray.resolve(txid)

    astray.before = meddle
    for attempt in transaction.manager.attempts(3):
        with attempt:
            tried.append(world.pay(astray).txid)
    assert [astray.status(txid).state for txid in tried] == [State.ABORTED, State.COMMITTED]
    assert world.balances() == (90, 110)


def test_attempts_end_with_aborted_as_it_is(astray: Astray, world: World) -> None:
    astray.before = lambda txid: print(astray.resolve(txid))

    def pay() -> None:
        world.pay(astray)

    with pytest.raises(Aborted):
        transaction.manager.run(pay, 2)
    assert world.balances() == (100, 100)


@pytest.mark.parametrize("decided", [True, False])
def test_in_doubt_is_not_tried_again_and_the_resolver_finishes(astray: Astray, world: World, decided: bool) -> None:
    tried: list[TxId] = []

    def lose(txid: TxId) -> Outcome:
        raise InDoubt(txid, "the answer was lost")

    setattr(astray, "after" if decided else "before", lose)

    def pay() -> None:
        tried.append(world.pay(astray).txid)

    with pytest.raises(InDoubt) as raised:
        transaction.manager.run(pay, 3)
    assert tried == [raised.value.txid]
    assert (world.pg.closed, world.my.open) == (True, False)
    assert raised.value.txid in world.prepared(astray)
    world.resolve(astray)
    assert world.balances() == ((90, 110) if decided else (100, 100))


def test_a_savepoint_goes_back_in_every_branch_also_in_one_that_came_later(client: Client, world: World) -> None:
    from raftcoord.integrations.zope import join

    with transaction.manager:
        branches = join(client, timeout=60)
        ledger = branches.enlist(world.pg, "ledger")
        world.ledger.add(ledger, -1)
        early = transaction.savepoint()
        world.ledger.add(ledger, -2)
        orders = branches.enlist(world.my, "orders")
        world.orders.add(orders, 4)
        late = transaction.savepoint()
        world.ledger.add(ledger, -8)
        world.orders.add(orders, 8)
        late.rollback()
        world.orders.add(orders, 16)
        early.rollback()
        world.orders.add(orders, 1)
    assert world.balances() == (99, 101)


def test_a_savepoint_from_before_it_joined_takes_it_out_and_it_may_join_again(client: Client, world: World) -> None:
    with transaction.manager:
        before = transaction.savepoint()
        world.pay(client, 50)
        before.rollback()
        world.pay(client)
    assert world.balances() == (90, 110)


def test_a_savepoint_in_sqlite(client: Client, world: World, tmp_path: Path) -> None:
    from raftcoord.integrations.zope import join

    bank = SqliteBank(tmp_path / "cache.db")
    connection = bank.connect()
    with transaction.manager:
        branches = join(client, timeout=60)
        cache = branches.enlist(connection, "cache")
        world.ledger.add(branches.enlist(world.pg, "ledger"), -1)
        bank.add(cache, 1)
        savepoint = transaction.savepoint()
        bank.add(cache, 2)
        savepoint.rollback()
    assert (bank.balance(), world.ledger.balance()) == (101, 99)
    connection.close()
    bank.close()


@pytest.mark.parametrize("stop", STOPS)
def test_a_program_killed_anywhere_leaves_both_sides_equal(client: Client, world: World, stop: str) -> None:
    txid = world.kill_at("zope_program.py", stop)
    world.resolve(client)
    committed = STOPS.index(stop) > STOPS.index("decision")
    assert world.balances() == ((90, 110) if committed else (100, 100))
    assert client.resolve(txid).state is (State.COMMITTED if committed else State.ABORTED)
