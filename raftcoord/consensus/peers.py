"""Links between the nodes.

Every node dials every other one and sends on the connection that it dialed; what it accepts, it only hears. So messages from
one node to another are in order while a link is up, and a link that breaks loses everything in flight.

A peer must say in its hello who it is: a node of this cluster.yaml, of the same cluster, with the identity that is known of it
(identity.py). One that is not is refused with a reason that its operator can act on. Each end also says which identity it has
on disk for the other one; until both have the right one, nothing is said or heard, and the dialer hangs up and comes back. A
hello cannot say just "I know you": who dials does not know yet who will answer.

What is not a message (wire.py) closes that connection and disturbs no other.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from typing import Any, Final, Protocol

from raftcoord import limits
from raftcoord.config import Config
from raftcoord.consensus import wire
from raftcoord.consensus.identity import Identities
from raftcoord.consensus.raft import Message
from raftcoord.env import Env
from raftcoord.errors import ConfigError, RemoteProtocolError
from raftcoord.foreign import shown
from raftcoord.rpc.connection import Connection
from raftcoord.rpc.dial import Dialer
from raftcoord.rpc.server import Server, listen
from raftcoord.types import NodeName

log: Final = logging.getLogger("raftcoord.consensus")

ROLE = "peer"
_HEARTBEATS: Final = ("append_entries", "next_node_idx")
"""A peer's clock is taken from what the leader and those who follow it say all the time, and from nothing that is said once."""

GROUP_BYTES = 256 << 10
"""Messages to one peer share a frame up to about this many bytes of entries."""


class Listener(Protocol):
    """Who hears what the peers say."""

    def on_message(self, node: int, message: Message) -> None:
        """A checked message of that peer."""

    def on_link(self, node: int, up: bool) -> None:
        """The link over which we send to that peer came up or went down."""

    def on_copy(self, node: int, step: str, params: list[Any], reply: Callable[[Any], None]) -> None:
        """A step of a ledger copy that the peer sends; ``reply`` once. RemoteProtocolError if it makes no sense."""


