"""A real PostgreSQL and a real MariaDB for demo, benchmarks and tests: own directories, own ports, stopped by pid.

``NotHere`` says what was not found, and what to install.
"""

from __future__ import annotations

import contextlib
import ctypes
import getpass
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

START_S = 40.0
PR_SET_PDEATHSIG = 1


class NotHere(Exception):
    """The binaries are not installed."""


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _die_with_parent() -> None:
    """A test run that is killed leaves no server behind (Linux)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


class Server:
    """One server process. ``durable``: with fsync, for tests that kill it; without, it starts and commits faster."""

    user = getpass.getuser()

    def __init__(self, *, durable: bool = False) -> None:
        self.durable = durable
        self.port = free_port()
        self.directory = Path(tempfile.mkdtemp(prefix="raftcoord-db-", dir="/tmp"))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        """What the server prints."""
        return self.directory / "log"

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
            )
        self._wait(self.answers)

    def kill(self) -> None:
        """kill -9."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

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


class PostgreSqlServer(Server):
    """PostgreSQL; ``prepared``: max_prepared_transactions."""

    stop_signal = signal.SIGINT  # "fast": open sessions are ended

    def __init__(self, *, durable: bool = False, prepared: int = 64) -> None:
        found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
        on_path = shutil.which("postgres")
        if not found and not on_path:
            raise NotHere("no PostgreSQL server is installed (apt-get install postgresql)")
        self.bin = found[-1].parent if found else Path(str(on_path)).parent
        if os.geteuid() == 0:
            try:
                self.user = pwd.getpwnam("postgres").pw_name
            except KeyError:
                raise NotHere("PostgreSQL refuses to run as root, and there is no user postgres") from None
        super().__init__(durable=durable)
        self.prepared = prepared
        if os.geteuid() == 0:
            shutil.chown(self.directory, self.user)
        self._run(
            str(self.bin / "initdb"), "-D", str(self.directory / "data"), "-U", "postgres", "-A", "trust", "-N",
            "-E", "UTF8", "--locale=C",
        )  # fmt: skip

    def command(self) -> list[str]:
        """See Server."""
        options = {
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
        ready = [str(self.bin / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(ready, check=False).returncode == 0

    def url(self, database: str = "postgres") -> str:
        """For drivers and cluster.yaml."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"


class MariaDbServer(Server):
    """MariaDB. The user root has no password and comes by TCP."""

    def __init__(self, *, durable: bool = False) -> None:
        self.binary = next(
            (
                path
                for name in ("mariadbd", "mysqld")
                if (path := shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin"))
            ),
            "",
        )
        install = shutil.which("mariadb-install-db")
        if not self.binary or not install:
            raise NotHere("no MariaDB server is installed (apt-get install mariadb-server)")
        super().__init__(durable=durable)
        self._run(
            install, "--no-defaults", f"--datadir={self.directory / 'data'}", f"--user={self.user}", "--skip-test-db",
            "--auth-root-authentication-method=normal", "--innodb-log-file-size=8M",
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
            f"--user={self.user}",
            "--innodb-buffer-pool-size=24M",
            "--innodb-log-file-size=8M",
            "--innodb-lock-wait-timeout=5",
            f"--innodb-flush-log-at-trx-commit={1 if self.durable else 2}",
            "--skip-log-bin",
            "--skip-name-resolve",
        ]

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
