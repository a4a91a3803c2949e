"""What the connections of one port may take together: places, bytes and time.

    places   when all are taken, the one goes that has waited longest to say hello; else the quietest of those that may go
    bytes    of incomplete frames, and of answers that nobody reads: the connection goes that has held them for longest
    time     half a frame, an unread answer, and silence (the library's own end pings) end after their bounds

A client that keeps the rules notices nothing: a frame takes milliseconds to arrive, and a client whose quiet connection was
closed dials again with its next request.
"""

from __future__ import annotations

import asyncio
import heapq
from typing import Final

from raftcoord.foreign import Rationed
from raftcoord.limits import ConnectionBounds
from raftcoord.rpc.connection import Connection

_CANDIDATES: Final = 64
"""Quiet connections that are looked for at a time: to look at all of them for each newcomer would be work for strangers."""


class Census:
    """The connections of one port, which it reads and the server keeps."""

    def __init__(self, connections: dict[Connection, None], rationed: Rationed, bounds: ConnectionBounds) -> None:
        self._connections = connections
        self._bounds = bounds
        self._log = rationed
        self._strangers: dict[Connection, None] = {}  # who has not said hello, the oldest first
        self._quiet: list[Connection] = []  # who may go, the quietest last, as of when it was looked
        self._half: dict[
            Connection, tuple[int, int]
        ] = {}  # (bytes, number) of an incomplete frame that counts, the oldest first
        self._half_total = 0
        self._unread: dict[Connection, float] = {}  # since when too much waits for it, the longest first
        self._since: dict[
            Connection, tuple[int, float]
        ] = {}  # (number of the frame, since which sweep a part of it is held)

    def came(self, conn: Connection) -> None:
        """A connection was accepted."""
        self._strangers[conn] = None

    def greeted(self, conn: Connection) -> None:
        """Its hello is done."""
        self._strangers.pop(conn, None)

    def ended(self, conn: Connection) -> None:
        """It is gone."""
        self._strangers.pop(conn, None)
        self._unread.pop(conn, None)
        self._since.pop(conn, None)
        self.holds(conn, 0)

    # -- places ---------------------------------------------------------------------------------------------------

    def make_room(self) -> bool:
        """Close the connection that can best be spared; whether there was one."""
        while self._strangers:
            conn = next(iter(self._strangers))
            del self._strangers[conn]
            if not conn.closed:
                self._spare(conn, "it has not said hello, and others wait for a place")
                return True
        quietest = self._quietest()
        if quietest is not None:
            self._spare(quietest, "it is the quietest, and others wait for a place; dial again")
        return quietest is not None

    def _quietest(self) -> Connection | None:
        while True:
            while self._quiet:
                conn = self._quiet.pop()
                if _may_go(conn):
                    return conn
            found = heapq.nsmallest(_CANDIDATES, filter(_may_go, self._connections), key=lambda conn: conn.heard_at)
            if not found:
                return None
            self._quiet = found[::-1]

    def _spare(self, conn: Connection, why: str) -> None:
        self._log.warning("%s: closed the connection of %s: %s", conn.label, conn.peername, why)
        conn.close(why)

    # -- bytes ----------------------------------------------------------------------------------------------------

    def holds(self, conn: Connection, half: int) -> None:
        """So many bytes of an incomplete frame are held; 0 for so few that they do not count."""
        before, number = self._half.get(conn, (0, -1))
        self._half_total += half - before
        if (
            not half or number != conn.intake.frames_read
        ):  # another frame takes the last place, the same one keeps its own
            self._half.pop(conn, None)
        if half:
            self._half[conn] = (half, conn.intake.frames_read)
        while self._half_total > self._bounds.half_frames_bytes_max:
            slowest = next(iter(self._half))
            self.holds(slowest, 0)
            slowest.fault(f"all incomplete frames together have more than {self._bounds.half_frames_bytes_max} bytes")

    def is_unread(self, conn: Connection) -> None:
        """More than ``write_buffer_pause_bytes`` wait for its reader."""
        self._unread.setdefault(conn, asyncio.get_running_loop().time())
        waiting = sum(other.unsent_bytes for other in self._unread)
        if waiting > self._bounds.unsent_bytes_max:
            longest = next((other for other in self._unread if other.paused), conn)
            del self._unread[longest]
            longest.give_up(f"all unread answers together have more than {self._bounds.unsent_bytes_max} bytes")

    # -- time -----------------------------------------------------------------------------------------------------

    def sweep(self, now: float) -> None:
        """End what takes too long."""
        late = now - self._bounds.frame_ms_max / 1000
        for conn, since in tuple(self._unread.items()):
            if not conn.paused:
                del self._unread[conn]
            elif since < late:
                conn.give_up(f"its reader has not read for {self._bounds.frame_ms_max} ms")
        silent = now - self._bounds.idle_ms_max / 1000
        for conn in tuple(self._connections):
            if conn.closed:
                continue
            if not conn.intake.half_bytes or conn.paused:
                self._since.pop(conn, None)
            else:
                self._watch_half(conn, now, late)
            if conn.heard_at < silent and conn.greeted:
                self._log.info(
                    "%s: closed the connection of %s: silent for %d ms",
                    conn.label,
                    conn.peername,
                    self._bounds.idle_ms_max,
                )
                conn.close(f"silent for {self._bounds.idle_ms_max} ms; dial again")

    def _watch_half(self, conn: Connection, now: float, late: float) -> None:
        number, since = self._since.get(conn, (-1, now))
        if number != conn.intake.frames_read:
            self._since[conn] = (conn.intake.frames_read, now)
        elif since < late:
            conn.fault(
                f"a frame has been incomplete for {self._bounds.frame_ms_max} ms, after {conn.intake.half_bytes} bytes of it"
            )


def _may_go(conn: Connection) -> bool:
    return conn.expendable and not conn.closed and conn.open_requests == 0
