"""Django over two real databases: its books are right, and what it tells, hooks included, is what stands."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from databases.banks import Bank, SqliteBank

from raftcoord import Aborted, Client, InDoubt, LocalProtocolError, State, TxId, Unavailable
from raftcoord.config import Config
from raftcoord.processes.database_servers import DatabaseServer

from .django_site import configure
from .stopping import STOPS
from .world import Astray, Banks

pytest.importorskip("django")
BRANCHES = {"default": "ledger", "orders_db": "orders"}


class Site(Banks):
    """The banks as Django has them."""

    def __init__(self, path: Path, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.cache = SqliteBank(path)
        self.account = configure(self.ledger.url, self.orders.server.port, self.orders.database, str(path))

    def all(self) -> tuple[Bank, ...]:
        return *super().all(), self.cache

    def pay(self, amount: int = 10) -> None:
        """From ledger to orders, within a block."""
        from django.db.models import F

        for alias, more in (("default", -amount), ("orders_db", amount)):
            self.account.objects.using(alias).filter(name="alice").update(amount=F("amount") + more)

    def add(self, name: str, alias: str = "default") -> None:
        self.account.objects.using(alias).create(name=name, amount=0)

    def names(self, alias: str = "default") -> set[str]:
        bank = {"default": self.ledger, "orders_db": self.orders, "cache_db": self.cache}[alias]
        return {str(name) for (name,) in bank.sql("SELECT name FROM accounts")}


@pytest.fixture(scope="module")
def the_site(
    postgresql: DatabaseServer,
    mariadb: DatabaseServer,
    config: Config,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Site]:
    made = Site(tmp_path_factory.mktemp("django") / "cache.db", postgresql, mariadb, config)
    yield made
    made.close()


@pytest.fixture
def site(the_site: Site) -> Iterator[Site]:
    """The site; after each test Django's books must be as before any transaction, whatever has happened."""
    the_site.reset()
    yield the_site
    from django.db import connections

    for wrapper in connections.all():
        assert wrapper.get_autocommit()
        assert not wrapper.in_atomic_block
        assert not wrapper.needs_rollback
        assert (wrapper.savepoint_ids, wrapper.atomic_blocks, wrapper.run_on_commit) == ([], [], [])
        assert "close" not in vars(wrapper)
        assert the_site.account.objects.using(wrapper.alias).count() >= 1
        wrapper.close()


def atomic(client: Any, branches: dict[str, str] = BRANCHES, timeout: float = 60) -> Any:
    from raftcoord.integrations import django

    return django.atomic(client, branches, timeout=timeout)


def on_commit(told: list[str], word: str, alias: str = "default") -> None:
    from django.db import transaction

    transaction.on_commit(lambda: told.append(word), using=alias)


def test_a_block_commits_both_databases_and_then_runs_the_hooks(client: Client, site: Site) -> None:
    told: list[Any] = []
    with atomic(client) as tx:
        site.pay()
        on_commit(told, "orders", "orders_db")
        on_commit(told, "ledger")
        from django.db import transaction

        transaction.on_commit(lambda: told.append(site.balances()))
        assert told == []
        assert site.balances() == (100, 100)
    assert told == ["ledger", (90, 110), "orders"]
    assert client.status(tx.txid).state is State.COMMITTED
    assert not site.prepared(client)


def test_an_exception_rolls_both_back_and_runs_no_hook(client: Client, site: Site) -> None:
    told: list[str] = []

    def block() -> None:
        with atomic(client):
            site.pay()
            on_commit(told, "never")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        block()
    assert (site.balances(), told) == ((100, 100), [])
    with atomic(client):
        site.pay()
    assert (site.balances(), told) == ((90, 110), [])


