"""What a node tells of its part in the cluster, for whoever reads it. It changes nothing."""

from __future__ import annotations

from typing import Any, Final

from raftcoord.consensus.engine import STATE
from raftcoord.consensus.identity import Identities
from raftcoord.consensus.peers import Peers
from raftcoord.consensus.replica import Replica
from raftcoord.core.ledger import Ledger
from raftcoord.types import NodeName

_ROLES: Final = {STATE.FOLLOWER: "follower", STATE.CANDIDATE: "candidate", STATE.LEADER: "leader"}


class View:
    """The part of Consensus that is read only."""

    _replica: Replica
    _peers: Peers
    _identities: Identities

    @property
    def ledger(self) -> Ledger:
        """What this node has applied. Read only."""
        return self._replica.ledger

    @property
    def is_leader(self) -> bool:
        """Whether this node believes itself leader."""
        return self._replica.raft.is_leader

    @property
    def leader(self) -> NodeName | None:
        """The leader that a proposal could be handed to now, or None."""
        leader = self._replica.reachable_leader
        return None if leader is None else self._peers.names[leader]

    @property
    def role(self) -> str:
        """leader, follower or candidate; or waiting, if it takes no part yet (identity.py)."""
        if not self._replica.raft.admitted:
            return "waiting"
        return _ROLES[self._replica.raft.role]

    @property
    def term(self) -> int:
        """The current term."""
        return self._replica.raft.term

    @property
    def commit_index(self) -> int:
        """The highest index known here to be committed."""
        return self._replica.raft.commit_index

    @property
    def applied_index(self) -> int:
        """The highest index applied here."""
        return self._replica.applied_index

    @property
    def applied_term(self) -> int:
        """The term of that entry."""
        return self._replica.applied_term

    @property
    def log_first(self) -> int:
        """The first index of the log kept here."""
        return self._replica.log.first_index

    @property
    def log_last(self) -> int:
        """The last index of the log, committed or not."""
        return self._replica.log.last_index

    def peers_status(self) -> dict[NodeName, dict[str, Any]]:
        """For each peer: whether the link to it is up, why not, and at the leader up to where its log is known to agree.

        ``awaited``: this node takes no part before it has met that peer. ``refused``: the identity (hex) that was refused under
        that name most recently, or "".
        """
        raft = self._replica.raft
        awaited = self._identities.waiting_for
        ids = {name: node for node, name in self._peers.names.items()}
        return {
            name: {
                "up": not why,
                "why": why,
                "match": raft.match_index(ids[name]) if raft.is_leader else None,
                "awaited": name in awaited,
                "refused": self._identities.refused(name),
            }
            for name, why in self._peers.links().items()
        }

    def clock_offsets(self) -> dict[NodeName, int | None]:
        """How far each peer's clock is ahead of ours (ms); None: it has not been heard for an election timeout."""
        return self._peers.clock_offsets()
