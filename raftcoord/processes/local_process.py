"""One process of raftcoord on this machine: started apart from its parent, found again by its pid file.

Owed: a signal reaches only the process that the pid file was written for. The file holds the pid and when that process
started, so a pid that was given to somebody else is never signalled. Never: a search for processes by name.

Linux and macOS. Everything here blocks for at most the time that is given; call it from a thread, not from an event loop.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final, NamedTuple

from raftcoord import lifeline, logs, private
from raftcoord.errors import ConfigError
from raftcoord.processes.starting import START_TIMEOUT_S, OnReading, Starting, unwatched, wait_ready

STOP_TIMEOUT_S: Final = 10.0
"""How long a process may take to end after SIGTERM (s), before SIGKILL, which it survives as well."""

PID_FILE_S: Final = 5.0
"""How long a pid file may be locked by somebody else (s); the processes of raftcoord hold it for milliseconds."""

_POLL_S: Final = 0.02


class ProcessState(NamedTuple):
    """What the operating system says of a pid: when it started (a text to compare), and whether SIGSTOP holds it."""

    started: str
    paused: bool


class LocalProcess:
    """A process called ``what`` in errors, run by ``command``, logging to ``log_path``, remembered in ``pid_path``.

    ``without``: variables that it does not inherit. ``throwaway``: it ends when this process has ended, also by kill -9.
    """

    def __init__(
        self,
        what: str,
        command: Sequence[str],
        log_path: Path,
        pid_path: Path,
        *,
        without: Collection[str] = (),
        throwaway: bool = False,
    ) -> None:
        self.what = what
        self.command = list(command)
        self.log_path = log_path
        self.starting: Starting | None = None
        """What it has written since its start, while nobody knows yet how that went."""
        self.pid_path = pid_path
        self._without = frozenset(without)
        self._throwaway = throwaway
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The pid while the process runs (or is paused), else None."""
        return self._find()[0]

    @property
    def paused(self) -> bool:
        """Whether it is held by SIGSTOP."""
        seen = self._find()[1]
        return seen is not None and seen.paused

    def start(self) -> None:
        """Start it; ``wait_ready`` tells how that went. Raises ConfigError if it runs already or nothing can be written."""
        try:
            private.make_directory(self.pid_path.parent)
            logs.make_room(self.log_path)
            for path in (self.pid_path, self.log_path):
                private.make_file(path)
                private.take_back(path)
            with _locked(self.pid_path, "r+", fcntl.LOCK_EX) as file, self.log_path.open("ab") as log:
                if (pid := self._alive(file)[0]) is not None:
                    raise ConfigError(f"{self.what} is running already (pid {pid}); nothing was started")
                self.starting = Starting(self.what, self.log_path)
                self._child = subprocess.Popen(
                    self.command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    umask=private.UMASK,
                    env=self._environment(),
                    pass_fds=[lifeline.held()] if self._throwaway else (),
                )
                try:
                    _write(file, self._child.pid)
                except OSError:
                    self._child.kill()  # a process that nobody finds again must not stay
                    raise
        except OSError as error:
            where = error.filename or self.pid_path
            raise ConfigError(
                f"{self.what} cannot be started: {error.strerror}: {where}; check data_dir in cluster.yaml"
            ) from None

    def wait_ready(self, timeout_s: float = START_TIMEOUT_S, on_reading: OnReading = unwatched) -> None:
        """``starting.wait_ready`` for this process alone."""
        wait_ready([self], timeout_s, on_reading)

    def ended(self) -> tuple[bool, int | None]:
        """Whether it has ended, and its exit code, if it was started here."""
        gone = self.pid is None  # it may have ended after it was polled there: poll once more
        return gone, self._child.poll() if gone and self._child is not None else None

    def kill(self) -> bool:
        """SIGKILL, and wait until it is gone. False if it did not run."""
        return self._signal(signal.SIGKILL) and self._gone(STOP_TIMEOUT_S)

    def terminate(self) -> bool:
        """SIGTERM, also to a paused one. False if it did not run."""
        return self._signal(signal.SIGTERM) and (self._signal(signal.SIGCONT) or True)

    def wait_stopped(self, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """Wait until it has ended, and kill it if that takes longer than ``timeout_s``."""
        if not self._gone(timeout_s):
            self.kill()

    def stop(self) -> bool:
        """SIGTERM, wait, and SIGKILL if need be. False if it did not run."""
        was_running = self.terminate()
        self.wait_stopped()
        return was_running

    def pause(self) -> bool:
        """SIGSTOP: alive and silent, as a machine in trouble is. False if it does not run."""
        return self._signal(signal.SIGSTOP) and _wait(lambda: self.paused, STOP_TIMEOUT_S)

    def resume(self) -> bool:
        """SIGCONT. False if it does not run."""
        return self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> bool:
        pid = self.pid
        if pid is None:
            return False
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return False
        except PermissionError:
            raise ConfigError(f"{self.what} (pid {pid}) belongs to another user; use that account") from None
        return True

    def _gone(self, timeout_s: float) -> bool:
        return _wait(lambda: self.pid is None, timeout_s)

    def _find(self) -> tuple[int | None, ProcessState | None]:
        try:
            with _locked(self.pid_path, "r", fcntl.LOCK_SH) as file:
                return self._alive(file)
        except (FileNotFoundError, NotADirectoryError):
            return None, None
        except PermissionError:
            raise ConfigError(
                f"{self.pid_path} can be read by its owner alone: use the account that started {self.what}"
            ) from None

    def _alive(self, file: IO[str]) -> tuple[int | None, ProcessState | None]:
        if self._child is not None:
            self._child.poll()  # reaps it, so that its end is seen
        file.seek(0)
        try:
            written = json.load(file)
            pid, started = int(written["pid"]), str(written["started"])
        except (ValueError, KeyError, TypeError):
            return None, None
        seen = look_at(pid)
        return (pid, seen) if seen is not None and seen.started == started else (None, None)

    def _environment(self) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if name not in self._without}
        own = {logs.FILE_VARIABLE: str(self.log_path)}
        if self._throwaway:
            own[lifeline.VARIABLE] = str(lifeline.held())
        return {**inherited, **own}


