"""The SQLite participant's file: accounts, prepared branches, finished txids.

It owes: a ``write`` is one commit, synced when it returns, and after a failed one nothing of it is there or the object is
dead. What it hands out at the start is what was written, or it refuses to start (CRC-32 per prepared branch,
``quick_check`` of the accounts). It never decides anything.

Other programs may read the file at any time (WAL). Only the participant may write it, and one process at a time (file_lock.py).
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import sqlite3
import threading
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

import msgpack

from raftcoord import private
from raftcoord.errors import ConfigError, CorruptionError, RaftcoordError, StorageError
from raftcoord.participants.file_lock import FileLock
from raftcoord.types import TxId, Verdict, is_identity

T = TypeVar("T")

_log: Final = logging.getLogger("raftcoord.participants")

_VERSION: Final = 1
_BUSY_MS: Final = 1_000
_HEADER_BYTES: Final = 100
_TABLES: Final = {
    "meta": "CREATE TABLE meta(name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID",
    "accounts": "CREATE TABLE accounts(key TEXT PRIMARY KEY, amount INTEGER NOT NULL) WITHOUT ROWID",
    "prepared": "CREATE TABLE prepared(txid BLOB PRIMARY KEY, record BLOB NOT NULL, crc INTEGER NOT NULL) WITHOUT ROWID",
    "finished": "CREATE TABLE finished(txid BLOB PRIMARY KEY, verdict INTEGER NOT NULL, at_ms INTEGER NOT NULL) WITHOUT ROWID",
}


_VERDICTS: Final = frozenset(map(int, Verdict))
_UNREADABLE: Final = (sqlite3.Error, UnicodeDecodeError)


class PreparedBranch(NamedTuple):
    """What a yes vote promises. ``digest``: of the payload; ``keys``: locked; ``writes``: final amounts, None deletes."""

    digest: bytes
    keys: tuple[str, ...]
    writes: dict[str, int | None]


@dataclass(slots=True)
class Changes:
    """What one batch has changed; ``write`` makes it one commit. None deletes."""

    meta: dict[str, bytes] = field(default_factory=dict)
    amounts: dict[str, int | None] = field(default_factory=dict)
    prepared: dict[TxId, PreparedBranch | None] = field(default_factory=dict)
    finished: dict[TxId, tuple[Verdict, int]] = field(default_factory=dict)
    forget: list[bytes] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.meta or self.amounts or self.prepared or self.finished or self.forget)


class AccountsFile:
    """The open file. Writing and the reads that go with it belong to one thread; ``look`` is for any thread."""

    def __init__(self, path: Path) -> None:
        """Open or create. ConfigError: in use, not writable, newer, another program's; CorruptionError: not as written."""
        self.path = path
        self._lock = FileLock(path)
        self._look_lock = threading.Lock()
        opened: list[sqlite3.Connection] = []
        try:
            opened += [_connect(path), _connect(path)]
            _prepare_schema(opened[0], path)
            _take_back(self._lock.path)
        except BaseException as error:
            for db in opened:
                db.close()
            self._lock.release()
            raise _translated(path, error) if isinstance(error, _UNREADABLE) else error from None
        self._db, self._looking = opened

    def close(self) -> None:
        """Release the file. Calling it again is harmless."""
        self._looking.close()
        self._db.close()
        self._lock.release()

    # -- reading --------------------------------------------------------------------------------------------------

    def meta(self, name: str) -> bytes:
        """The stored value, b"" if there is none."""
        return (
            self._one("SELECT value FROM meta WHERE name = ?", name, bytes, f"the entry {name!r} of its table meta")
            or b""
        )

    def identity(self) -> str:
        """The identity of the state in this file: 32 hex digits, "" if it has none yet. CorruptionError for anything else."""
        stored = self.meta("identity").decode("ascii", "replace")
        if stored and not is_identity(stored):
            raise CorruptionError(_corrupt(self.path, "its identity is not what was written"))
        return stored

    def amount(self, key: str) -> int | None:
        """An account's amount, None if there is no such account. For the writing thread."""
        return self._one("SELECT amount FROM accounts WHERE key = ?", key, int, f"the amount of account {key!r}")

    def finished(self, txid: TxId) -> Verdict | None:
        """How a txid ended here, None if that is not recorded. For the writing thread."""
        what = f"the verdict of transaction {txid} in its table finished"
        found = self._one("SELECT verdict FROM finished WHERE txid = ?", txid, int, what)
        if found is not None and found not in _VERDICTS:
            raise CorruptionError(_corrupt(self.path, f"{what} is {found}"))
        return None if found is None else Verdict(found)

    def finished_before(self, txid: bytes, at_ms: int, limit: int) -> list[bytes]:
        """Of the ``limit`` oldest finished txids, those below ``txid`` that ended before ``at_ms``."""
        rows = self._read("SELECT txid, at_ms FROM finished WHERE txid < ? ORDER BY txid LIMIT ?", (txid, limit))
        if any(type(raw) is not bytes or type(ended_ms) is not int for raw, ended_ms in rows):
            raise CorruptionError(_corrupt(self.path, "its table finished holds what is no txid, or no time"))
        return [raw for raw, ended_ms in rows if ended_ms < at_ms]

    def prepared(self) -> Iterator[tuple[TxId, PreparedBranch]]:
        """Every prepared branch. CorruptionError for one that is not what was written."""
        for raw, record, crc in self._read("SELECT txid, record, crc FROM prepared ORDER BY txid"):
            try:
                if zlib.crc32(raw + record) != crc:
                    raise ValueError
                digest, keys, writes = msgpack.unpackb(record, strict_map_key=True)
                yield TxId(raw), PreparedBranch(digest, tuple(keys), writes)
            except (ValueError, TypeError, RaftcoordError):
                raise CorruptionError(_corrupt_branch(self.path, raw)) from None

    def _one(self, sql: str, key: str | bytes, kind: type[T], what: str) -> T | None:
        """The one value that ``sql`` finds, None if there is no row. A value of another ``kind`` was not written here."""
        rows = self._read(sql, (key,))
        if not rows:
            return None
        (value,) = rows[0]
        if type(value) is not kind:
            raise CorruptionError(_corrupt(self.path, f"{what} is of another kind"))
        return value

    def _read(self, sql: str, parameters: tuple[object, ...] = ()) -> list[tuple[Any, ...]]:
        try:
            return self._db.execute(sql, parameters).fetchall()
        except _UNREADABLE as error:
            raise _translated(self.path, error) from None

    def look(self, sql: str, parameters: tuple[object, ...] = ()) -> list[tuple[str | int, ...]]:
        """Run a query on a connection of its own: it sees finished commits only, from any thread."""
        with self._look_lock:
            try:
                return self._looking.execute(sql, parameters).fetchall()
            except _UNREADABLE as error:
                raise _translated(self.path, error) from None

    # -- writing --------------------------------------------------------------------------------------------------

    def write(self, changes: Changes) -> None:
        """One commit, synced. Raises Refusal if nothing of it is kept; any other StorageError: reopen to know."""
        db = self._db
        try:
            db.execute("BEGIN IMMEDIATE")
            self._stage(changes)
            db.execute("COMMIT")
        except sqlite3.Error as error:
            if _primary(error) in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY) and self._roll_back():
                raise Refusal(_refused(self.path, error)) from None
            raise StorageError(_broken(self.path, error)) from None

    def _stage(self, changes: Changes) -> None:
        many = self._db.executemany
        if changes.meta:
            many("INSERT OR REPLACE INTO meta VALUES (?, ?)", changes.meta.items())
        if changes.amounts:
            puts = [item for item in changes.amounts.items() if item[1] is not None]
            many("INSERT INTO accounts VALUES (?, ?) ON CONFLICT DO UPDATE SET amount = excluded.amount", puts)
            if len(puts) < len(changes.amounts):
                gone = [(key,) for key, amount in changes.amounts.items() if amount is None]
                many("DELETE FROM accounts WHERE key = ?", gone)
        if changes.prepared:
            many("INSERT INTO prepared VALUES (?, ?, ?)", _records(changes.prepared))
            many(
                "DELETE FROM prepared WHERE txid = ?",
                [(t,) for t, branch in changes.prepared.items() if branch is None],
            )
        if changes.finished:
            rows = [(txid, int(verdict), at_ms) for txid, (verdict, at_ms) in changes.finished.items()]
            many("INSERT OR REPLACE INTO finished VALUES (?, ?, ?)", rows)
        if changes.forget:
            many("DELETE FROM finished WHERE txid = ?", [(txid,) for txid in changes.forget])

    def _roll_back(self) -> bool:
        try:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
        except sqlite3.Error:
            return False
        return True


