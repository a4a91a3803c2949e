"""Links between the nodes.

Every node dials every other one and sends on the connection that it dialed; what it accepts, it only hears. So messages from
one node to another are in order while a link is up, and a link that breaks loses everything in flight.

A peer must say in its hello who it is: a member of the same cluster, with the identity that is known of it, and which members it
knows (identity.py). One that is not is refused with a reason that its operator can act on. Each end also says which identity it
has on disk for the other one; until both have the right one, nothing is said or heard, and the dialer hangs up and comes back.
A hello cannot say just "I know you": the dialing side does not know yet who will answer.

A second process that uses a copy of a member's data is refused while the first one answers: both would vote as one.

What is not a message (messages.py) closes that connection and disturbs no other.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final, Protocol

from raftcoord import limits
from raftcoord.config import Address, Config
from raftcoord.consensus.clocks import Clocks
from raftcoord.consensus.engine import Message
from raftcoord.consensus.identity import Identities, Introduction, said_in
from raftcoord.consensus.link_ends import ROLE, Inbound, Outbound
from raftcoord.consensus.messages import decode, encode, is_said_all_the_time, size_of
from raftcoord.env import Env
from raftcoord.errors import ConfigError, LocalProtocolError, Unavailable
from raftcoord.foreign import shown
from raftcoord.limits import ConnectionBounds
from raftcoord.rpc.connection import Connection
from raftcoord.rpc.dial import Dialer
from raftcoord.rpc.server import Server, listen
from raftcoord.types import NodeName

log: Final = logging.getLogger("raftcoord.consensus")

GROUP_BYTES = 256 << 10
"""Messages to one peer share a frame up to about this many bytes of entries."""


class PeerListener(Protocol):
    """Who hears what the peers say."""

    def on_message(self, node: int, message: Message) -> None:
        """A message of that peer, in the right form; whether it makes sense is judged later."""

    def after_messages(self, then: Callable[[], None]) -> None:
        """Call ``then`` when the messages so far have been judged."""

    def on_link(self, node: int, up: bool) -> None:
        """The link over which we send to that peer came up or went down."""

    def on_copy(self, node: int, step: str, params: list[Any], reply: Callable[[Any], None]) -> None:
        """A step of a ledger copy that the peer sends; ``reply`` once. RemoteProtocolError if it makes no sense."""


class Peers:
    """The links of one node. ``boot``: random, new each start; ``cluster_id``: this cluster's, or "" while it is not founded."""

    def __init__(
        self,
        config: Config,
        name: NodeName,
        env: Env,
        boot: int,
        listener: PeerListener,
        cluster_id: Callable[[], str],
        identities: Identities,
    ) -> None:
        self._config = config
        self._name = name
        self._env = env
        self._listener = listener
        self._cluster_id = cluster_id
        self._identities = identities
        self._boot = boot
        self._told: dict[NodeName, str] = {}  # the identity that the hello under way says we know of that peer
        self._up: dict[int, NodeName] = {}  # the ids of the peers whose link is up
        self._identity: dict[NodeName, str] = {}  # of the peers whose link is up
        self._inbound: dict[Inbound, None] = {}  # in the order in which they came, as every run must be repeatable
        self._why: dict[NodeName, str] = {}  # why a peer was refused, as last logged
        self._loop = asyncio.get_running_loop()
        silence_s = config.timing.election_ms_max / 1000
        self._clocks = Clocks(self._loop.time, lambda: self._env.wall_ms(), silence_s)
        self._server: Server | None = None
        silent_ms = max(limits.LINK_SILENT_MS_MIN, 3 * config.timing.election_ms_max)
        self._bounds = ConnectionBounds(connections_max=limits.PEER_CONNECTIONS_MAX, silent_ms_max=silent_ms)
        self._dialers: dict[NodeName, Dialer] = {}
        self._found_at: dict[NodeName, str] = {}  # where each dialer dials
        self._working: dict[asyncio.Task[None], None] = {}
        self._started = False
        self._silence_s = silence_s

    @property
    def has_others(self) -> bool:
        """Whether there is anybody to dial."""
        return bool(self._dialers)

    def name_of(self, node: int) -> NodeName:
        """The name of the node with this id, as far as it is known here."""
        for members in (self._identities.members, self._identities.heard):
            member = None if members is None else members.with_id(node)
            if member is not None:
                return member.name
        return self._up.get(node, NodeName(f"with the id {node}"))

    @property
    def up(self) -> tuple[int, ...]:
        """The ids of the peers whose link is up."""
        return tuple(self._up)

    async def start(self) -> None:
        """Listen, then dial. ConfigError if the port cannot be had."""
        here = self._config.node(self._name).peer
        self._server = await listen(
            here.host,
            here.port,
            lambda: Inbound(self),
            max_frame_bytes=limits.PEER_FRAME_BYTES_MAX,
            label=f"{self._name} peer port",
            bounds=self._bounds,
        )
        self._started = True
        self.follow_members()

    def follow_members(self) -> None:
        """Dial the others as they are now, and hang up on nodes that are none of them."""
        if not self._started:
            return
        wanted = self._identities.to_dial
        for name in tuple(self._dialers):
            if wanted.get(name) != self._found_at[name]:
                self._end(name)
        for name, address in wanted.items():
            if name not in self._dialers:
                self._dial(name, address)
        self._hang_up_on_strangers()
        self._renumber()

    def _dial(self, name: NodeName, address: str) -> None:
        try:
            dialer = self._dialer(name, address)
        except ConfigError as error:  # it came from another node: whatever it says halts nobody
            log.error("%s: node %s cannot be dialed until cluster.yaml names it: %s", self._name, name, shown(error))
            return
        self._found_at[name], self._dialers[name] = address, dialer
        dialer.start()

    def _renumber(self) -> None:
        """A peer may have another id now: in the file from which the cluster was founded, or in a set that was never committed,
        it had one that was not the one that it was given.
        """
        for number, name in tuple(self._up.items()):
            now = self._identities.id_of(name, self._identity[name])
            if now is not None and now != number:
                del self._up[number]
                self._listener.on_link(number, False)
                self._up[now] = name
                self._listener.on_link(now, True)

    def _end(self, name: NodeName) -> None:
        dialer = self._dialers.pop(name)
        del self._found_at[name]
        self._down(name)
        task = asyncio.get_running_loop().create_task(dialer.stop("it is no member any more"), name=f"stop {name}")
        self._working[task] = None
        task.add_done_callback(self._worked)

    async def stop(self) -> None:
        """Hang up everywhere."""
        self._started = False
        for dialer in self._dialers.values():
            await dialer.stop("the node stops")
        await asyncio.gather(*self._working)
        if self._server is not None:
            self._server.close("the node stops")
            await self._server.wait_closed()

    def send(self, messages: list[tuple[int, Message]]) -> None:
        """Send, in order; a message to a peer whose link is down is lost."""
        groups: dict[int, list[Any]] = {}
        sizes: dict[int, int] = {}
        for node, message in messages:
            groups.setdefault(node, []).append(encode(message))
            sizes[node] = sizes.get(node, 0) + size_of(message)
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

    @property
    def congested(self) -> set[int]:
        """Linked peers for whom so much waits unsent that they should get no more entries now."""
        full: set[int] = set()
        for node, name in self._up.items():
            dialer = self._dialers.get(name)
            if dialer is None or dialer.conn is None or dialer.conn.paused:
                full.add(node)
        return full

    def connection(self, node: int) -> Connection | None:
        """The link to that peer, if it is up."""
        name = self._up.get(node)
        dialer = None if name is None else self._dialers.get(name)
        return None if dialer is None else dialer.conn

    def clock_offsets(self) -> dict[NodeName, int | None]:
        """How far each peer's clock is ahead of ours (ms); None: it has not been heard for an election timeout."""
        return {name: self._clocks.offset_ms(name) for name in self._dialers}

    def links(self) -> dict[NodeName, str]:
        """For each peer, "" if the link is up, else why it is not."""
        return {
            name: "" if name in self._identity else dialer.last_error or "it is being greeted"
            for name, dialer in self._dialers.items()
        }

    @property
    def expelled_by(self) -> list[NodeName]:
        """The members that refuse this node as no member."""
        return [name for name, dialer in self._dialers.items() if dialer.is_no_member]

    def hang_up(self, node: int, why: str) -> None:
        """What that peer said cannot be: close the connections over which it speaks, with one line in the log."""
        for inbound in tuple(self._inbound):
            if self._identities.id_of(inbound.name, inbound.identity) == node:
                inbound.fault(why)

    def _hang_up_on_strangers(self) -> None:
        for name, identity in tuple(self._identity.items()):
            conn = self._dialers[name].conn
            if conn is not None and self._identities.id_of(name, identity) is None:
                conn.close(f"node {name} was replaced or removed")
        for inbound in tuple(self._inbound):
            if self._identities.id_of(inbound.name, inbound.identity) is None:
                inbound.hang_up("this node was replaced or removed")

    # -- identity -------------------------------------------------------------------------------------------------

    def _dialer(self, name: NodeName, address: str) -> Dialer:
        there = Address.parse(address)
        return Dialer(
            there.host,
            there.port,
            Outbound(),
            role=ROLE,
            details=lambda: self._greeting(name),
            rng=self._env.rng,
            on_up=lambda conn, hello: self._answered(name, conn, hello),
            on_down=lambda _: self._down(name),
            max_frame_bytes=limits.PEER_FRAME_BYTES_MAX,
            label=f"{self._name} -> {name}",
            bounds=self._bounds,
        )

    def introduce(self, to: NodeName, identity: str = "") -> dict[str, Any]:
        """What this node says in a hello of itself, and of the peer ``to``."""
        return self._cluster() | self._identities.introduction(to, identity) | {"boot": self._boot}

    def _cluster(self) -> dict[str, Any]:
        return {"cluster_name": self._config.cluster, "cluster": self._cluster_id()}

    def _greeting(self, name: NodeName) -> dict[str, Any]:
        details = self.introduce(name)
        self._told[name] = details["knows"]
        return details

    def identify(self, details: dict[str, Any]) -> Introduction:
        """The peer that introduces itself so; ConfigError if it is none of ours."""
        try:
            said = said_in(details)
        except LocalProtocolError as error:
            raise ConfigError(f"a peer without a name: {error}; use the same cluster.yaml on every node") from None
        if details.get("boot") == self._boot:
            raise ConfigError(f"node {self._name} answers itself; check the peer addresses in cluster.yaml")
        for key, ours in self._cluster().items():
            theirs = details.get(key)
            if theirs == ours or (key == "cluster" and "" in (ours, theirs)):
                continue
            raise ConfigError(
                f"node {said.name} belongs to another cluster ({key} {str(theirs)[:40]!r}, node {self._name} has {ours!r}); "
                "check its cluster.yaml and its data directory"
            )
        self._identities.judge(said)
        return said

    def welcome(self, inbound: Inbound, details: dict[str, Any]) -> tuple[Introduction, bool]:
        """Who dialed, and whether it may be heard. ConfigError if it is refused."""
        said = self.identify(details)
        boot = details.get("boot")
        for other in self._inbound:
            if other.identity == said.identity and other.boot != boot:
                self._ask_whether_alive(other)
                if other.is_alive:
                    raise ConfigError(
                        f"two processes use the data of node {said.name} ({said.identity[:8]}), and the other one answers; check "
                        "which of the two is the copy (pid, machine, data_dir), stop that one, and give it a directory of its own"
                    )
                raise Unavailable(f"an earlier session of node {said.name} is asked whether it is still there")
        self._inbound[inbound] = None
        inbound.boot = boot
        told = self._identities.known(said.name, said.identity)  # which is what the answer will say
        acquainted = self._identities.acquainted(said, told)
        if acquainted:
            self._identities.meet(said.name)
        return said, acquainted

    def _ask_whether_alive(self, inbound: Inbound) -> None:
        """It is closed if it does not answer: a host that lost its power takes no leave."""
        if inbound.asked:
            return
        inbound.asked = True
        task = asyncio.get_running_loop().create_task(self._ask(inbound), name=f"ask {inbound.name}")
        self._working[task] = None
        task.add_done_callback(self._worked)

    async def _ask(self, inbound: Inbound) -> None:
        inbound.is_alive = await inbound.answers(self._silence_s)
        inbound.asked = False
        if not inbound.is_alive:
            inbound.hang_up("it does not answer, and another session of the same node has come")

    def _worked(self, task: asyncio.Task[None]) -> None:
        del self._working[task]

    def left(self, inbound: Inbound) -> None:
        """A connection that a peer dialed has ended."""
        self._inbound.pop(inbound, None)

    def _answered(self, name: NodeName, conn: Connection, hello: dict[str, Any]) -> None:
        if name not in self._dialers:  # it has just been ended
            conn.close("it is no member any more")
            return
        try:
            said = self.identify(hello)
            if said.name != name:
                raise ConfigError(f"{said.name} answers at the address of {name}; check cluster.yaml")
        except ConfigError as error:
            if self._why.get(name) != str(error):
                self._why[name] = str(error)
                log.warning("%s: hung up on what answers as node %s: %s", self._name, name, shown(error))
            conn.close(str(error))
            return
        self._why.pop(name, None)
        number = self._identities.id_of(name, said.identity)
        if number is None or not self._identities.acquainted(said, self._told[name]):
            conn.close(f"node {name} and this one do not have each other's identity on disk yet")
            return
        self._up[number] = name
        self._identity[name] = said.identity
        self._identities.meet(name)
        self._listener.on_link(number, True)

    def _down(self, name: NodeName) -> None:
        self._clocks.forget(name)
        self._identity.pop(name, None)
        for number in [number for number, up in self._up.items() if up == name]:
            del self._up[number]
            self._listener.on_link(number, False)

    def heard(self, inbound: Inbound, rows: list[Any], wall_ms: int) -> None:
        """What a peer sent: checked, then given to the listener in order."""
        messages = [decode(row) for row in rows]
        node = self._identities.id_of(inbound.name, inbound.identity)
        if node is None:
            inbound.hang_up("this node was replaced or removed")
            return
        for message in messages:
            self._listener.on_message(node, message)
        # Its clock is taken from what is said all the time, and from nothing that is said once.
        if any(map(is_said_all_the_time, messages)):
            at = self._loop.time()
            self._listener.after_messages(lambda: self._believe_clock(inbound, at, wall_ms))

    def _believe_clock(self, inbound: Inbound, at: float, wall_ms: int) -> None:
        """Its messages were in order: what came with one that was not is worth nothing, and its connection was closed."""
        if inbound.is_open:
            self._clocks.believe(inbound.name, at, wall_ms)

    def copy_step(self, inbound: Inbound, step: str, params: list[Any], reply: Callable[[Any], None]) -> None:
        """A step of a ledger copy."""
        node = self._identities.id_of(inbound.name, inbound.identity)
        if node is None:
            raise Unavailable("the sender is no member here")
        self._listener.on_copy(node, step, params, reply)
