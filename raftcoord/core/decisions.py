"""What the ledger holds and answers, as values: decisions, damage, who goes by which name, and what changed of them.

Owed: nothing but what is written here is stored of a ledger. Never: a rule; the rules are the ledger's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

from raftcoord.core.tables.members import Members
from raftcoord.types import State, TxId, Verdict


class Closing(NamedTuple):
    """A branch that an operator has closed: it is not waited for any more. ``who`` did it, for the reason ``why``."""

    branch: str
    who: str
    why: str
    at_ms: int


class Decision(NamedTuple):
    """A recorded decision. ``outstanding``: the branches that have not acknowledged it; (term, index): its log entry.

    ``closed``: branches that are not outstanding because an operator closed them.
    """

    txid: TxId
    verdict: Verdict
    branches: tuple[str, ...]
    outstanding: tuple[str, ...]
    reason: str
    branch: str
    at_ms: int
    term: int
    index: int  # type: ignore[assignment]
    closed: tuple[Closing, ...] = ()

    @property
    def state(self) -> State:
        """COMMITTED or ABORTED."""
        return State.COMMITTED if self.verdict else State.ABORTED

    @property
    def retirable(self) -> bool:
        """Whether it may be forgotten once it is older than the horizon."""
        return not (self.outstanding or self.closed) or self.verdict is Verdict.ABORT


class Damage(NamedTuple):
    """Heuristic damage: what happened to a branch outside the protocol, and who has seen it ("" = nobody yet).

    ``settled_ms``: when it was settled (``Settle``); 0: it was not, or an older release recorded who has seen it. That release
    took a person's word for the acknowledgement of the branch, and the record is then all that keeps the branch from hearing
    ABORTED for a forgotten COMMIT: it stays for ever.
    """

    txid: TxId
    branch: str
    what: str
    at_ms: int
    acknowledged_by: str
    settled_ms: int = 0


class Binding(NamedTuple):
    """Which durable state goes by the name of a participant: the ``identity`` (32 hex digits) that the state carries.

    ``who`` bound it at ``at_ms``: an operator who replaced the identity ``before``, or "" for the first admission.
    """

    name: str
    identity: str
    who: str
    at_ms: int
    before: str


class Standing(NamedTuple):
    """The answer to Decide: what stands at (term, index). ``decision`` is None when the state is FORGOTTEN."""

    state: State
    decision: Decision | None
    first: bool
    """Whether this very command made it so."""


class Done(NamedTuple):
    """The answer to every other command: whether it changed anything."""

    changed: bool


Result = Standing | Done


class Changes(NamedTuple):
    """What to store, in this order: first put, then forget. None: unchanged.

    To forget: delete each decision whose txid is below ``first_txid_of(retire_before_ms)`` and that is ``retirable``.
    """

    retire_before_ms: int | None
    cluster: str | None
    puts: dict[TxId, Decision]
    damages: dict[tuple[TxId, str], Damage]
    enrolled: Mapping[str, str] | None = None
    """All that are enrolled, changed or not: name -> identity."""
    bindings: Mapping[str, Binding] | None = None
    """The participants whose binding changed, by name. One without an identity is forgotten."""
    forgotten_damages: tuple[tuple[TxId, str], ...] = ()
    """To be deleted before ``damages`` are put."""
    before: Changes | None = None
    """To be stored before all else, in the same commit: the horizon was lowered after it."""
    members: Members | None = None
    """The whole set of the cluster's members."""

    def __bool__(self) -> bool:
        others = (self.retire_before_ms, self.cluster, self.enrolled, self.bindings, self.before, self.members)
        return bool(self.puts or self.damages or self.forgotten_damages or any(other is not None for other in others))


SETTLED: Final = "its damage was acknowledged"
"""Why a branch is closed whose damage was settled."""

NO_CHANGES: Final = Changes(None, None, {}, {})
