"""A write-ahead log that has its length from the start.

While node.db-wal grows, every fdatasync must also write the file's new size, which takes the file system a second write: a
commit then costs about twice of what it costs when SQLite, after a checkpoint, begins again at the head of a file that is long
enough. So we make it long enough before the first commit. SQLite takes the zeros for what a finished round left behind: no
frame in them has a checksum that fits.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from typing import Final

ROOM_TIMES: Final = 4

_BLOCK: Final = 1 << 20


def lengthen(database: Path, size: int) -> None:
    """Write ``size`` bytes of zeros into the empty write-ahead log of ``database``, and sync them.

    The caller holds the only writing connection and has just emptied the log (``wal_checkpoint(TRUNCATE)``). A log that is not
    empty is left as it is, and so is one on a disk that has not ROOM_TIMES as much room: only speed depends on this, and
    room is what a node on a nearly full disk needs.
    """
    if shutil.disk_usage(database.parent).free < ROOM_TIMES * size:
        return
    wal = database.with_name(f"{database.name}-wal")
    with contextlib.suppress(FileNotFoundError), wal.open("r+b", buffering=0) as file:
        if os.fstat(file.fileno()).st_size:
            return
        try:
            for _ in range(size // _BLOCK):
                _write_all(file.fileno(), bytes(_BLOCK))
            os.fsync(file.fileno())
        except OSError:
            os.ftruncate(file.fileno(), 0)


def _write_all(fd: int, block: bytes) -> None:
    left = memoryview(block)
    while left:
        left = left[os.write(fd, left) :]
