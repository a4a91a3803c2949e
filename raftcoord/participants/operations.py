"""The SQLite participant's payload: a list of operations on accounts.

    {"op": "add", "key": "alice", "amount": -10, "min": 0}     min is optional: the smallest amount that may result
    {"op": "set", "key": "alice", "amount": 100}               the only one that creates an account
    {"op": "delete", "key": "alice"}
    {"op": "expect", "key": "alice", "amount": 100}            amount None: expect that there is no such account

It owes a precise refusal for everything else, and it never touches a file: ``parse`` checks the form, ``evaluate`` runs
the operations in their order over amounts that it reads through a function, and returns what is to be written.
Amounts are integers (cents), within SQLite's 64 bits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple, TypeGuard

from raftcoord import limits
from raftcoord.types import Payload

AMOUNT_MIN: Final = -(1 << 63)
AMOUNT_MAX: Final = (1 << 63) - 1

_KEYS: Final[dict[str, tuple[frozenset[str], frozenset[str]]]] = {  # op: (required keys, allowed keys)
    "add": (frozenset({"op", "key", "amount"}), frozenset({"op", "key", "amount", "min"})),
    "set": (frozenset({"op", "key", "amount"}), frozenset({"op", "key", "amount"})),
    "delete": (frozenset({"op", "key"}), frozenset({"op", "key"})),
    "expect": (frozenset({"op", "key", "amount"}), frozenset({"op", "key", "amount"})),
}
_EXAMPLE: Final = '[{"op": "add", "key": "alice", "amount": -10, "min": 0}]'


class PayloadRefused(Exception):
    """The payload cannot be served; the message is the reason of the no vote."""


class AccountOperation(NamedTuple):
    """One checked operation. ``amount`` is None for delete, and for an expect that there is no account."""

    op: str
    key: str
    amount: int | None
    min: int | None


def parse(payload: Payload) -> tuple[AccountOperation, ...]:
    """The operations of a payload, in order. Raises PayloadRefused and says what is wrong with which one."""
    if not isinstance(payload, (list, tuple)):
        raise PayloadRefused(f"the payload must be a list of operations such as {_EXAMPLE}, not {_short(payload)}")
    if not payload:
        raise PayloadRefused(
            "the payload is an empty list of operations: leave this participant out of the transaction"
        )
    if len(payload) > limits.OPERATIONS_MAX:
        raise PayloadRefused(
            f"the payload has {len(payload)} operations, at most {limits.OPERATIONS_MAX} are allowed: "
            "split it into several transactions"
        )
    return tuple(_operation(number, item) for number, item in enumerate(payload, 1))


def _operation(number: int, item: Any) -> AccountOperation:
    if not isinstance(item, dict):
        raise PayloadRefused(f"operation {number} must be a map such as {_EXAMPLE[1:-1]}, not {_short(item)}")
    op = item.get("op")
    if not isinstance(op, str) or op not in _KEYS:
        what = f"unknown op {_short(op)}" if "op" in item else "the key 'op' is missing"
        raise PayloadRefused(f"operation {number}: {what}: use one of {', '.join(_KEYS)}")
    required, allowed = _KEYS[op]
    for key in sorted(required - item.keys()):
        raise PayloadRefused(f"operation {number} ({op}): the key {key!r} is missing")
    for key in item:
        if key not in allowed:
            raise PayloadRefused(
                f"operation {number} ({op}): unknown key {_short(key)}: {op} takes {', '.join(sorted(allowed))}"
            )
    account = item["key"]
    if not _is_key(account):
        raise PayloadRefused(
            f"operation {number} ({op}): {_short(account)} is not an account key: "
            f"use a string of 1 to {limits.ACCOUNT_KEY_LENGTH_MAX} printable characters"
        )
    amount = None
    if "amount" in item and not (op == "expect" and item["amount"] is None):
        amount = _amount(number, op, "amount", item["amount"])
    least = _amount(number, op, "min", item["min"]) if "min" in item else None
    return AccountOperation(op, account, amount, least)


def is_amount(value: object) -> TypeGuard[int]:
    """Whether ``value`` is an integer that an account can hold."""
    return type(value) is int and AMOUNT_MIN <= value <= AMOUNT_MAX


def _is_key(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and 1 <= len(value) <= limits.ACCOUNT_KEY_LENGTH_MAX and value.isprintable()


def _amount(number: int, op: str, name: str, value: object) -> int:
    if is_amount(value):
        return value
    outside = f"is outside {AMOUNT_MIN} .. {AMOUNT_MAX}"
    why = outside if type(value) is int else "is not an integer: write whole cents, such as 1050"
    raise PayloadRefused(f"operation {number} ({op}): {name} {_short(value)} {why}")


def evaluate(operations: tuple[AccountOperation, ...], read: Callable[[str], int | None]) -> dict[str, int | None]:
    """Run the operations in order: the final amount of every key that is written; None deletes the account.

    ``read`` gives an account's amount, or None if there is no such account. An empty result means read-only.
    Raises PayloadRefused with the account and the amounts.
    """
    written: dict[str, int | None] = {}
    for op, key, amount, least in operations:
        current = written[key] if key in written else read(key)
        if op == "expect":
            _check_expected(key, current, amount)
        elif op == "set":
            written[key] = amount
        elif current is None:
            raise PayloadRefused(f"account {key!r} does not exist: only set creates an account ({op} was asked)")
        elif op == "delete":
            written[key] = None
        else:
            written[key] = _sum(key, current, amount or 0, least)
    return written


def _check_expected(key: str, current: int | None, expected: int | None) -> None:
    if current == expected:
        return
    is_now = "does not exist" if current is None else f"has {current}"
    should = "should not exist" if expected is None else f"{expected} was expected"
    raise PayloadRefused(f"account {key!r} {is_now}, {should}")


def _sum(key: str, current: int, amount: int, least: int | None) -> int:
    result = current + amount
    if not AMOUNT_MIN <= result <= AMOUNT_MAX:
        raise PayloadRefused(f"account {key!r} has {current}: adding {amount} exceeds {AMOUNT_MIN} .. {AMOUNT_MAX}")
    if least is not None and result < least:
        raise PayloadRefused(
            f"account {key!r} has {current}: adding {amount} would leave {result}, the minimum is {least}"
        )
    return result


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
