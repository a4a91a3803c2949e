"""A program that pays orders between two databases, until it is killed; the next one goes on where it ended.

``python -m raftcoord.drills.crashes_payer CONFIG JOURNAL ORDERS SEED URL URL``. ORDERS holds a line of JSON for each order: the
fields of ``Order``. An order with an odd id goes from the first database to the second, one with an even id back.

Owed: before an attempt its txid is in the journal, and what it was told is afterwards. So a program that was killed in between
asks the ledger about its last attempt before it tries that order again, as every program must. In half of the transactions,
chosen by SEED, it hangs up behind the decision and commits nothing: that is left to the resolver.
"""

from __future__ import annotations

import contextlib
import enum
import json
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from raftcoord.client.moves import Close, Move, Run
from raftcoord.client.synchronous import Client
from raftcoord.client.transaction import Transaction
from raftcoord.drills.database_banks import DatabaseBanks, pay_side
from raftcoord.drills.orders import Order
from raftcoord.errors import Aborted, InDoubt, RaftcoordError
from raftcoord.resources.steps import ConnectionLost
from raftcoord.types import Branch, State, TxId

NAMES: Final = ("ledger", "orders")
TIMEOUT_S: Final = 20.0
ATTEMPTS_MAX: Final = 300
"""Of one order; so many in vain are no passing trouble."""

_PAUSE_S: Final = 0.05
LEFT: Final = 0.5
"""The part of the transactions whose commits are left to the resolver."""


class Word(enum.StrEnum):
    """What is written into the journal about an attempt."""

    BEGUN = "begun"
    PAID = "paid"
    LEFT = "left"
    """Paid, and its commits were left to the resolver."""
    ABORTED = "aborted"
    FOUND_PAID = "found-paid"
    """The ledger said so, when it was asked."""
    FOUND_ABORTED = "found-aborted"

    @property
    def paid(self) -> bool:
        """Whether the order needs no other attempt."""
        return self in (Word.PAID, Word.LEFT, Word.FOUND_PAID)


class Entry(NamedTuple):
    """A line of a journal."""

    order_id: int
    txid: TxId
    word: Word

    def __str__(self) -> str:
        return f"{self.order_id} {self.txid} {self.word}\n"


class Leaving(Transaction):
    """Does all but the commits: whoever dies behind the decision has done as much."""

    leaves = False

    def _carry_out(self, move: Move) -> Any:
        match move:
            case Run(session, steps) if self.leaves and getattr(steps, "__name__", "") == "commit_prepared_here":
                super()._carry_out(Close(session))
                raise ConnectionLost("it is left to the resolver")
        return super()._carry_out(move)


def read_journal(path: Path, skip_bytes: int = 0) -> list[Entry]:
    """What was written behind the first ``skip_bytes``; a line that a kill has cut off says nothing."""
    if not path.exists():
        return []
    with path.open("rb") as journal:
        journal.seek(skip_bytes)
        lines = journal.read().decode("ascii").split("\n")[:-1]
    words = (line.split(" ") for line in lines)
    return [Entry(int(order_id), TxId.parse(txid), Word(word)) for order_id, txid, word in words]


def write_orders(path: Path, orders: list[Order]) -> None:
    """For ``main``."""
    path.write_text("".join(json.dumps([*_fields(order)]) + "\n" for order in orders), encoding="ascii")


