"""node.db: the raft log, term and vote, and the ledger, in ONE commit.

Theory of operation. Raft and two-phase commit both rest on one sentence: what was acknowledged is still there after a
crash. ``write`` keeps it. It takes everything that one pass of the driver has staged - log rows, term, vote, what the
ledger changed, the applied index - and returns when all of it is on disk, or none of it counts. So the ledger can never
disagree with the applied index, nor the log with the vote.

    write(), install()       one thread at a time, not the event loop's; one transaction, one sync (WAL, synchronous=FULL)
    decision(), decisions()  the event loop's thread, on a connection of its own; they see every write that has returned
    load(), snapshot_to()    any thread, on a connection of their own

After a failed write the object is dead: the kernel may have dropped the pages that it could not write, and a second
fsync would report success (PostgreSQL's "fsyncgate" of 2018). The process must end; what was acknowledged is safe. The
write that failed may turn out to be stored, or not: it was acknowledged to nobody.

At open everything is read and checked before anything is written (files.py, examine.py). What SQLite would silently
forget, a cut or damaged node.db-wal, is found by the mark (mark.py).

Never: repairs a damaged file, waits for another process, writes into the directory of another node.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

from raftcoord import private
from raftcoord.core.tables import TABLES
from raftcoord.core.tables.decisions import Decision, Decisions
from raftcoord.core.tables.founding import Founding
from raftcoord.core.tables.members import ClusterMembers, Members
from raftcoord.core.tables.table import Part, Table, TableChange
from raftcoord.errors import StorageError, check
from raftcoord.limits import NodeBounds
from raftcoord.storage import files
from raftcoord.storage.bulk import BulkInsert
from raftcoord.storage.faults import opening, refused_write
from raftcoord.storage.lock import DirectoryLock
from raftcoord.storage.mark import Mark, Reach
from raftcoord.storage.reader import Reader
from raftcoord.storage.reading import Reading
from raftcoord.storage.records import (
    OWN_ROWS,
    STATE_FIELDS,
    Identity,
    LogRow,
    NodeState,
    epoch_of,
    field_row,
    log_crc,
    state_row,
)
from raftcoord.storage.room import check_room
from raftcoord.storage.schema import connect, stored_tables, sync_file, uri
from raftcoord.storage.snapshot import SnapshotInfo, check_snapshot, write_snapshot
from raftcoord.storage.wal import lengthen
from raftcoord.storage.write import Extent, Write, extent_after, fields_after, own_rows_in, state_after
from raftcoord.types import TxId

__all__ = ["LogRow", "NodeDb", "SnapshotInfo", "Stored", "Write"]

log: Final = logging.getLogger("raftcoord.storage")

_INSERT_LOG: Final = BulkInsert("INSERT INTO log", columns=4, rows_max=128)
_PUTS: Final = {
    name: BulkInsert(f"INSERT OR REPLACE INTO {name}", columns=len(rows.columns), rows_max=2048 if rows.many else 64)
    for name, rows in stored_tables().items()
}
_PUT_META: Final = "INSERT OR REPLACE INTO meta VALUES(?, ?, ?)"

_PAGE_BYTES: Final = 4096 + 24
"""A page and its frame's head in node.db-wal."""

_WAL_BYTES_KEPT: Final = 64 << 20
"""What node.db-wal shrinks to after a large commit, such as the installation of a snapshot."""

_CLOSED: Final = "it was closed"
_DEAD: Final = (
    "an earlier write failed, and a failed sync is never tried again; stop the node, repair the disk, start it again"
)


