"""The participant's table, square by square."""

import pytest

from raftcoord.core import participant
from raftcoord.core.participant import TABLE, Action, Ask, BranchState, state_without_record
from raftcoord.types import TxId

DAY_MS = 24 * 3600 * 1000
NOW_MS = 1_700_000_000_000


def test_the_table_answers_every_request_in_every_state() -> None:
    assert set(TABLE) == {(state, ask) for state in BranchState for ask in Ask}


def test_only_prepare_in_unknown_leads_to_prepared() -> None:
    ways_in = [
        square for square, rule in TABLE.items() if rule.next is BranchState.PREPARED and square[0] is not rule.next
    ]
    assert ways_in == [(BranchState.UNKNOWN, Ask.PREPARE)]


def test_only_a_prepared_branch_can_become_committed() -> None:
    ways_in = [
        square for square, rule in TABLE.items() if rule.next is BranchState.COMMITTED and square[0] is not rule.next
    ]
    assert ways_in == [(BranchState.PREPARED, Ask.COMMIT)]


def test_a_finished_branch_never_changes_its_state() -> None:
    for (state, _), rule in TABLE.items():
        if state in (BranchState.COMMITTED, BranchState.ABORTED):
            assert rule.next is state


def test_commit_succeeds_only_where_it_commits_or_has_committed() -> None:
    successes = {state for state in BranchState if TABLE[state, Ask.COMMIT].action is not Action.NOT_PREPARED}
    assert successes == {BranchState.PREPARED, BranchState.COMMITTED}


def test_after_an_abort_prepare_and_commit_are_refused_and_abort_is_acknowledged() -> None:
    for state in (BranchState.UNKNOWN, BranchState.PREPARED, BranchState.EXPIRED):
        assert TABLE[state, Ask.ABORT].next is BranchState.ABORTED
    assert TABLE[BranchState.ABORTED, Ask.PREPARE].action is Action.REFUSE
    assert TABLE[BranchState.ABORTED, Ask.COMMIT].action is Action.NOT_PREPARED
    assert TABLE[BranchState.ABORTED, Ask.ABORT].action is Action.DONE


def test_abort_never_undoes_a_commit() -> None:
    assert TABLE[BranchState.COMMITTED, Ask.ABORT] == (Action.ALREADY_COMMITTED, BranchState.COMMITTED)


def test_the_diagram_in_the_docstring_is_the_table() -> None:
    text = participant.__doc__ or ""
    for state in BranchState:
        line = next(line for line in text.splitlines() if line.startswith(f"        {state.name} "))
        assert [cell.strip() for cell in line.strip().split("  ") if cell.strip()] == [
            state.name,
            *(TABLE[state, ask].action.value for ask in Ask),
        ]


@pytest.mark.parametrize(
    ("age_ms", "state"), [(DAY_MS, BranchState.UNKNOWN), (DAY_MS + 1, BranchState.EXPIRED), (-1, BranchState.UNKNOWN)]
)
def test_a_txid_expires_one_millisecond_past_the_retention(age_ms: int, state: BranchState) -> None:
    assert state_without_record(TxId.new(NOW_MS - age_ms), b"", NOW_MS, DAY_MS) is state


def test_a_clock_set_back_does_not_make_a_forgotten_txid_young_again() -> None:
    txid = TxId.new(NOW_MS)
    assert state_without_record(txid, b"", NOW_MS, DAY_MS) is BranchState.UNKNOWN
    assert state_without_record(txid, txid, NOW_MS, DAY_MS) is BranchState.EXPIRED
    assert state_without_record(TxId.new(NOW_MS + 1), txid, NOW_MS, DAY_MS) is BranchState.UNKNOWN


def test_every_refusal_names_the_transaction_and_the_next_step() -> None:
    txid = TxId.new(NOW_MS)
    texts = [participant.refusal(s, txid) for s in BranchState if TABLE[s, Ask.PREPARE].action is Action.REFUSE]
    texts += [
        participant.not_prepared(s, txid) for s in BranchState if TABLE[s, Ask.COMMIT].action is Action.NOT_PREPARED
    ]
    texts += [participant.already_committed(txid), participant.other_payload(txid)]
    for text in texts:
        assert str(txid) in text
        assert "use a new txid" in text or "raftcoord txn show" in text
