"""What a resolver does about one branch: the tables, and the pace. No I/O, no clock, no randomness of its own.

Theory of operation. A branch is met in one of two ways, and each ends in a table:

    listed as prepared     the ledger is asked what this branch has to do (``resolve``, which aborts what is undecided);
                           that is done, and what the database then shows of it (its Effect) says whether it is done
    open in the ledger     a decision waits for the branch, and nothing is prepared: the Effect tells whether it was carried out

Never is an outcome inferred from what other branches did, or from the age of anything. Age only says when to ask: a branch
that has just been prepared is left to its program, which finishes its own in milliseconds.

Why a branch of a FORGOTTEN transaction is rolled back is decided at the node (core/asking.for_branch), which tells ABORTED
then: a COMMIT is retired only when every branch that it names has acknowledged it, and what has acknowledged is prepared no
more. Where damage was recorded that argument does not hold; the node then tells FORGOTTEN, and the branch is left alone.
"""

from __future__ import annotations

import enum
from collections.abc import Hashable
from typing import Final

from raftcoord import limits
from raftcoord.databases.steps import Effect
from raftcoord.limits import ResolverBounds
from raftcoord.types import State


class Act(enum.Enum):
    """What is to be done."""

    COMMIT = "commit"
    ROLL_BACK = "roll back"
    COMPLETE = "complete"
    """Tell the ledger that the branch has carried the outcome out."""
    NOTHING = "nothing"
    """It is done, and the ledger does not wait for it."""
    AGAIN = "again"
    """Not now: look again later."""
    LEAVE = "leave"
    """Nobody here can tell what is right: report it."""
    SUSPECT = "suspect"
    """Damage, if it stays so."""
    DAMAGE = "damage"
    """Somebody has finished the branch against the ledger: record it."""


ON_ANSWER: Final = {
    State.COMMITTED: Act.COMMIT,
    State.ABORTED: Act.ROLL_BACK,
    State.UNDECIDED: Act.AGAIN,
    State.FORGOTTEN: Act.LEAVE,
}
"""What a prepared branch has to do, by the ledger's answer about this very branch."""

ON_EFFECT: Final = {
    (Act.COMMIT, Effect.COMMITTED): Act.COMPLETE,
    (Act.COMMIT, Effect.PREPARED): Act.AGAIN,
    (Act.COMMIT, Effect.ABSENT): Act.AGAIN,  # the ledger calls it open, and it is met again from there
    (Act.COMMIT, Effect.UNKNOWN): Act.AGAIN,
    (Act.ROLL_BACK, Effect.ABSENT): Act.NOTHING,
    (Act.ROLL_BACK, Effect.UNKNOWN): Act.NOTHING,
    (Act.ROLL_BACK, Effect.PREPARED): Act.AGAIN,
    (Act.ROLL_BACK, Effect.COMMITTED): Act.DAMAGE,
}
"""What follows, by what was done and what the database shows afterwards. An OK alone is never enough."""

ON_OPEN: Final = {
    (State.COMMITTED, Effect.COMMITTED): Act.COMPLETE,
    (State.COMMITTED, Effect.PREPARED): Act.AGAIN,  # it is met again as listed
    (State.COMMITTED, Effect.ABSENT): Act.SUSPECT,
    (State.COMMITTED, Effect.UNKNOWN): Act.LEAVE,
    (State.ABORTED, Effect.COMMITTED): Act.DAMAGE,
    (State.ABORTED, Effect.PREPARED): Act.AGAIN,
    (State.ABORTED, Effect.ABSENT): Act.COMPLETE,
    (State.ABORTED, Effect.UNKNOWN): Act.COMPLETE,
}
"""What follows for a decision that waits for the branch."""


class Pace:
    """One branch over time (s): when it was first and last met, how often it was tried in vain, when it is looked at next.

    ``recorded``: its damage is in the ledger; ``why``: it was left alone, until it is tried again.
    """

    __slots__ = ("absent_looks", "absent_since", "bounds", "first", "met", "next_at", "recorded", "tries", "why")

    def __init__(self, now: float, bounds: ResolverBounds) -> None:
        self.bounds = bounds
        self.first = now
        self.met = now
        self.recorded = False
        self.why = ""
        self.next_at = now
        self.tries = 0
        self.absent_since = 0.0
        self.absent_looks = 0

    def age(self, now: float, told_s: float | None) -> float:
        """How long it has been prepared, as far as anybody knows."""
        return max(now - self.first, told_s or 0.0)

    def again(self, now: float, jitter: float) -> None:
        """Later, and each time later. ``jitter``: from 0 to 1."""
        doubled = self.bounds.every_ms * 2 ** min(self.tries, 16)
        self.tries += 1
        self.next_at = now + min(doubled, self.bounds.retry_ms_max) / 1000 * (0.5 + jitter / 2)

    def suspect(self, now: float) -> bool:
        """Neither prepared nor carried out, once more. Whether that has lasted: a commit that is on its way looks so too."""
        if not self.absent_looks:
            self.absent_since = now
        self.absent_looks += 1
        lasted_ms = (now - self.absent_since) * 1000
        return self.absent_looks >= limits.RESOLVER_DAMAGE_LOOKS and lasted_ms >= self.bounds.damage_ms

    def cleared(self) -> None:
        """It was seen otherwise."""
        self.absent_looks = 0


class Paces:
    """The paces of what one resource is met with, by key."""

    def __init__(self, bounds: ResolverBounds) -> None:
        self._bounds: Final = bounds
        self._paces: dict[Hashable, Pace] = {}

    def __len__(self) -> int:
        return len(self._paces)

    def of(self, key: Hashable, now: float) -> Pace:
        """The pace of ``key``, which is met now."""
        pace = self._paces.get(key)
        if pace is None:
            pace = self._paces[key] = Pace(now, self._bounds)
        pace.met = now
        return pace

    def forget(self, before: float) -> None:
        """Forget what was not met since ``before``: it has ended."""
        self._paces = {key: pace for key, pace in self._paces.items() if pace.met >= before}

    def hurry(self, now: float) -> None:
        """Look at everything now: the database, or a node, can be reached again."""
        for pace in self._paces.values():
            pace.next_at = now
            pace.tries = 0
            pace.cleared()