class Stored(NamedTuple):
    """What a node starts with.

    ``log``: never empty; its first row is the anchor, the newest entry that is known only by its index and term.
    ``tables``: of the ledger, by name. ``peers``: identities (hex) by the node's name, see NodeState. ``joined``: the members as
    another node said them.
    """

    term: int
    vote: int | None
    log: list[LogRow]
    applied_index: int
    applied_term: int
    tables: Mapping[str, Part]
    node_uuid: bytes
    peers: Mapping[str, str]
    joined: Members | None = None

    @property
    def enrolled(self) -> Mapping[str, str]:
        """Identities (hex) by the node's name, as the ledger has them."""
        return self.tables[Founding.name].fields["enrolled"]  # type: ignore[no-any-return]

    @property
    def members(self) -> Members | None:
        """The members of the cluster, as the ledger has them."""
        return self.tables[ClusterMembers.name].fields["members"]  # type: ignore[no-any-return]


class NodeDb:
    """The data directory of one node, in sole use. Made by ``NodeDb.open``."""

    def __init__(
        self,
        directory: Path,
        identity: Identity,
        judged: files.Judged,
        parts: contextlib.ExitStack,
        bounds: NodeBounds,
    ) -> None:
        """For ``open``, which has locked and checked the directory. ``parts``: what ``close`` closes, the lock last."""
        self.directory = directory
        self.identity = identity
        self._bounds: Final = bounds
        self._path = directory / files.DB_FILE
        self._state, self._extent, self._own_rows, self._joined = judged
        self._refusal = ""
        """Why nothing can be written any more, or ""."""
        self._writer = parts.enter_context(closing(_writing(self._path, bounds.wal_pages)))
        self._reader = parts.enter_context(closing(Reader(self._path)))
        self._mark = parts.enter_context(closing(Mark(directory)))
        self._mark.set(Reach(self._state.writes, self._extent.last))
        self._parts = parts.pop_all()

    @classmethod
    def open(
        cls,
        directory: Path,
        *,
        cluster_name: str,
        node: str,
        entropy: Callable[[int], bytes] = os.urandom,
        reading: Reading | None = None,
        bounds: NodeBounds = NodeBounds(),
    ) -> Self:
        """Open the data directory of ``node``, made if it is missing, after reading and checking all of it.

        ``entropy``: random bytes, as many as it is asked for, of which the identity of a new node is made.
        ``reading``: how far it has come.

        Raises ConfigError (not a directory, not writable, in use, of another node or cluster, of a newer format),
        CorruptionError, or StorageError (disk full or failing). Nothing that was there is changed then.
        """
        directory = Path(directory).absolute()
        with opening(directory / files.DB_FILE), contextlib.ExitStack() as held:
            if not directory.exists():
                private.make_directory(directory)
                sync_file(directory.parent)
            lock = DirectoryLock(directory)
            held.callback(lock.release)
            if files.is_new(directory):
                files.create(directory, Identity(cluster_name, node, entropy(16)))
            identity = files.owner(directory)
            files.check_owner(directory, identity, cluster_name=cluster_name, node=node)
            if taken := private.take_back_directory(directory):
                log.info("others than their owner could use these; now they cannot: %s", ", ".join(map(str, taken)))
            lock.sign()
            judged = files.judge(directory, reading or Reading())
            files.bring_to_format(directory)
            files.sweep(directory)
            return cls(directory, identity, judged, held, bounds)

    # -- reading --------------------------------------------------------------------------------------------------

    def load(self) -> Stored:
        """Everything that a node needs to start, or to go on after ``install``. Not while a write is running."""
        state, keep = self._state, self._bounds.memory_decisions_max // 2
        with closing(Reader(self._path)) as reader:
            tables = {
                table.name: reader.part(table, self._fields_of(table), partial(self._reader.item, table), keep)
                for table in TABLES
            }
            return Stored(
                term=state.term,
                vote=state.vote,
                log=reader.log(),
                applied_index=state.applied_index,
                applied_term=state.applied_term,
                tables=tables,
                node_uuid=self.identity.uuid,
                peers=state.peers,
                joined=self._joined,
            )

    def _fields_of(self, table: type[Table]) -> dict[str, Any]:
        return {name: (self._own_rows if name in OWN_ROWS else self._state.fields)[name] for name in table.fields}

    def decision(self, txid: TxId) -> Decision | None:
        """The stored decision, or None. Raises CorruptionError, or StorageError if the disk does not read."""
        return self._reader.item(Decisions, txid)  # type: ignore[no-any-return]

    def decisions(self, state: str | None, limit: int, before: bytes | None) -> list[Decision]:
        """The newest ``limit`` decisions whose txid is below ``before``, newest first.

        ``state``: "committed", "aborted", "open" (a branch is outstanding), or None for all. Raises LocalProtocolError for
        another state or a limit below 1; else as ``decision``. Looks at no more than twice ``limit`` rows.
        """
        return self._reader.newest(state, limit, before)

    def snapshot_to(self, path: Path) -> SnapshotInfo:
        """Copy the ledger into the new file ``path``, as it stands after one log entry. Writes may go on meanwhile.

        Call it ``copy-*.tmp`` in the data directory: one left by a dead process is deleted at open. Raises StorageError if
        the disk refuses or has no room to spare; the node is not harmed by that.
        """
        check_room(path.parent, self._path.stat().st_size, "a copy of the ledger")
        return write_snapshot(self._path, path, self.identity.cluster_name)

    # -- writing --------------------------------------------------------------------------------------------------

    def write(self, w: Write) -> None:
        """Store ``w`` in one commit; it is on disk when this returns, unless ``w.synced`` is False.

        Raises StorageError if the disk refuses: nothing of ``w`` counts as stored, and every later write is refused too.
        Raises Halt, before anything is written, if ``w`` breaks a rule of Raft.
        """
        self._must_live()
        extent = extent_after(w, self._extent, self._state.applied_index)
        with self._committing(state_after(w, self._state, extent.last), extent, synced=w.synced):
            self._store(w)
        self._own_rows = fields_after(w.changes, self._own_rows)
        self._joined = w.joined or self._joined

    def install(self, path: Path, info: SnapshotInfo) -> None:
        """Replace the ledger by the snapshot in ``path``, and the log by the one entry (info.index, info.term), in one commit.

        Term, vote and all identities stay. ``load`` gives the new state. Raises CorruptionError if ``path`` is not what
        ``info`` describes, or of another cluster, and ConfigError if a newer release made it; then nothing is changed.
        Raises StorageError as ``write`` does.
        """
        self._must_live()
        head = check_snapshot(path, info, cluster_name=self.identity.cluster_name, cluster=self._state.cluster)
        check(head.index >= self._state.applied_index, "a snapshot older than the ledger would be installed")
        there = {name: head.fields[name] for name, field in OWN_ROWS.items() if head.fields[name] != field.default}
        own_rows = {**self._own_rows, **there}  # a release before there was such a row made the copy: it stays
        state = self._state._replace(
            writes=self._state.writes + 1,
            applied_index=head.index,
            applied_term=head.term,
            fields={name: head.fields[name] for name in STATE_FIELDS},
            epochs={**self._state.epochs, **{name: epoch_of(name, value) for name, value in own_rows.items()}},
        )
        execute = self._writer.execute
        with self._dying_of_errors():
            execute("ATTACH ? AS snapshot", (uri(path, "mode=ro&immutable=1"),))
        with self._committing(state, Extent(head.index, head.index)):
            for name in stored_tables():
                execute(f"DELETE FROM main.{name}")
                if execute("SELECT 1 FROM snapshot.sqlite_schema WHERE name = ?", (name,)).fetchall():
                    execute(f"INSERT INTO main.{name} SELECT * FROM snapshot.{name}")
            execute("DELETE FROM log")
            self._append([LogRow(head.index, head.term, files.ANCHOR.data)])
            self._put_own_rows(there)
        self._own_rows = own_rows
        with self._dying_of_errors():
            execute("DETACH snapshot")
            execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def close(self) -> None:
        """Move the write-ahead log into node.db, close, and let another process in. Not while another call is running."""
        if self._refusal == _CLOSED:
            return
        # What fails here costs nothing: all is in node.db-wal, synced, and the next open replays it.
        with contextlib.suppress(sqlite3.Error, OSError):
            self._reader.close()
            if not self._refusal:
                self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
                self._mark.sync()
        self._refusal = _CLOSED
        with contextlib.suppress(sqlite3.Error, OSError):
            self._parts.close()

    def _store(self, w: Write) -> None:
        execute = self._writer.execute
        if w.truncate_from is not None:
            execute("DELETE FROM log WHERE idx >= ?", (w.truncate_from,))
        self._append(w.append)
        for table in TABLES:
            if table.name in w.changes:
                self._change(table, w.changes[table.name])
        if w.drop_log_before is not None:
            execute("DELETE FROM log WHERE idx < ?", (w.drop_log_before,))
        self._put_own_rows(own_rows_in(w))

    def _change(self, table: type[Table], change: TableChange) -> None:
        """In the order that TableChange says."""
        if change.before is not None:
            self._change(table, change.before)
        if table.rows is not None:
            key = " AND ".join(f"{column} = ?" for column in table.rows.columns[: table.rows.keys])
            for gone in change.deletes:
                self._writer.execute(f"DELETE FROM {table.name} WHERE {key}", table.rows.key(gone))
            pack = table.rows.pack
            _PUTS[table.name].run(self._writer, [pack(put) for put in change.puts.values()])
            if table.rows.many is not None and change.forget_below is not None:
                forgettable = f"{table.rows.columns[0]} < ? AND {table.rows.many.forgettable}"
                self._writer.execute(f"DELETE FROM {table.name} WHERE {forgettable}", (change.forget_below,))

    def _put_own_rows(self, fields: Mapping[str, Any]) -> None:
        for name, value in fields.items():
            self._writer.execute(_PUT_META, field_row(name, value))

    def _append(self, rows: Iterable[LogRow]) -> None:
        _INSERT_LOG.run(self._writer, [(*row, log_crc(*row)) for row in rows])

    @contextlib.contextmanager
    def _committing(self, state: NodeState, extent: Extent, *, synced: bool = True) -> Iterator[None]:
        """One transaction of what the block does and ``state``; if ``synced``, on disk at the end of the block."""
        execute = self._writer.execute
        with self._dying_of_errors():
            if not synced:
                execute("PRAGMA synchronous=NORMAL")
            execute("BEGIN IMMEDIATE")
            yield
            if state is not self._state:
                key, value, crc = state_row(state)
                execute("UPDATE meta SET value = ?, crc = ? WHERE key = ?", (value, crc, key))
            execute("COMMIT")
            if synced:
                self._mark.set(Reach(state.writes, extent.last))
            else:
                execute("PRAGMA synchronous=FULL")
        self._state, self._extent = state, extent

    @contextlib.contextmanager
    def _dying_of_errors(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            self._refusal = _DEAD
            with contextlib.suppress(sqlite3.Error):
                self._writer.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error | OSError):
                raise refused_write(error, self._path) from error
            raise

    def _must_live(self) -> None:
        if self._refusal:
            raise StorageError(f"cannot write {self._path}: {self._refusal}")


def _writing(path: Path, wal_pages: int) -> sqlite3.Connection:
    """The one connection that writes. Refused now rather than at the first write, if the file cannot be written."""
    connection = connect(path, "mode=rw")
    try:
        for statement in (
            "PRAGMA synchronous=FULL",
            "PRAGMA fullfsync=1",  # macOS: an fsync there does not reach the platter
            "PRAGMA checkpoint_fullfsync=1",
            f"PRAGMA wal_autocheckpoint={wal_pages}",
            f"PRAGMA journal_size_limit={_WAL_BYTES_KEPT}",
            "PRAGMA wal_checkpoint(TRUNCATE)",  # a torn tail of the last run is cut off: no later replay can meet it
            "BEGIN IMMEDIATE",
            "ROLLBACK",
        ):
            connection.execute(statement).fetchall()
        lengthen(path, wal_pages * _PAGE_BYTES)
    except BaseException:
        connection.close()
        raise
    return connection
