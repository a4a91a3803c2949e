"""``client.transaction()``: atomic commit over connections that the caller already has.

    with raftcoord.Client.from_config("cluster.yaml") as client, client.transaction(timeout=10) as tx:
        ledger = tx.enlist(pg_connection, "ledger")
        orders = tx.enlist(my_connection, "orders")
        ledger.execute(...)
        orders.cursor().execute(...)

Owed: the moves of committing.py, carried out one after the other in the caller's thread or task. A connection is used by
nobody else between enlist and the end of the block. Never: a decision of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol, Self, TypeVar

from raftcoord.api import fields
from raftcoord.client.committing import Committing
from raftcoord.client.enlistment import TransactionBlock, bounded, is_known_fit, remember_fit
from raftcoord.client.moves import Clean, CloseConnection, Enter, Move, Moves, ProposeOutcome, ReportComplete, Run
from raftcoord.databases import drivers
from raftcoord.databases.driving import Driven
from raftcoord.databases.patience import within
from raftcoord.databases.session import DriverSession
from raftcoord.errors import Aborted
from raftcoord.events import Observers
from raftcoord.types import Outcome, TxId, Verdict

_T = TypeVar("_T")


class Decides(Protocol):
    """What a transaction needs of a client; its methods are Client's."""

    @property
    def resources(self) -> frozenset[str]:
        """The names that branches may have; none: any."""

    @property
    def grace(self) -> float:
        """Seconds after the timeout for what is decided by then."""

    @property
    def events(self) -> Observers:
        """Who observes its transactions."""

    def admit(self, txid: TxId, timeout: float) -> str:
        """The cluster's id. Raises what AsyncClient.admit does."""

    def decide(
        self, txid: TxId, verdict: Verdict, branches: tuple[str, ...], reason: str, *, timeout: float
    ) -> Outcome:
        """See AsyncClient.decide."""


class Transaction(TransactionBlock):
    """One transaction over synchronous connections; ``Client.transaction()`` makes it. Use it with ``with``, in one thread.

    Left without an exception it is committed everywhere, or raises Aborted (nothing is committed), or InDoubt (``resolve`` its
    ``txid``). Left with one, everything is rolled back and the exception goes on. ``outcome``: what is recorded in the
    ledger, None if nothing was recorded there (no branch, or one alone).
    """

    def __init__(
        self, client: Decides, timeout: float, complete_later: Callable[[TxId, tuple[str, ...]], None]
    ) -> None:
        seconds = fields.seconds(timeout)
        super().__init__(Committing(TxId.new(), seconds, time.monotonic, client.resources, client.grace, client.events))
        self._client = client
        self._complete_later = complete_later

    def __enter__(self) -> Self:
        self._enter()
        return self

    def enlist(self, connection: _T, branch: str) -> _T:
        """Begin ``branch`` (the resource's name in cluster.yaml) on ``connection``; returns the connection to work on.

        Which is the same one, except for sqlite3, where work on any other is found and aborts. The connection must be
        open, not in autocommit, and in no transaction; commit and rollback are the block's. Raises LocalProtocolError,
        ConfigError (the database is not set up for it) or Unavailable; nothing was changed then.
        """
        name = self._check_enlistment(connection, branch)
        session = drivers.session(connection, name)
        self._begin(session)
        given: _T = session.given
        return given

    def enlist_session(self, session: DriverSession) -> None:
        """Begin a branch on a session that an integration has made over a connection of its own kind; see ``enlist``."""
        self._check_enlistment(session.connection, session.branch)
        self._begin(session)

    def _begin(self, session: DriverSession) -> None:
        with self._patiently(session):  # one driver asks the server whether it is there
            session.check_fit()
        cluster = self._client.admit(self._committing.minted, self._committing.left())
        if self._drive(self._committing.enlist(session, cluster, is_known_fit(session, cluster))):
            remember_fit(session, cluster)

    def aborted(self, reason: str, branch: str) -> Aborted:
        """What an integration raises after it has rolled the block back because of ``branch``."""
        return self._committing.aborted(reason, branch)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._drive(self._committing.commit() if kind is None else self._committing.abandon())

    def _drive(self, moves: Moves[_T]) -> _T:
        # Ctrl-C is thrown in too: the moves know what it means at this point
        return Driven(moves, BaseException).run(self._carry_out)

    def _carry_out(self, move: Move) -> Any:
        match move:
            case Enter(session):
                with self._patiently(session):
                    session.enter()
            case Run(session, steps):
                with self._patiently(session):
                    return session.run(steps)
            case Clean(session):
                try:
                    with self._patiently(session):
                        session.clean()
                except BaseException as error:
                    session.close()
                    if not isinstance(error, Exception):  # Ctrl-C: it goes on
                        raise
            case CloseConnection(session):
                session.close()
            case ProposeOutcome(txid, verdict, branches, reason, seconds):
                return self._client.decide(txid, verdict, branches, reason, timeout=bounded(seconds))
            case ReportComplete(txid, branches):
                self._complete_later(txid, branches)
        return None

    def _patiently(self, session: DriverSession) -> AbstractContextManager[None]:
        return within(session, self._committing.patience_s())
