"""The world of one simulation: machines with clocks and disks, and the processes that live and die on them.

Nodes, participants and clients are the real ones. A machine outlives its processes: each life of a node or participant
starts from what the disk kept of the life before (disk.py).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Final, NoReturn

from raftcoord import limits
from raftcoord.client.asynchronous import AsyncClient
from raftcoord.client.link import NodeAddress
from raftcoord.config import Address, Config, NodeConfig, Timing
from raftcoord.env import Env
from raftcoord.errors import CorruptionError, RaftcoordError, StorageError
from raftcoord.events import Observers
from raftcoord.node.node import Node
from raftcoord.participants.interface import Participant
from raftcoord.participants.worker import Worker
from raftcoord.sim import membership
from raftcoord.sim.disk import SimDisk, SimNodeDb, SimRunner, image_of_participant
from raftcoord.sim.happening import AtNode, Born, note
from raftcoord.sim.knobs import Knobs
from raftcoord.sim.loop import Killed, Process, SimLoop
from raftcoord.sim.machines import Machine, Points, serving
from raftcoord.sim.mischief import Mischief, SufferingConsensus
from raftcoord.sim.network import End, Network
from raftcoord.sim.watch import NodeMoments, NodeWindow, WatchedParticipant, WorldWatcher
from raftcoord.types import NodeName

EPOCH_MS: Final = 1_700_000_000_000
"""The wall time at which every simulation begins (ms)."""

CLUSTER: Final = "sim"
_RESTART_S: Final = 0.2
"""How soon a participant that ended is started again (s)."""

_PEER_PORT: Final = 7401
_CLIENT_PORT: Final = 7501

MakeParticipant = Callable[[Path, Env], Participant]
"""A participant whose files lie in that directory, which outlives it; with that clock and that randomness."""


class SimConfig(Config):
    """A retention of seconds, so that what is finished is forgotten during a simulation."""

    retention_ms_min: ClassVar[int] = 1


class World:
    """See the module's head. ``root``: an empty directory of its own."""

    def __init__(
        self,
        seed: int,
        root: Path,
        watcher: WorldWatcher,
        on_error: Callable[[str], None],
        *,
        nodes: int,
        participants: dict[str, MakeParticipant],
        instances: Mapping[str, int] | None = None,
        timing: Timing | None = None,
        knobs: Knobs,
        events: Observers,
        sync_s: float = 0.0005,
    ) -> None:
        self.seed = seed
        self.knobs = knobs
        self.loop = SimLoop(self.rng("loop"), self._unhandled)  # type: ignore[abstract]
        self.network = Network(self.loop, self.rng("network"))
        self.network.on_write = lambda end, data: self._at_write("before-send", end)
        self.network.after_write = lambda end, data: self._at_write("after-send", end)
        self.points = Points()
        self.waiting: set[str] = set()
        """Machines that are not switched on yet."""
        self.changing: set[str] = set()
        """Nodes that an operator removes, and has not added again yet."""
        self.removed: set[str] = set()
        """Nodes that an operator has begun to remove, now or before."""
        self.watcher = watcher
        self.sync_s = sync_s
        self.mischief = Mischief(self.rng("mischief"))
        self.events = events
        self._root = root
        self._on_error = on_error
        self._participants = participants
        names = [NodeName(f"n{number}") for number in range(1, nodes + 1)]
        members = tuple(
            NodeConfig(name, Address(f"127.0.0.{at}", _PEER_PORT), Address(f"127.0.0.{at}", _CLIENT_PORT), root / name)
            for at, name in enumerate(names, 1)
        )
        self.config = SimConfig(CLUSTER, members, timing or Timing(), knobs.retention_ms or limits.RETENTION_MS_DEFAULT)
        self.serves = serving(participants, instances or {})
        """Each machine of a participant, and the name that it serves."""
        self.machines = {name: Machine(name, root) for name in (*names, *self.serves)}
        self.nodes = list(map(str, names))
        self.banks = list(participants)
        self.clients: list[str] = []
        self.ahead_max_ms = 0
        """The furthest that any clock was ever ahead."""

    def log(self, who: str, what: str) -> None:
        """Note what a process does, or what is done to it."""
        note(self.events, who, what, aloud=True)

    def rng(self, purpose: str) -> random.Random:
        """A generator of its own for each purpose, so that one does not disturb the other."""
        return random.Random(f"{self.seed}/{purpose}")

    # -- lives ---------------------------------------------------------------------------------------------------------

    def start(self, name: str) -> None:
        """Start the process of a machine that has none."""
        machine = self.machines[name]
        if machine.runs or name in self.waiting:
            return
        machine.lives += 1
        process = machine.process = Process(
            self.loop, name, clock_offset_s=machine.clock_offset_s, clock_rate=machine.clock_rate
        )
        self.network.lit(name)
        directory = self._directory(name, machine.lives)
        machine.directory = directory
        env = self.env(machine)
        self.log(name, f"starts (life {machine.lives})")
        with self.loop.acting(process):
            if name in self.serves:
                self._start_participant(machine, process, directory, env)
            else:
                self._start_node(machine, process, directory, env)

    def start_all(self) -> None:
        """Start every node and participant."""
        for name in (*self.nodes, *self.serves):
            self.start(name)

    def _start_node(self, machine: Machine, process: Process, directory: Path, env: Env) -> None:
        name = NodeName(machine.name)
        machine.faulty = False
        try:
            db = SimNodeDb.open(
                directory,
                cluster_name=CLUSTER,
                node=name,
                entropy=self.rng(f"{name} {machine.lives} identity").randbytes,
                bounds=self.knobs.node,
            )
        except CorruptionError as error:
            process.kill()
            machine.lives -= 1  # the next one finds the same files
            self.log(name, f"refuses to start: {error}")
            self.watcher.on_halt(name, error, expected=machine.damaged)
            return
        machine.db, machine.disk = db, SimDisk(directory)
        db.disk = machine.disk
        db.disk.on_synced = lambda write: self.watcher.on_stored(name, write)
        db.disk.on_failed = lambda write: self.watcher.on_failed(name, write)
        db.disk.on_installed = lambda info: self.watcher.on_installed(name, info.index, info.term)

        def halt(error: Exception) -> NoReturn:
            self._halted(machine, process, error)

        point = self._point_of(process)
        runner = SimRunner(self.loop, process, self.rng(f"{name} {machine.lives} disk"), self.sync_s, point)
        machine.runner = runner
        config = self._config_of(directory, machine.names)
        machine.consensus = SufferingConsensus(
            config, name, db, env, on_halt=halt, runner=runner, bounds=self.knobs.node
        )
        machine.consensus.mischief = self.mischief
        machine.node = Node(config, name, machine.consensus, db, env, on_halt=halt, bounds=self.knobs.node)
        node_events = machine.node.events
        node_events.attach(NodeWindow(machine.node, machine.consensus, self.watcher, self.broken))
        if self.events.wanted:
            node_events.attach(lambda event: self.events.tell(AtNode(name, event)))
            self.events.tell(Born(name, machine.consensus.applied_index))
        node_events.attach(NodeMoments(point))
        self.watcher.on_born(name, db, machine.consensus)
        process.spawn(membership.start(self, machine), "start")

    def _config_of(self, directory: Path, names: tuple[str, ...] | None) -> Config:
        config = self.config if names is None else membership.config_of(self.config, names)
        return replace(
            config, nodes=tuple(replace(node, data_dir=directory.parent / node.name) for node in config.nodes)
        )

    def _start_participant(self, machine: Machine, process: Process, directory: Path, env: Env) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        name = self.serves[machine.name]
        machine.participant = self._participants[name](directory, env)
        watched = WatchedParticipant(name, machine.participant, self._point_of(process), self.watcher)
        addresses = [node.client for node in self.config.nodes]
        machine.worker = Worker(watched, name, addresses, env)
        process.spawn(self._serve(machine.name, machine.worker), "worker")

    async def _serve(self, name: str, worker: Worker) -> None:
        """A participant that cannot go on ends, and its operator starts it again."""
        try:
            await worker.run()
        except StorageError as error:
            self.log(name, f"ends: {error}")
            self.loop.at(self.loop.now + _RESTART_S, self.loop.world, self.start, name)
            self.kill(name)
            raise Killed from None
        except RaftcoordError as error:
            self._on_error(f"{name}: its worker ended: {error!r}")

    def broken(self, what: str) -> None:
        """What must never happen, and is seen by a part of this world."""
        self._on_error(what)

    def client(self, name: str, at: str = "") -> tuple[Process, AsyncClient]:
        """A client process with the real client in it. ``at``: the one node that it knows, else all."""
        machine = self.machines.setdefault(name, Machine(name, self._root))
        machine.lives += 1
        machine.process = Process(self.loop, name, clock_offset_s=machine.clock_offset_s, clock_rate=machine.clock_rate)
        nodes = [node for node in self.config.nodes if at in ("", node.name)]
        endpoints = [NodeAddress(node.client.host, node.client.port, node.name) for node in nodes]
        return machine.process, AsyncClient(endpoints, cluster_name=CLUSTER, name=name, env=self.env(machine))

    def another_client(self, at: str) -> AsyncClient:
        """One more client in the process that asks, at one node. Use it with ``async with``."""
        node = self.config.node(at)
        machine = self.machines.setdefault("another", Machine("another", self._root))
        machine.lives += 1
        endpoint = NodeAddress(node.client.host, node.client.port, node.name)
        return AsyncClient([endpoint], cluster_name=CLUSTER, name="another", env=self.env(machine))

    def env(self, machine: Machine) -> Env:
        """The clock and the chance of this life."""

        return Env(
            lambda: self._true_ms(machine) + machine.offset_ms,
            self.rng(f"{machine.name} {machine.lives}"),
            self.knobs.clocks,
        )

    def _true_ms(self, machine: Machine) -> int:
        """What its clock would show, had nobody set it (ms)."""
        process = machine.process
        local = process.local(self.loop.now) if process is not None else self.loop.now
        return EPOCH_MS + int((local - machine.clock_offset_s) * 1000)

    def set_clock(self, name: str, offset_ms: int) -> None:
        """Set the wall clock of a machine so far ahead."""
        machine = self.machines[name]
        machine.was_ms = (self.loop.now, machine.offset_ms)
        self.ahead_max_ms = max(self.ahead_max_ms, offset_ms)
        machine.offset_ms = offset_ms

    def clocks(self, within_s: float) -> list[int]:
        """The latest that the clock of each node has shown within that time (ms), whether or not its process runs."""
        found = []
        for name in self.nodes:
            machine = self.machines[name]
            until, was_ms = machine.was_ms
            recent = self.loop.now - until <= within_s
            found.append(self._true_ms(machine) + max(machine.offset_ms, was_ms if recent else machine.offset_ms))
        return found

    def kill(self, name: str, *, power_cut: bool = False) -> bool:
        """End the process at once. ``power_cut``: what was not synced is lost, and nobody is told."""
        machine = self.machines[name]
        process = machine.process
        if process is None or not process.alive:
            return False
        self.log(name, "loses its power" if power_cut else "is killed")
        process.kill()
        self.network.killed(process, dark=power_cut)
        target = self.next_directory(name)
        if machine.db is not None and machine.disk is not None:
            machine.disk.image(target, self.rng(f"{name} {machine.lives} image"), power_cut=power_cut)
            machine.db.abandon()
            machine.db = machine.node = machine.consensus = None
        elif machine.participant is not None:
            rng = self.rng(f"{name} {machine.lives} image")
            if target != machine.directory:
                image_of_participant(machine.participant, machine.directory, target, rng, power_cut=power_cut)
            with suppress(Exception):
                machine.participant.close()
            machine.participant = machine.worker = None
        return True

    def pause(self, name: str) -> None:
        """As SIGSTOP."""
        process = self.machines[name].process
        if process is not None and process.alive:
            self.log(name, "is paused")
            process.paused = True

    def resume(self, name: str) -> None:
        """As SIGCONT."""
        process = self.machines[name].process
        if process is not None and process.alive and process.paused:
            self.log(name, "goes on")
            process.resume()

    def wiped(self, name: str, *, removed: bool = False) -> None:
        """The disk of a machine that has no process is empty now. ``removed``: it was no member's any more."""
        self.log(name, "is emptied" if removed else "has lost its disk")
        self.watcher.on_wiped(name, removed=removed)

    def next_directory(self, name: str) -> Path:
        """Where the next life of a machine that has no process will find its files."""
        return self._directory(name, self.machines[name].lives + 1)

    def _directory(self, name: str, life: int) -> Path:
        serves = self.serves.get(name)
        if serves is not None and list(self.serves.values()).count(serves) > 1:
            return self._root / serves  # the state that its instances share is not on their machines
        return self._root / f"{name}.{life}" / name

    # -- what goes wrong -----------------------------------------------------------------------------------------------

    def _point_of(self, process: Process) -> Callable[[str], None]:
        def point(label: str) -> None:
            self.at_point(process, label)

        return point

    def at_point(self, process: Process, label: str) -> None:
        """``process`` passes ``label``: it may end here."""
        armed = self.points.armed
        key = (process.name, label)
        if not armed or key not in armed or not process.alive:
            return
        left, power_cut = armed[key]
        if left > 0:
            armed[key] = (left - 1, power_cut)
            return
        del armed[key]
        self.points.passed[label] = self.points.passed.get(label, 0) + 1
        self.log(process.name, f"reaches {label}")
        self.kill(process.name, power_cut=power_cut)
        raise Killed

    def _at_write(self, moment: str, end: End) -> None:
        if self.points.armed:
            kind = "peer" if end.role.endswith(str(_PEER_PORT)) else "reply"
            if kind == "reply" and end.other.process.name in self.serves:
                kind = "participant"
            self.at_point(end.process, f"{moment}-{kind}")

    def _halted(self, machine: Machine, process: Process, error: Exception) -> NoReturn:
        self.log(machine.name, f"halts: {error}")
        expected = isinstance(error, StorageError) and machine.faulty
        self.watcher.on_halt(machine.name, error, expected=expected)
        self.kill(machine.name)
        raise Killed

    def _unhandled(self, process: Process | None, error: BaseException | None, message: str) -> None:
        name = process.name if process is not None else "?"
        if isinstance(error, RaftcoordError) and name in self.serves:
            return
        self._on_error(f"{name}: {message}: {error!r}")

    def run(self, what: Callable[[], Any]) -> None:
        """Do something as the world itself, outside of ``run_until``."""
        asyncio._set_running_loop(self.loop)
        try:
            what()
        finally:
            asyncio._set_running_loop(None)

    def close(self) -> None:
        """The simulation is over: release every file."""
        for name in (*self.nodes, *self.serves):
            machine = self.machines[name]
            if machine.db is not None:
                machine.db.abandon()
            if machine.participant is not None:
                with suppress(Exception):
                    machine.participant.close()
        self.loop.finish()
        self.loop.drop()
