"""MariaDB and MySQL: a branch is XA, and a row in raftcoord_marks, written inside it, is its proof.

Theory of operation. What must not be believed:
    OK to XA COMMIT from another session than the one that prepared: right after that one has closed, InnoDB may keep the
        transaction, unlisted, until the server restarts. So the mark is read afterwards.
    1397 (XAER_NOTA) is a question: the preparing session is still connected, or it is committed, or it is gone. List, and read
        the mark.
    A deadlock's victim has been rolled back: XA END and XA PREPARE answer with a code of the XA_RB family, or 1399, and
        only XA ROLLBACK is left.
    1402 at XA COMMIT: the branch is marked for rollback, or had written nothing. The mark tells.

The table is in the database that the connection uses, because XA knows none. Sources: MariaDB knowledge base, XA Transactions and
Error Codes 1397 to 1402, 1613, 1614; X/Open XA specification, section 3.3.
"""

from __future__ import annotations

import contextlib
from typing import Final

from raftcoord.databases import gid as gids
from raftcoord.databases import owners
from raftcoord.databases.gid import Gid
from raftcoord.databases.marks import NAMING, Marked
from raftcoord.databases.owners import Marks, Owner
from raftcoord.databases.steps import (
    BranchEnded,
    Effect,
    NotPossible,
    NotSetUp,
    PreparedHere,
    SqlError,
    Statement,
    Steps,
)
from raftcoord.types import checked_cluster_id

XAER_NOTA: Final = "1397"
XAER_RMFAIL: Final = "1399"
XAER_OUTSIDE: Final = "1400"
XA_RBROLLBACK: Final = "1402"
XA_RBTIMEOUT: Final = "1613"
XA_RBDEADLOCK: Final = "1614"
TABLE_IS_MISSING: Final = ("1146", "1046")
"""No such table; no database selected."""

_GIVEN_UP: Final = {XAER_RMFAIL, XA_RBROLLBACK, XA_RBTIMEOUT, XA_RBDEADLOCK}
_ENDED: Final = (
    "its transaction was ended inside the block, or the driver has connected anew; leave the commit to the block, return the "
    "connection to its pool after it, and switch the driver's automatic reconnect off"
)
NO_MARKS: Final = (
    "there is no table raftcoord_marks in the database of this connection; make it with: raftcoord resource init (and name "
    "the database when you connect)"
)
_CREATE: Final = (
    "CREATE TABLE IF NOT EXISTS raftcoord_marks (gid VARCHAR(128) CHARACTER SET ascii COLLATE ascii_bin NOT NULL PRIMARY KEY, "
    "at TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP(3)) ENGINE=InnoDB"
)


