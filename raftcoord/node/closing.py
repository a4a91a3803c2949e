"""Closing a branch that will never come back: its participant, its database or its machine does not exist any more.

Owed: it is recorded who closed it, when and why, and `txn show` says so; only a branch of a COMMIT that is outstanding is closed.
Never: an outcome that is changed. The decision is COMMIT and stays recorded for ever: a branch that comes back hears COMMIT.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final

from raftcoord import limits
from raftcoord.core.commands import Close
from raftcoord.core.decisions import Result
from raftcoord.env import Env
from raftcoord.errors import LocalProtocolError, NotKnown, RaftcoordError, Unavailable
from raftcoord.node.agreement import Agreement
from raftcoord.node.sessions import Sessions
from raftcoord.types import TxId, Verdict

_AGAIN: Final = "no majority has confirmed in time that the branches are closed; repeat it, that is safe"

Done = Callable[[dict[str, Any] | RaftcoordError], None]


class Closing:
    """The closing of branches at one node."""

    def __init__(self, agreement: Agreement, sessions: Sessions, env: Env) -> None:
        self._loop = asyncio.get_running_loop()
        self._agreement = agreement
        self._sessions = sessions
        self._env = env

    def close(self, branches: Mapping[TxId, tuple[str, ...]], who: str, why: str, done: Done) -> None:
        """Close these branches, all of them or none; ``done`` gets how many of them are closed.

        What has been acknowledged meanwhile is left as it is.
        """
        deadline = self._loop.time() + limits.ASK_MS / 1000

        def reached(result: tuple[int, int] | RaftcoordError) -> None:
            if isinstance(result, RaftcoordError):
                done(Unavailable("nothing was closed: this node could not confirm the decisions in time; ask again"))
                return
            try:
                left = self._left(branches)
                if left:
                    command = Close(tuple(left.items()), who, why, self._env.wall_ms())
                    self._agreement.propose(command, deadline, applied)
                else:
                    done({"closed": self._count(branches)})
            except RaftcoordError as error:
                done(error)

        def applied(result: Result | RaftcoordError) -> None:
            if isinstance(result, NotKnown):
                done(Unavailable(_AGAIN))
            elif isinstance(result, RaftcoordError):
                done(result)
            else:
                done({"closed": self._count(branches)})

        self._agreement.barrier(deadline, reached)

    def _left(self, branches: Mapping[TxId, tuple[str, ...]]) -> dict[TxId, tuple[str, ...]]:
        """What is to be closed. Raises LocalProtocolError for what cannot be."""
        ledger = self._agreement.ledger
        left = {}
        for txid, names in branches.items():
            decision = ledger.decision(txid)
            if decision is None or decision.verdict is not Verdict.COMMIT:
                raise LocalProtocolError(
                    f"transaction {txid} is {ledger.state(txid)}: only a branch of a COMMIT is waited for until it acknowledges, "
                    "so there is nothing to close"
                )
            for name in names:
                if name not in decision.branches:
                    raise LocalProtocolError(
                        f"transaction {txid} has no branch {name!r}; its branches: {', '.join(decision.branches) or 'none'}"
                    )
                if name in decision.outstanding and self._sessions.of(name):
                    raise LocalProtocolError(
                        f"participant {name!r} is connected, so its branches are not lost: it is told the outcome. If it cannot "
                        "carry it out, that is damage: raftcoord txn ls --heuristic"
                    )
            outstanding = tuple(name for name in names if name in decision.outstanding)
            if outstanding:
                left[txid] = outstanding
        return left

    def _count(self, branches: Mapping[TxId, tuple[str, ...]]) -> int:
        count = 0
        for txid, names in branches.items():
            decision = self._agreement.ledger.decision(txid)
            closed = {closing.branch for closing in decision.closed} if decision else set()
            count += len(closed.intersection(names))
        return count
