"""The disk of one simulated machine: real files, real SQLite, and a power switch.

The files lie in a directory of their own (on tmpfs, if the caller can). ``SimDisk`` knows which part of node.db-wal was synced.
When the power goes, everything behind that part is lost, or some of it, by chance: a new life starts from an image of the
directory in which that is so. When only the process dies, everything written is there.

What is not simulated: pages of a file that reach the platter out of order before a sync. SQLite's own tests do that.
"""

from __future__ import annotations

import random
import shutil
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Final

from raftcoord.errors import StorageError
from raftcoord.participants.interface import Participant
from raftcoord.participants.sqlite import SqliteParticipant
from raftcoord.sim.loop import Process, SimLoop
from raftcoord.storage.node_db import NodeDb, SnapshotInfo, Write

_WAL_HEAD: Final = 32
_FRAME_HEAD: Final = 24
_PAGE: Final = 4096


def wal_end(wal: Path, known: tuple[bytes, int] = (b"", 0)) -> tuple[bytes, int]:
    """The salts of a write-ahead log, and where its valid frames end. (b"", 0) if there is none.

    ``known``: what an earlier call gave, of the same file: it goes on from there.

    Source: "WAL-mode File Format", https://sqlite.org/walformat.html.
    """
    try:
        with wal.open("rb") as file:
            head = file.read(_WAL_HEAD)
            if len(head) < _WAL_HEAD or not any(head):
                return b"", 0
            salts, end = head[16:24], _WAL_HEAD
            if salts == known[0]:
                end = known[1]
            while True:
                file.seek(end)
                frame = file.read(_FRAME_HEAD)
                if len(frame) < _FRAME_HEAD or frame[8:16] != salts:
                    return salts, end
                end += _FRAME_HEAD + _PAGE
    except FileNotFoundError:
        return b"", 0


def _backfilled(directory: Path) -> int:
    """How many frames a checkpoint has moved into node.db: before that it has synced them.

    Source: nBackfill in the "WAL-index File Format", https://sqlite.org/walformat.html.
    """
    shared = (directory / "node.db-shm").read_bytes()[96:100]
    return int.from_bytes(shared, sys.byteorder)


class SimDisk:
    """What is known of the disk under one life of a node. ``fault``: called at each write, may make it fail."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.synced: tuple[bytes, int] = (b"", 0)
        """The part of node.db-wal that a power cut leaves."""
        self.all_synced = True
        self.fault: Callable[[SimNodeDb, Write], None] = lambda db, write: None
        self.on_synced: Callable[[Write], None] = lambda write: None
        self.on_failed: Callable[[Write], None] = lambda write: None
        self.on_installed: Callable[[SnapshotInfo], None] = lambda info: None

    @property
    def wal(self) -> Path:
        """node.db-wal."""
        return self.directory / "node.db-wal"

    def about_to_write(self, synced: bool) -> None:
        """Before a write: note what is synced, if this one will not be."""
        if not synced and self.all_synced:
            self.synced, self.all_synced = wal_end(self.wal, self.synced), False

    def wrote(self, write: Write, synced: bool) -> None:
        """After it. ``synced``: what SQLite did, whatever the writer believes."""
        self.all_synced |= synced
        if write.synced:
            self.on_synced(write)

    def image(self, target: Path, rng: random.Random, *, power_cut: bool) -> None:
        """What the next life finds: a copy of the directory, less what the power cut took."""
        _copy(self.directory, target)
        if power_cut and not self.all_synced:
            salts, end = wal_end(self.wal)
            kept = self.synced[1] if salts == self.synced[0] else _WAL_HEAD
            kept = max(kept, _WAL_HEAD + _backfilled(self.directory) * (_FRAME_HEAD + _PAGE))
            if end > kept:
                _cut(target / "node.db-wal", kept, end, rng)


def _copy(source: Path, target: Path) -> None:
    target.mkdir(parents=True)
    for file in sorted(source.iterdir()):
        if not file.name.endswith("-shm"):
            shutil.copyfile(file, target / file.name)


def _cut(path: Path, synced: int, end: int, rng: random.Random) -> None:
    """Of what follows the synced part of a write-ahead log, all is lost, or some, or nothing."""
    kept = synced + rng.choice((0, rng.randrange(end - synced + 1), end - synced))
    with path.open("r+b") as wal:
        wal.seek(kept)
        wal.write(bytes(end - kept))


def _syncs(connection: Any) -> bool:
    """Whether a commit on this connection waits for the disk (PRAGMA synchronous FULL or more)."""
    return bool(connection.execute("PRAGMA synchronous").fetchone()[0] >= 2)


def image_of_participant(
    participant: Participant, source: Path, target: Path, rng: random.Random, *, power_cut: bool
) -> None:
    """What the next life of a participant finds. Of SQLite's own, what it did not sync is lost in a power cut."""
    _copy(source, target)
    if power_cut and isinstance(participant, SqliteParticipant) and not _syncs(participant._file._db):
        for wal in sorted(target.glob("*-wal")):
            _, end = wal_end(wal)
            if end > _WAL_HEAD:
                _cut(wal, _WAL_HEAD, end, rng)


