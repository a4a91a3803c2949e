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

XAER_NOTA: Final = "1397"
XAER_RMFAIL: Final = "1399"
XAER_OUTSIDE: Final = "1400"
XA_RBROLLBACK: Final = "1402"
XA_RBTIMEOUT: Final = "1613"
XA_RBDEADLOCK: Final = "1614"
TABLE_IS_MISSING: Final = ("1146", "1046")
"""No such table; no database selected."""
DENIED: Final = ("1142", "1143", "1044")
"""No right to a table, a column or a database."""

_GIVEN_UP: Final = {XAER_RMFAIL, XA_RBROLLBACK, XA_RBTIMEOUT, XA_RBDEADLOCK}
_ENDED: Final = (
    "its transaction was ended inside the block, or the driver has connected anew; leave the commit to the block, return the "
    "connection to its pool after it, and switch the driver's automatic reconnect off"
)
_NO_MARKS: Final = (
    "there is no table raftcoord_marks in the database of this connection; make it with: raftcoord resource init (and name "
    "the database when you connect)"
)
_INIT: Final = "raftcoord resource init"
_WRITES: Final = (
    "INSERT INTO raftcoord_marks (gid) VALUES ('')",
    "DELETE FROM raftcoord_marks WHERE gid = ''",
)
_SETTINGS: Final = (
    "SHOW GLOBAL VARIABLES WHERE Variable_name IN ('version', 'innodb_flush_log_at_trx_commit', 'innodb_flush_method', "
    "'log_bin', 'sync_binlog', 'binlog_format', 'read_only', 'wsrep_on')"
)
_WHOSE: Final = f"SELECT gid FROM raftcoord_marks WHERE gid >= '{owners.FIRST}' AND gid < '{owners.LAST}'"
_CREATE: Final = (
    "CREATE TABLE IF NOT EXISTS raftcoord_marks (gid VARCHAR(128) CHARACTER SET ascii COLLATE ascii_bin NOT NULL PRIMARY KEY, "
    "at TIMESTAMP(3) NOT NULL DEFAULT CURRENT_TIMESTAMP(3)) ENGINE=InnoDB"
)


