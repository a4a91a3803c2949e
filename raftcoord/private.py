"""Files that are the owner's alone: directories 0700, files 0600.

Reading is enough to do harm. A program that can open a file for reading can take a lock on it: a lock on node.db-shm halts a
node, one on a pid file stops ``raftcoord up``; and what is decided, and about whose money, is nobody else's business.

Owed: what is made here nobody else could open, not even for a moment; what was there before is taken back from others, or refused
with the command that does it. Never: a change of a directory that may be somebody else's, such as a data_dir of ``/tmp``.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from raftcoord.errors import ConfigError

UMASK: Final = 0o077
"""For every process of raftcoord: what a library makes behind our back is the owner's alone as well."""

_OTHERS: Final = 0o077


def make_directory(directory: Path) -> None:
    """Make ``directory`` (0700) and its parents, if it is missing. One that is there stays as it is. OSError if it cannot be."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    directory.mkdir(mode=0o700, exist_ok=True)


def make_file(path: Path) -> None:
    """Make the empty file ``path`` (0600) if it is missing. OSError if it cannot be."""
    os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))


def opened_to(path: Path) -> str:
    """The mode of ``path``, such as "0755", if others than its owner can use it; else "". OSError if it cannot be looked at."""
    mode = stat.S_IMODE(path.stat().st_mode)
    return f"{mode:04o}" if mode & _OTHERS else ""


def must_be_ours(directory: Path) -> None:
    """Raise ConfigError if ``directory`` is there, and this user may not use it."""
    try:
        if not directory.exists() or os.access(directory, os.R_OK | os.W_OK | os.X_OK):
            return
        uid = directory.stat().st_uid
    except OSError:  # not even its parents may be entered
        raise ConfigError(
            f"{directory} cannot be reached by this user: use the account that started its nodes"
        ) from None
    raise ConfigError(f"{directory} is for its owner alone: use the account that started its nodes (user id {uid})")


def take_back(path: Path) -> bool:
    """Leave ``path`` to its owner alone; whether others could use it before.

    Raises ConfigError if this user may not, OSError if the disk refuses.
    """
    try:
        mode = opened_to(path)
        if not mode:
            return False
        path.chmod(stat.S_IMODE(path.stat().st_mode) & ~_OTHERS)
        refused = f"it stays {mode}" if opened_to(path) else ""
    except FileNotFoundError:  # SQLite has removed it meanwhile
        return False
    except PermissionError as error:
        refused = str(error.strerror)
    if refused:
        raise ConfigError(
            f"{path} can be used by others than its owner, who could read it or stop its program with a lock, and that cannot be "
            f"changed: {refused}. Run `{how(path)}` as its owner, or move it to a file system with permissions"
        )
    return True


def take_back_directory(directory: Path) -> list[Path]:
    """``take_back`` a directory that is ours, and the files in it; which of them others could use before."""
    return [path for path in (directory, *files_of(directory)) if take_back(path)]


def files_of(directory: Path) -> Iterator[Path]:
    """The plain files in ``directory``, in order. A link is not one: what it leads to may be somebody else's."""
    with os.scandir(directory) as entries:
        found = sorted(entry.name for entry in entries if entry.is_file(follow_symlinks=False))
    yield from (directory / name for name in found)


def how(path: Path) -> str:
    """The command that leaves ``path`` to its owner alone."""
    return f"chmod go-rwx {path}"
