"""One process per file of accounts, by whatever path it comes.

Owes: while a FileLock is held, no other process works on that file. There are two: a lock on ``<file>.lock`` beside the file that
symbolic links lead to, and on Linux, where flock(2) and SQLite's own locks do not know of each other, one on the file itself.
A file of several names (hard links) is refused: SQLite finds the journal of a crash by the name.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
from pathlib import Path

from raftcoord import private
from raftcoord.errors import ConfigError


class FileLock:
    """Exclusive use of ``path``, until released or the process ends. ``path``: what symbolic links lead to.

    Its descriptor of the file itself is closed after SQLite's, whose locks would end with any of the process.
    """

    def __init__(self, path: Path) -> None:
        """Take it. Raises ConfigError if another process has it, or nobody can."""
        self._fd = self._file = -1
        try:
            self.path = path.resolve()
        except (OSError, RuntimeError) as error:
            raise ConfigError(f"{path} cannot be followed ({error}): choose another with --db") from None
        self._check_one_name(path)
        name = f"{self.path}.lock"
        try:
            self._fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigError(
                f"{name} cannot be opened ({error.strerror}): create the directory or choose another with --db"
            ) from None
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._lock_file()
        except OSError:
            holder = os.pread(self._fd, 20, 0).decode("ascii", "replace").strip() or "unknown"
            self.release()
            raise ConfigError(
                f"{path} is in use by another participant (process {holder}): stop that one, or choose another file with --db"
            ) from None
        try:
            os.ftruncate(self._fd, 0)
            os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)
        except OSError:  # a full disk: the number is for people, the lock holds without it
            pass

    def _check_one_name(self, path: Path) -> None:
        try:
            names = self.path.stat().st_nlink
        except OSError:  # it is not there yet, or SQLite says what is wrong
            return
        if names > 1 and self.path.is_file():
            raise ConfigError(
                f"{path} has {names} names (hard links), by which two processes could use it at once: remove the others, or "
                "choose another with --db"
            )

    def _lock_file(self) -> None:
        """By its inode, so that neither another path nor the loss of the file beside it lets anybody in."""
        if sys.platform != "linux":
            return
        with contextlib.suppress(OSError):  # SQLite says what is wrong
            private.make_file(self.path)
            self._file = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        if self._file >= 0:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def release(self) -> None:
        """Let another process in. Idempotent."""
        for descriptor in (self._file, self._fd):
            if descriptor >= 0:
                os.close(descriptor)
        self._fd = self._file = -1

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            self.release()
