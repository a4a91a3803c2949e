"""PostgreSQL: a branch is PREPARE TRANSACTION, and a row in raftcoord.marks is its proof.

Theory of operation. What must not be believed:
    PREPARE TRANSACTION in a failed transaction answers ROLLBACK and no error, and so does COMMIT. So a statement that a
        failed transaction refuses comes first, the command tag is read, and the gid is looked for in pg_prepared_xacts.
    The transaction on the connection may not be the branch: the block may have committed, or a pool handed the connection
        on. So the branch bears its gid in a setting that ends with the transaction (SET LOCAL), and one that does not bear
        it fails at the statement that comes first.
    42704 (no such gid) at COMMIT PREPARED is a question: committed before, or rolled back by hand. The mark answers it.

The marks are optional here: without them a branch that is gone is Effect.UNKNOWN. Sources: PostgreSQL 15 documentation, PREPARE
TRANSACTION, COMMIT PREPARED, Appendix A (SQLSTATE).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

from raftcoord.databases import gid as gids
from raftcoord.databases import owners
from raftcoord.databases.gid import Gid
from raftcoord.databases.owners import Marks, Owner
from raftcoord.databases.steps import (
    BranchEnded,
    Effect,
    Finding,
    NotPossible,
    NotSetUp,
    PreparedHere,
    SqlError,
    Statement,
    Steps,
)
from raftcoord.types import TxId, checked_cluster_id, first_txid_of

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
_MAX_PREPARED: Final = (
    "set max_prepared_transactions in postgresql.conf to at least max_connections (ALTER SYSTEM SET max_prepared_transactions "
    "= 100) and restart the server"
)
_PRIMARY: Final = (
    "put the primary's host into the resource's url, or add ?target_session_attrs=read-write and all hosts"
)
_MAJOR_MIN: Final = 12
_RECOVERS_ONCE_SINCE: Final = {12: 16, 13: 12, 14: 9, 15: 4}
_MARKS: Final = """pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = 'raftcoord' AND c.relname = 'marks'"""
_SETTINGS: Final = f"""SELECT current_setting('server_version_num')::int, pg_is_in_recovery(),
    current_setting('default_transaction_read_only')::bool, current_setting('max_prepared_transactions')::int,
    current_setting('max_connections')::int, (SELECT count(*) FROM pg_prepared_xacts),
    EXISTS (SELECT FROM {_MARKS}), current_setting('fsync')::bool,
    current_setting('full_page_writes')::bool, current_setting('synchronous_commit') = 'off', current_user::text"""
_WHOSE: Final = f"""SELECT current_setting('max_prepared_transactions')::int,
    CASE WHEN to_regclass('raftcoord.marks') IS NOT NULL THEN query_to_xml($$SELECT gid FROM raftcoord.marks
    WHERE gid >= '{owners.FIRST}' AND gid < '{owners.LAST}'$$, false, true, '')::text END"""
"""Whose the marks are, or NULL: there are none. query_to_xml looks into a table that need not be there, in one statement."""
_RIGHTS: Final = f"""SELECT has_schema_privilege('raftcoord', 'USAGE'), has_table_privilege(c.oid, 'SELECT'),
    has_table_privilege(c.oid, 'INSERT'), has_table_privilege(c.oid, 'DELETE')
    FROM {_MARKS}"""
_IN_FORCE: Final = "current_setting('raftcoord.branch', true)"


class PostgreSql:
    """The Dialect of PostgreSQL."""

    name = "postgresql"

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
            raise NotSetUp(f"max_prepared_transactions is 0 on this server: {_MAX_PREPARED}")
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

    def proof(self, gid: Gid) -> Steps[Effect]:
        """The list first: a branch that is committed between the two looks is then marked."""
        if (yield from _listed(gid)):
            return Effect.PREPARED
        try:
            marked = yield Statement(f"SELECT 1 FROM raftcoord.marks WHERE gid = '{gid}'", outside=True)
        except SqlError as error:
            if error.code in TABLE_IS_MISSING:
                return Effect.UNKNOWN
            raise
        return Effect.COMMITTED if marked.touched else Effect.ABSENT

    def marked(self, gids: Sequence[Gid]) -> Steps[frozenset[str]]:
        """See Dialect."""
        try:
            found = yield Statement(
                f"SELECT gid FROM raftcoord.marks WHERE gid IN ({owners.quoted(gids)})", reads=True, outside=True
            )
        except SqlError as error:
            if error.code in TABLE_IS_MISSING:
                return frozenset()
            raise
        return frozenset(str(gid) for (gid,) in found.rows)

    def covers(self, gid: Gid) -> Steps[bool]:
        """See Dialect."""
        head, _ = _bounds(gid.cluster, gid.txid)
        found = yield Statement(
            f"SELECT EXISTS (SELECT FROM raftcoord.marks WHERE gid >= '{head}' AND gid < '{gid}') OR EXISTS (SELECT FROM "
            f"raftcoord.marks WHERE (gid = '{owners.SINCE}' OR gid >= '{owners.FIRST}' AND gid < '{owners.LAST}') "
            f"AND extract(epoch FROM at) * 1000 < {gid.txid.ms + 1})",
            reads=True,
            outside=True,
        )
        return bool(found.rows[0][0])

    def create_marks(self) -> Steps[None]:
        """A schema of its own, so that no search_path can hide it. Whoever may connect may mark: a gid cannot be guessed."""
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
        """See Dialect."""
        shown = yield Statement(_WHOSE, reads=True, outside=True)
        named = shown.rows[0][1]
        return None if named is None else _owners_in(named)

    def add_owner(self, owner: Owner) -> Steps[None]:
        """See Dialect."""
        yield Statement(f"INSERT INTO raftcoord.marks (gid) VALUES ('{owner}') ON CONFLICT DO NOTHING", outside=True)

    def forget_marks(self, cluster: str, before: TxId) -> Steps[int]:
        """By the order of the gids, which is that of time."""
        first, last = _bounds(cluster, before)
        gone = yield Statement(f"DELETE FROM raftcoord.marks WHERE gid >= '{first}' AND gid < '{last}'", outside=True)
        return gone.touched

    def check(self) -> Steps[list[Finding]]:
        """Version, writable, max_prepared_transactions, marks and the rights on them, durability."""
        shown = yield Statement(_SETTINGS, reads=True, outside=True)
        (version, standby, read_only, allowed, connections, prepared, marks, fsync, pages, lazy, user) = shown.rows[0]
        found = list(_by_version(version))
        if standby:
            found.append(Finding("it is a standby: nothing can be prepared or ended there", _PRIMARY, True))
        elif read_only:
            mend = f'ALTER ROLE "{user}" SET default_transaction_read_only = off'
            found.append(Finding("default_transaction_read_only is on for this user", mend, True))
        if not allowed:
            found.append(Finding("max_prepared_transactions is 0", _MAX_PREPARED, True))
        elif allowed < connections:
            what = (
                f"max_prepared_transactions is {allowed}, below max_connections ({connections}); {prepared} are in use"
            )
            found.append(Finding(what, _MAX_PREPARED, False))
        if marks:
            found += yield from _rights(user)
        else:
            found.append(Finding("there is no table raftcoord.marks", "raftcoord resource init", True))
        if not fsync:
            what = "fsync is off: a power cut loses what was prepared and committed"
            found.append(Finding(what, "ALTER SYSTEM SET fsync = on; SELECT pg_reload_conf()", False))
        if not pages:
            what = "full_page_writes is off: a power cut in the middle of a write may damage the database"
            found.append(Finding(what, "ALTER SYSTEM SET full_page_writes = on; SELECT pg_reload_conf()", False))
        if lazy:
            what = "synchronous_commit is off: a crash loses the latest transactions that are committed without being prepared"
            found.append(Finding(what, f'ALTER ROLE "{user}" SET synchronous_commit = on', False))
        return found


def _owners_in(xml: str) -> frozenset[Owner]:
    return owners.read((text,) for text in re.findall(r"<gid>([^<]*)</gid>", xml))


def _rights(user: str) -> Steps[list[Finding]]:
    """What this user may not do with the marks: to write them is the program's, to read and delete them the resolver's."""
    try:
        shown = yield Statement(_RIGHTS, reads=True, outside=True)
    except SqlError as error:
        return [Finding(f"the rights on raftcoord.marks cannot be seen: {error}", "raftcoord resource init", False)]
    usage, *held = shown.rows[0]
    names = ("SELECT", "INSERT", "DELETE")
    missing = [name for name, has in zip(names, held, strict=True) if not has]
    if usage and not missing:
        return []
    grants = [] if usage else [f'GRANT USAGE ON SCHEMA raftcoord TO "{user}"']
    if missing:
        grants.append(f'GRANT {", ".join(missing)} ON raftcoord.marks TO "{user}"')
    what = f"user {user} has no right to {', '.join(missing) or 'USAGE of its schema'} on raftcoord.marks"
    if usage and missing == ["DELETE"]:
        what += ": old marks are never deleted"
    return [Finding(what, "; ".join(grants), not usage or missing != ["DELETE"])]


def _by_version(number: int) -> Iterator[Finding]:
    """``number``: server_version_num.

    Crash recovery that meets a prepared transaction twice, after a crash within a checkpoint, does not come up: commit db59108 of
    postgres/postgres ("Fix recovery of 2PC transaction during crash recovery"), in the minor releases of August 2023.
    """
    major, minor = divmod(number, 10_000)
    if major < _MAJOR_MIN:
        what = f"server {major}.{minor} is older than those that raftcoord was made for"
        yield Finding(what, f"use PostgreSQL {_MAJOR_MIN} or later", True)
    elif minor < (mended := _RECOVERS_ONCE_SINCE.get(major, 0)):
        what = f"server {major}.{minor}: after a crash during a checkpoint it may not start while transactions are prepared"
        yield Finding(what, f"update it to {major}.{mended} or later", False)


def _named(gid: Gid, marks: bool) -> str:
    """What the branch's transaction carries out, and with ``marks`` is marked by.

    An error 25P02 in a transaction that has failed, and 22011 (negative substring length) in one that does not bear the name.
    """
    asked = (
        f"CASE WHEN {_IN_FORCE} = '{gid}' THEN '{gid}' ELSE substr('', 1, - 1 - length(coalesce({_IN_FORCE}, ''))) END"
    )
    return f"INSERT INTO raftcoord.marks (gid) VALUES ({asked})" if marks else f"SELECT {asked}"


def _check_tag(wanted: str, tag: str | None) -> None:
    if tag not in (None, wanted):
        raise NotPossible(f"{wanted} was answered with {tag}: {_SWALLOWED}")


def _listed(gid: Gid) -> Steps[bool]:
    found = yield Statement(
        f"SELECT 1 FROM pg_prepared_xacts WHERE gid = '{gid}' AND database = current_database()", outside=True
    )
    return found.touched == 1


def _bounds(cluster: str, before: TxId) -> tuple[str, str]:
    head = f"{gids.PREFIX}{checked_cluster_id(cluster)}."
    return head, f"{head}{first_txid_of(before.ms).hex()}"


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
        return NotSetUp(f"{error}; {_MAX_PREPARED}")
    return NotPossible(str(error))
