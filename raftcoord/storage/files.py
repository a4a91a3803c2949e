"""The files of a data directory: making them, and judging those that are there.

    node.db      the database (with node.db-wal and node.db-shm while it is open)
    node.mark    how far node.db must reach (mark.py)
    LOCK         who is using the directory (lock.py)
    copy-*.tmp   copies of the ledger under way; those of a dead process are deleted

Owes: ``node.db`` appears under its name only when it is complete and synced, so that a crash in the middle of its creation
leaves nothing that looks like a node; and nothing is written before everything that is there has been found good.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Final, NamedTuple

from raftcoord import private
from raftcoord.core.tables.members import Members
from raftcoord.errors import ConfigError, CorruptionError
from raftcoord.storage.examine import Examination, check_header
from raftcoord.storage.faults import corrupt
from raftcoord.storage.mark import MARK_FILE, NOTHING, UNFINISHED_MARK, Reach, create_mark, read_mark
from raftcoord.storage.reading import Reading
from raftcoord.storage.records import (
    JOINED,
    NO_EPOCHS,
    OWN_ROWS,
    START,
    Identity,
    LogRow,
    NodeState,
    epoch_of,
    identity_row,
    log_crc,
    read_identity,
    read_state,
    state_row,
)
from raftcoord.storage.schema import FORMAT, NODE_DB_ID, PAGE_BYTES, bring_up, connect, create_tables, sync_file
from raftcoord.storage.write import Extent

DB_FILE: Final = "node.db"
_COPIES: Final = "copy-*.tmp"

ANCHOR: Final = LogRow(1, 0, b"\x01")
"""The log of a new node: PySyncObj's no-op, on which every node agrees. Index 1 counts as applied."""

_META_KEYS: Final = ("identity", "state", *OWN_ROWS, JOINED)

_UNFINISHED: Final = "node.db.new"
_SIDE_FILES: Final = ("", "-wal", "-shm", "-journal")


def is_new(directory: Path) -> bool:
    """Whether there has never been a node here. Raises CorruptionError if there has been, and its node.db is gone."""
    db = directory / DB_FILE
    if db.exists():
        return False
    if _mark_of(directory) not in (None, NOTHING) or (directory / f"{DB_FILE}-wal").exists():
        raise corrupt(db, f"the file is gone, and {MARK_FILE} or {DB_FILE}-wal beside it shows that it held a node")
    return True


def create(directory: Path, identity: Identity) -> None:
    """Make the files of a new node. May be repeated after a crash at any point of it."""
    create_mark(directory)
    unfinished = directory / _UNFINISHED
    for side in _SIDE_FILES:
        (directory / f"{_UNFINISHED}{side}").unlink(missing_ok=True)
    private.make_file(unfinished)  # SQLite gives its other files the same mode
    with closing(connect(unfinished, "mode=rwc")) as connection:
        for pragma in (f"page_size={PAGE_BYTES}", "journal_mode=WAL", "synchronous=FULL"):
            connection.execute(f"PRAGMA {pragma}").fetchall()
        connection.execute("BEGIN")
        create_tables(connection, NODE_DB_ID)
        index, term, data = ANCHOR
        connection.execute("INSERT INTO log VALUES(?, ?, ?, ?)", (index, term, data, log_crc(*ANCHOR)))
        start = NodeState(0, 0, None, ANCHOR.index, ANCHOR.term, {}, NO_EPOCHS, START)
        for row in (identity_row(identity), state_row(start)):
            connection.execute("INSERT INTO meta VALUES(?, ?, ?)", row)
        connection.execute("COMMIT")
    sync_file(unfinished)
    unfinished.rename(directory / DB_FILE)
    sync_file(directory)


def owner(directory: Path) -> Identity:
    """Whose node.db it is. Raises CorruptionError or, for a newer format, ConfigError."""
    with closing(_look(directory)) as examination:
        examination.schema()
        examination.meta_keys(_META_KEYS)
        return examination.meta("identity", read_identity)


