"""Both ends of connections, on real sockets: a handler that records, a server with it, and a socket that speaks raw bytes."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from raftcoord import limits
from raftcoord.errors import RaftcoordError
from raftcoord.limits import ConnectionBounds
from raftcoord.rpc import dial, frames, server
from raftcoord.rpc.connection import Connection
from raftcoord.rpc.server import Server

FRAME_BYTES_MAX = limits.CLIENT_FRAME_BYTES_MAX


class Recorder:
    """Echoes "echo", keeps "hold" open, raises what ``raises`` says, and writes down everything."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []
        self.held: list[tuple[Connection, int]] = []
        self.raises: Exception | None = None
        self.refuses: RaftcoordError | None = None
        self.in_hello: Callable[[Connection], None] = lambda conn: None
        self.conns: list[Connection] = []

    def on_open(self, conn: Connection) -> None:
        self.events.append(("open",))
        self.conns.append(conn)

    def on_hello(self, conn: Connection, role: str, details: dict[str, Any]) -> dict[str, Any]:
        self.events.append(("hello", role, details))
        if self.refuses is not None:
            raise self.refuses
        self.in_hello(conn)
        return {"node": "n1"}

    def on_request(self, conn: Connection, request_id: int, method: str, params: list[Any]) -> None:
        self.events.append(("request", method, params))
        if self.raises is not None:
            raise self.raises
        if method == "hold":
            self.held.append((conn, request_id))
        else:
            conn.reply(request_id, params)

    def on_notify(self, conn: Connection, method: str, params: list[Any]) -> None:
        self.events.append(("notify", method, params))
        if self.raises is not None:
            raise self.raises

    def on_closed(self, conn: Connection, reason: str) -> None:
        self.events.append(("closed", reason))

    def closings(self) -> list[str]:
        return [event[1] for event in self.events if event[0] == "closed"]


@asynccontextmanager
async def listening(recorder: Recorder, max_frame_bytes: int = FRAME_BYTES_MAX, **bounds: int) -> AsyncIterator[Server]:
    made = ConnectionBounds(**bounds)
    port = await server.listen(
        "127.0.0.1", 0, lambda: recorder, max_frame_bytes=max_frame_bytes, label="test port", bounds=made
    )
    try:
        yield port
    finally:
        port.close()
        await port.wait_closed()


async def dialed(port: int, handler: Any = None, max_frame_bytes: int = FRAME_BYTES_MAX, **bounds: int) -> Connection:
    conn, _ = await dial.connect(
        "127.0.0.1",
        port,
        handler or Recorder(),
        role="client",
        details={"name": "t"},
        max_frame_bytes=max_frame_bytes,
        label="test link",
        timeout=5.0,
        bounds=ConnectionBounds(**bounds),
    )
    return conn


class RawEnd:
    """A socket whose owner writes whatever bytes he likes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def open(cls, port: int) -> "RawEnd":
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def send(self, *parts: bytes) -> None:
        self.writer.write(b"".join(parts))
        await self.writer.drain()

    async def hello(self) -> None:
        await self.send(framed((0, 1, "hello", [1, "client", {}])))
        assert (await self.message())[1] == 1

    async def message(self) -> list[Any]:
        length = int.from_bytes(await self.reader.readexactly(4), "big")
        return frames.decode(await self.reader.readexactly(length))

    async def rest(self) -> bytes:
        """All that is sent until the other end closes."""
        try:
            return await asyncio.wait_for(self.reader.read(), 5)
        except ConnectionResetError:
            return b""

    def end_of_sending(self) -> None:
        self.writer.get_extra_info("socket").shutdown(socket.SHUT_WR)

    async def close(self) -> None:
        self.writer.close()
        with suppress(ConnectionError):
            await self.writer.wait_closed()


def framed(message: Any) -> bytes:
    return frames.encode(message, frames.packer(), 1 << 30)


def body(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


async def until(condition: Callable[[], object], what: str = "the condition") -> None:
    """Pass the loop until ``condition`` holds, for at most 5 s."""
    deadline = asyncio.get_running_loop().time() + 5
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, f"{what} did not come about within 5 s"
        await asyncio.sleep(0.001)
