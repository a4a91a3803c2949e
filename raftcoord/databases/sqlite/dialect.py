"""SQLite: a branch is a row that freezes the file until its changes are carried out.

Theory of operation. SQLite cannot prepare, so a branch works behind BEGIN IMMEDIATE and a savepoint, and triggers write down
which rows it touches. Prepare reads those rows, goes back to the savepoint and, without having let go of the write lock, commits
a row with the difference. While that row is there, triggers on every table refuse all other writers; reads go on. Commit is one
transaction that deletes the row, makes the rows what the branch left (rows.py), and leaves a mark.

    proven before the yes   the whole commit is carried out once and rolled back, by a new connection that has nothing of the
                            program's: what only the program could write (its collations, its functions in an index) is a no
    never anything else     the rows are compared before and after each replay; a difference is rolled back and reported
    not frozen              the schema: a DROP TABLE of another program is not refused, and is then found at the replay

Never: statements that are repeated. random(), the time, a setting of the connection or a function of the program would give
others values than those that the block has seen.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Final, TypeVar

from raftcoord import limits
from raftcoord.databases import gid as gids
from raftcoord.databases import owners
from raftcoord.databases.gid import Gid
from raftcoord.databases.marks import NAMING, Marked
from raftcoord.databases.owners import Marks, Owner
from raftcoord.databases.sqlite import file, keys, rows
from raftcoord.databases.sqlite.keys import ForeignKey
from raftcoord.databases.sqlite.rows import Work
from raftcoord.databases.steps import (
    BranchEnded,
    Effect,
    NotPossible,
    Occupied,
    PreparedHere,
    SqlError,
    Statement,
    Steps,
)
from raftcoord.errors import RaftcoordError
from raftcoord.types import checked_cluster_id

_T = TypeVar("_T")
_ENDED: Final = "its transaction was ended inside the block; leave commit and rollback to the block"
_SAVEPOINT: Final = "raftcoord_branch"
_NOW: Final = "(julianday('now') - 2440587.5) * 86400"
_AS_IT_HELD: Final = ("foreign_keys = 0", "ignore_check_constraints = 1")
"""While rows are carried out that were checked when the program wrote them."""


class Sqlite(Marked):
    """The Dialect of SQLite."""

    name = "sqlite"
    marks = "raftcoord_marks"
    marked_ms = "at * 1000"

    def __init__(self, work_bytes_max: int = limits.SQLITE_WORK_BYTES_MAX) -> None:
        self._work_bytes_max = work_bytes_max

    def begin(self, gid: Gid, *, checked: bool) -> Steps[Marks]:
        """Take the write lock, make what is missing, and set the savepoint."""
        yield from file.suits()
        try:
            yield Statement("BEGIN IMMEDIATE", outside=True)
        except SqlError as error:
            raise Occupied(f"the file is in use by another writer: {error}") from None
        try:
            yield from file.make()
            standing = yield Statement("SELECT gid FROM raftcoord_prepared", reads=True)
            if standing.rows:
                raise Occupied(
                    f"transaction {standing.rows[0][0]} is prepared in this file, and one at a time can be; it ends with its "
                    "program or with: raftcoord resolver run"
                )
            named = yield Statement(f"SELECT gid FROM {self.marks} WHERE {NAMING}", reads=True)
            marks = owners.check(owners.read(named.rows), gid)
            yield from file.see_all()
            yield from _see_nothing()  # what a program has left that ended the branch's transaction by itself
            yield Statement(f"SAVEPOINT {_SAVEPOINT}")
            yield Statement(
                "INSERT INTO raftcoord_open (changes, schema) SELECT total_changes() + 1, schema_version "
                "FROM pragma_schema_version"
            )
        except RaftcoordError:
            yield from _roll_back()
            raise
        return marks

    def prepare(self, gid: Gid, *, marks: bool) -> Steps[None]:
        """Back to the savepoint, and the row that freezes, in one transaction; then the proof."""
        try:
            end = yield from rows.touched()
            foreign_keys = yield from keys.deferred()
        except SqlError as error:
            yield from _take_back()
            raise NotPossible(str(error)) from None
        yield from _take_back()
        try:
            work = (yield from rows.work_of(end)).pack()
            if len(work) > self._work_bytes_max:
                raise NotPossible(
                    f"the rows that it has changed take {len(work)} bytes, and at most {self._work_bytes_max} can be prepared "
                    "in a SQLite file; change fewer in one transaction"
                )
            yield Statement(
                f"INSERT INTO raftcoord_prepared (one, gid, at, work) VALUES (1, ?, {_NOW}, ?)", (str(gid), work)
            )
            yield Statement("COMMIT")
            yield from _apart(_proven(gid, foreign_keys))
        except SqlError as error:
            raise NotPossible(str(error)) from None

    def commit_prepared_here(self, gid: Gid) -> Steps[Effect]:
        """As from any session."""
        return (yield from self.commit_prepared(gid))

    def commit_one_phase(self, gid: Gid) -> Steps[None]:
        """COMMIT what the savepoint holds."""
        try:
            yield from _see_nothing()
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
        if touched and (yield from _has_tables()):
            yield from self.rollback_prepared(gid)
            if (yield Statement("SELECT 1 FROM raftcoord_open LIMIT 1", reads=True)).rows:
                yield from _see_nothing()  # the program has committed what the branch had written down

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
        """Thaw, carry the rows out, mark: in one transaction."""
        work = (yield from _work_of(gid)) if (yield from _has_tables()) else None
        if work is not None:
            yield from _as_it_held(_in_transaction(_replayed(gid, work)))
        return (yield from self.proof(gid))

    def rollback_prepared(self, gid: Gid) -> Steps[Effect]:
        """Thaw."""
        if (yield from _has_tables()):
            yield Statement("DELETE FROM raftcoord_prepared WHERE gid = ?", (str(gid),), outside=True)
        return (yield from self.proof(gid))

    def is_without_marks(self, error: SqlError) -> Steps[bool]:
        """SQLite's error does not tell: it is the same for every wrong statement."""
        return not (yield from _has_tables())

    def is_prepared(self, gid: Gid) -> Steps[bool]:
        """In this file."""
        return (yield from _has_tables()) and (yield from _work_of(gid)) is not None

    def create_marks(self) -> Steps[None]:
        """The tables and the triggers. ``begin`` makes them too."""
        yield Statement("BEGIN IMMEDIATE", outside=True)
        try:
            yield from file.make()
            yield Statement(
                f"INSERT INTO raftcoord_marks SELECT ?, {_NOW} WHERE NOT EXISTS (SELECT 1 FROM raftcoord_marks)",
                (owners.SINCE,),
            )
            yield Statement("COMMIT")
        except RaftcoordError:
            yield from _roll_back()
            raise

    def add_owner(self, owner: Owner) -> Steps[None]:
        yield Statement(
            f"INSERT OR IGNORE INTO raftcoord_marks (gid, at) VALUES (?, {_NOW})", (str(owner),), outside=True
        )


