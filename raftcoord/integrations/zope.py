"""The package ``transaction`` (Zope, Pyramid): a data manager whose branches are committed by raftcoord's decision.

    import transaction
    from raftcoord.integrations.zope import join

    with transaction.manager:
        branches = join(client)
        ledger = branches.enlist(pg_connection, "ledger")
        orders = branches.enlist(my_connection, "orders")

Theory of operation. ``transaction`` asks every data manager to vote, in the order of their sort keys, and then tells every one
to finish, which must not fail. A replicated decision can fail, so it cannot wait for tpc_finish; and it must not come
before anybody's vote, because it cannot be taken back. There is one place left: the vote of the last. So this data
manager sorts last, and prepares, has it decided, and commits in its tpc_vote. Its tpc_finish has nothing to do.

    somebody votes no            all others, and this one, abort: nothing was prepared
    a data manager would vote    refused, before anything is prepared: its no would come too late
    after this one
    one that commits in its vote refused at tpc_begin (their sort keys begin with ~, by a convention of that package): it would
                                 stand although this one aborts
    Aborted                      raised by the vote: all others abort too
    COMMITTED                    all others are told to finish

Owed: atomicity of the branches, whatever is killed. Never: a promise for other data managers. They have no recovery: a program
killed between the decision and their tpc_finish loses what they had voted for, and after InDoubt they have aborted, while
the branches may yet be committed.
"""

from __future__ import annotations

import contextlib
from typing import Any, Final, TypeVar

import transaction
from transaction.interfaces import IRetryDataManager, ISavepointDataManager
from zope.interface import implementer

from raftcoord.client.synchronous import Client
from raftcoord.client.transaction import Transaction
from raftcoord.errors import Aborted, LocalProtocolError, Overloaded, Unavailable
from raftcoord.types import TxId

_T = TypeVar("_T")
SORT_KEY: Final = "~~raftcoord"
"""Behind every other, also behind those that begin with one ~."""
_ONE_PHASE: Final = "~"
_AT_ENLISTMENT: Final = "raftcoord_0"


def join(client: Client, manager: Any = None, *, timeout: float = 10.0) -> DataManager:
    """The data manager of the current transaction of ``manager`` (default: ``transaction.manager``); the first call joins it.

    ``timeout``: seconds from then until it is decided. Raises what the manager raises when it has no transaction to join.
    """
    chosen = transaction.manager if manager is None else manager
    current = chosen.get()
    with contextlib.suppress(KeyError):
        found: DataManager = current.data(client)
        if not found.is_over:
            return found
    made = DataManager(chosen, client.transaction(timeout=timeout))
    current.join(made)
    current.set_data(client, made)
    return made


@implementer(ISavepointDataManager, IRetryDataManager)
class DataManager:
    """The branches of one transaction. ``is_over``: its connections are the caller's again, or closed."""

    def __init__(self, manager: Any, tx: Transaction) -> None:
        self.transaction_manager = manager
        self.is_over = False
        self._transaction = tx.__enter__()
        self._given: list[Any] = []
        self._savepoints = 0

    @property
    def txid(self) -> TxId | None:
        """See Transaction.txid."""
        return self._transaction.txid

    def enlist(self, connection: _T, branch: str) -> _T:
        """As Transaction.enlist: begin ``branch`` on ``connection``; returns the connection to work on."""
        given = self._transaction.enlist(connection, branch)
        self._given.append(given)
        if self._savepoints:
            _execute(given, f"SAVEPOINT {_AT_ENLISTMENT}")
        return given

    def sortKey(self) -> str:  # noqa: N802, RUF100 - the names are those of IDataManager
        """Last."""
        return SORT_KEY

    def tpc_begin(self, current: Any) -> None:
        """Refuse company that would commit before the decision."""
        for each in current._resources:
            if each is not self and each.sortKey().startswith(_ONE_PHASE):
                raise LocalProtocolError(
                    f"{each!r} may commit in its vote, as its sort key {each.sortKey()!r} says, and would stand if the "
                    "branches are aborted; enlist its connection as a branch instead. Nothing was committed"
                )

    def commit(self, current: Any) -> None:
        """Nothing: the work is in the databases."""

    def tpc_vote(self, current: Any) -> None:
        """Prepare, decide, commit. Raises Aborted or InDoubt."""
        for each in current._resources:
            if each is not self and id(each) not in current._voted:
                raise LocalProtocolError(
                    f"{each!r} would vote after the branches are decided, by its sort key {each.sortKey()!r}; it must "
                    f"sort before {SORT_KEY!r}. Nothing was committed"
                )
        self.is_over = True
        self._transaction.__exit__(None)

    def tpc_finish(self, current: Any) -> None:
        """Nothing: done in the vote."""

    def tpc_abort(self, current: Any) -> None:
        self.abort(current)

    def abort(self, current: Any) -> None:
        """Roll back what has not ended; after the vote everything has, and the connections are the caller's."""
        self.is_over = True
        self._transaction.__exit__(transaction.interfaces.TransactionError)

    def should_retry(self, error: Exception) -> bool:
        """For ``manager.attempts()``: true if it is certain that nothing stands; hence not for InDoubt."""
        return isinstance(error, (Aborted, Overloaded, Unavailable))

    def savepoint(self) -> _Savepoint:
        """A savepoint in each branch."""
        self._savepoints += 1
        name = f"raftcoord_{self._savepoints}"
        for given in self._given:
            _execute(given, f"SAVEPOINT {name}")
        return _Savepoint(self._given, name)


class _Savepoint:
    """Goes back in the branches that were there, and to the beginning of those that came later."""

    def __init__(self, given: list[Any], name: str) -> None:
        self._given = given
        self._name = name
        self._count = len(given)

    def rollback(self) -> None:
        for number, given in enumerate(self._given):
            name = self._name if number < self._count else _AT_ENLISTMENT
            _execute(given, f"ROLLBACK TO SAVEPOINT {name}")


def _execute(given: Any, sql: str) -> None:
    cursor = given.cursor()
    try:
        cursor.execute(sql)
    finally:
        cursor.close()
