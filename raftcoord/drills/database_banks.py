"""Banks in a PostgreSQL, a MariaDB or a SQLite: their accounts, and a row for each payment, under a name and a URL.

    home = raise_banks(DatabaseServer("postgresql"), "bank-home")
    home.open({Branch("bank-home"): {"1": 10_000}})
    with client.transaction() as tx:
        pay(order, tx.txid, tx.enlist(home_connection, home.name), tx.enlist(other_connection, other.name))
    home.books(), home.prepared()

It owes what stands in the database as it is: ``books`` and ``prepared`` look from outside, with connections of their own, and not
through the code that is audited. It never commits an order: the paying program does.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final, TypeVar

from raftcoord.databases import drivers
from raftcoord.databases.session import DriverSession
from raftcoord.databases.steps import ConnectionLost, SqlError, Statement
from raftcoord.drills.audit import Books, Payment
from raftcoord.drills.orders import HOME_BANK, Opening, Order
from raftcoord.errors import RaftcoordError
from raftcoord.processes.database_servers import DatabaseServer
from raftcoord.types import Branch, State, TxId

LOCK_WAIT_S: Final = 5
"""How long an order waits for a row that another one holds (seconds)."""

_TABLES: Final = (
    "CREATE TABLE accounts (bank VARCHAR(40) NOT NULL, account VARCHAR(20) NOT NULL, cents BIGINT NOT NULL, "
    "PRIMARY KEY (bank, account))",
    "CREATE TABLE payments (order_id BIGINT NOT NULL, txid CHAR(32) NOT NULL, bank VARCHAR(40) NOT NULL, "
    "account VARCHAR(20) NOT NULL, cents BIGINT NOT NULL, PRIMARY KEY (order_id, txid))",
)
_ROWS_AT_ONCE: Final = 500
_NOT_PATIENT_MS: Final = 1

_T = TypeVar("_T")


class OrderRefused(RaftcoordError):
    """The account is not there, or would be overdrawn. Nothing was changed by that statement."""


@dataclass(frozen=True, slots=True)
class DatabaseBanks:
    """The banks of one database. ``name``: of the resource, and so of its branches; ``url``: as in cluster.yaml."""

    name: str
    url: str

    def connect(self) -> Any:
        """A connection as a program has one: not in autocommit."""
        session = drivers.connect(self.url)
        connection = session.connection
        cursor = connection.cursor()
        cursor.execute(session.database.statements.lock_wait(LOCK_WAIT_S * 1000))
        cursor.close()
        if callable(connection.autocommit):
            connection.autocommit(False)
        else:
            connection.autocommit = False
        return connection

    def open(self, opening: Opening) -> None:
        """Create the tables, the accounts of ``opening`` with what they hold, and the marks."""
        rows = (
            f"('{bank}', '{account}', {cents})"
            for bank, accounts in opening.items()
            for account, cents in accounts.items()
        )
        with self.outside() as session:
            for table in _TABLES:
                session.execute(Statement(table, outside=True))
            session.run(session.dialect.create_marks())
            while some := list(islice(rows, _ROWS_AT_ONCE)):
                session.execute(Statement(f"INSERT INTO accounts VALUES {', '.join(some)}", outside=True))

    def books(self) -> dict[Branch, Books]:
        """What each bank holds and has been paid. Call it when nobody pays: it is read in several statements.

        What is prepared in the database stands in the books of its first bank: a branch does not say which it is about.
        """
        balances: dict[str, dict[str, int]] = defaultdict(dict)
        finished: dict[str, dict[TxId, State]] = defaultdict(dict)
        for bank, account, cents in self.rows("SELECT bank, account, cents FROM accounts"):
            balances[bank][account] = int(cents)
        payments: dict[str, list[Payment]] = defaultdict(list)
        for bank, txid, account, cents in self.rows("SELECT bank, txid, account, cents FROM payments"):
            finished[bank][TxId.parse(txid)] = State.COMMITTED
            payments[bank].append(Payment(TxId.parse(txid), account, int(cents)))
        banks = [Branch(bank) for bank in {**balances, **finished}]
        prepared = {bank: tuple(self.prepared()) for bank in banks[:1]}
        return {bank: Books(balances[bank], finished[bank], prepared.get(bank, ()), payments[bank]) for bank in banks}

    def prepared(self) -> list[TxId]:
        """The transactions with a branch that is prepared on this server, of whatever cluster."""
        with self.outside() as session:
            return [each.gid.txid for each in session.run(session.dialect.list_prepared(None))]

    def cents(self) -> int:
        ((cents,),) = self.rows("SELECT coalesce(sum(cents), 0) FROM accounts")
        return int(cents)

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """What ``sql`` finds, as an onlooker sees it."""
        with self.outside() as session:
            return session.execute(Statement(sql, reads=True)).rows

    @contextlib.contextmanager
    def outside(self) -> Iterator[DriverSession]:
        """A connection of its own, in autocommit. Raises ConnectionLost if the server is away."""
        session = drivers.connect(self.url)
        try:
            yield session
        finally:
            session.close()


def raise_banks(server: DatabaseServer | None, name: str, directory: Path | None = None) -> DatabaseBanks:
    """A new and empty database on ``server``, which runs, for the resource ``name``. None: a file of SQLite in ``directory``."""
    if server is None:
        assert directory is not None
        path = directory / f"{name}.db"
        with contextlib.closing(sqlite3.connect(path)) as made:
            made.execute("PRAGMA journal_mode = WAL")
        return DatabaseBanks(name, f"sqlite:///{path}")
    return DatabaseBanks(name, server.make(name.replace("-", "_")))


class AccountWatch:
    """One account of ``banks``, looked at again and again. It never waits for a lock.

    ``is_free`` is true only if somebody else can change the account at this moment. Close it in the thread that has looked;
    another one may look then.
    """

    def __init__(self, banks: DatabaseBanks, bank: str, account: str) -> None:
        self.banks = banks
        self._where = f"WHERE bank = '{bank}' AND account = '{account}'"
        self._session: DriverSession | None = None

    def cents(self) -> int:
        ((cents,),) = self._sql(f"SELECT cents FROM accounts {self._where}")
        return int(cents)

    def prepared(self, cluster: str) -> list[TxId]:
        """What ``cluster`` has prepared for this branch."""
        listed = self._do(lambda session: session.run(session.dialect.list_prepared(cluster)))
        return [each.gid.txid for each in listed if each.gid.branch == self.banks.name]

    def is_free(self, cluster: str, txid: TxId) -> bool:
        """Nothing of ``txid`` is prepared, and somebody else's update of the account succeeds."""
        if txid in self.prepared(cluster):
            return False
        try:
            self._sql(f"UPDATE accounts SET cents = cents {self._where}")
        except SqlError as error:
            if self._session is not None and error.code in self._session.database.statements.locked:
                return False
            raise
        return True

    def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def _sql(self, text: str) -> list[tuple[Any, ...]]:
        return self._do(lambda session: session.execute(Statement(text, reads=True, outside=True)).rows)

    def _do(self, work: Callable[[DriverSession], _T]) -> _T:
        """On a connection that is made anew when the server was killed since."""
        if self._session is not None:
            with contextlib.suppress(ConnectionLost):
                return work(self._session)
            self.close()
        self._session = drivers.connect(self.banks.url)
        self._session.execute(Statement(self._session.database.statements.lock_wait(_NOT_PATIENT_MS), outside=True))
        return work(self._session)