def _take_back() -> Steps[None]:
    try:
        yield Statement(f"ROLLBACK TO {_SAVEPOINT}")
    except SqlError:
        raise BranchEnded(_ENDED) from None


def _roll_back() -> Steps[None]:
    with contextlib.suppress(SqlError):
        yield Statement("ROLLBACK")


def _has_tables() -> Steps[bool]:
    found = yield Statement(
        "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'raftcoord_prepared'", reads=True, outside=True
    )
    return bool(found.rows)


def _work_of(gid: Gid) -> Steps[Work | None]:
    found = yield Statement("SELECT work FROM raftcoord_prepared WHERE gid = ?", (str(gid),), reads=True, outside=True)
    return Work.unpack(found.rows[0][0]) if found.rows else None


def _see_nothing() -> Steps[None]:
    """No more is written down, and what was is gone. In the transaction, before anybody else could see it."""
    yield Statement("DELETE FROM raftcoord_open")
    yield Statement("DELETE FROM raftcoord_touched")


def _replayed(gid: Gid, work: Work) -> Steps[None]:
    """All that a commit does, in its transaction. Nothing if somebody else was faster."""
    if (yield from _work_of(gid)) is None:
        return
    yield Statement("DELETE FROM raftcoord_prepared")
    yield from rows.carry_out(work)
    yield Statement(f"INSERT INTO raftcoord_marks (gid, at) VALUES (?, {_NOW})", (str(gid),))


def _proven(gid: Gid, foreign_keys: Sequence[ForeignKey]) -> Steps[None]:
    """Commit it, and roll that back. Raises SqlError or NotPossible if it could not be committed."""
    work = yield from _work_of(gid)
    if work is None:
        raise NotPossible("somebody has rolled it back already")

    def proof() -> Steps[None]:
        looks = yield from keys.look(work, foreign_keys)
        yield from _replayed(gid, work)
        yield from keys.check(looks)

    yield from _as_it_held(_in_transaction(proof(), end="ROLLBACK"))


def _in_transaction(steps: Steps[None], end: str = "COMMIT") -> Steps[None]:
    yield Statement("BEGIN IMMEDIATE", outside=True)
    try:
        yield from steps
        yield Statement(end)
    except RaftcoordError:
        yield from _roll_back()
        raise


def _as_it_held(steps: Steps[None]) -> Steps[None]:
    """With foreign keys and checks off, and then as they were; outside a transaction, where SQLite takes it."""
    before = []
    for setting in _AS_IT_HELD:
        name, _, value = setting.partition(" = ")
        found = yield Statement(f"PRAGMA {name}", reads=True, outside=True)
        if found.rows != [(int(value),)]:
            before.append(f"{name} = {found.rows[0][0]}")
            yield Statement(f"PRAGMA {setting}", outside=True)
    try:
        yield from steps
    except RaftcoordError:
        yield from _set(before)
        raise
    yield from _set(before)


def _set(settings: list[str]) -> Steps[None]:
    for setting in settings:
        yield Statement(f"PRAGMA {setting}", outside=True)


def _apart(steps: Steps[_T]) -> Steps[_T]:
    """The same on a connection of its own."""
    try:
        statement = next(steps)
        while True:
            try:
                result = yield statement._replace(apart=True)
            except RaftcoordError as error:
                statement = steps.throw(error)
            else:
                statement = steps.send(result)
    except StopIteration as stop:
        returned: _T = stop.value
        return returned
