"""For programs that are killed: a transaction that stops before one of its moves, says so, and waits for kill -9."""

from __future__ import annotations

import time
from typing import Any

from raftcoord.client.transaction import Transaction

STOPS = (
    "first prepare",
    "second prepare",
    "decision",
    "first commit",
    "first cleaning",
    "second commit",
    "second cleaning",
    "completion",
)
"""Each move of a commit of two branches, in order."""


def stop_before(stop: str) -> None:
    """Stop the next transaction there."""
    carry_out: Any = Transaction._carry_out
    moves = iter(STOPS)

    def stopping(tx: Any, move: Any) -> Any:
        if tx._committing._is_over and next(moves) == stop:
            print("there", tx.txid.hex(), flush=True)
            time.sleep(600)
        return carry_out(tx, move)

    Transaction._carry_out = stopping  # type: ignore[method-assign]
