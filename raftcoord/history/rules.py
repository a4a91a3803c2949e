"""What one transaction's answers must not say: a rule for each way in which a write-once ledger cannot have told them.

The object. A transaction is undecided until one operation writes COMMIT or ABORT, once. At some time the horizon may pass
it, decided or not; nothing is written behind the horizon. A decide writes what it proposes; a resolve writes ABORT; a submit
writes either (its participants' votes and its timeout are not seen here); a status writes nothing. An operation that is open may
have written, and so may one that was told FORGOTTEN, by a try before the last. One that was told another outcome than it could
write, or that was not attempted, has not.

The answers. COMMITTED and ABORTED are final: any node that has applied the decision says so at once, even when the others
have passed the horizon already; so an outcome may be told after FORGOTTEN was, if it was decided before. UNDECIDED and
FORGOTTEN are true at some moment between call and return. (term, index): with an outcome, the decision's entry, the same
from every node; with UNDECIDED, an entry up to which it was undecided; with FORGOTTEN, one up to which the horizon had passed it.

Why the rules are enough. Let W be the moment of the write and H that of the horizon. An outcome was told: W is not after the
first return that told one, nor after the first FORGOTTEN's (W < H); it is not before the latest call that was told
UNDECIDED, nor before the first call of an operation that can have written it. FORGOTTEN was told: H is not after its first
return, nor before the latest call that was told UNDECIDED. These are all the bounds there are, and each rule compares a
lower with an upper one: if none is violated, every moment between the largest lower and the smallest upper bound will do, and
each answer then has a moment of its own. Moments that are equal count as concurrent. The indices are bounds of the same
kind on the entries of W and H.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from raftcoord.history.evidence import Evidence
from raftcoord.history.operations import RecordedCall, flaw_of
from raftcoord.types import TxId


class Premises(NamedTuple):
    """What the history cannot show. ``unseen_resolves``: actors that are not recorded may resolve, and so write ABORT.

    ``horizon_ms``: no horizon was ever beyond it; 0: nothing can have been forgotten.
    """

    unseen_resolves: bool
    horizon_ms: int


class HistoryViolation(NamedTuple):
    """Answers that no write-once ledger can have given.

    ``kind``: the rule; ``operations``: those that contradict each other (one alone can be impossible too); ``what``: a sentence.
    """

    kind: str
    txid: TxId
    operations: tuple[RecordedCall, ...]
    what: str


Found = tuple[tuple[RecordedCall, ...], str] | None
Rule = Callable[[Evidence, Premises], Found]


def _unjudged(e: Evidence, p: Premises) -> Found:
    o = e.flawed
    if o is None:
        return None
    return (o,), f"cannot be judged: the record of {o} {flaw_of(o)}; correct whoever wrote it"


def _unfinished(e: Evidence, p: Premises) -> Found:
    o = e.unfinished
    if o is None:
        return None
    return (o,), f"{o} was told UNDECIDED, but a {o.kind.value} owes an outcome, and leaves none undecided"


def _two_outcomes(e: Evidence, p: Premises) -> Found:
    if e.committed is None or e.aborted is None:
        return None
    one, other = sorted((e.committed, e.aborted), key=lambda o: o.returned)
    return (one, other), f"{one} was told {one.answer}, and {other} was told {other.answer}"


def _two_entries(e: Evidence, p: Premises) -> Found:
    one, other = e.entry, e.other_entry
    if one is None or other is None:
        return None
    return (one, other), f"{one} was told {one.answer}, and {other} was told {other.answer}: one decision has one entry"


def _taken_back(e: Evidence, p: Premises) -> Found:
    late, told = e.undecided, e.outcome
    if late is None or told is None or told.returned >= late.called:
        return None
    return (told, late), f"{late} was told {late.answer}, but was called after {told} had been told {told.answer}"


def _remembered(e: Evidence, p: Premises) -> Found:
    late, told = e.undecided, e.forgotten
    if late is None or told is None or told.returned >= late.called:
        return None
    return (told, late), f"{late} was told {late.answer}, but was called after {told} had been told {told.answer}"


def first_writer(e: Evidence, p: Premises) -> tuple[RecordedCall | None, bool]:
    """The first call that can have made the outcome that was told, if there is one; and whether the unseen may have, too."""
    if e.committed is not None:
        return e.commit_by, False
    return e.abort_by, p.unseen_resolves


def _out_of_nothing(e: Evidence, p: Premises) -> Found:
    told = e.outcome
    if told is None:
        return None
    writer, unseen = first_writer(e, p)
    if unseen or (writer is not None and writer.called <= told.returned):
        return None
    if writer is None:
        return (told,), f"{told} was told {told.answer}, but no operation of this history can have made it so"
    return (told, writer), (
        f"{told} was told {told.answer}, but nothing that can have made it so was called before: the first was {writer}"
    )


def _behind_the_horizon(e: Evidence, p: Premises) -> Found:
    told, forgotten = e.outcome, e.forgotten
    if told is None or forgotten is None:
        return None
    writer, unseen = first_writer(e, p)
    if unseen or writer is None or writer.called <= forgotten.returned:
        return None
    return (forgotten, writer, told), (
        f"{told} was told {told.answer}, but nothing that can have made it so was called before {forgotten} was told "
        f"{forgotten.answer}, behind which nothing is decided: the first was {writer}"
    )


def _too_young(e: Evidence, p: Premises) -> Found:
    o = e.forgotten
    if o is None or e.txid.ms < p.horizon_ms:
        return None
    beyond = f"the horizon was never beyond {p.horizon_ms} ms" if p.horizon_ms else "no horizon was ever set"
    return (o,), f"{o} was told {o.answer}, but the txid is of {e.txid.ms} ms, and {beyond}"


def _undecided_too_late(e: Evidence, p: Premises) -> Found:
    late, entry = e.undecided_high, e.entry
    if late is None or entry is None or late.index < entry.index:
        return None
    return (entry, late), (
        f"{late} was told {late.answer}, but {entry} was told {entry.answer}: it was decided by that entry or before"
    )


def _forgotten_before_decided(e: Evidence, p: Premises) -> Found:
    early, entry = e.forgotten_low, e.entry
    if early is None or entry is None or early.index >= entry.index:
        return None
    return (early, entry), (
        f"{entry} was told {entry.answer}, but {early} was told {early.answer}, behind which nothing is decided"
    )


def _forgotten_before_undecided(e: Evidence, p: Premises) -> Found:
    early, late = e.forgotten_low, e.undecided_high
    if early is None or late is None or early.index > late.index:
        return None
    return (
        early,
        late,
    ), f"{late} was told {late.answer}, but {early} was told {early.answer}: what is forgotten stays so"


RULES: Final[dict[str, Rule]] = {
    "unjudged": _unjudged,
    "two outcomes": _two_outcomes,
    "two entries": _two_entries,
    "out of nothing": _out_of_nothing,
}
"""By the kind of violation, in the order in which they are tried; the first that finds something speaks for its transaction."""

ABSENCE_RULES: Final[dict[str, Rule]] = {
    "unfinished": _unfinished,
    "taken back": _taken_back,
    "remembered": _remembered,
    "behind the horizon": _behind_the_horizon,
    "too young": _too_young,
    "undecided too late": _undecided_too_late,
    "forgotten before decided": _forgotten_before_decided,
    "forgotten before undecided": _forgotten_before_undecided,
}
"""Likewise, for a transaction of which somebody was told UNDECIDED or FORGOTTEN."""


def first_violation(e: Evidence, p: Premises) -> HistoryViolation | None:
    """What is wrong with one transaction, or None."""
    for kind, rule in RULES.items():
        found = rule(e, p)
        if found is not None:
            return HistoryViolation(kind, e.txid, *found)
    if e.undecided is None and e.forgotten is None:
        return None
    for kind, rule in ABSENCE_RULES.items():
        found = rule(e, p)
        if found is not None:
            return HistoryViolation(kind, e.txid, *found)
    return None
