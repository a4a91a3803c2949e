"""A simulated network of stream connections.

What a real one guarantees, it guarantees: bytes of one connection arrive in order, once, or the connection breaks. What a real
one does, it does: it delays, holds back (``clog``) in one direction or both, and breaks connections with whatever was in
flight. Everything else about the rooms above is real: frames, hellos, redialing.

A machine is named as its process is, and outlives it: a killed process's connections are reset, at once by its machine, or,
when the machine lost its power, only when it is back.
"""

from __future__ import annotations

import asyncio
import errno
import os
import random
import zlib
from collections import Counter, deque
from collections.abc import Callable
from typing import Any, Final

from raftcoord.sim.loop import Process, SimLoop

LATENCY_S_MIN: Final = 0.0001
KEEPALIVE_S: Final = 25.0
"""After how long the kernel notices that the other machine is gone without a word (s)."""


class Pipe:
    """One direction of one connection. ``held``: what a clogged link keeps back."""

    __slots__ = ("dst", "held", "held_bytes", "last_at", "src")

    def __init__(self, src: str, dst: str) -> None:
        self.src = src
        self.dst = dst
        self.held: deque[tuple[End, bytes | None]] = deque()
        self.held_bytes = 0
        self.last_at = 0.0


class End(asyncio.Transport):
    """One end of a connection, as asyncio's transport of the process that has it."""

    def __init__(self, network: Network, process: Process, address: tuple[str, int], role: str) -> None:
        super().__init__()
        self.process = process
        self.role = role
        """"dialed" or "accepted", and the port's number."""
        self.other: End
        self.out: Pipe
        self.protocol: asyncio.Protocol | None = None
        self.gone = False
        """Whether this end neither sends nor receives any more."""
        self._network = network
        self._address = address
        self._closing = False
        self._high = 1 << 16
        self._paused = False
        self._early: list[bytes | None] = []
        self._unread: list[bytes | None] | None = None  # what came while nobody reads

    # -- what the protocol calls -------------------------------------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Part of asyncio."""
        if not self._closing and self.process.alive:
            self._network.written(self, bytes(data))

    def close(self) -> None:
        """Part of asyncio."""
        if not self._closing and self.process.alive:
            self._closing = True
            self._network.send(self, None)
            self.process.call(self.lost, None)

    def abort(self) -> None:
        """Part of asyncio."""
        if not self.gone and self.process.alive:
            self._closing = True
            self._network.break_connection(self)

    def is_closing(self) -> bool:
        """Part of asyncio."""
        return self._closing

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Part of asyncio."""
        return self._address if name == "peername" else default

    def get_write_buffer_size(self) -> int:
        """Part of asyncio."""
        return self.out.held_bytes

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Part of asyncio."""
        self._high = high or self._high

    def pause_reading(self) -> None:
        """Part of asyncio."""
        self._unread = []

    def resume_reading(self) -> None:
        """Part of asyncio."""
        unread, self._unread = self._unread or [], None
        for data in unread:
            self.process.call(self.received, data)

    # -- what the network calls ----------------------------------------------------------------------------------------

    def received(self, data: bytes | None) -> None:
        """In this end's process: data, or the end of it (None)."""
        if self.gone or self._closing:
            return
        if self.protocol is None:
            self._early.append(data)
        elif self._unread is not None:
            self._unread.append(data)
        elif data is not None:
            self.protocol.data_received(data)
        elif not self.protocol.eof_received():
            self.close()

    def connected(self, protocol: asyncio.Protocol) -> None:
        """In this end's process: the connection is there; what came before is told now."""
        self.protocol = protocol
        protocol.connection_made(self)
        for data in self._early:
            self.received(data)

    def lost(self, error: Exception | None) -> None:
        """In this end's process: the connection has ended."""
        if not self.gone:
            self.gone = self._closing = True
            self._network.forget(self)
            if self.protocol is not None:
                self.protocol.connection_lost(error)

    def press(self) -> None:
        """Tell the protocol whether too much waits unsent."""
        if self.gone or self.protocol is None:
            return
        if not self._paused and self.out.held_bytes > self._high:
            self._paused = True
            self.protocol.pause_writing()
        elif self._paused and not self.out.held_bytes:
            self._paused = False
            self.protocol.resume_writing()


