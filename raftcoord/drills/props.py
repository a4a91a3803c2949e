"""What a stage needs, as a plan, and its files and processes.

The maker of Props owes ``end``; that is play.py.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from raftcoord.config import Config
from raftcoord.databases.database import NotHere
from raftcoord.databases.registry import named
from raftcoord.databases.resource_config import ResourceConfig
from raftcoord.drills.books import open_banks
from raftcoord.drills.database_banks import DatabaseBanks, raise_banks
from raftcoord.drills.orders import Opening
from raftcoord.drills.paying_programs import PayingProgram
from raftcoord.errors import ConfigError, RaftcoordError
from raftcoord.processes.commands import NODE, python
from raftcoord.processes.database_servers import DatabaseServer
from raftcoord.processes.local_cluster import LocalCluster, write_local_config
from raftcoord.processes.local_process import LocalProcess
from raftcoord.types import Branch


class PlannedDatabase(NamedTuple):
    """A database of ``kind``, and the accounts in it. All of one kind are on one server, if it has servers."""

    kind: str
    opening: Opening


@dataclass(frozen=True, slots=True)
class StagePlan:
    """``opening``, ``hosts``: the SQLite participants, and process name -> the banks that run in it; {}: none.

    ``databases``: by the name of the resource; with any there is a resolver as well. ``clients``: so many that each node has
    some; a client chooses its node at random and stays with it. ``node_module``: what a node process runs.
    """

    nodes: int
    seed: int
    opening: Opening = field(default_factory=dict)
    hosts: Mapping[str, tuple[Branch, ...]] = field(default_factory=dict)
    databases: Mapping[Branch, PlannedDatabase] = field(default_factory=dict)
    clients: int = 12
    node_module: str = NODE


def host_banks(opening: Opening, processes: int) -> dict[str, tuple[Branch, ...]]:
    """The first bank, which is the home bank, in a process of its own; the others dealt over ``processes`` more."""
    home, *others = opening
    groups: dict[str, tuple[Branch, ...]] = {str(home): (home,)}
    for number in range(min(processes, len(others))):
        dealt = tuple(others[number::processes])
        groups[str(dealt[0]) if len(dealt) == 1 else f"banks-{number + 1}"] = dealt
    return groups


class Props:
    """The files and processes of a stage. Everything here blocks. No database is there before ``raise_databases``."""

    def __init__(self, directory: Path, plan: StagePlan) -> None:
        self.directory = directory
        self.plan = plan
        self.files = open_banks(directory, plan.opening)
        self.cluster = self._cluster(write_local_config(directory, plan.nodes))
        self.hosts = {name: self._host(name, banks) for name, banks in plan.hosts.items()}
        self.servers: dict[str, DatabaseServer] = {}
        self.banks: dict[str, DatabaseBanks] = {}
        self.programs: list[PayingProgram] = []
        self._raising = threading.Lock()

    def _cluster(self, config: Config) -> LocalCluster:
        return LocalCluster(config, throwaway=True, node_module=self.plan.node_module)

    def _host(self, name: str, banks: Iterable[Branch]) -> LocalProcess:
        files = (f"{bank}={self.files[bank]}" for bank in banks)
        command = python("raftcoord.drills.banks", "--config", str(self.cluster.config.path), "--name", name, *files)
        log, pid = (self.directory / f"{name}.{ending}" for ending in ("log", "pid"))
        return LocalProcess(f"participant {name}", command, log, pid, throwaway=True)

    def raise_databases(self) -> None:
        """Start a server of each kind, open the accounts, and write the resources into cluster.yaml."""
        with self._raising:
            for kind in dict.fromkeys(database.kind for database in self.plan.databases.values()):
                self._raise_server(kind)
            for name, (kind, opening) in self.plan.databases.items():
                self.banks[name] = raise_banks(self.servers.get(kind), name, self.directory)
                self.banks[name].open(opening)
        config = self.cluster.config
        resources = tuple(ResourceConfig(Branch(name), bank.url) for name, bank in self.banks.items())
        assert config.path is not None
        config.path.write_text(dataclasses.replace(config, resources=resources).to_yaml(), encoding="utf-8")
        self.cluster = self._cluster(Config.load(config.path))

    def _raise_server(self, kind: str) -> None:
        try:
            if named(kind).server is not None:
                self.servers[kind] = DatabaseServer(kind, durable=True)
                self.servers[kind].start()
        except NotHere as error:
            raise ConfigError(str(error)) from error
        except RuntimeError as error:
            raise RaftcoordError(f"{named(kind).title} cannot be started: {error}") from None

    def stop_servers(self) -> None:
        """End them and what they have stored; their logs are kept with the other files."""
        with self._raising:
            for kind, server in self.servers.items():
                with contextlib.suppress(OSError):
                    shutil.copyfile(server.log, self.directory / f"{named(kind).title}.log")
                server.stop()
            self.servers.clear()

    def end(self) -> None:
        """SIGKILL what still runs: everything that matters is on the disk by now."""
        with contextlib.ExitStack() as stack:
            stack.callback(self.stop_servers)
            for node in self.cluster.config.nodes:
                stack.callback(self.cluster.kill, node.name)
            for process in (*self.hosts.values(), self.cluster.resolver, *(each.process for each in self.programs)):
                stack.callback(process.kill)
