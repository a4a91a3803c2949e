"""What a node tells of its part in the cluster, for whoever reads it. It changes nothing."""

from __future__ import annotations

from typing import Any

from raftcoord.consensus.identity import Identities
from raftcoord.consensus.peers import Peers
from raftcoord.consensus.group import Group
from raftcoord.core.ledger import Ledger
from raftcoord.core.members import Members
from raftcoord.types import NodeName


class View:
    """The part of Consensus that is read only."""

    _group: Group
    _peers: Peers
    _identities: Identities

    @property
    def ledger(self) -> Ledger:
        """What this node has applied. Read only."""
        return self._group.ledger

    @property
    def is_leader(self) -> bool:
        """Whether this node believes itself leader."""
        return self._group.raft.is_leader

    @property
    def leader(self) -> NodeName | None:
        """The leader that a proposal could be handed to now, or None."""
        leader = self._group.reachable_leader
        return None if leader is None else self._peers.name_of(leader)

    @property
    def role(self) -> str:
        """leader, follower or candidate; learner, if it catches up and does not vote yet; waiting, if it takes no part yet
        (identity.py); removed, if it is no member, by its own log or by what the members say that refuse it."""
        if not self._group.raft.admitted:
            return "waiting"
        if self._peers.expelled_by and not self._peers.up:
            return "removed"
        if not self._group.raft.is_voter and self.members is not None:
            return "learner" if self._group.raft.is_member else "removed"
        return self._group.raft.role

    @property
    def term(self) -> int:
        """The current term."""
        return self._group.raft.term

    @property
    def commit_index(self) -> int:
        """The highest index known here to be committed."""
        return self._group.raft.commit_index

    @property
    def applied_index(self) -> int:
        """The highest index applied here."""
        return self._group.applied_index

    @property
    def applied_term(self) -> int:
        """The term of that entry."""
        return self._group.applied_term

    @property
    def log_first(self) -> int:
        """The first index of the log kept here."""
        return self._group.log.first_index

    @property
    def log_last(self) -> int:
        """The last index of the log, committed or not."""
        return self._group.log.last_index

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
