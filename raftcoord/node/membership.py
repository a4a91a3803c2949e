"""An operator adds, removes or replaces a node: core/tables/members.py says what that is, consensus/membership.py when it may be.

Owed: the answer comes when the step is committed, and says who the members are then. Repeating a step that was made changes
nothing. Never: a step by a node that does not lead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from raftcoord.core.tables.members import Members
from raftcoord.errors import LocalProtocolError, NotKnown, RaftcoordError, Unavailable
from raftcoord.node.agreement import Agreement
from raftcoord.types import NodeName, checked_name

STEPS: Final = ("add", "remove", "replace")

NOT_CONFIRMED: Final = (
    "no majority has confirmed the change in time; look at raftcoord status and run `raftcoord node {0} {1}` again, "
    "that is safe"
)


def change(
    agreement: Agreement,
    here: str,
    step: object,
    value: object,
    deadline: float,
    done: Callable[[dict[str, Any] | RaftcoordError], None],
) -> None:
    """Make ``step`` (one of STEPS) with the node ``value``; ``done`` gets the members then. Raises LocalProtocolError."""
    name = NodeName(checked_name(value, "node"))
    if not isinstance(step, str) or step not in STEPS:
        raise LocalProtocolError(f"{str(step)[:40]!r} is no change of the members; use one of {', '.join(STEPS)}")

    def changed(result: Members | RaftcoordError) -> None:
        if isinstance(result, NotKnown):
            done(Unavailable(NOT_CONFIRMED.format(step, name)))
        elif isinstance(result, RaftcoordError):
            done(result)
        else:
            done({"node": name, "step": step, "by": here, **shown(result)})

    agreement.change_members(step, name, deadline, changed)


def shown(members: Members | None) -> dict[str, Any]:
    """The members as clients get them: ``epoch``, and for each its ``id``, ``name``, ``voter``, ``identity`` and addresses."""
    if members is None:
        return {"epoch": 0, "members": []}
    return {"epoch": members.epoch, "members": [member._asdict() for member in members.members]}
