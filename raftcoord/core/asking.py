"""The protocol of asking: what a node tells of a transaction, and what it must do before it may tell it.

Theory of operation. A question is a generator. It looks at what this node has applied, and it is final:

    what is recorded, or older than the horizon    told at once, by any node
    absent                                         proves nothing until a barrier was passed (Confirm); then it is looked at again
    absent, and an outcome is asked for (resolve)  ABORT is proposed (Propose), and told is what the ledger answers

It yields what is to be done next and is sent what came of it. What it returns is the answer, and so is what it raises. Who
carries it out (node/desk.py) knows the rest: time, other nodes, callers.

    Confirm    sent back: (term, index) of the barrier. Thrown in: Unavailable.
    Propose    sent back: the Result. Thrown in: NotKnown. What was never attempted ends the question without its being asked.

Owed: an outcome is what is recorded, with the term and index of its entry. Never: a proposal told as an outcome; ABORTED for what
is merely absent; the ledger kept over a yield, because another may have taken its place.
"""

from __future__ import annotations

from collections.abc import Container, Generator
from typing import Any, Final, NamedTuple, Protocol, TypeVar

from raftcoord import limits
from raftcoord.core.machine import Ledger
from raftcoord.core.tables.decisions import Complete, Decide, Decision, Standing
from raftcoord.core.tables.table import Command
from raftcoord.errors import (
    ForgottenTxid,
    FutureTxid,
    InDoubt,
    LocalProtocolError,
    NotKnown,
    TxidUsed,
    Unavailable,
)
from raftcoord.limits import ClockBounds
from raftcoord.types import State, TxId, Verdict

PRESUMED_ABORT: Final = "it was undecided when its outcome was asked for (presumed abort)"
FATE_UNKNOWN: Final = "the proposal was handed over, and no majority confirmed it in time"
FORGOTTEN_REASON: Final = "older than the horizon: it was finished and is forgotten, or was never committed"
NOT_NAMED_REASON: Final = "the transaction was committed without this branch"
DAMAGED_REASON: Final = (
    "it is forgotten, and damage was recorded for this branch, so that its outcome cannot be inferred any more; compare it "
    "with the other branches by hand (raftcoord txn ls --heuristic)"
)


class AppliedState(Protocol):
    """What this node has applied, now."""

    @property
    def ledger(self) -> Ledger:
        """Read only."""

    @property
    def applied_term(self) -> int:
        """The term of the entry at ``applied_index``."""

    @property
    def applied_index(self) -> int:
        """The highest index applied here."""


class Known(NamedTuple):
    """What is known of a transaction as of (term, index). ``branch``: the one that caused an abort, or ""."""

    state: State
    reason: str
    branch: str
    term: int
    index: int  # type: ignore[assignment]


class Confirm(NamedTuple):
    """Apply what was committed before now."""


class Propose(NamedTuple):
    """Propose to the ledger, once."""

    command: Command


_T = TypeVar("_T")
Question = Generator[Confirm | Propose, Any, _T]

# -- what is known ------------------------------------------------------------------------------------------------


def of_decision(decision: Decision) -> Known:
    """A recorded outcome."""
    return Known(decision.state, decision.reason, decision.branch, decision.term, decision.index)


def of_standing(standing: Standing, applied: AppliedState) -> Known:
    """What the ledger answered to a proposal."""
    return forgotten(applied) if standing.decision is None else of_decision(standing.decision)


def forgotten(applied: AppliedState) -> Known:
    """FORGOTTEN, as of what is applied here."""
    return Known(State.FORGOTTEN, FORGOTTEN_REASON, "", applied.applied_term, applied.applied_index)


def undecided(term: int, index: int) -> Known:
    """UNDECIDED, as of a barrier."""
    return Known(State.UNDECIDED, "", "", term, index)


def recorded(txid: TxId, applied: AppliedState) -> Known | None:
    """The outcome that is recorded here, which is final. None: none is, as far as is applied here."""
    decision = applied.ledger.decision(txid)
    return None if decision is None else of_decision(decision)


def final(txid: TxId, applied: AppliedState) -> Known | None:
    """What is final as of what is applied here, which is the latest: a recorded outcome, or FORGOTTEN. None: undecided.

    To be asked when that was confirmed. A node that lags may have the horizon of before it was lowered (lowering.py), and what
    was decided since lies below it.
    """
    return recorded(txid, applied) or (forgotten(applied) if txid.ms < applied.ledger.horizon_ms else None)


def for_branch(known: Known, txid: TxId, branch: str, applied: AppliedState) -> Known:
    """The same for a branch that is in doubt, which is to say that somebody sees it prepared.

    A COMMIT that does not name it is ABORTED to it. So is FORGOTTEN, because a COMMIT is retired only when every branch that it
    names has acknowledged it, and what has acknowledged is not prepared any more (see core/tables/decisions.py). One case breaks
    that argument: damage, where a person's word took the place of the branch's own. Then FORGOTTEN is told, which is no
    outcome: the branch is left as it is, for a person to look at.
    """
    if known.state is State.FORGOTTEN:
        if applied.ledger.damage(txid, branch) is not None:
            return Known(State.FORGOTTEN, DAMAGED_REASON, "", known.term, known.index)
        return Known(State.ABORTED, known.reason, "", known.term, known.index)
    if known.state is State.COMMITTED:
        decision = applied.ledger.decision(txid)
        if decision is None or branch not in decision.branches:
            return Known(State.ABORTED, NOT_NAMED_REASON, "", known.term, known.index)
    return known


