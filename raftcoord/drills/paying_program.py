"""A program that pays orders from one database to another: ``python -m raftcoord.drills.paying_program JOB``.

JOB is a PayingJob in JSON. It does what a careful program does, and no more. Each attempt at an order is one
``client.transaction()`` over two connections of its own. A new attempt is begun only when the one before it is known to be
aborted, and after kill -9 its journal says what it has to ask for first. It never looks into a database for the outcome of a
transaction.

It prints ``raftcoord program NAME ready`` on stdout. Exit codes: 0 all paid, 1 failed with one sentence on stderr.
"""

from __future__ import annotations

import contextlib
import json
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any, Final, NamedTuple

from raftcoord import lifeline
from raftcoord.client.synchronous import Client
from raftcoord.config import Config
from raftcoord.databases import drivers
from raftcoord.drills import orders as order_files
from raftcoord.drills.client_history import Told
from raftcoord.drills.database_banks import DatabaseBanks, OrderRefused, pay
from raftcoord.drills.journal import Begun, HeldInCommit, Journal, JournalReader, LeftToResolver
from raftcoord.drills.orders import Order
from raftcoord.drills.points import Point, PointReporter
from raftcoord.errors import Aborted, InDoubt, Overloaded, RaftcoordError, Unavailable
from raftcoord.types import Branch, State, TxId

ATTEMPT_S: Final = 5.0
"""What the program gives its transaction (seconds); several elections fit into it."""

RESOLVE_S: Final = 2.0
RETRY_S_MIN: Final = 0.02
RETRY_S_MAX: Final = 0.5
"""Bounds of the pause before the next attempt (seconds)."""


class PayingJob(NamedTuple):
    """``orders``, ``journal``, ``stop``: paths; ``resources``: of the home bank's database and of the others'.

    ``client``: its number in the history. Order n of those that are left is due ``first_s`` + n * ``every_s`` after it is
    ready. Orders with an even id are paid back if ``both_ways``. ``left``: the part of the commits that is left to the resolver.
    """

    name: str
    config: str
    orders: str
    journal: str
    stop: str
    resources: tuple[str, str]
    client: int
    first_s: float
    every_s: float
    both_ways: bool
    left: float