@pytest.mark.parametrize("alias", [*BRANCHES, "cache_db"])
def test_an_inner_atomic_is_a_savepoint_with_its_hooks(client: Client, site: Site, alias: str) -> None:
    from django.db import IntegrityError, transaction

    told: list[str] = []
    with atomic(client, {**BRANCHES, "cache_db": "cache"}):
        site.pay()
        site.add("kept", alias)
        with transaction.atomic(using=alias):
            on_commit(told, "kept", alias)
            site.add("inner", alias)
        with contextlib.suppress(IntegrityError), transaction.atomic(using=alias):
            on_commit(told, "lost", alias)
            site.add("lost", alias)
            site.add("kept", alias)
            raise AssertionError
        assert transaction.get_connection(alias).in_atomic_block
    assert site.names(alias) == {"alice", "kept", "inner"}
    assert (site.balances(), told) == ((90, 110), ["kept"])


def test_a_failure_swallowed_in_an_inner_block_aborts(client: Client, site: Site) -> None:
    from django.db import IntegrityError, transaction

    told: list[str] = []

    def swallow() -> None:
        with atomic(client):
            site.pay()
            on_commit(told, "never")
            with pytest.raises(IntegrityError), transaction.atomic(using="orders_db", savepoint=False):
                site.add("alice", "orders_db")

    with pytest.raises(Aborted, match="'orders': a statement failed and its error was swallowed") as raised:
        swallow()
    assert (site.balances(), told) == ((100, 100), [])
    assert raised.value.branch == "orders"


def test_set_rollback_aborts(client: Client, site: Site) -> None:
    from django.db import transaction

    def roll_back() -> None:
        with atomic(client):
            site.pay()
            transaction.set_rollback(True)

    with pytest.raises(Aborted, match=r"set_rollback\(True\) was called"):
        roll_back()
    assert site.balances() == (100, 100)


def test_a_statement_that_failed_in_the_block_itself_aborts_in_postgresql(client: Client, site: Site) -> None:
    from django.db import DatabaseError, connections

    def swallow() -> None:
        with atomic(client):
            site.pay()
            with pytest.raises(DatabaseError), connections["default"].cursor() as cursor:
                cursor.execute("SELECT 1 / 0")

    with pytest.raises(Aborted, match="branch 'ledger'"):
        swallow()
    assert site.balances() == (100, 100)


def test_whoever_resolved_it_before_is_heard_and_no_hook_runs(astray: Astray, site: Site) -> None:
    told: list[str] = []
    astray.before = lambda txid: print(astray.resolve(txid))

    def block() -> None:
        with atomic(astray):
            site.pay()
            on_commit(told, "never")

    with pytest.raises(Aborted):
        block()
    assert (site.balances(), told) == ((100, 100), [])
    assert not site.prepared(astray)


@pytest.mark.parametrize("decided", [True, False])
def test_in_doubt_closes_the_connections_runs_no_hook_and_the_resolver_finishes(
    astray: Astray, site: Site, decided: bool
) -> None:
    from django.db import connections

    told: list[str] = []

    def lose(txid: TxId) -> None:
        raise InDoubt(txid, "the answer was lost")

    setattr(astray, "after" if decided else "before", lose)

    def block() -> None:
        with atomic(astray):
            site.pay()
            on_commit(told, "never")

    with pytest.raises(InDoubt) as raised:
        block()
    assert [connections[alias].connection for alias in BRANCHES] == [None, None]
    assert raised.value.txid in site.prepared(astray)
    site.resolve(astray)
    assert site.balances() == ((90, 110) if decided else (100, 100))
    assert told == []
    astray.after = astray.before = lambda txid: None
    with atomic(astray):
        site.pay(0)


def test_a_connection_lost_after_the_decision_is_no_failure(astray: Astray, site: Site) -> None:
    from django.db import connections

    told: list[str] = []

    def kill(txid: TxId) -> None:
        pid = connections["default"].connection.info.backend_pid
        site.ledger.sql(f"SELECT pg_terminate_backend({pid}, 5000)")

    astray.after = kill
    with atomic(astray):
        site.pay()
        on_commit(told, "once")
    assert told == ["once"]
    site.resolve(astray)
    assert site.balances() == (90, 110)


