"""An event loop whose connections lead to servers in the same loop, and whose time passes when nothing is left to do.

What is written arrives in the pieces in which it was written, so that a test decides where a stream is cut; and a wait of
five seconds costs nothing. What the product leaves to the loop's exception handler - a bug - is kept in ``unseen``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor, Future
from typing import Any

PATIENCE_S = 3600.0


class MemoryLoop(asyncio.SelectorEventLoop):
    """See the module's head."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 1000.0
        self._listening: dict[int, Callable[[], asyncio.Protocol]] = {}
        self._ready_now = self._selector.select
        self._selector.select = self._pass_time
        self.unseen: list[dict[str, Any]] = []
        self.set_exception_handler(lambda _, context: self.unseen.append(context))

    def time(self) -> float:
        return self._now

    def _pass_time(self, timeout: float | None = None) -> list[Any]:
        events = self._ready_now(0)
        if not events:
            assert timeout is not None, "everybody waits, and nothing will happen"
            self._now += timeout
        return events

    async def create_server(self, protocol_factory: Any, host: Any = None, port: Any = None, **_: Any) -> Any:
        listener = _Listener(self._listening, port or 40_000 + len(self._listening))
        self._listening[listener.port] = protocol_factory
        return listener

    async def create_connection(self, protocol_factory: Any, host: Any = None, port: Any = None, **_: Any) -> Any:
        if port not in self._listening:
            raise ConnectionRefusedError(111, "Connection refused")
        dialing = Transport(self, protocol_factory())
        accepting = Transport(self, self._listening[port]())
        dialing.other, accepting.other = accepting, dialing
        for end in (accepting, dialing):
            end.protocol.connection_made(end)
        return dialing, dialing.protocol


class _Listener:
    def __init__(self, listening: dict[int, Any], port: int) -> None:
        self._listening = listening
        self.port = port
        self.sockets = [self]

    def getsockname(self) -> tuple[str, int]:
        return "memory", self.port

    async def start_serving(self) -> None:
        pass

    def close(self) -> None:
        self._listening.pop(self.port, None)


class Transport(asyncio.Transport):
    """One end of a connection. What is written arrives at the other end in the loop's next pass, in order."""

    other: Transport

    def __init__(self, loop: MemoryLoop, protocol: Any) -> None:
        super().__init__()
        self._loop = loop
        self.protocol = protocol
        self._closing = False
        self._lost = False
        self._unread: list[Any] | None = None

    def pause_reading(self) -> None:
        self._unread = []

    def resume_reading(self) -> None:
        unread, self._unread = self._unread or [], None
        for told, *arguments in unread:
            self._loop.call_soon(told, *arguments)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("memory", 1) if name == "peername" else default

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self._closing

    def write(self, data: Any) -> None:
        if not self._closing:
            self._loop.call_soon(self.other._arrive, bytes(data))

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self._loop.call_soon(self.other._end)
            self._loop.call_soon(self._lose)

    def abort(self) -> None:
        self.close()

    def _arrive(self, data: bytes) -> None:
        if self._unread is not None:
            self._unread.append((self._arrive, data))
        elif not self._closing:
            self.protocol.data_received(data)

    def _end(self) -> None:
        if self._unread is not None:
            self._unread.append((self._end,))
        elif not self._closing:
            self.protocol.eof_received()
            self.close()

    def _lose(self) -> None:
        if not self._lost:
            self._lost = True
            self.protocol.connection_lost(None)


class Raw(asyncio.Protocol):
    """An end that writes and hears bytes."""

    def __init__(self) -> None:
        self.heard = bytearray()
        self.ended = asyncio.Event()
        self.on_data: Callable[[Raw], None] = lambda _: None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.heard += data
        self.on_data(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended.set()

    def write(self, *parts: bytes) -> None:
        for part in parts:
            self.transport.write(part)

    def close(self) -> None:
        self.transport.close()


class Here(Executor):
    """Runs at once, in the caller's thread."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:
            future.set_exception(error)
        return future


def run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run ``work()`` in a MemoryLoop; nothing may be left to the loop's exception handler."""
    loop = MemoryLoop()

    async def in_time() -> None:
        async with asyncio.timeout(PATIENCE_S):
            await work()

    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(in_time())
        for _ in range(3):
            runner.run(asyncio.sleep(0))
    assert not loop.unseen, loop.unseen
