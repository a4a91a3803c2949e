"""The hello: the first message on every connection, and nothing before it.

    dialer    request "hello" [version, role, details]
    acceptor  reply [version, details], or an error and the end of the connection

Owed: a handler behind this door sees no message before its hello is done, at either end; an end of another version is told
so in words; a connection that says nothing is closed after ``ConnectionBounds.hello_ms_max``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from raftcoord.errors import RaftcoordError, RemoteProtocolError, Unavailable
from raftcoord.foreign import Rationed
from raftcoord.rpc import codes
from raftcoord.rpc.codes import RpcError
from raftcoord.rpc.connection import Connection
from raftcoord.rpc.handler import Handler

PROTOCOL_VERSION: Final = 1

_METHOD: Final = "hello"


class Door:
    """The acceptor's end: a Handler that gives way to ``handler`` once the hello is done."""

    def __init__(self, handler: Handler, rationed: Rationed) -> None:
        self._handler = handler
        self._log = rationed
        self._timer: asyncio.TimerHandle | None = None

    def on_open(self, conn: Connection) -> None:
        """Wait for the hello, not for ever."""
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(conn.bounds.hello_ms_max / 1000, self._too_late, conn)
        self._handler.on_open(conn)

    def on_request(self, conn: Connection, request_id: int, method: str, params: list[Any]) -> None:
        """Only a hello opens the door."""
        if method != _METHOD:
            raise RemoteProtocolError(f"the request {method[:60]!r} before the hello")
        match params:
            case [int(version), *_] if version != PROTOCOL_VERSION:
                self._refuse(conn, request_id, RpcError(codes.WRONG_VERSION, _versions("this node", version)))
            case [int(), str(role), dict(details)]:
                self._admit(conn, request_id, role, details)
            case _:
                raise RemoteProtocolError("a malformed hello")

    def on_hello(self, conn: Connection, role: str, details: dict[str, Any]) -> dict[str, Any]:
        """The handler's to answer."""
        return self._handler.on_hello(conn, role, details)

    def on_notify(self, conn: Connection, method: str, params: list[Any]) -> None:
        """Nothing is heard before the hello."""
        raise RemoteProtocolError(f"the notification {method[:60]!r} before the hello")

    def on_closed(self, conn: Connection, reason: str) -> None:
        """The handler is told, because it was told of the opening."""
        self._stop_waiting()
        self._handler.on_closed(conn, reason)

    def _admit(self, conn: Connection, request_id: int, role: str, details: dict[str, Any]) -> None:
        try:
            conn.greet(request_id, lambda: [PROTOCOL_VERSION, self._handler.on_hello(conn, role, details)])
        except RaftcoordError as error:
            self._refuse(conn, request_id, error)
            return
        self._stop_waiting()
        conn.introduced(self._handler)

    def _refuse(self, conn: Connection, request_id: int, error: RaftcoordError) -> None:
        # Who comes before a new cluster is founded comes again in a moment: nothing is wrong.
        write = self._log.info if isinstance(error, Unavailable) else self._log.warning
        write("%s: refused the hello of %s: %s", conn.label, conn.peername, error)
        conn.reply_failure(request_id, error)
        conn.close(str(error))

    def _too_late(self, conn: Connection) -> None:
        self._log.warning(
            "%s: closed the connection of %s: no hello for %d ms", conn.label, conn.peername, conn.bounds.hello_ms_max
        )
        conn.close(f"no hello for {conn.bounds.hello_ms_max} ms")

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


class HelloSender:
    """The dialer's end: a Handler that says hello and gives way to ``handler`` once it is answered.

    ``on_up(conn, details)`` is called at that moment, before any other message; ``on_refused(error)`` instead if the hello
    was refused or lost, and then the connection is closed.
    """

    def __init__(
        self,
        handler: Handler,
        role: str,
        details: dict[str, Any],
        on_up: Callable[[Connection, dict[str, Any]], None],
        on_refused: Callable[[RaftcoordError], None],
    ) -> None:
        self._handler = handler
        self._hello = (PROTOCOL_VERSION, role, details)
        self._on_up = on_up
        self._on_refused = on_refused

    def on_open(self, conn: Connection) -> None:
        """Say hello."""
        self._handler.on_open(conn)
        conn.call(_METHOD, self._hello, lambda error, result: self._answered(conn, error, result))

    def on_hello(self, conn: Connection, role: str, details: dict[str, Any]) -> dict[str, Any]:
        """A dialer is not asked."""
        raise RemoteProtocolError("a hello from the end that was dialed")

    def on_request(self, conn: Connection, request_id: int, method: str, params: list[Any]) -> None:
        """Nothing is heard before the hello is answered."""
        raise RemoteProtocolError(f"the request {method[:60]!r} before the answer to the hello")

    def on_notify(self, conn: Connection, method: str, params: list[Any]) -> None:
        """Nothing is heard before the hello is answered."""
        raise RemoteProtocolError(f"the notification {method[:60]!r} before the answer to the hello")

    def on_closed(self, conn: Connection, reason: str) -> None:
        """The handler is told, because it was told of the opening."""
        self._handler.on_closed(conn, reason)

    def _answered(self, conn: Connection, error: RpcError | None, result: Any) -> None:
        if error is not None:
            conn.close(error.message)
            self._on_refused(error)
            return
        match result:
            case [int(version), dict(details)] if version == PROTOCOL_VERSION:
                conn.introduced(self._handler)
                self._on_up(conn, details)
            case [int(version), *_] if version != PROTOCOL_VERSION:
                self._misunderstood(conn, _versions("this end", version))
            case _:
                self._misunderstood(conn, "a malformed answer to the hello")

    def _misunderstood(self, conn: Connection, why: str) -> None:
        conn.close(why)
        self._on_refused(RemoteProtocolError(f"{conn.peername}: {why}"))


def _versions(here: str, there: int) -> str:
    return (
        f"{here} speaks version {PROTOCOL_VERSION} of the protocol, the other end speaks {there}; "
        "use the same raftcoord release on both"
    )
