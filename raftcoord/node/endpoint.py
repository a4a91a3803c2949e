"""How a branch is reached: asked for its vote, told the outcome.

Transactions, delivery and recovery know branches by these alone. A connection over which a participant dialed in is one kind
(port_rpc.py); another transport is another class, and nothing else changes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from raftcoord.types import Payload, TxId, Verdict, Vote


class NoVote(NamedTuple):
    """The branch was asked, and no vote will come: it may be prepared. ``why``: a clause."""

    why: str


class NotDone(NamedTuple):
    """The branch has not acknowledged the outcome. ``code``: as rpc/codes.py has it, or the participant's own."""

    code: str
    message: str


OnVote = Callable[[Vote | NoVote], None]
"""Called once. What was never asked is a no."""

OnTold = Callable[[NotDone | None], None]
"""Called once. None: the branch has carried out the outcome."""


class Endpoint(Protocol):
    """One instance of a participant. Answers come later, and never from inside a call."""

    @property
    def gone(self) -> bool:
        """Whether nothing can be asked of it any more."""

    @property
    def busy(self) -> bool:
        """Whether it has so much to answer that no new transaction should be begun with it."""

    @property
    def waiting(self) -> int:
        """What it has not answered yet."""

    def ask(self, txid: TxId, payload: Payload, timeout_ms: int, voted: OnVote) -> None:
        """Ask for its vote. LocalProtocolError if that cannot be sent; then ``voted`` is not called."""

    def tell(self, txid: TxId, verdict: Verdict, told: OnTold) -> None:
        """Tell it the outcome."""

    def close(self, reason: str) -> None:
        """Ask it no more."""
