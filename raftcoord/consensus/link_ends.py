"""The two ends of a link between nodes: the accepting one, which hears, and the dialing one, which only answers.

Owed: nothing is heard from a node before both ends have each other's identity on disk; what is no message ends that connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, Protocol

from raftcoord import limits
from raftcoord.consensus.identity import Introduction
from raftcoord.errors import ConfigError, RaftcoordError, RemoteProtocolError
from raftcoord.rpc.connection import Connection
from raftcoord.types import NodeName

ROLE: Final = "peer"
ALIVE: Final = "alive"
"""What the accepting end may ask: whether the dialing one is still there."""


class Hearers(Protocol):
    """Who hears what comes in: peers.py."""

    def welcome(self, inbound: Inbound, details: dict[str, Any]) -> tuple[Introduction, bool]:
        """The node that dialed, and whether it may be heard. ConfigError or Unavailable if it is refused."""

    def introduce(self, to: NodeName, identity: str = "") -> dict[str, Any]:
        """What this node says in a hello of itself, and of the peer ``to``."""

    def heard(self, inbound: Inbound, rows: list[Any], wall_ms: int) -> None:
        """Messages of that node, not checked yet. RemoteProtocolError for what is none."""

    def copy_step(self, inbound: Inbound, step: str, params: list[Any], reply: Callable[[Any], None]) -> None:
        """A step of a ledger copy."""

    def left(self, inbound: Inbound) -> None:
        """That connection has ended."""


class Inbound:
    """A connection that a peer dialed: we hear it, and answer its ledger copy."""

    def __init__(self, peers: Hearers) -> None:
        self._peers = peers
        self.name = NodeName("")
        self.identity = ""
        self.boot: object = None
        self.asked = False
        """Whether it is being asked whether it is still there."""
        self.is_alive = False
        """Whether it has answered that."""
        self._heard = False
        self._conn: Connection | None = None

    def on_open(self, conn: Connection) -> None:
        """Nothing before the hello."""

    def on_hello(self, conn: Connection, role: str, details: dict[str, Any]) -> dict[str, Any]:
        """Only a node of this cluster comes in here."""
        if role != ROLE:
            raise ConfigError(f"this is the peer port, which is for nodes; a {role[:20]} uses the client port")
        said, self._heard = self._peers.welcome(self, details)
        self.name, self.identity, self._conn = said.name, said.identity, conn
        return self._peers.introduce(said.name, said.identity)

    @property
    def is_open(self) -> bool:
        """Whether nothing has closed this connection."""
        return self._conn is not None and not self._conn.closed

    def fault(self, why: str) -> None:
        """The dialing side broke the rules."""
        if self._conn is not None:
            self._conn.fault(why)

    async def answers(self, within_s: float) -> bool:
        """Whether the dialing side is still there."""
        if self._conn is None:
            return False
        try:
            async with asyncio.timeout(within_s):
                return await self._conn.request(ALIVE, []) is True
        except (TimeoutError, RaftcoordError):
            return False

    def hang_up(self, why: str) -> None:
        """Hear it no more."""
        self._heard = False
        if self._conn is not None:
            self._conn.close(why)

    def on_request(self, conn: Connection, request_id: int, method: str, params: list[Any]) -> None:
        """Steps of a ledger copy."""
        self._must_be_heard()
        if method not in ("copy_begin", "copy_chunk", "copy_end"):
            raise RemoteProtocolError(f"the request {method[:60]!r} on the peer port")
        self._peers.copy_step(self, method, params, lambda ok: None if conn.closed else conn.reply(request_id, ok))

    def on_notify(self, conn: Connection, method: str, params: list[Any]) -> None:
        """Raft messages."""
        self._must_be_heard()
        match method, params:
            case "raft", [list(rows), int(wall_ms)] if type(wall_ms) is int and abs(wall_ms) <= limits.TIME_MS_MAX:
                self._peers.heard(self, rows, wall_ms)
            case _:
                raise RemoteProtocolError(f"a malformed notification {method[:60]!r} on the peer port")

    def on_closed(self, conn: Connection, reason: str) -> None:
        """Nothing is kept."""
        self._peers.left(self)

    def _must_be_heard(self) -> None:
        if not self._heard:
            raise RemoteProtocolError("a message of a peer before both ends have each other's identity on disk")


class Outbound:
    """A connection that we dialed: the other end only answers."""

    def on_open(self, conn: Connection) -> None:
        """The dialer says hello."""

    def on_hello(self, conn: Connection, role: str, details: dict[str, Any]) -> dict[str, Any]:
        """The accepting end says none."""
        raise RemoteProtocolError("a hello from the accepting end")

    def on_request(self, conn: Connection, request_id: int, method: str, params: list[Any]) -> None:
        """The accepting end asks whether this one is still there, and nothing else."""
        if method != ALIVE:
            raise RemoteProtocolError("a request from the accepting end")
        conn.reply(request_id, True)

    def on_notify(self, conn: Connection, method: str, params: list[Any]) -> None:
        """The accepting end tells nothing unasked."""
        raise RemoteProtocolError("a notification from the accepting end")

    def on_closed(self, conn: Connection, reason: str) -> None:
        """The dialer tells the listener."""
