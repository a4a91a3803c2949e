"""The points of a transaction block, and blocks that report each one before it is passed: a program is stopped or killed there.

Never: a stop outside the moves of the transaction. What is tested is the product's own path.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any

from raftcoord.client.async_transaction import AsyncTransaction
from raftcoord.client.moves import Close, Decide, Move, Run
from raftcoord.client.transaction import Transaction
from raftcoord.databases.steps import ConnectionLost
from raftcoord.types import Verdict


class Point(enum.StrEnum):
    """Where a program can be stopped."""

    BEFORE_PREPARE = "before the first prepare"
    BETWEEN_PREPARES = "between prepares"
    BEFORE_DECISION = "before the decision"
    AFTER_DECISION = "after the decision"
    BETWEEN_COMMITS = "between commits"

    @property
    def decided(self) -> bool:
        """Whether COMMIT is in the ledger by then."""
        return self in (Point.AFTER_DECISION, Point.BETWEEN_COMMITS)


class PointReporter:
    """Calls ``reached`` with each point, before the move that comes after it."""

    def __init__(self, reached: Callable[[Point], None]) -> None:
        self._reached = reached
        self._prepares = 0
        self._commits = 0

    def before(self, move: Move) -> None:
        match move:
            case Run(_, steps) if getattr(steps, "__name__", "") == "prepare":
                self._prepares += 1
                self._reached(Point.BEFORE_PREPARE if self._prepares == 1 else Point.BETWEEN_PREPARES)
            case Run(_, steps) if getattr(steps, "__name__", "") == "commit_prepared_here":
                self._commits += 1
                self._reached(Point.AFTER_DECISION if self._commits == 1 else Point.BETWEEN_COMMITS)
            case Decide(verdict=Verdict.COMMIT):
                self._reached(Point.BEFORE_DECISION)


class PointedTransaction(Transaction):
    """Set ``points`` before the block. If ``reached`` raises ConnectionLost, the connection is closed and the move not made."""

    points: PointReporter

    def _carry_out(self, move: Move) -> Any:
        try:
            self.points.before(move)
        except ConnectionLost:
            assert isinstance(move, Run)
            super()._carry_out(Close(move.session))
            raise
        return super()._carry_out(move)


class PointedAsyncTransaction(AsyncTransaction):
    points: PointReporter

    async def _carry_out(self, move: Move) -> Any:
        self.points.before(move)
        return await super()._carry_out(move)
