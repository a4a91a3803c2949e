"""The nodes and participants of one cluster.yaml as processes of this machine.

Owed: what is started is found again by any later LocalCluster of the same cluster.yaml, and nothing else is ever touched.
Never: a process that was not started from here.

Beside the nodes' directories, data_dir holds for each node NAME its ``NAME.log`` and ``NAME.pid``, for each participant
``participant.NAME.log`` and ``.pid``, and for the resolver ``resolver.1.log`` and ``.pid``. Everything here blocks; call it from
a thread, not from an event loop.
"""

from __future__ import annotations

import contextlib
import os
import random
import socket
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Final

from raftcoord import logs
from raftcoord.config import Address, Config, NodeConfig
from raftcoord.errors import ConfigError
from raftcoord.processes import commands, starting
from raftcoord.processes.local_process import STOP_TIMEOUT_S, LocalProcess
from raftcoord.processes.starting import OnReading, unwatched
from raftcoord.strict_yaml import variables
from raftcoord.types import NodeName, checked_name

_PORTS: Final = range(10_000, 32_000)
"""Below every ephemeral range: a port that the system may give to an outgoing connection can be taken while a node is down."""


class LocalCluster:
    """The processes of the cluster that ``config`` describes. ``config.path`` must be a file, because the nodes read it.

    ``throwaway``: they end when this process has ended, also by kill -9.
    ``node_module``: what ``python -m`` runs for a node; a test of the drills runs one that breaks its promises.
    """

    def __init__(self, config: Config, *, throwaway: bool = False, node_module: str = commands.NODE) -> None:
        if config.path is None or not config.path.is_file():
            raise ConfigError("the nodes read cluster.yaml themselves: write the configuration to a file first")
        self.config = config
        self._throwaway = throwaway
        self._file = config.path
        self._nodes: dict[str, LocalProcess] = {}
        self._participants: dict[str, LocalProcess] = {}
        self._credentials = _credentials(config, config.path.read_text(encoding="utf-8"))
        for node in config.nodes:
            command = commands.node(self._file, node.name, node_module)
            self._nodes[node.name] = self._process(f"node {node.name}", command, node.name, self._credentials)
        self.resolver = self._process("resolver", commands.resolver(self._file), "resolver.1", ())
        """It holds the credentials of the databases; they come from its environment and stand in no argument."""

    def start(self, name: str, *, wait_ready: bool = True, on_reading: OnReading = unwatched) -> None:
        """Start node ``name``. Raises ConfigError or RaftcoordError with what the node said if it does not come up.

        While it makes progress with reading what it has stored it is waited for, and ``on_reading`` is called. What leaves the
        wait otherwise, such as Ctrl-C, stops it.
        """
        process = self._node(name)
        process.start()
        if wait_ready:
            try:
                process.wait_ready(on_reading=on_reading)
            except BaseException:  # also Ctrl-C
                process.stop()
                raise

    def start_all(self, *, wait_ready: bool = True, on_reading: OnReading = unwatched) -> list[str]:
        """Start every node that does not run, as ``start``; return their names. If one fails, those started here are stopped."""
        if not any(node.data_dir.exists() for node in self.config.nodes):
            self.config.check_founding()
        started = [name for name, process in self._nodes.items() if process.pid is None]
        try:
            for name in started:
                self._nodes[name].start()
            if wait_ready:
                starting.wait_ready([self._nodes[name] for name in started], on_reading=on_reading)
        except BaseException as error:  # also Ctrl-C
            stopped = _stop(self._nodes[name] for name in started)
            if isinstance(error, KeyboardInterrupt):
                error.add_note(f"stopped: {', '.join(stopped)}" if stopped else "nothing was started")
            raise
        return started

    def stop(self, name: str) -> bool:
        """SIGTERM, and SIGKILL after 10 s. False if it did not run."""
        return self._node(name).stop()

    def kill(self, name: str) -> bool:
        """SIGKILL, and wait until it is gone. False if it did not run."""
        return self._node(name).kill()

    def pause(self, name: str) -> bool:
        """SIGSTOP. False if it does not run."""
        return self._node(name).pause()

    def resume(self, name: str) -> bool:
        """SIGCONT. False if it does not run."""
        return self._node(name).resume()

    def files_of(self, name: str) -> list[Path]:
        """The files of node ``name`` beside its directory, whether or not they are there: its pid file and its logs."""
        process = self._node(name)
        return [process.pid_path, *logs.files(process.log_path)]

    def pid(self, name: str) -> int | None:
        """The node's pid while it runs, else None."""
        return self._node(name).pid

    def paused(self, name: str) -> bool:
        """Whether the node is held by ``pause``."""
        return self._node(name).paused

    def log_path(self, name: str) -> Path:
        """Where the node's output goes. The file may not exist yet."""
        return self._node(name).log_path

    def start_participant(self, name: str, db: Path, *, arguments: Sequence[str] = (), wait_ready: bool = True) -> None:
        """Start the SQLite participant ``name`` on the file ``db``; ``arguments``: more of ``raftcoord.participants``."""
        process = self._participant(name)
        process.command = commands.participant(self._file, name, db, arguments)
        process.start()
        if wait_ready:
            process.wait_ready()

    def kill_participant(self, name: str) -> bool:
        """SIGKILL, and wait until it is gone. False if it did not run."""
        return self._participant(name).kill()

    def participant_pid(self, name: str) -> int | None:
        """The participant's pid while it runs, else None."""
        return self._participant(name).pid

    def participants(self) -> list[str]:
        """The names of the participants that were ever started from here."""
        return sorted(path.name.split(".")[1] for path in self.config.data_dir.glob("participant.*.pid"))

    def stop_nodes(self, names: Iterable[str]) -> list[str]:
        """Stop these nodes, all at once; return which of them ran (``node n1``)."""
        return _stop(self._node(name) for name in names)

    def start_resolver(self) -> bool:
        """Start the resolver, if there are resources and it does not run. False if nothing was started. Raises ConfigError."""
        if not self.config.resources or self.resolver.pid is not None:
            return False
        for resource in self.config.resources:
            resource.url()  # a variable that is not set is told here, and not found in a log
        self.resolver.start()
        try:
            self.resolver.wait_ready()
        except BaseException:
            self.resolver.stop()
            raise
        return True

    def stop_all(self) -> list[str]:
        """Stop the resolver, every participant and node, all at once; return what ran (``node n1``, ``participant bank-a``)."""
        participants = [self._participant(name) for name in self.participants()]
        return _stop([self.resolver, *participants, *self._nodes.values()])

    def _node(self, name: str) -> LocalProcess:
        return self._nodes[self.config.node(name).name]

    def _participant(self, name: str) -> LocalProcess:
        checked_name(name, "participant")
        process = self._participants.get(name)
        if process is None:
            process = self._participants[name] = self._process(
                f"participant {name}", [], f"participant.{name}", self._credentials
            )
        return process

    def _process(self, what: str, command: Sequence[str], stem: str, without: Collection[str]) -> LocalProcess:
        directory = self.config.data_dir
        return LocalProcess(
            what,
            command,
            directory / f"{stem}.log",
            directory / f"{stem}.pid",
            without=without,
            throwaway=self._throwaway,
        )


