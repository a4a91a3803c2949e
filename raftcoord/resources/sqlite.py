"""SQLite: a branch is a row that freezes the file until its statements are carried out.

Theory of operation. SQLite cannot prepare, so a branch works behind BEGIN IMMEDIATE and a savepoint, and its statements are
recorded. Prepare goes back to the savepoint and, without having let go of the write lock, commits a row with those statements.
While that row stands, triggers on every table refuse all other writers; reads go on. Commit is one transaction that deletes
the row, carries the statements out again on a file that nobody has changed, and leaves a mark.

    changes counted    the replay must change as many rows as the branch did, or it is rolled back and reported
    not frozen         the schema: a DROP TABLE of another program is not refused, and is then found at the replay
    not repeated       random(), the time, functions of the program: a statement gets at replay what it gets then; a function that
                       another program does not have keeps the resolver from finishing the branch

Never: a changeset without the freeze; it no longer applies when another writer was there in between.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any, Final

import msgpack

from raftcoord.errors import RaftcoordError
from raftcoord.resources import gid as gids
from raftcoord.resources import owners
from raftcoord.resources.gid import Gid
from raftcoord.resources.owners import Marks, Owner
from raftcoord.resources.steps import (
    BranchEnded,
    Effect,
    Finding,
    NotPossible,
    Occupied,
    PreparedHere,
    SqlError,
    Statement,
    Steps,
)
from raftcoord.types import TxId, checked_cluster_id, first_txid_of

REPLAY_FAILED: Final = "RAFTCOORD_REPLAY"
"""The code of an SqlError that is no passing trouble: the prepared statements cannot be carried out as they were."""

_ENDED: Final = "its transaction was ended inside the block; leave commit and rollback to the block"
_SAVEPOINT: Final = "raftcoord_branch"
_TABLES: Final = (
    "CREATE TABLE IF NOT EXISTS raftcoord_prepared (one INTEGER PRIMARY KEY CHECK (one = 1), gid TEXT NOT NULL, "
    "at REAL NOT NULL, work BLOB NOT NULL)",
    "CREATE TABLE IF NOT EXISTS raftcoord_marks (gid TEXT PRIMARY KEY, at REAL NOT NULL) WITHOUT ROWID",
)
_NOW: Final = "(julianday('now') - 2440587.5) * 86400"


class Work:
    """What a branch has done: its statements, the rows that they changed, and whether foreign keys were in force."""

    def __init__(self) -> None:
        self.statements: list[tuple[str, Any]] = []
        self.changes = 0
        self.foreign_keys = False

    def pack(self) -> bytes:
        """As it is stored."""
        packed: bytes = msgpack.packb([self.foreign_keys, self.changes, self.statements])
        return packed

    @classmethod
    def unpack(cls, stored: bytes) -> Work:
        """Read back. Raises SqlError if it cannot be."""
        work = cls()
        try:
            work.foreign_keys, work.changes, statements = msgpack.unpackb(stored, strict_map_key=True)
            work.statements = [(sql, params) for sql, params in statements]
        except Exception as error:
            raise SqlError(REPLAY_FAILED, f"the prepared branch cannot be read: {error}") from None
        return work


class Sqlite:
    """The Dialect of SQLite."""

    name = "sqlite"

    def begin(self, gid: Gid, *, checked: bool) -> Steps[Marks]:
        """Take the write lock, make what is missing, and set the savepoint."""
        yield from self._suits()
        try:
            yield Statement("BEGIN IMMEDIATE", outside=True)
        except SqlError as error:
            raise Occupied(f"the file is in use by another writer: {error}") from None
        try:
            yield from _make_tables()
            standing = yield Statement("SELECT gid FROM raftcoord_prepared", reads=True)
            if standing.rows:
                raise Occupied(
                    f"transaction {standing.rows[0][0]} is prepared in this file, and one at a time can be; it ends with its "
                    "program or with: raftcoord resolver run"
                )
            marks = owners.check((yield from _owners()), gid)
            yield Statement(f"SAVEPOINT {_SAVEPOINT}")
        except RaftcoordError:
            yield from _roll_back()
            raise
        return marks

    def _suits(self) -> Steps[None]:
        files = yield Statement("PRAGMA database_list", reads=True)
        names = {name: file for _, name, file in files.rows}
        if not names.get("main"):
            raise NotPossible("a database in memory cannot be prepared; use a file")
        if others := names.keys() - {"main", "temp"}:
            raise NotPossible(
                f"the database {min(others)!r} is attached; detach it, and enlist a connection of its own"
            )
        if (yield Statement("SELECT 1 FROM sqlite_temp_master LIMIT 1", reads=True)).rows:
            raise NotPossible("the connection has temporary tables, which no other program can finish; drop them")
        virtual = yield Statement(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND sql LIKE 'CREATE VIRTUAL%'", reads=True
        )
        if virtual.rows:
            raise NotPossible(
                f"table {virtual.rows[0][0]!r} is virtual, and writers to it cannot be refused; keep it in another file"
            )

    def prepare(self, gid: Gid, *, marks: bool, work: bytes = b"") -> Steps[None]:
        """Back to the savepoint, and the row that freezes, in one transaction."""
        try:
            yield Statement(f"ROLLBACK TO {_SAVEPOINT}")
        except SqlError:
            raise BranchEnded(_ENDED) from None
        try:
            yield Statement(
                f"INSERT INTO raftcoord_prepared (one, gid, at, work) VALUES (1, ?, {_NOW}, ?)", (str(gid), work)
            )
            yield Statement("COMMIT")
        except SqlError as error:
            raise NotPossible(str(error)) from None

    def commit_prepared_here(self, gid: Gid) -> Steps[Effect]:
        """As from any session."""
        return (yield from self.commit_prepared(gid))

    def commit_one_phase(self, gid: Gid) -> Steps[None]:
        """COMMIT what the savepoint holds."""
        try:
            yield Statement(f"RELEASE {_SAVEPOINT}")
        except SqlError:
            raise BranchEnded(_ENDED) from None
        try:
            yield Statement("COMMIT")
        except SqlError as error:
            raise NotPossible(str(error)) from None

    def rollback(self, gid: Gid, *, touched: bool) -> Steps[None]:
        """ROLLBACK; that there is no transaction is no trouble. Then thaw."""
        yield from _roll_back()
        if touched:
            yield from self.rollback_prepared(gid)

    def list_prepared(self, cluster: str | None) -> Steps[list[PreparedHere]]:
        """One at most."""
        if cluster is not None:
            checked_cluster_id(cluster)
        try:
            found = yield Statement(f"SELECT gid, {_NOW} - at FROM raftcoord_prepared", reads=True, outside=True)
        except SqlError:
            if (yield from _has_tables()):
                raise
            return []
        read = [(gids.parse(text), age) for text, age in found.rows]
        return [PreparedHere(gid, age, "main", True) for gid, age in read if gid and cluster in (None, gid.cluster)]

    def commit_prepared(self, gid: Gid) -> Steps[Effect]:
        """Thaw, carry the statements out, mark: in one transaction."""
        work = yield from _work_of(gid)
        if work is None:
            return (yield from self.proof(gid))
        before = yield Statement("PRAGMA foreign_keys", reads=True, outside=True)
        as_before = Statement(f"PRAGMA foreign_keys = {before.rows[0][0]}", outside=True)
        yield Statement(f"PRAGMA foreign_keys = {int(work.foreign_keys)}", outside=True)
        try:
            yield Statement("BEGIN IMMEDIATE", outside=True)
            if (yield from _work_of(gid)) is not None:
                yield from _replay(gid, work)
            yield Statement("COMMIT")
        except RaftcoordError:
            yield from _roll_back()
            yield as_before
            raise
        yield as_before
        return (yield from self.proof(gid))

    def rollback_prepared(self, gid: Gid) -> Steps[Effect]:
        """Thaw."""
        if (yield from _has_tables()):
            yield Statement("DELETE FROM raftcoord_prepared WHERE gid = ?", (str(gid),), outside=True)
        return (yield from self.proof(gid))

    def proof(self, gid: Gid) -> Steps[Effect]:
        """The row first, then the mark."""
        if not (yield from _has_tables()):
            return Effect.UNKNOWN
        if (yield from _work_of(gid)) is not None:
            return Effect.PREPARED
        marked = yield Statement("SELECT 1 FROM raftcoord_marks WHERE gid = ?", (str(gid),), reads=True, outside=True)
        return Effect.COMMITTED if marked.rows else Effect.ABSENT

    def marked(self, gids: Sequence[Gid]) -> Steps[frozenset[str]]:
        """See Dialect."""
        if not (yield from _has_tables()):
            return frozenset()
        found = yield Statement(
            f"SELECT gid FROM raftcoord_marks WHERE gid IN ({owners.quoted(gids)})", reads=True, outside=True
        )
        return frozenset(str(gid) for (gid,) in found.rows)

    def covers(self, gid: Gid) -> Steps[bool]:
        """See Dialect."""
        head = f"{gids.PREFIX}{checked_cluster_id(gid.cluster)}."
        found = yield Statement(
            "SELECT EXISTS (SELECT 1 FROM raftcoord_marks WHERE gid >= ? AND gid < ?) OR EXISTS (SELECT 1 FROM raftcoord_marks "
            "WHERE (gid = ? OR gid >= ? AND gid < ?) AND at * 1000 < ?)",
            (head, str(gid), owners.SINCE, owners.FIRST, owners.LAST, gid.txid.ms + 1),
            reads=True,
            outside=True,
        )
        return bool(found.rows[0][0])

    def create_marks(self) -> Steps[None]:
        """The tables and the triggers. ``begin`` makes them too."""
        yield Statement("BEGIN IMMEDIATE", outside=True)
        try:
            yield from _make_tables()
            yield Statement(
                f"INSERT INTO raftcoord_marks SELECT ?, {_NOW} WHERE NOT EXISTS (SELECT 1 FROM raftcoord_marks)",
                (owners.SINCE,),
            )
            yield Statement("COMMIT")
        except RaftcoordError:
            yield from _roll_back()
            raise

    def owners(self) -> Steps[frozenset[Owner] | None]:
        """See Dialect."""
        return (yield from _owners()) if (yield from _has_tables()) else None

    def add_owner(self, owner: Owner) -> Steps[None]:
        """See Dialect."""
        yield Statement(
            f"INSERT OR IGNORE INTO raftcoord_marks (gid, at) VALUES (?, {_NOW})", (str(owner),), outside=True
        )

    def forget_marks(self, cluster: str, before: TxId) -> Steps[int]:
        """By the order of the gids, which is that of time."""
        head = f"{gids.PREFIX}{checked_cluster_id(cluster)}."
        last = f"{head}{first_txid_of(before.ms).hex()}"
        gone = yield Statement("DELETE FROM raftcoord_marks WHERE gid >= ? AND gid < ?", (head, last), outside=True)
        return gone.touched

    def check(self) -> Steps[list[Finding]]:
        """Whether the file suits."""
        try:
            yield from self._suits()
        except NotPossible as error:
            what, _, mend = str(error).partition("; ")
            return [Finding(what, mend or "use a file", True)]
        return []


def _roll_back() -> Steps[None]:
    with contextlib.suppress(SqlError):
        yield Statement("ROLLBACK")


def _has_tables() -> Steps[bool]:
    found = yield Statement(
        "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'raftcoord_prepared'", reads=True, outside=True
    )
    return bool(found.rows)


def _owners() -> Steps[frozenset[Owner]]:
    found = yield Statement(
        "SELECT gid FROM raftcoord_marks WHERE gid >= ? AND gid < ?", (owners.FIRST, owners.LAST), reads=True
    )
    return owners.read(found.rows)


def _work_of(gid: Gid) -> Steps[Work | None]:
    found = yield Statement("SELECT work FROM raftcoord_prepared WHERE gid = ?", (str(gid),), reads=True, outside=True)
    return Work.unpack(found.rows[0][0]) if found.rows else None


def _replay(gid: Gid, work: Work) -> Steps[None]:
    yield Statement("DELETE FROM raftcoord_prepared")
    start = yield Statement("SELECT total_changes()", reads=True)
    for number, (sql, params) in enumerate(work.statements, 1):
        try:
            yield Statement(sql, params, reads=True)
        except SqlError as error:
            why = f"statement {number} of {len(work.statements)} of the prepared branch {gid} failed: {error}"
            raise SqlError(REPLAY_FAILED, f"{why}; nothing of it is committed yet, and the file stays frozen") from None
    end = yield Statement("SELECT total_changes()", reads=True)
    changed = end.rows[0][0] - start.rows[0][0]
    if changed != work.changes:
        why = f"the prepared branch {gid} changed {work.changes} rows, and carried out again it changes {changed}"
        raise SqlError(REPLAY_FAILED, f"{why}; nothing of it is committed yet, and the file stays frozen")
    yield Statement(f"INSERT INTO raftcoord_marks (gid, at) VALUES (?, {_NOW})", (str(gid),))


def _make_tables() -> Steps[None]:
    """The two tables, and three triggers on each table that has none."""
    for sql in _TABLES:
        yield Statement(sql)
    bare = yield Statement(
        "SELECT name FROM sqlite_master AS t WHERE type = 'table' AND substr(name, 1, 7) <> 'sqlite_' "
        "AND substr(name, 1, 10) <> 'raftcoord_' AND (SELECT count(*) FROM sqlite_master WHERE type = 'trigger' "
        "AND tbl_name = t.name AND substr(name, 1, 17) = 'raftcoord_freeze_') < 3",
        reads=True,
    )
    for (table,) in bare.rows:
        for event in ("insert", "update", "delete"):
            trigger, quoted = _quoted(f"raftcoord_freeze_{event}_{table}"), _quoted(table)
            yield Statement(
                f"CREATE TRIGGER IF NOT EXISTS {trigger} BEFORE {event.upper()} ON {quoted} "
                "WHEN EXISTS (SELECT 1 FROM raftcoord_prepared) BEGIN SELECT RAISE(ABORT, "
                "'this file is frozen: a transaction of raftcoord is prepared in it; try again when it has ended'); END"
            )


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
