"""The checker and a general search agree on every small history; and without any one of its rules it would not."""

from __future__ import annotations

import random
import types
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftcoord.history import checker, evidence, log, rules
from raftcoord.history.operations import CallKind, Ending, RecordedCall
from raftcoord.types import State, TxId, Verdict

from .search import Search
from .worlds import TXIDS, History, falsified, played

POOL = 6_000
SEEDS = st.integers(0, 2**64 - 1)
ALL_RULES = (rules.RULES, rules.ABSENCE_RULES, log.LOG_RULES)
NOT_SEARCHED = "unjudged"
"""A record that contradicts itself is no history; test_checker.py has these."""


def judged(history: History) -> checker.Judgement:
    operations, unseen_resolves, horizon_ms = history
    return checker.judge(operations, unseen_resolves=unseen_resolves, horizon_ms=horizon_ms)


def made(seed: int, *, false: bool) -> History:
    rng = random.Random(seed)
    history = played(rng, rng.randint(3, 7))
    return falsified(rng, history) if false else history


def shown(history: History) -> str:
    lines = (f"{o.txid.ms}: {o}: {o.answer}" for o in history.operations)
    return "\n".join([f"{history.unseen_resolves=} {history.horizon_ms=}", *lines])


def told(kind: CallKind, txid: TxId, called: float, returned: float, state: State, index: int = 0) -> RecordedCall:
    return RecordedCall(0, kind, txid, called, None, returned, Ending.TOLD, state, min(index, 1), index)


def corners() -> list[History]:
    """Three transactions and what a seed seldom finds: what one of them shows of the log is not told, but inferred."""
    a, b, c = (TxId.new(ms, bytes(10)) for ms in (1000, 2000, 3000))
    late = told(CallKind.STATUS, c, 5, 6, State.UNDECIDED, 5)
    undecided_beyond = [
        told(CallKind.STATUS, a, 0, 9, State.UNDECIDED, 5),
        told(CallKind.SUBMIT, a, 0, 3, State.COMMITTED),
    ]
    undecided_after = [
        told(CallKind.SUBMIT, b, 0, 1, State.COMMITTED, 5),
        told(CallKind.STATUS, a, 2, 3, State.UNDECIDED),
        told(CallKind.SUBMIT, a, 0, 4, State.ABORTED),
    ]
    forgotten = [
        told(CallKind.SUBMIT, a, 0, 9, State.COMMITTED, 6),
        told(CallKind.STATUS, a, 0, 3, State.FORGOTTEN),
    ]
    return [History([*shown, late], False, 1500) for shown in (undecided_beyond, undecided_after, forgotten)]


@cache
def pool() -> tuple[tuple[History, bool], ...]:
    """Histories, half of them falsified, and whether the search finds an order."""
    histories = [*(made(seed, false=seed % 2 == 0) for seed in range(POOL)), *corners()]
    return tuple((history, Search(*history).finds_an_order()) for history in histories)


def disagreements() -> Iterator[History]:
    return (history for history, valid in pool() if judged(history).valid is not valid)


@settings(deadline=None, max_examples=300)
@given(SEEDS)
def test_what_a_ledger_has_told_is_valid(seed: int) -> None:
    history = made(seed, false=False)
    assert judged(history).violations == (), shown(history)
    assert Search(*history).finds_an_order(), shown(history)


@settings(deadline=None, max_examples=600)
@given(SEEDS)
def test_the_checker_and_the_search_agree_on_falsified_histories(seed: int) -> None:
    history = made(seed, false=True)
    assert judged(history).valid is Search(*history).finds_an_order(), shown(history)


def test_they_agree_on_the_pool_and_in_the_corners() -> None:
    assert not any(valid for _, valid in pool()[POOL:])
    assert [shown(history) for history in disagreements()] == []


def test_the_order_in_which_operations_are_recorded_does_not_matter() -> None:
    rng = random.Random(1)
    for history, valid in pool()[:500]:
        rng.shuffle(history.operations)
        assert judged(history).valid is valid


def test_the_pool_has_valid_and_violating_histories_in_good_proportion_and_every_kind_of_violation() -> None:
    false = [valid for _, valid in pool()[:POOL:2]]
    assert 0.3 < sum(false) / len(false) < 0.7, sum(false) / len(false)
    kinds = Counter(violation.kind for history, _ in pool() for violation in judged(history).violations)
    assert all(kinds[kind] >= 10 for kind in {kind for table in ALL_RULES for kind in table} - {NOT_SEARCHED}), kinds
    answers = Counter((o.kind, o.state) for history, _ in pool() for o in history.operations if o.ending is Ending.TOLD)
    assert all(
        answers[kind, state] > 100 for kind in CallKind for state in (State.ABORTED, State.COMMITTED, State.FORGOTTEN)
    )