def _credentials(config: Config, text: str) -> frozenset[str]:
    """The variables that the urls of resources name, and that nothing else in the file needs: the resolver alone gets them."""
    named = frozenset[str]().union(*(variables(resource.written) for resource in config.resources))

    def needless(name: str) -> bool:
        try:
            Config.parse(
                text, config.path or "", {other: value for other, value in os.environ.items() if other != name}
            )
        except ConfigError:
            return False
        return True

    return frozenset(filter(needless, named))


def _stop(processes: Iterable[LocalProcess]) -> list[str]:
    stopping = [process for process in processes if process.terminate()]
    for process in stopping:
        process.wait_stopped(STOP_TIMEOUT_S)
    return [process.what for process in stopping]


def write_local_config(directory: Path, nodes: int = 3, cluster: str = "demo") -> Config:
    """A cluster of ``nodes`` nodes on free loopback ports, written to ``directory``/cluster.yaml with its data beside it."""
    ports = iter(free_ports(2 * nodes))
    data_dir = directory.absolute() / "data"
    members = []
    for number in range(1, nodes + 1):
        peer, client = (Address("127.0.0.1", next(ports)) for _ in range(2))
        members.append(NodeConfig(NodeName(f"n{number}"), peer, client, data_dir / f"n{number}"))
    config = Config(cluster, tuple(members))
    path = directory / "cluster.yaml"
    path.write_text(config.to_yaml(), encoding="utf-8")
    return Config.load(path)


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now: held all at once while they are chosen, so that they differ."""
    candidates = random.SystemRandom().sample(_PORTS, len(_PORTS))
    with contextlib.ExitStack() as held:
        ports: list[int] = []
        for port in candidates:
            if len(ports) == count:
                return ports
            probe = held.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                ports.append(port)
    raise ConfigError(f"there are no {count} free ports on 127.0.0.1; stop what holds them (`ss -ltn`)")
