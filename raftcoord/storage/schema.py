"""The tables of node.db and of a snapshot, and the constants by which each file is known.

Owes: the exact text of every table, so that a reader can compare a file's schema with it before trusting a row.
Never opens a file that exists.

    meta       key -> JSON text, for people with a sqlite3 shell; 'identity' never changes, 'state' changes in every commit
    log        one row per log entry; crc over (idx, term, data)
    decisions  one row per recorded decision; record is MessagePack (records.py); crc over (flags, txid, record)
    damages    one row per branch with heuristic damage; crc over (txid, branch, record)
    participants  one row per participant whose state is known; crc over (name, record)

``flags`` repeats of a record what SQL must see: 1 = the verdict is COMMIT, 2 = a branch is outstanding, 4 = it is a COMMIT and a
branch was closed by an operator. Retirable means neither 3 nor 4 and more. A snapshot has the same tables without log and index.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Final

FORMAT: Final = 2
"""The version of everything here, kept as SQLite's user_version. A file with a higher one was written by a newer release."""

OLDER_FORMATS: Final = (1,)
"""Formats that are read as well. A node.db in one of them is brought to FORMAT at open (files.py), a copy of a ledger is read."""

NODE_DB_ID: Final = int.from_bytes(b"rcDB", "big")
SNAPSHOT_ID: Final = int.from_bytes(b"rcSN", "big")
"""SQLite application ids: which kind of file it is."""

PAGE_BYTES: Final = 4096

COMMIT_FLAG: Final = 1
OPEN_FLAG: Final = 2
CLOSED_FLAG: Final = 4

_META: Final = "CREATE TABLE meta(key TEXT PRIMARY KEY, value BLOB NOT NULL, crc INTEGER NOT NULL) WITHOUT ROWID"
_LOG: Final = (
    "CREATE TABLE log(idx INTEGER PRIMARY KEY, term INTEGER NOT NULL, data BLOB NOT NULL, crc INTEGER NOT NULL)"
)
_DECISIONS: Final = (
    "CREATE TABLE decisions(txid BLOB PRIMARY KEY, flags INTEGER NOT NULL, record BLOB NOT NULL, crc INTEGER NOT NULL) "
    "WITHOUT ROWID"
)
_DECISIONS_BY_FLAGS: Final = "CREATE INDEX decisions_by_flags ON decisions(flags)"
_DAMAGES: Final = (
    "CREATE TABLE damages(txid BLOB, branch BLOB, record BLOB NOT NULL, crc INTEGER NOT NULL, "
    "PRIMARY KEY(txid, branch)) WITHOUT ROWID"
)

_PARTICIPANTS: Final = (
    "CREATE TABLE participants(name BLOB PRIMARY KEY, record BLOB NOT NULL, crc INTEGER NOT NULL) WITHOUT ROWID"
)

SINCE: Final[dict[int, dict[str, str]]] = {2: {"participants": _PARTICIPANTS}}
"""Format -> what it added to every file: name -> the SQL. To bring a file to that format is to make these tables, empty."""

_FIRST: Final[dict[int, dict[str, str]]] = {
    NODE_DB_ID: {
        "meta": _META,
        "log": _LOG,
        "decisions": _DECISIONS,
        "decisions_by_flags": _DECISIONS_BY_FLAGS,
        "damages": _DAMAGES,
    },
    SNAPSHOT_ID: {"meta": _META, "decisions": _DECISIONS, "damages": _DAMAGES},
}


def schema(application_id: int, form: int = FORMAT) -> dict[str, str]:
    """Name -> the SQL that SQLite keeps for it, in a file of this kind and format."""
    tables = dict(_FIRST[application_id])
    for since, added in SINCE.items():
        if since <= form:
            tables.update(added)
    return tables


def uri(path: Path, query: str) -> str:
    """``path`` as SQLite's file URI with the parameters ``query``, such as "mode=ro"."""
    return f"{path.absolute().as_uri()}?{query}"


def connect(path: Path, query: str, *, wait_s: float = 5.0) -> sqlite3.Connection:
    """A connection in autocommit mode, usable from any thread, that gives text back as bytes.

    ``query``: as for ``uri``. ``wait_s``: how long to wait for another program's lock.
    Text comes as bytes because a flipped byte must reach our checksum, not fail in a decoder before it.
    """
    connection = sqlite3.connect(
        uri(path, query),
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        timeout=wait_s,
    )
    connection.text_factory = bytes
    return connection


def create_tables(connection: sqlite3.Connection, application_id: int) -> None:
    """Make an empty file into one of the two kinds. The caller has set the page size and the journal mode."""
    connection.execute(f"PRAGMA application_id={application_id}")
    connection.execute(f"PRAGMA user_version={FORMAT}")
    for sql in schema(application_id).values():
        connection.execute(sql)


def bring_up(connection: sqlite3.Connection, form: int) -> None:
    """Bring a good file of the older format ``form`` to FORMAT, in one transaction: it is in the one or in the other."""
    connection.execute("BEGIN IMMEDIATE")
    for since, added in SINCE.items():
        if since > form:
            for sql in added.values():
                connection.execute(sql)
    connection.execute(f"PRAGMA user_version={FORMAT}")
    connection.execute("COMMIT")


def sync_file(path: Path) -> None:
    """Sync a file or a directory to disk. A new name is durable only when its directory is synced."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
