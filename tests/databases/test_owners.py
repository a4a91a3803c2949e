"""A connection is the resource's that it is enlisted as, or is refused before any work."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raftcoord import AsyncClient, Client, ConfigError, LocalProtocolError, TxId
from raftcoord.config import Config
from raftcoord.databases import gid as gids
from raftcoord.databases.owners import Marks, Owner, check, read
from raftcoord.databases.registry import named
from raftcoord.databases.resolver.claiming import claim, elsewhere
from raftcoord.databases.resolver.listing import make_marks
from raftcoord.databases.resolver.resource import Resource
from raftcoord.databases.resource_config import ResourceConfig
from raftcoord.databases.steps import Result
from raftcoord.processes.database_servers import DatabaseServer
from raftcoord.types import Branch

from .banks import Bank, MariaDbBank, PostgreSqlBank, SqliteBank
from .connecting import ASYNC, SYNC, add, connected

KINDS = ("postgresql", "mariadb", "sqlite")
OTHER_CLUSTER = "00000000000000bb"


class Pair:
    """Two databases of one kind: of the resources ``ledger`` and ``orders`` of the cluster, as their marks say."""

    def __init__(self, kind: str, request: pytest.FixtureRequest, path: Path, client: Client) -> None:
        made: list[Bank] = []
        for name in ("ledger", "orders"):
            if kind == "sqlite":
                made.append(SqliteBank(path / f"{name}.db"))
            else:
                server = request.getfixturevalue(kind)
                made.append(PostgreSqlBank(server) if kind == "postgresql" else MariaDbBank(server))
        self.ledger, self.orders = made
        self.cluster = client.cluster_id()

    def name(self) -> None:
        for name, bank in (("ledger", self.ledger), ("orders", self.orders)):
            bank.other.run(bank.dialect.add_owner(Owner(self.cluster, name)))

    def balances(self) -> tuple[int, int]:
        return self.ledger.balance(), self.orders.balance()


@pytest.fixture(params=KINDS)
def pair(request: pytest.FixtureRequest, tmp_path: Path, client: Client) -> Iterator[Pair]:
    made = Pair(request.param, request, tmp_path, client)
    yield made
    made.ledger.close()
    made.orders.close()


def test_swapped_connections_are_refused_before_any_work_and_serve_again(client: Client, pair: Pair) -> None:
    pair.name()
    connection = pair.orders.connect()

    def block() -> None:
        with client.transaction() as tx:
            tx.enlist(connection, "ledger")

    with pytest.raises(
        LocalProtocolError, match="leads to the database of resource 'orders', and was enlisted as 'ledger'"
    ):
        block()
    with client.transaction() as tx:
        pair.ledger.add(tx.enlist(pair.ledger.connect(), "ledger"), -5)
        pair.orders.add(tx.enlist(connection, "orders"), 5)
    assert pair.balances() == (95, 105)


def test_a_connection_that_was_found_fit_is_fit_for_that_resource_alone(client: Client, pair: Pair) -> None:
    pair.name()
    connection = pair.ledger.connect()
    for _ in range(2):
        with client.transaction() as tx:
            pair.ledger.add(tx.enlist(connection, "ledger"), 1)

    def block() -> None:
        with client.transaction() as tx:
            tx.enlist(connection, "orders")

    with pytest.raises(LocalProtocolError, match="leads to the database of resource 'ledger'"):
        block()
    assert pair.balances() == (102, 100)


def test_a_database_of_another_cluster_is_refused(client: Client, pair: Pair) -> None:
    bank = pair.ledger
    bank.other.run(bank.dialect.add_owner(Owner(OTHER_CLUSTER, "ledger")))

    def block() -> None:
        with client.transaction() as tx:
            bank.add(tx.enlist(bank.connect(), "ledger"), 1)

    with pytest.raises(ConfigError, match="another cluster"):
        block()
    pair.name()  # it is both clusters'
    block()
    assert bank.balance() == 101


def test_another_database_of_the_server_without_marks_is_refused(client: Client, postgresql: DatabaseServer) -> None:
    bank = PostgreSqlBank(postgresql, marks=False)

    def block() -> None:
        with client.transaction() as tx:
            tx.enlist(bank.connect(), "ledger")

    with pytest.raises(
        ConfigError, match=r"no table of marks.*connect to the right one.*raftcoord resource init ledger"
    ):
        block()
    bank.close()


def test_marks_from_before_are_taken_on_trust_until_they_are_named(client: Client, pair: Pair) -> None:
    connection = pair.orders.connect()
    with client.transaction() as tx:
        pair.orders.add(tx.enlist(connection, "ledger"), 1)
    assert pair.balances() == (100, 101)
    pair.name()

    def block() -> None:
        with client.transaction() as tx:
            tx.enlist(connection, "ledger")

    with pytest.raises(LocalProtocolError, match="leads to the database of resource 'orders'"):
        block()


@pytest.mark.parametrize("driver", [name for name, made in SYNC.items() if made[0] != "sqlite"])
def test_it_is_found_through_every_driver(
    driver: str, client: Client, postgresql: DatabaseServer, mariadb: DatabaseServer
) -> None:
    kind, connect = SYNC[driver]
    bank = PostgreSqlBank(postgresql) if kind == "postgresql" else MariaDbBank(mariadb)
    bank.other.run(bank.dialect.add_owner(Owner(client.cluster_id(), "orders")))
    connection = connect(bank)

    def block(name: str) -> None:
        with client.transaction() as tx:
            bank.add(tx.enlist(connection, name), 1)

    with pytest.raises(LocalProtocolError, match="leads to the database of resource 'orders'"):
        block("ledger")
    block("orders")
    assert bank.balance() == 101
    connection.close()
    bank.close()


@pytest.mark.parametrize("driver", [name for name, made in ASYNC.items() if made[0] != "sqlite"])
async def test_it_is_found_through_every_asynchronous_driver(
    driver: str, config: Config, client: Client, postgresql: DatabaseServer, mariadb: DatabaseServer
) -> None:
    bank = PostgreSqlBank(postgresql) if ASYNC[driver][0] == "postgresql" else MariaDbBank(mariadb)
    bank.other.run(bank.dialect.add_owner(Owner(client.cluster_id(), "orders")))
    async with AsyncClient.from_config(config) as asynchronous, connected(ASYNC[driver], bank) as connection:

        async def block(name: str) -> None:
            async with asynchronous.transaction() as tx:
                await add(await tx.enlist(connection, name), 1)

        with pytest.raises(LocalProtocolError, match="leads to the database of resource 'orders'"):
            await block("ledger")
        await block("orders")
    assert bank.balance() == 101
    bank.close()


@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_looking_whose_it_is_costs_no_round_trip_of_its_own(kind: str) -> None:
    gid = gids.make(OTHER_CLUSTER, TxId.new(), "ledger")
    steps = named(kind).dialect.begin(gid, checked=False)
    next(steps)
    if kind == "mariadb":
        steps.send(Result([], None, 0))
    with pytest.raises(StopIteration) as ended:
        steps.send(Result([(1, "<gid>x</gid>")] if kind == "postgresql" else [], None, 0))
    assert ended.value.value is Marks.UNNAMED


# -- whoever knows the url names them


def looked_at(bank: Bank, client: Client, name: str, elsewhere: frozenset[str] = frozenset()) -> Resource:
    named = frozenset({"ledger", "orders"})
    made = Resource(ResourceConfig(Branch(name), bank.url), named, client, safety_s=0.0, elsewhere=elsewhere)
    made.look(thorough=True)
    made.close()
    return made


def test_the_resolver_names_marks_from_before(client: Client, pair: Pair) -> None:
    assert not looked_at(pair.ledger, client, "ledger").trouble
    bank = pair.ledger
    assert bank.other.run(bank.dialect.owners()) == {Owner(pair.cluster, "ledger")}
    assert not looked_at(pair.ledger, client, "ledger").trouble

    def block() -> None:
        with client.transaction() as tx:
            tx.enlist(bank.connect(), "orders")

    with pytest.raises(LocalProtocolError):
        block()


def test_the_resolver_takes_nothing_for_damage_in_the_database_of_another_resource(client: Client, pair: Pair) -> None:
    pair.name()
    found = looked_at(pair.orders, client, "ledger", frozenset({"orders"}))
    assert "leads to the database of resource 'orders'" in found.trouble
    shared = looked_at(pair.orders, client, "ledger")  # both urls lead there
    assert not shared.trouble
    assert pair.orders.other.run(pair.orders.dialect.owners()) == {
        Owner(pair.cluster, "ledger"),
        Owner(pair.cluster, "orders"),
    }


def test_resource_init_names_them_and_refuses_the_database_of_another(config: Config, pair: Pair) -> None:
    ledger, orders = (
        ResourceConfig(Branch(name), bank.url) for name, bank in (("ledger", pair.ledger), ("orders", pair.orders))
    )
    swapped = ResourceConfig(Branch("orders"), pair.ledger.url)
    hidden = ResourceConfig(Branch("hidden"), "postgresql://app:${NOT_SET}@127.0.0.1/hidden")
    both = dataclasses.replace(config, resources=(ledger, orders, hidden))
    assert elsewhere(both, ledger) == {"orders", "hidden"}
    assert not make_marks(both, ledger, "").named
    assert make_marks(both, ledger, pair.cluster).named
    assert make_marks(both, ledger, pair.cluster).named
    moved = ResourceConfig(Branch("ledger"), pair.orders.url)
    with pytest.raises(ConfigError, match="leads to the database of resource 'ledger'"):
        make_marks(dataclasses.replace(config, resources=(moved, swapped)), swapped, pair.cluster)
    assert make_marks(
        dataclasses.replace(config, resources=(ledger, swapped)), swapped, pair.cluster
    ).named  # it is both


def test_the_rows_of_owners_are_no_marks_and_outlive_them(pair: Pair) -> None:
    pair.name()
    bank = pair.ledger
    bank.other.run(bank.dialect.forget_marks(pair.cluster, TxId.new((1 << 48) - 1, bytes(10))))
    assert bank.other.run(bank.dialect.owners()) == {Owner(pair.cluster, "ledger")}
    assert claim(bank.other, Owner(pair.cluster, "ledger"), lambda name: True).named


def test_what_cannot_be_read_names_nobody() -> None:
    gid = gids.make(OTHER_CLUSTER, TxId.new(), "ledger")
    good = Owner(OTHER_CLUSTER, "ledger")
    rows: list[tuple[Any, ...]] = [("is.x.ledger",), ("is.",), ("rc1.",), (f"is.{OTHER_CLUSTER}.",), (str(good),)]
    assert read(rows) == {good}
    assert check(read(rows), gid) is Marks.NAMED
    assert check(frozenset(), gid) is Marks.UNNAMED
