"""The mark: how far node.db must reach, kept outside it.

SQLite replays its write-ahead log up to the first frame with a wrong checksum and silently ignores the rest: that is how
it recovers from a crash in the middle of a commit, and it cannot tell that from a flipped byte, a cut or a deleted
node.db-wal, or an old copy of node.db put back. Each of those would make a node forget what it has acknowledged: a vote,
or a decision. So every synced commit is then noted here: the number that node.db gives to each commit of its state, and the
last index of its log, which a commit of log entries alone moves forward. At open, node.db may be ahead of the mark, never
behind.

The mark is not synced with every commit, for that would double the cost of each. It always survives the death of
the process. After a power cut it may be as old as the kernel's write-back, about 30 seconds: damage to node.db-wal
that hides younger commits than that, and comes together with a power cut, is not detected.
"""

from __future__ import annotations

import errno
import os
import struct
from pathlib import Path
from typing import Final, NamedTuple
from zlib import crc32

from raftcoord import private
from raftcoord.storage.schema import sync_file

MARK_FILE: Final = "node.mark"
UNFINISHED_MARK: Final = "node.mark.new"

_REACH: Final = struct.Struct(">QQ")
_SEALED: Final = struct.Struct(">QQI")


class Reach(NamedTuple):
    """How far a node.db reaches: its ``writes`` count, and at that count the last index of its log."""

    writes: int
    last: int


NOTHING: Final = Reach(0, 0)
"""The reach of a node that has acknowledged nothing."""


def read_mark(directory: Path) -> Reach | None:
    """What the mark says, or None if there is no mark. ValueError if it is not a mark."""
    try:
        raw = (directory / MARK_FILE).read_bytes()
    except FileNotFoundError:
        return None
    if len(raw) != _SEALED.size:
        raise ValueError(f"{len(raw)} bytes instead of {_SEALED.size}")
    writes, last, crc = _SEALED.unpack(raw)
    if crc32(raw[: _REACH.size]) != crc:
        raise ValueError("a wrong checksum")
    return Reach(writes, last)


def _sealed(reach: Reach) -> bytes:
    return _SEALED.pack(*reach, crc32(_REACH.pack(*reach)))


def create_mark(directory: Path) -> None:
    """Make the mark of a node that has acknowledged nothing, whole under its name. The caller syncs the directory."""
    unfinished = directory / UNFINISHED_MARK
    private.make_file(unfinished)
    unfinished.write_bytes(_sealed(NOTHING))
    sync_file(unfinished)
    unfinished.rename(directory / MARK_FILE)


class Mark:
    """The mark, open for writing. It is written in place, in one sector, so that it is never half written."""

    def __init__(self, directory: Path) -> None:
        """Open it; it exists."""
        self._descriptor = os.open(directory / MARK_FILE, os.O_RDWR | os.O_CLOEXEC)

    def set(self, reach: Reach) -> None:
        """node.db reaches so far, synced."""
        if os.pwrite(self._descriptor, _sealed(reach), 0) != _SEALED.size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), MARK_FILE)

    def sync(self) -> None:
        """Make it survive a power cut as it stands."""
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)
