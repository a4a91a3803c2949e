"""The client's link to one node: an address, and a connection while there is one.

Owed: a link is ``ready`` only towards a node of the one cluster that this client talks to. That is safety and not tidiness:
a resolve at another cluster would presume abort for what the first one has committed. Never: a retry; a choice of node.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final, NamedTuple

from raftcoord import limits
from raftcoord.api.operations import NODE
from raftcoord.client.deadlines import SILENT, Deadlines
from raftcoord.errors import ConfigError, RaftcoordError, Unavailable
from raftcoord.foreign import shown
from raftcoord.limits import ClockBounds
from raftcoord.rpc import codes, dial
from raftcoord.rpc.codes import RpcError
from raftcoord.rpc.connection import Connection
from raftcoord.types import TxId

_NOT_TRIED: Final = "not tried"

CONNECT_S_MAX = 1.0
SUSPECT_S = 2.0
"""How long a node that did not answer is tried last."""


class NodeAddress(NamedTuple):
    """Where a node's client port is. ``node``: its name, or "" if it is not known before the hello."""

    host: str
    port: int
    node: str = ""

    def __str__(self) -> str:
        address = f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
        return f"{self.node} ({address})" if self.node else address


class ClusterIdentity:
    """The cluster that this client talks to: its name, if the caller knows it, and its id.

    ``cluster_id``: if that is known from ``source``, the data of this machine; else it is what the first node says.
    """

    def __init__(self, name: str, cluster_id: str = "", source: str = "") -> None:
        self.name = name
        self.id = cluster_id
        self._source = source

    def check(self, name: object, cluster_id: object) -> None:
        """Raise ConfigError for a node of another cluster."""
        if self.name and name != self.name:
            raise ConfigError(f"it is a node of cluster {name!r}, not of {self.name!r}; check the addresses")
        if not isinstance(cluster_id, str):
            raise ConfigError("its hello has no cluster id; use the same raftcoord release on both ends")
        if cluster_id and self.id and cluster_id != self.id:
            if self._source:
                raise ConfigError(
                    f"it is a node of another cluster of that name: its id is {cluster_id}, and the data in {self._source} is of "
                    f"{self.id}; "
                    "correct the addresses in cluster.yaml, or move that directory away"
                )
            raise ConfigError(
                f"its cluster has the id {cluster_id}, and that of the other nodes {self.id}; check the addresses"
            )
        self.id = self.id or cluster_id