class Payer:
    """``client``: its number in the history; ``banks``: the home bank's database and the others'.

    ``stop``: once this file is there, it holds for good after the next decision to commit, before the commits. ``left``: the
    part of the commits that it leaves to the resolver.
    """

    def __init__(
        self,
        node: Client,
        journal: Journal,
        client: int,
        banks: tuple[DatabaseBanks, DatabaseBanks],
        stop: Path,
        left: float,
    ) -> None:
        self._node = node
        self._journal = journal
        self._client = client
        self._banks = banks
        self._stop = stop
        self._left = left
        self._connections: tuple[Any, ...] = ()
        self._is_left = False
        node.events.attach(PointReporter(self._reached), holds=True)

    def pay(self, order: Order, begun: TxId | None) -> None:
        """Pay ``order``, however long it takes. ``begun``: an earlier attempt whose outcome is not known."""
        pause_s = RETRY_S_MIN
        doubtful = begun
        while True:
            told = self._attempt(order) if doubtful is None else self._resolve(doubtful)
            if told is not None:
                self._journal.write(told)
                if told.state is State.COMMITTED:
                    return
                doubtful = told.txid if told.certainty == "unknown" else None
            time.sleep(pause_s * random.uniform(0.5, 1.5))
            pause_s = min(2 * pause_s, RETRY_S_MAX)

    def _attempt(self, order: Order) -> Told | None:
        """None if a database is away, so that nothing was begun."""
        if not self._is_connected():
            return None
        tx = self._node.transaction(timeout=ATTEMPT_S)
        txid = tx.txid
        assert txid is not None  # it is read before the block
        self._is_left = random.random() < self._left
        self._journal.write(Begun(txid, order.order_id))
        called_s = time.monotonic()
        told = Told(txid, self._client, "submit", called_s, called_s, "not attempted", None)
        try:
            with tx:
                home, other = (
                    tx.enlist(connection, bank.name)
                    for connection, bank in zip(self._connections, self._banks, strict=True)
                )
                pay(order, txid, home, other)
        except OrderRefused:
            raise
        except InDoubt as doubt:
            told = told._replace(certainty="unknown", reason=doubt.why)
        except Exception as error:  # a driver's, or Aborted: rolled back on both sides, and never COMMITTED
            told = told._replace(reason=str(error))
            if isinstance(error, Aborted) and tx.outcome is not None:
                told = told._replace(certainty="known", state=State.ABORTED)
        else:
            told = told._replace(certainty="known", state=State.COMMITTED)
        if told.certainty == "known" and tx.outcome is not None:
            told = told._replace(term=tx.outcome.term, index=tx.outcome.index)
        if told.state is not State.COMMITTED:
            self._disconnect()
        return told._replace(returned_s=time.monotonic())

    def _reached(self, point: Point, txid: TxId) -> None:
        if point is not Point.AFTER_DECISION:
            return
        if self._stop.exists():
            self._journal.write(HeldInCommit(txid))
            while True:
                signal.pause()
        if self._is_left:
            self._journal.write(LeftToResolver(txid))
            self._disconnect()

    def _resolve(self, txid: TxId) -> Told:
        called_s = time.monotonic()
        told = Told(txid, self._client, "resolve", called_s, called_s, "unknown", None)
        try:
            answer = self._node.resolve(txid, timeout=RESOLVE_S)
        except (Unavailable, Overloaded, InDoubt) as error:
            told = told._replace(reason=str(error))
        else:
            told = told.resolved(answer)
        return told._replace(returned_s=time.monotonic())

    def _is_connected(self) -> bool:
        usable = [  # a connection is closed when its branch was left to the resolver
            not drivers.session(connection, Branch(bank.name)).is_closed()
            for connection, bank in zip(self._connections, self._banks, strict=False)
        ]
        if usable != [True, True]:
            self._disconnect()
            try:
                self._connections = tuple(bank.connect() for bank in self._banks)
            except RaftcoordError:
                return False
        return True

    def _disconnect(self) -> None:
        for connection in self._connections:
            with contextlib.suppress(Exception):
                connection.close()
        self._connections = ()


def unfinished(journal: Path) -> tuple[set[int], dict[int, TxId]]:
    """What an earlier program has left: the orders that it knows to be paid, and order -> transaction in doubt."""
    order_of: dict[TxId, int] = {}
    paid: set[int] = set()
    doubtful: dict[int, TxId] = {}
    for entry in JournalReader(journal).new():
        match entry:
            case Begun(txid, order_id):
                order_of[txid] = order_id
                doubtful[order_id] = txid
            case Told() if entry.certainty != "unknown":
                doubtful.pop(order_of[entry.txid], None)
                if entry.state is State.COMMITTED:
                    paid.add(order_of[entry.txid])
    return paid, doubtful


def main(text: str) -> int:
    """Pay; the process's exit code."""
    lifeline.watch()
    try:
        _run(PayingJob(**json.loads(text)))
    except RaftcoordError as error:
        print(f"raftcoord program: {error}", file=sys.stderr)
        return 1
    return 0


def _run(job: PayingJob) -> None:
    config, path = Config.load(Path(job.config)), Path(job.journal)
    home, other = (DatabaseBanks(name, config.resource(name).url()) for name in job.resources)
    orders = order_files.load(Path(job.orders))
    if job.both_ways:
        orders = tuple(order_files.both_ways(orders))
    paid, doubtful = unfinished(path)
    with Client.from_config(config, name=job.name) as node:
        payer = Payer(node, Journal(path), job.client, (home, other), Path(job.stop), job.left)
        print(f"raftcoord program {job.name} ready", flush=True)
        first_s = time.monotonic() + job.first_s
        for index, order in enumerate(order for order in orders if order.order_id not in paid):
            time.sleep(max(0.0, first_s + index * job.every_s - time.monotonic()))
            payer.pay(order, doubtful.get(order.order_id))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
