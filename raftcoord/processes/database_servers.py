"""Real database servers for demos, benchmarks and tests: own directories, own ports, stopped by pid.

``NotHere`` says what was not found, and what to install. ``missing()`` lists that for all of them.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from raftcoord.databases import drivers, registry
from raftcoord.databases.database import NotHere
from raftcoord.databases.steps import Statement
from raftcoord.processes.local_process import look_at

START_S = 40.0
PR_SET_PDEATHSIG = 1
ROOM_IN_MEMORY = 8 << 30
"""Bytes that must be free there (three servers of a test run, and what else needs memory)."""


def missing() -> dict[str, str]:
    """Which servers are not here, and why."""
    found = {}
    for database in registry.DATABASES:
        if database.server is not None:
            try:
                database.server.find()
            except NotHere as error:
                found[database.title] = str(error)
    return found


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _quick_directory() -> str:
    """A file system in memory, if there is one with room: to remove hundreds of databases from a disk takes a minute."""
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and shutil.disk_usage(memory).free >= ROOM_IN_MEMORY
    return str(memory) if roomy else "/tmp"


_LIBC = ctypes.CDLL(None)
"""Looked up here, because between fork and exec nothing may be loaded when there are threads."""


def _die_with_parent() -> None:
    """A test run that is killed leaves no server behind (Linux: when the thread ends that has started it)."""
    with contextlib.suppress(OSError, AttributeError):
        _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def children_of(parent: int) -> list[int]:
    """The processes that ``parent`` has started itself and that have not been reaped."""
    if not Path("/proc/self/stat").exists():
        listed = subprocess.run(["ps", "-axo", "pid=,ppid="], capture_output=True, text=True, check=False).stdout
        pairs = [line.split() for line in listed.splitlines()]
        return [int(pid) for pid, its_parent in pairs if int(its_parent) == parent]
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            if int(stat.read_text(errors="replace").rpartition(")")[2].split()[1]) == parent:
                found.append(int(stat.parent.name))
    return found


class DatabaseServer:
    """One server process of the kind ``name``. ``durable``: with fsync, for tests that kill it; without, it is faster.

    ``settings``: the server's own, such as max_connections. Raises NotHere.
    """

    def __init__(self, name: str, *, durable: bool = False, settings: Mapping[str, str] | None = None) -> None:
        self.database = registry.named(name)
        kind = self.database.server
        assert kind is not None, f"{name} has no server"
        kind.find()
        self.port = free_port()
        self.directory = Path(tempfile.mkdtemp(prefix="raftcoord-db-", dir="/tmp" if durable else _quick_directory()))
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self.recipe = kind.recipe(self.directory, self.port, durable, settings or {})
            self.recipe.prepare(self._run)
        except BaseException:
            shutil.rmtree(self.directory, ignore_errors=True)
            raise

    @property
    def log(self) -> Path:
        """What the server prints."""
        return self.directory / "log"

    def url(self, database: str = "") -> str:
        """For drivers and cluster.yaml; "": of a database that is always there."""
        return self.recipe.url(database)

    def make(self, database: str) -> str:
        """Make a database of that name; its URL."""
        create = self.database.statements.create
        assert create is not None
        session = drivers.connect(self.url())
        try:
            session.execute(Statement(create(database), outside=True))
        finally:
            session.close()
        return self.url(database)

    def start(self) -> None:
        """Start it, and wait until it answers."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.recipe.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                user=self.recipe.user,
                preexec_fn=_die_with_parent,
                start_new_session=True,  # Ctrl-C is for the process that ends it, in order
            )
        self._wait(self.recipe.answers)

    def kill(self) -> None:
        """kill -9 of all its processes: those that PostgreSQL has forked may go on alone, and then it does not start again."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)  # it forks no more
        forked = children_of(self._process.pid)
        self._process.kill()
        for pid in forked:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()
        deadline = time.monotonic() + START_S
        while any(look_at(pid) for pid in forked) and time.monotonic() < deadline:
            time.sleep(0.01)

    def stop(self) -> None:
        """End it quickly and remove its directory."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(self.recipe.stop_signal)
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _wait(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_S
        while not condition():
            assert self._process is not None
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self.recipe.command()[0]} did not start: {self.log.read_text()[-2000:]}")
            time.sleep(0.05)

    def _run(self, *command: str) -> str:
        done = subprocess.run(command, capture_output=True, text=True, cwd="/", user=self.recipe.user, check=False)
        if done.returncode:
            raise RuntimeError(f"{command[0]} failed: {done.stdout}{done.stderr}")
        return done.stdout
