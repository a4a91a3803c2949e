"""Each way in which a ledger cannot have told a history is found, named and explained; what it can have told is valid."""

from __future__ import annotations

import inspect
import math
import sys
from typing import Any

import pytest

from raftcoord.errors import Halt
from raftcoord.history.checker import Judgement, judge
from raftcoord.history.operations import CallKind, Ending, RecordedCall
from raftcoord.history.rules import HistoryViolation
from raftcoord.types import State, TxId, Verdict

COMMITTED, ABORTED, UNDECIDED, FORGOTTEN = State.COMMITTED, State.ABORTED, State.UNDECIDED, State.FORGOTTEN
TXID = TxId.new(1000, bytes(10))
OTHER = TxId.new(1000, bytes([1] * 10))


def opened(kind: CallKind, called: float, *, client: int = 0, txid: TxId = TXID) -> RecordedCall:
    return RecordedCall(client, kind, txid, called)


def decide(verdict: Verdict, called: float, *, client: int = 0, txid: TxId = TXID) -> RecordedCall:
    return RecordedCall(client, CallKind.DECIDE, txid, called, verdict)


def told(made: RecordedCall, at: float, state: State, term: int = 0, index: int = 0) -> RecordedCall:
    made.told(at, state, term, index)
    return made


def refused(made: RecordedCall, at: float) -> RecordedCall:
    made.not_attempted(at)
    return made


def submitted(at: float, state: State, term: int = 0, index: int = 0, *, txid: TxId = TXID) -> RecordedCall:
    """A submit that took its client one unit of time until ``at``."""
    return told(opened(CallKind.SUBMIT, at - 1, txid=txid), at, state, term, index)


def asked(called: float, at: float, state: State, term: int = 0, index: int = 0, *, txid: TxId = TXID) -> RecordedCall:
    """A status, by client 7."""
    return told(opened(CallKind.STATUS, called, client=7, txid=txid), at, state, term, index)


def judged(*operations: RecordedCall, unseen_resolves: bool = False, horizon_ms: int = 0) -> Judgement:
    return judge(operations, unseen_resolves=unseen_resolves, horizon_ms=horizon_ms)


def violation(*operations: RecordedCall, unseen_resolves: bool = False, horizon_ms: int = 0) -> HistoryViolation:
    found = judged(*operations, unseen_resolves=unseen_resolves, horizon_ms=horizon_ms)
    assert not found.valid
    (only,) = found.violations
    assert set(only.operations) <= set(operations)
    assert only.txid in (TXID, OTHER)
    return only


# -- one transaction ----------------------------------------------------------------------------------------------


def test_two_outcomes_are_found_and_explained() -> None:
    one, other = submitted(2, COMMITTED, 1, 5), told(opened(CallKind.RESOLVE, 3, client=4), 4.25, ABORTED)
    found = violation(other, one)
    assert (found.kind, found.txid, found.operations) == ("two outcomes", TXID, (one, other))
    assert found.what == (
        "client 0's submit (1 to 2) was told COMMITTED at term 1 index 5, and client 4's resolve (3 to 4.25) was told ABORTED"
    )


@pytest.mark.parametrize("entry", [(1, 6), (2, 5)])
def test_an_outcome_at_two_entries_is_found(entry: tuple[int, int]) -> None:
    assert violation(submitted(2, COMMITTED, 1, 5), asked(2, 3, COMMITTED, *entry)).kind == "two entries"


def test_an_outcome_without_its_entry_contradicts_no_entry() -> None:
    assert judged(submitted(2, ABORTED), asked(2, 3, ABORTED, 1, 5), asked(2, 3, ABORTED, 1, 5)).valid


def test_undecided_after_an_outcome_was_told_is_found_and_at_the_same_time_it_is_valid() -> None:
    outcome = submitted(2, COMMITTED)
    late = asked(2.5, 3, UNDECIDED)
    found = violation(outcome, late)
    assert (found.kind, found.operations) == ("taken back", (outcome, late))
    assert (
        "client 7's status (2.5 to 3) was told UNDECIDED, but was called after client 0's submit (1 to 2)" in found.what
    )
    assert judged(submitted(2, COMMITTED), asked(2, 3, UNDECIDED)).valid


def test_undecided_after_forgotten_is_found() -> None:
    assert violation(asked(0, 1, FORGOTTEN), asked(2, 3, UNDECIDED), horizon_ms=2000).kind == "remembered"


def test_an_outcome_that_a_node_behind_the_others_still_has_is_valid_after_forgotten() -> None:
    assert judged(submitted(1, COMMITTED), asked(2, 3, FORGOTTEN), asked(4, 5, COMMITTED), horizon_ms=2000).valid


def test_nothing_is_decided_behind_the_horizon() -> None:
    late = submitted(9, COMMITTED)
    assert violation(late, asked(2, 3, FORGOTTEN), horizon_ms=2000).kind == "behind the horizon"


