"""PostgreSQL: a branch is PREPARE TRANSACTION, and a row in raftcoord.marks is its proof.

Theory of operation. What must not be believed:
    PREPARE TRANSACTION in a failed transaction answers ROLLBACK and no error, and so does COMMIT. So a statement that a
        failed transaction refuses comes first, the command tag is read, and the gid is looked for in pg_prepared_xacts.
    The transaction on the connection may not be the branch: the block may have committed, or a pool handed the connection
        on. So the branch carries its gid in a setting that ends with the transaction (SET LOCAL), and one that does not carry
        it fails at the statement that comes first.
    42704 (no such gid) at COMMIT PREPARED is a question: committed before, or rolled back by hand. The mark answers it.

The marks are optional here: without them a branch that is gone is Effect.UNKNOWN. Sources: PostgreSQL 15 documentation, PREPARE
TRANSACTION, COMMIT PREPARED, Appendix A (SQLSTATE).
"""

from __future__ import annotations

import re
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

FAILED_TRANSACTION: Final = "25P02"
NEGATIVE_LENGTH: Final = "22011"
UNDEFINED_OBJECT: Final = "42704"
NOT_SUPPORTED: Final = "0A000"
ROLLED_BACK_CLASS: Final = "40"
"""Serialization failures and deadlocks."""
NOT_IN_STATE: Final = "55000"
BUSY: Final = "55006"
TABLE_IS_MISSING: Final = ("42P01", "3F000")

_ENDED: Final = (
    "its transaction was ended inside the block: by commit(), rollback() or a failed commit, or by a pool that was given the "
    "connection too early; leave the commit to the block, and return the connection after it"
)
_SWALLOWED: Final = (
    "a statement of it failed, and PostgreSQL has given the whole transaction up; let the error leave the block, or use a "
    "savepoint around a statement that may fail"
)
MAX_PREPARED: Final = (
    "set max_prepared_transactions in postgresql.conf to at least max_connections (ALTER SYSTEM SET max_prepared_transactions "
    "= 100) and restart the server"
)
_WHOSE: Final = f"""SELECT current_setting('max_prepared_transactions')::int,
    CASE WHEN to_regclass('raftcoord.marks') IS NOT NULL THEN query_to_xml($$SELECT gid FROM raftcoord.marks
    WHERE {NAMING}$$, false, true, '')::text END"""
"""Whose the marks are, or NULL: there are none. query_to_xml looks into a table that need not be there, in one statement."""
_IN_FORCE: Final = "current_setting('raftcoord.branch', true)"


