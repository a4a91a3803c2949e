"""Who has to do with a connection besides its two ends: the handler of what comes, and the port that accepted it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from raftcoord.foreign import Rationed
from raftcoord.rpc.codes import RpcError

if TYPE_CHECKING:
    from raftcoord.rpc.connection import Connection

OnReply = Callable[[RpcError | None, Any], None]
"""Called once with (None, result) or (error, None)."""


class Handler(Protocol):
    """What a connection tells its owner. Called in the event loop; what a method raises never ends the loop.

    Before the hello is done only ``on_open``, ``on_hello`` and ``on_closed`` are called.
    """

    def on_open(self, conn: Connection) -> None:
        """The transport is up; nothing may be sent yet."""

    def on_hello(self, conn: Connection, role: str, details: dict[str, Any]) -> dict[str, Any]:
        """Answer the dialer's hello with details of one's own, or raise the RaftcoordError that refuses it.

        Only the accepting end is asked. What this method sends on ``conn`` goes out behind the answer.
        """

    def on_request(self, conn: Connection, request_id: int, method: str, params: list[Any]) -> None:
        """Answer with ``conn.reply`` or ``conn.reply_error``, now or later, once.

        A RaftcoordError raised here is sent as the answer; a RemoteProtocolError ends the connection instead.
        """

    def on_notify(self, conn: Connection, method: str, params: list[Any]) -> None:
        """A RemoteProtocolError raised here ends the connection."""

    def on_closed(self, conn: Connection, reason: str) -> None:
        """Called once if ``on_open`` was, after every open call was answered with ``connection_lost``."""


class Port(Protocol):
    """What a connection tells the port that accepted it."""

    log: Rationed

    def greeted(self, conn: Connection) -> None:
        """Its hello is done."""

    def holds(self, conn: Connection, half: int) -> None:
        """So many bytes of an incomplete frame are held: called for more than HALF_FRAME_BYTES_FREE, and with 0 afterwards."""

    def is_unread(self, conn: Connection) -> None:
        """More than ``write_buffer_pause_bytes`` wait unsent."""
