"""The event loop's one rule: tick, then sync, then flush.

    tick    deliver what arrived, hand over the proposals that gathered, step the group;
    sync    store everything that the step staged in node.db, in a worker thread, one commit, one fsync;
    flush   only then let votes and acknowledgements go. Entries to followers may go before.

While a sync runs, messages and proposals gather: that is the group commit, and it needs no timer. A small sync on a quick disk
is done in the event loop itself, because a thread and back would cost as much again.

What cannot be handled halts the node: ``on_halt`` is called once, and this object does nothing more. A failed sync is never
retried, because what the disk kept of it is not known.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final

from raftcoord import limits
from raftcoord.config import Config
from raftcoord.consensus.batches import BarrierDone, Done
from raftcoord.consensus.copies import Incoming, Outgoing
from raftcoord.consensus.disk import (
    ledger_of,
    log_of,
    not_taken_over,
    start_of,
    write_of,
    write_of_founding,
    write_of_identities,
    write_of_invitation,
)
from raftcoord.consensus.engine import Message, Timing
from raftcoord.consensus.group import Group, MembersDone, Ready, Store
from raftcoord.consensus.identity import Identities, Place
from raftcoord.consensus.leaps import check_copy
from raftcoord.consensus.peers import Peers
from raftcoord.consensus.pysyncobj.guard import Guarded
from raftcoord.consensus.steering import Asked, Steering
from raftcoord.consensus.sync_thread import Runner, SyncThread
from raftcoord.consensus.view import View
from raftcoord.core.commands import Command
from raftcoord.core.members import described
from raftcoord.env import Env
from raftcoord.errors import (
    ConfigError,
    CorruptionError,
    Halt,
    RaftcoordError,
    RemoteProtocolError,
    Unavailable,
    check,
)
from raftcoord.storage.node_db import NodeDb, SnapshotInfo, Stored, Write
from raftcoord.types import NodeName

log: Final = logging.getLogger("raftcoord.consensus")

ASK_MEMBERS_S: Final = 3.0
"""Seconds that a node whose cluster.yaml contradicts its stored members waits for another member to say that they changed."""


class Consensus(View):
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
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._name = name
        self._db = db
        self._on_halt = on_halt
        self._runner: Runner = SyncThread(f"{name} sync") if runner is None else runner
        self._own_thread = self._runner if isinstance(self._runner, SyncThread) else None
        self._directory = config.node(name).data_dir
        self._env = env
        stored = db.load()
        self._not_taken_over = not_taken_over(stored, name, [node.name for node in config.nodes])
        timing = config.timing
        self._timing = Timing(timing.heartbeat_ms / 1000, timing.election_ms_min / 1000, timing.election_ms_max / 1000)
        boot = env.rng.getrandbits(63)
        self._group = self._group_of(stored)
        self._identities = Identities(
            stored.node_uuid.hex(),
            name,
            {n.name: Place(config.node_id(n.name), str(n.peer), str(n.client)) for n in config.nodes},
            {**stored.peers, **stored.enrolled},
            self._group.members,
            stored.joined,
            on_change=self._news,
            now=self._loop.time,
        )
        self._heard = asyncio.Event()
        self._peers = Peers(config, name, env, boot, self, lambda: self.ledger.cluster, self._identities)
        self._steering = Steering(name, lambda: self._group, self._peers, self._identities, self._timing.election_min)
        self._inbox: list[Callable[[float], None]] = []
        self._scheduled = False
        self._busy = False
        self._running = False
        self._timer: asyncio.TimerHandle | None = None
        self._idle = asyncio.Event()
        self._outgoing = Outgoing(db, self._directory, name, self._peers)
        self._incoming = Incoming(self._directory)
        self._install: tuple[SnapshotInfo, Any, Callable[[Any], None]] | None = None
        self._told: tuple[int | None, int, str] = (None, 0, "")
        self.on_leader_change: list[Callable[[], None]] = []
        """Called after the leader, or the term of its leadership, changed as seen from here."""
        self.on_founded: list[Callable[[str], None]] = []
        """Called once with the cluster's id, when it becomes known while running."""
        self.on_bound: list[Callable[[], None]] = []
        """Called after the ledger bound the name of a participant to another state."""
        self._bound: object = self.ledger.participants

    # -- doing ----------------------------------------------------------------------------------------------------

    def _group_of(self, stored: Stored) -> Group:
        now, rng = self._loop.time(), self._env.rng
        boot = rng.getrandbits(63)
        return Group(
            Guarded(stored.node_uuid.hex(), log_of(stored), self._timing, rng, now),
            start_of(stored, self._db),
            boot,
            now,
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
        self._running = True
        self._beat()

    async def _agree_with_file(self) -> None:
        """ConfigError if cluster.yaml names others than the members.

        They may have changed while this node was down: then another member says so in a moment.
        """
        end = self._loop.time() + ASK_MEMBERS_S
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
        was_running, self._running = self._running, False
        if self._timer is not None:
            self._timer.cancel()
        await self._outgoing.stop()
        await self._peers.stop()
        while self._busy:
            self._idle.clear()
            await self._idle.wait()
        if was_running:
            self._answer_all(Unavailable("this node stops; ask another one"))
        if self._own_thread is not None:
            self._own_thread.close()

    def propose(self, command: Command, deadline: float, done: Done) -> None:
        """Propose; ``done`` is called once with the ledger's result, Unavailable (nothing attempted) or NotKnown.

        ``deadline``: loop time (s). Raises Overloaded or Unavailable when nothing was attempted.
        """
        if not self._running:
            raise Unavailable("this node has stopped; ask another one")
        self._group.propose(command, deadline, done)
        self._wake()

    def barrier(self, deadline: float, done: BarrierDone) -> None:
        """``done((term, index))`` when this node has applied what was committed before this call; else as ``propose``."""
        if not self._running:
            raise Unavailable("this node has stopped; ask another one")
        self._group.barrier(deadline, done)
        self._wake()

    def change_members(self, step: str, name: NodeName, deadline: float, done: MembersDone) -> None:
        """Make ``step`` ("add", "remove" or "replace") with node ``name``, at the leader.

        ``done`` is called once: with the new set when it is committed, with LocalProtocolError or Unavailable when nothing was
        attempted, or with NotKnown. ``deadline``: loop time (s).
        """
        if not self._running:
            raise Unavailable("this node has stopped; ask another one")
        self._steering.ask(Asked(step, name, deadline, done))
        self._wake()

    # -- what the peers say ---------------------------------------------------------------------------------------

    def on_message(self, node: int, message: Message) -> None:
        """A checked message of a peer: it waits for the next turn."""
        group = self._group
        self._inbox.append(lambda now: self._receive(group, node, message, now))
        self._wake()

    def after_messages(self, then: Callable[[], None]) -> None:
        """Call ``then`` when the messages so far have been judged."""
        self._inbox.append(lambda now: then())
        self._wake()

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
        self._inbox.append(lambda now: group.connected(node, now) if up else group.disconnected(node, now))
        self._wake()

    def on_copy(self, node: int, step: str, params: list[Any], reply: Callable[[Any], None]) -> None:
        """A step of a ledger copy that the leader sends."""
        if not self._group.raft.admitted:  # H16
            raise Unavailable("this node takes no part yet; raftcoord status says whom it waits for")
        if step == "copy_begin":
            if self._install is not None:  # from the very file that a second copy would be written to
                raise Unavailable("this node is installing a copy of the ledger already; send another one later")
            term = self._incoming.begin(node, params, self._check_copy)
            if term < self._group.raft.term:
                self._incoming.drop()
                raise Unavailable(
                    "the leader of an older term sent a copy of its ledger; the new leader's is taken instead"
                )
            reply(True)
        elif step == "copy_chunk":
            self._incoming.chunk(node, params)
            reply(True)
        else:
            path, info = self._incoming.end(node)
            self._install = (info, path, reply)
            self._wake()

    # -- tick, sync, flush ----------------------------------------------------------------------------------------

    def _beat(self) -> None:
        self._timer = self._loop.call_later(self._timing.heartbeat / 2, self._beat)
        if self._busy:  # a step would have to wait for the disk; those whose time is up need not
            try:
                self._group.expire(self._loop.time())
                self._steering.expire(self._loop.time())
            except Exception as error:
                self._halt(error)
        self._wake()

    def _news(self) -> None:
        self._heard.set()
        self._wake()

    def _wake(self) -> None:
        if not self._scheduled and not self._busy and self._running:
            self._scheduled = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._scheduled = False
        if self._busy or not self._running:
            return
        try:
            if identities := self._identities.unsaved:
                self._remember(write_of_identities(identities), lambda: self._remembered(identities))
                return
            if invitation := self._identities.invitation:
                self._remember(write_of_invitation(invitation), self._taken_in)
                return
            if founding := self._identities.founding:
                self._remember(write_of_founding(founding), self._founded)
                return
            if self._install is not None:
                self._begin_install()
                return
            now = self._loop.time()
            if self._group.ledger_is_overdue(now):
                self._store_ledger(now)
                return
            self._drain(now)
            self._steering.turn(now)
            ready = self._group.step(now, self._peers.congested)
            self._follow_members()
            self._peers.send(ready.at_once)
            if ready.store is not None:
                self._sync(ready, ready.store, now)
                return
            self._peers.send(ready.after_sync)
            self._apply(now)
            self._store_ledger(now)
        except Exception as error:
            self._halt(error)

    def _apply(self, now: float) -> None:
        self._group.apply(now)
        self._tell()
        self._outgoing.serve(self._group.raft.behind, self.term if self.is_leader else None)

    def _sync(self, ready: Ready, store: Store, now: float) -> None:
        """At the leader clients wait for what is committed; at a follower the leader waits for the sync. They come first."""
        leads = self.is_leader
        if leads:
            self._apply(now)
        thread = self._own_thread
        if thread is None or not thread.is_quick or not store.is_small:
            self._sync_elsewhere(ready, store, apply=not leads)
            return
        thread.run_here(lambda: self._db.write(write_of(store)))
        self._flush(ready, store, apply=not leads)
        self._store_ledger(now)
        if self._group.has_work:
            self._wake()

    def _sync_elsewhere(self, ready: Ready, store: Store, apply: bool) -> None:
        self._busy = True
        write = write_of(store)
        self._runner.run(lambda: self._db.write(write), lambda _, error: self._synced(ready, store, apply, error))

    def _flush(self, ready: Ready, store: Store, apply: bool) -> None:
        now = self._loop.time()
        self._group.stored(store, now)
        self._peers.send(ready.after_sync)
        if apply:
            self._apply(now)

    def _store_ledger(self, now: float) -> None:
        """What of the ledger is due goes to the disk when nobody waits for the disk."""
        store = self._group.ledger_store(now)
        if store is not None:
            self._sync_elsewhere(Ready([], store, []), store, apply=False)

    def _remember(self, write: Write, then: Callable[[], None]) -> None:
        """Who is who goes to the disk before anything is made of it (identity.py)."""
        self._busy = True
        self._runner.run(lambda: self._db.write(write), lambda _, error: self._after_remembering(then, error))

    def _after_remembering(self, then: Callable[[], None], error: BaseException | None) -> None:
        self._busy = False
        self._idle.set()
        if not self._running:
            return
        try:
            if error is not None:
                raise error
            then()
        except Exception as caught:
            self._halt(caught)
            return
        self._turn()

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
        self._peers.follow_members()
        for node in self._peers.up:
            self._group.connected(node, self._loop.time())

    def _follow_members(self) -> None:
        """What the log says of the members is what the links follow."""
        members, applied = self._group.members, self._group.ledger.members
        if members is None or (members is self._identities.members and applied is self._identities.applied):
            return
        new = members is not self._identities.members
        self._identities.follow(members, applied)
        self._peers.follow_members()
        if new:
            log.info("%s: members (epoch %d): %s", self._name, members.epoch, described(members))

    def _drain(self, now: float) -> None:
        inbox, self._inbox = self._inbox, []
        for event in inbox:
            event(now)

    def _synced(self, ready: Ready, store: Store, apply: bool, error: BaseException | None) -> None:
        self._busy = False
        self._idle.set()
        if not self._running:
            return
        try:
            if error is not None:
                raise error
            self._flush(ready, store, apply)
            if (
                self._inbox
                or self._steering.has_work
                or self._install is not None
                or self._group.has_work
                or self._identities.has_news
            ):
                self._turn()
            else:
                self._store_ledger(self._loop.time())
        except Exception as caught:
            self._halt(caught)

    def _tell(self) -> None:
        bound = self.ledger.participants
        if bound is not self._bound:
            self._bound = bound
            for rebound in self.on_bound:
                rebound()
        leader, term, cluster = self._group.raft.leader, self.term, self.ledger.cluster
        if (leader, term, cluster) == self._told:
            return
        told, self._told = self._told, (leader, term, cluster)
        if (leader, term) != told[:2]:
            if leader is not None:
                log.info("%s: node %s leads in term %d", self._name, self._peers.name_of(leader), term)
            for listener in self.on_leader_change:
                listener()
        if cluster != told[2]:
            for founded in self.on_founded:
                founded(cluster)

    def _halt(self, error: BaseException) -> None:
        if not self._running:
            return
        self._running = False
        if self._timer is not None:
            self._timer.cancel()
        log.critical("%s: halted: %s", self._name, error, exc_info=not isinstance(error, RaftcoordError))
        self._answer_all(Unavailable("this node has halted; ask another one"))
        self._on_halt(
            error if isinstance(error, RaftcoordError) else Halt(f"an error that raftcoord does not handle: {error!r}")
        )

    def _answer_all(self, error: Unavailable) -> None:
        """``error`` to those whose request was never attempted, NotKnown to the others."""
        self._group.fail_all(error)
        self._steering.refuse_all(error)

    # -- copies of the ledger -------------------------------------------------------------------------------------

    def _check_copy(self, term: int, index: int, index_term: int) -> None:
        check_copy(term, index, index_term, self.term, self.applied_index)

    def _begin_install(self) -> None:
        assert self._install is not None
        info, path, reply = self._install
        if not self._group.needs_copy(info.index, info.term):
            self._install = None
            self._incoming.drop()
            reply(True)
            self._wake()
            return
        self._busy = True
        log.info("%s: installing a copy of the ledger up to index %d", self._name, info.index)

        def work() -> Stored:
            self._db.install(path, info)
            return self._db.load()

        self._runner.run(work, lambda stored, error: self._installed(stored, error, reply))

    def _installed(self, stored: Stored | None, error: BaseException | None, reply: Callable[[Any], None]) -> None:
        self._busy = False
        self._idle.set()
        self._install = None
        self._incoming.drop()
        if not self._running:
            return
        if isinstance(error, CorruptionError | ConfigError):  # H5: refused whole, and what was here still stands
            log.error("%s: refused a copy of the ledger: %s", self._name, error)
            reply(False)
            self._wake()
            return
        try:
            if error is not None or stored is None:
                raise error or Halt("the copy of the ledger vanished")
            self._group.installed(ledger_of(stored, self._db), stored.applied_index, stored.applied_term)
            self._follow_members()
        except Exception as caught:
            self._halt(caught)
            return
        reply(True)
        self._wake()
