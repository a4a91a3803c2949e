"""Lowering a horizon that wrong clocks have moved into the future.

While it lies there, every txid that is made is refused, and what is finished is forgotten at once. Time alone makes that right,
or an operator. What the operator may do, and why it is safe:

- What was retired is gone, and what was told FORGOTTEN may have been rolled back as ABORTED. So no txid that anybody may have
  asked about must become undecided again: it could be committed then.
- Such txids were made before now. Nodes begin none that lies more than FUTURE_MS_MAX ahead of their clocks. So the horizon is
  lowered to the latest clock of all nodes, and FUTURE_MS_MAX and CLOCK_SPREAD_MS_MAX beyond it. All of them lie below it and stay
  forgotten for ever; what is made a few minutes later is accepted.
- All nodes must have been heard, and their clocks must agree: a clock that is still wrong would lower it too little or too much.
- A machine whose clock was further ahead while the horizon was wrong has made later txids. Nobody here can know of it. The
  operator says how far (``after_ms``). A decision that is open beyond the new horizon shows such a machine, and refuses it.

Owed: who lowered it, when, from and to where, is in the ledger. Never: by anybody but the leader, who hears all clocks.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final

from raftcoord import limits
from raftcoord.core.commands import Lower
from raftcoord.core.decisions import Done, Result
from raftcoord.env import Env
from raftcoord.errors import LocalProtocolError, NotYet, RaftcoordError, Unavailable
from raftcoord.node.agreement import Agreement

log: Final = logging.getLogger("raftcoord.node")

_NOT_CONFIRMED: Final = (
    "whether the horizon was lowered is not confirmed; look at raftcoord doctor, and do it again if it was not"
)


def checked_after(value: object) -> int:
    """Until when txids were made, by whoever's clock was furthest ahead (Unix time, ms); 0: no clock was ahead."""
    if type(value) is not int or not 0 <= value <= limits.TIME_MS_MAX:
        raise LocalProtocolError(f"{str(value)[:60]!r} is no time: give Unix time in milliseconds, or 0")
    return value


def lower(
    agreement: Agreement,
    env: Env,
    who: str,
    after_ms: int,
    deadline: float,
    done: Callable[[dict[str, Any] | RaftcoordError], None],
) -> None:
    """Lower the horizon; ``done`` is told what is recorded: ``was_ms``, ``horizon_ms``, ``who``, ``at_ms``.

    Raises Unavailable if this node does not lead or a clock is not known, LocalProtocolError if it must not be lowered.
    """
    if not agreement.is_leader:
        raise Unavailable("this node does not lead; ask the leader (raftcoord status)")
    now_ms, was_ms = env.wall_ms(), agreement.ledger.horizon_ms
    horizon_ms = max(_latest_ms(agreement, now_ms) + limits.FUTURE_MS_MAX + limits.CLOCK_SPREAD_MS_MAX, after_ms + 1)
    if was_ms <= horizon_ms:
        raise LocalProtocolError(
            f"the horizon lies at {was_ms} ms (Unix time) and could be lowered to {horizon_ms} at the lowest, so there is "
            "nothing to lower; nothing was changed"
        )
    late_ms = max((each.txid.ms for each in agreement.ledger.open_decisions() if each.txid.ms < was_ms), default=0)
    if late_ms >= horizon_ms:
        raise LocalProtocolError(
            f"an open decision was made by a clock that showed {late_ms} ms (Unix time), ahead of all nodes, and others may have "
            "been as well; give a time after it, or let that decision complete. Nothing was changed"
        )
    command = Lower(was_ms, horizon_ms, who, now_ms)

    def lowered(result: Result | RaftcoordError) -> None:
        if isinstance(result, Done) and result.changed:
            log.warning("the horizon was lowered from %d to %d ms by %s", was_ms, horizon_ms, who)
            done(command._asdict())
        elif isinstance(result, Done):
            done(
                LocalProtocolError(
                    "the horizon moved, or a decision was made beyond it, meanwhile; nothing was changed"
                )
            )
        else:
            done(result if isinstance(result, Unavailable) else Unavailable(_NOT_CONFIRMED))

    agreement.propose(command, deadline, lowered)


def _latest_ms(agreement: Agreement, now_ms: int) -> int:
    """The latest clock of all nodes."""
    offsets = agreement.clock_offsets()
    silent = [name for name, offset in offsets.items() if offset is None]
    if silent:
        raise NotYet(
            f"the clock of node {silent[0]} is not known, and nothing was changed; all nodes must run, so start it first "
            f"(raftcoord node start {silent[0]})"
        )
    wrong = [
        name for name, offset in offsets.items() if offset is not None and abs(offset) > limits.CLOCK_SPREAD_MS_MAX
    ]
    if wrong:
        raise NotYet(
            f"the clock of node {wrong[0]} is more than {limits.CLOCK_SPREAD_MS_MAX // 1000} s from the leader's; set the clocks "
            "right first (raftcoord doctor says whose is wrong)"
        )
    return now_ms + max((offset for offset in offsets.values() if offset is not None), default=0)
