"""Between the replica and node.db: what is stored becomes a ledger, what a step wants stored becomes one commit."""

from __future__ import annotations

from collections.abc import Mapping

from raftcoord.consensus.log import RaftLog
from raftcoord.consensus.replica import Store
from raftcoord.core.decisions import NO_CHANGES
from raftcoord.core.ledger import Ledger
from raftcoord.core.members import Members
from raftcoord.storage.node_db import LogRow, NodeDb, Stored, Write
from raftcoord.types import NodeName


def log_of(stored: Stored) -> RaftLog:
    """The log as it is stored. What another node said of the members counts while the ledger has none."""
    entries = [(row.data, row.index, row.term) for row in stored.log]
    return RaftLog(
        entries,
        stored.term,
        stored.vote,
        stored.applied_index,
        stored.members or stored.joined,
        hearsay=stored.members is None,
    )


def ledger_of(stored: Stored, db: NodeDb) -> Ledger:
    """The ledger as it is stored; what it does not hold in memory it reads from ``db``."""
    return Ledger(
        cluster=stored.cluster,
        horizon_ms=stored.horizon_ms,
        decisions=stored.decisions,
        damages=stored.damages,
        floor=stored.floor,
        older=db.decision,
        enrolled=stored.enrolled,
        participants=stored.participants,
        members=stored.members,
    )


def write_of_identities(peers: Mapping[NodeName, str]) -> Write:
    """The identities of these peers, as one commit."""
    return Write(
        None, [], None, NO_CHANGES, None, None, peers={str(name): identity for name, identity in peers.items()}
    )


def write_of_founding(members: Members) -> Write:
    """The founding set, as one commit: it is part of the ledger from its beginning."""
    return Write(None, [], None, NO_CHANGES._replace(members=members), None, None)


def write_of_invitation(members: Members) -> Write:
    """The set into which another node has taken this one, as one commit."""
    return Write(None, [], None, NO_CHANGES, None, None, joined=members)


def write_of(store: Store) -> Write:
    """What a step wants stored, as one commit."""
    return Write(
        truncate_from=store.staged.truncate_from,
        append=[LogRow(index, term, data) for data, index, term in store.staged.append],
        hard_state=store.staged.hard_state,
        changes=store.changes,
        applied=store.applied,
        drop_log_before=store.drop_before,
        synced=store.applied is None,
    )