class MariaDb:
    """The Dialect of MariaDB and MySQL."""

    name = "mariadb"

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
            found = yield Statement(_WHOSE, reads=True)
            return owners.check(owners.read(found.rows), gid)
        except SqlError as error:
            yield from self.rollback(gid, touched=False)
            raise NotSetUp(_NO_MARKS if error.code in TABLE_IS_MISSING else str(error)) from None
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
        """XA COMMIT, and then what stands: neither OK nor 1397 tells."""
        try:
            yield Statement(f"XA COMMIT {gid.xid}", outside=True)
        except SqlError as error:
            if error.code not in (XAER_NOTA, XA_RBROLLBACK):
                raise
        return (yield from self.proof(gid))

    def rollback_prepared(self, gid: Gid) -> Steps[Effect]:
        """XA ROLLBACK, and then what stands."""
        try:
            yield Statement(f"XA ROLLBACK {gid.xid}", outside=True)
        except SqlError as error:
            if error.code not in (XAER_NOTA, XA_RBROLLBACK):
                raise
        return (yield from self.proof(gid))

    def proof(self, gid: Gid) -> Steps[Effect]:
        """The list first: a branch that is committed between the two looks is then marked."""
        listed = yield from self.list_prepared(gid.cluster)
        if any(each.gid == gid for each in listed):
            return Effect.PREPARED
        try:
            marked = yield Statement(f"SELECT 1 FROM raftcoord_marks WHERE gid = '{gid}'", reads=True, outside=True)
        except SqlError as error:
            if error.code in TABLE_IS_MISSING:
                return Effect.UNKNOWN
            raise
        return Effect.COMMITTED if marked.rows else Effect.ABSENT

    def marked(self, gids: Sequence[Gid]) -> Steps[frozenset[str]]:
        """See Dialect."""
        try:
            found = yield Statement(
                f"SELECT gid FROM raftcoord_marks WHERE gid IN ({owners.quoted(gids)})", reads=True, outside=True
            )
        except SqlError as error:
            if error.code in TABLE_IS_MISSING:
                return frozenset()
            raise
        return frozenset(str(gid) for (gid,) in found.rows)

    def covers(self, gid: Gid) -> Steps[bool]:
        """See Dialect."""
        head = f"{gids.PREFIX}{checked_cluster_id(gid.cluster)}."
        found = yield Statement(
            f"SELECT EXISTS (SELECT 1 FROM raftcoord_marks WHERE gid >= '{head}' AND gid < '{gid}') OR EXISTS (SELECT 1 FROM "
            f"raftcoord_marks WHERE (gid = '{owners.SINCE}' OR gid >= '{owners.FIRST}' AND gid < '{owners.LAST}') "
            f"AND UNIX_TIMESTAMP(at) * 1000 < {gid.txid.ms + 1})",
            reads=True,
            outside=True,
        )
        return bool(found.rows[0][0])

    def create_marks(self) -> Steps[None]:
        """In the database of this connection."""
        yield Statement(_CREATE, outside=True)
        yield Statement(
            f"INSERT INTO raftcoord_marks (gid) SELECT '{owners.SINCE}' FROM DUAL "
            "WHERE NOT EXISTS (SELECT 1 FROM raftcoord_marks)",
            outside=True,
        )

    def owners(self) -> Steps[frozenset[Owner] | None]:
        """See Dialect."""
        try:
            found = yield Statement(_WHOSE, reads=True, outside=True)
        except SqlError as error:
            if error.code in TABLE_IS_MISSING:
                return None
            raise
        return owners.read(found.rows)

    def add_owner(self, owner: Owner) -> Steps[None]:
        """See Dialect."""
        yield Statement(f"INSERT IGNORE INTO raftcoord_marks (gid) VALUES ('{owner}')", outside=True)

    def forget_marks(self, cluster: str, before: TxId) -> Steps[int]:
        """By the order of the gids, which is that of time."""
        head = f"{gids.PREFIX}{checked_cluster_id(cluster)}."
        gone = yield Statement(
            f"DELETE FROM raftcoord_marks WHERE gid >= '{head}' AND gid < '{head}{first_txid_of(before.ms).hex()}'",
            outside=True,
        )
        return gone.touched

    def check(self) -> Steps[list[Finding]]:
        """Version, writable, marks and the rights on them, XA RECOVER, durability, the binary log."""
        shown = yield Statement(_SETTINGS, reads=True, outside=True)
        settings = {str(name).lower(): str(value) for name, value in shown.rows}
        version = settings.get("version", "")
        found = list(_by_version(version, _is_on(settings, "log_bin")))
        if _is_on(settings, "wsrep_on"):
            what = "it is a node of a Galera cluster (wsrep_on), which does not replicate XA transactions"
            found.append(Finding(what, "name a server without Galera in the resource's url", True))
        if _is_on(settings, "read_only"):
            mend = (
                "if it is a replica, put the primary's host into the resource's url; if not, SET GLOBAL read_only = 0"
            )
            found.append(Finding("the server is read_only: nothing can be prepared there", mend, True))
        found += yield from _marks()
        try:
            yield Statement("XA RECOVER", reads=True, outside=True)
        except SqlError as error:
            what = f"this user may not list prepared branches: {error}"
            found.append(Finding(what, (yield from _granted("XA_RECOVER_ADMIN ON *.*")), True))
        found += _durability(settings)
        if _is_on(settings, "log_bin"):
            found += yield from _filters()
        return found


def _marks() -> Steps[list[Finding]]:
    """EXPLAIN needs the rights of what it explains, and does nothing of it."""
    try:
        yield Statement("SELECT 1 FROM raftcoord_marks LIMIT 0", reads=True, outside=True)
    except SqlError as error:
        what = _NO_MARKS if error.code in TABLE_IS_MISSING else f"raftcoord_marks cannot be read: {error}"
        mend = _INIT if error.code in TABLE_IS_MISSING else (yield from _granted())
        return [Finding(what, mend, True)]
    found = []
    for sql in _WRITES:
        try:
            yield Statement(f"EXPLAIN {sql}", reads=True, outside=True)
        except SqlError as error:
            if error.code in DENIED:
                what = f"a right on raftcoord_marks is missing: {error}"
                found.append(Finding(what, (yield from _granted()), sql.startswith("INSERT")))
    shown = yield Statement(
        "SELECT ENGINE FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = 'raftcoord_marks'",
        reads=True,
        outside=True,
    )
    if shown.rows and str(shown.rows[0][0]).lower() != "innodb":
        what = f"raftcoord_marks is a table of {shown.rows[0][0]}: a mark outlives a rollback there, and proves nothing"
        found.append(Finding(what, "ALTER TABLE raftcoord_marks ENGINE = InnoDB", True))
    return found


def _granted(what: str = "") -> Steps[str]:
    """The statement, for an administrator in whatever database, that grants ``what`` to this user; "": the marks."""
    shown = yield Statement("SELECT CURRENT_USER(), DATABASE()", reads=True, outside=True)
    user, _, host = str(shown.rows[0][0]).rpartition("@")
    database = str(shown.rows[0][1]).replace("`", "``")
    what = what or f"SELECT, INSERT, DELETE ON `{database}`.raftcoord_marks"
    return f"GRANT {what} TO '{user}'@'{host}'"


