"""A node's files: whatever became of a cell, a byte or a length, the node starts with what was written or refuses to start.

Refused means CorruptionError, ConfigError or StorageError, and nothing that was there is changed.
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
from storage.filling import contents, files_of, fill, opened, rows, write

from raftcoord.consensus.copies import Incoming
from raftcoord.errors import ConfigError, CorruptionError, RaftcoordError, RemoteProtocolError, StorageError
from raftcoord.storage import mark
from raftcoord.storage.snapshot import SnapshotInfo, _size_and_crc, check_snapshot

from .effort import examples
from .shapes import altered, damaged, ints, texts, values

REFUSALS: Final = (CorruptionError, ConfigError, StorageError)
NODE: Final = ("meta", "log", "decisions", "damages")
COLUMNS: Final = {
    "meta": ("key", "value", "crc"),
    "log": ("idx", "term", "data", "crc"),
    "decisions": ("txid", "flags", "record", "crc"),
    "damages": ("txid", "branch", "record", "crc"),
}

sql_ints = st.integers(-(1 << 63), (1 << 63) - 1) | ints.filter(lambda n: -(1 << 63) <= n < 1 << 63)
cells = st.none() | sql_ints | st.floats() | texts | st.binary(max_size=40)


class Places:
    """Directories that the examples damage copies of: of a node that was stopped, and of one that was killed."""

    def __init__(self, root: Path) -> None:
        self.closed, self.killed, self.copy = root / "closed", root / "killed", root / "copy.snapshot"
        with closing(opened(self.closed)) as db:
            fill(db)
        running = root / "running"
        with closing(opened(running)) as db:
            db.write(write(append=rows(2, 3)))
            fill_more(db)
            self.info = db.snapshot_to(self.copy)
            self._cut_wal(running, self.killed)
        self.good: dict[Path, Any] = {}
        for place in (self.closed, self.killed):
            with tempfile.TemporaryDirectory() as scratch:
                shutil.copytree(place, Path(scratch) / "n1")
                with closing(opened(Path(scratch) / "n1")) as db:
                    self.good[place] = contents(db)

    @staticmethod
    def _cut_wal(running: Path, killed: Path) -> None:
        """As a kill leaves it, but for the zeros behind the last commit: to copy 16 MiB takes long."""
        shutil.copytree(running, killed)
        wal = killed / "node.db-wal"
        raw = wal.read_bytes()
        wal.write_bytes(raw.rstrip(b"\0") + bytes(100))


def fill_more(db: Any) -> None:
    fill_from = rows(4, 6, term=1)
    db.write(write(append=fill_from, hard_state=(3, 2)))
    db.write(write(append=rows(7, 9, term=3), hard_state=(4, None)))


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Places:
    return Places(tmp_path_factory.mktemp("places"))


def held_after(places: Places, original: Path, damage: Callable[[Path], object]) -> None:
    """Damage a copy: it opens and holds what was written, or is refused and left as it is."""
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch) / "n1"
        shutil.copytree(original, place)
        damage(place)
        before = _kept(place)
        try:
            db = opened(place)
        except REFUSALS as error:
            event(f"refused: {type(error).__name__}")
            assert _kept(place) == before
            return
        with closing(db):
            event("opened")
            assert contents(db) == places.good[original]


def _kept(place: Path) -> dict[str, bytes]:
    """The files but for LOCK, which names who looked, and an empty log, which SQLite makes or not."""
    found = files_of(place)
    found.pop("LOCK", None)
    if not found.get("node.db-wal", b"x"):
        del found["node.db-wal"]
    return found


@st.composite
def spoiled(draw: st.DrawFn, raw: bytes) -> bytes:
    """The file after a few edits of bytes, mostly where it holds something."""
    edited = bytearray(raw)
    used = [at for at, byte in enumerate(raw) if byte]
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.sampled_from(used) | st.integers(0, len(raw) - 1))
        match draw(st.sampled_from(["flip", "flip", "flip", "set", "cut", "drop", "zero"])):
            case "flip" if at < len(edited):
                edited[at] ^= 1 << draw(st.integers(0, 7))
            case "set" if at < len(edited):
                edited[at] = draw(st.integers(0, 255))
            case "cut":
                del edited[at:]
            case "drop":
                del edited[at : at + draw(st.integers(1, 5000))]
            case "zero":
                edited[at : at + 512] = bytes(len(edited[at : at + 512]))
    return bytes(edited)


@examples(100)
@given(st.data())
def test_a_node_db_of_damaged_bytes_is_whole_or_refused(places: Places, data: st.DataObject) -> None:
    original = data.draw(st.sampled_from([places.closed, places.killed, places.killed]))
    name = data.draw(st.sampled_from(["node.db", "node.db", "node.db-wal", "node.mark"]))
    raw = (original / name).read_bytes() if (original / name).exists() else b"\x37\x7f\x06\x82"
    made = data.draw(spoiled(raw) | st.binary(max_size=40))
    event(name)
    held_after(places, original, lambda place: (place / name).write_bytes(made))


@st.composite
def statements(draw: st.DrawFn, tables: tuple[str, ...]) -> tuple[str, list[Any]]:
    """One change of one row, by SQL."""
    table = draw(st.sampled_from(tables))
    columns = COLUMNS[table]
    key = draw(st.sampled_from(columns))
    skip = draw(st.integers(0, 5))
    where = f"WHERE ({columns[0]}) IN (SELECT {columns[0]} FROM {table} LIMIT 1 OFFSET {skip})"
    match draw(st.sampled_from(["set", "set", "set", "cast", "delete", "insert", "swap"])):
        case "set":
            return f"UPDATE {table} SET {key} = ? {where}", [draw(cells)]
        case "cast":
            kind = draw(st.sampled_from(["TEXT", "BLOB", "INTEGER", "REAL"]))
            return f"UPDATE {table} SET {key} = CAST({key} AS {kind}) {where}", []
        case "delete":
            return f"DELETE FROM {table} {where}", []
        case "insert":
            return f"INSERT INTO {table} VALUES(?, ?, ?, ?)", [draw(cells) for _ in columns]
    return f"UPDATE {table} SET {key} = (SELECT {key} FROM {table} LIMIT 1 OFFSET {skip + 1}) {where}", []


def changed(path: Path, changes: list[tuple[str, list[Any]]]) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        for sql, parameters in changes:
            with suppress(sqlite3.IntegrityError, sqlite3.OperationalError, OverflowError):
                db.execute(sql.replace("?, ?, ?, ?", ", ".join("?" * len(parameters))), parameters)
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


@examples(70)
@given(st.lists(statements(NODE), min_size=1, max_size=2))
def test_a_node_db_of_changed_cells_is_whole_or_refused(places: Places, changes: list[tuple[str, list[Any]]]) -> None:
    def damage(place: Path) -> None:
        changed(place / "node.db", changes)

    # A row of damages or decisions that was deleted, and a key whose kind alone was changed, bear no trace.
    if any(sql.startswith("DELETE") or "CAST" in sql for sql, _ in changes):
        opens_or_refuses(places.closed, damage)
    else:
        held_after(places, places.closed, damage)


def opens_or_refuses(original: Path, damage: Callable[[Path], object]) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch) / "n1"
        shutil.copytree(original, place)
        damage(place)
        try:
            db = opened(place)
        except REFUSALS:
            return
        with closing(db):
            contents(db)


@examples(150)
@given(st.binary(max_size=24) | damaged(st.just(mark._sealed(mark.Reach(3, 9)))))
def test_a_mark_is_read_or_refused(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / mark.MARK_FILE).write_bytes(data)
        with suppress(ValueError):
            assert mark._sealed(mark.read_mark(Path(scratch)) or mark.NOTHING) == data


# -- copies of the ledger -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("copies")


def judged(path: Path, info: SnapshotInfo) -> Any:
    """What the snapshot says of itself, or None if it was refused."""
    try:
        return check_snapshot(path, info, cluster_name="demo", cluster="")
    except (CorruptionError, ConfigError) as error:
        event(type(error).__name__)
        return None


@examples(100)
@given(st.data())
def test_a_snapshot_of_any_bytes_is_whole_or_refused(places: Places, scratch: Path, data: st.DataObject) -> None:
    """Announced with the size and the checksum that it has: the sender may be at fault, not the wire."""
    good = judged(places.copy, places.info)
    assert good is not None
    path = scratch / "copy-incoming.tmp"
    path.write_bytes(data.draw(spoiled(places.copy.read_bytes()) | st.binary(max_size=200)))
    size, crc = _size_and_crc(path)
    found = judged(path, places.info._replace(bytes=size, crc32=crc))
    assert found in (None, good)


@examples(80)
@given(changes=st.lists(statements(("meta", "decisions", "damages")), min_size=1, max_size=2))
def test_a_snapshot_of_changed_cells_is_refused_or_the_same(
    places: Places, scratch: Path, changes: list[tuple[str, list[Any]]]
) -> None:
    path = scratch / "copy-incoming.tmp"
    shutil.copy(places.copy, path)
    changed(path, changes)
    size, crc = _size_and_crc(path)
    assert judged(path, places.info._replace(bytes=size, crc32=crc)) in (None, judged(places.copy, places.info))


copy_steps = st.one_of(
    st.tuples(st.just("begin"), st.sampled_from([[1, 2, 1, 6, 0], [3, 9, 2, 3, 7]])),
    st.tuples(st.just("begin"), altered(st.just([1, 2, 1, 6, 0]), ints | values)),
    st.tuples(st.just("chunk"), st.tuples(st.integers(0, 6), st.binary(min_size=1, max_size=3)).map(list)),
    st.tuples(st.just("chunk"), altered(st.just([0, b"abc"]), ints | values)),
    st.tuples(st.just("end"), st.just([])),
    st.tuples(st.just("drop"), st.just([])),
)
whole = [
    (2, ("begin", [1, 2, 1, 6, 0])),
    (2, ("chunk", [0, b"abc"])),
    (2, ("chunk", [3, b"def"])),
    (2, ("end", [])),
]


@examples(200)
@given(
    st.sampled_from([[], whole, whole[:-1], whole[:-2]]),
    st.lists(st.tuples(st.sampled_from([2, 2, 3]), copy_steps), max_size=9),
)
def test_the_steps_of_a_copy_in_any_order_make_the_file_that_was_announced_or_none(
    scratch: Path, before: list[Any], more: list[Any]
) -> None:
    incoming = Incoming(scratch)
    incoming.drop()
    for sender, (step, params) in [*before, *more]:
        try:
            match step:
                case "begin":
                    assert type(incoming.begin(sender, params, lambda *_: None)) is int
                case "chunk":
                    incoming.chunk(sender, params)
                case "end":
                    path, info = incoming.end(sender)
                    event("whole")
                    assert path.stat().st_size == info.bytes
                case "drop":
                    incoming.drop()
        except RemoteProtocolError:
            continue
        except RaftcoordError as error:
            raise AssertionError(f"{type(error).__name__} for {step} {params}") from error