def check_owner(directory: Path, found: Identity, *, cluster_name: str, node: str) -> None:
    """Raise ConfigError unless the directory is that of ``node`` in ``cluster_name``."""
    if (found.cluster_name, found.node) != (cluster_name, node):
        raise ConfigError(
            f"the data directory {directory} belongs to node {found.node!r} of cluster {found.cluster_name!r}, and this is "
            f"node {node!r} of cluster {cluster_name!r}. Nothing was changed; give this node a directory of its own "
            "(data_dir in cluster.yaml)"
        )


class Judged(NamedTuple):
    """What node.db holds beside its tables. ``fields``: those of OWN_ROWS; ``joined``: see JOINED; None: no such row."""

    state: NodeState
    extent: Extent
    fields: Mapping[str, Any]
    joined: Members | None


def judge(directory: Path, reading: Reading) -> Judged:
    """Read all of node.db. ``reading``: how far it has come. Raises CorruptionError."""
    db = directory / DB_FILE
    with closing(_look(directory)) as examination:
        state = examination.meta("state", read_state)
        mark = _mark_of(directory)
        if mark is None:
            raise corrupt(db, f"{MARK_FILE} beside it, which says how far it must reach, is missing")
        reading.begin(f"structure of {DB_FILE} ({db.stat().st_size / (1 << 20):,.0f} MiB)")
        examination.structure()
        reading.begin("log")
        first, last = examination.log()
        if not first <= state.applied_index <= last:
            raise corrupt(db, f"log entry {state.applied_index} was applied, and its log has {first} to {last}")
        if mark > Reach(state.writes, last):
            raise corrupt(
                db,
                f"it ends at write {state.writes} with log entry {last}, and write {mark.writes} with log entry {mark.last} "
                f"was acknowledged: {DB_FILE}-wal was cut, damaged or removed, or an old copy was put back",
            )
        examination.tables(examination.schema(), reading)
        found = {name: examination.field(name, epoch) for name, epoch in state.epochs.items()}
    fields = {name: field.default if found[name] is None else found[name] for name, field in OWN_ROWS.items()}
    epochs = {name: 0 if value is None else epoch_of(name, value) for name, value in found.items()}
    return Judged(state._replace(epochs=epochs), Extent(first, last), fields, found[JOINED])


def bring_to_format(directory: Path) -> None:
    """Bring a node.db that was judged good to this release's format, if an older release wrote it.

    In one synced transaction: after a crash in the middle it is in the old format, whole, and is brought over at the next
    open. The checkpoint puts the new format into the file's header, where an older release looks first.
    """
    with closing(connect(directory / DB_FILE, "mode=rw")) as connection:
        [(form,)] = connection.execute("PRAGMA user_version").fetchall()
        if form == FORMAT:
            return
        for pragma in ("synchronous=FULL", "fullfsync=1", "checkpoint_fullfsync=1"):
            connection.execute(f"PRAGMA {pragma}").fetchall()
        bring_up(connection, form)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def sweep(directory: Path) -> None:
    """Delete what a dead process left half made."""
    for leftover in (*directory.glob(_COPIES), *directory.glob(f"{_UNFINISHED}*"), directory / UNFINISHED_MARK):
        leftover.unlink(missing_ok=True)


def _look(directory: Path) -> Examination:
    db, wal = directory / DB_FILE, directory / f"{DB_FILE}-wal"

    def refuse(what: str) -> CorruptionError:
        return corrupt(db, what)

    check_header(db, NODE_DB_ID, refuse)
    # A connection that may only read cannot checkpoint. Without a log to replay it need not even make its shared memory.
    replay = wal.exists() and wal.stat().st_size > 0
    query = "mode=ro" if replay else "mode=ro&immutable=1"
    return Examination(db, connect(db, query), NODE_DB_ID, refuse)


def _mark_of(directory: Path) -> Reach | None:
    try:
        return read_mark(directory)
    except ValueError as error:
        raise corrupt(directory / MARK_FILE, str(error)) from None
