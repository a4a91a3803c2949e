"""What goes into a coordinator and what comes out of it.

Owed: every value says who answers it, and how often. Never: behaviour; that is two_phase.py.
"""

from __future__ import annotations

from typing import NamedTuple

from raftcoord.core.tables.decisions import Standing
from raftcoord.types import Verdict, Vote

# -- events -------------------------------------------------------------------------------------------------------


class Started(NamedTuple):
    """Begin. ``connected``: the branches whose participants can be asked now."""

    connected: frozenset[str]


class Connected(NamedTuple):
    """The participant of ``branch`` can be asked now."""

    branch: str


class BranchVoted(NamedTuple):
    """The branch has answered."""

    branch: str
    vote: Vote


class Lost(NamedTuple):
    """No answer will come from the branch, which was asked: its session ended, or it failed. ``why``: a clause."""

    branch: str
    why: str


class ConnectDeadline(NamedTuple):
    """Branches whose participants are not connected are waited for no longer."""


class PrepareDeadline(NamedTuple):
    """Votes are waited for no longer. ``after_ms``: how long they were."""

    after_ms: int


class Stands(NamedTuple):
    """The ledger's answer to the proposal."""

    standing: Standing


class ProposalNotKnown(NamedTuple):
    """Whether the proposal was or will be applied is not known at the deadline."""


class BranchAcknowledged(NamedTuple):
    """The branch has carried out what was delivered."""

    branch: str


class ReplyDeadline(NamedTuple):
    """Acknowledgements are waited for no longer."""


Event = (
    Started
    | Connected
    | BranchVoted
    | Lost
    | ConnectDeadline
    | PrepareDeadline
    | Stands
    | ProposalNotKnown
    | BranchAcknowledged
    | ReplyDeadline
)

# -- effects ------------------------------------------------------------------------------------------------------


class SendPrepare(NamedTuple):
    """Ask the branch for its vote. Answer with ``BranchVoted`` or ``Lost``, once."""

    branch: str


class ProposeDecide(NamedTuple):
    """Propose this to the ledger, once. Answer with ``Stands`` or ``ProposalNotKnown``."""

    verdict: Verdict
    branches: tuple[str, ...]
    reason: str
    branch: str


class Reply(NamedTuple):
    """Tell the caller what stands."""

    standing: Standing


class ReplyTxidUsed(NamedTuple):
    """Tell the caller that the txid was used twice, and what stands."""

    standing: Standing


class ReplyInDoubt(NamedTuple):
    """Tell the caller that the outcome is not known yet."""


class Deliver(NamedTuple):
    """Tell these branches the outcome until they acknowledge it. Answer each with ``BranchAcknowledged``."""

    verdict: Verdict
    branches: tuple[str, ...]


Effect = SendPrepare | ProposeDecide | Reply | ReplyTxidUsed | ReplyInDoubt | Deliver
