"""Room on a disk, looked at before it is needed: a node whose disk is full halts, so nothing else may fill it."""

from __future__ import annotations

import shutil
from pathlib import Path

from raftcoord import limits
from raftcoord.errors import StorageError


def check_room(directory: Path, bytes_needed: int, what: str) -> None:
    """Raise StorageError unless ``directory`` has room for ``what`` and still COPY_SPARE_BYTES for the log."""
    try:
        free = shutil.disk_usage(directory).free
    except OSError as error:
        raise StorageError(
            f"{what} cannot be written: {directory}: {error.strerror}. The node goes on without it"
        ) from None
    if free < bytes_needed + limits.COPY_SPARE_BYTES:
        raise StorageError(
            f"{what} needs {bytes_needed:,} bytes in {directory} beside {limits.COPY_SPARE_BYTES:,} for the log, and {free:,} "
            "are free; free some, it is tried again. The node goes on without it"
        )
