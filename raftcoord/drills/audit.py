"""The audit: did the cluster keep its promises?

Pure: it takes what the clients were told, what every node's ledger says and what is in every bank's books, and finds each
place where they contradict each other. It never asks anybody, and it never explains a contradiction away.

What must hold, with L the ledger, for every transaction that a client has begun:

    history      what the clients were told, and when, one write-once ledger in one log can have told (raftcoord/history)
    told         every outcome that a client was told is the outcome in L, on every node, at the same entry
    one L        all nodes have the same outcome
    certain      "nothing was attempted" is never said of a COMMIT
    settled      no attempted transaction is left without an outcome, no branch is left outstanding or prepared
    all          COMMITTED in L: both banks have applied it
    nothing      ABORTED in L: neither bank has
    alone        a bank has applied nothing that nobody submitted
    as ordered   a payment that a bank has written down is of the order's account and amount
    once         of the attempts at one order at most one is COMMITTED
    money        each account holds its opening and its committed orders, to the cent; the sum over all banks is unchanged

Linear in the transactions, the nodes and the accounts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from raftcoord.drills.client_history import Told, operations
from raftcoord.drills.orders import HOME_BANK, Opening, Order, text_of
from raftcoord.history.checker import judge
from raftcoord.types import State, TxId

SHOWN_MAX: Final = 100
"""Violations written into a report; a lost ledger breaks one promise per transaction, and the count says so."""


class LedgerRow(NamedTuple):
    """One node's answer about one transaction. ``outstanding``: branches that have not acknowledged the outcome."""

    state: State
    outstanding: tuple[str, ...] = ()
    term: int = 0
    index: int = 0  # type: ignore[assignment]


UNDECIDED: Final = LedgerRow(State.UNDECIDED)


class Payment(NamedTuple):
    """What a bank has written down about one side of an order."""

    txid: TxId
    account: str
    cents: int


@dataclass(frozen=True, slots=True)
class Books:
    """One bank at the end: what each account holds (cents), which transactions it has finished and how, which it has prepared.

    ``payments``: of a bank that writes them down.
    """

    balances: Mapping[str, int]
    finished: Mapping[TxId, State]
    prepared: Collection[TxId] = ()
    payments: Collection[Payment] = ()


class AuditViolation(NamedTuple):
    """A broken promise. ``kind``: a word of this module or of history/; ``txid``: None when it is about an account."""

    kind: str
    txid: TxId | None
    what: str

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "txid": str(self.txid) if self.txid else None, "what": self.what}


@dataclass(frozen=True, slots=True)
class AuditResult:
    """``held``: no promise was broken. ``figures``: what was compared, by name with unit."""

    held: bool
    violations: tuple[AuditViolation, ...]
    figures: Mapping[str, int | float]

    def to_json(self) -> dict[str, Any]:
        """As JSON values; at most SHOWN_MAX violations, and their number."""
        return {
            "held": self.held,
            "violation_count": len(self.violations),
            "violations": [violation.to_json() for violation in self.violations[:SHOWN_MAX]],
            "figures": dict(self.figures),
        }


def audit(
    attempts: Mapping[TxId, Order],
    told: Iterable[Told],
    ledgers: Mapping[str, Mapping[TxId, LedgerRow]],
    opening: Opening,
    books: Mapping[str, Books],
) -> AuditResult:
    """Compare everything with everything.

    ``attempts``: each transaction that was begun and its order; ``told``: the clients' history; ``ledgers``: node -> txid ->
    its answer (a txid that is missing counts as UNDECIDED); ``opening`` and ``books``: the banks before and after.
    """
    case = _Case(attempts, list(told), ledgers, opening, books)
    case.settle_outcomes()
    violations = (
        *case.nodes(),
        *case.history(),
        *case.clients(),
        *case.banks(),
        *case.strangers(),
        *case.payments(),
        *case.paid_twice(),
        *case.accounts(),
        *case.sums(),
        *case.entries(),
    )
    return AuditResult(not violations, violations, case.figures())


