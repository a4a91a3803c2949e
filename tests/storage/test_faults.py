"""A fault is judged by its code, never by its text, and its error says what to do."""

from __future__ import annotations

import errno
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from raftcoord.errors import ConfigError, CorruptionError, RaftcoordError, StorageError
from raftcoord.storage.faults import opening, refused_copy, refused_read, refused_write


def sqlite_error(code: int) -> sqlite3.Error:
    error = sqlite3.OperationalError("a text that means nothing")
    error.sqlite_errorcode = code
    error.sqlite_errorname = "SQLITE_SOMETHING"
    return error


PATH = Path("/data/n1/node.db")
FAULTS: list[tuple[Exception, type[RaftcoordError], str]] = [
    (sqlite_error(sqlite3.SQLITE_FULL), StorageError, "is full"),
    (sqlite_error(sqlite3.SQLITE_IOERR_FSYNC), StorageError, "SQLITE_SOMETHING"),
    (sqlite_error(sqlite3.SQLITE_IOERR_WRITE), StorageError, "dmesg"),
    (sqlite_error(sqlite3.SQLITE_READONLY_DBMOVED), StorageError, "start it again"),
    (sqlite_error(sqlite3.SQLITE_BUSY), StorageError, "close the other program"),
    (sqlite_error(sqlite3.SQLITE_CORRUPT), CorruptionError, "Move /data/n1 away"),
    (OSError(errno.ENOSPC, "x"), StorageError, "is full"),
    (OSError(errno.EDQUOT, "x"), StorageError, "is full"),
    (OSError(errno.EIO, "broken disk"), StorageError, "broken disk"),
]


@pytest.mark.parametrize(("fault", "kind", "named"), FAULTS)
def test_a_fault_while_writing_is_judged_by_its_code(fault: Any, kind: type[RaftcoordError], named: str) -> None:
    error = refused_write(fault, PATH)
    assert type(error) is kind
    assert named in str(error)


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (sqlite_error(sqlite3.SQLITE_CANTOPEN), ConfigError),
        (sqlite_error(sqlite3.SQLITE_READONLY), ConfigError),
        (sqlite_error(sqlite3.SQLITE_BUSY), ConfigError),
        (sqlite_error(sqlite3.SQLITE_NOTADB), CorruptionError),
        (sqlite_error(sqlite3.SQLITE_ERROR), CorruptionError),
        (sqlite_error(sqlite3.SQLITE_FULL), StorageError),
        (sqlite_error(sqlite3.SQLITE_IOERR), StorageError),
        (OSError(errno.EACCES, "x"), ConfigError),
        (OSError(errno.EROFS, "x"), ConfigError),
        (OSError(errno.EIO, "x"), StorageError),
        (OSError(errno.ENOSPC, "x"), StorageError),
    ],
)
def test_a_fault_while_opening_is_judged_by_its_code(fault: Exception, kind: type[RaftcoordError]) -> None:
    with pytest.raises(kind), opening(PATH):
        raise fault


def test_a_fault_while_reading_or_copying_is_judged_by_its_code() -> None:
    corrupt = sqlite_error(sqlite3.SQLITE_CORRUPT)
    assert type(refused_read(corrupt, PATH)) is CorruptionError
    assert type(refused_read(sqlite_error(sqlite3.SQLITE_IOERR_READ), PATH)) is StorageError
    assert type(refused_copy(corrupt, PATH, Path("/tmp/copy-1.tmp"))) is CorruptionError
    assert type(refused_copy(OSError(errno.ENOSPC, "x"), PATH, Path("/tmp/copy-1.tmp"))) is StorageError