class Link:
    """``conn``: the open connection. ``ready``: the same, once the node is known to be of our cluster.

    ``why``: why there is none. ``closed``: there will be none.
    """

    def __init__(
        self,
        endpoint: NodeAddress,
        cluster: ClusterIdentity,
        deadlines: Deadlines,
        client_name: str,
        clocks: ClockBounds,
    ) -> None:
        self.endpoint = endpoint
        self.node = endpoint.node
        self.conn: Connection | None = None
        self.ready: Connection | None = None
        self.closed = False
        self.why = _NOT_TRIED
        self.suspect_until = 0.0
        self.silent = False
        """Whether it did not answer the last time that it was asked."""
        self._clock: tuple[float, int, int] | None = None  # when it said hello, its clock and its horizon then (ms)
        self._said_why = False  # whether ``why`` is what a node said that is of no cluster yet
        self._cluster = cluster
        self._deadlines = deadlines
        self._client_name = client_name
        self.clocks = clocks
        self._dialing: asyncio.Task[None] | None = None

    def __str__(self) -> str:
        return str(self.endpoint)

    async def ask(self, conn: Connection, method: str, params: tuple[Any, ...], deadline: float) -> Any:
        """One call: its result, or an RpcError as a value; SILENT at ``deadline`` (loop.time())."""
        exchange = self._deadlines.exchange(deadline)
        try:
            conn.call(method, params, exchange)
            reply = await exchange.future
            self.silent = reply is SILENT
            return reply
        finally:
            self._deadlines.discard(exchange)

    def learn_clock(self, said: dict[str, Any]) -> None:
        """What its node says of itself, now: its clock and its horizon."""
        match said:
            case {"wall_ms": int(wall_ms), "horizon_ms": int(horizon_ms)}:
                self._clock = asyncio.get_running_loop().time(), wall_ms, horizon_ms
            case _:  # a release that does not say
                self._clock = None

    def finds_fit(self, txid: TxId, now: float) -> bool:
        """Whether by its clock and its horizon, as the hello showed them, a transaction may begin under that txid."""
        if self._clock is None:
            return False
        at, wall_ms, horizon_ms = self._clock
        passed_ms = int((now - at) * 1000)
        earliest_ms = horizon_ms + passed_ms if horizon_ms else 0
        return earliest_ms <= txid.ms <= wall_ms + passed_ms + self.clocks.future_ms_max

    async def open(self, deadline: float, *, any_cluster: bool = False) -> Connection:
        """The connection, dialed if need be. ``any_cluster``: also to a node whose cluster has no id yet.

        Raises Unavailable when there is none by ``deadline``. All who wait share one dialing.
        """
        if self.conn is None and not self.closed:
            await self._dial_until(deadline)
        if self.conn is None:
            raise Unavailable(self.why)
        if self.ready is None and not any_cluster:
            await self._learn_cluster(self.conn, deadline)
            if self.ready is None:
                raise Unavailable(self.why)
        return self.conn

    def suspect(self, now: float, why: str) -> None:
        """Remember that it did not answer."""
        self.suspect_until = now + SUSPECT_S
        self.why = why

    async def close(self) -> None:
        """Hang up, and dial no more."""
        self.closed = True
        self.why = "the client is closed"
        if self._dialing is not None:
            self._dialing.cancel()
            await asyncio.gather(self._dialing, return_exceptions=True)
        if self.conn is not None:
            self.conn.close("the client is closed")
            self.conn = self.ready = None

    async def _dial_until(self, deadline: float) -> None:
        loop = asyncio.get_running_loop()
        if self._dialing is None:
            self._dialing = loop.create_task(self._dial(), name=f"dial {self}")
            self._dialing.add_done_callback(self._dialed)
        await asyncio.wait((self._dialing,), timeout=max(0.0, deadline - loop.time()))
        if self.conn is None and self.why == _NOT_TRIED:  # an earlier try's reason says more than an unfinished one
            self.why = "it did not take the connection in time"

    async def _dial(self) -> None:
        conn: Connection | None = None
        try:
            conn, hello = await dial.connect(
                self.endpoint.host,
                self.endpoint.port,
                self,
                role="client",
                details={"name": self._client_name, "cluster": self._cluster.id},
                max_frame_bytes=limits.CLIENT_FRAME_BYTES_MAX,
                label=f"node {self}",
                timeout=CONNECT_S_MAX,
            )
            self._admit(conn, hello)
        except RaftcoordError as error:
            self.why = str(error)
            if conn is not None:
                conn.close(self.why)

    def _dialed(self, _task: asyncio.Task[None]) -> None:
        self._dialing = None

    def _admit(self, conn: Connection, hello: dict[str, Any]) -> None:
        node = hello.get("node")
        if self.endpoint.node and node != self.endpoint.node:
            raise ConfigError(
                f"node {node!r} answers there, not {self.endpoint.node!r}; check the addresses in cluster.yaml"
            )
        self._cluster.check(hello.get("cluster_name"), hello.get("cluster"))
        if conn.closed:
            return
        self.node = node if isinstance(node, str) else ""
        self.conn = conn
        self.learn_clock(hello)
        if hello["cluster"]:
            self.ready = conn

    async def _learn_cluster(self, conn: Connection, deadline: float) -> None:
        """The hello came before the cluster had an id: ask for it."""
        reply = await self.ask(conn, NODE.method, (), deadline)
        if reply is SILENT and self._said_why:  # an earlier try's reason says more than an unfinished one
            return
        if isinstance(reply, RpcError) or not isinstance(reply, dict):
            self.why = reply.message if isinstance(reply, RpcError) else "it does not say which cluster it is of"
            return
        try:
            self._cluster.check(reply.get("cluster_name"), reply.get("cluster"))
        except ConfigError as error:
            self.why = str(error)
            conn.close(self.why)
            return
        if reply["cluster"] and self.conn is conn:
            self.ready = conn
        else:
            self.why, self._said_why = of_no_cluster(reply), True

    # -- the handler of its connection ----------------------------------------------------------------------------

    def on_open(self, conn: Connection) -> None:
        """Nothing to do before the hello."""

    def on_hello(self, conn: Connection, role: str, details: dict[str, Any]) -> dict[str, Any]:
        """A client is not asked."""
        raise codes.unknown_method("hello")

    def on_request(self, conn: Connection, request_id: int, method: str, params: list[Any]) -> None:
        """A node asks a client for nothing."""
        raise codes.unknown_method(method)

    def on_notify(self, conn: Connection, method: str, params: list[Any]) -> None:
        """A node sends a client nothing unasked."""
        raise codes.unknown_method(method)

    def on_closed(self, conn: Connection, reason: str) -> None:
        """The next request dials again."""
        if conn is self.conn:
            self.conn = self.ready = None
            self.why = reason


def of_no_cluster(said: dict[str, Any]) -> str:
    """Why a node that says so of itself does not know a cluster's id yet: it waits to be added, or all wait for each other."""
    peers = said.get("peers")
    links = (
        {shown(name): link for name, link in peers.items() if isinstance(link, dict)} if isinstance(peers, dict) else {}
    )
    for link in links.values():
        if link.get("expelled") is True:
            return shown(link.get("why"))
    if awaited := ", ".join(name for name, link in links.items() if link.get("awaited")):
        return f"its cluster has not been founded yet: it has not met {awaited}, and all must have met each other once"
    return "its cluster has not been founded yet: no leader has been elected; raftcoord status says who waits for whom"
