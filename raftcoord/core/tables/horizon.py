"""The horizon: what is older and finished is forgotten.

It moves forwards. An operator alone may lower it (Lower), above everything that was made so far, after wrong clocks have moved
it into the future. What was retired or refused as FORGOTTEN lies below it still, so it stays forgotten.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final, NamedTuple, Self

from raftcoord import limits
from raftcoord.core.tables.damages import Damage, Damages
from raftcoord.core.tables.decisions import Decisions
from raftcoord.core.tables.table import (
    CHANGED,
    UNCHANGED,
    CommandKind,
    Done,
    Part,
    Table,
    TableChange,
    TableField,
    Tables,
    beyond,
)
from raftcoord.errors import check
from raftcoord.types import TxId, first_txid_of

LOWERED: Final = "horizon"
"""Under this name, in place of a branch, it is recorded among the damages who lowered the horizon: acknowledged, to be read."""


class Retire(NamedTuple):
    """Forget what is finished and older than ``before_ms`` (Unix time, ms), and make that the horizon."""

    before_ms: int

    def excess(self, horizon_ms_max: int) -> str:
        """See Command."""
        late = self.before_ms > horizon_ms_max
        return f"a horizon at {self.before_ms} ms, years ahead of this node's clock" if late else ""

    @classmethod
    def read(cls, row: tuple[Any, ...]) -> Self | None:
        """See Command."""
        match row:
            case (_, int(before_ms)) if type(before_ms) is int and 0 <= before_ms < 1 << 48:
                return cls(before_ms)
        return None


class Lower(NamedTuple):
    """An operator's way out when the horizon was moved into the future: from ``was_ms`` back to ``horizon_ms``.

    It does nothing if the horizon is not at ``was_ms`` any more, or if a decision between the two is open. What was forgotten
    stays forgotten, so ``horizon_ms`` must be later than any txid that was made so far: see core/lowering.py, which chooses it.
    ``who`` says so at ``at_ms``, by the proposer's clock.
    """

    was_ms: int
    horizon_ms: int
    who: str
    at_ms: int

    def excess(self, horizon_ms_max: int) -> str:
        """See Command."""
        within = self.horizon_ms < self.was_ms and 0 < len(self.who) <= limits.WHO_LENGTH_MAX
        return "" if within else beyond(self)

    @classmethod
    def read(cls, row: tuple[Any, ...]) -> Self | None:
        """See Command."""
        match row:
            case (_, int(was_ms), int(horizon_ms), str(who), int(at_ms)) if all(
                type(ms) is int and 0 <= ms <= limits.TIME_MS_MAX for ms in (was_ms, horizon_ms, at_ms)
            ):
                return cls(was_ms, horizon_ms, who, at_ms)
        return None


def _record_of(command: Lower) -> TxId:
    """Where it is recorded among the damages."""
    return TxId.new(command.at_ms, command.was_ms.to_bytes(10, "big"))


def _bound_of(horizon_ms: int) -> bytes:
    """What is below it is older than the horizon."""
    return first_txid_of(horizon_ms) if horizon_ms < 1 << 48 else b"\xff" * 17


class Horizon(Table):
    """Where the horizon is, in ``ms`` (Unix time); every table is told when it moves forwards."""

    name = "horizon"
    fields: ClassVar[dict[str, TableField]] = {"horizon_ms": TableField(0)}

    def __init__(self, ledger: Tables, stored: Part) -> None:
        super().__init__(ledger, stored)
        self.ms: int = stored.fields.get("horizon_ms", 0)
        ledger[Decisions].bound = _bound_of(self.ms)

    def _retire(self, command: Retire, term: int, index: int) -> Done:
        if command.before_ms <= self.ms:
            return UNCHANGED
        self.ms = self.pending.fields["horizon_ms"] = command.before_ms
        for table in self.ledger:
            table.forget_before(_bound_of(command.before_ms))
        return CHANGED

    def _lower(self, command: Lower, term: int, index: int) -> Done:
        is_lower = _bound_of(command.horizon_ms) < _bound_of(self.ms)
        if command.was_ms != self.ms or not is_lower:
            return UNCHANGED
        if not self.ledger[Decisions].lower(_bound_of(command.horizon_ms), index):
            return UNCHANGED
        self.ms = command.horizon_ms
        self.pending = TableChange(fields={"horizon_ms": self.ms}, before=self.pending)
        what = f"the horizon was lowered from {command.was_ms} to {command.horizon_ms} ms"
        self.ledger[Damages].put(Damage(_record_of(command), LOWERED, what, command.at_ms, command.who))
        return CHANGED

    @classmethod
    def check_change(cls, before: Mapping[str, Any], change: TableChange) -> None:
        """It moves back only when it was lowered."""
        old = before["horizon_ms"]
        new = change.fields.get("horizon_ms", old)
        check(new >= old or change.before is not None, f"the horizon would move back from {old} to {new} ms")

    commands: ClassVar[dict[int, CommandKind]] = {3: CommandKind(Retire, _retire), 11: CommandKind(Lower, _lower)}
