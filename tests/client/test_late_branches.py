"""A transaction that is aborted because time ran out names the branch in whose prepare it did."""

from __future__ import annotations

from typing import Any

import pytest

from raftcoord.client.committing import Committing
from raftcoord.client.moves import Moves, Run
from raftcoord.errors import Aborted
from raftcoord.types import TxId

from .test_interrupted_moves import CLUSTER, Spoken

NAMES = ("ledger", "orders", "audit")


def commit(*, slow: str, seconds: float, before: float = 0.0) -> None:
    """A commit over NAMES with 10 s, of which ``before`` pass in the block, and ``seconds`` in the prepare of ``slow``."""
    now = 0.0

    def drive(moves: Moves[Any]) -> None:
        nonlocal now
        try:
            move = next(moves)
            while True:
                result = None
                match move:
                    case Run(_, "begin"):
                        result = True
                    case Run(session, "prepare") if session.branch == slow:
                        now += seconds
                move = moves.send(result)
        except StopIteration:
            return

    committing = Committing(TxId.new(), 10.0, lambda: now, frozenset())
    for name in NAMES:
        drive(committing.enlist(Spoken(name), CLUSTER, True))
    now += before
    drive(committing.commit())


@pytest.mark.parametrize("slow", NAMES)
def test_the_branch_that_took_the_time_is_named_and_not_the_next(slow: str) -> None:
    with pytest.raises(Aborted, match="the timeout of 10 s had passed") as raised:
        commit(slow=slow, seconds=10.0)
    assert raised.value.branch == slow


def test_no_branch_is_named_for_what_the_block_has_spent() -> None:
    with pytest.raises(Aborted, match="the timeout of 10 s had passed") as raised:
        commit(slow="", seconds=0.0, before=10.0)
    assert raised.value.branch is None
