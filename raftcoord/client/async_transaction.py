"""``client.transaction()`` of the asynchronous client, and what else AsyncClient owes it.

Owed and never: as transaction.py. What was committed is reported complete behind the caller's back, and no task outlives
``close``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from raftcoord.api import fields
from raftcoord.api.operations import NODE, A, Operation, R
from raftcoord.client import blocks
from raftcoord.client.committing import Committing
from raftcoord.client.completing import Completing
from raftcoord.client.deadlines import TIMEOUT_S
from raftcoord.client.moves import Clean, Close, Complete, Decide, Enter, Move, Moves, Run
from raftcoord.databases import drivers
from raftcoord.databases.driving import Driven
from raftcoord.databases.patience import within_loop
from raftcoord.databases.session import AsyncSession, Base, Session
from raftcoord.errors import Unavailable
from raftcoord.events import Observers
from raftcoord.types import Outcome, TxId, Verdict

if TYPE_CHECKING:
    from raftcoord.client.link import ClusterIdentity

_T = TypeVar("_T")

_FOUNDED: Final = replace(NODE, any_cluster=False)
"""Asked again until a node knows the cluster's id."""


class AsyncTransaction:
    """One transaction over asynchronous connections; ``AsyncClient.transaction()`` makes it. ``async with``, in one task.

    As Transaction, with ``await tx.enlist(...)``. A connection of sqlite3 may be enlisted too; it holds the loop while it works.
    """

    def __init__(self, client: TransactionRequests, timeout: float) -> None:
        self._client = client
        now = asyncio.get_running_loop().time
        self._committing = Committing(
            client._mint(), fields.seconds(timeout), now, client.resources, client.grace, client.events
        )
        self._entered = False

    @property
    def txid(self) -> TxId | None:
        """See Transaction.txid."""
        return self._committing.txid

    @property
    def outcome(self) -> Outcome | None:
        """What stands in the ledger."""
        return self._committing.outcome

    async def __aenter__(self) -> Self:
        blocks.enter_once(self._entered)
        self._entered = True
        return self

    async def enlist(self, connection: _T, branch: str) -> _T:
        """See Transaction.enlist."""
        blocks.check_entered(self._entered)
        name = self._committing.check_enlistment(connection, branch)
        session = drivers.async_session(connection, name)
        await self._begin(session)
        given: _T = session.given
        return given

    async def enlist_session(self, session: AsyncSession) -> None:
        """See Transaction.enlist_session."""
        blocks.check_entered(self._entered)
        self._committing.check_enlistment(session.connection, session.branch)
        await self._begin(session)

    async def _begin(self, session: AsyncSession | Session) -> None:
        session.check_fit()
        cluster = await self._client.admit(self._committing.minted, self._committing.left())
        is_fit = blocks.is_fit(session.connection, cluster, session.branch)
        if await self._drive(self._committing.enlist(session, cluster, is_fit)):
            blocks.remember(session.connection, cluster, session.branch)

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        await self._drive(self._committing.commit() if kind is None else self._committing.abandon())

    async def _drive(self, moves: Moves[_T]) -> _T:
        # a cancellation is thrown in too: the moves know what it means at this point
        return await Driven(moves, BaseException).run_async(self._carry_out)

    async def _carry_out(self, move: Move) -> Any:
        match move:
            case Enter(session):
                with self._patiently(session):
                    await _awaited(session, session.enter())
            case Run(session, steps):
                with self._patiently(session):
                    return await _awaited(session, session.run(steps))
            case Clean(session):
                try:
                    with self._patiently(session):
                        await _awaited(session, session.clean())
                except BaseException as error:
                    await _awaited(session, session.close())
                    if not isinstance(error, Exception):  # a cancellation: it goes on
                        raise
            case Close(session):
                await _awaited(session, session.close())
            case Decide(txid, verdict, branches, reason, seconds):
                return await self._client.decide(txid, verdict, branches, reason, timeout=blocks.bounded(seconds))
            case Complete(txid, branches):
                self._client._complete_later(txid, branches)
        return None

    def _patiently(self, session: Base) -> AbstractContextManager[None]:
        if not isinstance(session, AsyncSession):
            return nullcontext()
        return within_loop(asyncio.get_running_loop().call_later, session.hang_up, self._committing.patience_s())


class TransactionRequests:
    """The part of AsyncClient that is about transactions over the caller's own connections."""

    resources: frozenset[str]
    grace: float
    events: Observers
    _cluster: ClusterIdentity
    _completing: Completing

    async def ask(self, operation: Operation[R, A], *given: Any, timeout: float = TIMEOUT_S) -> A:
        """See AsyncClient."""
        raise NotImplementedError

    def _mint(self) -> TxId:
        raise NotImplementedError

    async def admit(self, txid: TxId, timeout: float) -> str:
        """See Admission."""
        raise NotImplementedError

    async def decide(
        self,
        txid: TxId | str,
        verdict: Verdict,
        branches: Iterable[str] = (),
        reason: str = "",
        *,
        timeout: float = TIMEOUT_S,
    ) -> Outcome:
        """See AsyncClient."""
        raise NotImplementedError

    async def complete(
        self, txid: TxId | str, branches: Iterable[str] | None = None, *, timeout: float = TIMEOUT_S
    ) -> None:
        """See AsyncClient."""
        raise NotImplementedError

    def transaction(self, *, timeout: float = TIMEOUT_S) -> AsyncTransaction:
        """A transaction over database connections that the caller has: enlist them, work on them, leave the block.

        ``timeout``: seconds (0.001 to 600) from here until it is aborted if nothing was decided. What may be decided by then is
        asked for, and what is decided is carried out, for the client's ``grace`` after that.
        """
        return AsyncTransaction(self, timeout)

    async def cluster_id(self, *, timeout: float = TIMEOUT_S) -> str:
        """The cluster's id, which every gid bears: 16 hex digits. Raises Unavailable if no node tells it within ``timeout`` s."""
        if not self._cluster.id:
            await self.ask(_FOUNDED, timeout=timeout)
        if not self._cluster.id:
            raise Unavailable("no node has told the cluster's id; try again when a majority of the nodes runs")
        return self._cluster.id

    def _complete_later(self, txid: TxId, branches: tuple[str, ...]) -> None:
        """Report ``branches`` complete while the caller goes on."""
        self._completing.add(txid, branches)


async def _awaited(session: Any, result: Any) -> Any:
    """``result`` of a session, which is a coroutine if the session is asynchronous."""
    return await result if isinstance(session, AsyncSession) else result
