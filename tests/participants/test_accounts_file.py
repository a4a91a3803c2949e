"""The participant's file is ours and whole, or it is refused, and then it is as it was."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from raftcoord.errors import ConfigError, CorruptionError
from raftcoord.participants.interface import Abort
from raftcoord.participants.sqlite import SqliteParticipant
from raftcoord.types import TxId

PREPARED, FINISHED = TxId.new(1_750_000_000_000, bytes(10)), TxId.new(1_750_000_000_001, bytes(10))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "bank.db"
    with closing(opened(made)) as bank:
        bank.join("00000000000000aa")
        bank.open_accounts({"alice": 100})
        bank.prepare(PREPARED, [{"op": "add", "key": "alice", "amount": -30}])
        bank.abort(FINISHED)
    return made


def opened(path: Path) -> SqliteParticipant:
    return SqliteParticipant(path, wall_ms=lambda: 1_750_000_000_010)


def change(path: Path, sql: str, *parameters: object) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA writable_schema = ON")
        assert db.execute(sql, parameters).rowcount == 1
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def test_the_database_of_another_program_is_left_as_it_is(tmp_path: Path) -> None:
    other = tmp_path / "other.db"
    with closing(sqlite3.connect(other)) as db:
        db.execute("CREATE TABLE t(a)")
    before = other.read_bytes()
    with pytest.raises(ConfigError, match="another program"):
        opened(other)
    assert other.read_bytes() == before


@pytest.mark.parametrize(
    ("sql", "value", "says"),
    [
        ("UPDATE prepared SET txid = ?", 5, "which is no txid"),
        ("UPDATE prepared SET record = ?", 5, "not what was written"),
        ("UPDATE accounts SET amount = ?", "many", "damaged"),
        ("UPDATE accounts SET amount = ?", 1.5, "an amount that is no integer"),
        ("UPDATE accounts SET key = ?", b"alice", "a key that is no text"),
        ("UPDATE meta SET value = ? WHERE name = 'cluster'", 5, "the entry 'cluster' of its table meta"),
        (
            "UPDATE sqlite_master SET sql = replace(sql, 'amount', ?) WHERE name = 'accounts'",
            "amounu",
            "its table accounts",
        ),
        ("UPDATE sqlite_master SET sql = sql || CAST(? AS TEXT) WHERE name = 'meta'", b" \xff", "not UTF-8"),
    ],
)
def test_a_file_of_other_content_is_refused_and_left_as_it_is(path: Path, sql: str, value: object, says: str) -> None:
    change(path, sql, value)
    before = path.read_bytes()
    with pytest.raises(CorruptionError, match=says):
        opened(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("verdict", [7, -1, "yes", b"x"])
def test_a_verdict_that_is_none_stops_the_participant_when_it_is_read(path: Path, verdict: object) -> None:
    change(path, "UPDATE finished SET verdict = ?", verdict)
    with closing(opened(path)) as bank, pytest.raises(CorruptionError, match="the verdict of transaction"):
        bank.run([Abort(FINISHED)])


def test_text_that_is_not_utf_8_is_damage_to_whoever_looks(path: Path) -> None:
    change(path, "UPDATE accounts SET key = CAST(? AS TEXT)", b"al\xff")
    with closing(opened(path)) as bank, pytest.raises(CorruptionError, match="not UTF-8"):
        bank.balances()
