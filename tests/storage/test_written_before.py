"""What the release before the tables of the ledger wrote is read as it was meant, and is written the same to the byte.

``node_of_format_2.sql`` and ``copy_of_format_2.sql`` are a node.db and a copy of its ledger as that release left them. Of its log
six entries are applied, with every kind of command in them, and two are not.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from raftcoord.consensus.disk import ledger_of
from raftcoord.core.commands import encode_command, encode_entry, open_entry
from raftcoord.core.machine import Ledger
from raftcoord.core.tables.damages import SETTLED, Damage
from raftcoord.core.tables.decisions import Closing
from raftcoord.core.tables.horizon import LOWERED
from raftcoord.storage import mark
from raftcoord.storage.node_db import NodeDb
from raftcoord.storage.schema import NODE_DB_ID, SNAPSHOT_ID
from raftcoord.types import State, TxId

from .filling import START_MS, field, items, opened, write
from .test_snapshot import SnapshotInfo, info_of

HERE = Path(__file__).parent
MARK = mark.Reach(3, 8)
TABLES = ("decisions", "damages", "participants")


def made_of(sql: str, path: Path, application_id: int) -> None:
    """The file that release wrote, with its head."""
    journal = "WAL" if application_id == NODE_DB_ID else "OFF"
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute(f"PRAGMA journal_mode={journal}").fetchall()
        db.execute(f"PRAGMA application_id={application_id}")
        db.execute("PRAGMA user_version=2")
        db.executescript((HERE / sql).read_text(encoding="utf-8"))


@pytest.fixture
def old(tmp_path: Path) -> Path:
    directory = tmp_path / "old"
    directory.mkdir()
    made_of("node_of_format_2.sql", directory / "node.db", NODE_DB_ID)
    (directory / mark.MARK_FILE).write_bytes(mark._sealed(MARK))
    return directory


def txid(number: int) -> TxId:
    return TxId.new(START_MS + number, number.to_bytes(10, "big"))


def rows_in(path: Path) -> list[object]:
    with closing(sqlite3.connect(path)) as db:
        return [db.execute(f"SELECT * FROM {table} ORDER BY 1, 2").fetchall() for table in TABLES]


def applied(ledger: Ledger, db: NodeDb, after: int) -> None:
    """What a node does after its start: the entries of its log that it had not stored."""
    for row in db.load().log:
        if row.index > after:
            for command in open_entry(row.data[1:]).commands():
                ledger.apply(command, row.term, row.index)


def test_its_node_starts_with_all_that_it_had(old: Path) -> None:
    with closing(opened(old)) as db:
        stored = db.load()
        assert (stored.term, stored.vote, stored.applied_index, stored.log[-1].index) == (3, 2, 6, 8)
        assert (field(stored, "cluster"), field(stored, "horizon_ms")) == ("0123456789abcdef", START_MS + 4)
        assert (stored.node_uuid, stored.enrolled) == (b"\x11" * 16, {"n3": "33" * 16})
        assert stored.members is not None
        assert stored.members.names == ("n1", "n2", "n3")
        assert [one.identity[:2] for one in items(stored, "participants")] == ["aa", "bb"]
        ledger = ledger_of(stored)
        forgotten, committed, aborted = State.FORGOTTEN, State.COMMITTED, State.ABORTED
        states = [forgotten, committed, forgotten, committed, committed, aborted, committed, committed]
        assert [ledger.state(txid(number)) for number in range(1, 9)] == states
        applied(ledger, db, stored.applied_index)
        assert (ledger.horizon_ms, ledger.state(txid(20))) == (START_MS + 3, State.COMMITTED)
        decided = ledger.decision(txid(4))
        assert decided is not None
        assert decided.closed == (Closing("bank-a", "ops", SETTLED, START_MS + 31),)
        assert Damage(txid(5), "bank-b", "committed by hand", START_MS + 21, "anna") in ledger.damages()
        assert LOWERED in {damage.branch for damage in ledger.damages()}


def test_the_same_log_gives_the_same_rows(old: Path, tmp_path: Path) -> None:
    """The first entry is compacted there: what it brought is taken from the file, and the rest is applied anew."""
    with closing(opened(old)) as db, closing(opened(tmp_path / "new")) as new:
        log = db.load().log
        ledger = Ledger({name: part for name, part in db.load().tables.items() if name == "founding"})
        bound = open_entry(log[3].data[1:]).commands()[1]
        for name, identity in (("bank-a", "aa" * 16), ("bank-b", "b0" * 16)):
            ledger.apply(type(bound)(name, identity, "", "", START_MS), 3, 2)  # type: ignore[call-arg]
        for row in log[:4]:
            sealed = open_entry(row.data[1:])
            again = encode_entry(sealed.origin, sealed.boot, sealed.seq, list(map(encode_command, sealed.commands())))
            assert again == row.data[1:]
            for command in sealed.commands():
                ledger.apply(command, row.term, row.index)
        new.write(write(changes=ledger.take_changes()))
    assert rows_in(tmp_path / "new" / "node.db") == rows_in(old / "node.db")


def test_its_copy_is_installed(old: Path, tmp_path: Path) -> None:
    path = tmp_path / "copy-1.tmp"
    made_of("copy_of_format_2.sql", path, SNAPSHOT_ID)
    with closing(opened(tmp_path / "n2", node="n2")) as follower, closing(opened(old)) as db:
        follower.install(path, info_of(path, SnapshotInfo(6, 3, 0, 0)))
        ours, theirs = follower.load(), db.load()
        assert ours.tables == theirs.tables
        copied = follower.snapshot_to(tmp_path / "copy-2.tmp")
        assert (copied.index, copied.term) == (6, 3)
    assert rows_in(tmp_path / "copy-2.tmp") == rows_in(path)
