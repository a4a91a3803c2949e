"""The participants that are connected to a node: who of them is asked."""

from __future__ import annotations

import asyncio
from typing import Any

from raftcoord import limits
from raftcoord.limits import NodeBounds
from raftcoord.node.port_rpc import RpcEndpoint
from raftcoord.node.sessions import ParticipantSession, Sessions
from raftcoord.rpc.connection import Connection


class Handler:
    """Of connections over which nothing comes in."""

    def on_open(self, conn: Connection) -> None: ...

    def on_hello(self, conn: Connection, role: str, details: dict[str, Any]) -> dict[str, Any]:
        return {}

    def on_request(self, conn: Connection, request_id: int, method: str, params: list[Any]) -> None: ...

    def on_notify(self, conn: Connection, method: str, params: list[Any]) -> None: ...

    def on_closed(self, conn: Connection, reason: str) -> None: ...


def connected(sessions: Sessions, instance: str) -> ParticipantSession:
    conn = Connection(Handler(), limits.ConnectionBounds(), max_frame_bytes=limits.CLIENT_FRAME_BYTES_MAX, label="test")
    return sessions.add("bank", instance, RpcEndpoint(conn, NodeBounds.prepares_open_max))


def test_a_session_that_is_closing_is_not_picked() -> None:
    """Its end is told in a later pass of the loop: until then it is still in the table."""

    async def main() -> None:
        sessions = Sessions()
        one = connected(sessions, "1")
        assert sessions.pick("bank") is one
        one.endpoint.close("it sent garbage")
        assert sessions.pick("bank") is None
        two = connected(sessions, "2")
        assert sessions.pick("bank") is two

    asyncio.run(main())
