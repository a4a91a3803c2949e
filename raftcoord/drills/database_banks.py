"""Banks in a PostgreSQL or a MariaDB: their accounts, and a row for each payment, under a name and a URL.

    home = raise_banks(PostgreSqlServer(), "bank-home")
    home.open({Branch("bank-home"): {"1": 10_000}})
    with client.transaction() as tx:
        pay(order, tx.txid, tx.enlist(home_connection, home.name), tx.enlist(other_connection, other.name))
    home.books(), home.prepared()

It owes what stands in the database as it is: ``books`` and ``prepared`` look from outside, with connections of their own, and not
through the code that is audited. It never commits an order: whoever pays does.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from raftcoord.drills.audit import Books
from raftcoord.drills.orders import Opening, Order
from raftcoord.drills.servers import MariaDbServer, PostgreSqlServer, Server
from raftcoord.errors import RaftcoordError
from raftcoord.resources import drivers
from raftcoord.resources.session import Session
from raftcoord.resources.steps import Statement
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


class Refused(RaftcoordError):
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
        if session.dialect.name == "postgresql":
            cursor.execute(f"SET lock_timeout = '{LOCK_WAIT_S}s'")
        else:
            cursor.execute(f"SET SESSION innodb_lock_wait_timeout = {LOCK_WAIT_S}")
        cursor.close()
        if callable(connection.autocommit):
            connection.autocommit(False)
        else:
            connection.autocommit = False
        return connection

    def open(self, opening: Opening) -> None:
        """Create the tables, the accounts of ``opening`` with what they hold, and the marks."""
        rows = ((bank, account, cents) for bank, accounts in opening.items() for account, cents in accounts.items())
        with self.outside() as session:
            for table in _TABLES:
                session.execute(Statement(table))
            session.run(session.dialect.create_marks())
            cursor = session.connection.cursor()
            while some := list(islice(rows, _ROWS_AT_ONCE)):
                cursor.execute(
                    f"INSERT INTO accounts VALUES {', '.join(['(%s, %s, %s)'] * len(some))}",
                    [value for row in some for value in row],
                )
            cursor.close()

    def books(self) -> dict[Branch, Books]:
        """What each bank holds and has been paid. Call it when nobody pays: it is read in several statements.

        What is prepared in the database stands in the books of its first bank: a branch does not say which it is about.
        """
        balances: dict[str, dict[str, int]] = defaultdict(dict)
        finished: dict[str, dict[TxId, State]] = defaultdict(dict)
        for bank, account, cents in self.rows("SELECT bank, account, cents FROM accounts"):
            balances[bank][account] = int(cents)
        for bank, txid in self.rows("SELECT bank, txid FROM payments"):
            finished[bank][TxId.parse(txid)] = State.COMMITTED
        banks = [Branch(bank) for bank in {**balances, **finished}]
        prepared = {bank: tuple(self.prepared()) for bank in banks[:1]}
        return {bank: Books(balances[bank], finished[bank], prepared.get(bank, ())) for bank in banks}

    def prepared(self) -> list[TxId]:
        """The transactions with a branch that is prepared on this server, of whatever cluster."""
        with self.outside() as session:
            return [each.gid.txid for each in session.run(session.dialect.list_prepared(None))]

    def cents(self) -> int:
        """What all accounts hold together."""
        ((cents,),) = self.rows("SELECT coalesce(sum(cents), 0) FROM accounts")
        return int(cents)

    def rows(self, sql: str) -> list[tuple[Any, ...]]:
        """What ``sql`` finds, as an onlooker sees it."""
        with self.outside() as session:
            return session.execute(Statement(sql, reads=True)).rows

    @contextlib.contextmanager
    def outside(self) -> Iterator[Session]:
        """A connection of its own, in autocommit. Raises ConnectionLost if the server is away."""
        session = drivers.connect(self.url)
        try:
            yield session
        finally:
            session.close()


def raise_banks(server: Server, name: str) -> DatabaseBanks:
    """A new and empty database on ``server``, which runs, for the resource ``name``."""
    if not isinstance(server, PostgreSqlServer | MariaDbServer):
        raise TypeError(f"{type(server).__name__} is neither PostgreSQL nor MariaDB")
    database = name.replace("-", "_")
    DatabaseBanks(name, server.url()).rows(f"CREATE DATABASE {database}")
    return DatabaseBanks(name, server.url(database))


def pay(order: Order, txid: TxId, home: Any, other: Any) -> None:
    """The work of ``order`` on two enlisted connections: debit at the home bank, credit at the other. Raises Refused."""
    home_bank, bank_to = order.banks
    pay_side(home, order.order_id, txid, home_bank, order.account_from, -order.cents)
    pay_side(other, order.order_id, txid, bank_to, order.account_to, order.cents)


def pay_side(connection: Any, order_id: int, txid: TxId, bank: str, account: str, cents: int) -> None:
    """One side of an order: the account's new balance, and the payment's row. Raises Refused."""
    cursor = connection.cursor()
    try:
        cursor.execute(
            "UPDATE accounts SET cents = cents + %s WHERE bank = %s AND account = %s AND cents + %s >= 0",
            (cents, bank, account, cents),
        )
        if cursor.rowcount != 1:
            raise Refused(f"order {order_id}: account {account} of {bank} is not there, or would be overdrawn")
        cursor.execute(
            "INSERT INTO payments (order_id, txid, bank, account, cents) VALUES (%s, %s, %s, %s, %s)",
            (order_id, str(txid), bank, account, cents),
        )
    finally:
        cursor.close()
