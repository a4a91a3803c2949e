"""What is told to callers, built from the ledger.

Owed: an outcome is what STANDS, with the term and index of its entry. Never: a proposal; ABORTED for what is merely absent.
"""

from __future__ import annotations

from typing import Any, Final

from raftcoord.core.decisions import Decision, Standing
from raftcoord.node.agreement import Agreement
from raftcoord.rpc.codes import IN_DOUBT, TXID_USED, RpcError
from raftcoord.types import State, TxId

Told = tuple[int, str, str, int, int]
"""state, reason, branch, term, index"""

FORGOTTEN_REASON: Final = "older than the horizon: it was finished and is forgotten, or was never committed"
NOT_NAMED_REASON: Final = "the transaction was committed without this branch"
DAMAGED_REASON: Final = (
    "it is forgotten, and damage was recorded for this branch, so that its outcome cannot be inferred any more; compare it "
    "with the other branches by hand (raftcoord txn ls --heuristic)"
)


def of_decision(decision: Decision) -> Told:
    """A recorded outcome."""
    return decision.state, decision.reason, decision.branch, decision.term, decision.index


def of_standing(standing: Standing, agreement: Agreement) -> Told:
    """What the ledger answered to a proposal."""
    return forgotten(agreement) if standing.decision is None else of_decision(standing.decision)


def forgotten(agreement: Agreement) -> Told:
    """FORGOTTEN, as of what is applied here."""
    return State.FORGOTTEN, FORGOTTEN_REASON, "", agreement.applied_term, agreement.applied_index


def undecided(term: int, index: int) -> Told:
    """UNDECIDED, as of a barrier."""
    return State.UNDECIDED, "", "", term, index


def final(txid: TxId, agreement: Agreement) -> Told | None:
    """What this node knows for good: a recorded outcome, or FORGOTTEN. None: undecided as far as is applied here."""
    decision = agreement.ledger.decision(txid)
    if decision is not None:
        return of_decision(decision)
    return forgotten(agreement) if txid.ms < agreement.ledger.horizon_ms else None


def for_branch(told: Told, txid: TxId, branch: str, agreement: Agreement) -> Told:
    """The same for a branch that is in doubt, which is to say that somebody sees it prepared.

    A COMMIT that does not name it is ABORTED to it. So is FORGOTTEN, because a COMMIT is retired only when every branch that it
    names has acknowledged it, and what has acknowledged is not prepared any more (see core/ledger.py). One case breaks
    that argument: damage, where a person's word took the place of the branch's own. Then FORGOTTEN is told, which is no
    outcome: the branch is left as it is, for a person to look at.
    """
    state, reason, _, term, index = told
    if state is State.FORGOTTEN:
        if agreement.ledger.damage(txid, branch) is not None:
            return State.FORGOTTEN, DAMAGED_REASON, "", term, index
        return State.ABORTED, reason, "", term, index
    if state is State.COMMITTED:
        decision = agreement.ledger.decision(txid)
        if decision is None or branch not in decision.branches:
            return State.ABORTED, NOT_NAMED_REASON, "", term, index
    return told


def txid_used(txid: TxId, decision: Decision) -> RpcError:
    """Somebody else's outcome stands under this txid."""
    names = ", ".join(decision.branches) or "no branches"
    return RpcError(
        TXID_USED,
        f"txid {txid} was used before: {decision.state.name} stands for it, with {names}, since entry {decision.index} of "
        f"term {decision.term}; a retry needs a new txid",
        {"txid": bytes(txid), "stands": list(of_decision(decision))},
    )


def txid_running(txid: TxId) -> RpcError:
    """A second submit of a txid that this node is running."""
    return RpcError(
        TXID_USED,
        f"txid {txid} is used by a transaction that this node is running; wait for its outcome with resolve, or use a new txid",
        {"txid": bytes(txid)},
    )


def in_doubt(txid: TxId, why: str) -> RpcError:
    """The outcome is not known here."""
    return RpcError(
        IN_DOUBT,
        f"the outcome of transaction {txid} is in doubt: {why}. Do not repeat it; ask for its outcome with resolve",
        {"txid": bytes(txid), "why": why},
    )


def row(decision: Decision) -> dict[str, Any]:
    """A recorded decision, for a listing."""
    return {
        "txid": decision.txid,
        "state": decision.state,
        "branches": decision.branches,
        "outstanding": decision.outstanding,
        "reason": decision.reason,
        "branch": decision.branch,
        "at_ms": decision.at_ms,
        "term": decision.term,
        "index": decision.index,
        **({"closed": [closing._asdict() for closing in decision.closed]} if decision.closed else {}),
    }


def undecided_row(txid: TxId) -> dict[str, Any]:
    """The same for a transaction that is not recorded."""
    return {
        "txid": txid,
        "state": State.UNDECIDED,
        "branches": (),
        "outstanding": (),
        "reason": "",
        "branch": "",
        "at_ms": 0,
        "term": 0,
        "index": 0,
    }
