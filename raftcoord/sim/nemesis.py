"""Carries out a plan of faults on a world, and heals everything in the end."""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

from raftcoord.sim import membership, operator, strangers, twins
from raftcoord.sim.disk import SimNodeDb, fail_participant, flip_a_stored_bit
from raftcoord.sim.estate import Estate
from raftcoord.sim.faults import OF_DATABASES, Fault
from raftcoord.sim.late_copy import LateCopy
from raftcoord.sim.network import End
from raftcoord.sim.world import World
from raftcoord.storage.node_db import Write

_REPLACE_AFTER_S: Final = 0.3
"""How soon an operator replaces a node whose disk is lost (s)."""

_CODES: Final = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR | (4 << 8), sqlite3.SQLITE_IOERR | (3 << 8))
"""No space; a failed fsync (SQLITE_IOERR_FSYNC); a failed write (SQLITE_IOERR_WRITE)."""


class Nemesis:
    """See the module's head. ``injected`` counts what was really done, by kind."""

    def __init__(self, world: World, plan: Sequence[Fault], estate: Estate | None = None) -> None:
        self.injected: Counter[str] = Counter()
        self._world = world
        self._estate = estate
        self._network = world.network
        self._rng: random.Random
        self._latency_s = (world.network.latency_s, world.network.jitter_s)
        self._healed = False
        self._late: list[LateCopy] = []
        for fault in plan:
            if fault.at == 0.0:  # how the machines are, before anything runs
                self._begin(fault)
            else:
                self._at(fault.at, self._begin, fault)

    def _at(self, when: float, what: Callable[..., None], *args: object) -> None:
        self._world.loop.at(when, self._world.loop.world, what, *args)

    def _begin(self, fault: Fault) -> None:
        if self._healed or (fault.kind in OF_DATABASES and self._estate is None):
            return
        self.injected[fault.kind] += 1
        self._world.log("fault", str(fault))
        if self._estate is not None and fault.kind in OF_DATABASES:
            self._estate.begin(fault)
            return
        self._rng = self._world.rng(f"nemesis {fault}")  # of its own: a plan without another fault does the same here
        self._KINDS[fault.kind](self, fault)

    # -- links ---------------------------------------------------------------------------------------------------------

    def _clog(self, pairs: list[tuple[str, str]], until: float) -> None:
        for pair in pairs:
            self._network.clog(*pair)
            self._at(until + self._rng.random() * 0.1, self._network.unclog, *pair)  # one by one

    def _others(self, name: str) -> list[str]:
        return [other for other in self._world.machines if other != name]

    def _one_way(self, fault: Fault) -> None:
        self._clog([(fault.who[0], fault.who[1])], fault.until)

    def _two_way(self, fault: Fault) -> None:
        a, b = fault.who
        self._clog([(a, b), (b, a)], fault.until)

    def _isolate(self, fault: Fault) -> None:
        name = fault.who[0]
        self._clog([pair for other in self._others(name) for pair in ((name, other), (other, name))], fault.until)

    def _isolate_leader(self, fault: Fault) -> None:
        leaders = [name for name in self._world.nodes if self._leads(name)]
        if leaders:
            name = self._rng.choice(leaders)
            nodes = [other for other in self._world.nodes if other != name]
            others = nodes if self._rng.random() < 0.5 else self._others(name)
            self._clog([pair for other in others for pair in ((name, other), (other, name))], fault.until)

    def _leads(self, name: str) -> bool:
        consensus = self._world.machines[name].consensus
        return consensus is not None and consensus.is_leader

    def _split(self, fault: Fault) -> None:
        rest = [name for name in self._world.nodes if name not in fault.who]
        self._clog([pair for a in fault.who for b in rest for pair in ((a, b), (b, a))], fault.until)

    def _ring(self, fault: Fault) -> None:
        nodes = self._world.nodes
        pairs = [(a, b) for at, a in enumerate(nodes) for b in nodes if b not in (a, nodes[(at + 1) % len(nodes)])]
        self._clog(pairs, fault.until)

    def _break(self, fault: Fault) -> None:
        ends = list(self._network.ends)
        if ends:
            self._network.break_connection(ends[int(fault.value * len(ends))])

    def _slow(self, fault: Fault) -> None:
        self._network.latency_s, self._network.jitter_s = fault.value, fault.value
        self._at(fault.until, self._fast)

    def _fast(self) -> None:
        self._network.latency_s, self._network.jitter_s = self._latency_s

    def _repeat(self, fault: Fault) -> None:
        self._world.mischief.repeat_rate = fault.value
        self._at(fault.until, setattr, self._world.mischief, "repeat_rate", 0.0)

    # -- processes -----------------------------------------------------------------------------------------------------

    def _down(self, name: str, until: float, *, power_cut: bool) -> None:
        if self._world.kill(name, power_cut=power_cut):
            self._at(until, self._world.start, name)

    def _kill(self, fault: Fault) -> None:
        for name in fault.who:
            self._down(name, fault.until + self._rng.random() * 0.3, power_cut=fault.kind.startswith("power"))

    def _late_start(self, fault: Fault) -> None:
        name = fault.who[0]
        self._world.waiting.add(name)
        self._at(fault.until, self._arrives, name)

    def _arrives(self, name: str) -> None:
        self._world.waiting.discard(name)
        self._world.start(name)

    def _storm(self, fault: Fault) -> None:
        for at, name in enumerate(fault.who):
            when = fault.at + at * (fault.until - fault.at) / len(fault.who)
            power_cut = self._rng.random() < 0.3
            back = when + self._rng.uniform(0.002, 0.1)
            self._at(when, lambda name=name, back=back, cut=power_cut: self._down(name, back, power_cut=cut))

    def _crash_at(self, fault: Fault) -> None:
        name = fault.who[0]
        self._world.points.armed[name, fault.label] = (int(fault.value), self._rng.random() < 0.4)
        self._at(fault.until + 0.3, self._disarm, name, fault.label)

    def _disarm(self, name: str, label: str) -> None:
        self._world.points.armed.pop((name, label), None)
        self._world.start(name)

    def _pause(self, fault: Fault) -> None:
        self._world.pause(fault.who[0])
        self._at(fault.until, self._world.resume, fault.who[0])

    def _silent(self, fault: Fault) -> None:
        """A minority stops, every link of it stays up, and meanwhile the clock of the leader is set ahead."""
        for name in fault.who:
            self._pause(fault._replace(who=(name,)))
        leaders = [name for name in self._world.nodes if self._leads(name) and name not in fault.who]
        for name in leaders[:1]:
            ahead_ms = self._rng.randrange(1_000, 200_000_000)
            self._set_ahead(name, ahead_ms)
            self._at(fault.until, self._set_ahead, name, -ahead_ms)

    # -- clocks --------------------------------------------------------------------------------------------------------

    def _drift(self, fault: Fault) -> None:
        for name in (*self._world.nodes, *self._world.serves):
            machine = self._world.machines[name]
            machine.clock_rate = 1.0 + self._rng.uniform(-fault.value, fault.value)
            machine.clock_offset_s = self._rng.uniform(0.0, 1e5)

    def _jump(self, fault: Fault) -> None:
        self._set_ahead(fault.who[0], int(fault.value))
        self._at(fault.until, self._set_ahead, fault.who[0], -int(fault.value))

    def _client_jump(self, fault: Fault) -> None:
        name = self._rng.choice(self._world.clients)
        self._set_ahead(name, int(fault.value))
        self._at(fault.until, self._set_ahead, name, -int(fault.value))

    def _moved_horizon(self, fault: Fault) -> None:
        """And lowered by an operator."""
        for name in [name for name in self._world.nodes if self._leads(name)][:1]:
            operator.move_horizon(self._world, name, int(fault.value))
            self._at(fault.until, self._lower_horizon)

    def _lower_horizon(self) -> None:
        if not self._healed:
            operator.leave_behind(self._world)
        operator.lower_horizon(self._world)

    def _set_ahead(self, name: str, by_ms: int) -> None:
        self._world.set_clock(name, self._world.machines[name].offset_ms + by_ms)

    # -- disks ---------------------------------------------------------------------------------------------------------

    def _slow_disk(self, fault: Fault) -> None:
        runner = self._world.machines[fault.who[0]].runner
        if runner is not None:
            runner.sync_s = fault.value
            self._at(fault.until, setattr, runner, "sync_s", self._world.sync_s)

    def _disk_error(self, fault: Fault) -> None:
        machine = self._world.machines[fault.who[0]]
        if machine.disk is None or not machine.runs:
            return
        code = _CODES[int(fault.value * len(_CODES))]
        rng = self._rng
        left = rng.randrange(4)

        def fail(db: SimNodeDb, write: Write) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                machine.faulty = True
                db.fail(rng, code)

        machine.disk.fault = fail
        self._at(fault.until + 0.2, self._world.start, machine.name)

    def _participant_disk(self, fault: Fault) -> None:
        """Full from time to time, or, once, an error after which nobody knows what was kept."""
        rng, loop = self._rng, self._world.loop
        full, left = fault.value < 0.7, rng.randrange(4)

        def code() -> int:
            nonlocal left
            if self._healed or loop.now >= fault.until or (full and rng.random() < 0.3):
                return sqlite3.SQLITE_OK
            left -= not full
            return sqlite3.SQLITE_FULL if full else sqlite3.SQLITE_IOERR if left == -1 else sqlite3.SQLITE_OK

        for name in (fault.who[0], *self._world.serves):  # the disk of some participants is not simulated
            if fail_participant(self._world.machines[name].participant, code, rng):
                break

    def _flip_bit(self, fault: Fault) -> None:
        name = fault.who[0]
        if self._world.watcher.all_took_part and self._world.kill(name):
            flipped = flip_a_stored_bit(self._world.next_directory(name), self._rng)
            if flipped:
                self._world.log(name, f"its disk flips {flipped}")
                self._world.machines[name].damaged = True
            self._at(fault.until, self._start_damaged, name)

    def _start_damaged(self, name: str) -> None:
        """The operator starts it; it refuses; its directory is moved away, and it is replaced."""
        self._world.start(name)
        if not self._world.machines[name].runs:
            self._wipe_and_replace(name)
        self._world.machines[name].damaged = False

    def _wipe(self, fault: Fault) -> None:
        name = fault.who[0]
        if self._world.watcher.all_took_part and self._world.kill(name):
            self._at(fault.until, self._wipe_and_replace, name)

    def _wipe_and_replace(self, name: str) -> None:
        if self._world.machines[name].runs:  # somebody started it meanwhile
            return
        shutil.rmtree(self._world.next_directory(name), ignore_errors=True)
        # An empty node with a file of other nodes would found a cluster of its own.
        self._world.machines[name].names = None
        self._world.wiped(name)
        self._world.start(name)
        self._at(self._world.loop.now + _REPLACE_AFTER_S + self._rng.random(), membership.replace, self._world, name)

    # -- members --------------------------------------------------------------------------------------------------------

    def _node_remove(self, fault: Fault) -> None:
        """And added again, as a new node."""
        if self._world.watcher.all_took_part:
            membership.leave(self._world, fault.who[0], fault.value)

    def _other_file(self, fault: Fault) -> None:
        """A node is started again with a cluster.yaml that names others."""
        name = fault.who[0]
        machine = self._world.machines[name]
        if name in self._world.changing or not self._world.watcher.all_took_part or not self._world.kill(name):
            return
        machine.names = membership.other_names(self._world.nodes, name, self._rng)
        self._world.start(name)
        self._at(fault.until + 4.0 * self._rng.random(), self._right_file, name)

    def _right_file(self, name: str) -> None:
        machine = self._world.machines[name]
        if machine.names is not None:
            machine.names = None
            self._world.kill(name)
            self._world.start(name)

    # -- copies and strangers ------------------------------------------------------------------------------------------

    def _break_copy(self, fault: Fault) -> None:
        chunks = self._rng.randrange(3)
        before = self._network.on_write

        def cut(end: End, data: bytes) -> None:
            nonlocal chunks
            before(end, data)
            if b"copy_chunk" in data:
                chunks -= 1
                if chunks == -1:
                    self.injected["a copy was cut off"] += 1
                    self._network.break_connection(end)

        self._network.on_write = cut

    def _late_copy(self, fault: Fault) -> None:
        late = LateCopy(self._world, self._rng, fault.until, lambda: self.injected.update(["a copy was late"]))
        self._late.append(late)

    def _flip_copy(self, fault: Fault) -> None:
        self._world.mischief.flip_rate = 0.3
        self._at(fault.until, setattr, self._world.mischief, "flip_rate", 0.0)

    def _stranger(self, fault: Fault) -> None:
        leaders = [name for name in self._world.nodes if self._leads(name)]
        strangers.visit(self._world, leaders[0] if leaders and fault.value < 0.7 else fault.who[0], fault.value)

    def _twin(self, fault: Fault) -> None:
        twins.visit(self._world, fault.who[0], fault.value)

    def _close(self, fault: Fault) -> None:
        twins.close(self._world, fault.who[0], fault.value)

    # -- the end -------------------------------------------------------------------------------------------------------

    def heal(self) -> None:
        """No more faults: every link passes, every process runs, the clocks are right."""
        self._healed = True
        world = self._world
        world.points.armed.clear()
        world.mischief.repeat_rate = world.mischief.flip_rate = 0.0
        for late in self._late:
            late.stop()
        self._network.unclog_all()
        self._fast()
        world.waiting.clear()
        for name in world.clients:
            world.set_clock(name, 0)
        for name in (*world.nodes, *world.serves):
            machine = world.machines[name]
            world.set_clock(name, 0)
            if machine.disk is not None:
                machine.disk.fault = lambda db, write: None
            if machine.runner is not None:
                machine.runner.sync_s = world.sync_s
            world.resume(name)
            self._right_file(name)
            world.start(name)
        if self._estate is not None:
            self._estate.heal()

    _KINDS: Final[dict[str, Callable[[Nemesis, Fault], None]]] = {
        "clog-one-way": _one_way,
        "clog-two-way": _two_way,
        "isolate": _isolate,
        "isolate-leader": _isolate_leader,
        "split": _split,
        "ring": _ring,
        "break": _break,
        "slow": _slow,
        "repeat": _repeat,
        "kill": _kill,
        "power": _kill,
        "outage": _kill,
        "kill-all": _kill,
        "power-all": _kill,
        "late-start": _late_start,
        "storm": _storm,
        "crash-at": _crash_at,
        "pause": _pause,
        "drift": _drift,
        "jump": _jump,
        "slow-disk": _slow_disk,
        "disk-error": _disk_error,
        "participant-disk": _participant_disk,
        "flip-bit": _flip_bit,
        "wipe": _wipe,
        "node-remove": _node_remove,
        "other-file": _other_file,
        "break-copy": _break_copy,
        "flip-copy": _flip_copy,
        "stranger": _stranger,
        "late-copy": _late_copy,
        "client-jump": _client_jump,
        "moved-horizon": _moved_horizon,
        "silent": _silent,
        "twin": _twin,
        "close": _close,
    }
