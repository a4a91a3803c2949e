"""Payment orders: the work that the demo and the drills give to the cluster.

An order moves money from an account of the home bank to an account of another bank, or back: one transaction, two branches. It
owes exact cents (an amount never passes through a float) and errors that name file, line and what is wrong. It never
touches a database or a network.

The file format is that of payment_orders.tsv (PKDD'99): a header, then six columns separated by tabs.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from raftcoord.errors import ConfigError
from raftcoord.types import Branch

HOME_BANK: Final = Branch("bank-home")
"""The participant that every order takes its money from."""

COLUMNS: Final = ("order_id", "account_from", "bank_to", "account_to", "amount", "purpose")
ORDERS_MAX: Final = 1_000_000
"""Orders in one file: they and their history are held in memory (about 1 kB each)."""

CENTS_MAX: Final = 10**12
"""Largest amount of one order (cents), so that the sum of ORDERS_MAX of them fits SQLite's 64-bit integers."""

_NUMBER: Final = re.compile(r"[0-9]{1,18}", re.ASCII)
_AMOUNT: Final = re.compile(r"(?=\.?[0-9])([0-9]{0,12})(?:\.([0-9]{1,2}))?", re.ASCII)
_LETTERS: Final = re.compile(r"[A-Z]{2}", re.ASCII)

Opening = Mapping[Branch, Mapping[str, int]]
"""What each bank's accounts hold before the first order: bank -> account -> cents."""


@dataclass(frozen=True, slots=True)
class Order:
    """One payment: ``cents`` from ``account_from`` of ``bank_from`` to ``account_to`` of ``bank_to``."""

    order_id: int
    account_from: str
    bank_to: Branch
    account_to: str
    cents: int
    purpose: str
    bank_from: Branch = HOME_BANK

    @property
    def banks(self) -> tuple[Branch, Branch]:
        """The two participants, the paying one first."""
        return (self.bank_from, self.bank_to)

    @property
    def sides(self) -> tuple[tuple[Branch, str, int], tuple[Branch, str, int]]:
        """Bank, account and cents: what a committed order adds, first to the paying account, then to the other."""
        return (self.bank_from, self.account_from, -self.cents), (self.bank_to, self.account_to, self.cents)

    def payloads(self) -> dict[str, Any]:
        """What to submit: the paying bank refuses to overdraw the account, the other bank refuses an unknown account."""
        return {
            self.bank_from: [{"op": "add", "key": self.account_from, "amount": -self.cents, "min": 0}],
            self.bank_to: [{"op": "add", "key": self.account_to, "amount": self.cents}],
        }


def cents_of(text: str) -> int:
    """The cents that ``text`` writes ("245.20", ".80", "33"), exactly. ValueError says what is wrong with it."""
    match = _AMOUNT.fullmatch(text)
    if match is None:
        raise ValueError(f"amount {text!r} is not a number with at most two decimals")
    cents = int(match[1] or 0) * 100 + int((match[2] or "").ljust(2, "0"))
    if not 0 < cents <= CENTS_MAX:
        raise ValueError(f"amount {text!r} is not between 0.01 and {CENTS_MAX // 100}")
    return cents


def text_of(cents: int) -> str:
    """``cents`` as people write money: 212289936 -> "2,122,899.36"."""
    sign = "-" if cents < 0 else ""
    return f"{sign}{abs(cents) // 100:,}.{abs(cents) % 100:02d}"