class Peers:
    """The links of one node. ``cluster_id``: this cluster's id, or "" while it is not founded."""

    def __init__(
        self,
        config: Config,
        name: NodeName,
        env: Env,
        listener: Listener,
        cluster_id: Callable[[], str],
        identities: Identities,
    ) -> None:
        self._config = config
        self._name = name
        self._env = env
        self._listener = listener
        self._cluster_id = cluster_id
        self._identities = identities
        self._told: dict[int, str] = {}  # the identity that the hello under way says we know of that peer
        self._up: dict[int, str] = {}  # the peers whose link is up, and the identity of each
        self._inbound: set[_Inbound] = set()
        self._why: dict[int, str] = {}  # why a peer was refused, as last logged
        self._loop = asyncio.get_running_loop()
        self._clocks: dict[int, tuple[float, int]] = {}  # when a peer was heard last, and what its clock showed (ms)
        self._clock_age_s = config.timing.election_ms_max / 1000
        self._server: Server | None = None
        self._silent_ms = max(limits.LINK_SILENT_MS_MIN, 3 * config.timing.election_ms_max)
        self.names = {config.node_id(node.name): node.name for node in config.nodes}
        self.self_id = config.node_id(name)
        self._dialers = {i: self._dialer(i, other) for i, other in self.names.items() if other != name}

    @property
    def ids(self) -> tuple[int, ...]:
        """The peers' ids, without this node's."""
        return tuple(self._dialers)

    async def start(self) -> None:
        """Listen, then dial. ConfigError if the port cannot be had."""
        here = self._config.node(self._name).peer
        self._server = await listen(
            here.host,
            here.port,
            lambda: _Inbound(self),
            max_frame_bytes=limits.PEER_FRAME_BYTES_MAX,
            label=f"{self._name} peer port",
            connections_max=limits.PEER_CONNECTIONS_MAX,
            silent_ms=self._silent_ms,
        )
        for dialer in self._dialers.values():
            dialer.start()

    async def stop(self) -> None:
        """Hang up everywhere."""
        for dialer in self._dialers.values():
            await dialer.stop("the node stops")
        if self._server is not None:
            self._server.close("the node stops")
            await self._server.wait_closed()

    def send(self, messages: list[tuple[int, Message]]) -> None:
        """Send, in order; a message to a peer whose link is down is lost."""
        groups: dict[int, list[Any]] = {}
        sizes: dict[int, int] = {}
        for node, message in messages:
            groups.setdefault(node, []).append(wire.encode(message))
            sizes[node] = sizes.get(node, 0) + _bytes_of(message)
            if sizes[node] > GROUP_BYTES:
                self._send_group(node, groups.pop(node))
                del sizes[node]
        for node, group in groups.items():
            self._send_group(node, group)

    def _send_group(self, node: int, group: list[Any]) -> None:
        conn = self.connection(node)
        if conn is not None:
            conn.notify("raft", [group, self._env.wall_ms()])
            conn.flush()  # not at the end of the loop's pass: a majority waits for this

    def congested(self, node: int) -> bool:
        """Whether so much waits unsent for that peer that it should get no more entries now."""
        conn = self.connection(node)
        return conn is None or conn.paused

    def connection(self, node: int) -> Connection | None:
        """The link to that peer, if it is up."""
        return self._dialers[node].conn if node in self._up else None

    def clock_offsets(self) -> dict[NodeName, int | None]:
        """How far each peer's clock is ahead of ours (ms); None: it has not been heard for an election timeout.

        What a clock showed is carried on by the time that has passed since, so that ours, when it is set, agrees with nobody.
        A message that was long on its way makes a peer's clock look late, never early.
        """
        now, wall_ms = self._loop.time(), self._env.wall_ms()
        found: dict[NodeName, int | None] = {}
        for node in self._dialers:
            at, showed_ms = self._clocks.get(node, (-math.inf, 0))
            age_s = now - at
            fresh = age_s <= self._clock_age_s
            found[self.names[node]] = showed_ms + int(age_s * 1000) - wall_ms if fresh else None
        return found

    def links(self) -> dict[NodeName, str]:
        """For each peer, "" if the link is up, else why it is not."""
        return {
            self.names[i]: "" if i in self._up else dialer.last_error or "it is being greeted"
            for i, dialer in self._dialers.items()
        }

    def hang_up(self, node: int, why: str) -> None:
        """What that peer said cannot be: close the connections over which it speaks, with one line in the log."""
        for inbound in tuple(self._inbound):
            if inbound.node == node:
                inbound.fault(why)

    def part_with_strangers(self) -> None:
        """Hang up on whoever does not bear the identity of its name any more."""
        for node, identity in tuple(self._up.items()):
            conn = self._dialers[node].conn
            if conn is not None and not self._identities.stands(self.names[node], identity):
                conn.close(f"node {self.names[node]} was replaced")
        for inbound in tuple(self._inbound):
            if not self._identities.stands(self.names[inbound.node], inbound.identity):
                inbound.part()

    # -- identity -------------------------------------------------------------------------------------------------

    def _dialer(self, node: int, name: NodeName) -> Dialer:
        there = self._config.node(name).peer
        return Dialer(
            there.host,
            there.port,
            _Outbound(),
            role=ROLE,
            details=lambda: self._greeting(node),
            rng=self._env.rng,
            on_up=lambda conn, hello: self._answered(node, conn, hello),
            on_down=lambda _: self._down(node),
            max_frame_bytes=limits.PEER_FRAME_BYTES_MAX,
            label=f"{self._name} -> {name}",
            silent_ms=self._silent_ms,
        )

    def introduce(self, to: NodeName | None = None) -> dict[str, Any]:
        """What this node says in a hello of itself, and of the peer ``to``."""
        known = "" if to is None else self._identities.known(to)
        return self._cluster() | {"node": self._name, "identity": self._identities.own, "knows": known}

    def _cluster(self) -> dict[str, Any]:
        return {"cluster_name": self._config.cluster, "cluster": self._cluster_id(), "nodes": len(self.names)}

    def _greeting(self, node: int) -> dict[str, Any]:
        details = self.introduce(self.names[node])
        self._told[node] = details["knows"]
        return details

    def identify(self, details: dict[str, Any]) -> int:
        """The id of the peer that introduces itself so; ConfigError if it is none of ours."""
        name = details.get("node")
        node = next((i for i, known in self.names.items() if known == name), None)
        if node is None or node == self.self_id:
            raise ConfigError(
                f"node {self._name} does not know a peer called {str(name)[:40]!r}; "
                "use the same cluster.yaml on every node"
            )
        for key, ours in self._cluster().items():
            theirs = details.get(key)
            if theirs == ours or (key == "cluster" and "" in (ours, theirs)):
                continue
            raise ConfigError(
                f"node {name} belongs to another cluster ({key} {str(theirs)[:40]!r}, node {self._name} has {ours!r}); "
                "check its cluster.yaml and its data directory"
            )
        return node

    def welcome(self, inbound: _Inbound, details: dict[str, Any]) -> tuple[int, str, bool]:
        """Who dialed, its identity, and whether it may be heard. ConfigError if it is refused."""
        node = self.identify(details)
        name = self.names[node]
        identity = self._identities.judge(name, details.get("identity"))
        self._inbound.add(inbound)
        told = self._identities.known(name)  # which is what the answer will say
        acquainted = self._identities.acquainted(name, identity, told=told, knows=details.get("knows"))
        if acquainted:
            self._identities.meet(name)
        return node, identity, acquainted

    def left(self, inbound: _Inbound) -> None:
        """A connection that a peer dialed has ended."""
        self._inbound.discard(inbound)

    def _answered(self, node: int, conn: Connection, hello: dict[str, Any]) -> None:
        name = self.names[node]
        try:
            found = self.identify(hello)
            if found != node:
                raise ConfigError(
                    f"{self.names[found]} answers at the address of {self.names[node]}; check cluster.yaml"
                )
            identity = self._identities.judge(name, hello.get("identity"))
        except ConfigError as error:
            if self._why.get(node) != str(error):
                self._why[node] = str(error)
                log.warning("%s: hung up on what answers as node %s: %s", self._name, name, shown(error))
            conn.close(str(error))
            return
        self._why.pop(node, None)
        if not self._identities.acquainted(name, identity, told=self._told[node], knows=hello.get("knows")):
            conn.close(f"node {name} and this one do not have each other's identity on disk yet")
            return
        self._up[node] = identity
        self._identities.meet(name)
        self._listener.on_link(node, True)

    def _down(self, node: int) -> None:
        self._clocks.pop(node, None)
        if self._up.pop(node, None) is not None:
            self._listener.on_link(node, False)

    def heard(self, node: int, rows: list[Any], wall_ms: int) -> None:
        """What a peer sent: checked, then told to the listener in order."""
        messages = [wire.decode(row) for row in rows]
        if any(message["type"] in _HEARTBEATS for message in messages):
            self._clocks[node] = (self._loop.time(), wall_ms)
        for message in messages:
            self._listener.on_message(node, message)

    def copy_step(self, node: int, step: str, params: list[Any], reply: Callable[[Any], None]) -> None:
        """A step of a ledger copy."""
        self._listener.on_copy(node, step, params, reply)


