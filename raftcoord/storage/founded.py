"""Which cluster the data on this machine belongs to, read without disturbing a node that runs on it.

Owed: the id that a node has stored, or nothing. The file is read as it is, without its write-ahead log and without a lock: a
cluster that was founded a moment ago may not be in it yet. Never: an error; the caller only wants to be warned.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from raftcoord.storage.files import DB_FILE
from raftcoord.storage.records import UNREADABLE, meta_crc, read_state
from raftcoord.storage.schema import connect


def founded_in(directories: Iterable[Path]) -> tuple[str, Path]:
    """The cluster's id in the first of these data directories that has one, and that directory; ("", Path()) if none has."""
    for directory in directories:
        cluster = _id_in(directory / DB_FILE)
        if cluster:
            return cluster, directory
    return "", Path()


def _id_in(db: Path) -> str:
    with contextlib.suppress(sqlite3.Error, OSError, *UNREADABLE):
        if db.is_file():
            with closing(connect(db, "mode=ro&immutable=1")) as connection:
                [(value, crc)] = connection.execute("SELECT value, crc FROM meta WHERE key = 'state'").fetchall()
            if meta_crc("state", value) == crc:
                return read_state(value).cluster
    return ""
