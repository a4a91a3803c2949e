"""The tables of node.db and of a snapshot, and the constants by which each file is known.

Owes: the exact text of every table, so that a reader can compare a file's schema with it before trusting a row.
Never opens a file that exists.

    meta  key -> JSON text, for people with a sqlite3 shell; 'identity' never changes, 'state' changes in every commit
    log   one row per log entry; crc over (idx, term, data)
    ...   the tables of the ledger (core/tables), each with a crc over all that matters in a row

A snapshot has meta and the tables of the ledger, without their indexes.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path
from typing import Final

from raftcoord.core.tables import TABLES
from raftcoord.core.tables.table import Rows

FORMAT: Final = max(table.rows.since for table in TABLES if table.rows)
"""The version of everything here, kept as SQLite's user_version. A file with a higher one was written by a newer release."""

OLDER_FORMATS: Final = tuple(range(1, FORMAT))
"""Formats that are read as well. A node.db in one of them is brought to FORMAT at open (files.py), a copy of a ledger is read."""

NODE_DB_ID: Final = int.from_bytes(b"rcDB", "big")
SNAPSHOT_ID: Final = int.from_bytes(b"rcSN", "big")
"""SQLite application ids: which kind of file it is."""

PAGE_BYTES: Final = 4096

_META: Final = "CREATE TABLE meta(key TEXT PRIMARY KEY, value BLOB NOT NULL, crc INTEGER NOT NULL) WITHOUT ROWID"
_LOG: Final = (
    "CREATE TABLE log(idx INTEGER PRIMARY KEY, term INTEGER NOT NULL, data BLOB NOT NULL, crc INTEGER NOT NULL)"
)


def stored_tables(form: int = FORMAT) -> dict[str, Rows]:
    """The tables of the ledger that have rows in a file of this format, by their name."""
    return {table.name: table.rows for table in TABLES if table.rows is not None and table.rows.since <= form}


def schema(application_id: int, form: int = FORMAT) -> dict[str, str]:
    """Name -> the SQL that SQLite keeps for it, in a file of this kind and format."""
    is_node_db = application_id == NODE_DB_ID
    tables = {"meta": _META, "log": _LOG} if is_node_db else {"meta": _META}
    for name, rows in stored_tables(form).items():
        tables[name] = rows.sql
        tables.update(rows.indexes if is_node_db else {})
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
    there = schema(NODE_DB_ID, form)
    for name, sql in schema(NODE_DB_ID).items():
        if name not in there:
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
