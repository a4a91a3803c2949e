"""What a crash matrix plays on: real servers, nodes, a resolver, and lanes of programs and databases.

Owed: the end of every process that was started here, and of its files, unless the files are worth a look. A server is started
by the main thread alone, because it ends with the thread that has started it. Never: a process of somebody else.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

from raftcoord.client.synchronous import Client
from raftcoord.config import Config
from raftcoord.drills.crashes_banks import Bank, made_database
from raftcoord.drills.crashes_drivers import DRIVERS, MARIADB, POSTGRESQL, SQLITE, Couple
from raftcoord.drills.crashes_program import Job, Told
from raftcoord.drills.servers import MariaDbServer, NotHere, PostgreSqlServer, Server
from raftcoord.errors import RaftcoordError
from raftcoord.processes.local_cluster import LocalCluster, write_local_config
from raftcoord.resources import drivers
from raftcoord.resources.steps import SqlError, Statement
from raftcoord.types import Branch, TxId

ANSWER_S: Final = 60.0
"""How long a program may take to reach its point, or to end (s): a machine may be busy."""

FOUNDED_S: Final = 30.0
_PREPARED_MAX: Final = 500
_ENDING: Final = (signal.SIGTERM, signal.SIGHUP)


class Stopped(NamedTuple):
    """A program that stands at its point."""

    pid: int
    txid: TxId


class Programs:
    """A process with the drivers imported, which forks a program for each job: one at a time."""

    def __init__(self, config: Path, modules: Iterable[str], log: Path) -> None:
        command = [sys.executable, "-m", "raftcoord.drills.crashes_program", str(config), *modules]
        self._unread = b""
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, start_new_session=True
            )
        self._answer("ready")

    def start(self, job: Job) -> Stopped:
        """Run ``job`` until it has reached its point. Raises RaftcoordError if it ends before."""
        self._tell(json.dumps(job._asdict()))
        at = self._answer("at")
        return Stopped(at["pid"], TxId.parse(at["txid"]))

    def kill(self, stopped: Stopped) -> None:
        """kill -9, and wait until it is gone."""
        os.kill(stopped.pid, signal.SIGKILL)
        self._answer("ended")

    def go_on(self) -> None:
        """Let it go on from its point."""
        self._tell("go on")

    def told(self) -> Told:
        """What its transaction has ended with."""
        told = self._answer("told")
        self._answer("ended")
        return Told(told["told"])

    def close(self) -> None:
        """End it, and with it whatever it has forked."""
        self._process.kill()
        self._process.communicate()

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()

    def _answer(self, what: str) -> dict[str, Any]:
        read = self._read()
        if what not in read:
            raise RaftcoordError(f"a program of the drill has not done what it was to do: {read.get('failed', read)}")
        return read

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        deadline = time.monotonic() + ANSWER_S
        while b"\n" not in self._unread:
            ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
            more = os.read(descriptor, 1 << 16) if ready else b""
            if not more:
                raise RaftcoordError("a program of the drill has ended, or does not answer")
            self._unread += more
        line, _, self._unread = self._unread.partition(b"\n")
        read: dict[str, Any] = json.loads(line)
        return read


class Lane(NamedTuple):
    """Two databases of each kind, and programs on them: what happens in one lane is in no other one's way."""

    banks: dict[str, tuple[Bank, Bank]]
    programs: Programs

    def two(self, couple: Couple) -> tuple[Bank, Bank]:
        """The databases for ``couple``."""
        return self.banks[couple.first.kind][0], self.banks[couple.second.kind][1]

    def close(self) -> None:
        """Hang up at all databases."""
        for bank in (bank for two in self.banks.values() for bank in two):
            bank.close()


