"""What the answers to all transactions together must not say: they were told from one log.

    two terms      an index has one entry, and an entry one term
    terms fall     a later entry is never of an earlier term (Raft figure 3, Log Matching)
    out of order   the log grows in time: an answer as of index i proves when it returns that entry i was committed; and what
                   is told UNDECIDED, or is first asked to be decided, after that stands at index i or later

Why "out of order" is enough. The committed index c(t) never falls, and every answer places it. At a moment between the call
and the return of an UNDECIDED as of u, c = u. Between the first call that can have made a decision (and the latest call that
was told UNDECIDED) and the first return that shows it, c passes its entry d. When FORGOTTEN as of f returns, c is at least f.
Such a c exists if and only if no upper bound at some time lies below a lower bound of an earlier time; one pass in the order
of time compares each upper bound with the largest lower bound before it. An index that nobody was told is inferred: the
first is 1, and a decision stands behind every entry up to which it was undecided.

It takes the transactions that no rule of rules.py has found fault with; sorting is all that is not linear.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from typing import Final

from raftcoord.history.evidence import Evidence
from raftcoord.history.operations import RecordedCall
from raftcoord.history.rules import HistoryViolation, Premises, first_writer
from raftcoord.types import State, TxId

Told = list[tuple[TxId, RecordedCall]]
"""Operations that were told an index, one of those that were told a decision's."""


def _told(evidences: Iterable[Evidence]) -> Told:
    told: Told = []
    for e in evidences:
        if e.entry is not None:
            told.append((e.txid, e.entry))
        if e.undecided_all or e.forgotten_all:
            told += [(e.txid, o) for o in (*e.undecided_all, *e.forgotten_all)]
    return told


def _two_terms(evidences: Iterable[Evidence], p: Premises) -> Iterator[HistoryViolation]:
    first: dict[int, RecordedCall] = {}
    for txid, o in _told(evidences):
        other = first.setdefault(o.index, o)
        if other.term != o.term:
            what = (
                f"{o} was told {o.answer}, and {other} of transaction {other.txid} was told {other.answer}: "
                "an index has one entry, of one term"
            )
            yield HistoryViolation("two terms", txid, (other, o), what)


def _terms_fall(evidences: Iterable[Evidence], p: Premises) -> Iterator[HistoryViolation]:
    term_of = {o.index: o.term for _, o in _told(evidences)}
    indices = sorted(term_of)
    terms = [term_of[index] for index in indices]
    if terms == sorted(terms):
        return
    by_index = {o.index: o for _, o in _told(evidences)}
    for earlier, later in pairwise(by_index[index] for index in indices):
        if later.term < earlier.term:
            what = (
                f"{later} was told {later.answer}, and {earlier} of transaction {earlier.txid} was told {earlier.answer}: "
                "terms do not fall along the log"
            )
            yield HistoryViolation("terms fall", later.txid, (earlier, later), what)


# -- out of order -------------------------------------------------------------------------------------------------

_CALL: Final = 0
_RETURN: Final = 1
"""In this order at the same time: what is called when something returns is concurrent with it."""

Bound = tuple[float, int, int, int, RecordedCall, RecordedCall, Evidence]
"""(at, side, a number, index, whose call or return it is, who was told that index, its transaction's evidence).

A call after which the log reached ``index``, or a return by which it had. Index 0 was told to nobody: such a return stands for
what is inferred, and such a call is the latest that was told UNDECIDED.
"""


def _bounds(evidences: Iterable[Evidence], p: Premises) -> list[Bound]:
    """In the order of time."""
    found: list[Bound] = []

    def add(at: float, side: int, index: int, of: RecordedCall, told: RecordedCall) -> None:
        found.append((at, side, len(found), index, of, told, e))

    for e in evidences:
        outcome, forgotten, entry = e.outcome, e.forgotten, e.entry
        shown = outcome
        if outcome is not None:
            writer, unseen = first_writer(e, p)
            latest = entry or e.forgotten_low
            if writer is not None and latest is not None and not unseen:
                add(writer.called, _CALL, latest.index, writer, latest)
        if forgotten is not None:
            if outcome is None or forgotten.returned < outcome.returned:
                shown = forgotten
            for o in e.forgotten_all:
                add(o.returned, _RETURN, o.index, o, o)
        if e.undecided is not None:
            add(e.undecided.called, _CALL, 0, e.undecided, e.undecided)
            for o in e.undecided_all:
                add(o.called, _CALL, o.index, o, o)
                add(o.returned, _RETURN, o.index, o, o)
        if shown is not None:
            add(shown.returned, _RETURN, entry.index if entry else 0, shown, entry or shown)
    found.sort()
    return found


def _out_of_order(evidences: Iterable[Evidence], p: Premises) -> Iterator[HistoryViolation]:
    known = 0
    shower: Bound | None = None
    undecided_up_to: dict[TxId, int] = {}
    for bound in _bounds(evidences, p):
        _, side, _, index, of, told, e = bound
        if side == _RETURN:
            index = index or undecided_up_to.get(e.txid, 0) + 1
            if index > known:
                known, shower = index, bound
        elif index:
            if index < known and shower is not None:
                yield _disorder(shower, known, of, told)
        else:
            high = e.undecided_high
            undecided_up_to[e.txid] = max(known, high.index if high else 0)
            for late in (e.entry, e.forgotten_low):
                if late is not None and late.index <= known and shower is not None:
                    yield _disorder(shower, known, of, late)


def _disorder(shower: Bound, known: int, late: RecordedCall, told: RecordedCall) -> HistoryViolation:
    """``late`` was called after ``shower`` had shown that ``known`` was committed; ``told`` names an index that is too low."""
    _, _, _, _, by, by_told, e = shower
    shown = f"index {known} was committed when {by}{_of(e.txid, late.txid)} had returned"
    if by_told.index:
        shown += f" ({by_told} was told {by_told.answer})" if by_told is not by else f", which was told {by.answer}"
    if late is told:
        what = f"{shown}; but {late}, called after that, was told {late.answer}"
    elif late.state is State.UNDECIDED:
        what = f"{shown}; but {late}, called after that, was told {late.answer}, and {told} was told {told.answer}"
    else:
        what = f"{shown}; but {told} was told {told.answer}, and what can have made it so was called after that: {late} first"
    return HistoryViolation("out of order", late.txid, tuple(dict.fromkeys((by, by_told, late, told))), what)


def _of(txid: TxId, other: TxId) -> str:
    return "" if txid == other else f" of transaction {txid}"


LogRule = Callable[[Iterable[Evidence], Premises], Iterator[HistoryViolation]]

LOG_RULES: Final[dict[str, LogRule]] = {
    "two terms": _two_terms,
    "terms fall": _terms_fall,
    "out of order": _out_of_order,
}
"""By the kind of violation."""
