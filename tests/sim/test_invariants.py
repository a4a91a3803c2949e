"""The invariants take nothing for broken that a participant may do."""

from __future__ import annotations

import pytest

from raftcoord.participants.interface import Abort, Prepare
from raftcoord.sim.branches import Branches
from raftcoord.sim.synced import Violation
from raftcoord.types import TxId, Vote

OLD, NEW = (TxId.new(1_700_000_000_000 + at, bytes(10)) for at in (0, 1))
PAYLOAD = [{"op": "add", "key": "a1", "amount": 1}]


@pytest.mark.parametrize("told", [True, False])
def test_an_abort_whose_write_failed_may_have_freed_its_accounts(told: bool) -> None:
    found: list[Violation] = []
    branches = Branches(["n1"], ["bank"], found.append)
    branches.locking = frozenset({"bank"})
    branches.on_answered("bank", [(Prepare(OLD, PAYLOAD, 0), Vote.yes())], [OLD])
    if told:
        branches.on_failed_batch("bank", [Abort(OLD)])
    # Its next life finds that it had been stored, and says yes to the next one before it is told again.
    branches.on_answered("bank", [(Prepare(NEW, PAYLOAD, 0), Vote.yes())], [NEW])
    assert [violation.invariant for violation in found] == ([] if told else ["together"])


def test_two_who_hold_one_account_are_seen() -> None:
    found: list[Violation] = []
    branches = Branches(["n1"], ["bank"], found.append)
    branches.locking = frozenset({"bank"})
    branches.on_answered("bank", [(Prepare(OLD, PAYLOAD, 0), Vote.yes())], [OLD])
    branches.on_failed_batch("bank", [Abort(OLD)])
    branches.on_answered("bank", [(Prepare(NEW, PAYLOAD, 0), Vote.yes())], [OLD, NEW])
    assert [violation.invariant for violation in found] == ["together"]
