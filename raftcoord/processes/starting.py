"""A start that is being watched: what a process has written since, and how long ago it made progress.

Owed: the caller that waits sees how far a node has come with reading what it has stored, and waits for as long as it makes
progress. Never: an end of the process; that is for the process that started it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import IO, Final, Protocol

from raftcoord.errors import ConfigError, RaftcoordError

START_TIMEOUT_S: Final = 30.0
"""How long a process may take until it says that it is ready (s), counted from its last progress."""

_POLL_S: Final = 0.02
_READY: Final = re.compile(rb"raftcoord \w+ \S+ ready\b")
_READING: Final = re.compile(rb" raftcoord\.node: (reading .*)")

OnReading = Callable[[str, str], None]
"""Called with ``node n1`` and how far its reading has come, such as ``reading decisions: 1,200,000 of 4,700,000``."""


def unwatched(_what: str, _reading: str) -> None:
    """An OnReading for a caller that does not want to know."""


class Starting:
    """What the process ``what`` writes to ``log_path`` from now on."""

    def __init__(self, what: str, log_path: Path) -> None:
        self.what = what
        self.ready = False
        self.reading = ""
        """How far it has come with reading what it has stored; "" if it has not said."""
        self.last_line = ""
        self.progress_at = time.monotonic()
        self._log_path = log_path
        self._from = log_path.stat().st_size
        self._file: IO[bytes] | None = None
        self._rest = b""

    def look(self) -> bool:
        """Read on. Whether there was progress."""
        if self._file is None:
            self._file = self._log_path.open("rb")
            self._file.seek(self._from)
        *lines, self._rest = (self._rest + self._file.read()).split(b"\n")
        reading = self.reading
        for line in lines:
            self.ready = self.ready or _READY.match(line) is not None
            if (found := _READING.search(line)) is not None:
                self.reading = found[1].decode(errors="replace")
            self.last_line = line.decode(errors="replace").strip() or self.last_line
        if reading != self.reading:
            self.progress_at = time.monotonic()
            return True
        return False

    def finish(self) -> None:
        """Read what it has written until now, also a line without an end, and close the log."""
        self.look()
        self.last_line = self._rest.decode(errors="replace").strip() or self.last_line
        self.close()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


class StartedProcess(Protocol):
    """A process that was just started."""

    what: str
    log_path: Path
    starting: Starting | None

    def ended(self) -> tuple[bool, int | None]:
        """Whether it has ended, and its exit code if that is known."""


def wait_ready(
    processes: Collection[StartedProcess], timeout_s: float = START_TIMEOUT_S, on_reading: OnReading = unwatched
) -> None:
    """Wait until each of them has written the line that says ready.

    Raises RaftcoordError with the last line of one that ends instead, or that makes no progress for ``timeout_s``; ConfigError if
    its exit code says that something is set up wrongly.
    """
    waiting = [(process, process.starting) for process in processes if process.starting is not None]
    try:
        for process, starting in _each_until_ready(waiting):
            ended, code = process.ended()  # asked before the look: its last line is there then
            if starting.look() and not starting.ready:
                on_reading(process.what, starting.reading)
            if starting.ready:
                continue
            if ended:
                starting.finish()
                last = starting.last_line.removeprefix(f"{process.what}: ")
                why = last or f"it wrote nothing to {process.log_path}"
                raise (ConfigError if code == 2 else RaftcoordError)(f"{process.what} did not start: {why}")
            if time.monotonic() >= starting.progress_at + timeout_s:
                starting.finish()
                said = f"its last line: {starting.last_line}" if starting.last_line else "it wrote nothing"
                raise RaftcoordError(
                    f"{process.what} is not ready after {timeout_s:g} s without progress ({said}); look at {process.log_path}"
                )
    finally:
        for process, starting in waiting:
            starting.close()
            process.starting = None


def _each_until_ready(waiting: list[tuple[StartedProcess, Starting]]) -> Iterator[tuple[StartedProcess, Starting]]:
    while left := [each for each in waiting if not each[1].ready]:
        yield from left
        time.sleep(_POLL_S)
