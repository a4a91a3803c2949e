"""One process per data directory.

Owes: while a DirectoryLock is held, no other process runs on that directory. The lock is flock(2) on the directory
itself: it ends with the process however it ends, there is no stale lock, nothing has to be created to ask for it, and
no file can be deleted to defeat it. The file LOCK beside node.db only tells people which process it is.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from pathlib import Path
from typing import Final

from raftcoord import private
from raftcoord.errors import ConfigError

_HOLDER_FILE: Final = "LOCK"


class DirectoryLock:
    """The sole use of a data directory, until ``release``."""

    def __init__(self, directory: Path) -> None:
        """Take the lock. Raises ConfigError if another process has it, OSError if ``directory`` cannot be opened."""
        self._holder = directory / _HOLDER_FILE
        self._descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._descriptor)
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            raise ConfigError(
                f"the data directory {directory} is in use by {self._named_holder()}: stop that node first, or give this one "
                "a directory of its own"
            ) from None

    def sign(self) -> None:
        """Write this process's id into LOCK, once it is clear that the directory is ours."""
        private.make_file(self._holder)
        self._holder.write_text(f"{os.getpid()}\n")

    def release(self) -> None:
        """Let another process in. Idempotent."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _named_holder(self) -> str:
        with contextlib.suppress(OSError, ValueError):
            return f"process {int(self._holder.read_text())}"
        return "another process"
