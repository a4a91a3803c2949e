"""What both kinds of transaction share beside the moves: which connections were found fit, and the rules of the block."""

from __future__ import annotations

import weakref
from typing import Any

from raftcoord.api import fields
from raftcoord.errors import LocalProtocolError

_fit: weakref.WeakKeyDictionary[Any, set[tuple[str, str]]] = weakref.WeakKeyDictionary()
"""Connection -> (cluster, resource) whose database it was found to lead to: it stays so while the connection lives."""


def bounded(seconds: float) -> float:
    """``seconds`` as a timeout that a client takes."""
    return fields.seconds(min(max(seconds, 0.001), 600.0))


def enter_once(entered: bool) -> None:
    """Refuse a second ``with``."""
    if entered:
        raise LocalProtocolError("a transaction is entered once; begin a new one")


def check_entered(entered: bool) -> None:
    """Refuse work outside the block."""
    if not entered:
        raise LocalProtocolError("enlist connections inside the block: with client.transaction() as tx: tx.enlist(...)")


def is_fit(connection: Any, cluster: str, resource: str) -> bool:
    """Whether the connection was found to lead to that resource before."""
    try:
        return (cluster, resource) in _fit.get(connection, ())
    except TypeError:  # a driver's connection that cannot be referred to weakly
        return False


def remember(connection: Any, cluster: str, resource: str) -> None:
    """It was."""
    try:
        _fit.setdefault(connection, set()).add((cluster, resource))
    except TypeError:
        return
