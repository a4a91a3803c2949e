"""The accepting side: one port, many connections, a handler for each.

Owed: a port that cannot be had is one clear ConfigError; every connection says hello first (hello.py); after ``close`` no
connection is left. Never: a thread, a task per connection.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl as tls
from collections.abc import Callable
from typing import Any

from raftcoord import limits
from raftcoord.errors import ConfigError
from raftcoord.rpc.connection import Connection, Handler, log
from raftcoord.rpc.hello import Door

_BACKLOG = 512


class Server:
    """A port that listens, and its connections. Made by ``listen``."""

    def __init__(self, handler_factory: Callable[[], Handler], max_frame_bytes: int, label: str) -> None:
        self.connections: dict[Connection, None] = {}  # in the order in which they came
        self.port = 0
        self._handler_factory = handler_factory
        self._max_frame_bytes = max_frame_bytes
        self._label = label
        self._listener: asyncio.Server | None = None
        self._emptied: asyncio.Event = asyncio.Event()

    def accept(self) -> Connection:
        """The protocol of a new connection."""
        handler: Handler
        if self._listener is None:
            handler = _TurnedAway("the node stops")
        elif len(self.connections) >= limits.CONNECTIONS_MAX:
            handler = _TurnedAway(f"{limits.CONNECTIONS_MAX} connections are open, the most that one port serves")
        else:
            handler = Door(self._handler_factory())
        conn = Connection(handler, max_frame_bytes=self._max_frame_bytes, label=self._label)
        conn.on_end = self._ended
        self.connections[conn] = None
        return conn

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

    def _ended(self, conn: Connection, _reason: str) -> None:
        self.connections.pop(conn, None)
        if not self.connections:
            self._emptied.set()


class _TurnedAway:
    """The handler of a connection that is closed as soon as it is open."""

    def __init__(self, why: str) -> None:
        self._why = why

    def on_open(self, conn: Connection) -> None:
        log.warning("%s: closed the connection of %s: %s", conn.label, conn.peername, self._why)
        conn.close(self._why)

    def on_hello(self, conn: Connection, role: str, details: dict[str, Any]) -> dict[str, Any]:
        return {}

    def on_request(self, conn: Connection, request_id: int, method: str, params: list[Any]) -> None:
        pass

    def on_notify(self, conn: Connection, method: str, params: list[Any]) -> None:
        pass

    def on_closed(self, conn: Connection, reason: str) -> None:
        pass


async def listen(
    host: str,
    port: int,
    handler_factory: Callable[[], Handler],
    *,
    max_frame_bytes: int,
    label: str,
    ssl: tls.SSLContext | None = None,
) -> Server:
    """Listen on ``host``:``port`` (0: any free one, see ``Server.port``); one handler per connection.

    ``label`` names the port in log lines. Raises ConfigError if the port cannot be had.
    """
    server = Server(handler_factory, max_frame_bytes, label)
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
