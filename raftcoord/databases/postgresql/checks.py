"""What the doctor asks of a PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from raftcoord.databases import gid as gids
from raftcoord.databases.database import Checks
from raftcoord.databases.postgresql.dialect import MAX_PREPARED
from raftcoord.databases.steps import INIT, Finding, SqlError, Statement, Steps

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
_RIGHTS: Final = f"""SELECT has_schema_privilege('raftcoord', 'USAGE'), has_table_privilege(c.oid, 'SELECT'),
    has_table_privilege(c.oid, 'INSERT'), has_table_privilege(c.oid, 'DELETE')
    FROM {_MARKS}"""


class PostgreSqlChecks(Checks):
    version = "SELECT current_setting('server_version')"
    runs = "PostgreSQL"

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
            found.append(Finding("max_prepared_transactions is 0", MAX_PREPARED, True))
        elif allowed < connections:
            what = (
                f"max_prepared_transactions is {allowed}, below max_connections ({connections}); {prepared} are in use"
            )
            found.append(Finding(what, MAX_PREPARED, False))
        if marks:
            found += yield from _rights(user)
        else:
            found.append(Finding("there is no table raftcoord.marks", INIT, True))
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

    def others(self) -> Steps[list[str]]:
        """Of every database of the server."""
        shown = yield Statement("SELECT gid::text FROM pg_prepared_xacts ORDER BY prepared", reads=True, outside=True)
        return [str(text) for (text,) in shown.rows if gids.parse(text) is None]

    def limited_user(self) -> Steps[str]:
        """Whom the session is, unless that is a superuser."""
        shown = yield Statement(
            "SELECT CASE WHEN rolsuper THEN '' ELSE rolname::text END FROM pg_roles WHERE rolname = current_user",
            reads=True,
            outside=True,
        )
        return str(shown.rows[0][0])

    def preparers(self) -> Steps[dict[str, str]]:
        shown = yield Statement("SELECT gid::text, owner::text FROM pg_prepared_xacts", reads=True, outside=True)
        return {str(gid): str(owner) for gid, owner in shown.rows}


def _rights(user: str) -> Steps[list[Finding]]:
    """What this user may not do with the marks: to write them is the program's, to read and delete them the resolver's."""
    try:
        shown = yield Statement(_RIGHTS, reads=True, outside=True)
    except SqlError as error:
        return [Finding(f"the rights on raftcoord.marks cannot be seen: {error}", INIT, False)]
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
