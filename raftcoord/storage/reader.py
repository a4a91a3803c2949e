"""Reading the rows of an open node.db.

Owes: every row that it gives has just passed its checksum, and every read shows each write that has returned. Never writes.
"""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path
from typing import Any, Final

from raftcoord.core.decisions import Binding, Damage, Decision
from raftcoord.errors import LocalProtocolError
from raftcoord.storage.faults import corrupt, refused_read
from raftcoord.storage.records import (
    UNREADABLE,
    LogRow,
    binding_crc,
    damage_crc,
    decision_crc,
    log_crc,
    read_binding,
    read_damage,
    read_decision,
)
from raftcoord.storage.schema import connect
from raftcoord.types import TxId

_FLAGS_OF: Final[dict[str, tuple[int, ...]]] = {"aborted": (0, 2), "committed": (1, 3, 5, 7), "open": (2, 3, 7)}
_ROW: Final = "txid, flags, record, crc"
_ABOVE_ALL: Final = b"\xff" * 17

_BY_TXID: Final = f"SELECT {_ROW} FROM decisions WHERE txid = ?"
_NEWEST: Final = f"SELECT {_ROW} FROM decisions WHERE txid < ? ORDER BY txid DESC LIMIT ?"
_WITH_FLAGS: Final = (
    f"SELECT * FROM (SELECT {_ROW} FROM decisions INDEXED BY decisions_by_flags "
    "WHERE flags = ? AND txid < ? ORDER BY txid DESC LIMIT ?)"
)
_NEWEST_IN_STATE: Final = {
    state: f"{' UNION ALL '.join([_WITH_FLAGS] * len(flags))} ORDER BY txid DESC LIMIT ?"
    for state, flags in _FLAGS_OF.items()
}
_NO_LIMIT: Final = -1


class Reader:
    """A read-only connection to the node.db at ``path``. Its calls raise CorruptionError, and StorageError if the disk does."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection = connect(path, "mode=ro")

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def decision(self, txid: TxId) -> Decision | None:
        """The stored decision, or None."""
        found = self._decisions(_BY_TXID, (txid,))
        return found[0] if found else None

    def newest(self, state: str | None, limit: int, before: bytes | None) -> list[Decision]:
        """The newest ``limit`` decisions in ``state`` with a txid below ``before``; see NodeDb.decisions."""
        if limit < 1 or (state is not None and state not in _FLAGS_OF):
            raise LocalProtocolError(
                f"cannot list {limit} decisions in state {state!r}: use a limit of 1 or more, and one of "
                f"{', '.join(_FLAGS_OF)}, or no state for all"
            )
        below = _ABOVE_ALL if before is None else before
        if state is None:
            return self._decisions(_NEWEST, (below, limit))
        return self._in_state(state, below, limit)

    def memory(self, keep: int) -> tuple[list[Decision], bytes]:
        """The newest ``keep`` decisions and every open one, and the txid at or above which none is left out (b"" for all)."""
        newest = self._decisions(_NEWEST, (_ABOVE_ALL, keep))
        if len(newest) < keep:
            return newest, b""
        floor = bytes(newest[-1].txid)
        return newest + self._in_state("open", floor, _NO_LIMIT), floor

    def log(self) -> list[LogRow]:
        """The whole log."""
        return [self._log_row(*row) for row in self._rows("SELECT idx, term, data, crc FROM log ORDER BY idx")]

    def damages(self) -> list[Damage]:
        """All heuristic damage."""
        return [self._damage(*row) for row in self._rows("SELECT txid, branch, record, crc FROM damages")]

    def participants(self) -> list[Binding]:
        """Every participant whose state is known."""
        return [self._binding(*row) for row in self._rows("SELECT name, record, crc FROM participants")]

    def _in_state(self, state: str, below: bytes, limit: int) -> list[Decision]:
        parameters = [value for flags in _FLAGS_OF[state] for value in (flags, below, limit)]
        return self._decisions(_NEWEST_IN_STATE[state], (*parameters, limit))

    def _decisions(self, sql: str, parameters: tuple[Any, ...]) -> list[Decision]:
        return [self._decision(*row) for row in self._rows(sql, parameters)]

    def _rows(self, sql: str, parameters: tuple[Any, ...] = ()) -> list[Any]:
        try:
            # fetchall ends the read transaction: a cursor left half read would go on showing the past.
            return self._connection.execute(sql, parameters).fetchall()
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise refused_read(error, self._path) from error

    def _decision(self, txid: bytes, flags: int, record: bytes, crc: int) -> Decision:
        with contextlib.suppress(*UNREADABLE):
            if decision_crc(txid, flags, record) == crc:
                return read_decision(txid, record)
        raise corrupt(self._path, f"the decision of transaction {_hex(txid)} has a wrong checksum")

    def _log_row(self, index: int, term: int, data: bytes, crc: int) -> LogRow:
        with contextlib.suppress(*UNREADABLE):
            if log_crc(index, term, data) == crc:
                return LogRow(index, term, data)
        raise corrupt(self._path, f"log entry {index} has a wrong checksum")

    def _damage(self, txid: bytes, branch: bytes, record: bytes, crc: int) -> Damage:
        with contextlib.suppress(*UNREADABLE):
            if damage_crc(txid, branch, record) == crc:
                return read_damage(txid, branch, record)
        raise corrupt(self._path, f"the damage recorded for transaction {_hex(txid)} has a wrong checksum")

    def _binding(self, name: bytes, record: bytes, crc: int) -> Binding:
        with contextlib.suppress(*UNREADABLE):
            if binding_crc(name, record) == crc:
                return read_binding(name, record)
        raise corrupt(self._path, f"the identity of participant {name!r} has a wrong checksum")


def _hex(txid: object) -> str:
    return txid.hex() if isinstance(txid, bytes) else repr(txid)