class Stage:
    """``servers``: by kind, running. ``lanes``: one for each program at a time. ``id``: the cluster's."""

    def __init__(self, directory: Path, servers: dict[str, Server]) -> None:
        self.directory = directory
        self.servers = servers
        self.lanes: list[Lane] = []
        self.id = ""
        self.cluster: LocalCluster
        self.client: Client

    def banks(self) -> Iterator[Bank]:
        """All of them."""
        for lane in self.lanes:
            for two in lane.banks.values():
                yield from two

    @contextlib.contextmanager
    def lit(self, kinds: Iterable[str], modules: Iterable[str], lanes: int, nodes: int) -> Iterator[Self]:
        """Everything runs inside, and nothing afterwards."""
        config = write_local_config(self.directory, nodes=nodes)
        with contextlib.ExitStack() as stack:
            urls = self._databases(kinds, lanes)
            made = [_accounts(urls, kinds, lane, stack) for lane in range(lanes)]
            path = with_resources(config, urls)
            self.cluster = LocalCluster(Config.load(path), throwaway=True)
            stack.callback(self.cluster.stop_all)
            self.cluster.start_all()
            self.cluster.start_resolver()
            self.client = stack.enter_context(Client.from_config(path))
            self.id = self.client.cluster_id(timeout=FOUNDED_S)
            for banks in made:
                programs = Programs(path, modules, self.directory / "programs.log")
                stack.callback(programs.close)
                self.lanes.append(Lane(banks, programs))
            yield self

    def _databases(self, kinds: Iterable[str], lanes: int) -> dict[Branch, str]:
        """By the name of the resource: two of each server; of SQLite two for each lane, because a branch freezes the file."""
        names = [
            (kind, name)
            for kind in kinds
            for lane in range(lanes if kind == SQLITE else 1)
            for name in _names(kind, lane)
        ]
        return {name: made_database(self.servers.get(kind), name, self.directory) for kind, name in names}


def _names(kind: str, lane: int) -> tuple[Branch, Branch]:
    head = f"{kind}-{lane + 1}" if kind == SQLITE else kind
    return Branch(f"{head}-a"), Branch(f"{head}-b")


def _accounts(
    urls: dict[Branch, str], kinds: Iterable[str], lane: int, stack: contextlib.ExitStack
) -> dict[str, tuple[Bank, Bank]]:
    made = {}
    for kind in kinds:
        first, second = (Bank(kind, name, urls[name], f"lane-{lane + 1}") for name in _names(kind, lane))
        stack.callback(first.close)
        stack.callback(second.close)
        made[kind] = (first, second)
    return made


def with_resources(config: Config, urls: dict[Branch, str]) -> Path:
    """Write ``urls`` into the cluster.yaml of ``config``; its path."""
    assert config.path is not None
    lines = [f"  - {{name: {name}, url: '{url}'}}\n" for name, url in urls.items()]
    config.path.write_text(config.to_yaml() + "resources:\n" + "".join(lines), encoding="utf-8")
    return config.path


@contextlib.contextmanager
def running(kinds: Iterable[str]) -> Iterator[tuple[dict[str, Server], dict[str, str]]]:
    """The servers of ``kinds``, with fsync, by kind; and why others are not here."""
    with contextlib.ExitStack() as stack:
        servers: dict[str, Server] = {}
        missing: dict[str, str] = {}
        for kind in kinds:
            try:
                server = _server(kind)
            except NotHere as error:
                missing[kind] = str(error)
                continue
            if server is not None:
                stack.callback(server.stop)
                server.start()
                _hasten(server)
                servers[kind] = server
        yield servers, missing


@contextlib.contextmanager
def kept_if(worth: list[bool]) -> Iterator[Path]:
    """A directory, which is kept if ``worth`` is not empty at the end, or if something fails, and whose name is told then."""
    directory = Path(tempfile.mkdtemp(prefix="raftcoord-"))
    try:
        yield directory
    except KeyboardInterrupt:
        shutil.rmtree(directory, ignore_errors=True)
        raise
    except BaseException as error:
        error.add_note(f"the files and logs are kept in {directory}")
        raise
    if not worth:
        shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end what is inside as Ctrl-C does, so that nothing is left running."""

    def end(*_: object) -> None:
        raise KeyboardInterrupt

    before = {}
    with contextlib.suppress(ValueError):  # not the main thread: signals are somebody else's
        before = {number: signal.signal(number, end) for number in _ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def modules_of(couples: Iterable[Couple]) -> list[str]:
    """What the programs import."""
    return sorted({driver.module for couple in couples for driver in couple} & {d.module for d in DRIVERS.values()})


def _server(kind: str) -> Server | None:
    if kind == POSTGRESQL:
        return PostgreSqlServer(durable=True, prepared=_PREPARED_MAX)
    return MariaDbServer(durable=True) if kind == MARIADB else None


def _hasten(server: Server) -> None:
    """After a crash PostgreSQL syncs every file of its directory, one by one; from version 14 the filesystem at once."""
    if isinstance(server, PostgreSqlServer):
        session = drivers.connect(server.url())
        with contextlib.suppress(SqlError):
            session.execute(Statement("ALTER SYSTEM SET recovery_init_sync_method = 'syncfs'", outside=True))
        session.close()
