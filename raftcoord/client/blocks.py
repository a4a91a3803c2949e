"""What both kinds of transaction share beside the moves: which connections were found fit, and the rules of the block."""

from __future__ import annotations

import weakref
from typing import Any

from raftcoord.client import checks
from raftcoord.errors import LocalProtocolError

_fit: weakref.WeakSet[Any] = weakref.WeakSet()
"""Connections whose database was found set up, with marks: looking costs a round trip, and it stays so while one lives."""


def bounded(seconds: float) -> float:
    """``seconds`` as a timeout that a client takes."""
    return checks.timeout(min(max(seconds, 0.001), 600.0))


def enter_once(entered: bool) -> None:
    """Refuse a second ``with``."""
    if entered:
        raise LocalProtocolError("a transaction is entered once; begin a new one")


def check_entered(entered: bool) -> None:
    """Refuse work outside the block."""
    if not entered:
        raise LocalProtocolError("enlist connections inside the block: with client.transaction() as tx: tx.enlist(...)")


def is_fit(connection: Any) -> bool:
    """Whether the connection was found fit before."""
    try:
        return connection in _fit
    except TypeError:  # a driver's connection that cannot be referred to weakly
        return False


def remember(connection: Any) -> None:
    """It was."""
    try:
        _fit.add(connection)
    except TypeError:
        return