class Payer:
    """``connections``: made when needed, because a commit that is left closes them."""

    def __init__(self, client: Client, journal: Path, rng: random.Random, banks: tuple[DatabaseBanks, ...]) -> None:
        self._client = client
        self._journal = journal
        self._rng = rng
        self._banks = banks
        self._connections: dict[str, Any] = {}

    def pay_all(self, orders: Iterator[Order]) -> None:
        """Each that the journal does not call paid."""
        entries = read_journal(self._journal)
        done = {entry.order_id for entry in entries if entry.word.paid}
        if entries and entries[-1].word is Word.BEGUN and self._found_paid(entries[-1].order_id, entries[-1].txid):
            done.add(entries[-1].order_id)
        for order in orders:
            if order.order_id not in done:
                self._pay(order)

    def _pay(self, order: Order) -> None:
        why = ""
        for _ in range(ATTEMPTS_MAX):
            tx = Leaving(self._client, TIMEOUT_S, self._client._complete_later)
            tx.leaves = self._rng.random() < LEFT
            txid = tx.txid
            assert txid is not None  # it is read before the block
            self._write(order.order_id, txid, Word.BEGUN)
            try:
                self._attempt(order, txid, tx)
            except Aborted as error:
                why = str(error)
                self._write(order.order_id, txid, Word.ABORTED)
            except Exception as error:  # a driver's, or not known: the ledger is asked
                why = f"{type(error).__name__}: {error}"
                if self._found_paid(order.order_id, txid):
                    return
            else:
                self._write(order.order_id, txid, Word.LEFT if tx.leaves else Word.PAID)
                return
            sys.stderr.write(f"order {order.order_id}: {why}\n")
            self._hang_up()
            time.sleep(_PAUSE_S * (0.5 + self._rng.random()))
        raise RaftcoordError(f"order {order.order_id} was tried {ATTEMPTS_MAX} times: {why}")

    def _attempt(self, order: Order, txid: TxId, tx: Transaction) -> None:
        home, other = (0, 1) if order.order_id % 2 else (1, 0)
        sides = [(home, order.banks[0], order.account_from, -order.cents)]
        sides.append((other, order.banks[1], order.account_to, order.cents))
        with tx:
            for number, bank, account, cents in sorted(
                sides
            ):  # one order of locks for all: no deadlock across databases
                connection = tx.enlist(self._connected(number), NAMES[number])
                pay_side(connection, order.order_id, txid, bank, account, cents)

    def _connected(self, number: int) -> Any:
        name = NAMES[number]
        connection = self._connections.get(name)
        if connection is None or _is_closed(connection):
            connection = self._connections[name] = self._banks[number].connect()
        return connection

    def _hang_up(self) -> None:
        for connection in self._connections.values():
            with contextlib.suppress(Exception):
                connection.close()
        self._connections.clear()

    def _found_paid(self, order_id: int, txid: TxId) -> bool:
        deadline = time.monotonic() + 60
        while True:
            try:
                answer = self._client.resolve(txid)
            except (RaftcoordError, InDoubt):
                if time.monotonic() > deadline:
                    raise
                time.sleep(_PAUSE_S)
                continue
            paid = answer.state is State.COMMITTED
            self._write(order_id, txid, Word.FOUND_PAID if paid else Word.FOUND_ABORTED)
            return paid

    def _write(self, order_id: int, txid: TxId, word: Word) -> None:
        """It need not survive a power cut: only processes are killed here."""
        with self._journal.open("a", encoding="ascii") as journal:
            journal.write(str(Entry(order_id, txid, word)))


def main(config: str, journal: str, orders: str, seed: str, *urls: str) -> None:
    """Pay what is not paid."""
    banks = tuple(DatabaseBanks(name, url) for name, url in zip(NAMES, urls, strict=True))
    with Client.from_config(config) as client, Path(orders).open(encoding="ascii") as lines:
        Payer(client, Path(journal), random.Random(seed), banks).pay_all(map(_order, lines))


def _fields(order: Order) -> tuple[Any, ...]:
    return (order.order_id, order.account_from, order.bank_to, order.account_to, order.cents, order.purpose)


def _order(line: str) -> Order:
    order_id, account_from, bank_to, account_to, cents, purpose = json.loads(line)
    return Order(order_id, account_from, Branch(bank_to), account_to, cents, purpose)


def _is_closed(connection: Any) -> bool:
    closed = getattr(connection, "closed", None)
    return not connection.open if closed is None else bool(closed)


if __name__ == "__main__":
    main(*sys.argv[1:])
