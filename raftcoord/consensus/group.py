"""A group on one node: an engine, the ledger and the proposals that wait, as values in and effects out. No I/O, no asyncio.

Its driver repeats (host.py; the simulator):

    receive, propose, barrier      any number of times
    step(now)                      -> Ready
    send Ready.at_once             may happen before the sync
    store Ready.store              one commit, synced; meanwhile nothing of this group may be called but ``propose``,
                                   ``barrier`` and ``apply``
    stored(Ready.store)
    send Ready.after_sync          only now: votes, vote requests and acknowledgements show what is on disk
    apply(now)                     at any time between this step and the next: nobody waits for it to send or to sync
    ledger_store(now)              -> what of the ledger is to be stored now, in a commit that needs no sync; then ``stored``

Answers (``done`` callbacks) are called from ``apply``: what they tell is committed, that is, on the disks of a majority.

Proposals (proposals.py). What gathers between two steps becomes one entry, appended by the leader, here or elsewhere, and
answered when this node applies the entry of that name.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Final, NamedTuple

from raftcoord import limits
from raftcoord.consensus.engine import (
    MEMBERS,
    NO_OP,
    NOTHING_STAGED,
    REGULAR,
    Engine,
    EntryTriple,
    Log,
    Message,
    Staged,
)
from raftcoord.consensus.entries import Kept, Opened, acceptable, reopened
from raftcoord.consensus.members_in_log import MembersInLog, members_in
from raftcoord.consensus.proposals import BarrierDone, Batch, Done, Proposals
from raftcoord.core.machine import Ledger
from raftcoord.core.tables.members import Members, encode, follows
from raftcoord.core.tables.table import NO_CHANGES, Changes, Command
from raftcoord.errors import Halt, NotKnown, RaftcoordError, Unavailable, check
from raftcoord.limits import NodeBounds

MembersDone = Callable[[Members | RaftcoordError], None]

STORE_DELAY: Final = 0.05
"""Seconds that applied decisions may wait to be stored in the ledger: until then the log on disk has them."""

STORE_DECISIONS: Final = 512
"""Applied decisions that may wait so. Storing many at once writes each page of the ledger once instead of many times."""

SMALL_BYTES: Final = 1024
"""Bytes of log records that make a small sync: about ten decisions."""


class Store(NamedTuple):
    """What goes to disk in one commit: log records, term and vote, to be synced; or what changed of the ledger.

    ``applied``: (index, term) up to which ``changes`` bring the stored ledger; None: the ledger stays as it is stored.
    ``drop_before``: log rows below this index are not needed any more.
    """

    staged: Staged
    changes: Changes
    applied: tuple[int, int] | None
    drop_before: int | None
    last_index: int

    @property
    def is_small(self) -> bool:
        """Whether it is a few log records at most."""
        return sum(len(data) for data, _, _ in self.staged.append) <= SMALL_BYTES


class Ready(NamedTuple):
    """What one step wants done; see the module's head for the order. ``store`` None: nothing to store now."""

    at_once: list[tuple[int, Message]]
    store: Store | None
    after_sync: list[tuple[int, Message]]


class Start(NamedTuple):
    """What a group goes on from: ``ledger``, applied up to ``applied`` (index, term), and the members before what follows that.

    ``hearsay``: those are only what another node said.
    """

    ledger: Ledger
    applied: tuple[int, int]
    members: Members | None
    hearsay: bool


