"""``client.transaction()`` of the asynchronous client.

Owed and never: as transaction.py.
"""

from __future__ import annotations

import asyncio
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Self, TypeVar

from raftcoord.api import fields
from raftcoord.client.committing import Committing
from raftcoord.client.enlistment import TransactionBlock, bounded, is_known_fit, remember_fit
from raftcoord.client.moves import Clean, CloseConnection, Enter, Move, Moves, ProposeOutcome, ReportComplete, Run
from raftcoord.databases import drivers
from raftcoord.databases.driving import Driven
from raftcoord.databases.patience import within_loop
from raftcoord.databases.session import AsyncDriverSession, Base, DriverSession

if TYPE_CHECKING:
    from raftcoord.client.asynchronous import AsyncClient

_T = TypeVar("_T")


class AsyncTransaction(TransactionBlock):
    """One transaction over asynchronous connections; ``AsyncClient.transaction()`` makes it. ``async with``, in one task.

    As Transaction, with ``await tx.enlist(...)``. A connection of sqlite3 may be enlisted too; it holds the loop while it works.
    """

    def __init__(self, client: AsyncClient, timeout: float) -> None:
        now = asyncio.get_running_loop().time
        super().__init__(
            Committing(client._mint(), fields.seconds(timeout), now, client.resources, client.grace, client.events)
        )
        self._client = client

    async def __aenter__(self) -> Self:
        self._enter()
        return self

    async def enlist(self, connection: _T, branch: str) -> _T:
        """See Transaction.enlist."""
        name = self._check_enlistment(connection, branch)
        session = drivers.async_session(connection, name)
        await self._begin(session)
        given: _T = session.given
        return given

    async def enlist_session(self, session: AsyncDriverSession) -> None:
        """See Transaction.enlist_session."""
        self._check_enlistment(session.connection, session.branch)
        await self._begin(session)

    async def _begin(self, session: AsyncDriverSession | DriverSession) -> None:
        session.check_fit()
        cluster = await self._client.admit(self._committing.minted, self._committing.left())
        if await self._drive(self._committing.enlist(session, cluster, is_known_fit(session, cluster))):
            remember_fit(session, cluster)

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
            case CloseConnection(session):
                await _awaited(session, session.close())
            case ProposeOutcome(txid, verdict, branches, reason, seconds):
                return await self._client.decide(txid, verdict, branches, reason, timeout=bounded(seconds))
            case ReportComplete(txid, branches):
                self._client._complete_later(txid, branches)
        return None

    def _patiently(self, session: Base) -> AbstractContextManager[None]:
        if not isinstance(session, AsyncDriverSession):
            return nullcontext()
        return within_loop(asyncio.get_running_loop().call_later, session.hang_up, self._committing.patience_s())


async def _awaited(session: Any, result: Any) -> Any:
    """``result`` of a session, which is a coroutine if the session is asynchronous."""
    return await result if isinstance(session, AsyncDriverSession) else result
