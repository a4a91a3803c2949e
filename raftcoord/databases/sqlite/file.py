"""What raftcoord keeps in a SQLite file, and whether the file suits: tables, and triggers on each table of the program's.

    raftcoord_prepared    the one branch that is prepared, with its work
    raftcoord_marks       what was committed
    raftcoord_open        a row while a branch is open, seen by its own transaction alone: taken back or deleted before it ends
    raftcoord_touched     the keys of the rows that this branch has touched; likewise

    raftcoord_freeze_*    BEFORE each change: refuses it while a branch is prepared
    raftcoord_seen_*      AFTER each change: writes the key down while a branch is open

Owed: whatever a branch may change is seen, or the branch is refused when it begins or when it is prepared. SQLite is silent
about one kind of change, the rows that REPLACE takes away: it shows them to triggers only with PRAGMA recursive_triggers, so
that is switched on, unless the program has triggers, which would then do something else.
"""

from __future__ import annotations

import re
from typing import Final

from raftcoord.databases.sqlite.rows import KEY_COLUMNS_MAX, quoted, table_of
from raftcoord.databases.steps import NotPossible, Statement, Steps

REPLACES: Final = re.compile(r"\bREPLACE\b(?!\s*\()", re.IGNORECASE)
"""The conflict clause or the statement, and not the function."""

_IGNORES: Final = re.compile(r"\bRAISE\s*\(\s*IGNORE\b", re.IGNORECASE)
_KEYS: Final = ", ".join(f"{side}{number}" for side in "on" for number in range(KEY_COLUMNS_MAX))
_TABLES: Final = (
    "CREATE TABLE IF NOT EXISTS raftcoord_prepared (one INTEGER PRIMARY KEY CHECK (one = 1), gid TEXT NOT NULL, "
    "at REAL NOT NULL, work BLOB NOT NULL)",
    "CREATE TABLE IF NOT EXISTS raftcoord_marks (gid TEXT PRIMARY KEY, at REAL NOT NULL) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS raftcoord_open (changes INTEGER NOT NULL, schema INTEGER NOT NULL)",
    f"CREATE TABLE IF NOT EXISTS raftcoord_touched (tbl TEXT NOT NULL, {_KEYS})",
)
_EVENTS: Final = ("insert", "update", "delete")


def suits() -> Steps[None]:
    """Raise NotPossible unless a branch can be held in the file, over this connection."""
    files = yield Statement("PRAGMA database_list", reads=True)
    names = {name: file for _, name, file in files.rows}
    if not names.get("main"):
        raise NotPossible("a database in memory cannot be prepared; use a file")
    if others := names.keys() - {"main", "temp"}:
        raise NotPossible(f"the database {min(others)!r} is attached; detach it, and enlist a connection of its own")
    encoding = yield Statement("PRAGMA encoding", reads=True)
    if encoding.rows != [("UTF-8",)]:
        raise NotPossible(
            f"the file's texts are {encoding.rows[0][0]}, which cannot be given back byte by byte; use UTF-8"
        )
    mode = yield Statement("PRAGMA main.locking_mode", reads=True)
    if mode.rows != [("normal",)]:
        raise NotPossible("PRAGMA locking_mode keeps the resolver out of the file; set it to NORMAL")
    if (yield Statement("SELECT 1 FROM sqlite_temp_master LIMIT 1", reads=True)).rows:
        raise NotPossible("the connection has temporary tables, which no other program can finish; drop them")
    virtual = yield Statement(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND sql LIKE 'CREATE VIRTUAL%'", reads=True
    )
    if virtual.rows:
        raise NotPossible(
            f"table {virtual.rows[0][0]!r} is virtual, and writers to it cannot be refused; keep it in another file"
        )


def make() -> Steps[None]:
    """The tables, and the triggers on each table that has not got them, or has got those of another name of its."""
    for sql in _TABLES:
        yield Statement(sql)
    found = yield Statement(
        "SELECT t.name, s.name FROM main.sqlite_master AS t LEFT JOIN main.sqlite_master AS s ON s.type = 'trigger' "
        "AND s.tbl_name = t.name AND substr(s.name, 1, 10) = 'raftcoord_' WHERE t.type = 'table' "
        "AND substr(t.name, 1, 7) <> 'sqlite_' AND substr(t.name, 1, 10) <> 'raftcoord_'",
        reads=True,
    )
    there: dict[str, set[str]] = {}
    for table, trigger in found.rows:
        there.setdefault(table, set()).update({trigger} - {None})
    for table, triggers in there.items():
        wanted = {f"raftcoord_{kind}_{event}_{table}" for kind in ("freeze", "seen") for event in _EVENTS}
        if triggers != wanted:
            for stale in sorted(triggers):
                yield Statement(f"DROP TRIGGER {quoted(stale)}")
            yield from _watch(table)


def see_all() -> Steps[None]:
    """Have SQLite show every change to triggers. In the branch's transaction, before its savepoint."""
    recursive = (yield Statement("PRAGMA recursive_triggers", reads=True)).rows == [(1,)]
    found = yield Statement(
        "SELECT type, name, sql FROM main.sqlite_master WHERE sql IS NOT NULL AND substr(name, 1, 10) <> 'raftcoord_' "
        "AND (type = 'trigger' OR (type = 'table' AND sql LIKE '%replace%'))",
        reads=True,
    )
    triggers = [(name, sql) for kind, name, sql in found.rows if kind == "trigger"]
    if not recursive and not triggers:
        yield Statement("PRAGMA recursive_triggers = 1")
    elif recursive:
        for name, sql in triggers:
            if _IGNORES.search(sql):
                raise NotPossible(
                    f"trigger {name!r} says RAISE(IGNORE), which with PRAGMA recursive_triggers hides rows that were taken away; "
                    "switch that off on this connection"
                )
    else:
        for kind, name, sql in found.rows:
            if REPLACES.search(sql):
                raise NotPossible(
                    f"{kind} {name!r} may take rows away by REPLACE, which no trigger is shown beside triggers of your own; set "
                    "PRAGMA recursive_triggers = ON on the connection before it is enlisted"
                )


def _watch(table: str) -> Steps[None]:
    for event in _EVENTS:
        trigger = quoted(f"raftcoord_freeze_{event}_{table}")
        yield Statement(
            f"CREATE TRIGGER {trigger} BEFORE {event.upper()} ON {quoted(table)} "
            "WHEN EXISTS (SELECT 1 FROM raftcoord_prepared) BEGIN SELECT RAISE(ABORT, "
            "'this file is frozen: a transaction of raftcoord is prepared in it; try again when it has ended'); END"
        )
    keys = (yield from table_of(table)).key_in_sql()
    name = "'" + table.replace("'", "''") + "'"
    for event in _EVENTS:
        sides = [("o", "OLD")] * (event != "insert") + [("n", "NEW")] * (event != "delete")
        columns = ", ".join(f"{side}{number}" for side, _ in sides for number in range(len(keys)))
        values = ", ".join(f"{row}.{key}" for _, row in sides for key in keys)
        yield Statement(
            f"CREATE TRIGGER {quoted(f'raftcoord_seen_{event}_{table}')} AFTER {event.upper()} ON {quoted(table)} "
            "WHEN EXISTS (SELECT 1 FROM raftcoord_open) BEGIN "
            f"INSERT INTO raftcoord_touched (tbl, {columns}) VALUES ({name}, {values}); END"
        )
