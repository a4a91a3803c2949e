"""A worker's link to one node: dial it, and turn what it asks into requests.

It owes the worker well-formed requests of a node of the right cluster, and the node an answer to each. What arrives before
the worker has admitted the node is held back. It never runs a request and never looks at a payload.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from raftcoord import limits
from raftcoord.config import Address
from raftcoord.env import Env
from raftcoord.errors import LocalProtocolError, RaftcoordError
from raftcoord.participants.interface import Abort, AlreadyCommitted, Commit, NotPrepared, Prepare, Reply, Request
from raftcoord.rpc.connection import Connection
from raftcoord.rpc.dial import Dialer
from raftcoord.types import TxId, Vote

NOT_PREPARED = "not_prepared"
ALREADY_COMMITTED = "already_committed"


class Arrival:
    """A request of a node and the way back. ``conn`` None: the worker's own, nobody waits for the answer."""

    __slots__ = ("conn", "number", "request")

    def __init__(self, request: Request, conn: Connection | None = None, number: int = 0) -> None:
        self.request = request
        self.conn = conn
        self.number = number

    @property
    def is_unheard(self) -> bool:
        """Whether it is a prepare whose vote nobody would hear. An outcome is worth knowing in any case."""
        return self.conn is not None and self.conn.closed and isinstance(self.request, Prepare)

    def answer(self, reply: Reply) -> None:
        """Send the reply, if the connection that asked is still there."""
        conn = self.conn
        if conn is None or conn.closed:
            return
        match reply:
            case Vote(kind, reason):
                conn.reply(self.number, [int(kind), reason])
            case None:
                conn.reply(self.number, True)
            case NotPrepared():
                conn.reply_error(self.number, NOT_PREPARED, str(reply))
            case AlreadyCommitted():
                conn.reply_error(self.number, ALREADY_COMMITTED, str(reply))
            case RaftcoordError():
                conn.reply_failure(self.number, reply)


class LinkOwner(Protocol):
    """What a link tells its worker."""

    def connected(self, link: WorkerLink, conn: Connection, cluster: str, cluster_name: str) -> None:
        """A hello was answered on ``conn``; ``link.admit(conn)`` or ``link.refuse(conn, why)`` must follow."""

    def disconnected(self, link: WorkerLink, conn: Connection) -> None:
        """The connection of a link has ended."""

    def arrived(self, arrival: Arrival) -> None:
        """A request. A RaftcoordError raised here is the answer."""


class WorkerLink:
    """One node, dialed again and again. ``name``: the participant's; ``details``: what the hello says, asked for each."""

    def __init__(
        self, address: Address, name: str, details: Callable[[], Mapping[str, str]], env: Env, owner: LinkOwner
    ) -> None:
        self.address = address
        self.node = str(address)
        self.refused = ""
        """Why this node was refused, if it was the last time."""
        self._env = env
        self._owner = owner
        self._conn: Connection | None = None
        self._admitted = False
        self._held: list[Arrival] = []
        self._dialer = Dialer(
            address.host,
            address.port,
            self,
            role="participant",
            details=lambda: dict(details()),
            rng=env.rng,
            on_up=self._up,
            on_down=lambda reason: None,
            max_frame_bytes=limits.CLIENT_FRAME_BYTES_MAX,
            label=f"participant {name} to {address}",
        )

    @property
    def conn(self) -> Connection | None:
        """The connection, while it is open and admitted."""
        conn = self._conn
        return conn if conn is not None and self._admitted and not conn.closed else None

    def start(self) -> None:
        """Begin to dial."""
        self._dialer.start()

    async def stop(self) -> None:
        """Send what waits, close, dial no more."""
        await self._dialer.stop("the participant stops")

    def admit(self, conn: Connection) -> None:
        """The node is of the right cluster: hand over what it asked meanwhile, and what it will ask on ``conn``."""
        self.refused = ""
        if conn is not self._conn:  # it is gone already
            return
        self._admitted = True
        held, self._held = self._held, []
        for arrival in held:
            self._hand_over(arrival)

    def refuse(self, conn: Connection, why: str) -> None:
        """The node is of another cluster: close, with the reason for its log."""
        self.refused = why
        conn.close(why)

    def _hand_over(self, arrival: Arrival) -> None:
        try:
            self._owner.arrived(arrival)
        except RaftcoordError as error:
            arrival.answer(error)

    # -- called by the connection ---------------------------------------------------------------------------------

    def _up(self, conn: Connection, hello: dict[str, Any]) -> None:
        self._conn = conn
        self._admitted = False
        self._held.clear()
        self.node = str(hello.get("node") or self.address)
        self._owner.connected(self, conn, str(hello.get("cluster", "")), str(hello.get("cluster_name", "")))

    def on_open(self, conn: Connection) -> None:
        """Nothing is due before the hello."""

    def on_hello(self, conn: Connection, role: str, details: dict[str, Any]) -> dict[str, Any]:
        """A participant is not dialed."""
        raise LocalProtocolError("a participant is not dialed")

    def on_request(self, conn: Connection, request_id: int, method: str, params: list[Any]) -> None:
        """A prepare, commit or abort."""
        arrival = Arrival(_request(method, params, self._env.wall_ms), conn, request_id)
        if self._admitted:
            self._owner.arrived(arrival)
        else:
            self._held.append(arrival)  # no more than a connection may have open

    def on_notify(self, conn: Connection, method: str, params: list[Any]) -> None:
        """Nodes tell a participant nothing without asking; a newer one may."""

    def on_closed(self, conn: Connection, reason: str) -> None:
        """Wait for the dialer to bring the next."""
        if conn is self._conn:
            self._conn = None
            self._admitted = False
            self._held.clear()
            self._owner.disconnected(self, conn)


def _request(method: str, params: list[Any], wall_ms: Callable[[], int]) -> Request:
    match method, params:
        case "prepare", [bytes(txid), payload, int(timeout_ms)] if 1 <= timeout_ms <= limits.TIMEOUT_MS_MAX:
            return Prepare(TxId(txid), payload, wall_ms() + timeout_ms)
        case "commit", [bytes(txid)]:
            return Commit(TxId(txid))
        case "abort", [bytes(txid)]:
            return Abort(TxId(txid))
        case (("prepare" | "commit" | "abort"), _):
            raise LocalProtocolError(f"{method} has other parameters: use the same raftcoord release on both ends")
    raise LocalProtocolError(f"a participant is not asked {method[:40]!r}: use the same raftcoord release on both ends")
