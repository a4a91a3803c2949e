"""Who leads, as far as the nodes say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

LEADER: Final = "leader"


class Leader(NamedTuple):
    """The node that leads, and in which term."""

    name: str
    term: int


def leader_among(said: Mapping[str, Any]) -> Leader | None:
    """The node that says it leads; of several (one is cut off and does not know it) that of the latest term.

    ``said``: by node, its NodeStatus, or the error instead of one.
    """
    leaders = [
        Leader(name, status["term"])
        for name, status in said.items()
        if isinstance(status, dict) and status.get("role") == LEADER
    ]
    return max(leaders, key=lambda leader: leader.term, default=None)
