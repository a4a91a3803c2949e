"""The accepting side: one port, many connections, a handler for each.

Owed: a port that cannot be had is one clear ConfigError; every connection says hello first (hello.py); after ``close`` no
connection is left. Nobody can keep others out: when all connections are taken, one that has not said hello gives way, or one that
may be closed while it is quiet (census.py). Never: a thread, a task or a timer per connection.
"""

from __future__ import annotations

import asyncio
import errno
import resource
import socket
import ssl as tls
from collections.abc import Callable
from typing import Any

from raftcoord.errors import ConfigError
from raftcoord.foreign import Rationed
from raftcoord.limits import ConnectionBounds
from raftcoord.rpc.census import Census
from raftcoord.rpc.connection import Connection, log
from raftcoord.rpc.handler import Handler
from raftcoord.rpc.hello import Door

_BACKLOG = 512
_SWEEP_S = 1.0
"""Seconds between two looks for connections that take too long."""


class Server:
    """A port that listens, and its connections. Made by ``listen``."""

    def __init__(
        self,
        handler_factory: Callable[[], Handler],
        max_frame_bytes: int,
        label: str,
        bounds: ConnectionBounds,
    ) -> None:
        self.connections: dict[Connection, None] = {}  # in the order in which they came
        self.port = 0
        self.log = Rationed(log, asyncio.get_running_loop().time)
        self._handler_factory = handler_factory
        self._max_frame_bytes = max_frame_bytes
        self._label = label
        self._bounds = bounds
        self._connections_max = _affordable(bounds.connections_max)
        self._listener: asyncio.Server | None = None
        self._emptied: asyncio.Event = asyncio.Event()
        self._census = Census(self.connections, self.log, bounds)
        self._sweeping: asyncio.TimerHandle | None = None

    def accept(self) -> Connection:
        """The protocol of a new connection."""
        handler: Handler
        if self._listener is None:  # accepted before the close: it may get no transport, and then nothing ever ends it
            return self._made(_TurnedAway("the node stops", self.log))
        if len(self.connections) >= self._connections_max and not self._census.make_room():
            why = f"{self._connections_max} connections are open and busy, the most that this port serves"
            handler = _TurnedAway(why, self.log)
        else:
            handler = Door(self._handler_factory(), self.log)
        conn = self._made(handler)
        conn.on_end = self._ended
        self.connections[conn] = None
        self._census.came(conn)
        if self._sweeping is None:
            self._sweep()
        return conn

    def _made(self, handler: Handler) -> Connection:
        return Connection(handler, self._bounds, max_frame_bytes=self._max_frame_bytes, label=self._label, port=self)

    def attach(self, listener: asyncio.Server) -> None:
        """The listening socket is there."""
        self._listener = listener
        if listener.sockets:
            self.port = listener.sockets[0].getsockname()[1]

    def close(self, reason: str = "the node stops") -> None:
        """Stop listening and close every connection, sending what is still waiting."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        for conn in tuple(self.connections):
            conn.close(reason)

    async def wait_closed(self) -> None:
        """Wait, after ``close``, until every connection has ended."""
        while self.connections:
            self._emptied.clear()
            await self._emptied.wait()

    def greeted(self, conn: Connection) -> None:
        """Part of Port."""
        self._census.greeted(conn)

    def holds(self, conn: Connection, half: int) -> None:
        """Part of Port."""
        self._census.holds(conn, half)

    def is_unread(self, conn: Connection) -> None:
        """Part of Port."""
        self._census.is_unread(conn)

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        self._census.sweep(loop.time())
        self._sweeping = loop.call_later(_SWEEP_S, self._sweep)

    def _ended(self, conn: Connection, _reason: str) -> None:
        self.connections.pop(conn, None)
        self._census.ended(conn)
        if not self.connections:
            self._emptied.set()
            if self._sweeping is not None:
                self._sweeping.cancel()
                self._sweeping = None


class _TurnedAway:
    """The handler of a connection that is closed as soon as it is open."""

    def __init__(self, why: str, rationed: Rationed) -> None:
        self._why = why
        self._log = rationed

    def on_open(self, conn: Connection) -> None:
        self._log.warning("%s: closed the connection of %s: %s", conn.label, conn.peername, self._why)
        conn.close(self._why)

    def on_hello(self, conn: Connection, role: str, details: dict[str, Any]) -> dict[str, Any]:
        return {}

    def on_request(self, conn: Connection, request_id: int, method: str, params: list[Any]) -> None:
        pass

    def on_notify(self, conn: Connection, method: str, params: list[Any]) -> None:
        pass

    def on_closed(self, conn: Connection, reason: str) -> None:
        pass


def _affordable(connections_max: int) -> int:
    """No more than half of the files that this process may open: each node has two ports, and files besides."""
    return min(connections_max, max(8, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2))


async def listen(
    host: str,
    port: int,
    handler_factory: Callable[[], Handler],
    *,
    max_frame_bytes: int,
    label: str,
    bounds: ConnectionBounds = ConnectionBounds(),
    ssl: tls.SSLContext | None = None,
) -> Server:
    """Listen on ``host``:``port`` (0: any free one, see ``Server.port``); one handler per connection.

    ``label`` names the port in log lines. Raises ConfigError if the port cannot be had.
    """
    server = Server(handler_factory, max_frame_bytes, label, bounds)
    loop = asyncio.get_running_loop()
    try:
        listener = await loop.create_server(
            server.accept, host, port, backlog=_BACKLOG, reuse_address=True, ssl=ssl, start_serving=False
        )
    except OSError as error:
        raise ConfigError(_cannot_listen(host, port, error)) from None
    server.attach(listener)
    await listener.start_serving()
    return server


def _cannot_listen(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"port {host}:{port} is in use by another process; find it with `ss -ltnp 'sport = :{port}'`, "
            "or change the address in cluster.yaml"
        )
    if error.errno == errno.EACCES:
        return f"port {host}:{port} may not be used by this user; choose one above 1023 in cluster.yaml"
    if error.errno == errno.EADDRNOTAVAIL or isinstance(error, socket.gaierror):
        return f"{host!r} is not an address of this machine; change the address {host}:{port} in cluster.yaml"
    return f"cannot listen on {host}:{port}: {error.strerror or error}; change the address in cluster.yaml"
