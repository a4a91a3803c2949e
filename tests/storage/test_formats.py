"""A node.db of an older release is taken over whole, or left as it was; an older release refuses what a newer one wrote."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from raftcoord.core.tables.table import Part
from raftcoord.errors import ConfigError, CorruptionError
from raftcoord.storage import examine, schema
from raftcoord.storage.node_db import NodeDb, SnapshotInfo

from .filling import BINDINGS, contents, files_of, fill, items, opened, rows, write
from .test_snapshot import info_of

TESTS = Path(__file__).parent.parent


def make_first_format(path: Path) -> None:
    """Make the file in ``path`` what format 1 holds: the tables that format 2 added are gone, the rest is the same."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("DROP TABLE participants")
        db.execute("PRAGMA user_version=1")


def of_first_format(stored: object) -> object:
    """``contents`` without what format 1 cannot hold."""
    state, lists = stored  # type: ignore[misc]
    parts = {**state.tables, "participants": Part({}, [])}
    return state._replace(tables=parts), lists


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """The directory of a node that an older release stopped."""
    db = opened(tmp_path / "old")
    fill(db)
    db.close()
    make_first_format(tmp_path / "old" / "node.db")
    return tmp_path / "old"


def form_in_header(directory: Path) -> int:
    return int.from_bytes((directory / "node.db").read_bytes()[60:64], "big")


def test_a_node_of_the_first_format_is_taken_over(tmp_path: Path, old: Path) -> None:
    assert form_in_header(old) == 1
    new = opened(tmp_path / "new")
    fill(new)
    expected = of_first_format(contents(new))
    uuid = contents(new)[0].node_uuid
    new.close()
    for _ in range(2):
        db = opened(old)
        found, lists = contents(db)
        assert found.node_uuid != uuid
        assert (found._replace(node_uuid=uuid), lists) == expected
        db.close()
        assert form_in_header(old) == schema.FORMAT == 2
    db = opened(old)
    db.write(write(append=rows(21, 22, term=2)))
    db.close()


def test_a_killed_node_of_the_first_format_is_taken_over_with_its_write_ahead_log(tmp_path: Path) -> None:
    """What it acknowledged last is in node.db-wal alone."""
    db = opened(tmp_path / "n1")
    db._writer.execute("DROP TABLE participants")
    db._writer.execute("PRAGMA user_version=1")
    db._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    db.write(write(append=rows(2, 9), hard_state=(3, 1)))
    shutil.copytree(tmp_path / "n1", tmp_path / "killed")
    db.close()
    assert form_in_header(tmp_path / "killed") == 1
    with closing(opened(tmp_path / "killed")) as db:
        assert (db.load().log[-1].index, db.load().vote) == (9, 1)


CRASHING = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from raftcoord.storage import files
from storage.filling import opened

left = int(sys.argv[2])
connect = files.connect

def tracing(path, query):
    connection = connect(path, query)
    if query == "mode=rw":
        connection.set_trace_callback(count)
    return connection

def count(statement):
    global left
    left -= 1
    if left < 0:
        os._exit(9)

files.connect = tracing
opened(Path(sys.argv[1])).close()
"""


def test_a_crash_at_any_statement_of_the_takeover_loses_nothing(tmp_path: Path, old: Path) -> None:
    place = tmp_path / "n1"
    with closing(opened(shutil.copytree(old, tmp_path / "whole"))) as db:
        whole = contents(db)
    forms, finished = set(), False
    for statement in range(30):
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(old, place)
        program = [sys.executable, "-c", CRASHING, str(place), str(statement), str(TESTS)]
        finished = subprocess.run(program, check=False).returncode == 0
        forms.add(form_in_header(place))
        with closing(opened(place)) as db:
            assert contents(db) == whole
        assert form_in_header(place) == 2
        if finished:
            break
    assert finished
    assert forms == {1, 2}


def test_a_damaged_node_of_the_first_format_is_refused_and_not_touched(old: Path) -> None:
    with closing(sqlite3.connect(old / "node.db")) as db, db:
        db.execute("UPDATE decisions SET crc = crc + 1")
    before = files_of(old)
    with pytest.raises(CorruptionError, match="the decision of transaction"):
        opened(old)
    after = files_of(old)
    for files in (before, after):
        files.pop("LOCK", None)
        files.pop("node.db-wal", None)
    assert after == before


def test_a_first_format_with_a_table_of_the_second_is_refused(old: Path) -> None:
    """What is half of the one and half of the other, no release has written."""
    with closing(sqlite3.connect(old / "node.db")) as db:
        db.execute(schema.schema(schema.NODE_DB_ID)["participants"])
    with pytest.raises(CorruptionError, match="its tables"):
        opened(old)


def test_an_older_release_refuses_the_second_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As soon as the node has been opened by this release, before it has written anything else."""
    opened(tmp_path).close()
    monkeypatch.setattr(examine, "FORMAT", 1)
    monkeypatch.setattr(examine, "OLDER_FORMATS", ())
    with pytest.raises(ConfigError, match="has format 2, and this release of raftcoord reads format 1"):
        opened(tmp_path)


def test_a_newer_format_that_is_still_in_the_write_ahead_log_is_refused_as_one(tmp_path: Path) -> None:
    """A newer release that died before its checkpoint."""
    db = opened(tmp_path / "n1")
    db._writer.execute(f"PRAGMA user_version={schema.FORMAT + 1}")
    shutil.copytree(tmp_path / "n1", tmp_path / "killed")
    db._writer.execute(f"PRAGMA user_version={schema.FORMAT}")
    db.close()
    assert form_in_header(tmp_path / "killed") == schema.FORMAT
    with pytest.raises(ConfigError, match="a newer release wrote it"):
        opened(tmp_path / "killed")


@pytest.fixture
def leader(tmp_path: Path) -> NodeDb:
    db = opened(tmp_path / "leader")
    fill(db)
    return db


def copied(leader: NodeDb, path: Path) -> SnapshotInfo:
    return leader.snapshot_to(path)


def test_a_copy_brings_the_participants(tmp_path: Path, leader: NodeDb) -> None:
    info = copied(leader, tmp_path / "copy-1.tmp")
    with closing(leader), closing(opened(tmp_path / "n2", node="n2")) as follower:
        follower.install(tmp_path / "copy-1.tmp", info)
        assert items(follower.load(), "participants") == BINDINGS


def test_a_copy_that_an_older_release_made_is_read(tmp_path: Path, leader: NodeDb) -> None:
    """It has no participants, and neither had the log before it: an older release halts at the command that binds one."""
    path = tmp_path / "copy-1.tmp"
    info = copied(leader, path)
    make_first_format(path)
    with closing(leader), closing(opened(tmp_path / "n2", node="n2")) as follower:
        follower.install(path, info_of(path, info))
        assert items(follower.load(), "participants") == []
        assert contents(follower)[1] == contents(leader)[1]


def test_a_copy_with_a_damaged_participant_is_refused(tmp_path: Path, leader: NodeDb) -> None:
    path = tmp_path / "copy-1.tmp"
    info = copied(leader, path)
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("UPDATE participants SET crc = crc + 1")
    with closing(leader), closing(opened(tmp_path / "n2", node="n2")) as follower:
        before = contents(follower)
        with pytest.raises(CorruptionError, match="the identity of participant"):
            follower.install(path, info_of(path, info))
        assert contents(follower) == before
