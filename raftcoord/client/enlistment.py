"""What both kinds of transaction block do beside the moves: they are entered once, and enlist connections in between.

Owed: a connection that was once found to lead to its resource is not asked again. Never: I/O.
"""

from __future__ import annotations

import weakref
from typing import Any

from raftcoord.api import fields
from raftcoord.client.committing import Committing
from raftcoord.databases.session import Base
from raftcoord.errors import LocalProtocolError
from raftcoord.types import Branch, Outcome, TxId

_fit: weakref.WeakKeyDictionary[Any, set[tuple[str, str]]] = weakref.WeakKeyDictionary()
"""Connection -> (cluster, resource) whose database it was found to lead to: it stays so while the connection lives."""


class TransactionBlock:
    """A ``with`` block around one transaction."""

    def __init__(self, committing: Committing) -> None:
        self._committing = committing
        self._entered = False

    @property
    def txid(self) -> TxId | None:
        """The transaction's id. Once it was read, the transaction is decided by the nodes, over one resource or ten, so that
        ``client.resolve`` of it is true, whatever crashes. None: it was not read before one resource alone had committed.
        """
        return self._committing.txid

    @property
    def outcome(self) -> Outcome | None:
        """What is recorded in the ledger."""
        return self._committing.outcome

    def _enter(self) -> None:
        if self._entered:
            raise LocalProtocolError("a transaction is entered once; begin a new one")
        self._entered = True

    def _check_enlistment(self, connection: Any, branch: object) -> Branch:
        """The branch's name, checked."""
        if not self._entered:
            raise LocalProtocolError(
                "enlist connections inside the block: with client.transaction() as tx: tx.enlist(...)"
            )
        return self._committing.check_enlistment(connection, branch)


def is_known_fit(session: Base, cluster: str) -> bool:
    """Whether the session's connection was found before to lead to its resource."""
    try:
        return (cluster, session.branch) in _fit.get(session.connection, ())
    except TypeError:  # a driver's connection that cannot be referred to weakly
        return False


def remember_fit(session: Base, cluster: str) -> None:
    """The session's connection leads to its resource."""
    try:
        _fit.setdefault(session.connection, set()).add((cluster, session.branch))
    except TypeError:
        return


def bounded(seconds: float) -> float:
    """``seconds`` as a timeout that a client takes."""
    return fields.seconds(min(max(seconds, 0.001), 600.0))
