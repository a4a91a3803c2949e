"""A copy of the ledger for a node that is too far behind to be sent the log.

Owes: ``write_snapshot`` makes one file that holds the ledger exactly as it stood after one log entry, whatever is written
meanwhile; ``check_snapshot`` lets nothing pass that is not such a file, whole and of this cluster.

The copy is made row by row inside one read transaction, not page by page with SQLite's backup API: that would copy the
log as well, which can be many times the ledger, only to delete it again.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple, TypeVar
from zlib import crc32

from raftcoord.errors import CorruptionError
from raftcoord.storage.examine import Examination, check_header
from raftcoord.storage.faults import bad_snapshot, corrupt, refused_copy
from raftcoord.storage.reading import Reading
from raftcoord.storage.records import (
    OWN_ROWS,
    UNREADABLE,
    SnapshotHead,
    meta_crc,
    read_field,
    read_snapshot_head,
    read_state,
    snapshot_row,
)
from raftcoord.storage.schema import PAGE_BYTES, SNAPSHOT_ID, connect, create_tables, stored_tables, uri

_READ_BYTES: Final = 1 << 20
_META_KEYS: Final = ("snapshot",)

T = TypeVar("T")


class SnapshotInfo(NamedTuple):
    """What identifies a snapshot file: the log entry after which the ledger stood so, the size, and a CRC-32 of all bytes."""

    index: int  # type: ignore[assignment]
    term: int
    bytes: int
    crc32: int


def write_snapshot(node_db: Path, target: Path, cluster_name: str) -> SnapshotInfo:
    """Copy the ledger in ``node_db``, which is open and may be written meanwhile, into the new file ``target``.

    Raises StorageError if the disk refuses (``target`` is then gone), CorruptionError if node.db turns out to be damaged.
    """
    target.unlink(missing_ok=True)
    try:
        with closing(connect(target, "mode=rwc")) as copy:
            head = _fill(copy, node_db, cluster_name)
        size, checksum = _size_and_crc(target)
    except (sqlite3.Error, OSError) as error:
        target.unlink(missing_ok=True)
        raise refused_copy(error, node_db, target) from error
    return SnapshotInfo(head.index, head.term, size, checksum)


def _fill(copy: sqlite3.Connection, node_db: Path, cluster_name: str) -> SnapshotHead:
    # A copy that was not finished is thrown away, so it needs neither a journal nor a sync.
    for pragma in (f"page_size={PAGE_BYTES}", "journal_mode=OFF", "synchronous=OFF"):
        copy.execute(f"PRAGMA {pragma}").fetchall()
    create_tables(copy, SNAPSHOT_ID)
    copy.execute("ATTACH ? AS node", (uri(node_db, "mode=ro"),))
    copy.execute("BEGIN")
    state = _meta_of(copy, node_db, "state", read_state)
    fields = dict(state.fields)
    for name, field in OWN_ROWS.items():
        there = copy.execute("SELECT 1 FROM node.meta WHERE key = ?", (name,)).fetchall()
        fields[name] = _meta_of(copy, node_db, name, partial(read_field, name)) if there else field.default
    head = SnapshotHead(cluster_name, state.applied_index, state.applied_term, fields)
    for name, rows in stored_tables().items():
        order = ", ".join(rows.columns[: rows.keys])
        copy.execute(f"INSERT INTO {name} SELECT * FROM node.{name} ORDER BY {order}")
    copy.execute("INSERT INTO meta VALUES(?, ?, ?)", snapshot_row(head))
    copy.execute("COMMIT")
    return head


def _meta_of(copy: sqlite3.Connection, node_db: Path, key: str, read: Callable[[bytes], T]) -> T:
    rows = copy.execute("SELECT value, crc FROM node.meta WHERE key = ?", (key,)).fetchall()
    with contextlib.suppress(*UNREADABLE):
        [(value, crc)] = rows
        if meta_crc(key, value) == crc:
            return read(value)
    raise corrupt(node_db, f"the row '{key}' of its table meta is missing or has a wrong checksum")


def check_snapshot(path: Path, info: SnapshotInfo, *, cluster_name: str, cluster: str) -> SnapshotHead:
    """What the snapshot in ``path`` says of itself, after all of it was read and found right.

    ``cluster``: the id of the cluster that it must come from, or "" if that is not known here yet. Raises CorruptionError if
    it is not the file that ``info`` describes or not of this cluster, ConfigError if a newer release wrote it. One in an older
    format is read: what that format cannot hold, no entry of the log before it can have brought.
    """

    def refuse(what: str) -> CorruptionError:
        return bad_snapshot(path, what)

    try:
        size, checksum = _size_and_crc(path)
        if (size, checksum) != (info.bytes, info.crc32):
            raise refuse(
                f"it has {size} bytes and the checksum {checksum:08x} instead of {info.bytes} bytes and {info.crc32:08x}"
            )
        check_header(path, SNAPSHOT_ID, refuse)
        with closing(Examination(path, connect(path, "mode=ro&immutable=1"), SNAPSHOT_ID, refuse)) as examination:
            head = _examine(examination)
    except (sqlite3.Error, UnicodeDecodeError) as error:  # the second: SQLite's message quotes damaged bytes
        raise refuse(f"SQLite cannot read it ({error})") from error
    except OSError as error:
        raise refuse(str(error)) from error
    if (head.index, head.term) != (info.index, info.term):
        raise refuse(
            f"it stands at index {head.index} of term {head.term}, and was announced as {info.index} of {info.term}"
        )
    if head.cluster_name != cluster_name or (cluster and head.cluster != cluster):
        raise refuse(
            f"it is of cluster {head.cluster_name!r} ({head.cluster or 'not founded'}), and this node belongs to "
            f"{cluster_name!r} ({cluster or 'not founded'})"
        )
    return head


def _examine(examination: Examination) -> SnapshotHead:
    form = examination.schema()
    examination.meta_keys(_META_KEYS)
    head = examination.meta("snapshot", read_snapshot_head)
    examination.structure()
    examination.tables(form, Reading())
    return head


def _size_and_crc(path: Path) -> tuple[int, int]:
    size = checksum = 0
    with path.open("rb") as file:
        while chunk := file.read(_READ_BYTES):
            size += len(chunk)
            checksum = crc32(chunk, checksum)
    return size, checksum
