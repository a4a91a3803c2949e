"""PySyncObj driven from outside: what engine.py asks for, but for what to do with a message (guard.py).

Every call that may look at the clock brings the time. The log stages what must be synced; an entry counts for the leader itself
only when it is synced.

Replaced here: the tick (one send for everything that gathered, and the commit index at once to a follower that waits for it:
H13), the counting of the leader's own log, the fallback of a leader without a majority after one election timeout instead of
30 s (H11), the wiring of administrative commands: there is none (H15), and every majority: it is counted over the voters that
``follow`` brings, which PySyncObj knows nothing of.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Collection
from typing import Any, Final

from raftcoord.consensus.engine import EngineTiming, EntryTriple, InForce, Message, Step, StoredLog
from raftcoord.consensus.pysyncobj.library import CLOCK, STATE, Node, SyncObj, SyncObjConf, Transport
from raftcoord.consensus.pysyncobj.log import RaftLog
from raftcoord.errors import check
from raftcoord.limits import APPEND_BYTES_MAX, NodeBounds

_ROLES: Final = {STATE.FOLLOWER: "follower", STATE.CANDIDATE: "candidate", STATE.LEADER: "leader"}


class _Outbox(Transport):  # type: ignore[misc]
    """PySyncObj's transport: collects what it wants to send. It wires no administrative command (H15)."""

    def __init__(self) -> None:
        super().__init__(None, None, ())
        self.messages: list[tuple[int, Message]] = []

    def setOnUtilityMessageCallback(self, message: str, callback: Any) -> None:
        """Nothing: status, add, remove, set_version and transfer are not offered to those who reach the port (H15)."""

    def send(self, node: Any, message: Message) -> bool:
        self.messages.append((node.id, message))
        return True


def _settings(timing: EngineTiming, log: RaftLog) -> Any:
    return SyncObjConf(
        autoTick=False,
        commandsWaitLeader=False,
        dynamicMembershipChange=False,
        useFork=False,
        raftMinTimeout=timing.election_min,
        raftMaxTimeout=timing.election_max,
        appendEntriesPeriod=timing.election_min / 4,  # nobody reads it, and it must be below a third
        leaderFallbackTimeout=timing.election_max,  # H11: 30 s as it comes
        connectionTimeout=max(3.5, timing.election_max),
        journalFile=log,
    )