# -- each rule is needed ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "kind"), [(table, kind) for table in ALL_RULES for kind in table if kind != NOT_SEARCHED]
)
def test_without_one_of_its_rules_the_checker_is_caught(
    table: dict[str, Any], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(table, kind)
    assert next(disagreements(), None) is not None


MUTANTS: Mapping[Any, tuple[tuple[str, str], ...]] = {
    evidence: (
        ("o.returned < self.committed.returned", "o.returned > self.committed.returned"),
        ("o.returned < self.aborted.returned", "o.returned > self.aborted.returned"),
        ("o.returned < self.forgotten.returned", "o.returned > self.forgotten.returned"),
        ("o.called > self.undecided.called", "o.called < self.undecided.called"),
        ("o.called < self.commit_by.called", "o.called > self.commit_by.called"),
        ("o.called < self.abort_by.called", "o.called > self.abort_by.called"),
        ("o.index > self.undecided_high.index", "o.index < self.undecided_high.index"),
        ("o.index < self.forgotten_low.index", "o.index > self.forgotten_low.index"),
        ("or o.term != self.entry.term", ""),
        ("or ending is _NOT_ATTEMPTED", ""),
        ("kind is _STATUS or", ""),
        ("or ending is _NOT_ATTEMPTED", "or ending is _NOT_ATTEMPTED or state is _FORGOTTEN"),
        ("(kind is _SUBMIT or proposed is _COMMIT)", "(proposed is _COMMIT)"),
        ("(kind is not _DECIDE or proposed is _ABORT)", "(kind is not _DECIDE)"),
    ),
    rules: (
        ("writer.called <= told.returned", "writer.called < told.returned"),
        ("writer.called <= forgotten.returned", "writer.called < forgotten.returned"),
        ("late.index < entry.index", "late.index <= entry.index"),
        ("early.index >= entry.index", "early.index > entry.index"),
        ("early.index > late.index", "early.index >= late.index"),
        ("return e.commit_by, False", "return e.commit_by, p.unseen_resolves"),
        ("return e.abort_by, p.unseen_resolves", "return e.abort_by, False"),
    ),
    log: (
        ("index < known and", "index <= known and"),
        ("late.index <= known and", "late.index < known and"),
        ("max(known, high.index if high else 0)", "known"),
        ("max(known, high.index if high else 0)", "high.index if high else 0"),
        ("undecided_up_to.get(e.txid, 0) + 1", "undecided_up_to.get(e.txid, 0)"),
        ("entry or e.forgotten_low", "entry"),
        ("or forgotten.returned < outcome.returned", ""),
        ("_CALL: Final = 0\n_RETURN: Final = 1", "_CALL: Final = 1\n_RETURN: Final = 0"),
        ("add(o.returned, _RETURN, o.index, o, o)\n        if e.undecided", "pass\n        if e.undecided"),
        ("add(o.called, _CALL, o.index, o, o)", "pass"),
        ("and not unseen:", ":"),
    ),
}
"""A comparison turned round, a case forgotten: what a later change might do by mistake."""

USED = {evidence: "Evidence", rules: "first_violation", log: "LOG_RULES"}
"""What the checker takes from each room."""


@pytest.mark.parametrize(
    ("room", "right", "wrong"),
    [(room, *mutant) for room, mutants in MUTANTS.items() for mutant in mutants],
    ids=lambda value: value.__name__.rpartition(".")[2] if isinstance(value, types.ModuleType) else value,
)
def test_a_mutated_checker_is_caught(room: Any, right: str, wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Path(room.__file__).read_text()
    assert right in source
    mutant = types.ModuleType(room.__name__)
    exec(compile(source.replace(right, wrong), room.__file__, "exec"), mutant.__dict__)
    mutant.__dict__["_FORGOTTEN"] = State.FORGOTTEN  # for mutants that must tell it apart
    monkeypatch.setattr(checker, USED[room], getattr(mutant, USED[room]))
    if room is rules:
        monkeypatch.setattr(log, "first_writer", mutant.first_writer)
    assert next(disagreements(), None) is not None


# -- the search itself --------------------------------------------------------------------------------------------


def test_the_search_knows_a_register_that_is_written_once() -> None:
    txid = TXIDS[0]

    def found(*operations: RecordedCall) -> bool:
        return Search(operations, unseen_resolves=False, horizon_ms=0).finds_an_order()

    commit = RecordedCall(1, CallKind.DECIDE, txid, 1.0, Verdict.COMMIT)
    early = RecordedCall(2, CallKind.STATUS, txid, 0.0)
    late = RecordedCall(2, CallKind.STATUS, txid, 3.0)
    for read in (early, late):
        read.told(4.0, State.UNDECIDED)
    assert found(commit, early, late)
    commit.told(2.0, State.COMMITTED)
    assert found(commit, early)
    assert not found(commit, late)
    assert not found(late, RecordedCall(3, CallKind.RESOLVE, txid, 5.0, None, 6.0, Ending.TOLD, State.COMMITTED))