def test_a_txid_that_no_horizon_can_have_passed_is_not_forgotten() -> None:
    young = asked(2, 3, FORGOTTEN)
    assert violation(young, horizon_ms=1000).kind == "too young"
    assert "no horizon was ever set" in violation(young).what
    assert judged(young, horizon_ms=1001).valid


@pytest.mark.parametrize(
    "made",
    [opened(CallKind.SUBMIT, 0), opened(CallKind.RESOLVE, 0), decide(Verdict.COMMIT, 0)],
    ids=lambda made: made.kind.value,
)
def test_whoever_owes_an_outcome_is_not_told_undecided(made: RecordedCall) -> None:
    assert violation(told(made, 1, UNDECIDED)).kind == "unfinished"


# -- who can have made it so --------------------------------------------------------------------------------------


def test_a_commit_that_nobody_proposed_is_found_whatever_the_unseen_may_do() -> None:
    for unseen in (False, True):
        found = violation(asked(2, 3, COMMITTED), opened(CallKind.RESOLVE, 0), unseen_resolves=unseen)
        assert found.kind == "out of nothing"
        assert "no operation of this history can have made it so" in found.what


def test_an_abort_that_nobody_proposed_is_found_unless_the_unseen_may_resolve() -> None:
    commit = decide(Verdict.COMMIT, 0)
    assert violation(asked(2, 3, ABORTED), commit).kind == "out of nothing"
    assert judged(asked(2, 3, ABORTED), commit, unseen_resolves=True).valid


def test_the_caller_must_say_what_the_unseen_may_do_and_how_far_the_horizon_went() -> None:
    parameters = inspect.signature(judge).parameters
    assert parameters["unseen_resolves"].default is inspect.Parameter.empty
    assert parameters["horizon_ms"].default is inspect.Parameter.empty


@pytest.mark.parametrize(
    ("writer", "state"),
    [
        (opened(CallKind.SUBMIT, 0), COMMITTED),
        (opened(CallKind.SUBMIT, 0), ABORTED),
        (opened(CallKind.RESOLVE, 0), ABORTED),
        (decide(Verdict.COMMIT, 0), COMMITTED),
        (decide(Verdict.ABORT, 0), ABORTED),
    ],
    ids=str,
)
def test_an_open_operation_may_take_effect_at_any_time_after_its_call(writer: RecordedCall, state: State) -> None:
    assert judged(writer, asked(1e9, 1e9 + 1, state)).valid
    assert violation(writer, asked(-2, -1, state)).kind == "out of nothing"


@pytest.mark.parametrize("state", [COMMITTED, ABORTED])
def test_what_was_not_attempted_has_no_effect(state: State) -> None:
    refusal = refused(opened(CallKind.SUBMIT, 0), 1)
    assert violation(refusal, asked(2, 3, state)).kind == "out of nothing"
    assert judged(refusal, asked(2, 3, UNDECIDED)).valid


def test_a_decide_that_loses_is_told_what_stands() -> None:
    resolve = told(opened(CallKind.RESOLVE, 0), 1, ABORTED, 1, 5)
    assert judged(resolve, told(decide(Verdict.COMMIT, 2), 3, ABORTED, 1, 5)).valid
    assert violation(resolve, told(decide(Verdict.COMMIT, 2), 3, COMMITTED, 1, 6)).kind == "two outcomes"


# -- as of an entry -----------------------------------------------------------------------------------------------


def test_it_is_not_undecided_as_of_its_decision_or_later() -> None:
    for index in (5, 6):
        found = violation(submitted(9, COMMITTED, 1, 5), asked(0, 9, UNDECIDED, 1, index))
        assert found.kind == "undecided too late"
    assert judged(submitted(9, COMMITTED, 1, 5), asked(0, 9, UNDECIDED, 1, 4)).valid


def test_it_is_not_forgotten_as_of_an_entry_before_its_decision() -> None:
    found = violation(submitted(9, COMMITTED, 1, 5), asked(0, 9, FORGOTTEN, 1, 4), horizon_ms=2000)
    assert found.kind == "forgotten before decided"
    assert judged(submitted(9, COMMITTED, 1, 5), asked(0, 9, FORGOTTEN, 1, 5), horizon_ms=2000).valid


def test_it_is_not_undecided_as_of_an_entry_at_which_it_is_forgotten() -> None:
    found = violation(asked(0, 9, UNDECIDED, 1, 5), asked(0, 9, FORGOTTEN, 1, 5), horizon_ms=2000)
    assert found.kind == "forgotten before undecided"
    assert judged(asked(0, 9, UNDECIDED, 1, 5), asked(0, 9, FORGOTTEN, 1, 6), horizon_ms=2000).valid


# -- one log ------------------------------------------------------------------------------------------------------


def test_an_index_has_one_term() -> None:
    found = violation(submitted(2, COMMITTED, 1, 5), submitted(2, COMMITTED, 2, 5, txid=OTHER))
    assert found.kind == "two terms"
    assert str(TXID) in found.what
    assert judged(submitted(2, COMMITTED, 1, 5), submitted(2, COMMITTED, 1, 5, txid=OTHER)).valid, "one batch"


