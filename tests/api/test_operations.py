"""One table says what a node can be asked: both ends encode and decode by it."""

from __future__ import annotations

from typing import Any

import pytest

from raftcoord import LocalProtocolError, TxId, limits
from raftcoord.api import operations
from raftcoord.api.operations import OPERATIONS, Operation
from raftcoord.rpc import frames
from raftcoord.types import State, Verdict

TXID = TxId.new()
GIVEN: dict[str, tuple[tuple[Any, ...], list[Any]]] = {
    "decide": (
        (TXID.hex(), Verdict.COMMIT, ["a", "b"], "", 5000),
        [bytes(TXID), 1, ["a", "b"], "", 5000],
    ),
    "submit": ((TXID, {"a": (1, 2)}, 5000, "completed"), [bytes(TXID), {"a": [1, 2]}, 5000, "completed"]),
    "status": ((TXID,), [bytes(TXID)]),
    "status_of_branch": ((TXID, "a"), [bytes(TXID), "a"]),
    "resolve": ((TXID, 5000), [bytes(TXID), 5000]),
    "resolve_branch": ((TXID, "a", 5000), [bytes(TXID), "a", 5000]),
    "complete": ((TXID, None), [bytes(TXID), None]),
    "node": ((), []),
    "txns": ((State.ABORTED, 7, TXID), [{"state": "aborted", "limit": 7, "before": bytes(TXID)}]),
    "show": ((TXID,), [bytes(TXID)]),
    "damages": ((7, None), [{"limit": 7, "txid": None}]),
    "report_damage": ((TXID, "a", "gone"), [bytes(TXID), "a", "gone"]),
    "acknowledge": ((TXID, "a", "ann"), [bytes(TXID), "a", "ann"]),
    "acknowledge_all": ((None, 5, "ann"), [None, 5, "ann"]),
    "close": (({TXID: ["a"]}, "ann", "sold"), [[[bytes(TXID), ["a"]]], "ann", "sold"]),
    "change_members": (("add", "n4"), ["add", "n4"]),
    "lower_horizon": (("ann", 0), ["ann", 0]),
    "participants": (("bank-a",), ["bank-a"]),
    "replace_participant": (("bank-a", None, "ann"), ["bank-a", None, "ann"]),
    "forget_participant": (("bank-a", "ann"), ["bank-a", "ann"]),
}
"""By operation: what a caller gives in Python, and what goes over the wire."""


def sent(value: Any) -> Any:
    """``value`` as it comes out of a frame."""
    header = 4
    return frames.decode(frames.encode((frames.REQUEST, 1, "x", value), frames.packer(), 1 << 21)[header:])[3]


@pytest.mark.parametrize("operation", OPERATIONS, ids=[each.name for each in OPERATIONS])
def test_what_a_caller_gives_is_what_the_node_reads(operation: Operation[Any, Any]) -> None:
    given, wire = GIVEN[operation.name]
    request = operation.given(*given)
    params = sent(operation.encode(request))
    assert params == wire
    assert sent(operation.encode(operation.decode(params))) == wire
    assert operation.decode(params)._fields == operation.names


def test_what_is_left_out_is_its_default() -> None:
    assert operations.PARTICIPANTS.encode(operations.ParticipantListing()) == ()
    assert operations.PARTICIPANTS.decode([]) == operations.ParticipantListing("")
    assert operations.TRANSACTIONS.decode([{}]) == operations.Listing(None, 100, None)
    assert operations.DAMAGES.decode([{"limit": limits.DAMAGES_MAX}]) == operations.DamageListing(limits.DAMAGES_MAX)


@pytest.mark.parametrize("operation", OPERATIONS, ids=[each.name for each in OPERATIONS])
def test_one_parameter_too_many_or_too_few_is_refused(operation: Operation[Any, Any]) -> None:
    _, wire = GIVEN[operation.name]
    with pytest.raises(LocalProtocolError):
        operation.decode([*wire, 1])
    if wire and operation is not operations.PARTICIPANTS:
        with pytest.raises(LocalProtocolError):
            operation.decode(wire[:-1])
