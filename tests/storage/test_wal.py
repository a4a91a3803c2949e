"""The write-ahead log's length: there from the start, and never more than a matter of speed."""

import errno
import os
import sqlite3
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from raftcoord.storage import wal
from raftcoord.storage.wal import lengthen

SIZE = 4 << 20


def database(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("CREATE TABLE IF NOT EXISTS t (x)")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    return connection


def test_commits_reuse_the_length_and_survive_a_copy_of_the_files(tmp_path: Path) -> None:
    path, copy = tmp_path / "a.db", tmp_path / "b.db"
    connection = database(path)
    lengthen(path, SIZE)
    for i in range(100):
        connection.execute("INSERT INTO t VALUES (?)", (i,))
    log = path.with_name("a.db-wal")
    assert log.stat().st_size == SIZE
    copy.write_bytes(path.read_bytes())
    copy.with_name("b.db-wal").write_bytes(log.read_bytes())  # as a crash would leave them
    assert sqlite3.connect(copy).execute("SELECT count(*) FROM t").fetchone() == (100,)
    connection.close()


def test_a_log_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    connection = database(path)
    connection.execute("INSERT INTO t VALUES (1)")
    before = path.with_name("a.db-wal").read_bytes()
    lengthen(path, SIZE)
    assert path.with_name("a.db-wal").read_bytes() == before
    connection.close()


def test_a_disk_without_room_costs_only_speed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.db"
    connection = database(path)
    real = os.write
    room = [1 << 20]

    def write(fd: int, data: Any) -> int:
        if room[0] <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        room[0] -= len(data)
        return real(fd, data)

    monkeypatch.setattr(os, "write", write)
    lengthen(path, SIZE)
    assert path.with_name("a.db-wal").stat().st_size == 0
    connection.execute("INSERT INTO t VALUES (1)")
    connection.close()


@pytest.mark.parametrize(("free", "length"), [(wal.ROOM_TIMES * SIZE - 1, 0), (wal.ROOM_TIMES * SIZE, SIZE)])
def test_a_nearly_full_disk_keeps_its_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, length: int
) -> None:
    path = tmp_path / "a.db"
    connection = database(path)
    monkeypatch.setattr(wal.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    lengthen(path, SIZE)
    assert path.with_name("a.db-wal").stat().st_size == length
    connection.close()
