"""When to ask about what is in doubt."""

import random

import pytest

from raftcoord import limits
from raftcoord.participants.doubts import ANSWER_S_MAX, BACKOFF_S_MAX, Doubts, Question
from raftcoord.types import TxId

T = [TxId.new(1_000_000 + i) for i in range(200)]


@pytest.fixture
def doubts() -> Doubts:
    return Doubts(random.Random(7))


def test_before_its_time_a_doubt_is_asked_for_its_status_and_from_then_on_resolved(doubts: Doubts) -> None:
    doubts.add(T[0], resolve_at=10.0, ask_at=1.0)
    assert doubts.take(0.9) == []
    assert doubts.next_at() == 1.0
    assert doubts.take(1.0) == [Question(T[0], resolve=False)]
    doubts.again(T[0], 9.9)
    assert doubts.next_at() == 10.0
    assert doubts.take(10.0) == [Question(T[0], resolve=True)]


def test_a_question_without_an_answer_is_asked_again(doubts: Doubts) -> None:
    doubts.add(T[0], 1.0, 1.0)
    assert len(doubts.take(1.0)) == 1
    assert doubts.take(1.0 + ANSWER_S_MAX - 0.01) == []
    assert len(doubts.take(1.0 + ANSWER_S_MAX)) == 1


def test_pauses_grow_to_the_cap_and_never_end(doubts: Doubts) -> None:
    doubts.add(T[0], 0.0, 0.0)
    now, pauses = 0.0, []
    for _ in range(40):
        assert len(doubts.take(now)) == 1
        doubts.again(T[0], now)
        at = doubts.next_at()
        assert at is not None
        pauses.append(at - now)
        now = at
    assert pauses[0] < 1.0
    assert max(pauses) <= BACKOFF_S_MAX
    assert min(pauses[10:]) >= BACKOFF_S_MAX / 2


def test_what_is_finished_is_not_asked_about(doubts: Doubts) -> None:
    doubts.add(T[0], 1.0, 1.0)
    doubts.drop(T[0])
    doubts.drop(T[1])
    assert doubts.next_at() is None
    assert doubts.take(2.0) == []
    assert T[0] not in doubts


def test_adding_again_changes_nothing(doubts: Doubts) -> None:
    doubts.add(T[0], 5.0, 1.0)
    doubts.add(T[0], 50.0, 50.0)
    assert doubts.take(5.0) == [Question(T[0], resolve=True)]


def test_as_many_questions_are_open_as_may_be_and_not_one_more(doubts: Doubts) -> None:
    for txid in T:
        doubts.add(txid, 1.0, 1.0)
    first = doubts.take(1.0)
    assert len(first) == limits.RESOLVES_MAX
    assert doubts.take(1.0) == []
    assert doubts.next_at() == 1.0 + ANSWER_S_MAX  # nothing to do before an answer or its absence
    doubts.drop(first[0].txid)
    doubts.again(first[1].txid, 1.0)
    assert doubts.next_at() == 0.0
    assert len(doubts.take(1.0)) == 2


def test_questions_that_nobody_answers_do_not_block_the_others(doubts: Doubts) -> None:
    for txid in T:
        doubts.add(txid, 1.0, 1.0)
    doubts.take(1.0)
    assert len(doubts.take(1.0 + ANSWER_S_MAX)) == limits.RESOLVES_MAX
    asked = 0
    for question in doubts.take(1.0 + 2 * ANSWER_S_MAX):
        doubts.drop(question.txid)
    while doubts:
        for question in doubts.take(20.0):
            asked += 1
            doubts.drop(question.txid)
    assert asked == len(T) - limits.RESOLVES_MAX


def test_the_schedule_does_not_grow_with_what_is_finished(doubts: Doubts) -> None:
    for i in range(10_000):
        txid = TxId.new(2_000_000 + i)
        doubts.add(txid, 100.0, 100.0)
        doubts.drop(txid)
    assert len(doubts._heap) < 2_000
    assert len(doubts) == 0


def test_what_a_lost_connection_leaves_is_resolved_at_once_and_nothing_else(doubts: Doubts) -> None:
    lost, other = object(), object()
    doubts.add(T[0], 100.0, 100.0, lost)
    doubts.add(T[1], 100.0, 100.0, other)
    doubts.orphan(lost, 1.0)
    assert doubts.next_at() == 1.0
    assert [(question.txid, question.resolve) for question in doubts.take(1.0)] == [(T[0], True)]
    assert doubts.next_at() != 100.0 or doubts.take(99.0) == []