def test_terms_do_not_fall_along_the_log() -> None:
    found = violation(submitted(2, COMMITTED, 2, 5), submitted(2, COMMITTED, 1, 6, txid=OTHER))
    assert (found.kind, found.txid) == ("terms fall", OTHER)


def test_undecided_is_not_as_of_before_what_was_committed_when_it_was_asked() -> None:
    found = violation(submitted(2, COMMITTED, 1, 5), asked(3, 4, UNDECIDED, 1, 4, txid=OTHER))
    assert (found.kind, found.txid) == ("out of order", OTHER)
    assert found.what == (
        f"index 5 was committed when client 0's submit (1 to 2) of transaction {TXID} had returned, which was told COMMITTED "
        "at term 1 index 5; but client 7's status (3 to 4), called after that, was told UNDECIDED at term 1 index 4"
    )
    assert judged(submitted(2, COMMITTED, 1, 5), asked(2, 4, UNDECIDED, 1, 4, txid=OTHER)).valid


def test_a_decision_does_not_stand_before_what_was_committed_when_it_was_asked_for() -> None:
    early, late = opened(CallKind.SUBMIT, 0, txid=OTHER), opened(CallKind.SUBMIT, 3, txid=OTHER)
    shown, told_late = submitted(2, COMMITTED, 1, 5), asked(4, 5, COMMITTED, 1, 4, txid=OTHER)
    found = violation(shown, late, told_late)
    assert found.kind == "out of order"
    assert found.what.endswith(
        "client 7's status (4 to 5) was told COMMITTED at term 1 index 4, and what can have made it so was called after "
        "that: client 0's submit (3) first"
    )
    assert judged(shown, early, late, told_late).valid


# -- no verdict is never a good one -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "flaw",
    [
        {"returned": -1.0, "ending": Ending.TOLD, "state": ABORTED},
        {"called": math.nan},
        {"returned": math.nan},
        {"proposed": Verdict.ABORT},
        {"kind": CallKind.DECIDE},
        {"ending": Ending.TOLD, "returned": 1.0},
        {"ending": Ending.TOLD, "state": ABORTED},
        {"ending": Ending.TOLD, "returned": 1.0, "state": ABORTED, "term": 1},
        {"ending": Ending.TOLD, "returned": 1.0, "state": ABORTED, "index": 1},
        {"ending": Ending.TOLD, "returned": 1.0, "state": ABORTED, "term": -1, "index": -1},
        {"state": ABORTED},
        {"ending": Ending.NOT_ATTEMPTED, "returned": 1.0, "index": 3},
    ],
    ids=str,
)
def test_a_record_that_cannot_be_judged_is_a_violation_that_says_so(flaw: dict[str, Any]) -> None:
    fields: dict[str, Any] = {"client": 3, "kind": CallKind.RESOLVE, "txid": TXID, "called": 0.0}
    found = violation(RecordedCall(**(fields | flaw)))
    assert found.kind == "unjudged"
    assert found.what.startswith("cannot be judged: the record of client 3's ")


def test_an_operation_ends_once() -> None:
    for made in (submitted(2, COMMITTED), refused(opened(CallKind.SUBMIT, 0), 1)):
        with pytest.raises(Halt, match="ended twice"):
            made.told(3, ABORTED)
        with pytest.raises(Halt, match="ended twice"):
            made.not_attempted(3)


def test_an_empty_history_is_valid_and_says_that_nothing_was_judged() -> None:
    assert judged() == Judgement((), 0, 0)
    assert judged(submitted(2, COMMITTED), asked(2, 3, COMMITTED)) == Judgement((), 2, 1)


def test_one_broken_transaction_hides_no_other() -> None:
    bad = [submitted(2, COMMITTED), asked(3, 4, ABORTED)]
    worse = [submitted(2, COMMITTED, txid=OTHER), asked(3, 4, UNDECIDED, txid=OTHER)]
    assert [found.txid for found in judged(*bad, *worse).violations] == [TXID, OTHER]


def calls_of(count: int) -> int:
    """How many function calls it takes to judge ``count`` operations on one transaction, and as many on others."""
    history = [submitted(count + 1, COMMITTED, 1, 2 * count)]
    history += [asked(n, n + 0.5, UNDECIDED, 1, n) for n in range(1, count)]
    others = (TxId.new(2000 + n, bytes(10)) for n in range(count))
    history += [submitted(n, ABORTED, 1, n, txid=txid) for n, txid in enumerate(others, start=1)]
    calls = 0

    def count_call(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    sys.setprofile(count_call)
    try:
        assert judged(*history).valid
    finally:
        sys.setprofile(None)
    return calls


def test_the_work_grows_as_the_history_does() -> None:
    assert calls_of(2_000) < 2.1 * calls_of(1_000)