class Refusal(StorageError):
    """The file refused a write, and certainly nothing of it is kept: the disk is full, or another program holds the file."""


def _records(prepared: Mapping[TxId, PreparedBranch | None]) -> Iterable[tuple[TxId, bytes, int]]:
    for txid, branch in prepared.items():
        if branch is not None:
            record = msgpack.packb(branch)
            yield txid, record, zlib.crc32(txid + record)


def _connect(path: Path) -> sqlite3.Connection:
    with contextlib.suppress(OSError):  # SQLite says what is wrong
        private.make_file(path)
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=_BUSY_MS / 1000)
    db.execute("PRAGMA synchronous = FULL")
    db.execute("PRAGMA fullfsync = 1")  # macOS: an fsync there does not reach the platter
    return db


def _take_back(path: Path) -> None:
    """The file is a participant's, so it is its owner's alone."""
    for file in (path, *(path.with_name(f"{path.name}{side}") for side in ("-wal", "-shm", ".lock"))):
        try:
            if file.exists() and private.take_back(file):
                _log.info("others than its owner could use %s; now they cannot", file)
        except OSError as error:
            raise ConfigError(
                f"{file} cannot be used for writing ({error.strerror}): choose another with --db"
            ) from None


def _prepare_schema(db: sqlite3.Connection, path: Path) -> None:
    """Make a new file, or check one that is there. Nothing of a file is changed before it is known to be ours and whole."""
    version = db.execute("PRAGMA user_version").fetchone()[0]
    found = dict(db.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table'"))
    if version == 0 and not found:
        db.execute("PRAGMA journal_mode = WAL")
        db.executescript(f"BEGIN IMMEDIATE; {'; '.join(_TABLES.values())}; PRAGMA user_version = {_VERSION}; COMMIT;")
        return
    if version > _VERSION and "prepared" in found:
        raise ConfigError(f"{path} was written by a newer version of raftcoord (format {version}); use that version")
    if version != _VERSION or not found.keys() >= _TABLES.keys():
        raise ConfigError(f"{path} is a database of another program; give a file that does not exist yet")
    for table, sql in _TABLES.items():
        if found[table] != sql:
            raise CorruptionError(_corrupt(path, f"its table {table} is not the one that raftcoord makes"))
    for table in ("accounts", "prepared"):
        verdict = db.execute(f"PRAGMA quick_check({table})").fetchone()[0]
        if verdict != "ok":
            raise CorruptionError(_corrupt(path, verdict))
    odd = "SELECT count(*) FROM accounts WHERE typeof(key) <> 'text' OR typeof(amount) <> 'integer'"
    if db.execute(odd).fetchone()[0]:
        raise CorruptionError(
            _corrupt(path, "its table accounts holds a key that is no text or an amount that is no integer")
        )
    db.execute("PRAGMA journal_mode = WAL")


def _primary(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _translated(path: Path, error: sqlite3.Error | UnicodeDecodeError) -> RaftcoordError:
    # Text that is not UTF-8 is found by the sqlite3 module, which has no code for it, or a message that quotes it.
    if isinstance(error, UnicodeDecodeError) or (type(error) is sqlite3.OperationalError and not _primary(error)):
        return CorruptionError(_corrupt(path, "it holds text that is not UTF-8"))
    match _primary(error):
        case sqlite3.SQLITE_NOTADB if _is_text(path):
            return ConfigError(
                f"{path} is not a SQLite database, and was left as it is; give this participant a file of its own with --db"
            )
        case sqlite3.SQLITE_NOTADB | sqlite3.SQLITE_CORRUPT:
            return CorruptionError(_corrupt(path, str(error)))
        case sqlite3.SQLITE_FULL | sqlite3.SQLITE_IOERR:
            return StorageError(_broken(path, error))
        case sqlite3.SQLITE_BUSY:
            return StorageError(_refused(path, error))
    return ConfigError(
        f"{path} cannot be used for writing ({error}): check its permissions, or choose another with --db"
    )


def _is_text(path: Path) -> bool:
    """Whether it never was a database: the header of one, damaged or not, is not all text."""
    try:
        with path.open("rb") as file:
            return b"\0" not in file.read(_HEADER_BYTES)
    except OSError:
        return False


def _corrupt(path: Path, what: str) -> str:
    return f"{path} is damaged ({what}); nothing was changed. Restore it from a backup, or repair it with `sqlite3 .recover`"


def _corrupt_branch(path: Path, raw: object) -> str:
    if not isinstance(raw, bytes):
        return _corrupt(path, f"its table prepared holds the key {str(raw)[:40]!r}, which is no txid")
    return (
        f"the prepared branch of transaction {raw.hex()} in {path} is not what was written (CRC). Restore the file from a "
        f"backup; or learn the outcome with `raftcoord txn resolve {raw.hex()}`, apply the branch by hand if it is "
        f"COMMITTED, and then remove it: sqlite3 {path} \"DELETE FROM prepared WHERE txid = x'{raw.hex()}'\""
    )


def _refused(path: Path, error: sqlite3.Error) -> str:
    if _primary(error) == sqlite3.SQLITE_BUSY:
        return (
            f"another program is writing to {path}: find it with `fuser {path}`; only its participant may write to it"
        )
    return f"the disk of {path} is full ({_free(path)} bytes free), nothing was changed: make room and try again"


def _broken(path: Path, error: sqlite3.Error) -> str:
    return (
        f"a write to {path} failed ({error}; {_free(path)} bytes free) and what it has kept is not known: "
        "check the disk, then start the participant again"
    )


def _free(path: Path) -> str:
    try:
        return str(shutil.disk_usage(path.parent).free)
    except OSError:
        return "unknown"
