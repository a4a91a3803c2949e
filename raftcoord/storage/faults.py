"""What SQLite and the operating system refuse, as errors of ours that say what to do.

Owes: one sentence per fault, naming the file and the next step. Decides by error code, never by text: SQLite's texts
change, and one of them ("disk I/O error") stands for thirty codes.
"""

from __future__ import annotations

import errno
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from raftcoord.errors import ConfigError, CorruptionError, RaftcoordError, StorageError

_NO_SPACE: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_ACCESS: Final = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ELOOP}
_FULL: Final = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE}
"""The second: no room to extend the shared memory file, which lies beside node.db."""
_NOT_OUR_BYTES: Final = {
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_ERROR,  # "no such column" and the like: the stored schema is not ours
    sqlite3.SQLITE_FORMAT,
    sqlite3.SQLITE_TOOBIG,
    sqlite3.SQLITE_MISMATCH,
    sqlite3.SQLITE_CONSTRAINT,
}


def primary_code(error: sqlite3.Error) -> int:
    """SQLite's primary result code (https://sqlite.org/rescode.html), 0 if the error does not come from SQLite itself."""
    code: int = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF


def corrupt(path: Path, what: str) -> CorruptionError:
    """``path`` does not hold what was written: the node must not run on it."""
    return CorruptionError(
        f"{path} is damaged: {what}. Nothing was changed. Move {path.parent} away, start the node again and run "
        f"`raftcoord node replace {path.parent.name}`: it then copies the ledger from the others"
    )


def bad_snapshot(path: Path, what: str) -> CorruptionError:
    """A ledger's copy cannot be used."""
    return CorruptionError(
        f"the copy of the ledger in {path} cannot be used: {what}. Nothing was changed; fetch it again"
    )


def refused_write(error: sqlite3.Error | OSError, path: Path) -> RaftcoordError:
    """The error for a write or a sync that failed. CorruptionError if the file turned out not to be ours, else StorageError."""
    if isinstance(error, sqlite3.Error) and primary_code(error) in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
        return corrupt(path, f"SQLite found it malformed while writing ({error})")
    return StorageError(
        f"cannot write {path}: {_cause(error)}; {_free(path.parent)}. The node stops, because what a failed sync has kept "
        f"is not known; {_remedy(error)} and start it again: nothing that it acknowledged is lost"
    )


def refused_read(error: sqlite3.Error | UnicodeDecodeError, path: Path) -> RaftcoordError:
    """The error for a read that failed. The sqlite3 module cannot decode an SQLite message that quotes damaged bytes."""
    if isinstance(error, UnicodeDecodeError) or primary_code(error) in _NOT_OUR_BYTES:
        return corrupt(path, f"SQLite cannot read it ({error})")
    return StorageError(f"cannot read {path}: {_cause(error)}; {_remedy(error)} and start the node again")


def refused_copy(error: sqlite3.Error | OSError, node_db: Path, target: Path) -> RaftcoordError:
    """The error for a copy of the ledger that could not be made. The node itself is unharmed."""
    if isinstance(error, sqlite3.Error) and primary_code(error) in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
        return corrupt(node_db, f"SQLite found it malformed while copying it ({error})")
    return StorageError(
        f"cannot write a copy of the ledger to {target}: {_cause(error)}; {_free(target.parent)}. The node goes on without it; "
        f"a follower that is too far behind waits until you {_remedy(error)}"
    )


@contextmanager
def opening(path: Path) -> Iterator[None]:
    """Turn every refusal while looking at, locking or creating ``path`` into an error that tells the operator what to do."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise refused_read(error, path) from error
    except sqlite3.Error as error:
        code = primary_code(error)
        if code in _NOT_OUR_BYTES:
            raise corrupt(path, f"SQLite cannot read it ({error})") from error
        if code in {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM}:
            raise _no_access(path, str(error)) from error
        if code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
            raise ConfigError(
                f"{path} is locked by another program, perhaps a sqlite3 shell: close that (`fuser {path}` names it) and "
                "start the node again"
            ) from error
        raise _refused_open(error, path) from error
    except OSError as error:
        if error.errno in _NO_ACCESS:
            raise _no_access(path, str(error)) from error
        raise _refused_open(error, path) from error


def _refused_open(error: sqlite3.Error | OSError, path: Path) -> StorageError:
    return StorageError(
        f"cannot open {path}: {_cause(error)}; {_free(path.parent)}. Nothing is lost; {_remedy(error)} and start the node again"
    )


def _no_access(path: Path, why: str) -> ConfigError:
    return ConfigError(
        f"the data directory {path.parent} cannot be used: {why}. It must be a directory on a local disk that this user may "
        "write; change its permissions, or data_dir in cluster.yaml"
    )


def _cause(error: sqlite3.Error | OSError) -> str:
    if _is_full(error):
        return "the disk, a quota or a file size limit is full"
    if isinstance(error, sqlite3.Error):
        return f"{error} ({getattr(error, 'sqlite_errorname', type(error).__name__)})"
    return str(error)


def _is_full(error: sqlite3.Error | OSError) -> bool:
    if isinstance(error, sqlite3.Error):
        return getattr(error, "sqlite_errorcode", 0) in _FULL
    return error.errno in _NO_SPACE


def _remedy(error: sqlite3.Error | OSError) -> str:
    if _is_full(error):
        return "make room there"
    if isinstance(error, sqlite3.Error) and primary_code(error) in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}:
        return "close the other program that has the file open"
    return "look for disk errors (`dmesg`) and limits (`ulimit -f`), repair them"


def _free(directory: Path) -> str:
    try:
        return f"{shutil.disk_usage(directory).free:,} bytes are free on its disk"
    except OSError:
        return "its disk does not say how much is free"