def _write(file: IO[str], pid: int) -> None:
    seen = look_at(pid)
    file.seek(0)
    file.truncate()
    json.dump({"pid": pid, "started": seen.started if seen else ""}, file)
    file.flush()


@contextmanager
def _locked(path: Path, mode: str, lock: int) -> Iterator[IO[str]]:
    with path.open(mode) as file:
        if not _wait(lambda: _flock(file, lock), PID_FILE_S):
            raise ConfigError(
                f"{path} is locked by another program, and raftcoord holds it for milliseconds only: `fuser {path}` names it; "
                "end that one"
            )
        yield file


def _flock(file: IO[str], lock: int) -> bool:
    try:
        fcntl.flock(file, lock | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            raise
        return False
    return True


def _wait(condition: Callable[[], bool], timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(_POLL_S)
    return True


def look_at(pid: int) -> ProcessState | None:
    """What the operating system knows of ``pid``; None if there is no such process, or it has ended and is not yet reaped."""
    if Path("/proc/self/stat").exists():
        return _look_in_proc(pid)
    return _look_with_ps(pid)


def _look_in_proc(pid: int) -> ProcessState | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return None
    fields = stat[stat.rindex(")") + 2 :].split()
    state, threads, start_ticks = fields[0], int(fields[17]), fields[19]
    # While its other threads end, the first is a zombie already, yet ports and locks are held and the exit code is not known.
    ended = state == "X" or (state == "Z" and threads <= 1)
    return None if ended else ProcessState(f"{boot} {start_ticks}", state in "Tt")


def _look_with_ps(pid: int) -> ProcessState | None:
    command = ["ps", "-o", "stat=,lstart=", "-p", str(pid)]
    shown = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C"}
    ).stdout
    state, _, started = shown.strip().partition(" ")
    return None if not state or state.startswith("Z") else ProcessState(started.strip(), state.startswith("T"))