class MariaDb(Marked):
    """The Dialect of MariaDB and MySQL."""

    name = "mariadb"
    marks = "raftcoord_marks"
    marked_ms = "UNIX_TIMESTAMP(at) * 1000"

    def is_without_marks(self, error: SqlError) -> Steps[bool]:
        """No such table, or no database selected."""
        yield from ()
        return error.code in TABLE_IS_MISSING

    def begin(self, gid: Gid, *, checked: bool) -> Steps[Marks]:
        """XA START; the table of marks must be there, and be the resource's."""
        try:
            yield Statement(f"XA START {gid.xid}")
        except SqlError as error:
            if error.code in (XAER_OUTSIDE, XAER_RMFAIL):
                raise NotPossible(
                    "the connection has a transaction open already; commit() or rollback() it before it is enlisted"
                ) from None
            raise NotPossible(str(error)) from None
        if checked:
            return Marks.NAMED
        try:
            found = yield Statement(f"SELECT gid FROM {self.marks} WHERE {NAMING}", reads=True)
            return owners.check(owners.read(found.rows), gid)
        except SqlError as error:
            yield from self.rollback(gid, touched=False)
            raise NotSetUp(NO_MARKS if error.code in TABLE_IS_MISSING else str(error)) from None
        except NotPossible:
            yield from self.rollback(gid, touched=False)
            raise

    def prepare(self, gid: Gid, *, marks: bool) -> Steps[None]:
        """The mark, XA END, XA PREPARE: each is refused when the branch was given up."""
        try:
            yield Statement(f"INSERT INTO raftcoord_marks (gid) VALUES ('{gid}')")
            yield Statement(f"XA END {gid.xid}")
            yield Statement(f"XA PREPARE {gid.xid}")
        except SqlError as error:
            raise _impossible(error) from None

    def commit_prepared_here(self, gid: Gid) -> Steps[Effect]:
        """XA COMMIT on the session that prepared: OK is proof there."""
        try:
            yield Statement(f"XA COMMIT {gid.xid}")
        except SqlError as error:
            if error.code not in (XAER_NOTA, XA_RBROLLBACK):
                raise
            return (yield from self.proof(gid))
        return Effect.COMMITTED

    def commit_one_phase(self, gid: Gid) -> Steps[None]:
        """XA END, XA COMMIT ONE PHASE."""
        try:
            yield Statement(f"XA END {gid.xid}")
            yield Statement(f"XA COMMIT {gid.xid} ONE PHASE")
        except SqlError as error:
            raise _impossible(error) from None

    def rollback(self, gid: Gid, *, touched: bool) -> Steps[None]:
        """XA END may be refused, because the branch was given up or is prepared; XA ROLLBACK must not be."""
        with contextlib.suppress(SqlError):
            yield Statement(f"XA END {gid.xid}")
        yield Statement(f"XA ROLLBACK {gid.xid}")

    def list_prepared(self, cluster: str | None) -> Steps[list[PreparedHere]]:
        """XA RECOVER: of the whole server, with no age and no database."""
        if cluster is not None:
            checked_cluster_id(cluster)
        found = yield Statement("XA RECOVER", reads=True, outside=True)
        read = [gids.parse_xa(*row[:4]) for row in found.rows]
        return [PreparedHere(gid, None, "", True) for gid in read if gid is not None and cluster in (None, gid.cluster)]

    def commit_prepared(self, gid: Gid) -> Steps[Effect]:
        """XA COMMIT."""
        return (yield from self._end_prepared(f"XA COMMIT {gid.xid}", gid))

    def rollback_prepared(self, gid: Gid) -> Steps[Effect]:
        """XA ROLLBACK."""
        return (yield from self._end_prepared(f"XA ROLLBACK {gid.xid}", gid))

    def _end_prepared(self, sql: str, gid: Gid) -> Steps[Effect]:
        """Neither OK nor 1397 is proof: look."""
        try:
            yield Statement(sql, outside=True)
        except SqlError as error:
            if error.code not in (XAER_NOTA, XA_RBROLLBACK):
                raise
        return (yield from self.proof(gid))

    def is_prepared(self, gid: Gid) -> Steps[bool]:
        """On this server."""
        listed = yield from self.list_prepared(gid.cluster)
        return any(each.gid == gid for each in listed)

    def create_marks(self) -> Steps[None]:
        """In the database of this connection."""
        yield Statement(_CREATE, outside=True)
        yield Statement(
            f"INSERT INTO raftcoord_marks (gid) SELECT '{owners.SINCE}' FROM DUAL "
            "WHERE NOT EXISTS (SELECT 1 FROM raftcoord_marks)",
            outside=True,
        )

    def add_owner(self, owner: Owner) -> Steps[None]:
        yield Statement(f"INSERT IGNORE INTO raftcoord_marks (gid) VALUES ('{owner}')", outside=True)


def _impossible(error: SqlError) -> NotPossible | BranchEnded:
    """What a refusal before the prepare means."""
    if error.code in _GIVEN_UP:
        return NotPossible(
            f"{error}; the server has rolled it back, as a deadlock's victim or after a timeout: try the transaction again"
        )
    if error.code == XAER_NOTA:
        return BranchEnded(_ENDED)
    if error.code in TABLE_IS_MISSING:
        return NotSetUp(NO_MARKS)
    return NotPossible(str(error))