def load(path: Path) -> tuple[Order, ...]:
    """The orders in the file ``path``. ConfigError names the file, the line and what is wrong; nothing is skipped."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot read the orders in {path}: {error.strerror}; give the path of a TSV file") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8 text") from None
    return parse(text, str(path))


def parse(text: str, source: str) -> tuple[Order, ...]:
    """The orders that ``text`` writes; ``source`` stands for it in errors (ConfigError)."""
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    header = "\t".join(COLUMNS)
    if not lines or lines[0] != header:
        raise ConfigError(
            f"{source}:1: the first line must be the column names {', '.join(COLUMNS)}, separated by tabs"
        )
    if len(lines) == 1:
        raise ConfigError(f"{source}: there is no order after the column names; add at least one")
    if len(lines) - 1 > ORDERS_MAX:
        raise ConfigError(f"{source}: {len(lines) - 1} orders, at most {ORDERS_MAX} can be run; split the file")
    orders: dict[int, Order] = {}
    for number, line in enumerate(lines[1:], start=2):
        try:
            order = _parse_line(line)
            if order.order_id in orders:
                raise ValueError(f"order_id {order.order_id} stands in an earlier line already")
        except ValueError as error:
            raise ConfigError(f"{source}:{number}: {error}; correct the line or remove it") from None
        orders[order.order_id] = order
    return tuple(orders.values())


def written(orders: Iterable[Order]) -> str:
    """``orders`` as ``parse`` reads them."""
    lines = ["\t".join(COLUMNS)]
    for order in orders:
        amount = f"{order.cents // 100}.{order.cents % 100:02d}"
        letters = order.bank_to.removeprefix("bank-").upper()
        lines.append(
            "\t".join((str(order.order_id), order.account_from, letters, order.account_to, amount, order.purpose))
        )
    return "\n".join(lines) + "\n"


def _parse_line(line: str) -> Order:
    if line.endswith("\r"):
        raise ValueError("the line ends with a carriage return (a file from Windows: convert it with `dos2unix`)")
    fields = line.split("\t")
    if len(fields) != len(COLUMNS):
        raise ValueError(f"{len(fields)} columns where {len(COLUMNS)} are expected, separated by tabs")
    order_id, account_from, bank_to, account_to, amount, purpose = fields
    for name, value in (("order_id", order_id), ("account_from", account_from), ("account_to", account_to)):
        if _NUMBER.fullmatch(value) is None:
            raise ValueError(f"{name} {value!r} is not a number of at most 18 digits")
    if _LETTERS.fullmatch(bank_to) is None:
        raise ValueError(f"bank_to {bank_to!r} is not two capital letters")
    if purpose and _LETTERS.fullmatch(purpose) is None:
        raise ValueError(f"purpose {purpose!r} is neither empty nor two capital letters")
    return Order(int(order_id), account_from, bank_named(bank_to), account_to, cents_of(amount), purpose)


def bank_named(letters: str) -> Branch:
    """The participant's name of the bank with these two letters."""
    return Branch(f"bank-{letters.lower()}")


def both_ways(orders: Iterable[Order]) -> Iterator[Order]:
    """``orders``, those with an even id paid back: from the other bank to the home bank."""
    for order in orders:
        if order.order_id % 2:
            yield order
        else:
            yield replace(
                order,
                bank_from=order.bank_to,
                account_from=order.account_to,
                bank_to=order.bank_from,
                account_to=order.account_from,
            )


def opening_for(orders: Iterable[Order], spare_cents: int = 100_00) -> Opening:
    """Accounts for ``orders``: a payer can pay all of its orders and keeps ``spare_cents``; a receiver has 0."""
    opening: dict[Branch, dict[str, int]] = {HOME_BANK: {}}
    for order in orders:
        paying, receiving = (opening.setdefault(bank, {}) for bank in order.banks)
        paying[order.account_from] = (paying.get(order.account_from) or spare_cents) + order.cents
        receiving.setdefault(order.account_to, 0)
    return opening


@dataclass(frozen=True, slots=True)
class Generated:
    """Orders without a file: the same for the same ``seed``, as many as are asked for.

    ``banks``: how many other banks, 1 to 26. ``accounts``: how many at each bank. ``empty_every``: every so-manyth paying
    account holds nothing, so that its orders are refused by the home bank; 0: none does.
    """

    seed: int
    banks: int = 4
    accounts: int = 1_000
    empty_every: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.banks <= 26 or self.accounts < 1 or self.empty_every < 0:
            raise ConfigError(
                f"cannot generate orders for {self.banks} banks with {self.accounts} accounts: 1 to 26 banks"
            )

    def orders(self) -> Iterator[Order]:
        """Orders without end."""
        rng = random.Random(self.seed)
        banks = self._banks()
        order_id = 0
        while True:
            order_id += 1
            yield Order(
                order_id,
                str(rng.randint(1, self.accounts)),
                rng.choice(banks),
                str(rng.randint(1, self.accounts)),
                rng.randint(10, 150_000),
                rng.choice(("", "HH", "LO", "IN", "LE")),
            )

    def opening(self, cents: int = 10**9) -> Opening:
        """Every account that an order may name; the paying ones hold ``cents`` each, but for the empty ones."""
        opening: dict[Branch, Mapping[str, int]] = {
            HOME_BANK: {str(n): 0 if self._empty(n) else cents for n in range(1, self.accounts + 1)}
        }
        for bank in self._banks():
            opening[bank] = {str(n): 0 for n in range(1, self.accounts + 1)}
        return opening

    def _empty(self, account: int) -> bool:
        return self.empty_every > 0 and account % self.empty_every == 0

    def _banks(self) -> tuple[Branch, ...]:
        return tuple(bank_named(chr(ord("A") + n) * 2) for n in range(self.banks))
