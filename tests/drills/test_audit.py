"""Every way of breaking a promise is found, and names its transaction."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest

from raftcoord.drills.audit import SHOWN_MAX, UNDECIDED, AuditResult, AuditViolation, Books, LedgerRow, Payment, audit
from raftcoord.drills.client_history import Told
from raftcoord.drills.orders import HOME_BANK, Opening, Order, both_ways, opening_for
from raftcoord.types import Branch, State, TxId

OTHER = Branch("bank-aa")
NODES = ("n1", "n2", "n3")
COMMITTED, ABORTED = State.COMMITTED, State.ABORTED


class Case(NamedTuple):
    """Evidence, mutable, so that a test can plant one lie in it."""

    paid: TxId
    refused: TxId
    attempts: dict[TxId, Order]
    told: list[Told]
    ledgers: dict[str, dict[TxId, LedgerRow]]
    opening: Opening
    balances: dict[str, dict[str, int]]
    finished: dict[str, dict[TxId, State]]
    prepared: dict[str, set[TxId]]

    def verdict(self) -> AuditResult:
        books = {b: Books(self.balances[b], self.finished[b], self.prepared[b]) for b in self.balances}
        return audit(self.attempts, self.told, self.ledgers, self.opening, books)

    def found(self) -> list[tuple[str, TxId | None]]:
        verdict = self.verdict()
        assert verdict.held == (not verdict.violations)
        return [(violation.kind, violation.txid) for violation in verdict.violations]


@pytest.fixture
def case() -> Case:
    """One committed and one aborted order, and everything as it should be."""
    paid, refused = TxId.new(), TxId.new()
    rows = {paid: LedgerRow(COMMITTED, (), 2, 7), refused: LedgerRow(ABORTED, (), 2, 8)}
    return Case(
        paid,
        refused,
        {paid: Order(1, "10", OTHER, "20", 300, ""), refused: Order(2, "11", OTHER, "21", 500, "")},
        [Told(paid, 0, "submit", 1.0, 1.1, "known", COMMITTED), Told(refused, 0, "submit", 1.0, 1.1, "known", ABORTED)],
        {node: dict(rows) for node in NODES},
        {HOME_BANK: {"10": 1000, "11": 1000}, OTHER: {"20": 0, "21": 0}},
        {HOME_BANK: {"10": 700, "11": 1000}, OTHER: {"20": 300, "21": 0}},
        {HOME_BANK: {paid: COMMITTED, refused: ABORTED}, OTHER: {paid: COMMITTED}},
        {HOME_BANK: set(), OTHER: set()},
    )


def test_kept_promises_are_held(case: Case) -> None:
    verdict = case.verdict()
    assert verdict.held
    assert verdict.figures == {
        "transactions": 2,
        "committed": 1,
        "aborted": 1,
        "never_attempted": 0,
        "undecided": 0,
        "answers": 2,
        "told_an_outcome": 2,
        "once_in_doubt": 0,
        "nodes_asked": 3,
        "banks": 2,
        "accounts": 4,
        "committed_orders_cents": 300,
        "moved_cents": 300,
        "opening_cents": 2000,
        "closing_cents": 2000,
    }


def test_an_acknowledged_outcome_that_a_node_has_lost_is_found(case: Case) -> None:
    del case.ledgers["n2"][case.paid]
    assert case.found() == [("nodes differ", case.paid), ("lost", case.paid)]


def test_an_acknowledged_outcome_that_all_nodes_have_lost_is_found(case: Case) -> None:
    for rows in case.ledgers.values():
        rows[case.refused] = UNDECIDED
    assert case.found() == [("undecided", case.refused), *[("lost", case.refused)] * 3]


def test_an_acknowledged_outcome_that_has_changed_is_found(case: Case) -> None:
    case.told[1] = case.told[1]._replace(state=COMMITTED)
    assert case.found() == [("changed", case.refused)] * 3


def test_nodes_with_the_same_outcome_from_different_entries_are_found(case: Case) -> None:
    case.ledgers["n3"][case.paid] = LedgerRow(COMMITTED, (), 3, 7)
    assert case.found() == [("nodes differ", case.paid)]


def test_two_clients_with_different_answers_are_found(case: Case) -> None:
    case.told.append(case.told[0]._replace(op="resolve", state=ABORTED))
    assert case.found()[0] == ("two outcomes", case.paid)


def test_an_outcome_told_although_nobody_can_have_made_it_is_found(case: Case) -> None:
    answer = case.told[0]
    case.told[0] = answer._replace(certainty="not attempted", state=None)
    case.told.append(answer._replace(op="resolve", called_s=2.0, returned_s=2.1))
    assert case.found() == [("out of nothing", case.paid), ("denied", case.paid)]


def test_an_answer_from_before_what_was_committed_already_is_found(case: Case) -> None:
    case.told[0] = case.told[0]._replace(term=2, index=7)
    case.told[1] = case.told[1]._replace(op="submit", called_s=2.0, returned_s=2.1, state=COMMITTED, term=2, index=6)
    assert case.found()[0] == ("out of order", case.refused)


def test_an_outcome_told_from_another_entry_than_the_ledgers_is_found(case: Case) -> None:
    case.told[0] = case.told[0]._replace(term=2, index=7)
    assert case.found() == []
    case.told[0] = case.told[0]._replace(index=9)
    assert case.found() == [("moved", case.paid)]


def test_an_abort_that_a_participant_in_doubt_has_made_is_no_violation(case: Case) -> None:
    refusal = case.told[1]._replace(certainty="not attempted", state=None)
    case.told[1:] = [refusal, case.told[1]._replace(op="resolve", called_s=2.0, returned_s=2.1, term=2, index=8)]
    assert case.found() == []


def test_a_commit_that_was_said_not_to_be_attempted_is_found(case: Case) -> None:
    case.told[0] = case.told[0]._replace(certainty="not attempted", state=None)
    assert case.found() == [("denied", case.paid)]


def test_an_unattempted_transaction_that_was_resolved_to_an_abort_is_no_violation(case: Case) -> None:
    case.told[1] = case.told[1]._replace(certainty="not attempted", state=None)
    assert case.found() == []


def test_an_unattempted_transaction_needs_no_outcome(case: Case) -> None:
    case.told[1] = case.told[1]._replace(certainty="not attempted", state=None)
    for rows in case.ledgers.values():
        del rows[case.refused]
    assert case.found() == []


def test_an_unknown_outcome_that_was_never_settled_is_found(case: Case) -> None:
    case.told[1] = case.told[1]._replace(certainty="unknown", state=None)
    for rows in case.ledgers.values():
        del rows[case.refused]
    assert case.found() == [("undecided", case.refused)]


def test_an_unknown_outcome_that_was_settled_is_no_violation(case: Case) -> None:
    case.told[0] = case.told[0]._replace(certainty="unknown", state=None)
    verdict = case.verdict()
    assert verdict.held
    assert verdict.figures["once_in_doubt"] == 1


def test_a_branch_that_was_never_acknowledged_is_found(case: Case) -> None:
    case.ledgers["n1"][case.paid] = LedgerRow(COMMITTED, (OTHER,), 2, 7)
    assert case.found() == [("left open", case.paid)]


def test_a_commit_that_one_bank_has_not_applied_is_found(case: Case) -> None:
    case.finished[OTHER].clear()
    case.balances[OTHER]["20"] = 0
    kinds = case.found()
    assert kinds[0] == ("half done", case.paid)
    assert ("balance", case.paid) in kinds
    assert ("money", None) in kinds


def test_a_commit_that_no_bank_has_applied_is_found(case: Case) -> None:
    case.finished[OTHER].clear()
    case.finished[HOME_BANK][case.paid] = ABORTED
    case.balances[OTHER]["20"], case.balances[HOME_BANK]["10"] = 0, 1000
    assert ("not done", case.paid) in case.found()


def test_an_abort_that_a_bank_has_applied_is_found(case: Case) -> None:
    case.finished[HOME_BANK][case.refused] = COMMITTED
    assert case.found() == [("done alone", case.refused)]


def test_a_bank_that_decided_alone_while_nobody_decided_is_found(case: Case) -> None:
    case.told.pop()
    for rows in case.ledgers.values():
        del rows[case.refused]
    case.finished[OTHER][case.refused] = COMMITTED
    assert case.found() == [("undecided", case.refused), ("done alone", case.refused)]


def test_a_branch_left_prepared_is_found(case: Case) -> None:
    case.prepared[OTHER].add(case.refused)
    assert case.found() == [("left prepared", case.refused)]


def test_a_transaction_that_nobody_submitted_is_found(case: Case) -> None:
    txid = TxId.new()
    case.finished[OTHER][txid] = COMMITTED
    assert case.found() == [("stranger", txid)]


def test_a_tombstone_of_a_transaction_that_nobody_submitted_is_no_violation(case: Case) -> None:
    case.finished[OTHER][TxId.new()] = ABORTED
    assert case.found() == []


def test_a_transaction_at_a_bank_that_has_no_part_in_it_is_found(case: Case) -> None:
    case.balances["bank-bb"], case.prepared["bank-bb"] = {}, set()
    case.finished["bank-bb"] = {case.paid: COMMITTED}
    assert case.found() == [("stranger", case.paid)]


def test_an_order_that_was_paid_twice_is_found(case: Case) -> None:
    again = TxId.new()
    case.attempts[again] = case.attempts[case.paid]
    for rows in case.ledgers.values():
        rows[again] = LedgerRow(COMMITTED, (), 2, 9)
    for bank in (HOME_BANK, OTHER):
        case.finished[bank][again] = COMMITTED
    case.balances[HOME_BANK]["10"], case.balances[OTHER]["20"] = 400, 600
    assert case.found() == [("paid twice", again)]


def test_money_that_moved_without_an_order_is_found_although_the_sum_is_right(case: Case) -> None:
    case.balances[HOME_BANK]["10"] -= 1
    case.balances[OTHER]["20"] += 1
    assert case.found() == [("balance", case.paid), ("balance", case.paid)]


def test_a_cent_that_was_created_is_found(case: Case) -> None:
    case.balances[OTHER]["21"] += 1
    assert case.found() == [("balance", case.refused), ("money", None)]


def test_an_account_that_vanished_or_appeared_is_found(case: Case) -> None:
    del case.balances[OTHER]["21"]
    case.balances[OTHER]["99"] = 0
    assert case.found() == [("balance", case.refused), ("balance", None)]


def test_a_report_shows_a_bounded_number_of_violations_and_counts_all() -> None:
    violations = tuple(AuditViolation("lost", TxId.new(), "gone") for _ in range(SHOWN_MAX + 1))
    report = AuditResult(False, violations, {}).to_json()
    assert report["violation_count"] == SHOWN_MAX + 1
    assert len(report["violations"]) == SHOWN_MAX
    assert report["violations"][0]["txid"] == str(violations[0].txid)


# -- banks that write down what they have paid, and orders both ways --------------------------------------------------

ORDERS = tuple(both_ways(Order(n, str(n), OTHER, str(n + 10), 100 * n, "") for n in (1, 2, 3)))


class Paid:
    """Three orders paid, the second one at its second attempt; mutable, so that a test can plant one lie in it."""

    def __init__(self) -> None:
        self.attempts: dict[TxId, Order] = {}
        self.told: list[Told] = []
        self.rows: dict[TxId, LedgerRow] = {}
        self.opening = opening_for(ORDERS)
        self.balances = {bank: dict(accounts) for bank, accounts in self.opening.items()}
        self.payments: dict[str, list[Payment]] = {bank: [] for bank in self.opening}
        for order in ORDERS:
            for state in (ABORTED, COMMITTED) if order.order_id == 2 else (COMMITTED,):
                txid = TxId.new()
                at = float(len(self.rows))
                self.attempts[txid] = order
                self.rows[txid] = LedgerRow(state, (), 1, len(self.rows) + 1)
                self.told.append(Told(txid, 0, "submit", at, at + 0.5, "known", state))
                for bank, account, cents in order.sides if state is COMMITTED else ():
                    self.payments[bank].append(Payment(txid, account, cents))
                    self.balances[bank][account] += cents

    def found(self) -> set[str]:
        books = {
            bank: Books(self.balances[bank], {each.txid: COMMITTED for each in payments}, (), payments)
            for bank, payments in self.payments.items()
        }
        verdict = audit(self.attempts, self.told, {"n1": self.rows}, self.opening, books)
        return {violation.kind for violation in verdict.violations}


def attempt_of(paid: Paid, order_id: int, state: State = COMMITTED) -> TxId:
    return next(t for t, row in paid.rows.items() if paid.attempts[t].order_id == order_id and row.state is state)


def lose_a_side(paid: Paid) -> None:
    paid.payments[OTHER].pop()


def pay_twice(paid: Paid) -> None:
    paid.payments[OTHER].append(paid.payments[OTHER][0])


def pay_what_was_aborted(paid: Paid) -> None:
    txid = attempt_of(paid, 2, ABORTED)
    for bank, account, cents in paid.attempts[txid].sides:
        paid.payments[bank].append(Payment(txid, account, cents))


def pay_another_amount(paid: Paid) -> None:
    first = paid.payments[HOME_BANK][0]
    paid.payments[HOME_BANK][0] = first._replace(cents=first.cents - 1)


def pay_another_account(paid: Paid) -> None:
    paid.payments[OTHER][0] = paid.payments[OTHER][0]._replace(account="12")


def pay_what_nobody_began(paid: Paid) -> None:
    paid.payments[HOME_BANK].append(Payment(TxId.new(), "3", -1))


def commit_a_second_attempt(paid: Paid) -> None:
    txid = attempt_of(paid, 2, ABORTED)
    paid.rows[txid] = paid.rows[txid]._replace(state=COMMITTED)


def abort_what_was_told_paid(paid: Paid) -> None:
    txid = attempt_of(paid, 1)
    paid.rows[txid] = paid.rows[txid]._replace(state=ABORTED)


def lose_a_cent(paid: Paid) -> None:
    paid.balances[OTHER]["12"] -= 1


@pytest.mark.parametrize(
    ("spoil", "kinds"),
    [
        (lambda paid: None, set()),
        (lose_a_side, {"half done"}),
        (pay_twice, {"not as ordered"}),
        (pay_what_was_aborted, {"done alone"}),
        (pay_another_amount, {"not as ordered"}),
        (pay_another_account, {"not as ordered"}),
        (pay_what_nobody_began, {"stranger"}),
        (commit_a_second_attempt, {"changed", "not done", "paid twice", "balance"}),
        (abort_what_was_told_paid, {"changed", "done alone", "balance"}),
        (lose_a_cent, {"balance", "money"}),
    ],
)
def test_what_banks_have_written_down_is_compared_with_the_orders(
    spoil: Callable[[Paid], None], kinds: set[str]
) -> None:
    paid = Paid()
    spoil(paid)
    assert paid.found() == kinds
