"""A damaged file is refused, with the way out, and left as it was found; or the damage is where nothing is kept."""

from __future__ import annotations

import random
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from raftcoord.core.tables.damages import Damages
from raftcoord.core.tables.decisions import Decisions
from raftcoord.errors import ConfigError, CorruptionError, Halt, RaftcoordError
from raftcoord.storage.node_db import NodeDb
from raftcoord.storage.records import NO_EPOCHS, field_row, log_crc, read_state, state_row
from raftcoord.storage.schema import FORMAT
from raftcoord.types import Verdict

from .filling import MEMBERS, contents, decision, files_of, fill, items, opened, puts, rows, txid, write

WAY_OUT = "it then copies the ledger from the others"


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a node that was stopped."""
    directory = tmp_path_factory.mktemp("closed")
    db = opened(directory)
    fill(db)
    db.write(write(joined=MEMBERS._replace(epoch=4)))
    db.close()
    return directory


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a node that was killed: its last writes are in node.db-wal only."""
    running, directory = tmp_path_factory.mktemp("running"), tmp_path_factory.mktemp("killed")
    db = opened(running)
    db.write(write(append=rows(2, 3)))
    db._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    fill_after(db)
    shutil.copytree(running, directory, dirs_exist_ok=True)
    db.close()
    return directory


def fill_after(db: NodeDb) -> None:
    for number in range(6):
        changes = puts(*(decision(10 * number + n) for n in range(10)))
        db.write(write(append=rows(4 + number, 4 + number), changes=changes, hard_state=(number + 1, 2)))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "n1"


