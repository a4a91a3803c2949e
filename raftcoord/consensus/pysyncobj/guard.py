"""The corrections of what PySyncObj does with a message (DESIGN section 3). A test for each fails without it.

    H1   _verified            truncate at a real conflict only; commit no further than this message has verified
    H2   _on_acknowledgement  nextIndex moves back on a reset only
    H3   _on_acknowledgement  an acknowledgement counts in its own term only
    H4   _on_append_entries   the commit index never covers what nobody has verified
    H10  _on_vote             each voter counts once per term
    H12  _elect, _on_pre_vote pre-vote; no vote while a leader is heard
    H16  receive, _elect      who is not admitted (identity.py) hears nothing and stands for nothing

The other hazards are corrected elsewhere: docs/pysyncobj.md lists every correction with its test.

What is left to PySyncObj: terms and votes, becoming leader, accepting entries, and what leader and follower remember of each
other. Messages are its dictionaries.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from raftcoord.consensus.engine import NOTHING_ARRIVES, Arriving, EntryTriple, Message
from raftcoord.consensus.leaps import check_term
from raftcoord.consensus.pysyncobj.library import CLOCK
from raftcoord.consensus.pysyncobj.raft import Raft
from raftcoord.errors import check


class Guarded(Raft):
    """Raft with the corrections: what every node runs."""

    _truncate_at: int | None = None
    _asked_after = 0
    """prevLogIdx of the latest AppendEntries."""

    _heard_at = float("-inf")
    _acknowledged = (0, 0, 0)  # (leader, term, next index) last told, and when
    _acknowledged_at = float("-inf")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._voters: set[int] = set()
        self._pre_voters: set[int] = set()
        super().__init__(*args, **kwargs)

    def arriving(self, message: Message) -> Arriving:
        """The entries in ``message`` that the log does not hold; one that it holds in that term is the same (section 5.3)."""
        if message["type"] != "append_entries":
            return NOTHING_ARRIVES
        term_at = self.log.term_at
        entries = [entry for entry in message["entries"] if term_at(entry[1]) != entry[2]]
        return Arriving(entries, bool(entries) and term_at(message["prevLogIdx"]) == message["prevLogTerm"])

    def receive(self, sender: int, message: Message, now: float) -> None:
        """Take one message (a dictionary that wire.py has checked) from that peer. RemoteProtocolError if its term cannot be."""
        self._now = CLOCK.now = now
        check_term(message["term"], self.term)
        if self.admitted:  # H16
            self._HANDLERS[message["type"]](self, self._node(sender), message)

    @property
    def may_stand(self) -> bool:
        """Whether this node may become leader: it is a voter in a set that it has from the log, or founded itself."""
        return self.is_voter and not self._in_force.hearsay

    def wait_a_while(self) -> None:
        """Do not stand at once: all nodes of a new cluster begin at the same moment."""
        soonest = self._now + self._rng.uniform(0.0, self._timing.election_min)
        self._SyncObj__raftElectionDeadline = max(self._SyncObj__raftElectionDeadline, soonest)

    # -- elections ------------------------------------------------------------------------------------------------

    def _elect(self, now: float) -> None:
        """Ask whether a vote would be won before standing for one (H12; Ongaro's thesis, section 9.6)."""
        if not self.admitted or not self.may_stand or not self._is_overdue(now):
            return
        if self.voters != {self._id}:
            self._pre_voters = {self._id}
            self._ask("pre_vote", self.term + 1)
        else:
            self._stand()

    def _stand(self) -> None:
        self._voters = {self._id}
        super()._stand()

    def _hears_leader(self) -> bool:
        return self.is_leader or self._now - self._heard_at < self._timing.election_min

    def _is_up_to_date(self, message: Message) -> bool:
        """Whether the asker's log is at least as complete as ours (Raft section 5.4.1)."""
        last = self.log.last_index
        theirs = (message["last_log_term"], message["last_log_index"])
        return theirs >= (self.log.term_at(last) or 0, last)

    def _on_pre_vote(self, node: Any, message: Message) -> None:
        granted = message["term"] > self.term and self._is_up_to_date(message) and not self._hears_leader()
        self._outbox.send(
            node,
            {"type": "pre_vote_reply", "term": self.term, "asked": message["term"], "granted": granted},
        )

    def _on_pre_vote_reply(self, node: Any, message: Message) -> None:
        if message["term"] > self.term:
            self._newer_term(message["term"])
            return
        if not message["granted"] or message["asked"] != self.term + 1 or not self._pre_voters or self.is_leader:
            return
        self._pre_voters.add(node.id)
        if len(self._pre_voters & self.voters) >= self.majority:
            self._pre_voters = set()
            self._stand()

    def _on_vote_request(self, node: Any, message: Message) -> None:
        if message["term"] > self.term and self._hears_leader():  # H12
            return
        self._SyncObj__onMessageReceived(node, message)

    def _on_vote(self, node: Any, message: Message) -> None:
        """H10. PySyncObj would count over all nodes that it knows: the count is ours, over the voters."""
        if message["term"] != self.term or self.role != "candidate":
            return
        self._voters.add(node.id)
        if len(self._voters & self.voters) >= self.majority:
            self._SyncObj__onBecomeLeader()

    def _newer_term(self, term: int) -> None:
        self._SyncObj__setCurrentTerm(term, None)
        self._pre_voters = set()
        self._follow(None)

    # -- entries --------------------------------------------------------------------------------------------------

    def _on_append_entries(self, node: Any, message: Message) -> None:
        if message["term"] < self.term:
            self._SyncObj__sendNextNodeIdx(node)  # its term tells the stale leader to step down
            return
        check(not (self.is_leader and message["term"] == self.term), f"two leaders in term {self.term}")
        self._heard_at = self._now
        self._pre_voters = set()
        self._truncate_at = None
        self._asked_after = message["prevLogIdx"]
        if self.log.term_at(message["prevLogIdx"]) == message["prevLogTerm"]:
            message = self._verified(message)
        else:
            message = {**message, "entries": [], "commit_index": min(message["commit_index"], self.commit_index)}  # H4
        self._SyncObj__onMessageReceived(node, message)

    def _verified(self, message: Message) -> Message:
        """The same message without what is here already, so that only a conflict truncates (H1)."""
        previous, previous_term = message["prevLogIdx"], message["prevLogTerm"]
        entries: list[EntryTriple] = message["entries"]
        verified = previous + len(entries)
        known = 0
        for _, index, term in entries:
            here = self.log.term_at(index)
            if here is None:
                break
            if here != term:
                check(index > self.commit_index, f"the leader contradicts the committed entry {index}")
                self._truncate_at = index
                break
            known += 1
            previous, previous_term = index, term
        return {
            **message,
            "prevLogIdx": previous,
            "prevLogTerm": previous_term,
            "entries": entries[known:],
            "commit_index": min(message["commit_index"], verified),
        }

    def _SyncObj__deleteEntriesFrom(self, fromIDx: int) -> None:
        """PySyncObj deletes whatever follows prevLogIdx; we delete from a conflict on (H1)."""
        if self._truncate_at is not None:
            check(fromIDx == self._truncate_at, "a truncation that is not at the conflict")
            check(fromIDx > self.commit_index, f"committed entry {fromIDx} was about to be deleted")
            self.log.deleteEntriesFrom(fromIDx - self.log.first_index)

    def _SyncObj__sendNextNodeIdx(
        self, node: Any, reset: bool = False, nextNodeIdx: int | None = None, success: bool = False
    ) -> None:
        """Acknowledge, with the term (H3). A conflict is answered with the committed prefix: that much surely agrees.

        A refusal moves the leader back and never forward.
        """
        if reset and self._asked_after < self.log.first_index:
            # What is compacted here is committed, so the leader has it too: it is taken on to where that ends.
            reset, success, nextNodeIdx = False, True, self.commit_index + 1
        elif nextNodeIdx is None:
            nextNodeIdx = self.log.last_index + 1
        elif reset:
            nextNodeIdx = self.commit_index + 1
        if success and self._is_repetition(node.id, nextNodeIdx):
            return
        self._outbox.send(
            node,
            {
                "type": "next_node_idx",
                "term": self.term,
                "next_node_idx": nextNodeIdx,
                "reset": reset,
                "success": success,
            },
        )

    def _is_repetition(self, leader: int, following: int) -> bool:
        """Whether this leader was told the same just now: a commit index alone needs no answer, a heartbeat does."""
        told, at = (leader, self.term, following), self._now
        if told == self._acknowledged and at < self._acknowledged_at + self._timing.heartbeat / 2:
            return True
        self._acknowledged, self._acknowledged_at = told, at
        return False

    def _on_acknowledgement(self, node: Any, message: Message) -> None:
        if message["term"] > self.term:
            self._newer_term(message["term"])
        if message["term"] != self.term or not self.is_leader or node not in self._SyncObj__otherNodes:  # H3
            return
        following = self._SyncObj__raftNextIndex[node]
        # Messages in flight are refused one by one, and a later refusal may name more than the first: it must not undo it.
        most = following if message["reset"] else self.log.last_index + 1
        message = {**message, "next_node_idx": min(message["next_node_idx"], most)}
        self._SyncObj__onMessageReceived(node, message)
        if message["reset"]:
            self._send_now |= self._SyncObj__raftNextIndex[node] > self.log.first_index
            return
        ahead = max(self._SyncObj__raftNextIndex[node], following)  # H2
        self._SyncObj__raftNextIndex[node] = ahead
        if ahead <= self.log.last_index:
            self._unsent.add(node)

    _HANDLERS: Final[dict[str, Callable[[Guarded, Any, Message], None]]] = {
        "append_entries": _on_append_entries,
        "next_node_idx": _on_acknowledgement,
        "request_vote": _on_vote_request,
        "response_vote": _on_vote,
        "pre_vote": _on_pre_vote,
        "pre_vote_reply": _on_pre_vote_reply,
    }
