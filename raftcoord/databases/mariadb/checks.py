"""What the doctor asks of a MariaDB or a MySQL."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from raftcoord.databases import gid as gids
from raftcoord.databases.database import Checks
from raftcoord.databases.mariadb.dialect import NO_MARKS, TABLE_IS_MISSING
from raftcoord.databases.steps import INIT, Finding, SqlError, Statement, Steps

DENIED: Final = ("1142", "1143", "1044")
"""No right to a table, a column or a database."""
_WRITES: Final = (
    "INSERT INTO raftcoord_marks (gid) VALUES ('')",
    "DELETE FROM raftcoord_marks WHERE gid = ''",
)
_SETTINGS: Final = (
    "SHOW GLOBAL VARIABLES WHERE Variable_name IN ('version', 'innodb_flush_log_at_trx_commit', 'innodb_flush_method', "
    "'log_bin', 'sync_binlog', 'binlog_format', 'read_only', 'wsrep_on')"
)


class MariaDbChecks(Checks):
    version = "SELECT VERSION()"
    runs = "server"

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

    def others(self) -> Steps[list[str]]:
        """Of the whole server."""
        shown = yield Statement("XA RECOVER", reads=True, outside=True)
        return [_text(row[3]) for row in shown.rows if gids.parse_xa(*row[:4]) is None]


def _text(value: object) -> str:
    return value.decode("latin-1") if isinstance(value, (bytes, bytearray)) else str(value)


def _marks() -> Steps[list[Finding]]:
    """EXPLAIN needs the rights of what it explains, and does nothing of it."""
    try:
        yield Statement("SELECT 1 FROM raftcoord_marks LIMIT 0", reads=True, outside=True)
    except SqlError as error:
        what = NO_MARKS if error.code in TABLE_IS_MISSING else f"raftcoord_marks cannot be read: {error}"
        mend = INIT if error.code in TABLE_IS_MISSING else (yield from _granted())
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