def pay(order: Order, txid: TxId, home: Any, other: Any) -> None:
    """Do ``order`` on two enlisted connections: of the home bank's database, and of the others'. Raises OrderRefused.

    The home bank's side comes first, also when the other bank pays: one order of locks for all, and so no deadlock across
    databases.
    """
    for bank, account, cents in sorted(order.sides, key=lambda side: side[0] != HOME_BANK):
        pay_side(home if bank == HOME_BANK else other, order.order_id, txid, bank, account, cents)


def pay_side(connection: Any, order_id: int, txid: TxId, bank: str, account: str, cents: int) -> None:
    """One side of an order: the account's new balance, and the payment's row. Raises OrderRefused."""
    cursor = connection.cursor()
    try:
        cursor.execute(
            "UPDATE accounts SET cents = cents + %s WHERE bank = %s AND account = %s AND cents + %s >= 0",
            (cents, bank, account, cents),
        )
        if cursor.rowcount != 1:
            raise OrderRefused(f"order {order_id}: account {account} of {bank} is not there, or would be overdrawn")
        cursor.execute(
            "INSERT INTO payments (order_id, txid, bank, account, cents) VALUES (%s, %s, %s, %s, %s)",
            (order_id, str(txid), bank, account, cents),
        )
    finally:
        cursor.close()
