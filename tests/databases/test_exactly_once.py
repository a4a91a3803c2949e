"""A txid that somebody has read is decided and recorded, over one resource or ten: ``resolve`` never contradicts a row."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raftcoord import Aborted, AsyncClient, Client, LocalProtocolError, State, TxId
from raftcoord.config import Config
from raftcoord.databases.resolver.resource import Resource
from raftcoord.databases.resource_config import ResourceConfig
from raftcoord.types import Branch

from .banks import Bank, MariaDbBank, PostgreSqlBank, SqliteBank

KINDS = ("postgresql", "mariadb", "sqlite")


def raised(kind: str, request: pytest.FixtureRequest, path: Path) -> Bank:
    if kind == "postgresql":
        return PostgreSqlBank(request.getfixturevalue("postgresql"))
    if kind == "mariadb":
        return MariaDbBank(request.getfixturevalue("mariadb"))
    return SqliteBank(path / "bank.db")


@pytest.fixture(params=KINDS)
def bank(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bank]:
    """One of each kind."""
    made = raised(request.param, request, tmp_path)
    yield made
    made.close()


def test_a_txid_that_was_read_is_recorded_with_one_resource(client: Client, bank: Bank) -> None:
    with client.transaction() as tx:
        txid = tx.txid
        bank.add(tx.enlist(bank.connect(), "bank"), 5)
    assert bank.balance() == 105
    assert tx.outcome is not None
    assert tx.txid == txid
    assert client.status(txid).state is State.COMMITTED
    assert client.resolve(txid).state is State.COMMITTED
    assert not bank.prepared()


def test_a_txid_that_nobody_read_costs_nothing_and_is_never_shown(client: Client, bank: Bank) -> None:
    with client.transaction() as tx:
        bank.add(tx.enlist(bank.connect(), "bank"), 5)
    assert bank.balance() == 105
    assert tx.outcome is None
    assert tx.txid is None
    with pytest.raises(LocalProtocolError, match="not a txid"):
        client.resolve(tx.txid)  # type: ignore[arg-type]


async def test_the_asynchronous_client_does_the_same(config: Config, client: Client, tmp_path: Path) -> None:
    bank = SqliteBank(tmp_path / "bank.db")
    async with AsyncClient.from_config(config) as asynchronous:
        for is_read in (False, True):
            async with asynchronous.transaction() as tx:
                txid = tx.txid if is_read else None
                bank.add(await tx.enlist(bank.connect(), "bank"), 5)
            assert tx.txid == txid
        assert txid is not None
        assert (await asynchronous.resolve(txid)).state is State.COMMITTED
    assert bank.balance() == 110
    bank.close()


def test_a_txid_that_was_read_is_recorded_with_no_resource(client: Client) -> None:
    with client.transaction() as tx:
        txid = tx.txid
    assert txid is not None
    assert client.resolve(txid).state is State.COMMITTED


def test_whoever_resolves_it_first_wins_over_one_resource_too(client: Client, bank: Bank) -> None:
    def block() -> None:
        with client.transaction() as tx:
            assert tx.txid is not None
            bank.add(tx.enlist(bank.connect(), "bank"), 5)
            assert client.resolve(tx.txid).state is State.ABORTED

    with pytest.raises(Aborted):
        block()
    assert bank.balance() == 100
    assert not bank.prepared()


def test_a_txid_that_is_read_by_another_thread_while_it_commits_is_recorded_or_not_shown(
    client: Client, tmp_path: Path
) -> None:
    bank = SqliteBank(tmp_path / "bank.db")
    for _ in range(20):
        tx = client.transaction()
        read: list[TxId | None] = []
        start = threading.Event()

        def look(tx: Any = tx, read: list[TxId | None] = read, start: threading.Event = start) -> None:
            start.wait()
            read.append(tx.txid)

        thread = threading.Thread(target=look)
        thread.start()
        with tx:
            bank.add(tx.enlist(bank.connect(), "bank"), 1)
            start.set()
        thread.join()
        if read[0] is not None:
            assert client.resolve(read[0]).state is State.COMMITTED
    assert bank.balance() == 120
    bank.close()


# -- the recipe of the page, killed at every move


class Recipe:
    """Order 17 over one resource, or over two."""

    def __init__(self, config: Config, bank: Bank, other: Bank | None, notes: SqliteBank | None) -> None:
        self.config, self.bank, self.other = config, bank, other
        self.notes = notes or bank
        self.notes.sql("CREATE TABLE attempts (order_id INTEGER, txid CHAR(32))")

    def run(self, stop: int) -> int:
        """The exit code of the program."""
        where = (str(self.config.path), str(stop), self.bank.url)
        done = subprocess.run(
            [sys.executable, "-m", "databases.once", *where, self.other.url if self.other else "", self.notes.url],
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode in (0, -9), done.stderr
        return done.returncode

    def attempts(self) -> list[TxId]:
        return [TxId.parse(txid) for (txid,) in self.notes.sql("SELECT txid FROM attempts")]

    def resolve(self, client: Client) -> None:
        """What the resolver does, until nothing of it is prepared."""
        banks = {"ledger": self.bank, **({"other": self.other} if self.other else {})}
        for name, bank in banks.items():
            found = Resource(ResourceConfig(Branch(name), bank.url), frozenset(banks), client, safety_s=0.0)
            while found.look(thorough=True) is None or bank.prepared():
                pass
            found.close()

    def reset(self) -> None:
        for bank in (self.bank, *([self.other] if self.other else [])):
            bank.sql("UPDATE accounts SET amount = 100")
        self.notes.sql("DELETE FROM attempts")


@pytest.fixture(params=[*KINDS, "postgresql and sqlite"])
def once(request: pytest.FixtureRequest, config: Config, tmp_path: Path) -> Iterator[Recipe]:
    kind, _, second = request.param.partition(" and ")
    bank = raised(kind, request, tmp_path)
    other = SqliteBank(tmp_path / "other.db") if second else None
    notes = SqliteBank(tmp_path / "notes.db", marks=False) if bank.kind != "postgresql" else None
    yield Recipe(config, bank, other, notes)
    for each in (bank, other, notes):
        if each is not None:
            each.close()


def test_the_recipe_pays_once_wherever_it_is_killed(client: Client, once: Recipe) -> None:
    killed = 0
    for stop in range(1, 40):
        code = once.run(stop)
        told = [client.resolve(txid).state for txid in once.attempts()]
        if not told:  # it was killed before it kept a txid: nothing was done
            assert once.bank.balance() == 100
        once.resolve(client)
        paid = State.COMMITTED in told
        assert once.bank.balance() == (90 if paid else 100), (stop, told)
        assert once.other is None or once.other.balance() == (110 if paid else 100)
        assert once.run(0) == 0
        assert once.bank.balance() == 90, (stop, told)
        assert once.other is None or once.other.balance() == 110
        assert [client.status(txid).state for txid in once.attempts()].count(State.COMMITTED) == 1
        once.reset()
        if code == 0:
            break
        killed += 1
    assert killed >= (7 if once.other is None else 11)
