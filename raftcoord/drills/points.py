"""The points of a transaction block, each reported before it is passed: a program is stopped or killed there.

Never: another path than the product's own. The block's own events say where it is.
"""

from __future__ import annotations

import enum
from collections.abc import Callable

from raftcoord.events import Asking, Deciding, Delivering
from raftcoord.types import TxId, Verdict


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
    """An observer of a client that calls ``reached`` with each point of each transaction, before what comes after it."""

    def __init__(self, reached: Callable[[Point, TxId], None]) -> None:
        self._reached = reached
        self._asked: TxId | None = None
        self._delivered: TxId | None = None

    def __call__(self, event: object) -> None:
        match event:
            case Asking(txid):
                is_first, self._asked = txid != self._asked, txid
                self._reached(Point.BEFORE_PREPARE if is_first else Point.BETWEEN_PREPARES, txid)
            case Deciding(txid, Verdict.COMMIT):
                self._reached(Point.BEFORE_DECISION, txid)
            case Delivering(txid):
                is_first, self._delivered = txid != self._delivered, txid
                self._reached(Point.AFTER_DECISION if is_first else Point.BETWEEN_COMMITS, txid)