class PostgreSql(Marked):
    """The Dialect of PostgreSQL."""

    name = "postgresql"
    marks = "raftcoord.marks"
    marked_ms = "extract(epoch FROM at) * 1000"

    def is_without_marks(self, error: SqlError) -> Steps[bool]:
        """No such table, or no such schema."""
        yield from ()
        return error.code in TABLE_IS_MISSING

    def begin(self, gid: Gid, *, checked: bool) -> Steps[Marks]:
        """One statement in the caller's transaction, which names the branch; with it, once, the look at whose database it is."""
        name = f"SET LOCAL raftcoord.branch = '{gid}'"
        try:
            if checked:
                yield Statement(name)
                return Marks.NAMED
            shown = yield Statement(_WHOSE, reads=True, ahead=(name,))
        except SqlError as error:
            raise _impossible(error) from None
        allowed, named = shown.rows[0]
        if not allowed:
            raise NotSetUp(f"max_prepared_transactions is 0 on this server: {MAX_PREPARED}")
        return Marks.MISSING if named is None else owners.check(_owners_in(named), gid)

    def prepare(self, gid: Gid, *, marks: bool) -> Steps[None]:
        """Ask the transaction for its name, mark it, prepare it, and see that it is prepared."""
        preparing, listing = f"PREPARE TRANSACTION '{gid}'", f"SELECT 1 FROM pg_prepared_xact() WHERE gid = '{gid}'"
        try:
            listed = yield Statement(listing, outside=True, ahead=(_named(gid, marks), preparing))
        except SqlError as error:
            raise _impossible(error) from None
        _check_tag("PREPARE TRANSACTION", listed.ahead[-1])
        if listed.touched != 1:
            raise NotPossible("PREPARE TRANSACTION was answered with success, and the server lists nothing prepared")

    def commit_prepared_here(self, gid: Gid) -> Steps[Effect]:
        """As from any session."""
        return (yield from self.commit_prepared(gid))

    def commit_one_phase(self, gid: Gid) -> Steps[None]:
        """COMMIT, after the transaction has said that it is the branch and has not failed."""
        try:
            done = yield Statement("COMMIT", ahead=(_named(gid, marks=False),))
        except SqlError as error:
            raise _impossible(error) from None
        _check_tag("COMMIT", done.tag)

    def rollback(self, gid: Gid, *, touched: bool) -> Steps[None]:
        """ROLLBACK; without a transaction it is a warning. Then ROLLBACK PREPARED, whether it was or not."""
        yield Statement("ROLLBACK")
        if touched:
            yield from self.rollback_prepared(gid)

    def list_prepared(self, cluster: str | None) -> Steps[list[PreparedHere]]:
        """From pg_prepared_xacts, of every database of the server."""
        like = gids.PREFIX if cluster is None else f"{gids.PREFIX}{checked_cluster_id(cluster)}."
        found = yield Statement(
            "SELECT gid::text, extract(epoch FROM clock_timestamp() - prepared)::float8, database::text, "
            f"database = current_database() FROM pg_prepared_xacts WHERE starts_with(gid, '{like}') ORDER BY prepared",
            reads=True,
            outside=True,
        )
        read = [(gids.parse(text), age, database, here) for text, age, database, here in found.rows]
        return [PreparedHere(gid, age, database, here) for gid, age, database, here in read if gid is not None]

    def commit_prepared(self, gid: Gid) -> Steps[Effect]:
        """COMMIT PREPARED: success is proof. That there is no such gid is a question."""
        try:
            yield Statement(f"COMMIT PREPARED '{gid}'", outside=True)
        except SqlError as error:
            if error.code != UNDEFINED_OBJECT:
                raise
            return (yield from self.proof(gid))
        return Effect.COMMITTED

    def rollback_prepared(self, gid: Gid) -> Steps[Effect]:
        """ROLLBACK PREPARED."""
        try:
            yield Statement(f"ROLLBACK PREPARED '{gid}'", outside=True)
        except SqlError as error:
            if error.code != UNDEFINED_OBJECT:
                raise
            return (yield from self.proof(gid))
        return Effect.ABSENT

    def is_prepared(self, gid: Gid) -> Steps[bool]:
        """In this database: a gid is unique in its server."""
        found = yield Statement(
            f"SELECT 1 FROM pg_prepared_xacts WHERE gid = '{gid}' AND database = current_database()", outside=True
        )
        return found.touched == 1

    def create_marks(self) -> Steps[None]:
        """A schema of its own, so that no search_path can hide it. All that may connect may mark: a gid cannot be guessed."""
        for sql in (
            "CREATE SCHEMA IF NOT EXISTS raftcoord",
            'CREATE TABLE IF NOT EXISTS raftcoord.marks (gid text COLLATE "C" PRIMARY KEY, '
            "at timestamptz NOT NULL DEFAULT now())",
            f"INSERT INTO raftcoord.marks (gid) SELECT '{owners.SINCE}' WHERE NOT EXISTS (SELECT FROM raftcoord.marks)",
            "GRANT USAGE ON SCHEMA raftcoord TO PUBLIC",
            "GRANT SELECT, INSERT ON raftcoord.marks TO PUBLIC",
        ):
            yield Statement(sql, outside=True)

    def owners(self) -> Steps[frozenset[Owner] | None]:
        """In one statement that no missing table makes fail."""
        shown = yield Statement(_WHOSE, reads=True, outside=True)
        named = shown.rows[0][1]
        return None if named is None else _owners_in(named)

    def add_owner(self, owner: Owner) -> Steps[None]:
        yield Statement(f"INSERT INTO raftcoord.marks (gid) VALUES ('{owner}') ON CONFLICT DO NOTHING", outside=True)


def _owners_in(xml: str) -> frozenset[Owner]:
    return owners.read((text,) for text in re.findall(r"<gid>([^<]*)</gid>", xml))


def _named(gid: Gid, marks: bool) -> str:
    """What the branch's transaction carries out, and with ``marks`` is marked by.

    An error 25P02 in a transaction that has failed, and 22011 (negative substring length) in one that does not carry the name.
    """
    asked = (
        f"CASE WHEN {_IN_FORCE} = '{gid}' THEN '{gid}' ELSE substr('', 1, - 1 - length(coalesce({_IN_FORCE}, ''))) END"
    )
    return f"INSERT INTO raftcoord.marks (gid) VALUES ({asked})" if marks else f"SELECT {asked}"


def _check_tag(wanted: str, tag: str | None) -> None:
    if tag not in (None, wanted):
        raise NotPossible(f"{wanted} was answered with {tag}: {_SWALLOWED}")


def _impossible(error: SqlError) -> NotPossible | BranchEnded:
    """What a refusal before the prepare means. The codes: PostgreSQL documentation, Appendix A."""
    if error.code == FAILED_TRANSACTION:
        return NotPossible(_SWALLOWED)
    if error.code == NEGATIVE_LENGTH:
        return BranchEnded(_ENDED)
    if error.code == NOT_SUPPORTED:
        return NotPossible(
            f"{error}; LISTEN, NOTIFY, temporary objects and held cursors cannot be prepared: keep them out of it"
        )
    if error.code.startswith(ROLLED_BACK_CLASS):
        return NotPossible(f"{error}; try the transaction again")
    if error.code == NOT_IN_STATE:
        return NotSetUp(f"{error}; {MAX_PREPARED}")
    return NotPossible(str(error))
