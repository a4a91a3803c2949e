"""What a process writes while it runs: to stderr, and if that is a log file of its own, a bounded one.

``raftcoord up`` and ``raftcoord node start`` give each process a file for stdout and stderr, and name it in the environment.
Everything goes there: log lines, and what only stderr gets, such as the sentence of a halt. When the file is full it becomes
NAME.log.1, the one before it NAME.log.2, and so on; the oldest is deleted.

Owed: at most LOG_FILES_KEPT + 1 files of LOG_BYTES_MAX and a line, however many processes write to them and wherever one is
killed; no line is lost between two files, because a process writes to the old file until it holds the new one. Never: an end
because a log cannot be rotated: then it grows until it can.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, Final

from raftcoord import limits
from raftcoord.foreign import OneLine

FILE_VARIABLE: Final = "RAFTCOORD_LOG_FILE"
"""Names the file that stdout and stderr of a process are, if it is to bound it."""

_STDOUT, _STDERR = 1, 2

log: Final = logging.getLogger("raftcoord.logs")


def to_stderr(form: str, *, bytes_max: int = limits.LOG_BYTES_MAX) -> None:
    """Log from INFO on to stderr, each line as ``form`` says (see logging.Formatter). The first call counts."""
    own = _own_file(bytes_max)
    handler = logging.StreamHandler(sys.stderr) if own is None else _Bounded(own)
    handler.setFormatter(OneLine(form))
    logging.basicConfig(level=logging.INFO, handlers=[handler])


def on_hangup(end: Callable[[], object]) -> None:
    """What SIGHUP is to do: open the log file anew, if this process has one. ``end``: called if its terminal is gone."""
    if os.isatty(_STDERR):
        end()
        return
    for handler in logging.getLogger().handlers:
        if isinstance(handler, _Bounded):
            with contextlib.suppress(OSError):
                handler.file.reopen()
    log.info("SIGHUP: it goes on")


def make_room(path: Path, *, bytes_max: int = limits.LOG_BYTES_MAX) -> None:
    """Rotate the log at ``path``, if it is full, before a process is started that writes to it."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if os.fstat(descriptor).st_size >= bytes_max:
                _rotate(descriptor, path)
        finally:
            os.close(descriptor)


def files(path: Path) -> list[Path]:
    """The log files of a process, the oldest first, as far as they are there."""
    rotated = [_numbered(path, number) for number in range(limits.LOG_FILES_KEPT, 0, -1)]
    return [file for file in (*rotated, path) if file.exists()]


def last_lines(path: Path, count: int) -> list[str]:
    """The last ``count`` lines of a log, also those of its older files. OSError if one cannot be read."""
    lines: list[bytes] = []
    for file in reversed(files(path)):
        if len(lines) >= count:
            break
        lines = file.read_bytes().splitlines() + lines
    return [line.decode(errors="replace") for line in lines[-count:]] if count else []


class Follow:
    """What is written to the log at ``path`` from now on, whichever file that goes to."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rest = b""
        self._file: IO[bytes] | None = None
        with contextlib.suppress(FileNotFoundError):
            self._file = path.open("rb")
            self._file.seek(0, os.SEEK_END)

    def new_lines(self) -> list[str]:
        """Whole lines that have come since the last call. OSError if the log cannot be read."""
        new = b""
        while True:
            if self._file is not None:
                new += self._file.read()
                if _is_named(self._file.fileno(), self._path) or not self._path.exists():
                    break
                new += self._file.read()  # what came before it was rotated
                self._file.close()
            with contextlib.suppress(FileNotFoundError):
                self._file = self._path.open("rb")
                continue
            self._file = None
            break
        *lines, self._rest = (self._rest + new).split(b"\n")
        return [line.decode(errors="replace") for line in lines]

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


class LogFile:
    """The file at ``path``, which is stdout and stderr of this process."""

    def __init__(self, path: Path, bytes_max: int) -> None:
        self._path = path
        self._bytes_max = bytes_max

    def keep_bounded(self) -> None:
        """To be called before a line is written. If the file is full, the next one begins, or what another process has begun."""
        try:
            if os.fstat(_STDERR).st_size >= self._bytes_max and _rotate(_STDERR, self._path):
                self.reopen()
        except OSError:  # a full disk, say: it goes on in the old one
            pass

    def reopen(self) -> None:
        """Go on in the file that has the name now, made if it is missing. OSError: it goes on in the one that it has."""
        descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        os.dup2(descriptor, _STDOUT)
        os.dup2(descriptor, _STDERR)
        os.close(descriptor)


class _Bounded(logging.StreamHandler):  # type: ignore[type-arg]
    def __init__(self, file: LogFile) -> None:
        super().__init__(sys.stderr)
        self.file = file

    def emit(self, record: logging.LogRecord) -> None:
        self.file.keep_bounded()
        super().emit(record)


def _own_file(bytes_max: int) -> LogFile | None:
    """The file that the environment names, if it is ours; the name is not handed on to processes that this one starts."""
    path = Path(os.environ.pop(FILE_VARIABLE, ""))
    try:
        return LogFile(path, bytes_max) if _is_named(_STDERR, path) else None
    except OSError:
        return None


def _rotate(descriptor: int, path: Path) -> bool:
    """Move the full file that is open as ``descriptor`` out of the way, unless another process has. False: it is doing it now."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    try:
        if _is_named(descriptor, path):
            for number in range(limits.LOG_FILES_KEPT - 1, 0, -1):
                with contextlib.suppress(FileNotFoundError):
                    _numbered(path, number).replace(_numbered(path, number + 1))
            path.rename(_numbered(path, 1))
        return True
    finally:
        fcntl.flock(descriptor, fcntl.LOCK_UN)


def _is_named(descriptor: int, path: Path) -> bool:
    """Whether the open file is the one at ``path``."""
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), path.stat())
    return False


def _numbered(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}")
