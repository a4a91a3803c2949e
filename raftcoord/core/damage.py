"""Heuristic damage and lost branches: what is reported, acknowledged and closed.

Owed: damage that was reported is recorded once, in the ledger, and is listed until somebody has acknowledged it and it is older
than the horizon; what nobody has acknowledged comes first. Acknowledging it is a person's word that the branch is dealt with, so
the ledger waits for that branch no longer. Only a branch of a COMMIT that is outstanding is closed. Never: an outcome that is
changed; damage that is dropped unseen.

Only what is decided can be damaged, and only so much is recorded: anybody may report.

Why a record may go: the branch of a COMMIT that was closed, or whose damage is acknowledged, is closed by that
(tables/decisions.py), and the decision then stays for ever. So a branch that is still prepared hears COMMIT, whatever has been
forgotten.

Each question is asked as asking.py says.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from raftcoord import limits
from raftcoord.core.asking import AppliedState, Propose, Question, check_has_branch, confirmed
from raftcoord.core.tables.damages import Damage, Heuristic, Settle
from raftcoord.core.tables.decisions import Close
from raftcoord.errors import InDoubt, LocalProtocolError, NotKnown, Overloaded, Unavailable
from raftcoord.types import BranchesByTxid, TxId, Verdict

_FATE: Final = "whether that was recorded is not known; ask for the same again, that is safe"
_AGAIN: Final = "no majority has confirmed in time that the branches are closed; repeat it, that is safe"
_NOT_ACKNOWLEDGED: Final = "nothing was acknowledged: this node could not confirm the damage in time; ask again"


def listed(applied: AppliedState, txid: TxId | None) -> list[Damage]:
    """Damage as this node has applied it: first what nobody has acknowledged, each newest first."""
    found = [damage for damage in applied.ledger.damages() if txid is None or damage.txid == txid]
    found.sort(key=lambda damage: (bool(damage.acknowledged_by), -damage.at_ms, damage.txid, damage.branch))
    return found


def too_many(unseen: int) -> str:
    """At the bound."""
    return (
        f"{unseen} damaged branches wait for somebody to look at them, and no more are recorded: look at raftcoord txn ls "
        "--heuristic, and acknowledge what is dealt with (raftcoord txn acknowledge)"
    )


def report(applied: AppliedState, txid: TxId, branch: str, what: str, now_ms: int, unseen_max: int) -> Question[None]:
    """Record damage. The first record for a branch stands. Overloaded if nobody has acknowledged ``unseen_max`` others."""
    if applied.ledger.decision(txid) is None:
        yield from confirmed("nothing was recorded: this node could not confirm the decision in time; report it again")
    if applied.ledger.damage(txid, branch) is None:
        _check_report(applied, txid, branch, unseen_max)
        yield from _recorded(Heuristic(txid, branch, what, now_ms), txid)


def _check_report(applied: AppliedState, txid: TxId, branch: str, unseen_max: int) -> None:
    ledger = applied.ledger
    decision = ledger.decision(txid)
    if decision is None:
        raise LocalProtocolError(
            f"transaction {txid} is {ledger.state(txid)}: only a branch of what is decided, and not forgotten, can be damaged"
        )
    if decision.verdict is Verdict.COMMIT:
        check_has_branch(decision, branch)
    # An ABORT names only those that had to be told. One that was committed all the same may be any.
    of_it = sum(damage.txid == txid for damage in ledger.damages()) if not decision.verdict else 0
    if of_it >= limits.BRANCHES_MAX:
        raise LocalProtocolError(f"{of_it} branches of transaction {txid} are damaged already, and it cannot have more")
    if ledger.damages_unseen >= unseen_max:
        raise Overloaded(too_many(ledger.damages_unseen))


def acknowledge(applied: AppliedState, txid: TxId, branch: str, who: str, now_ms: int) -> Question[Damage]:
    """Record who has seen the damage, and wait for that branch no longer. The damage as it is recorded then."""
    yield from confirmed(_NOT_ACKNOWLEDGED)
    if applied.ledger.damage(txid, branch) is not None:
        yield from _recorded(Settle(((txid, (branch,)),), who, now_ms), txid)
    damage = applied.ledger.damage(txid, branch)
    if damage is None:  # also one that is settled, and older than the horizon by now
        raise LocalProtocolError(
            f"no damage is recorded for branch {branch!r} of transaction {txid}; raftcoord txn ls --heuristic shows what there is"
        )
    return damage


def acknowledge_all(
    applied: AppliedState, branch: str | None, upto_ms: int, who: str, now_ms: int
) -> Question[tuple[int, int]]:
    """The same for a portion of all that nobody has acknowledged: of one branch name, or of any (None).

    Only what was reported up to ``upto_ms`` is meant: what came since, nobody has seen. How many, and what is left.
    """

    def meant() -> list[Damage]:
        return [
            damage
            for damage in applied.ledger.damages()
            if not damage.acknowledged_by and damage.at_ms <= upto_ms and branch in (None, damage.branch)
        ]

    yield from confirmed(_NOT_ACKNOWLEDGED)
    portion = meant()[: limits.BRANCHES_SETTLED_MAX]
    if portion:
        pairs = tuple((damage.txid, (damage.branch,)) for damage in portion)
        yield from _recorded(Settle(pairs, who, now_ms), portion[0].txid)
    return len(portion), len(meant())


def _recorded(command: Heuristic | Settle, txid: TxId) -> Question[None]:
    try:
        yield Propose(command)
    except NotKnown:
        raise InDoubt(txid, _FATE) from None


# -- closing ------------------------------------------------------------------------------------------------------


def close(
    applied: AppliedState,
    branches: BranchesByTxid,
    who: str,
    why: str,
    now_ms: int,
    is_connected: Callable[[str], bool],
) -> Question[int]:
    """Close branches that will never come back, all of them or none. How many of them are closed then.

    What has been acknowledged meanwhile is left as it is.
    """
    yield from confirmed("nothing was closed: this node could not confirm the decisions in time; ask again")
    left = _to_close(applied, branches, is_connected)
    if left:
        try:
            yield Propose(Close(left, who, why, now_ms))
        except NotKnown:
            raise Unavailable(_AGAIN) from None
    return sum(_closed(applied, txid, names) for txid, names in branches)


def _to_close(applied: AppliedState, branches: BranchesByTxid, is_connected: Callable[[str], bool]) -> BranchesByTxid:
    """What is to be closed. Raises LocalProtocolError for what cannot be."""
    left = []
    for txid, names in branches:
        decision = applied.ledger.decision(txid)
        if decision is None or decision.verdict is not Verdict.COMMIT:
            raise LocalProtocolError(
                f"transaction {txid} is {applied.ledger.state(txid)}: only a branch of a COMMIT is waited for until it "
                "acknowledges, so there is nothing to close"
            )
        for name in names:
            check_has_branch(decision, name)
            if name in decision.outstanding and is_connected(name):
                raise LocalProtocolError(
                    f"participant {name!r} is connected, so its branches are not lost: it is told the outcome. If it cannot "
                    "carry it out, that is damage: raftcoord txn ls --heuristic"
                )
        outstanding = tuple(name for name in names if name in decision.outstanding)
        if outstanding:
            left.append((txid, outstanding))
    return tuple(left)


def _closed(applied: AppliedState, txid: TxId, names: tuple[str, ...]) -> int:
    decision = applied.ledger.decision(txid)
    closed = {closing.branch for closing in decision.closed} if decision else set()
    return len(closed.intersection(names))