class _FailingConnection:
    """A connection to SQLite one of whose statements fails, as it does when the disk does."""

    def __init__(self, connection: sqlite3.Connection, at: int, code: int, *, stored: bool) -> None:
        self._connection = connection
        self._left = at
        self._code = code
        self._stored = stored

    def execute(self, statement: str, *arguments: Any) -> Any:
        """As the connection's, until it fails."""
        if statement in ("ROLLBACK",):
            return self._connection.execute(statement, *arguments)
        self._left -= 1
        if self._left < 0 or statement == "COMMIT":
            if statement == "COMMIT" and self._stored:
                self._connection.execute(statement, *arguments)
            full = self._code == sqlite3.SQLITE_FULL
            error = sqlite3.OperationalError("database or disk is full" if full else "disk I/O error")
            error.sqlite_errorcode = self._code
            raise error
        return self._connection.execute(statement, *arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


class _ShortOfRoom:
    """A connection of a participant to SQLite whose commits fail as long as its disk does."""

    def __init__(self, connection: sqlite3.Connection, code: Callable[[], int], rng: random.Random) -> None:
        self._connection = connection
        self._code = code
        self._rng = rng

    def execute(self, statement: str, *arguments: Any) -> Any:
        """As the connection's; a COMMIT may fail."""
        code = self._code() if statement == "COMMIT" else sqlite3.SQLITE_OK
        if code == sqlite3.SQLITE_OK or (code != sqlite3.SQLITE_FULL and self._rng.random() < 0.5):
            done = self._connection.execute(statement, *arguments)
            if code == sqlite3.SQLITE_OK:
                return done
        error = sqlite3.OperationalError("disk I/O error, says the simulated disk")
        error.sqlite_errorcode = code
        raise error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


def fail_participant(participant: Participant | None, code: Callable[[], int], rng: random.Random) -> bool:
    """From now on each commit of this life meets the error ``code()`` (an SQLite result code), after which only SQLITE_FULL is
    certain to have kept nothing. Whether the participant is one whose disk can fail.
    """
    if not isinstance(participant, SqliteParticipant):
        return False
    participant._file.path = Path(
        participant._file.path.name
    )  # errors quote it, and where the files lie differs each time
    participant._file._db = _ShortOfRoom(participant._file._db, code, rng)  # type: ignore[assignment]
    return True


class SimNodeDb(NodeDb):
    """The real node.db, on a disk that tells what is synced and can fail."""

    disk: SimDisk

    def write(self, w: Write) -> None:
        """As NodeDb's."""
        synced = w.synced and _syncs(self._writer)
        self.disk.about_to_write(synced)
        self.disk.fault(self, w)
        try:
            super().write(w)
        except StorageError:
            self.disk.on_failed(w)
            raise
        self.disk.wrote(w, synced)

    def install(self, path: Path, info: SnapshotInfo) -> None:
        """As NodeDb's."""
        super().install(path, info)
        self.disk.all_synced = True
        self.disk.on_installed(info)

    def abandon(self) -> None:
        """Its process is dead: release the files, write nothing."""
        self._refusal = "its process is dead"
        with suppress(sqlite3.Error, OSError):
            self._parts.close()

    def fail(self, rng: random.Random, code: int) -> None:
        """The next write meets an error of the disk, at some statement of it; what fails at the end may be stored or not."""
        self._writer = _FailingConnection(self._writer, rng.randrange(6), code, stored=rng.random() < 0.5)  # type: ignore[assignment]


class SimRunner:
    """Runs what a node stores, as the sync thread does: later, in order, one piece at a time.

    ``sync_s``: the usual time of a sync (s). ``point(label)``: a labelled moment at which the process may be killed.
    """

    def __init__(
        self, loop: SimLoop, process: Process, rng: random.Random, sync_s: float, point: Callable[[str], None]
    ) -> None:
        self._loop = loop
        self._process = process
        self._rng = rng
        self._point = point
        self.sync_s = sync_s

    def run(self, work: Callable[[], Any], done: Callable[[Any, BaseException | None], None]) -> None:
        """See Runner."""
        self._point("after-stage")
        self._loop.at(self._loop.now + self._delay(), self._process, self._work, work, done)

    def _work(self, work: Callable[[], Any], done: Callable[[Any, BaseException | None], None]) -> None:
        self._point("before-sync")
        result, error = None, None
        try:
            result = work()
        except Exception as caught:
            error = caught
        self._point("after-sync")
        self._loop.at(self._loop.now + self._delay(), self._process, done, result, error)

    def _delay(self) -> float:
        delay = self.sync_s * self._rng.random()
        return delay * 50 if self._rng.random() < 0.01 else delay


def flip_a_stored_bit(directory: Path, rng: random.Random) -> str:
    """Flip one bit in a stored log record of a node that does not run; what was flipped, or "" if there is no record."""
    with closing(sqlite3.connect(directory / "node.db")) as connection, suppress(sqlite3.Error):
        rows = connection.execute("SELECT idx, data FROM log ORDER BY idx").fetchall()
        rows = [(index, data) for index, data in rows[1:] if len(data) > 1]
        if rows:
            index, data = rng.choice(rows)
            bit = rng.randrange(8 * (len(data) - 1)) + 8
            flipped = bytes(byte ^ (1 << bit % 8 if at == bit // 8 else 0) for at, byte in enumerate(data))
            connection.execute("UPDATE log SET data = ? WHERE idx = ?", (flipped, index))
            connection.commit()
            return f"bit {bit} of log entry {index}"
    return ""