class Group:
    """See the module's head. ``boot``: random, 63 bits, new each start.

    It takes no part while its log knows no members (hazard H16). ``horizon_ms_max``: the latest time to which a peer may move the
    horizon, as of now.
    """

    def __init__(
        self,
        engine: Engine,
        start: Start,
        boot: int,
        now: float,
        bounds: NodeBounds,
        horizon_ms_max: Callable[[], int] = lambda: limits.TIME_MS_MAX,
    ) -> None:
        self.raft = engine
        self.log: Log = engine.log
        self.ledger = start.ledger
        self.boot = boot
        self.applied_index, self.applied_term = start.applied
        after = engine.log.between(self.applied_index, engine.log.last_index)
        self._sets = MembersInLog(start.members, self.applied_index, after, hearsay=start.hearsay)
        engine.follow(self._sets.newest)
        self._changing: tuple[int, int, float, MembersDone] | None = None  # (index, term, deadline, done)
        self.proposals = Proposals(bounds.proposals_max)
        self._links: dict[int, int] = {}  # link generation by peer; 0: down
        self._generation = 0
        self._forwarded: list[tuple[int, bytes, tuple[Command, ...]]] = []
        self._kept = Kept(self.log)
        self._horizon_ms_max = horizon_ms_max
        self._slack: Final = bounds.log_compact_slack
        self._memory_max: Final = bounds.memory_decisions_max
        self._stored_at = now
        self._stored_index = self.applied_index
        self._unstored = self.ledger.changed_count  # counted when entries were applied, not in every step

    @property
    def node(self) -> int:
        """This node's id, 0 while it is no member."""
        return self.raft.id

    # -- asking ---------------------------------------------------------------------------------------------------

    @property
    def members(self) -> Members | None:
        """The newest set of members in the log, committed or not; None: none is known."""
        return self._sets.newest.members

    @property
    def reachable_leader(self) -> int | None:
        """The leader to whom a proposal can be handed now: this node, or one whose link is up."""
        if (
            self.raft.is_leader
        ):  # not by the id: the one that this node was told in an uncommitted set may be another's now
            return self.node
        leader = self.raft.leader
        return leader if leader is not None and leader in self._links else None

    @property
    def has_work(self) -> bool:
        """Whether a step would do something now, other than by a message or by the passing of time."""
        return bool(self.proposals.gathering or self._forwarded) or (
            self.raft.is_leader and self.log.synced_index > self.raft.commit_index
        )

    # -- proposing ------------------------------------------------------------------------------------------------

    def propose(self, command: Command, deadline: float, done: Done) -> None:
        """Propose one command; ``done`` gets the ledger's result, or Unavailable, or NotKnown at ``deadline`` (seconds).

        Raises Overloaded when too many are open: nothing was attempted.
        """
        self.proposals.propose(command, deadline, done)

    def barrier(self, deadline: float, done: BarrierDone) -> None:
        """Call ``done((term, index))`` when this node has applied everything that was committed before this call."""
        self.proposals.barrier(deadline, done)

    def change_members(self, members: Members, deadline: float, done: MembersDone) -> None:
        """Leader only: make this step. ``done`` gets the set when it is committed, NotKnown at ``deadline`` or if it may be lost.

        Raises Unavailable when it cannot be proposed here and now: nothing was attempted.
        """
        before = self.members
        check(before is not None and follows(before, members), "members would change in more than one step")
        if not self.raft.may_change_members or self._changing is not None:
            raise Unavailable(
                "this node does not lead, or the last change of the members is not settled yet; try again"
            )
        index, term = self.raft.propose(MEMBERS + encode(members)), self.raft.term
        self._sets.add(index, term, members)
        self.raft.follow(self._sets.newest)
        self._changing = (index, term, deadline, done)

    # -- links and messages ---------------------------------------------------------------------------------------

    def connected(self, node: int, now: float) -> None:
        """The link to that peer is up."""
        self._generation += 1
        self._links[node] = self._generation
        self.raft.connected(node, now)

    def disconnected(self, node: int, now: float) -> None:
        """The link to that peer is down."""
        self._links.pop(node, None)
        self.raft.disconnected(node, now)

    def receive(self, sender: int, message: Message, now: float) -> None:
        """Take one decoded message. Entries handed over by a peer are appended by the next step, if this node leads.

        Raises RemoteProtocolError, and takes nothing, if an entry could not be applied or the term cannot be (entries, leaps).
        """
        if message["type"] == "propose":
            if self.raft.is_leader:
                entries, latest = message["entries"], self._horizon_ms_max()
                self._forwarded += [(sender, entry, acceptable(entry, latest)) for entry in entries]
            return
        arriving = self.raft.arriving(message)
        if not arriving.entries:
            self.raft.receive(sender, message, now)
            return
        name = (self.node, self.boot)
        sets = self._kept.open(arriving, name, self.proposals.flying, self._horizon_ms_max(), self._sets.before)
        self.raft.receive(sender, message, now)
        self._follow_log(sets)

    def _follow_log(self, arrived: list[tuple[int, int, Members]]) -> None:
        """The engine has truncated and appended as it must, or refused all: what the log holds now is in force."""
        before = self._sets.newest
        self._sets.truncated(self.log)
        for index, term, members in arrived:
            if self.log.term_at(index) == term:
                self._sets.add(index, term, members)
        if self._sets.newest is not before:
            self.raft.follow(self._sets.newest)

    # -- the step -------------------------------------------------------------------------------------------------

    def step(self, now: float, congested: Collection[int] = ()) -> Ready:
        """Do everything that others wait for at ``now`` (seconds, monotonic). See the module's head for what is owed next.

        ``congested``: peers to whom so much is unsent that they should get no more entries now.
        """
        forwards = self._place()
        at_once, staged, after_sync = self.raft.step(now, congested)
        store = None if staged is None else Store(staged, NO_CHANGES, None, None, self.log.last_index)
        return Ready(forwards + at_once, store, after_sync)

    def apply(self, now: float) -> None:
        """Apply what is committed, answer those who wait for it, and those whose deadline has come."""
        if committed := self.raft.take_committed():
            self._apply(committed)
            self._unstored = self.ledger.changed_count
        self.expire(now)

    def expire(self, now: float) -> None:
        """Answer those whose deadline has come (H14). Also while a sync runs, which may hang for as long as the disk likes."""
        if self._changing is not None and self._changing[2] <= now:
            self._changed(NotKnown())
        if self.proposals.earliest <= now:
            self.proposals.expire(now)

    def ledger_store(self, now: float) -> Store | None:
        """What of the ledger is to be stored now, or None. The log on disk has it already, so no sync is needed."""
        if not self._ledger_is_due(now):
            return None
        check(not self.log.dirty, "the ledger overtook the log")
        drop_before = self.raft.compact(self.applied_index)
        if drop_before is not None:
            self._sets.compacted(self.applied_index)
        applied = (self.applied_index, self.applied_term)
        self._unstored = 0
        return Store(NOTHING_STAGED, self.ledger.take_changes(), applied, drop_before, self.log.last_index)

    def stored(self, store: Store, now: float) -> None:
        """``store`` is on disk."""
        self.raft.synced(store.last_index)
        if store.applied is None:
            return
        self._stored_at = now
        self._stored_index = store.applied[0]
        self.ledger.stored(store.changes)
        self.ledger.shed(self._stored_index, self._memory_max)

    @property
    def stored_index(self) -> int:
        """Up to which the ledger on disk has been applied; a copy of it begins there."""
        return self._stored_index

    def needs_copy(self, index: int, term: int) -> bool:
        """Whether a copy of the ledger up to (index, term) is to be installed.

        Not if that much is applied here. Nor if the log holds that entry: what follows it may be acknowledged, and would
        be lost (Raft section 7).
        """
        return index > self.applied_index and self.log.term_at(index) != term

    def installed(self, ledger: Ledger, index: int, term: int) -> None:
        """A copy of the ledger up to (index, term) replaced what was stored.

        What was handed over is proposed again: the entry that would have answered it may lie behind the copy.
        """
        check(self.needs_copy(index, term), "a copy of the ledger replaced what was applied or acknowledged")
        self.ledger = ledger
        self.applied_index, self.applied_term = index, term
        self._stored_index = index
        self._unstored = ledger.changed_count
        self.proposals.hand_over_again()
        self.raft.installed(index, term)
        self._sets.reset(ledger.members, index)
        self.raft.follow(self._sets.newest)

    def take_over(self, waiting: Group) -> None:
        """What gathered in a group that never took part is proposed by this one."""
        self.proposals.take_over(waiting.proposals)

    def fail_all(self, error: Unavailable) -> None:
        """This group stops: answer ``error`` to what was never handed to a leader, NotKnown to what was."""
        self._changed(NotKnown())
        self.proposals.fail_all(error)

    def ledger_is_overdue(self, now: float) -> bool:
        """Whether the ledger must be stored before anything else, because it never found a quiet moment."""
        return self._ledger_is_due(now, patience=8)

    def _ledger_is_due(self, now: float, patience: int = 1) -> bool:
        return (
            (self._unstored > 0 and now - self._stored_at >= STORE_DELAY * patience)
            or self._unstored >= STORE_DECISIONS * patience
            or self.applied_index - self._stored_index >= self._slack * patience
        )

    def _place(self) -> list[tuple[int, Message]]:
        """Hand every batch to the leader of now, unless it was handed to that one over that link already."""
        self._append_forwarded()
        leader = self.reachable_leader
        if leader is None:
            return []
        place = (leader, self.raft.term, self._links.get(leader, 0))
        if self.proposals.gathering:
            self.proposals.seal(self.node, self.boot)
        batches = self.proposals.hand_over(place)
        if self.raft.is_leader:
            for batch in batches:
                self._append(batch.entry, batch.commands, batch, None)
            return []
        return [(leader, {"type": "propose", "entries": [batch.entry]}) for batch in batches]

    def _append_forwarded(self) -> None:
        if self.raft.is_leader:
            for asker, entry, commands in self._forwarded:
                self._append(entry, commands, None, asker)
        self._forwarded.clear()

    def _append(self, entry: bytes, commands: Sequence[Command], batch: Batch | None, asker: int | None) -> None:
        data = REGULAR + entry
        index = self.raft.propose(data, asker)
        self._kept.put(index, Opened(data, commands, batch))

    # -- applying -------------------------------------------------------------------------------------------------

    def _apply(self, entries: list[EntryTriple]) -> None:
        for data, index, term in entries:
            check(index == self.applied_index + 1, f"entry {index} does not follow the applied {self.applied_index}")
            self.applied_index, self.applied_term = index, term
            if data[:1] == REGULAR:
                self._apply_entry(data, term, index)
            elif data[:1] == MEMBERS:
                self._apply_members(members_in(data), term, index)
            elif data != NO_OP:
                raise Halt(
                    f"log entry {index} is of a kind this version does not know; it was written by a newer version of "
                    "raftcoord: start this node with that version"
                )

    def _apply_entry(self, data: bytes, term: int, index: int) -> None:
        apply = self.ledger.apply
        entry = self._kept.take(index, data) or reopened(data, (self.node, self.boot), self.proposals.flying)
        batch = entry.batch
        if batch is None or not self.proposals.landed(batch):  # somebody else's, or ours and answered before
            for command in entry.commands:
                apply(command, term, index)
            return
        results = [apply(command, term, index) for command in batch.commands]
        for (_, done), result in zip(batch.waiting, results, strict=True):
            done(result)
        for _, reached in batch.barriers:
            reached((term, index))

    def _apply_members(self, members: Members, term: int, index: int) -> None:
        self.ledger.change_members(members)
        if self._changing is not None and self._changing[0] <= index:
            self._changed(members if self._changing[:2] == (index, term) else NotKnown())

    def _changed(self, answer: Members | RaftcoordError) -> None:
        changing, self._changing = self._changing, None
        if changing is not None:
            changing[3](answer)

    # -- deadlines ------------------------------------------------------------------------------------------------