def flip(path: Path, offset: int, bit: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[offset] ^= 1 << bit
    path.write_bytes(raw)


def refused(directory: Path) -> RaftcoordError | None:
    """The error of an open that refuses, having changed nothing; None if it opens."""
    before = files_of(directory)
    error: RaftcoordError | None = None
    try:
        opened(directory).close()
    except (CorruptionError, ConfigError) as caught:
        error = caught
    if error is not None:
        after = files_of(directory)
        # LOCK names the process that looked. An empty log holds nothing; SQLite may make it or not.
        for files in (before, after):
            files.pop("LOCK", None)
            if not files.get("node.db-wal", b"x"):
                del files["node.db-wal"]
        assert after == before, f"changed although refused: {error}"
    return error


def assert_harmless_or_refused(original: Path, place: Path, name: str, flips: list[tuple[int, int]]) -> int:
    """Try each flip of (offset, bit) in file ``name``; return how many were refused."""
    shutil.copytree(original, place)
    db = opened(place)
    good = contents(db)
    db.close()
    found = 0
    for offset, bit in flips:
        shutil.rmtree(place)
        shutil.copytree(original, place)
        flip(place / name, offset, bit)
        if refused(place) is not None:
            found += 1
            continue
        db = opened(place)
        assert contents(db) == good, f"bit {bit} of byte {offset} of {name} changed what is read"
        db.close()
    return found


def sample(size: int, count: int, seed: int) -> list[tuple[int, int]]:
    rng = random.Random(seed)
    return [(rng.randrange(size), rng.randrange(8)) for _ in range(count)]


def test_a_flipped_bit_in_node_db_is_refused_or_harmless(closed: Path, place: Path) -> None:
    size = (closed / "node.db").stat().st_size
    used = [offset for offset, byte in enumerate((closed / "node.db").read_bytes()) if byte]
    rng = random.Random(1)
    flips = sample(size, 150, seed=2) + [(rng.choice(used), rng.randrange(8)) for _ in range(150)]
    assert assert_harmless_or_refused(closed, place, "node.db", flips) > 100


def test_a_flipped_bit_in_the_header_is_refused_or_harmless(closed: Path, place: Path) -> None:
    flips = [(offset, offset % 8) for offset in range(120)]
    assert assert_harmless_or_refused(closed, place, "node.db", flips) > 60


def test_a_flipped_bit_in_the_write_ahead_log_is_refused_or_harmless(killed: Path, place: Path) -> None:
    """SQLite takes it for the end of the log and forgets the rest; the mark says that there was more."""
    size = (killed / "node.db-wal").stat().st_size
    assert size > 50_000
    flips = sample(size, 150, seed=3) + [(offset, 0) for offset in range(0, 56, 3)]
    assert assert_harmless_or_refused(killed, place, "node.db-wal", flips) > 120


def test_a_flipped_bit_in_the_mark_is_refused(killed: Path, place: Path) -> None:
    size = (killed / "node.mark").stat().st_size
    assert assert_harmless_or_refused(killed, place, "node.mark", [(n, n % 8) for n in range(size)]) == size


@pytest.mark.parametrize("part", [0, 1, 50, 99, 100, 511, 4095, 4096, 0.5, -4096, -1])
def test_a_node_db_cut_short_is_refused(closed: Path, place: Path, part: float) -> None:
    shutil.copytree(closed, place)
    raw = (place / "node.db").read_bytes()
    (place / "node.db").write_bytes(raw[: int(part * len(raw)) if isinstance(part, float) else part])
    error = refused(place)
    assert isinstance(error, CorruptionError)
    assert WAY_OUT in str(error)
    assert str(place / "node.db") in str(error)


@pytest.mark.parametrize("part", [0, 1, 31, 32, 33, 5000, 0.5, -4120, -1])
def test_a_write_ahead_log_cut_short_is_refused(killed: Path, place: Path, part: float) -> None:
    shutil.copytree(killed, place)
    raw = (place / "node.db-wal").read_bytes()
    (place / "node.db-wal").write_bytes(raw[: int(part * len(raw)) if isinstance(part, float) else part])
    error = refused(place)
    assert isinstance(error, CorruptionError)
    assert "node.db-wal was cut, damaged or removed" in str(error)
    assert WAY_OUT in str(error)


@pytest.mark.parametrize("name", ["node.db", "node.db-wal", "node.mark"])
def test_a_file_that_was_removed_is_missed(killed: Path, place: Path, name: str) -> None:
    """Without node.db the node would be new and could vote a second time in the same term."""
    shutil.copytree(killed, place)
    (place / name).unlink()
    assert isinstance(refused(place), CorruptionError)


def test_a_node_db_that_was_removed_after_a_clean_stop_is_missed(closed: Path, place: Path) -> None:
    shutil.copytree(closed, place)
    (place / "node.db").unlink()
    error = refused(place)
    assert isinstance(error, CorruptionError)
    assert "the file is gone" in str(error)


def test_an_old_copy_put_back_is_refused(tmp_path: Path) -> None:
    """A node that forgets a vote or an acknowledged entry breaks what the others rely on."""
    db = opened(tmp_path)
    db.write(write(hard_state=(1, 2)))
    db.close()
    old = (tmp_path / "node.db").read_bytes()
    db = opened(tmp_path)
    db.write(write(hard_state=(2, 3)))
    db.close()
    (tmp_path / "node.db").write_bytes(old)
    error = refused(tmp_path)
    assert isinstance(error, CorruptionError)
    assert "an old copy was put back" in str(error)


def test_a_torn_tail_that_nobody_acknowledged_is_cut_off(killed: Path, place: Path) -> None:
    """A power cut in the middle of a commit leaves such a tail; it is no damage."""
    shutil.copytree(killed, place)
    db = opened(place)
    good = contents(db)
    db.close()
    shutil.rmtree(place)
    shutil.copytree(killed, place)
    with (place / "node.db-wal").open("ab") as wal:
        wal.write(random.Random(1).randbytes(9000))
    db = opened(place)
    assert contents(db) == good
    assert not any((place / "node.db-wal").read_bytes()), "only zeros, in which no frame can be found"
    db.close()


@pytest.mark.parametrize("content", [b"", b"hello", b"SQLite format 3\0" + bytes(4080), bytes(8192)])
def test_what_is_not_a_node_db_is_refused(closed: Path, place: Path, content: bytes) -> None:
    shutil.copytree(closed, place)
    (place / "node.db").write_bytes(content)
    assert isinstance(refused(place), CorruptionError)


def test_another_sqlite_database_is_refused(closed: Path, place: Path) -> None:
    shutil.copytree(closed, place)
    (place / "node.db").unlink()
    with closing(sqlite3.connect(place / "node.db")) as other:
        other.execute("PRAGMA journal_mode=WAL").fetchall()
        other.execute("CREATE TABLE accounts(name, amount)")
    assert isinstance(refused(place), CorruptionError)


def edited(directory: Path, *statements: tuple[str, tuple[Any, ...]]) -> None:
    with closing(sqlite3.connect(directory / "node.db")) as db, db:
        for sql, parameters in statements:
            db.execute(sql, parameters)


def test_a_newer_format_asks_for_a_newer_release(closed: Path, place: Path) -> None:
    shutil.copytree(closed, place)
    edited(place, (f"PRAGMA user_version={FORMAT + 1}", ()))
    error = refused(place)
    assert isinstance(error, ConfigError)
    assert "start the node with that release" in str(error)


_VICTIM = txid(7)
_LONGER = b"\x98\x01" + b"x" * 30
_BEFORE = field_row("members", MEMBERS._replace(epoch=2))

EDITS: dict[str, tuple[str, str, tuple[Any, ...]]] = {
    "log data": ("log entry 7 ", "UPDATE log SET data = ? WHERE idx = 7", (b"forged",)),
    "log term": ("log entry 7 ", "UPDATE log SET term = term + 1 WHERE idx = 7", ()),
    "log type": ("log entry 7 ", "UPDATE log SET data = 5 WHERE idx = 7", ()),
    "log checksum": ("log entry 7 ", "UPDATE log SET crc = crc + 1 WHERE idx = 7", ()),
    "log gap": ("log entries 7 to 7 are missing", "DELETE FROM log WHERE idx = 7", ()),
    "log moved": ("log entry 21 ", "UPDATE log SET idx = 21 WHERE idx = 4", ()),
    "log empty": ("its log is empty", "DELETE FROM log", ()),
    "log head": ("log entry 12 was applied", "DELETE FROM log WHERE idx <= 12", ()),
    "log tail": ("log entry 12 was applied", "DELETE FROM log WHERE idx >= 12", ()),
    "decision record": (_VICTIM.hex(), "UPDATE decisions SET record = ? WHERE txid = ?", (_LONGER, _VICTIM)),
    "decision record type": (_VICTIM.hex(), "UPDATE decisions SET record = 5 WHERE txid = ?", (_VICTIM,)),
    "decision flags": (_VICTIM.hex(), "UPDATE decisions SET flags = 1 WHERE txid = ?", (_VICTIM,)),
    "decision flags range": (_VICTIM.hex(), "UPDATE decisions SET flags = 7 WHERE txid = ?", (_VICTIM,)),
    "decision txid": (
        (_VICTIM[:7] + b"x").hex(),
        "UPDATE decisions SET txid = ? WHERE txid = ?",
        (_VICTIM[:7] + b"x", _VICTIM),
    ),
    "decision txid type": (repr(b"not bytes"), "UPDATE decisions SET txid = 'not bytes' WHERE txid = ?", (_VICTIM,)),
    "decision checksum": (_VICTIM.hex(), "UPDATE decisions SET crc = crc + 1 WHERE txid = ?", (_VICTIM,)),
    "decision txid as text": (
        "a key in its table decisions",
        "UPDATE decisions SET txid = CAST(txid AS TEXT) WHERE txid = (SELECT min(txid) FROM decisions)",
        (),
    ),
    "damage txid as text": ("a key in its table damages", "UPDATE damages SET txid = CAST(txid AS TEXT)", ()),
    "damage record": (txid(1).hex(), "UPDATE damages SET record = ?", (_LONGER,)),
    "damage branch": (txid(1).hex(), "UPDATE damages SET branch = ?", (b"bank-b",)),
    "damage checksum": (txid(1).hex(), "UPDATE damages SET crc = crc + 1", ()),
    "participant record": ("bank-a", "UPDATE participants SET record = ? WHERE name = ?", (_LONGER, b"bank-a")),
    "participant name": ("bank-c", "UPDATE participants SET name = ? WHERE name = ?", (b"bank-c", b"bank-a")),
    "participant name type": ("bank-a", "UPDATE participants SET name = 'bank-a' WHERE name = ?", (b"bank-a",)),
    "participant checksum": ("bank-b", "UPDATE participants SET crc = crc + 1 WHERE name = ?", (b"bank-b",)),
    "a row of meta more": ("b'more'", "INSERT INTO meta SELECT 'more', value, crc FROM meta LIMIT 1", ()),
    "no participants": ("its tables", "DROP TABLE participants", ()),
    "state": ("'state'", "UPDATE meta SET value = replace(value, ' 3', ' 4') WHERE key = 'state'", ()),
    "state checksum": ("'state'", "UPDATE meta SET crc = crc + 1 WHERE key = 'state'", ()),
    "state missing": ("'state'", "DELETE FROM meta WHERE key = 'state'", ()),
    "members missing": ("'members'", "DELETE FROM meta WHERE key = 'members'", ()),
    "joined missing": ("'joined'", "DELETE FROM meta WHERE key = 'joined'", ()),
    "members": ("'members'", "UPDATE meta SET value = replace(value, 'n1', 'n2') WHERE key = 'members'", ()),
    "members of before": ("of epoch 2", "UPDATE meta SET value = ?, crc = ? WHERE key = 'members'", _BEFORE[1:]),
    "identity": ("'identity'", "UPDATE meta SET value = replace(value, 'n1', 'n2') WHERE key = 'identity'", ()),
    "a table more": ("its tables", "CREATE TABLE more(a)", ()),
    "no index": ("its tables", "DROP INDEX decisions_by_flags", ()),
}


@pytest.mark.parametrize("edit", EDITS)
def test_a_row_that_was_changed_behind_our_back_is_named(closed: Path, place: Path, edit: str) -> None:
    """Done by SQL, so that nothing but our own checks can notice."""
    named, sql, parameters = EDITS[edit]
    shutil.copytree(closed, place)
    edited(place, (sql, parameters))
    error = refused(place)
    assert isinstance(error, CorruptionError), f"{edit} was not noticed"
    assert named in str(error)
    assert WAY_OUT in str(error)


def test_data_of_a_release_that_did_not_count_its_members_is_taken_as_it_is(closed: Path, place: Path) -> None:
    shutil.copytree(closed, place)
    with closing(sqlite3.connect(place / "node.db")) as db:
        [(value,)] = db.execute("SELECT value FROM meta WHERE key = 'state'").fetchall()
    _, uncounted, crc = state_row(read_state(value)._replace(epochs=NO_EPOCHS))
    edited(place, ("UPDATE meta SET value = ?, crc = ? WHERE key = 'state'", (uncounted, crc)))
    with closing(opened(place)) as db:
        assert db.load().members == MEMBERS
        db.write(write(hard_state=(9, None)))
    edited(place, ("DELETE FROM meta WHERE key = 'members'", ()))
    assert isinstance(refused(place), CorruptionError)  # counted from its first write on


def test_an_index_that_disagrees_with_its_table_is_refused(closed: Path, place: Path) -> None:
    """quick_check does not compare them; a decision would be missing from the list of the open ones."""
    shutil.copytree(closed, place)
    edited(
        place,
        ("CREATE TABLE spare(a)", ()),
        ("PRAGMA writable_schema=ON", ()),
        ("DELETE FROM sqlite_schema WHERE name = 'decisions_by_flags'", ()),
    )
    row = Decisions.rows.pack(decision(500))
    with closing(sqlite3.connect(place / "node.db")) as db, db:
        sql = "CREATE INDEX decisions_by_flags ON decisions(flags)"
        page = sqlite3.connect(closed / "node.db")
        [(root,)] = page.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'decisions_by_flags'").fetchall()
        page.close()
        db.execute("INSERT INTO decisions VALUES(?, ?, ?, ?)", row)  # without the index knowing
        db.execute("DROP TABLE spare")
        db.execute("PRAGMA writable_schema=ON")
        db.execute("INSERT INTO sqlite_schema VALUES('index', 'decisions_by_flags', 'decisions', ?, ?)", (root, sql))
    error = refused(place)
    assert isinstance(error, CorruptionError)
    assert "index decisions_by_flags" in str(error)


def test_a_flipped_bit_in_an_index_is_refused(closed: Path, place: Path) -> None:
    """Every entry could still be found from one side, and the list of the open decisions ended too early."""
    with closing(sqlite3.connect(closed / "node.db")) as db:
        [(root,)] = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'decisions_by_flags'").fetchall()
    page = range(4096 * (root - 1), 4096 * root)
    content = (closed / "node.db").read_bytes()
    flips = [(offset, bit) for offset in page[-700:] if content[offset] in (9, 1, 2, 3) for bit in (0, 1)]
    assert assert_harmless_or_refused(closed, place, "node.db", flips[:150]) == 150


def test_a_schema_that_is_no_longer_text_is_refused(closed: Path, place: Path) -> None:
    """The sqlite3 module fails to decode SQLite's message about it."""
    flips = [(offset, 7) for offset in range(3400, 4096, 23)]
    assert assert_harmless_or_refused(closed, place, "node.db", flips) > 10


def test_a_consistent_forgery_is_not_what_a_checksum_finds(closed: Path, place: Path) -> None:
    """CRC-32 is against accidents: who computes it anew is believed. This is the limit of the promise."""
    shutil.copytree(closed, place)
    edited(place, ("UPDATE log SET data = ?, crc = ? WHERE idx = 7", (b"forged", log_crc(7, 1, b"forged"))))
    assert refused(place) is None


def test_a_record_damaged_while_the_node_runs_is_not_believed(tmp_path: Path) -> None:
    """The forged records can be read: only the checksum knows better."""
    db = opened(tmp_path)
    fill(db)
    victim = db.decisions("committed", 1, None)[0]
    forged = Decisions.rows.pack(victim._replace(verdict=Verdict.ABORT))[2]
    edited(tmp_path, ("UPDATE decisions SET record = ? WHERE txid = ?", (forged, victim.txid)))
    for read in (lambda: db.decision(victim.txid), lambda: db.decisions(None, 100, None), db.load):
        with pytest.raises(CorruptionError, match=victim.txid.hex()):
            read()
    edited(tmp_path, ("DELETE FROM decisions WHERE txid = ?", (victim.txid,)))
    edited(tmp_path, ("UPDATE log SET data = ? WHERE idx = 9", (b"forged",)))
    with pytest.raises(CorruptionError, match="log entry 9 "):
        db.load()
    damage = db._reader.part(Damages, {}, print, 100).rows[0]
    forged = Damages.rows.pack(damage._replace(acknowledged_by=""))[2]
    edited(tmp_path, ("DELETE FROM log", ()), ("UPDATE damages SET record = ?", (forged,)))
    with pytest.raises(CorruptionError, match="damage recorded"):
        db.load()
    db.close()


def test_flags_say_what_the_record_says(tmp_path: Path) -> None:
    """Retiring looks at the flags alone: they must be derived, for each of the four kinds, from the same decision."""
    for commit in (False, True):
        for outstanding in ((), ("bank-a",)):
            one = decision(1, commit=commit, outstanding=outstanding)
            flags = Decisions.rows.pack(one)[1]
            assert (flags != 3) == one.retirable
            assert (flags & 1 == 1) == (one.verdict is Verdict.COMMIT)
            assert (flags & 2 == 2) == bool(outstanding)


def put_back(directory: Path, files: dict[str, bytes]) -> None:
    directory.mkdir()
    for name, content in files.items():
        (directory / name).write_bytes(content)


def test_a_log_entry_that_was_acknowledged_and_is_gone_is_missed(tmp_path: Path, place: Path) -> None:
    """A commit of log entries alone does not touch the node's state: the mark knows the log's end."""
    db = opened(tmp_path / "running")
    db.write(write(append=rows(2, 3)))
    before = files_of(tmp_path / "running")
    db.write(write(append=rows(4, 4)))
    after = files_of(tmp_path / "running")
    db.close()
    put_back(place, {**before, "node.mark": after["node.mark"]})
    error = refused(place)
    assert isinstance(error, CorruptionError)
    assert "write 0 with log entry 3, and write 0 with log entry 4 was acknowledged" in str(error)


def test_what_is_stored_without_a_sync_may_be_lost_and_the_log_gives_it_again(tmp_path: Path, place: Path) -> None:
    db = opened(tmp_path / "running")
    db.write(write(append=rows(2, 9), hard_state=(1, 1)))
    before = files_of(tmp_path / "running")
    db.write(write(changes=puts(decision(1)), applied=(6, 1), synced=False))
    after = files_of(tmp_path / "running")
    db.close()
    put_back(place, {**before, "node.mark": after["node.mark"]})
    kept = opened(place)
    stored = kept.load()
    kept.close()
    assert (stored.applied_index, items(stored), stored.log[-1].index) == (1, [], 9)


def test_what_is_stored_without_a_sync_survives_the_death_of_the_process(tmp_path: Path, place: Path) -> None:
    db = opened(tmp_path / "running")
    db.write(write(append=rows(2, 9), hard_state=(1, 1)))
    db.write(write(changes=puts(decision(1)), applied=(6, 1), synced=False))
    put_back(place, files_of(tmp_path / "running"))
    db.close()
    kept = opened(place)
    assert kept.load().applied_index == 6
    kept.close()


@pytest.mark.parametrize("what", [{"append": rows(10, 10)}, {"hard_state": (2, 1)}, {"truncate_from": 9}])
def test_log_term_and_vote_are_never_stored_without_a_sync(tmp_path: Path, what: dict[str, Any]) -> None:
    db = opened(tmp_path)
    db.write(write(append=rows(2, 9), hard_state=(1, 1)))
    with pytest.raises(Halt, match="without a sync"):
        db.write(write(**what, synced=False))
    db.close()
