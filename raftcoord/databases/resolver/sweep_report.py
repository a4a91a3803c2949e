"""What one look at a resource found and did: values, for the log, for people and for programs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from raftcoord.databases.gid import Gid


class BranchLeft(NamedTuple):
    """A branch that was left alone, or that is damaged, and why."""

    gid: Gid
    why: str


def by_reason(left: Iterable[BranchLeft]) -> list[str]:
    """A line for each reason, with the first branch that it is true of and how many more: a hundred of one reason are one."""
    found: dict[str, list[BranchLeft]] = {}
    for each in left:
        found.setdefault(each.why, []).append(each)
    return [
        f"{same[0].gid}{f' and {len(same) - 1} more' if len(same) > 1 else ''}: {why}" for why, same in found.items()
    ]


@dataclass
class SweepReport:
    """One look. ``prepared``: branches of ours that were listed; ``foreign``: those of other clusters, which nobody touches.

    ``waiting``: too young, or tried in vain and to be tried again; ``damaged``: found against the ledger now, and recorded;
    ``next_s``: when to look again, at most.
    """

    prepared: int = 0
    foreign: int = 0
    waiting: set[Gid] = field(default_factory=set)
    committed: int = 0
    rolled_back: int = 0
    completed: int = 0
    damaged: list[BranchLeft] = field(default_factory=list)
    left: list[BranchLeft] = field(default_factory=list)
    next_s: float = 1.0

    @property
    def done(self) -> int:
        """How many branches were brought to their outcome."""
        return self.committed + self.rolled_back

    def text(self) -> str:
        """What was done, in words; "" if nothing was."""
        words = {
            "committed": self.committed,
            "rolled back": self.rolled_back,
            "found complete": self.completed,
            "damaged": len(self.damaged),
        }
        return ", ".join(f"{count} {word}" for word, count in words.items() if count)

    def add(self, other: SweepReport) -> None:
        """Another look, which came later: what was done is summed up, what was found is replaced."""
        self.committed += other.committed
        self.rolled_back += other.rolled_back
        self.completed += other.completed
        self.damaged += other.damaged
        self.prepared, self.foreign, self.waiting, self.left = other.prepared, other.foreign, other.waiting, other.left
        self.next_s = other.next_s

    def to_json(self) -> dict[str, Any]:
        counts = ("committed", "rolled_back", "completed", "prepared", "foreign")
        return {
            **{name: getattr(self, name) for name in counts},
            "waiting": len(self.waiting),
            "damaged": [_json(each) for each in self.damaged],
            "left": [_json(each) for each in self.left],
        }


def _json(left: BranchLeft) -> dict[str, str]:
    gid, why = left
    return {"txid": str(gid.txid), "branch": gid.branch, "gid": str(gid), "why": why}
