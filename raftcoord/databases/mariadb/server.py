"""A MariaDB server in a directory of its own, for tests, demos and benchmarks."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from raftcoord.databases.database import NotHere

GET: Final = "apt-get install mariadb-server-core mariadb-client-core, which starts no service"


def find() -> tuple[str, str]:
    """MariaDB's server, and what makes its data directory."""
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin"
    server = shutil.which("mariadbd", path=path) or shutil.which("mysqld", path=path)
    install = shutil.which("mariadb-install-db")
    if not server or not install:
        raise NotHere(f"no MariaDB server was found ({GET})", "MariaDB")
    return server, install


class MariaDbRecipe:
    """See Recipe. The user root has no password and comes by TCP."""

    stop_signal = signal.SIGTERM

    def __init__(self, directory: Path, port: int, durable: bool, settings: Mapping[str, str]) -> None:
        self.binary, self.install = find()
        self.user = "root" if os.geteuid() == 0 else None
        self.socket = directory / "socket"
        self._directory = directory
        self._port = port
        self._settings: dict[str, object] = {
            "port": port,
            "bind-address": "127.0.0.1",
            "socket": self.socket,
            "pid-file": directory / "pid",
            "innodb-buffer-pool-size": "24M",
            "innodb-log-file-size": "8M",
            "innodb-lock-wait-timeout": 5,
            "innodb-flush-log-at-trx-commit": 1 if durable else 2,
            **settings,
        }

    def prepare(self, run: Callable[..., str]) -> None:
        run(
            self.install, "--no-defaults", f"--datadir={self._directory / 'data'}", "--skip-test-db",
            "--auth-root-authentication-method=normal", "--innodb-log-file-size=8M", *self._as_user(),
        )  # fmt: skip

    def command(self) -> list[str]:
        settings = [f"--{name}={value}" for name, value in self._settings.items()]
        data = f"--datadir={self._directory / 'data'}"
        return [
            self.binary, "--no-defaults", data, *self._as_user(), *settings, "--skip-log-bin", "--skip-name-resolve"
        ]  # fmt: skip

    def _as_user(self) -> list[str]:
        return [f"--user={self.user}"] if self.user else []

    def answers(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._port), timeout=1) as probe:
            return bool(probe.recv(1))
        return False

    def url(self, database: str = "") -> str:
        return f"mariadb://root@127.0.0.1:{self._port}/{database}"
