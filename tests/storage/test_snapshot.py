"""A copy of the ledger is the ledger, or it is refused and changes nothing."""

from __future__ import annotations

import random
import sqlite3
import threading
import zlib
from contextlib import closing
from pathlib import Path

import pytest

from raftcoord.core.tables.table import TableChange
from raftcoord.errors import ConfigError, CorruptionError, Halt, StorageError
from raftcoord.storage.node_db import LogRow, NodeDb, SnapshotInfo
from raftcoord.storage.schema import FORMAT

from .filling import contents, decision, files_of, fill, items, opened, puts, rows, txid, write


@pytest.fixture
def leader(tmp_path: Path) -> NodeDb:
    db = opened(tmp_path / "n1")
    fill(db)
    return db


@pytest.fixture
def follower(tmp_path: Path) -> NodeDb:
    """It has other decisions, a log of its own, a vote, and knows a peer."""
    db = opened(tmp_path / "n2", node="n2")
    stale = puts(*(decision(n, commit=False, outstanding=()) for n in range(200, 230)))
    db.write(write(append=rows(2, 9), hard_state=(7, 1), changes=stale, applied=(5, 1), peers={"n1": "11" * 16}))
    return db


def info_of(path: Path, like: SnapshotInfo) -> SnapshotInfo:
    """The info that would make ``path`` pass for what was announced."""
    raw = path.read_bytes()
    return like._replace(bytes=len(raw), crc32=zlib.crc32(raw))


def assert_refused(follower: NodeDb, path: Path, info: SnapshotInfo, why: str) -> None:
    before, files = contents(follower), files_of(follower.directory)
    with pytest.raises(CorruptionError, match=why):
        follower.install(path, info)
    assert contents(follower) == before
    assert files_of(follower.directory) == files
    follower.write(write())  # and it lives


def test_an_installed_snapshot_is_the_ledger_it_was_made_from(tmp_path: Path, leader: NodeDb, follower: NodeDb) -> None:
    info = leader.snapshot_to(tmp_path / "copy-1.tmp")
    assert (info.index, info.term) == (12, 1)
    assert info == info_of(tmp_path / "copy-1.tmp", info)
    follower.install(tmp_path / "copy-1.tmp", info)
    (theirs, their_lists), (ours, our_lists) = contents(leader), contents(follower)
    assert our_lists == their_lists
    own = {"term": 7, "vote": 1, "node_uuid": ours.node_uuid, "peers": {"n1": "11" * 16}}
    assert ours == theirs._replace(log=[LogRow(12, 1, b"\x01")], **own)
    assert ours.enrolled == {"n3": "33" * 16}
    assert ours.node_uuid != theirs.node_uuid
    follower.write(write(append=rows(13, 14), applied=(13, 1)))
    again = contents(follower)
    follower.close()
    follower = opened(tmp_path / "n2", node="n2")
    assert contents(follower) == again
    follower.close()
    leader.close()


def test_a_snapshot_has_no_log_in_it(tmp_path: Path, leader: NodeDb) -> None:
    leader.write(write(append=[LogRow(21, 2, b"never to be copied" * 10_000)]))
    info = leader.snapshot_to(tmp_path / "copy-1.tmp")
    assert info.bytes < 100_000
    assert b"never to be copied" not in (tmp_path / "copy-1.tmp").read_bytes()
    leader.close()


def test_a_snapshot_shows_one_moment_while_writes_go_on(tmp_path: Path, leader: NodeDb, follower: NodeDb) -> None:
    """Each write brings one decision and its index together; so must each copy."""
    stop = threading.Event()

    def write_on() -> None:
        index = 13
        while not stop.is_set():
            made = puts(decision(1000 + index, index=index))
            leader.write(write(append=rows(index + 8, index + 8), changes=made, applied=(index, 1)))
            index += 1

    writer = threading.Thread(target=write_on)
    writer.start()
    try:
        infos = [leader.snapshot_to(tmp_path / f"copy-{n}.tmp") for n in range(15)]
    finally:
        stop.set()
        writer.join()
    assert infos[-1].index > infos[0].index
    for n, info in enumerate(infos):
        follower.install(tmp_path / f"copy-{n}.tmp", info)
        last = max(items(follower.load()))
        assert last.index == info.index or (info.index == 12 and last.txid < txid(1000))
    follower.close()
    leader.close()


