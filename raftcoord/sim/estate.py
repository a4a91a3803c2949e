"""Databases in a simulated world: servers, programs that commit over two of them, and resolvers that finish what they leave.

    servers      two, each as PostgreSQL or as MariaDB (database.py). Prepared branches of other clusters lie in them
    programs     the real transaction block over the real client: work on both, prepare, decide, commit, complete
    resolvers    one or two processes with the real resolver: a thread for each server (blocking.py)

What must be true of them is in effects.py. In the end nothing of this cluster is prepared, and no money was made or lost.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from functools import partial
from typing import Final

from raftcoord.client.asynchronous import AsyncClient
from raftcoord.databases import gid as gids
from raftcoord.databases.resolver.resource import Resource
from raftcoord.databases.resource_config import ResourceConfig
from raftcoord.databases.session import DriverSession
from raftcoord.sim.blocking import Blocking, BlockingClient
from raftcoord.sim.database import SimBranch, SimServer
from raftcoord.sim.database_mariadb import MariaDbServer
from raftcoord.sim.database_postgresql import PostgreSqlServer
from raftcoord.sim.effects import FOREIGN, Effects
from raftcoord.sim.faults import PROGRAMS, RESOLVERS, SERVERS, Fault
from raftcoord.sim.invariants import Invariants
from raftcoord.sim.loop import Process
from raftcoord.sim.programs import Program
from raftcoord.sim.sessions import ResolverSession
from raftcoord.sim.world import EPOCH_MS, World
from raftcoord.types import Branch, TxId, Verdict

_RESTART_S: Final = 2.0
"""How soon an operator restarts a server that has lost sight of a branch (s)."""

_SAFETY_S: Final = (0.05, 1.2)


class Estate:
    """The databases of ``world``, and who works on them. ``rng``: of its own."""

    def __init__(self, world: World, invariants: Invariants) -> None:
        self._world = world
        self._invariants = invariants
        self._rng = world.rng("estate")
        self.effects = Effects(invariants)
        self.servers = {name: self._server(name) for name in SERVERS}
        self.programs = list(PROGRAMS)
        self.resolvers = list(RESOLVERS[: 1 if self._rng.random() < 0.7 else 2])
        self.outcomes: dict[str, int] = {}
        self._safety_s = self._rng.choice(_SAFETY_S)
        self._stopped = False
        self._pauses: dict[str, tuple[int, float]] = {}
        self.effects.watch(self.servers)

    def _server(self, name: str) -> SimServer:
        world = self._world
        kind = self._rng.choice((MariaDbServer, PostgreSqlServer))
        server = kind(world.loop, name, world.rng(f"server {name}"), self.effects, EPOCH_MS)
        server.on_unlisted = self._unlisted
        for cluster in FOREIGN:
            gid = str(gids.make(cluster, TxId.new(EPOCH_MS, self._rng.randbytes(10)), name))
            server.prepared[gid] = SimBranch(gid, None)
        return server

    def start(self) -> None:
        """Let everybody begin."""
        for name in (*self.programs, *self.resolvers):
            self.start_process(name)

    def start_process(self, name: str) -> None:
        """Start what has no process: a server, a program, a resolver."""
        if name in self.servers:
            if not self.servers[name].runs:
                self._world.log(name, "starts")
                self.servers[name].start()
            return
        machine = self._world.machines.get(name)
        if machine is not None and machine.runs:
            return
        process, client = self._world.client(name)
        self._world.log(name, f"starts (life {self._world.machines[name].lives})")
        rng = self._world.rng(f"{name} {self._world.machines[name].lives} work")
        if name in self.programs:
            process.spawn(Program(self, process, client, rng).live(), "work")
        else:
            for server in self.servers.values():
                process.spawn(self._resolve(process, client, server, rng), f"resolver of {server.name}")

    # -- resolvers ------------------------------------------------------------------------------------------------

    async def _resolve(self, process: Process, client: AsyncClient, server: SimServer, rng: random.Random) -> None:
        def connect(url: str) -> DriverSession:
            return ResolverSession(server.connect(process, "resolver"), Branch(server.name), blocking)

        def look(blocking: Blocking) -> None:
            resource = Resource(
                _config(server),
                frozenset(self.servers),
                BlockingClient(client, blocking),
                safety_s=self._safety_s,
                connect=connect,
                now=self._world.loop.time,
                chance=rng.random,
                wall_ms=self._world.env(self._world.machines[process.name]).wall_ms,
                bounds=self._world.knobs.resolver,
            )
            while True:
                pause_s = resource.step()
                if resource.trouble.startswith("a bug"):
                    self._world.broken(f"{process.name}: the resolver of {server.name}: {resource.trouble}")
                blocking.wait(asyncio.sleep(pause_s))

        blocking = Blocking(look)
        await blocking.run()

    # -- faults ---------------------------------------------------------------------------------------------------

    def begin(self, fault: Fault) -> None:
        """Carry out one of ``faults.OF_DATABASES``."""
        name, world = fault.who[0], self._world
        if name not in (*self.servers, *self.programs, *self.resolvers):
            return
        match fault.kind:
            case "program-crash":
                world.points.armed[name, fault.label] = (int(fault.value), False)
                self._at(fault.until + 0.3, self.start_process, name)
            case "program-pause":
                self._pauses[name] = (int(fault.value), fault.until - fault.at)
            case "resolver-kill":
                self._away(name, fault.until - fault.at)
            case "resolver-pause":
                self._still(name, fault.until - fault.at)
            case "database-kill" | "database-silent":
                ends = self._away if fault.kind == "database-kill" else self._still
                self.servers[name].arm(int(fault.value), partial(ends, name, fault.until - fault.at))
            case "program-jump":
                self._set_ahead(name, int(fault.value))
                self._at(fault.until, self._set_ahead, name, -int(fault.value))

    def _away(self, name: str, seconds: float) -> None:
        if self.kill(name):
            self._at(self._world.loop.now + seconds, self.start_process, name)

    def _still(self, name: str, seconds: float) -> None:
        self.pause(name)
        self._at(self._world.loop.now + seconds, self.resume, name)

    def _set_ahead(self, name: str, by_ms: int) -> None:
        self._world.set_clock(name, self._world.machines[name].offset_ms + by_ms)

    def _at(self, when: float, what: Callable[..., None], *args: object) -> None:
        self._world.loop.at(when, self._world.loop.world, what, *args)

    def kill(self, name: str) -> bool:
        """End the process of a server, a program or a resolver; whether it had one."""
        if name not in self.servers:
            machine = self._world.machines.get(name)
            return machine is not None and machine.runs and self._world.kill(name)
        if not self.servers[name].runs:
            return False
        self._world.log(name, "is killed")
        self.servers[name].kill()
        return True

    def pause(self, name: str) -> None:
        """As SIGSTOP."""
        if name in self.servers:
            self._world.log(name, "is silent")
            self.servers[name].process.paused = True
        elif name in self._world.machines:
            self._world.pause(name)

    def resume(self, name: str) -> None:
        """As SIGCONT."""
        if name not in self.servers:
            if name in self._world.machines:
                self._world.resume(name)
        elif self.servers[name].process.paused:
            self._world.log(name, "goes on")
            self.servers[name].process.resume()

    def point(self, process: Process, label: str) -> None:
        """A program passes ``label``."""
        self._world.at_point(process, label)
        armed = self._pauses.get(process.name)
        if armed is None:
            return
        passes, seconds = armed
        if passes > 0:
            self._pauses[process.name] = (passes - 1, seconds)
            return
        del self._pauses[process.name]
        self._world.pause(process.name)
        self._world.loop.at(self._world.loop.now + seconds, self._world.loop.world, self._world.resume, process.name)

    def heal(self) -> None:
        """No more faults, and no more transactions."""
        self._stopped = True
        self._pauses.clear()
        for server in self.servers.values():
            server.disarm()
        for name in (*self.servers, *self.programs, *self.resolvers):
            self.resume(name)
            self.start_process(name)
            if name not in self.servers:
                self._world.set_clock(name, 0)

    def _unlisted(self, server: SimServer, gid: str) -> None:
        """MariaDB has lost sight of a branch: an operator restarts it, as the record of the damage advises."""
        self.effects.on_unlisted(server, gid)
        self._at(self._world.loop.now + _RESTART_S * (0.5 + self._rng.random()), self._restart, server.name)

    def _restart(self, name: str) -> None:
        self.kill(name)
        self._at(self._world.loop.now + 0.2, self.start_process, name)

    # -- the end --------------------------------------------------------------------------------------------------

    @property
    def stopped(self) -> bool:
        """Whether no more transactions begin."""
        return self._stopped

    def unsettled(self) -> str:
        """What is not settled yet, or ""."""
        for server in self.servers.values():
            if not server.runs:
                return f"{server.name} does not run"
            for gid in server.prepared:
                if self.effects.is_ours(gid):
                    return f"{gid} is prepared at {server.name}"
        return ""

    def audit(self) -> None:
        """Whether everything adds up."""
        for server in self.servers.values():
            left = [gid for gid in server.prepared if not self.effects.is_ours(gid)]
            self._invariants.must(len(left) == len(FOREIGN), "foreign", f"{server.name} holds {left} of other clusters")
        total = sum(server.amount for server in self.servers.values())
        self._invariants.must(total == 0, "together", f"the databases hold {total}, and had 0")

    def aborted(self, txid: TxId) -> None:
        """A program was told Aborted."""
        self.effects.aborted(txid)

    def read(self, txid: TxId) -> None:
        """A program has read that txid: the ledger must know it if it commits."""
        self.effects.read.add(txid)

    def counted(self, program: str, txid: TxId, outcome: str) -> None:
        """That is how a transaction ended for its program."""
        self.effects.log(program, f"its transaction ends: {outcome}", txid)
        self.outcomes[f"block {outcome}"] = self.outcomes.get(f"block {outcome}", 0) + 1

    @property
    def states(self) -> dict[str, int]:
        """What was reached."""
        return {
            "branches committed by a resolver": self.effects.by_resolver[Verdict.COMMIT],
            "branches rolled back by a resolver": self.effects.by_resolver[Verdict.ABORT],
            "branches that MariaDB lost sight of": len(self.effects.unlisted),
        }


def _config(server: SimServer) -> ResourceConfig:
    return ResourceConfig(Branch(server.name), f"{server.kind}://app@{server.name}/{server.name}")
