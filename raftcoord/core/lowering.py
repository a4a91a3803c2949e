"""Lowering a horizon that wrong clocks have moved into the future.

While it lies there, every txid that is made is refused, and what is finished is forgotten at once. Time alone makes that right,
or an operator. What the operator may do, and why it is safe:

- What was retired is gone, and what was told FORGOTTEN may have been rolled back as ABORTED. So no txid that anybody may have
  asked about must become undecided again: it could be committed then.
- Such txids were made before now. Nodes begin none that lies more than ``future_ms_max`` (ClockBounds) ahead of their clocks. So
  the horizon is lowered to the latest clock of all nodes, and ``future_ms_max`` and ``spread_ms_max`` beyond it. All of them lie
  below it and stay forgotten for ever; what is made a few minutes later is accepted.
- All nodes must have been heard, and their clocks must agree: a clock that is still wrong would lower it too little or too much.
- A machine whose clock was further ahead while the horizon was wrong has made later txids. Nobody here can know of it. The
  operator says how far (``after_ms``). A decision that is open beyond the new horizon shows such a machine, and refuses it.

Owed: who lowered it, when, from and to where, is in the ledger. Never: by anybody but the leader, who hears all clocks.
It is asked as asking.py says.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from raftcoord.core.asking import AppliedState, Propose, Question
from raftcoord.core.tables.horizon import Lower
from raftcoord.core.tables.table import Done
from raftcoord.errors import LocalProtocolError, NotKnown, NotYet, Unavailable
from raftcoord.limits import ClockBounds
from raftcoord.types import NodeName

_NOT_CONFIRMED: Final = (
    "whether the horizon was lowered is not confirmed; look at raftcoord doctor, and do it again if it was not"
)


def lower(
    applied: AppliedState,
    offsets: Mapping[NodeName, int | None],
    who: str,
    after_ms: int,
    now_ms: int,
    clocks: ClockBounds,
) -> Question[Lower]:
    """Lower the horizon at the leader; what is recorded. ``offsets``: how far each other node's clock is ahead (ms).

    Raises Unavailable if a clock is not known, LocalProtocolError if it must not be lowered.
    """
    was_ms = applied.ledger.horizon_ms
    ahead_ms = _ahead_ms(offsets, clocks.spread_ms_max)
    horizon_ms = max(now_ms + ahead_ms + clocks.future_ms_max + clocks.spread_ms_max, after_ms + 1)
    if was_ms <= horizon_ms:
        raise LocalProtocolError(
            f"the horizon lies at {was_ms} ms (Unix time) and could be lowered to {horizon_ms} at the lowest, so there is "
            "nothing to lower; nothing was changed"
        )
    late_ms = max((each.txid.ms for each in applied.ledger.open_decisions() if each.txid.ms < was_ms), default=0)
    if late_ms >= horizon_ms:
        raise LocalProtocolError(
            f"an open decision was made by a clock that showed {late_ms} ms (Unix time), ahead of all nodes, and others may have "
            "been as well; give a time after it, or let that decision complete. Nothing was changed"
        )
    command = Lower(was_ms, horizon_ms, who, now_ms)
    try:
        done: Done = yield Propose(command)
    except NotKnown:
        raise Unavailable(_NOT_CONFIRMED) from None
    if not done.changed:
        raise LocalProtocolError("the horizon moved, or a decision was made beyond it, meanwhile; nothing was changed")
    return command


def _ahead_ms(offsets: Mapping[NodeName, int | None], spread_ms_max: int) -> int:
    """How far the latest clock of all nodes is ahead of the leader's."""
    known = {name: offset for name, offset in offsets.items() if offset is not None}
    for name in sorted(offsets.keys() - known):
        raise NotYet(
            f"the clock of node {name} is not known, and nothing was changed; all nodes must run, so start it first "
            f"(raftcoord node start {name})"
        )
    for name, offset in known.items():
        if abs(offset) > spread_ms_max:
            raise NotYet(
                f"the clock of node {name} is more than {spread_ms_max // 1000} s from the leader's; set the clocks "
                "right first (raftcoord doctor says whose is wrong)"
            )
    return max(known.values(), default=0)