class Listener:
    """A port that listens; stands for asyncio.Server."""

    def __init__(
        self, network: Network, process: Process, address: tuple[str, int], factory: Callable[[], Any]
    ) -> None:
        self.process = process
        self.factory = factory
        self.sockets = (self,)
        self._network = network
        self._address = address

    def getsockname(self) -> tuple[str, int]:
        """Stands for the socket's."""
        return self._address

    async def start_serving(self) -> None:
        """Part of asyncio: it does already."""

    def close(self) -> None:
        """Part of asyncio."""
        if self._network.listeners.get(self._address) is self:
            del self._network.listeners[self._address]


class Network:
    """All links. ``rng``: for delays; ``latency_s``: the usual delay of a link; ``jitter_s``: what is added by chance."""

    def __init__(
        self, loop: SimLoop, rng: random.Random, *, latency_s: float = 0.0005, jitter_s: float = 0.001
    ) -> None:
        self.listeners: dict[tuple[str, int], Listener] = {}
        self.ends: dict[End, None] = {}
        """Every end that is not gone."""
        self.dark: set[str] = set()
        """Machines without power: they answer nothing, not even with a reset."""
        self.digest = 0
        """A checksum of everything that was delivered, and when: the trace."""
        self.on_write: Callable[[End, bytes], None] = lambda end, data: None
        """Told before data goes out of a living process. It may kill it."""
        self.after_write: Callable[[End, bytes], None] = lambda end, data: None
        self.latency_s = latency_s
        self.jitter_s = jitter_s
        self._loop = loop
        self._rng = rng
        self._clogged: Counter[tuple[str, str]] = Counter()  # by how many a link is held back
        self._waiting: dict[tuple[str, str], list[Pipe]] = {}
        self._syns: dict[tuple[str, str], list[Callable[[], None]]] = {}
        loop.network = self

    # -- connecting ----------------------------------------------------------------------------------------------------

    def listen(self, process: Process, factory: Callable[[], Any], host: str, port: int) -> Listener:
        """A port of ``process``. OSError if it is taken by a living one."""
        address = (host, port)
        held = self.listeners.get(address)
        if held is not None and held.process.alive:
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
        self.listeners[address] = Listener(self, process, address, factory)
        return self.listeners[address]

    async def connect(self, process: Process, factory: Callable[[], Any], host: str, port: int) -> tuple[End, Any]:
        """A connection of ``process`` to that port; as asyncio's create_connection."""
        future: asyncio.Future[tuple[End, Any]] = self._loop.create_future()
        machine = self.machine_of(host, port)
        self._carry(process.name, machine, lambda: self._arrive(process, future, factory, (host, port), machine))
        return await future

    def machine_of(self, host: str, port: int) -> str:
        """The machine behind an address: who listens, or listened last."""
        listener = self.listeners.get((host, port))
        return listener.process.name if listener is not None else f"{host}:{port}"

    def _arrive(
        self, process: Process, future: asyncio.Future[Any], factory: Any, address: tuple[str, int], machine: str
    ) -> None:
        if machine in self.dark:
            return
        listener = self.listeners.get(address)
        if listener is None or not listener.process.alive:
            refused = ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
            self._carry(machine, process.name, lambda: process.call(_fail, future, refused))
            return
        there = listener.process
        far = End(self, there, (process.name, 0), f"accepted {address[1]}")
        near = End(self, process, address, f"dialed {address[1]}")
        far.other, near.other = near, far
        far.out, near.out = Pipe(machine, process.name), Pipe(process.name, machine)
        self.ends[far] = self.ends[near] = None

        def accept() -> None:
            far.connected(listener.factory())
            self._carry(machine, process.name, lambda: process.call(connected))

        def connected() -> None:
            if far.gone and near.gone:
                _fail(future, ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET)))
            elif future.done():
                self.break_connection(far)
            else:
                protocol = factory()
                future.set_result((near, protocol))
                near.connected(protocol)

        there.call(accept)

    def _carry(self, src: str, dst: str, what: Callable[[], None]) -> None:
        """A packet of its own, outside of any connection."""
        if (src, dst) in self._clogged:
            self._syns.setdefault((src, dst), []).append(what)
        else:
            self._loop.at(self._loop.now + self._delay(), self._loop.world, what)

    def _delay(self) -> float:
        return LATENCY_S_MIN + self.latency_s * self._rng.random() + self.jitter_s * self._rng.random() ** 8

    # -- data ----------------------------------------------------------------------------------------------------------

    def written(self, end: End, data: bytes) -> None:
        """A process writes."""
        self.on_write(end, data)
        self.send(end, data)
        self.after_write(end, data)

    def send(self, end: End, data: bytes | None) -> None:
        """Put data, or the end of it (None), on its way."""
        pipe = end.out
        if pipe.held or (pipe.src, pipe.dst) in self._clogged:
            if not pipe.held:
                self._waiting.setdefault((pipe.src, pipe.dst), []).append(pipe)
            pipe.held.append((end, data))
            pipe.held_bytes += len(data or b"")
            end.press()
            return
        pipe.last_at = max(pipe.last_at, self._loop.now + self._delay())
        self._loop.at(pipe.last_at, self._loop.world, self._deliver, end.other, data)

    def _deliver(self, end: End, data: bytes | None) -> None:
        if end.gone:
            return
        process = end.process
        if not process.alive:
            if process.name not in self.dark and not end.other.gone:
                self._reset(end.other, 0.0)
            return
        if data is not None:
            self.digest = zlib.crc32(data, self.digest ^ int(self._loop.now * 1e6) & 0xFFFFFFFF)
        process.call(end.received, data)

    # -- faults --------------------------------------------------------------------------------------------------------

    def clog(self, src: str, dst: str) -> None:
        """Hold back everything from ``src`` to ``dst``, in order, until the holder has called ``unclog``."""
        self._clogged[src, dst] += 1

    def unclog(self, src: str, dst: str) -> None:
        """Hold that link no more. When nobody holds it, what was held back passes, piece by piece."""
        if (src, dst) not in self._clogged:
            return
        self._clogged[src, dst] -= 1
        if self._clogged[src, dst]:
            return
        del self._clogged[src, dst]
        for packet in self._syns.pop((src, dst), ()):
            self._carry(src, dst, packet)
        for pipe in self._waiting.pop((src, dst), ()):
            self._drain(pipe)

    def _drain(self, pipe: Pipe) -> None:
        if not pipe.held:
            return
        if (pipe.src, pipe.dst) in self._clogged:
            self._waiting.setdefault((pipe.src, pipe.dst), []).append(pipe)
            return
        end, data = pipe.held.popleft()
        pipe.held_bytes -= len(data or b"")
        if end.process.alive and not end.gone:
            end.process.call(end.press)
        self._deliver(end.other, data)
        self._loop.at(self._loop.now + self._delay(), self._loop.world, self._drain, pipe)

    def unclog_all(self) -> None:
        """Heal every link, also those that somebody holds."""
        for src, dst in sorted(self._clogged):
            self._clogged[src, dst] = 1
            self.unclog(src, dst)

    def break_connection(self, end: End) -> None:
        """Reset the connection that ``end`` belongs to; what is in flight is lost."""
        self._reset(end, 0.0)
        self._reset(end.other, self._delay())

    def _reset(self, end: End, delay_s: float) -> None:
        self.ends.pop(end, None)
        error = ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
        self._loop.at(self._loop.now + delay_s, self._loop.world, end.process.call, end.lost, error)

    def killed(self, process: Process, *, dark: bool) -> None:
        """The process is dead. ``dark``: its machine too, and the other ends do not learn it before it is back."""
        if dark:
            self.dark.add(process.name)
        for end in [end for end in self.ends if end.process is process]:
            if not dark:
                self._hang_up(end)
            else:
                self._loop.at(self._loop.now + KEEPALIVE_S, self._loop.world, self._hang_up, end)

    def lit(self, machine: str) -> None:
        """The machine has power again: an end that still believes in an old connection is reset."""
        self.dark.discard(machine)
        for end in [end for end in self.ends if end.process.name == machine and not end.process.alive]:
            self._loop.at(self._loop.now + 0.2 + self._rng.random() * 0.5, self._loop.world, self._hang_up, end)

    def _hang_up(self, end: End) -> None:
        if end in self.ends and end.process.name not in self.dark:
            end.gone = True
            del self.ends[end]
            if end.other.gone:
                return
            if self._rng.random() < 0.5:  # what it sent before still arrives
                self.send(end, None)
            else:
                self._reset(end.other, self._delay())

    def forget(self, end: End) -> None:
        """That end is gone."""
        self.ends.pop(end, None)


def _fail(future: asyncio.Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
