"""The horizon once more: see the head of the folder."""

from __future__ import annotations

from bisect import bisect_right
from typing import Any

from raftcoord.core.machine import Ledger
from raftcoord.core.tables.horizon import Lower, Retire
from raftcoord.core.tables.table import Command
from raftcoord.sim.models import LAST, LedgerModel, TableModel, damages, decisions
from raftcoord.types import TxId


class HorizonModel(TableModel):
    """Wherever the horizon was."""

    def __init__(self, models: LedgerModel) -> None:
        super().__init__(models)
        self._moves: list[tuple[int, int]] = [(0, 0)]  # (index, ms)
        self.retirements = 0

    def apply(self, command: Command, term: int, index: int) -> None:
        """What it moves, it moves in the other tables too."""
        match command:
            case Retire() if command.before_ms > self.ms:
                self.retirements += 1
                self._moves.append((index, command.before_ms))
                self.models[damages.DamagesModel].forget(command.before_ms)
            case Lower(was_ms, horizon_ms, who, at_ms):
                is_lower = was_ms == self.ms > horizon_ms
                if is_lower and self.models[decisions.DecisionsModel].lower(horizon_ms, was_ms, index):
                    self._moves.append((index, horizon_ms))
                    record = TxId.new(at_ms, was_ms.to_bytes(10, "big"))
                    self.models[damages.DamagesModel].damages[record, "horizon"] = who

    @property
    def ms(self) -> int:
        """Where it is after the last command."""
        return self._moves[-1][1]

    @property
    def ms_max(self) -> int:
        """The highest that it ever was."""
        return max(ms for _, ms in self._moves)

    def ms_after(self, index: int) -> int:
        """Where it was after entry ``index``."""
        return self._moves[bisect_right(self._moves, (index, LAST)) - 1][1]

    def expected(self) -> Any:
        """See TableModel."""
        return {"horizon": self.ms}

    def found(self, ledger: Ledger) -> Any:
        """See TableModel."""
        return {"horizon": ledger.horizon_ms}