class Raft(SyncObj):  # type: ignore[misc]
    """One node's PySyncObj. What each method owes is said in engine.py.

    ``identity``: of this node's data. Its id is that of the member with this identity in the set that is in force, 0 while it is
    none: an id is known by the log alone, because one that was never committed may be given to another node.
    """

    admitted = False

    _SyncObj__raftState: int
    _SyncObj__raftCurrentTerm: int
    _SyncObj__votesCount: int
    _SyncObj__raftLeader: Any
    _SyncObj__raftElectionDeadline: float
    _SyncObj__raftCommitIndex: int
    _SyncObj__raftLastApplied: int
    _SyncObj__raftNextIndex: dict[Any, int]
    _SyncObj__raftMatchIndex: dict[Any, int]
    _SyncObj__lastResponseTime: dict[Any, float]
    _SyncObj__newAppendEntriesTime: float
    _SyncObj__connectedNodes: set[Any]
    _SyncObj__otherNodes: set[Any]
    _SyncObj__selfNode: Any

    def __init__(
        self, identity: str, stored: StoredLog, timing: EngineTiming, rng: random.Random, now: float, bounds: NodeBounds
    ) -> None:
        self.identity: Final = identity
        self.log: Final = RaftLog(stored, bounds)
        self._id = 0
        self._now = CLOCK.now = now
        self._timing: Final = timing
        self._rng: Final = rng
        self._congested: Collection[int] = ()
        self._unsent: set[Any] = set()  # peers that have acknowledged, and have not been sent all of the log
        self._nodes: dict[int, Any] = {}  # every node that was ever spoken to, by id; PySyncObj compares the objects
        self._peers: list[Any] = []  # the other members, in the order of their ids
        self._in_force = InForce(None, stored.applied_index)
        self.voters: frozenset[int] = frozenset()
        self.is_member = False
        self._outbox: Final = _Outbox()
        self._committed: list[EntryTriple] = []
        self._send_now = False
        self._asked: deque[tuple[int, int]] = deque()  # (index, peer): whose entries wait for the commit index
        self.behind: set[int] = set()
        super().__init__(Node(0), [], _settings(timing, self.log), transport=self._outbox)
        self._SyncObj__raftLastApplied = stored.applied_index

    # -- what the outside may ask ---------------------------------------------------------------------------------

    @property
    def role(self) -> str:
        return _ROLES[self._SyncObj__raftState]

    @property
    def is_leader(self) -> bool:
        return bool(self._SyncObj__raftState == STATE.LEADER)

    @property
    def leader(self) -> int | None:
        node = self._SyncObj__raftLeader
        return None if node is None else node.id

    @property
    def term(self) -> int:
        return self._SyncObj__raftCurrentTerm

    @property
    def vote(self) -> int | None:
        return self.log.getVotedForNodeId()

    @property
    def commit_index(self) -> int:
        return self._SyncObj__raftCommitIndex

    @property
    def applied_index(self) -> int:
        """The highest index handed out for applying."""
        return self._SyncObj__raftLastApplied

    def match_index(self, node: int) -> int:
        return self._SyncObj__raftMatchIndex.get(self._node(node), 0)

    @property
    def id(self) -> int:
        return self._id

    @property
    def is_voter(self) -> bool:
        return self.is_member and self._id in self.voters

    @property
    def majority(self) -> int:
        return len(self.voters) // 2 + 1

    @property
    def may_change_members(self) -> bool:
        settled = self.log.term_at(self.commit_index) == self.term and self._in_force.at <= self.commit_index
        return self.is_leader and settled

    # -- what the outside may do ----------------------------------------------------------------------------------

    def connected(self, node: int, now: float) -> None:
        self._now = CLOCK.now = now
        peer = self._node(node)
        self._SyncObj__onNodeConnected(peer)
        if self.is_leader and peer in self._SyncObj__otherNodes:
            self._SyncObj__raftNextIndex[peer] = max(self._SyncObj__raftMatchIndex[peer] + 1, self.log.first_index + 1)
            self._send_now = True

    def disconnected(self, node: int, now: float) -> None:
        self._now = CLOCK.now = now
        self._SyncObj__onNodeDisconnected(self._node(node))

    def follow(self, in_force: InForce) -> None:
        newest, before, self._in_force = in_force.members, self._in_force.members, in_force
        self.admitted = newest is not None
        if newest is before:
            return
        members = () if newest is None else newest.members
        own = None if newest is None else newest.with_identity(self.identity)
        if own is not None and own.id != self._id:
            check(not self.is_leader, "the id of a leader changed")
            self._id = own.id
            self._SyncObj__selfNode = self._node(own.id)
        self.is_member = own is not None
        self.voters = frozenset(member.id for member in members if member.voter)
        self._peers = [self._node(member.id) for member in members if member is not own]
        known, self._SyncObj__otherNodes = self._SyncObj__otherNodes, set(self._peers)
        for node in known - self._SyncObj__otherNodes:
            for table in (self._SyncObj__raftNextIndex, self._SyncObj__raftMatchIndex, self._SyncObj__lastResponseTime):
                table.pop(node, None)
            self.behind.discard(node.id)
        for node in self._SyncObj__otherNodes - known:
            self._SyncObj__raftNextIndex[node] = self.log.last_index + 1
            self._SyncObj__raftMatchIndex[node] = 0
            self._SyncObj__lastResponseTime[node] = self._now

    def _node(self, number: int) -> Any:
        node = self._nodes.get(number)
        if node is None:
            node = self._nodes[number] = Node(number)
        return node

    def propose(self, data: bytes, asker: int | None = None) -> int:
        check(self.is_leader, "a follower was asked to append")
        index = self.log.last_index + 1
        self.log.add(data, index, self.term)
        self._send_now = True
        if asker is not None:
            self._asked.append((index, asker))
        return index

    def step(self, now: float, congested: Collection[int]) -> Step:
        check(not self._committed, "a step before the last one's entries were applied")
        self.tick(now, congested)
        at_once, after_sync = self._sorted(self.take_messages())
        return Step(at_once, self.log.take() if self.log.dirty else None, after_sync)

    def tick(self, now: float, congested: Collection[int] = ()) -> None:
        """Let time pass, commit, and send what gathered."""
        self._now = CLOCK.now = now
        self._congested = congested
        if self._unsent:
            linked = self._unsent & self._SyncObj__connectedNodes
            self._send_now = self._send_now or any(node.id not in congested for node in linked)
            self._unsent.clear()
        self._onTick(0.0)

    def _sorted(
        self, messages: list[tuple[int, Message]]
    ) -> tuple[list[tuple[int, Message]], list[tuple[int, Message]]]:
        """Entries may go before the leader's own sync, in a term that is on disk. Everything else waits for it (H6)."""
        if self.log.hard_state_dirty:
            return [], messages
        at_once: list[tuple[int, Message]] = []
        after_sync: list[tuple[int, Message]] = []
        for pair in messages:
            (at_once if pair[1]["type"] == "append_entries" else after_sync).append(pair)
        return at_once, after_sync

    def synced(self, index: int) -> None:
        self.log.synced(index)

    def compact(self, applied_index: int) -> int | None:
        return self.log.compact(applied_index)

    def installed(self, index: int, term: int) -> None:
        self.log.reset(index, term)
        self._SyncObj__raftCommitIndex = index
        self._SyncObj__raftLastApplied = index

    def take_committed(self) -> list[EntryTriple]:
        taken, self._committed = self._committed, []
        return taken

    def take_messages(self) -> list[tuple[int, Message]]:
        """Messages since the last call: (peer, message), in order."""
        taken, self._outbox.messages = self._outbox.messages, []
        return taken

    # -- the tick -------------------------------------------------------------------------------------------------

    def _onTick(self, timeToWait: float) -> None:
        now = self._now
        if self.is_leader:
            self._advance_commit()
            self._check_quorum(now)
        else:
            self._elect(now)
        self._SyncObj__applyLogEntries()
        if not self.is_leader:
            self._asked.clear()
        elif self._send_now or now >= self._SyncObj__newAppendEntriesTime:
            self._SyncObj__sendAppendEntries()
        else:
            self._tell_askers()

    def _advance_commit(self) -> None:
        """Raft section 5.3 and 5.4.2: a majority holds it on disk, and it is of this term.

        A leader that is being removed counts the others alone (Ongaro's dissertation, section 4.2.2).
        """
        match = self._SyncObj__raftMatchIndex
        held = [match[node] for node in self._peers if node.id in self.voters]
        if self.is_voter:
            held.append(self.log.synced_index)
        held.sort(reverse=True)
        index = held[self.majority - 1]
        if index > self.commit_index and self.log.term_at(index) == self.term:
            self._SyncObj__raftCommitIndex = index

    def _check_quorum(self, now: float) -> None:
        since = now - self._timing.election_max
        heard = self._SyncObj__lastResponseTime
        alive = self.is_voter + sum(heard[node] > since for node in self._peers if node.id in self.voters)
        removed = not self.is_voter and self._in_force.at <= self.commit_index
        if alive < self.majority or removed:
            self._follow(None)

    def _follow(self, leader: Any) -> None:
        self._SyncObj__setState(STATE.FOLLOWER)
        self._SyncObj__raftLeader = leader

    def _SyncObj__applyLogEntries(self) -> None:
        applied, commit = self.applied_index, self.commit_index
        if commit > applied:
            self._committed.extend(self.log.between(applied, commit))
            self._SyncObj__raftLastApplied = commit

    def _SyncObj__sendAppendEntries(self) -> None:
        self._send_now = False
        while self._asked and self._asked[0][0] <= self.commit_index:
            self._asked.popleft()
        self._SyncObj__newAppendEntriesTime = self._now + self._timing.heartbeat
        for node in self._peers:
            if node in self._SyncObj__connectedNodes:
                self._send_to(node)

    def _tell_askers(self) -> None:
        """Who handed over an entry that is committed now waits for nothing but the commit index (H13).

        The others learn it with the next entries or the next heartbeat.
        """
        told: set[int] = set()
        while self._asked and self._asked[0][0] <= self.commit_index:
            told.add(self._asked.popleft()[1])
        for node in self._peers:
            if node.id in told and node in self._SyncObj__connectedNodes:
                self._send_to(node)

    def _send_to(self, node: Any) -> None:
        following = self._SyncObj__raftNextIndex[node]
        first, last = self.log.first_index, self.log.last_index
        if following <= first:
            self.behind.add(node.id)
            self._send_entries(node, first, [])
            return
        for _ in range(self.log.bounds.appends_per_pass_max):
            room = following <= last and node.id not in self._congested
            entries = self.log.entries_from(following, APPEND_BYTES_MAX) if room else []
            self._send_entries(node, following - 1, entries)
            following += len(entries)
            if not entries or following > last:
                break
        self._SyncObj__raftNextIndex[node] = following

    def _send_entries(self, node: Any, previous: int, entries: list[EntryTriple]) -> None:
        self._outbox.send(
            node,
            {
                "type": "append_entries",
                "term": self.term,
                "commit_index": self.commit_index,
                "prevLogIdx": previous,
                "prevLogTerm": self.log.term_at(previous),
                "entries": entries,
            },
        )

    # -- elections ------------------------------------------------------------------------------------------------

    def _SyncObj__connectedToAnyone(self) -> bool:
        """Whether an election can be won. The only voter needs nobody, also while a learner is away."""
        return bool(self._SyncObj__connectedNodes) or self.voters <= {self._id}

    def _SyncObj__generateRaftTimeout(self) -> float:
        return self._rng.uniform(self._timing.election_min, self._timing.election_max)

    def _elect(self, now: float) -> None:
        if self._is_overdue(now):
            self._stand()

    def _is_overdue(self, now: float) -> bool:
        """Whether the leader has been silent for an election timeout; if so, the next timeout starts now."""
        if self._SyncObj__raftElectionDeadline >= now or not self._SyncObj__connectedToAnyone():
            return False
        self._SyncObj__raftElectionDeadline = now + self._SyncObj__generateRaftTimeout()
        self._follow(None)
        return True

    def _ask(self, what: str, term: int) -> None:
        for node in self._peers:
            if node.id not in self.voters:
                continue
            self._outbox.send(
                node,
                {
                    "type": what,
                    "term": term,
                    "last_log_index": self.log.last_index,
                    "last_log_term": self.log.term_at(self.log.last_index),
                },
            )

    def _stand(self) -> None:
        """Become a candidate (Raft section 5.2)."""
        self._SyncObj__setState(STATE.CANDIDATE)
        self._SyncObj__setCurrentTerm(self.term + 1, self._id)
        self._SyncObj__votesCount = 1
        self._ask("request_vote", self.term)
        if self.majority == 1:
            self._SyncObj__onBecomeLeader()
