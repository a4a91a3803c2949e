"""Heuristic damage: what happened to a branch outside the protocol, and who has dealt with it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Final, NamedTuple, Self

from raftcoord import limits
from raftcoord.core.tables.decisions import Decisions
from raftcoord.core.tables.table import (
    CHANGED,
    UNCHANGED,
    CommandKind,
    Done,
    Part,
    Rows,
    Table,
    Tables,
    beyond,
    hex_of,
    keyed_records,
    pairs_of,
    pairs_within,
    txid_of,
)
from raftcoord.types import BranchesByTxid, TxId

SETTLED: Final = "its damage was acknowledged"
"""Why a branch is closed whose damage was settled."""


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


# -- the commands -------------------------------------------------------------------------------------------------


class Heuristic(NamedTuple):
    """Record damage: ``branch`` of ``txid`` was finished by somebody else, against the decision or not by it."""

    txid: TxId
    branch: str
    what: str
    at_ms: int

    def excess(self, horizon_ms_max: int) -> str:
        """See Command."""
        within = (
            len(self.branch) <= limits.NAME_LENGTH_MAX
            and len(self.what) <= limits.REASON_LENGTH_MAX
            and 0 <= self.at_ms <= limits.TIME_MS_MAX
        )
        return "" if within else beyond(self)

    @classmethod
    def read(cls, row: tuple[Any, ...]) -> Self | None:
        """See Command."""
        match row:
            case (_, bytes(txid), str(branch), str(what), int(at_ms)) if type(at_ms) is int:
                return cls(txid_of(txid), branch, what, at_ms)
        return None


class Acknowledge(NamedTuple):
    """``who`` has seen the damage recorded for ``branch`` of ``txid``. Older releases proposed it; Settle took its place."""

    txid: TxId
    branch: str
    who: str
    at_ms: int

    def excess(self, horizon_ms_max: int) -> str:
        """See Command."""
        within = (
            len(self.branch) <= limits.NAME_LENGTH_MAX
            and len(self.who) <= limits.WHO_LENGTH_MAX
            and 0 <= self.at_ms <= limits.TIME_MS_MAX
        )
        return "" if within else beyond(self)

    @classmethod
    def read(cls, row: tuple[Any, ...]) -> Self | None:
        """See Command."""
        match row:
            case (_, bytes(txid), str(branch), str(who), int(at_ms)) if type(at_ms) is int:
                return cls(txid_of(txid), branch, who, at_ms)
        return None


class Settle(NamedTuple):
    """``who`` has seen the damage recorded for these branches and dealt with it.

    ``damages``: (txid, branches) pairs; unknown ones are ignored. A branch of a COMMIT that is outstanding is closed with it. The
    record is forgotten when it is older than the horizon.
    """

    damages: BranchesByTxid
    who: str
    at_ms: int

    def excess(self, horizon_ms_max: int) -> str:
        """See Command."""
        within = (
            pairs_within(self.damages)
            and len(self.who) <= limits.WHO_LENGTH_MAX
            and 0 <= self.at_ms <= limits.TIME_MS_MAX
        )
        return "" if within else beyond(self)

    @classmethod
    def read(cls, row: tuple[Any, ...]) -> Self | None:
        """See Command."""
        match row:
            case (_, tuple(damages), str(who), int(at_ms)) if type(at_ms) is int:
                return cls(pairs_of(damages), who, at_ms)
        return None


# -- the table ----------------------------------------------------------------------------------------------------


def _record(damage: Damage) -> tuple[tuple[bytes, bytes], tuple[Any, ...]]:
    fields = (damage.what, damage.at_ms, damage.acknowledged_by)
    return (damage.txid, damage.branch.encode()), (*fields, damage.settled_ms) if damage.settled_ms else fields


class Damages(Table):
    """The damage of all branches, acknowledged or not."""

    name = "damages"
    rows: ClassVar[Rows] = keyed_records(
        name,
        ("txid", "branch"),
        key=lambda key: (key[0], key[1].encode()),
        write=_record,
        read=lambda txid, branch, fields: Damage(TxId(txid), branch.decode(), *fields),
        called=lambda txid, *_: f"the damage recorded for transaction {hex_of(txid)}",
        since=1,
    )

    def __init__(self, ledger: Tables, stored: Part) -> None:
        super().__init__(ledger, stored)
        self._damages: dict[tuple[TxId, str], Damage] = {(d.txid, d.branch): d for d in stored.rows}
        self.unseen = sum(not damage.acknowledged_by for damage in self._damages.values())
        """How many branches are damaged and nobody has acknowledged it."""

    def all(self) -> Iterator[Damage]:
        """Heuristic damage, acknowledged or not."""
        return iter(tuple(self._damages.values()))

    def damage(self, txid: TxId, branch: str) -> Damage | None:
        """The damage recorded for ``branch`` of ``txid``, or None."""
        return self._damages.get((txid, branch))

    def put(self, damage: Damage) -> None:
        """Record it, in place of what is recorded of that branch."""
        key = (damage.txid, damage.branch)
        before = self._damages.get(key)
        self.unseen += (not damage.acknowledged_by) - (before is not None and not before.acknowledged_by)
        self._damages[key] = self.pending.puts[key] = damage

    def forget_before(self, bound: bytes) -> None:
        """See Table."""
        for key in [key for key, damage in self._damages.items() if damage.settled_ms and damage.txid < bound]:
            del self._damages[key]
            self.pending.puts.pop(key, None)
            self.pending.deletes[key] = None

    def _heuristic(self, command: Heuristic, term: int, index: int) -> Done:
        if (command.txid, command.branch) in self._damages:
            return UNCHANGED
        self.put(Damage(command.txid, command.branch, command.what, command.at_ms, ""))
        return CHANGED

    def _acknowledge(self, command: Acknowledge, term: int, index: int) -> Done:
        known = self._damages.get((command.txid, command.branch))
        if known is None or known.acknowledged_by:
            return UNCHANGED
        self.put(known._replace(acknowledged_by=command.who))
        return CHANGED

    def _settle(self, command: Settle, term: int, index: int) -> Done:
        changed = False
        decisions = self.ledger[Decisions]
        for txid, branches in command.damages:
            for branch in branches:
                known = self._damages.get((txid, branch))
                if known is None:
                    continue
                if not known.acknowledged_by:
                    self.put(known._replace(acknowledged_by=command.who, settled_ms=max(1, command.at_ms)))
                    changed = True
                changed |= decisions.close(txid, (branch,), command.who, SETTLED, command.at_ms)
                changed |= decisions.complete(txid, branch)  # of an ABORT, which needs nobody to come back
        return CHANGED if changed else UNCHANGED

    commands: ClassVar[dict[int, CommandKind]] = {
        5: CommandKind(Heuristic, _heuristic),
        6: CommandKind(Acknowledge, _acknowledge),
        12: CommandKind(Settle, _settle),
    }