def _bytes_of(message: Message) -> int:
    match message["type"]:
        case "append_entries":
            return sum(len(data) for data, _, _ in message["entries"])
        case "propose":
            return sum(map(len, message["entries"]))
    return 0


class _Inbound:
    """A connection that a peer dialed: we hear it, and answer its ledger copy."""

    def __init__(self, peers: Peers) -> None:
        self._peers = peers
        self.node = 0
        self.identity = ""
        self._heard = False
        self._conn: Connection | None = None

    def on_open(self, conn: Connection) -> None:
        """Nothing before the hello."""

    def on_hello(self, conn: Connection, role: str, details: dict[str, Any]) -> dict[str, Any]:
        """Only a node of this cluster comes in here."""
        if role != ROLE:
            raise ConfigError(f"this is the peer port, which is for nodes; a {role[:20]} uses the client port")
        self.node, self.identity, self._heard = self._peers.welcome(self, details)
        self._conn = conn
        return self._peers.introduce(self._peers.names[self.node])

    def fault(self, why: str) -> None:
        """Who dialed broke the rules."""
        if self._conn is not None:
            self._conn.fault(why)

    def part(self) -> None:
        """Hang up on who dialed: its name belongs to another one now."""
        self._heard = False
        if self._conn is not None:
            self._conn.close("this node was replaced by another one of its name")

    def on_request(self, conn: Connection, request_id: int, method: str, params: list[Any]) -> None:
        """Steps of a ledger copy."""
        self._must_be_heard()
        if method not in ("copy_begin", "copy_chunk", "copy_end"):
            raise RemoteProtocolError(f"the request {method[:60]!r} on the peer port")
        self._peers.copy_step(self.node, method, params, lambda ok: None if conn.closed else conn.reply(request_id, ok))

    def on_notify(self, conn: Connection, method: str, params: list[Any]) -> None:
        """Raft messages."""
        self._must_be_heard()
        match method, params:
            case "raft", [list(rows), int(wall_ms)]:
                self._peers.heard(self.node, rows, wall_ms)
            case _:
                raise RemoteProtocolError(f"a malformed notification {method[:60]!r} on the peer port")

    def on_closed(self, conn: Connection, reason: str) -> None:
        """Nothing is kept."""
        self._peers.left(self)

    def _must_be_heard(self) -> None:
        if not self._heard:
            raise RemoteProtocolError("a message of a peer before both ends have each other's identity on disk")


class _Outbound:
    """A connection that we dialed: the other end only answers."""

    def on_open(self, conn: Connection) -> None:
        """The dialer says hello."""

    def on_hello(self, conn: Connection, role: str, details: dict[str, Any]) -> dict[str, Any]:
        """The accepting end says none."""
        raise RemoteProtocolError("a hello from the accepting end")

    def on_request(self, conn: Connection, request_id: int, method: str, params: list[Any]) -> None:
        """The accepting end asks nothing."""
        raise RemoteProtocolError("a request from the accepting end")

    def on_notify(self, conn: Connection, method: str, params: list[Any]) -> None:
        """The accepting end tells nothing unasked."""
        raise RemoteProtocolError("a notification from the accepting end")

    def on_closed(self, conn: Connection, reason: str) -> None:
        """The dialer tells the listener."""
