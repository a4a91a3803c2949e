"""What a connection hears, handled in passes: so much of it in one pass of the event loop, and then it is the others' turn.

Owed: messages are handled in order, each once, until the connection is closed; what is left over is handled in the loop's next
pass. At the accepting end, nothing is handled for a reader that does not read. Never: more bytes taken from the kernel than a
frame and what one read gives.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from raftcoord import limits
from raftcoord.errors import RemoteProtocolError
from raftcoord.rpc.frames import FrameReader
from raftcoord.rpc.handler import Port

if TYPE_CHECKING:
    from raftcoord.rpc.connection import Connection

_UNREAD_BYTES_MAX: Final = 64 << 10
"""Bytes that are taken from the kernel ahead of what is handled."""


class Intake:
    """Between the transport of ``conn`` and ``conn.receive``."""

    __slots__ = ("_conn", "_deaf", "_is_counted", "_loop", "_port", "_reader", "_transport", "behind")

    def __init__(self, conn: Connection, reader: FrameReader, port: Port | None) -> None:
        self._conn = conn
        self._reader = reader
        self._port = port
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._deaf = False
        self._is_counted = False
        self.behind = False
        """Whether what has arrived is handled in a later pass."""

    @property
    def half_bytes(self) -> int:
        """Bytes that were heard and not handled."""
        return self._reader.held_bytes

    @property
    def frames_read(self) -> int:
        """How many frames have arrived whole and were handled."""
        return self._reader.given

    def take(self, data: bytes, transport: asyncio.Transport | None) -> None:
        """Bytes have arrived."""
        self._transport = transport
        self._reader.feed(data)
        if not self.behind:
            self._read()
        elif self._reader.held_bytes > _UNREAD_BYTES_MAX:
            self._hear(False)

    def resume(self) -> None:
        """The other end has read what was sent."""
        if self.behind and self._port is not None:
            self._loop.call_soon(self._read)

    def forget(self) -> None:
        """The connection has ended: free what it held now, and not when its garbage is collected."""
        self._reader.forget()
        self._transport = None

    def _read(self) -> None:
        self.behind = False
        conn, reader = self._conn, self._reader
        room = conn.bounds.pass_cost_max
        while not conn.closed:
            if conn.paused and self._port is not None:  # until ``resume``
                self.behind = True
                return
            if room <= 0:
                self.behind = True
                self._loop.call_soon(self._read)
                return
            message = reader.next()
            if message is None:
                self._all_read()
                return
            room -= reader.cost
            try:
                conn.receive(message)
            except RemoteProtocolError as error:
                conn.fault(str(error))

    def _all_read(self) -> None:
        if self._reader.fault:
            self._conn.fault(self._reader.fault)
            return
        self._hear(True)
        half = self._reader.held_bytes
        if self._port is not None and (half > limits.HALF_FRAME_BYTES_FREE or self._is_counted):
            self._is_counted = half > limits.HALF_FRAME_BYTES_FREE
            self._port.holds(self._conn, half if self._is_counted else 0)

    def _hear(self, hear: bool) -> None:
        """Go on reading what comes, or leave it to the kernel."""
        if hear is self._deaf and self._transport is not None and not self._transport.is_closing():
            self._deaf = not hear
            if hear:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()