@dataclass(slots=True)
class _Case:
    """The evidence, and the outcome of each transaction that stands in it."""

    attempts: Mapping[TxId, Order]
    told: list[Told]
    ledgers: Mapping[str, Mapping[TxId, LedgerRow]]
    opening: Opening
    books: Mapping[str, Books]
    outcome: dict[TxId, State | None] = field(default_factory=dict)
    unattempted: set[TxId] = field(default_factory=set)

    def settle_outcomes(self) -> None:
        """The outcome of a transaction: what the first node says that knows one. ``nodes`` reports those that differ."""
        for txid in self.attempts:
            states = (rows.get(txid, UNDECIDED).state for rows in self.ledgers.values())
            self.outcome[txid] = next((state for state in states if state in _FINAL), None)
        self.unattempted = {told.txid for told in self.told if told.certainty == "not attempted"}

    def nodes(self) -> Iterator[AuditViolation]:
        """one L, settled."""
        for txid, outcome in self.outcome.items():
            if outcome is None:
                if txid not in self.unattempted:
                    yield AuditViolation(
                        "undecided", txid, "no node has an outcome for it, although what was in doubt was resolved"
                    )
                continue
            rows = {node: rows.get(txid, UNDECIDED) for node, rows in self.ledgers.items()}
            if len({(row.state, row.term, row.index) for row in rows.values()}) > 1:
                says = ", ".join(
                    f"{node}: {row.state} at term {row.term} index {row.index}" for node, row in rows.items()
                )
                yield AuditViolation("nodes differ", txid, f"the nodes do not have the same decision ({says})")
            for node, row in rows.items():
                if row.outstanding:
                    left = ", ".join(row.outstanding)
                    yield AuditViolation(
                        "left open", txid, f"on node {node} the outcome is still outstanding at {left}"
                    )

    def history(self) -> Iterator[AuditViolation]:
        """history. Participants in doubt resolve, and are not recorded; no drill lasts until something may be forgotten."""
        found = judge(operations(self.attempts, self.told), unseen_resolves=True, horizon_ms=0)
        for violation in found.violations:
            yield AuditViolation(violation.kind, violation.txid, violation.what)

    def clients(self) -> Iterator[AuditViolation]:
        """told, certain. A node that has lost the outcome is named, although ``nodes`` names the transaction as well."""
        for told in self.told:
            txid, state = told.txid, told.state
            if told.certainty == "not attempted" and self.outcome[txid] is State.COMMITTED:
                yield AuditViolation(
                    "denied", txid, f"a client was told that nothing was attempted ({told.reason}); it is COMMITTED"
                )
            if state is None:
                continue
            for node, rows in self.ledgers.items():
                row = rows.get(txid, UNDECIDED)
                if row.state is not state:
                    kind = "changed" if row.state in _FINAL else "lost"
                    yield AuditViolation(
                        kind, txid, f"client {told.client} was told {state}; node {node} says {row.state}"
                    )

    def entries(self) -> Iterator[AuditViolation]:
        """told, at the same entry. One violation for each answer, and last: it costs nobody money."""
        for told in self.told:
            if not told.index:
                continue
            for node, rows in self.ledgers.items():
                row = rows.get(told.txid, UNDECIDED)
                if row.state is told.state and (row.term, row.index) != (told.term, told.index):
                    what = (
                        f"client {told.client} was told {told.state} at term {told.term} index {told.index}; node {node} has "
                        f"it at term {row.term} index {row.index}"
                    )
                    yield AuditViolation("moved", told.txid, what)
                    break

    def banks(self) -> Iterator[AuditViolation]:
        """all, nothing; and nothing left prepared."""
        for txid, outcome in self.outcome.items():
            sides = {bank: self._finished(bank, txid) for bank in self.attempts[txid].banks}
            says = ", ".join(
                f"{bank}: {state if state is not None else 'never finished'}" for bank, state in sides.items()
            )
            applied = [bank for bank, state in sides.items() if state is State.COMMITTED]
            if outcome is State.COMMITTED and len(applied) < len(sides):
                yield AuditViolation(
                    "half done" if applied else "not done", txid, f"it is COMMITTED, but not at both banks ({says})"
                )
            if outcome is not State.COMMITTED and applied:
                stands = outcome if outcome is not None else State.UNDECIDED
                yield AuditViolation("done alone", txid, f"it is {stands}, but a bank has applied it ({says})")
        for bank, book in self.books.items():
            for txid in book.prepared:
                yield AuditViolation("left prepared", txid, f"it is still prepared at {bank}")

    def strangers(self) -> Iterator[AuditViolation]:
        """alone."""
        for bank, book in self.books.items():
            for txid, state in book.finished.items():
                order = self.attempts.get(txid)
                if state is State.COMMITTED and (order is None or bank not in order.banks):
                    yield AuditViolation(
                        "stranger", txid, f"{bank} has applied it, but nobody submitted it to that bank"
                    )

    def payments(self) -> Iterator[AuditViolation]:
        """as ordered. A payment that is not there or that nobody ordered is found by ``banks`` and ``strangers``."""
        for bank, book in self.books.items():
            written: dict[TxId, list[tuple[str, str, int]]] = defaultdict(list)
            for txid, account, cents in book.payments:
                written[txid].append((bank, account, cents))
            for txid, rows in written.items():
                order = self.attempts.get(txid)
                if order is not None and bank in order.banks and rows != [s for s in order.sides if s[0] == bank]:
                    yield AuditViolation("not as ordered", txid, f"{bank} has written down {rows}; it is order {order}")

    def paid_twice(self) -> Iterator[AuditViolation]:
        """once."""
        paid: dict[int, TxId] = {}
        for txid in self._committed():
            other = paid.setdefault(self.attempts[txid].order_id, txid)
            if other is not txid:
                order = self.attempts[txid]
                yield AuditViolation(
                    "paid twice", txid, f"order {order.order_id} was committed by transaction {other} as well"
                )

    def accounts(self) -> Iterator[AuditViolation]:
        """money, account by account."""
        moves: dict[tuple[str, str], int] = defaultdict(int)
        touched: dict[tuple[str, str], TxId] = {}
        for txid, order in self.attempts.items():
            for bank, account, cents in order.sides:
                touched[bank, account] = txid
                if self.outcome[txid] is State.COMMITTED:
                    moves[bank, account] += cents
        for bank, accounts in self.opening.items():
            balances = self.books[bank].balances
            for account, cents in accounts.items():
                expected = cents + moves[bank, account]
                held = balances.get(account)
                if held != expected:
                    holds = "is gone" if held is None else f"holds {text_of(held)}"
                    what = f"account {account} of {bank} {holds}; with its committed orders it should hold {text_of(expected)}"
                    yield AuditViolation("balance", touched.get((bank, account)), what)
            for account in sorted(balances.keys() - accounts.keys()):
                yield AuditViolation("balance", None, f"account {account} of {bank} was never opened, but is there")

    def sums(self) -> Iterator[AuditViolation]:
        """money, over all banks."""
        before, after = self._opening_cents(), self._closing_cents()
        if before != after:
            word = "created" if after > before else "lost"
            yield AuditViolation(
                "money", None, f"{text_of(abs(after - before))} was {word}: {text_of(before)} became {text_of(after)}"
            )

    def figures(self) -> dict[str, int | float]:
        known = {told.txid for told in self.told if told.certainty == "known"}
        doubted = {told.txid for told in self.told if told.certainty == "unknown"}
        home_before = sum(self.opening[HOME_BANK].values())
        without = {txid for txid, state in self.outcome.items() if state is None}
        return {
            "transactions": len(self.attempts),
            "committed": sum(1 for _ in self._committed()),
            "aborted": sum(1 for state in self.outcome.values() if state is State.ABORTED),
            "never_attempted": len(without & self.unattempted),
            "undecided": len(without - self.unattempted),
            "answers": len(self.told),
            "told_an_outcome": len(known),
            "once_in_doubt": len(doubted),
            "nodes_asked": len(self.ledgers),
            "banks": len(self.books),
            "accounts": sum(len(accounts) for accounts in self.opening.values()),
            "committed_orders_cents": sum(self.attempts[txid].cents for txid in self._committed()),
            "moved_cents": home_before - sum(self.books[HOME_BANK].balances.values()),
            "opening_cents": self._opening_cents(),
            "closing_cents": self._closing_cents(),
        }

    def _committed(self) -> Iterator[TxId]:
        return (txid for txid, state in self.outcome.items() if state is State.COMMITTED)

    def _finished(self, bank: str, txid: TxId) -> State | None:
        return self.books[bank].finished.get(txid)

    def _opening_cents(self) -> int:
        return sum(sum(accounts.values()) for accounts in self.opening.values())

    def _closing_cents(self) -> int:
        return sum(sum(book.balances.values()) for book in self.books.values())


_FINAL: Final = frozenset((State.COMMITTED, State.ABORTED))