def seen_by(branch: str | None, known: Known, txid: TxId, applied: AppliedState) -> Known:
    """``known`` as ``branch`` has to take it; None: as it is."""
    return known if branch is None else for_branch(known, txid, branch, applied)


NOT_THE_LATEST: Final = (
    "this node could not confirm in time that it knows the latest decisions; ask another one, or again"
)

# -- questions ----------------------------------------------------------------------------------------------------


def confirmed(otherwise: str) -> Question[tuple[int, int]]:
    """Apply what was committed before now; term and index of that. Else Unavailable, which says ``otherwise``."""
    try:
        reached: tuple[int, int] = yield Confirm()
    except Unavailable:
        raise Unavailable(otherwise) from None
    return reached


def status(applied: AppliedState, txid: TxId, branch: str | None = None) -> Question[Known]:
    """What is recorded of ``txid``; changes nothing. ``branch``: what that branch has to do."""
    known = recorded(txid, applied)
    if known is None:
        term, index = yield from confirmed(NOT_THE_LATEST)
        known = final(txid, applied) or undecided(term, index)
    return seen_by(branch, known, txid, applied)


def resolve(applied: AppliedState, txid: TxId, now_ms: int, branch: str | None = None) -> Question[Known]:
    """The outcome of ``txid``: what is undecided is aborted, unless the ledger answers otherwise."""
    known = recorded(txid, applied)
    if known is None and txid.ms < applied.ledger.horizon_ms:
        yield from confirmed(NOT_THE_LATEST)
        known = final(txid, applied)
    if known is None:
        check_decidable(txid, now_ms)
        try:
            standing: Standing = yield Propose(Decide(txid, Verdict.ABORT, (), PRESUMED_ABORT, "", now_ms))
        except NotKnown:
            raise InDoubt(txid, FATE_UNKNOWN) from None
        known = of_standing(standing, applied)
    return seen_by(branch, known, txid, applied)


def complete(applied: AppliedState, txid: TxId, branches: tuple[str, ...] | None) -> Question[None]:
    """Record that ``branches`` (None: all) have carried out the outcome. Of what is forgotten there is nothing to record."""
    if applied.ledger.decision(txid) is None:
        yield from confirmed("nothing was completed: this node could not confirm the decision in time; ask again")
    decision = applied.ledger.decision(txid)
    if decision is None:
        if txid.ms >= applied.ledger.horizon_ms:
            raise LocalProtocolError(f"transaction {txid} is not decided, so nothing can be complete; decide it first")
        return
    for branch in sorted(branches or ()):
        check_has_branch(decision, branch)
    left = decision.outstanding
    acknowledged = left if branches is None else tuple(branch for branch in left if branch in branches)
    if acknowledged:
        try:
            yield Propose(Complete(((txid, acknowledged),)))
        except NotKnown:
            why = "it is decided, but whether its completion was recorded is not known; complete it again, that is safe"
            raise InDoubt(txid, why) from None


# -- what is refused ----------------------------------------------------------------------------------------------


def check_new(applied: AppliedState, txid: TxId, running: Container[TxId], now_ms: int, clocks: ClockBounds) -> None:
    """Raise unless a transaction may begin under ``txid`` at a node that runs those in ``running``.

    To be asked when it was confirmed that this is the latest, if ``txid`` is older than the horizon as it is known here.
    """
    decision = applied.ledger.decision(txid)
    if decision is not None:
        raise used(txid, decision)
    if txid in running:
        raise TxidUsed(
            f"txid {txid} is used by a transaction that this node is running; wait for its outcome with resolve, or use a new "
            "txid",
            txid,
        )
    if txid.ms < applied.ledger.horizon_ms:
        raise ForgottenTxid(
            f"txid {txid} is older than the horizon, before which finished transactions are forgotten; use a new txid"
        )
    if txid.ms > now_ms + clocks.future_ms_max:
        raise FutureTxid(
            f"txid {txid} lies {(txid.ms - now_ms) // 1000} s in the future of this node's clock; at most "
            f"{clocks.future_ms_max // 1000} s are allowed: correct the clock where it was made, or that of the node "
            "(raftcoord doctor compares them)"
        )


def check_decidable(txid: TxId, now_ms: int) -> None:
    """Refuse to decide what lies further in the future than anything is kept: branches may be prepared, so no less is refused."""
    if txid.ms > now_ms + limits.DECIDE_FUTURE_MS_MAX:
        raise FutureTxid(
            f"txid {txid} lies more than {limits.DECIDE_FUTURE_MS_MAX // 86_400_000} days in the future of this node's clock, "
            "so it would be kept for so long; correct the clock where it was made, or that of the node"
        )


def check_has_branch(decision: Decision, branch: str) -> None:
    """Raise LocalProtocolError unless ``branch`` is one of the decision's."""
    if branch not in decision.branches:
        raise LocalProtocolError(
            f"transaction {decision.txid} has no branch {branch!r}; its branches: {', '.join(decision.branches) or 'none'}"
        )


def used(txid: TxId, decision: Decision) -> TxidUsed:
    """Another transaction's outcome is recorded under this txid."""
    names = ", ".join(decision.branches) or "no branches"
    return TxidUsed(
        f"txid {txid} was used before: {decision.state.name} stands for it, with {names}, since entry {decision.index} of "
        f"term {decision.term}; a retry needs a new txid",
        txid,
        of_decision(decision),
    )


def is_other(decision: Decision, branches: tuple[str, ...]) -> bool:
    """Whether ``decision`` is the COMMIT of another transaction than the one that a COMMIT of ``branches`` was proposed for."""
    return bool(decision.verdict) and decision.branches != branches and set(decision.branches) != set(branches)
