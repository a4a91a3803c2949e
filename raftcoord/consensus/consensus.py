"""One node's part in the cluster: its group, its links, and who takes part. host.py takes the turns.

Owed: a proposal is answered once, by its deadline; a change of members likewise; what cannot be handled halts the node, and
``on_halt`` is called once. Never: a message, a vote or an answer after that.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final

from raftcoord import limits
from raftcoord.config import Config
from raftcoord.consensus.copies import Installing, Outgoing
from raftcoord.consensus.disk import (
    NodeDisk,
    log_of,
    not_taken_over,
    start_of,
    write_of_founding,
    write_of_identities,
    write_of_invitation,
)
from raftcoord.consensus.engine import EngineTiming, Message
from raftcoord.consensus.group import Group, MembersDone
from raftcoord.consensus.host import Errand, Host
from raftcoord.consensus.identity import Identities, PlaceInFile
from raftcoord.consensus.peers import Peers
from raftcoord.consensus.position import Position
from raftcoord.consensus.proposals import BarrierDone, Done
from raftcoord.consensus.pysyncobj.guard import Guarded
from raftcoord.consensus.steering import Steering, StepAsked
from raftcoord.consensus.sync_thread import Runner, SyncThread
from raftcoord.core.machine import Ledger
from raftcoord.core.tables.members import Members, described
from raftcoord.core.tables.table import Command
from raftcoord.env import Env
from raftcoord.errors import (
    ConfigError,
    Halt,
    RaftcoordError,
    RemoteProtocolError,
    Unavailable,
    check,
)
from raftcoord.events import Copied, Heard, Led, Linked, Observers, Proposed
from raftcoord.limits import NodeBounds
from raftcoord.storage.node_db import NodeDb, Stored, Write
from raftcoord.types import NodeName

log: Final = logging.getLogger("raftcoord.consensus")


class Consensus:
    """One node's part in the cluster. ``on_halt(error)``: called once when the node must stop; the error is for the operator."""

    def __init__(
        self,
        config: Config,
        name: NodeName,
        db: NodeDb,
        env: Env,
        *,
        on_halt: Callable[[Exception], None],
        runner: Runner | None = None,
        bounds: NodeBounds = NodeBounds(),
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._name = name
        self._db = db
        self._on_halt = on_halt
        self._directory = config.node(name).data_dir
        self._env = env
        self._bounds: Final = bounds
        self.events = Observers(self._loop.time)
        """Who observes this node."""
        stored = db.load()
        self._not_taken_over = not_taken_over(stored, name, [node.name for node in config.nodes])
        timing = config.timing
        self._timing = EngineTiming(
            timing.heartbeat_ms / 1000, timing.election_ms_min / 1000, timing.election_ms_max / 1000
        )
        boot = env.rng.getrandbits(63)
        self._group = self._group_of(stored)
        self._identities = Identities(
            stored.node_uuid.hex(),
            name,
            {n.name: PlaceInFile(config.node_id(n.name), str(n.peer), str(n.client)) for n in config.nodes},
            {**stored.peers, **stored.enrolled},
            self._group.members,
            stored.joined,
            on_change=self._news,
            now=self._loop.time,
        )
        self._heard = asyncio.Event()
        self._peers = Peers(config, name, env, boot, self, lambda: self.ledger.cluster, self._identities)
        self._steering = Steering(name, lambda: self._group, self._peers, self._identities, self._timing.election_min)
        runner = SyncThread(f"{name} sync") if runner is None else runner
        self._host = Host(
            [self._group], NodeDisk(db), self._peers, self, runner, self._timing.heartbeat / 2, self.events
        )
        self._outgoing = Outgoing(db, self._directory, name, self._peers, bounds)
        self._installing = Installing(db, self._directory, name, lambda: self._group, self._copied)
        self._led: tuple[int | None, int] = (None, 0)  # by whom and in which term, as those who listen know
        self.on_leader_change: list[Callable[[], None]] = []
        """Called after the leader, or the term of its leadership, changed as seen from here."""
        self.on_bound: list[Callable[[], None]] = []
        """Called after the ledger bound the name of a participant to another state."""
        self._bound: object = self.ledger.participants

    # -- doing ----------------------------------------------------------------------------------------------------

    def _group_of(self, stored: Stored) -> Group:
        now, rng = self._loop.time(), self._env.rng
        boot = rng.getrandbits(63)
        return Group(
            Guarded(stored.node_uuid.hex(), log_of(stored), self._timing, rng, now, self._bounds),
            start_of(stored),
            boot,
            now,
            self._bounds,
            horizon_ms_max=lambda: self._env.wall_ms() + limits.HORIZON_LEAP_MS_MAX,
        )

    async def start(self) -> None:
        """Listen for the peers, dial them, and take part.

        ConfigError if the port cannot be had, or if cluster.yaml names other nodes than the members that are stored.
        """
        if self._not_taken_over:
            raise ConfigError(self._not_taken_over)
        if awaited := self._identities.waiting_for:
            log.info("%s: takes no part before it has met each of %s once", self._name, ", ".join(awaited))
        await self._peers.start()
        try:
            await self._agree_with_file()
        except BaseException:
            await self._peers.stop()
            raise
        self._host.start()

    async def _agree_with_file(self) -> None:
        """ConfigError if cluster.yaml names others than the members.

        They may have changed while this node was down: then another member says so in a moment.
        """
        end = self._loop.time() + self._bounds.ask_members_ms / 1000
        while self._identities.contradiction and self._peers.has_others:
            self._heard.clear()
            try:
                async with asyncio.timeout_at(end):
                    await self._heard.wait()
            except TimeoutError:
                break
        if self._identities.contradiction:
            raise ConfigError(self._identities.contradiction)
        if self._identities.file_is_old:
            log.warning("%s: cluster.yaml does not name the members as they are now; bring it up to date", self._name)

    async def stop(self) -> None:
        """Take part no more; answer every open proposal; wait for a sync that runs."""
        was_running = self._host.running
        self._host.stop()
        await self._outgoing.stop()
        await self._peers.stop()
        await self._host.settled()
        if was_running:
            self._answer_all(Unavailable("this node stops; ask another one"))

    def propose(self, command: Command, deadline: float, done: Done) -> None:
        """Propose; ``done`` is called once with the ledger's result, Unavailable (nothing attempted) or NotKnown.

        ``deadline``: loop time (s). Raises Overloaded or Unavailable when nothing was attempted.
        """
        self._must_run()
        self._group.propose(command, deadline, done)
        if self.events.wanted:
            self.events.tell(Proposed(command))
        self._host.wake()

    def barrier(self, deadline: float, done: BarrierDone) -> None:
        """``done((term, index))`` when this node has applied what was committed before this call; else as ``propose``."""
        self._must_run()
        self._group.barrier(deadline, done)
        self._host.wake()

    def change_members(self, step: str, name: NodeName, deadline: float, done: MembersDone) -> None:
        """Make ``step`` ("add", "remove" or "replace") with node ``name``, at the leader.

        ``done`` is called once: with the new set when it is committed, with LocalProtocolError or Unavailable when nothing was
        attempted, or with NotKnown. ``deadline``: loop time (s).
        """
        self._must_run()
        self._steering.ask(StepAsked(step, name, deadline, done))
        self._host.wake()

    def _must_run(self) -> None:
        if not self._host.running:
            raise Unavailable("this node has stopped; ask another one")

    # -- what the peers say ---------------------------------------------------------------------------------------

    def on_message(self, node: int, message: Message) -> None:
        """A checked message of a peer: it waits for the next turn."""
        group = self._group
        self._host.hear(lambda now: self._receive(group, node, message, now))
        if self.events.wanted:
            self.events.tell(Heard(node, message))

    def after_messages(self, then: Callable[[], None]) -> None:
        """Call ``then`` when the messages so far have been judged."""
        self._host.hear(lambda now: then())

    def _receive(self, group: Group, node: int, message: Message, now: float) -> None:
        if group is not self._group:  # which took no part; the sender's id was that of the file, and may be another's
            return
        try:
            group.receive(node, message, now)
        except RemoteProtocolError as error:
            self._peers.hang_up(node, str(error))

    def on_link(self, node: int, up: bool) -> None:
        """A link came up or went down: it waits for the next turn, in order with the messages."""
        group = self._group
        self._host.hear(lambda now: group.connected(node, now) if up else group.disconnected(node, now))
        if self.events.wanted:
            self.events.tell(Linked(node, up))

    def on_copy(self, node: int, step: str, params: list[Any], reply: Callable[[Any], None]) -> None:
        """A step of a ledger copy that the leader sends."""
        self._installing.hear(node, step, params, reply)
        if self._installing.is_due:
            self._host.wake()

    def _copied(self) -> None:
        self.after_step()
        if self.events.wanted:
            self.events.tell(Copied(self._group.applied_index))

    # -- what the host asks ---------------------------------------------------------------------------------------

    @property
    def has_work(self) -> bool:
        """Whether a turn would do something here."""
        return self._steering.has_work or self._installing.is_due or self._identities.has_news

    def errand(self) -> Errand | None:
        """Who is who goes to the disk before anything is made of it (identity.py); a copy takes the place of the ledger."""
        if identities := self._identities.unsaved:
            return self._remember(write_of_identities(identities), lambda: self._remembered(identities))
        if invitation := self._identities.invitation:
            return self._remember(write_of_invitation(invitation), self._taken_in)
        if founding := self._identities.founding:
            return self._remember(write_of_founding(founding), self._founded)
        return self._installing.errand()

    def before_step(self, now: float) -> None:
        """The members may be changed now."""
        self._steering.turn(now)

    def applied(self, group: Group) -> None:
        """Who listens hears of it, and who needs a copy gets one."""
        bound = group.ledger.participants
        if bound is not self._bound:
            self._bound = bound
            for rebound in self.on_bound:
                rebound()
        leader, term = group.raft.leader, group.raft.term
        if (leader, term) != self._led:
            self._led = (leader, term)
            if leader is not None:
                log.info("%s: node %s leads in term %d", self._name, self._peers.name_of(leader), term)
            if self.events.wanted:
                self.events.tell(Led(None if leader is None else self._peers.name_of(leader), term))
            for listener in self.on_leader_change:
                listener()
        self._outgoing.serve(group.raft.behind, term if group.raft.is_leader else None)

    def expire(self, now: float) -> None:
        """A change of members need not wait for a sync that hangs."""
        self._steering.expire(now)

    def halted(self, error: BaseException) -> None:
        """Answer everybody, and say why."""
        log.critical("%s: halted: %s", self._name, error, exc_info=not isinstance(error, RaftcoordError))
        self._answer_all(Unavailable("this node has halted; ask another one"))
        self._on_halt(
            error if isinstance(error, RaftcoordError) else Halt(f"an error that raftcoord does not handle: {error!r}")
        )

    def _answer_all(self, error: Unavailable) -> None:
        """``error`` to those whose request was never attempted, NotKnown to the others."""
        self._group.fail_all(error)
        self._steering.refuse_all(error)

    def _news(self) -> None:
        self._heard.set()
        self._host.wake()

    # -- who takes part -------------------------------------------------------------------------------------------

    def _remember(self, write: Write, then: Callable[[], None]) -> Errand:
        def done(_: Any, error: BaseException | None) -> None:
            if error is not None:
                raise error
            then()

        return Errand(lambda: self._db.write(write), done)

    def _remembered(self, identities: dict[NodeName, str]) -> None:
        self._identities.saved(identities)
        for name, identity in identities.items():
            log.info("%s: node %s is known from now on as %s", self._name, name, identity[:8])

    def _taken_in(self) -> None:
        self._begin_anew()
        log.info("%s: is a member now, with the id %d, and gets the ledger", self._name, self._group.node)

    def _founded(self) -> None:
        self._begin_anew()
        self._group.raft.wait_a_while()
        log.info("%s: has met every other node, and takes part", self._name)

    def _begin_anew(self) -> None:
        """This node knows its members, and with them its id: the group that waited for them is replaced."""
        stored = self._db.load()
        waiting, self._group = self._group, self._group_of(stored)
        members = self._group.members
        check(members is not None, "a set of members was stored, and is not there")
        assert members is not None
        self._identities.follow(members, stored.members)
        self._group.take_over(waiting)
        self._host.groups = [self._group]
        self._peers.follow_members()
        for node in self._peers.up:
            self._group.connected(node, self._loop.time())

    def after_step(self) -> None:
        """What the log says of the members is what the links follow."""
        members, applied = self._group.members, self._group.ledger.members
        if members is None or (members is self._identities.members and applied is self._identities.applied):
            return
        new = members is not self._identities.members
        self._identities.follow(members, applied)
        self._peers.follow_members()
        if new:
            log.info("%s: members (epoch %d): %s", self._name, members.epoch, described(members))

    # -- what is read ---------------------------------------------------------------------------------------------

    @property
    def ledger(self) -> Ledger:
        """What this node has applied. Read only."""
        return self._group.ledger

    @property
    def group(self) -> Group:
        """What is replicated here. Read only. It is another one after this node was taken in: never keep it."""
        return self._group

    @property
    def is_leader(self) -> bool:
        return self._group.raft.is_leader

    @property
    def leader(self) -> NodeName | None:
        """The leader that a proposal could be handed to now, or None."""
        leader = self._group.reachable_leader
        return None if leader is None else self._peers.name_of(leader)

    @property
    def term(self) -> int:
        return self._group.raft.term

    @property
    def applied_index(self) -> int:
        return self._group.applied_index

    @property
    def applied_term(self) -> int:
        return self._group.applied_term

    def position(self) -> Position:
        """Where this node is in its group."""
        group, log = self._group, self._group.log
        return Position(
            self._role,
            self.leader,
            group.raft.term,
            group.raft.commit_index,
            group.applied_index,
            log.first_index,
            log.last_index,
        )

    @property
    def _role(self) -> str:
        if not self._group.raft.admitted:
            return "waiting"
        if self._peers.expelled_by and not self._peers.up:
            return "removed"
        if not self._group.raft.is_voter and self.members is not None:
            return "learner" if self._group.raft.is_member else "removed"
        return self._group.raft.role

    @property
    def members(self) -> Members | None:
        """The newest set of members in the log here, committed or not; None: none is known."""
        return self._group.members

    def peers_status(self) -> dict[NodeName, dict[str, Any]]:
        """For each peer: whether the link to it is up, why not, and at the leader up to where its log is known to agree.

        ``voter``: whether it counts for a majority; ``awaited``: this node takes no part before it has met that peer;
        ``expelled``: that peer refuses this node as no member;
        ``refused``: the identity (hex) that was refused under that name most recently, or "".
        """
        raft, members = self._group.raft, self.members
        awaited, expelled_by = self._identities.waiting_for, self._peers.expelled_by
        told: dict[NodeName, dict[str, Any]] = {}
        for name, why in self._peers.links().items():
            member = None if members is None else members.named(name)
            stranger = self._identities.refused(name)
            told[name] = {
                "up": not why,
                "why": why,
                "match": raft.match_index(member.id) if raft.is_leader and member is not None else None,
                "voter": member is not None and member.voter,
                "awaited": name in awaited,
                "expelled": name in expelled_by,
                "refused": "" if stranger is None else stranger.identity,
            }
        return told

    def clock_offsets(self) -> dict[NodeName, int | None]:
        """How far the clock of each other voter is ahead of ours (ms); None: it has not been heard for an election timeout."""
        members, heard, own = self.members, self._peers.clock_offsets(), self._identities.name
        voters = [] if members is None else [member.name for member in members.members if member.voter]
        return {
            name: heard.get(name) for name in voters if name != own
        }  # also one that nobody here can dial: it is silent
