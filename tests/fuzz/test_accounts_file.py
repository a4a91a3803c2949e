"""The SQLite participant's file: whatever became of a cell or a byte, it is refused, or what it promised is still there.

An account's amount bears no checksum (other programs read the file): it may have any value that an account can hold.
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from raftcoord.errors import ConfigError, CorruptionError, RaftcoordError, StorageError
from raftcoord.participants.interface import Abort, Commit, Prepare
from raftcoord.participants.operations import is_amount
from raftcoord.participants.sqlite import SqliteParticipant
from raftcoord.types import TxId, Vote

from .effort import examples
from .shapes import NOW_MS, ints, texts
from .test_node_db import spoiled

REFUSALS: Final = (CorruptionError, ConfigError, StorageError)
COLUMNS: Final = {
    "meta": ("name", "value"),
    "accounts": ("key", "amount"),
    "prepared": ("txid", "record", "crc"),
    "finished": ("txid", "verdict", "at_ms"),
}
PREPARED, COMMITTED, ABORTED, NEW = (TxId.new(NOW_MS + step, bytes(10)) for step in range(4))
cells = st.none() | ints.filter(lambda n: -(1 << 63) <= n < 1 << 63) | st.floats() | texts | st.binary(max_size=20)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with accounts, one branch in doubt, and two that are finished."""
    path = tmp_path_factory.mktemp("good") / "bank.db"
    with closing(bank_in(path)) as bank:
        bank.join("00000000000000aa")
        bank.open_accounts({"alice": 100, "bob": 50})
        bank.prepare(COMMITTED, [{"op": "add", "key": "bob", "amount": 1}])
        bank.commit(COMMITTED)
        bank.abort(ABORTED)
        bank.prepare(PREPARED, [{"op": "add", "key": "alice", "amount": -30, "min": 0}])
    return path


def bank_in(path: Path) -> SqliteParticipant:
    return SqliteParticipant(path, wall_ms=lambda: NOW_MS + 10)


def held_after(good: Path, damage: Callable[[Path], object]) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "bank.db"
        shutil.copy(good, path)
        damage(path)
        before = path.read_bytes()
        try:
            bank = bank_in(path)
        except REFUSALS as error:
            event(f"refused: {type(error).__name__}")
            bank = None
        if bank is None:
            assert path.read_bytes() == before
            return
        with closing(bank):
            used(bank)


def used(bank: SqliteParticipant) -> None:
    """It serves every request with an answer, or stops with an error of ours."""
    try:
        bank.join("00000000000000aa")
        bank.run([])
        requests: list[Any] = [
            Prepare(
                NEW, [{"op": "add", "key": "bob", "amount": 5}, {"op": "add", "key": "alice", "amount": 1}], NOW_MS + 99
            ),
            *(Prepare(txid, [{"op": "delete", "key": "bob"}], NOW_MS + 99) for txid in (PREPARED, COMMITTED, ABORTED)),
            *(Commit(txid) for txid in (PREPARED, COMMITTED, ABORTED)),
            *(Abort(txid) for txid in (NEW, PREPARED, COMMITTED, ABORTED)),
        ]
        replies = bank.run(requests)
    except REFUSALS as error:
        event(f"stopped: {type(error).__name__}")
        return
    event("served")
    assert all(reply is None or isinstance(reply, (Vote, RaftcoordError)) for _, reply in replies)
    assert all(is_amount(amount) for amount in bank.balances().values())


@examples(100)
@given(st.data())
def test_a_file_of_damaged_bytes_is_served_or_refused(good: Path, data: st.DataObject) -> None:
    made = data.draw(spoiled(good.read_bytes()) | st.binary(max_size=60))
    held_after(good, lambda path: path.write_bytes(made))


@st.composite
def statements(draw: st.DrawFn) -> tuple[str, list[Any]]:
    """One change of one row, by SQL."""
    table = draw(st.sampled_from(sorted(COLUMNS)))
    columns = COLUMNS[table]
    column = draw(st.sampled_from(columns))
    where = f"WHERE ({columns[0]}) IN (SELECT {columns[0]} FROM {table} LIMIT 1 OFFSET {draw(st.integers(0, 2))})"
    match draw(st.sampled_from(["set", "set", "set", "cast", "delete", "insert"])):
        case "set":
            return f"UPDATE {table} SET {column} = ? {where}", [draw(cells)]
        case "cast":
            kind = draw(st.sampled_from(["TEXT", "BLOB", "INTEGER", "REAL"]))
            return f"UPDATE {table} SET {column} = CAST({column} AS {kind}) {where}", []
        case "delete":
            return f"DELETE FROM {table} {where}", []
    return f"INSERT INTO {table} VALUES({', '.join('?' * len(columns))})", [draw(cells) for _ in columns]


@examples(100)
@given(st.lists(statements(), min_size=1, max_size=2))
def test_a_file_of_changed_cells_is_served_or_refused(good: Path, changes: list[tuple[str, list[Any]]]) -> None:
    def damage(path: Path) -> None:
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            for sql, parameters in changes:
                with suppress(sqlite3.IntegrityError, sqlite3.OperationalError):
                    db.execute(sql, parameters)
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    held_after(good, damage)