def test_a_snapshot_that_is_not_the_announced_file_changes_nothing(
    tmp_path: Path, leader: NodeDb, follower: NodeDb
) -> None:
    path = tmp_path / "copy-1.tmp"
    info = leader.snapshot_to(path)
    whole = path.read_bytes()
    rng = random.Random(1)
    for offset in [0, len(whole) - 1, *(rng.randrange(len(whole)) for _ in range(20))]:
        raw = bytearray(whole)
        raw[offset] ^= 1 << rng.randrange(8)
        path.write_bytes(raw)
        assert_refused(follower, path, info, "checksum")
    for cut in (0, 1, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        assert_refused(follower, path, info, f"{cut} bytes")
    path.write_bytes(whole + b"\0")
    assert_refused(follower, path, info, "checksum")
    path.unlink()
    assert_refused(follower, path, info, "No such file")
    follower.close()
    leader.close()


def test_a_snapshot_damaged_before_it_was_announced_is_refused_or_the_same(
    tmp_path: Path, leader: NodeDb, follower: NodeDb
) -> None:
    """The sum over the file proves the way, not the origin: each row proves itself once more."""
    path = tmp_path / "copy-1.tmp"
    info = leader.snapshot_to(path)
    whole = path.read_bytes()
    good = contents(leader)[1]
    used = [offset for offset, byte in enumerate(whole) if byte]
    rng = random.Random(2)
    refused = 0
    for _ in range(120):
        raw = bytearray(whole)
        raw[rng.choice(used)] ^= 1 << rng.randrange(8)
        path.write_bytes(raw)
        before = contents(follower)
        try:
            follower.install(path, info_of(path, info))
        except (CorruptionError, ConfigError):
            assert contents(follower) == before
            refused += 1
        else:
            assert contents(follower)[1] == good
    assert refused > 60
    follower.close()
    leader.close()


def edited(path: Path, sql: str) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        db.execute(sql)


@pytest.mark.parametrize(
    ("sql", "why"),
    [
        ("UPDATE decisions SET crc = crc + 1", "the decision of transaction"),
        ("UPDATE damages SET crc = crc + 1", "the damage recorded"),
        ("UPDATE meta SET crc = crc + 1", "'snapshot'"),
        ("DELETE FROM meta", "'snapshot'"),
        ("CREATE TABLE log(idx)", "its tables"),
        ("PRAGMA application_id=7", "its header"),
    ],
)
def test_a_snapshot_that_was_edited_is_refused(
    tmp_path: Path, leader: NodeDb, follower: NodeDb, sql: str, why: str
) -> None:
    path = tmp_path / "copy-1.tmp"
    info = leader.snapshot_to(path)
    edited(path, sql)
    assert_refused(follower, path, info_of(path, info), why)
    follower.close()
    leader.close()


def test_a_snapshot_that_lost_a_row_is_refused(tmp_path: Path, leader: NodeDb, follower: NodeDb) -> None:
    """Each row that is left is right; only the structure of its page shows that one is not there."""
    path = tmp_path / "copy-1.tmp"
    info = leader.snapshot_to(path)
    whole = path.read_bytes()
    tried = 0
    for page in range(4096, len(whole), 4096):
        cells = int.from_bytes(whole[page + 3 : page + 5], "big")  # https://sqlite.org/fileformat2.html section 1.6
        if whole[page] == 10 and cells > 1:
            raw = bytearray(whole)
            raw[page + 3 : page + 5] = (cells - 1).to_bytes(2, "big")
            path.write_bytes(raw)
            assert_refused(follower, path, info_of(path, info), "integrity_check")
            tried += 1
    assert tried
    follower.close()
    leader.close()


@pytest.mark.parametrize("sql", ["UPDATE meta SET crc = crc + 1", "UPDATE meta SET value = 5", "DELETE FROM meta"])
def test_a_damaged_node_gives_no_snapshot(tmp_path: Path, leader: NodeDb, sql: str) -> None:
    edited(tmp_path / "n1" / "node.db", sql)
    with pytest.raises(CorruptionError, match="'state'"):
        leader.snapshot_to(tmp_path / "copy-1.tmp")
    leader.close()


def test_a_snapshot_of_a_newer_release_asks_for_that_release(tmp_path: Path, leader: NodeDb, follower: NodeDb) -> None:
    path = tmp_path / "copy-1.tmp"
    info = leader.snapshot_to(path)
    edited(path, f"PRAGMA user_version={FORMAT + 1}")
    before = contents(follower)
    with pytest.raises(ConfigError, match="newer release"):
        follower.install(path, info_of(path, info))
    assert contents(follower) == before
    follower.close()
    leader.close()


def test_a_snapshot_under_another_index_or_term_is_refused(tmp_path: Path, leader: NodeDb, follower: NodeDb) -> None:
    path = tmp_path / "copy-1.tmp"
    info = leader.snapshot_to(path)
    assert_refused(follower, path, info._replace(index=13), "announced as 13")
    assert_refused(follower, path, info._replace(term=2), "announced as 12 of 2")
    follower.close()
    leader.close()


def test_a_snapshot_of_a_cluster_with_another_name_is_refused(tmp_path: Path, follower: NodeDb) -> None:
    other = opened(tmp_path / "other", cluster_name="other")
    other.write(write(append=rows(2, 20), applied=(20, 1)))
    info = other.snapshot_to(tmp_path / "copy-1.tmp")
    assert_refused(follower, tmp_path / "copy-1.tmp", info, "'other'")
    other.close()
    follower.close()


def test_a_snapshot_of_another_cluster_of_the_same_name_is_refused(
    tmp_path: Path, leader: NodeDb, follower: NodeDb
) -> None:
    """Two clusters may both be called demo; the id minted at founding tells them apart."""
    follower.write(write(changes={"founding": TableChange(fields={"cluster": "fedcba9876543210"})}))
    info = leader.snapshot_to(tmp_path / "copy-1.tmp")
    assert_refused(follower, tmp_path / "copy-1.tmp", info, "0123456789abcdef")
    follower.close()
    leader.close()


def test_a_node_of_the_founded_cluster_refuses_one_that_was_not_founded(tmp_path: Path, follower: NodeDb) -> None:
    unfounded = opened(tmp_path / "n3", node="n3")
    unfounded.write(write(append=rows(2, 20), applied=(20, 1)))
    info = unfounded.snapshot_to(tmp_path / "copy-1.tmp")
    follower.write(write(changes={"founding": TableChange(fields={"cluster": "fedcba9876543210"})}))
    assert_refused(follower, tmp_path / "copy-1.tmp", info, "not founded")
    unfounded.close()
    follower.close()


def test_a_ledger_never_goes_back_to_an_older_one(tmp_path: Path, leader: NodeDb, follower: NodeDb) -> None:
    info = leader.snapshot_to(tmp_path / "copy-1.tmp")
    follower.write(write(append=rows(10, 13), applied=(12, 1)))
    follower.install(tmp_path / "copy-1.tmp", info)  # as old as the ledger here: the same ledger
    follower.write(write(append=rows(13, 13), applied=(13, 1)))
    before = contents(follower)
    with pytest.raises(Halt, match="older"):
        follower.install(tmp_path / "copy-1.tmp", info)
    assert contents(follower) == before
    follower.close()
    leader.close()


def test_a_snapshot_that_cannot_be_written_harms_nobody(tmp_path: Path, leader: NodeDb) -> None:
    with pytest.raises(StorageError, match="The node goes on without it"):
        leader.snapshot_to(tmp_path / "missing" / "copy-1.tmp")
    leader.write(write(append=rows(21, 21)))
    leader.close()


def test_a_snapshot_replaces_what_stood_under_its_name(tmp_path: Path, leader: NodeDb) -> None:
    path = tmp_path / "copy-1.tmp"
    path.write_bytes(b"of an older attempt" * 10_000)
    info = leader.snapshot_to(path)
    assert info == info_of(path, info)
    leader.close()