def test_a_hook_that_fails_ends_those_of_its_connection_only_and_the_commit_stands(
    client: Client,
    site: Site,
) -> None:
    from django.db import transaction

    told: list[str] = []

    def block() -> None:
        with atomic(client):
            site.pay()
            transaction.on_commit(lambda: 1 // 0)
            on_commit(told, "not reached")
            on_commit(told, "orders", "orders_db")

    with pytest.raises(ZeroDivisionError):
        block()
    assert (site.balances(), told) == ((90, 110), ["orders"])


def test_a_hook_may_begin_the_next_transaction_and_loses_none_of_the_others(client: Client, site: Site) -> None:
    from django.db import transaction

    told: list[str] = []

    def again() -> None:
        with atomic(client):
            site.pay()
            on_commit(told, "inner", "orders_db")

    with atomic(client):
        site.pay()
        transaction.on_commit(again)
        on_commit(told, "outer", "orders_db")
    assert (site.balances(), told) == ((80, 120), ["inner", "outer"])


def test_a_block_inside_an_atomic_block_is_refused(client: Client, site: Site) -> None:
    from django.db import transaction

    with transaction.atomic(using="orders_db"):
        site.add("outer", "orders_db")
        with pytest.raises(LocalProtocolError, match=r"'orders_db' .* ATOMIC_REQUESTS"):
            atomic(client).__enter__()
    with atomic(client):
        site.pay()
        with pytest.raises(LocalProtocolError, match="stands in a transaction of Django's already"):
            atomic(client).__enter__()
        with pytest.raises(RuntimeError, match="durable"):
            transaction.atomic(durable=True).__enter__()
    assert site.names("orders_db") == {"alice", "outer"}
    assert site.balances() == (90, 110)


def test_a_connection_without_autocommit_is_refused(client: Client, site: Site) -> None:
    from django.db import transaction

    transaction.set_autocommit(False)
    with pytest.raises(LocalProtocolError, match="not in autocommit"):
        atomic(client).__enter__()
    transaction.rollback()
    transaction.set_autocommit(True)


def test_a_pool_that_takes_back_what_is_closed_is_refused(
    client: Client, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    from django.db import connections

    with monkeypatch.context() as patch:
        pool = SimpleNamespace(close_returns=True)
        patch.setattr(type(connections["default"]), "pool", pool, raising=False)  # Django 4.2 has no pools
        with pytest.raises(LocalProtocolError, match="its pool has close_returns"):
            atomic(client).__enter__()


def test_a_second_alias_that_is_refused_leaves_the_first_as_it_was(client: Client, site: Site) -> None:
    with pytest.raises(LocalProtocolError, match="a branch 'ledger' is enlisted already"):
        atomic(client, {"default": "ledger", "orders_db": "ledger"}).__enter__()
    site.pay()
    assert site.balances() == (90, 110)


def test_commit_rollback_and_close_inside_are_refused_and_nothing_is_lost(client: Client, site: Site) -> None:
    from django.db import transaction

    with atomic(client):
        site.pay()
        for end in (transaction.commit, transaction.rollback):
            with pytest.raises(transaction.TransactionManagementError):
                end()
    assert site.balances() == (90, 110)

    def close() -> None:
        with atomic(client):
            site.pay()
            with pytest.raises(transaction.TransactionManagementError, match="ends with its block"):
                transaction.get_connection("orders_db").close()

    with pytest.raises(Aborted):
        close()
    assert site.balances() == (90, 110)


def test_one_alias_alone_is_a_plain_commit_with_hooks(client: Client, site: Site) -> None:
    told: list[str] = []
    with atomic(client, {"orders_db": "orders"}) as tx:
        site.add("bob", "orders_db")
        on_commit(told, "orders", "orders_db")
    assert (tx.outcome, tx.txid, told, site.names("orders_db")) == (None, None, ["orders"], {"alice", "bob"})


def test_one_alias_alone_is_recorded_once_its_txid_was_read(client: Client, site: Site) -> None:
    with atomic(client, {"orders_db": "orders"}) as tx:
        txid = tx.txid
        site.add("bob", "orders_db")
    assert client.resolve(txid).state is State.COMMITTED
    assert site.names("orders_db") == {"alice", "bob"}


def test_a_view_commits_before_its_response_and_again_at_each_call(client: Client, site: Site) -> None:
    from django.http import HttpRequest, HttpResponse

    def view(request: HttpRequest) -> HttpResponse:
        """Pay."""
        site.pay()
        return HttpResponse("paid")

    decorated = atomic(lambda: client)(view)
    for paid in (10, 20):
        assert decorated(HttpRequest()).content == b"paid"
        assert site.balances() == (100 - paid, 100 + paid)
    assert (decorated.__name__, decorated.__doc__) == ("view", "Pay.")


def test_an_asynchronous_view_is_refused(client: Client, site: Site) -> None:
    async def view() -> None: ...

    with pytest.raises(LocalProtocolError, match="sync_to_async"):
        atomic(client)(view)
    with pytest.raises(LocalProtocolError, match="sync_to_async"):
        atomic(client)(lambda: view())()


KILLS = [(stop, "", second) for second in ("orders", "cache") for stop in STOPS]
KILLS += [("first commit", "psycopg2,pymysql", "orders")]


@pytest.mark.parametrize(("stop", "drivers", "second"), KILLS)
def test_a_program_killed_anywhere_leaves_both_sides_equal(
    client: Client, site: Site, stop: str, drivers: str, second: str
) -> None:
    txid = site.kill_at("django_site.py", stop, drivers, str(site.cache.path) if second == "cache" else "")
    site.resolve(client)
    committed = STOPS.index(stop) > STOPS.index("decision")
    paid = site.cache if second == "cache" else site.orders
    assert (site.ledger.balance(), paid.balance()) == ((90, 110) if committed else (100, 100))
    assert client.resolve(txid).state is (State.COMMITTED if committed else State.ABORTED)


# -- SQLite


WITH_CACHE = {"default": "ledger", "cache_db": "cache"}


def test_a_sqlite_file_takes_part(client: Client, site: Site) -> None:
    from django.db import connections
    from django.db.models import F
    from django.db.models.functions import MD5

    told: list[str] = []
    with atomic(client, WITH_CACHE):
        site.add("ledger")
        cache = site.account.objects.using("cache_db")
        cache.bulk_create([site.account(name=name, amount=5) for name in ("bob", "carol", "100%")])
        assert cache.filter(name="bob").update(amount=F("amount") * 2) == 1
        assert cache.get(name="bob").amount == 10
        assert cache.annotate(hash=MD5("name")).get(name="alice").hash == "6384e2b2184bcbf58eccf10ca7a6563c"
        with connections["cache_db"].cursor() as cursor:
            cursor.execute("DELETE FROM accounts WHERE name = %(name)s", {"name": "carol"})
            cursor.executemany("INSERT INTO accounts VALUES (%s, %s)", iter([("dave", 1), ("erin", 2)]))
            cursor.executemany("INSERT INTO accounts VALUES (%s, %s)", [])
            assert cursor.execute("SELECT 5 %% %s", [3]).fetchone() == (2,)
        on_commit(told, "cache", "cache_db")
    assert site.names("cache_db") == {"alice", "bob", "100%", "dave", "erin"}
    assert (site.names(), told) == ({"alice", "ledger"}, ["cache"])


def test_what_only_django_can_compute_is_written_and_committed(client: Client, site: Site) -> None:
    from django.db.models.functions import MD5, Substr

    with atomic(client, WITH_CACHE):
        site.add("bob", "cache_db")
        site.account.objects.using("cache_db").filter(name="bob").update(name=Substr(MD5("name"), 1, 8))
        site.add("ledger")
    assert site.names("cache_db") == {"alice", "9f9d51bc"}


def test_a_sqlite_file_that_is_in_use_is_refused_and_django_goes_on(client: Client, site: Site) -> None:
    from django.db import connections

    connections["cache_db"].ensure_connection()
    connections["cache_db"].connection.execute("PRAGMA busy_timeout = 10")
    other = site.cache.connect()
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unavailable, match="in use by another writer"):
        atomic(client, WITH_CACHE).__enter__()
    other.close()
    site.add("bob", "cache_db")
    assert site.names("cache_db") == {"alice", "bob"}