def _durability(settings: dict[str, str]) -> Iterator[Finding]:
    flush = settings.get("innodb_flush_log_at_trx_commit", "1")
    if flush != "1":
        what = f"innodb_flush_log_at_trx_commit is {flush}: a crash loses what was prepared and committed"
        yield Finding(what, "SET GLOBAL innodb_flush_log_at_trx_commit = 1, and in my.cnf", False)
    if settings.get("innodb_flush_method", "").lower() == "nosync":
        what = "innodb_flush_method is nosync: a power cut loses what was prepared and committed"
        yield Finding(what, "remove innodb_flush_method from my.cnf and restart the server", False)
    if not _is_on(settings, "log_bin"):
        return
    if (sync := settings.get("sync_binlog", "1")) != "1":
        what = f"the binary log is on and sync_binlog is {sync}: after a crash it may differ from InnoDB"
        yield Finding(what, "SET GLOBAL sync_binlog = 1, and in my.cnf", False)
    if settings.get("binlog_format", "").upper() == "STATEMENT":
        what = (
            "binlog_format is STATEMENT, which is unsafe for XA: a replica may apply branches in another order, or stop"
        )
        yield Finding(what, "SET GLOBAL binlog_format = 'ROW', and in my.cnf", False)


def _filters() -> Steps[list[Finding]]:
    """Filters of the binary log, if this user may see them.

    Not to be used with XA: MySQL reference manual, Restrictions on XA Transactions; a branch that is filtered out is an empty XA
    transaction for a replica.
    """
    for sql in ("SHOW MASTER STATUS", "SHOW BINARY LOG STATUS"):
        try:
            shown = yield Statement(sql, reads=True, outside=True)
        except SqlError:  # no right to see it; or the other one's name for it
            continue
        if any(any(row[2:4]) for row in shown.rows):
            what = "the binary log has filters (binlog_do_db or binlog_ignore_db), which must not be used with XA"
            return [Finding(what, "remove them from my.cnf and restart the server", False)]
        break
    return []


def _is_on(settings: dict[str, str], name: str) -> bool:
    return settings.get(name, "OFF").upper() not in ("OFF", "0", "")


def _by_version(version: str, binlog: bool) -> Iterator[Finding]:
    """What is known of ``version``. ``binlog``: whether the binary log is on.

    MySQL 9.7.4 with its binary log on, killed with kill -9 while branches were prepared, did not list all of them after the
    restart: usually one was missing, once 49 of 81. The XA PREPARE was in the binary log, and nothing had rolled them back.
    Seen with one build; later or earlier ones were not tried.

    MariaDB before 10.5 rolls a prepared branch back with its session: MDEV-742 (commit c8ae357341 of MariaDB/server, which also
    says that the binary log of XA is not crash-safe yet: MDEV-21469). So did MySQL before 5.7.7: WL#6860, bug 12161, and
    MySQL 5.7 reference manual, Restrictions on XA Transactions. MySQL before 8.0 lets go of the metadata locks of a
    prepared branch whose session has ended: WL#9335. Before 8.0.30 a crash during XA PREPARE or COMMIT may leave the
    binary log different from InnoDB: WL#11300 (commit c1401ad of mysql/mysql-server), and MySQL 8.0 reference manual, same page.
    """
    read = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", version)
    if read is None:
        return
    number = tuple(int(part or 0) for part in read.groups())
    mariadb = "mariadb" in version.lower()
    if number < ((10, 5) if mariadb else (5, 7, 7)):
        what = f"server {version} loses prepared XA transactions when their session ends or the server restarts"
        yield Finding(what, "use MariaDB 10.11", True)
    elif mariadb and binlog:
        what = f"server {version}: after a crash the binary log may differ from InnoDB by XA transactions (MDEV-21469)"
        yield Finding(what, "after a crash compare the replicas with this server, or make them anew", False)
    elif not mariadb and number < (8, 0):
        what = f"server {version} lets others change the tables of a prepared branch whose session has ended (WL#9335)"
        yield Finding(what, "use MySQL 8.0 or later", True)
    elif not mariadb and binlog and number < (8, 0, 30):
        what = f"server {version}: after a crash the binary log may differ from InnoDB by XA transactions (WL#11300)"
        yield Finding(what, "use MySQL 8.0.30 or later", False)
    if not mariadb:
        what = f"server {version} is MySQL, with which raftcoord was not tried"
        if binlog:
            what += "; one of 9.7 with its binary log on lost branches that were prepared, when it was killed"
        yield Finding(what, "use a server that was: MariaDB 10.11, or PostgreSQL 15 or later", False)


def _impossible(error: SqlError) -> NotPossible | BranchEnded:
    """What a refusal before the prepare means."""
    if error.code in _GIVEN_UP:
        return NotPossible(
            f"{error}; the server has rolled it back, as a deadlock's victim or after a timeout: try the transaction again"
        )
    if error.code == XAER_NOTA:
        return BranchEnded(_ENDED)
    if error.code in TABLE_IS_MISSING:
        return NotSetUp(_NO_MARKS)
    return NotPossible(str(error))
