"""The history keeps what clients were told, and knows what they do not know."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from raftcoord.drills.client_history import History, Told, operations, percentile
from raftcoord.drills.orders import Order
from raftcoord.errors import Halt
from raftcoord.history.checker import judge
from raftcoord.history.operations import CallKind, Ending
from raftcoord.types import Branch, State, TxId

ORDER = Order(1, "1", Branch("bank-aa"), "2", 100, "")


def told(txid: TxId, at_s: float, state: State | None = State.COMMITTED, *, term: int = 1) -> Told:
    if state is None:
        return Told(txid, 0, "submit", at_s - 0.5, at_s, "unknown", None)
    return Told(txid, 0, "submit", at_s - 0.5, at_s, "known", state, term=term, index=7)


def history_of(*answers: Told) -> History:
    history = History()
    for txid in dict.fromkeys(answer.txid for answer in answers):
        history.begin(txid, ORDER)
    for answer in answers:
        history.add(answer)
    return history


def test_a_transaction_without_an_answer_is_doubtful() -> None:
    history, txid = History(), TxId.new()
    history.begin(txid, ORDER)
    assert history.doubtful() == (txid,)


def test_an_answer_in_doubt_leaves_it_doubtful_until_an_outcome_is_told() -> None:
    txid = TxId.new()
    history = history_of(told(txid, 1.0, None))
    assert history.doubtful() == (txid,)
    history.add(told(txid, 2.0, State.ABORTED))
    assert history.doubtful() == ()


def test_a_promise_that_nothing_was_attempted_leaves_no_doubt() -> None:
    txid = TxId.new()
    assert history_of(told(txid, 1.0, None)._replace(certainty="not attempted")).doubtful() == ()


def test_the_longest_pause_lies_between_two_commits_and_ignores_aborts() -> None:
    a, b, c, d = (TxId.new() for _ in range(4))
    history = history_of(told(a, 1.0), told(b, 1.5), told(c, 3.0, State.ABORTED), told(d, 4.0))
    assert history.longest_pause_s == 2.5
    assert history_of(told(a, 1.0)).longest_pause_s == 0.0


def test_the_first_commit_of_a_later_term_ends_a_failover() -> None:
    a, b, c = (TxId.new() for _ in range(3))
    history = history_of(told(a, 1.0, term=3), told(b, 2.0, term=3), told(c, 2.7, term=4))
    assert history.first_commit_after(0, term=2) == 1.0
    assert history.first_commit_after(1, term=2) == 2.0
    assert history.first_commit_after(1, term=3) == 2.7
    assert history.first_commit_after(1, term=4) is None


def test_latencies_are_those_of_committed_submits() -> None:
    a, b = TxId.new(), TxId.new()
    assert history_of(told(a, 1.0), told(b, 2.0, State.ABORTED)).latencies_ms() == [500.0]


def test_a_txid_is_begun_once_and_answered_only_after_that() -> None:
    txid = TxId.new()
    history = history_of(told(txid, 1.0))
    with pytest.raises(Halt):
        history.begin(txid, ORDER)
    with pytest.raises(Halt):
        history.add(told(TxId.new(), 1.0))


def test_every_answer_is_an_operation_for_the_checker() -> None:
    a, b, c = (TxId.new() for _ in range(3))
    answers = [told(a, 1.0), told(b, 2.0, None), told(b, 3.0, None)._replace(op="resolve")]
    answers.append(told(c, 4.0, None)._replace(certainty="not attempted"))
    recorded = operations((a, b, c), answers)
    assert [operation.kind for operation in recorded] == [
        CallKind.SUBMIT,
        CallKind.SUBMIT,
        CallKind.RESOLVE,
        CallKind.SUBMIT,
    ]
    endings = [Ending.TOLD, Ending.OPEN, Ending.OPEN, Ending.NOT_ATTEMPTED]
    assert [operation.ending for operation in recorded] == endings
    first = recorded[0]
    assert (first.txid, first.called, first.returned, first.state) == (a, 0.5, 1.0, State.COMMITTED)
    assert (first.term, first.index) == (1, 7)
    assert judge(recorded, unseen_resolves=False, horizon_ms=0).valid


def test_a_submit_that_never_returned_may_have_taken_effect() -> None:
    txid = TxId.new()
    (resolved,) = operations((), [told(txid, 1.0)._replace(op="resolve")])
    assert not judge([resolved], unseen_resolves=True, horizon_ms=0).valid
    recorded = operations((txid,), [told(txid, 1.0)._replace(op="resolve")])
    assert judge(recorded, unseen_resolves=True, horizon_ms=0).valid


def test_the_history_is_kept_as_json_lines(tmp_path: Path) -> None:
    txid = TxId.new()
    history_of(told(txid, 1.0)).write(tmp_path / "history.jsonl")
    (line,) = (tmp_path / "history.jsonl").read_text().splitlines()
    row = json.loads(line)
    assert (row["txid"], row["state"], row["order_id"]) == (str(txid), "COMMITTED", 1)


def test_percentiles_are_values_that_occurred() -> None:
    values = [float(n) for n in range(100, 0, -1)]
    assert [percentile(values, percent) for percent in (0, 1, 50, 99, 100)] == [1, 1, 50, 99, 100]
    assert percentile([7.0], 99) == 7.0
    assert math.isnan(percentile([], 50))
