"""The audit of transfers between two databases: orders, journals, the ledger, and what stands in both. Pure.

paid       each order has exactly one attempt that the ledger calls COMMITTED
told       a program that was told "paid" was told the ledger's word, and so was one that was told "aborted"
lost       COMMITTED, and a side has no payment of it
created    a payment that no COMMITTED attempt stands for, or one of other accounts or another amount
money      each account holds its opening and its payments, to the cent; the sum over both databases is unchanged
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from raftcoord.drills.audit import Violation
from raftcoord.drills.crashes_payer import Entry, Word
from raftcoord.drills.orders import Order
from raftcoord.types import Branch, State, TxId


class Payment(NamedTuple):
    """A row of ``payments``; ``side``: which database it stands in."""

    side: int
    order_id: int
    txid: TxId
    bank: str
    account: str
    cents: int


Accounts = Mapping[tuple[int, str, str], int]
"""side, bank, account -> cents."""


class Evidence(NamedTuple):
    """What is compared. ``states``: what the ledger says, of every transaction that it has an outcome of."""

    orders: Mapping[int, Order]
    journal: list[Entry]
    states: Mapping[TxId, State]
    payments: list[Payment]
    opening: Accounts
    closing: Accounts


def expected(order: Order, txid: TxId) -> tuple[Payment, Payment]:
    """What a committed attempt at ``order`` leaves: an odd one pays from side 0 to side 1, an even one back."""
    home = 0 if order.order_id % 2 else 1
    home_bank, bank_to = order.banks
    return (
        Payment(home, order.order_id, txid, home_bank, order.account_from, -order.cents),
        Payment(1 - home, order.order_id, txid, bank_to, order.account_to, order.cents),
    )


def opening_of(orders: Mapping[int, Order], spare_cents: int = 1_000_000_00) -> dict[tuple[int, str, str], int]:
    """Accounts for ``orders``: whoever pays can pay all of its orders and keeps ``spare_cents``; whoever receives has 0."""
    opening: dict[tuple[int, str, str], int] = defaultdict(int)
    nobody = TxId.new()
    for order in orders.values():
        paying, receiving = expected(order, nobody)
        payer = (paying.side, paying.bank, paying.account)
        opening[payer] = (opening[payer] or spare_cents) + order.cents
        opening[receiving.side, receiving.bank, receiving.account] += 0
    return dict(opening)


def audit(evidence: Evidence) -> list[Violation]:
    """Every contradiction."""
    return [*_paid(evidence), *_told(evidence), *_carried_out(evidence), *_money(evidence)]


def _paid(evidence: Evidence) -> Iterator[Violation]:
    tries: dict[int, list[TxId]] = defaultdict(list)
    for entry in evidence.journal:
        if entry.word is Word.BEGUN and evidence.states.get(entry.txid) is State.COMMITTED:
            tries[entry.order_id].append(entry.txid)
    for order_id in evidence.orders:
        if not tries[order_id]:
            yield Violation("lost", None, f"order {order_id} is not paid")
        if len(tries[order_id]) > 1:
            yield Violation("created", tries[order_id][1], f"order {order_id} is paid {len(tries[order_id])} times")


def _told(evidence: Evidence) -> Iterator[Violation]:
    for entry in evidence.journal:
        is_committed = evidence.states.get(entry.txid) is State.COMMITTED
        if entry.word is not Word.BEGUN and entry.word.paid is not is_committed:
            yield Violation(
                "told", entry.txid, f"order {entry.order_id}: told {entry.word}, and the ledger says otherwise"
            )


def _carried_out(evidence: Evidence) -> Iterator[Violation]:
    due = Counter(
        payment
        for entry in evidence.journal
        if entry.word is Word.BEGUN and evidence.states.get(entry.txid) is State.COMMITTED
        for payment in expected(evidence.orders[entry.order_id], entry.txid)
    )
    made = Counter(evidence.payments)
    for payment in (due - made).elements():
        yield Violation(
            "lost", payment.txid, f"order {payment.order_id}: COMMITTED, and side {payment.side} has not paid it"
        )
    for payment in (made - due).elements():
        yield Violation(
            "created", payment.txid, f"order {payment.order_id}: side {payment.side} has what nobody committed"
        )


def _money(evidence: Evidence) -> Iterator[Violation]:
    should = Counter(evidence.opening)
    for payment in evidence.payments:
        should[payment.side, payment.bank, payment.account] += payment.cents
    for account in should.keys() | evidence.closing.keys():
        if should[account] != evidence.closing.get(account, 0):
            what = (
                f"account {account} holds {evidence.closing.get(account, 0)}, and its payments make {should[account]}"
            )
            yield Violation("money", None, what)
    before, after = sum(evidence.opening.values()), sum(evidence.closing.values())
    if before != after:
        yield Violation("money", None, f"{before} cents before, {after} after")


def by_bank(accounts: Accounts, side: int) -> dict[Branch, dict[str, int]]:
    """What one side opens."""
    opened: dict[Branch, dict[str, int]] = defaultdict(dict)
    for (at, bank, account), cents in accounts.items():
        if at == side:
            opened[Branch(bank)][account] = cents
    return opened
