"""Between a group and node.db: what is stored becomes a group's start, what a step wants stored becomes one commit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from raftcoord.consensus.engine import StoredLog
from raftcoord.consensus.group import Group, Start, Store
from raftcoord.core.machine import Ledger
from raftcoord.core.tables.members import ClusterMembers, Members
from raftcoord.core.tables.table import NO_CHANGES, TableChange
from raftcoord.storage.node_db import LogRow, NodeDb, Stored, Write
from raftcoord.types import NodeName


class NodeDisk:
    """node.db as the host has it: it holds one group."""

    def __init__(self, db: NodeDb) -> None:
        self._db = db

    def write(self, stores: Sequence[tuple[Group, Store]]) -> None:
        """Store it in one commit."""
        ((_, store),) = stores
        self._db.write(write_of(store))


def log_of(stored: Stored) -> StoredLog:
    """The log as it is stored."""
    entries = [(row.data, row.index, row.term) for row in stored.log]
    return StoredLog(entries, stored.term, stored.vote, stored.applied_index)


def start_of(stored: Stored) -> Start:
    """What the group goes on from. What another node said of the members counts while the ledger has none."""
    applied = (stored.applied_index, stored.applied_term)
    return Start(ledger_of(stored), applied, stored.members or stored.joined, hearsay=stored.members is None)


def ledger_of(stored: Stored) -> Ledger:
    """The ledger as it is stored; what it does not hold in memory it reads from there."""
    return Ledger(stored.tables)


def not_taken_over(stored: Stored, own: NodeName, file: Iterable[NodeName]) -> str:
    """Why data of a release before members were stored must not found a cluster with the nodes of ``file``; "": it may.

    What it voted for and acknowledged was counted over the nodes of then. It took part after it had met each of them, so it
    knows them: with other nodes, a majority could be found that has not what was acknowledged.
    """
    took_part = stored.term > 0 or stored.applied_term > 0 or stored.log[-1].term > 0
    then = {own, *stored.peers, *stored.enrolled}
    if stored.members is not None or stored.joined is not None or not took_part or then == set(file):
        return ""
    return (
        f"cluster.yaml names the nodes {', '.join(sorted(file))}, and the data of node {own} is of an earlier release, in "
        f"which the nodes were {', '.join(sorted(then))}; nothing was changed: start every node with exactly these in its "
        "file, and change them afterwards, with `raftcoord node add`, `node remove` and `node replace`"
    )


def write_of_identities(peers: Mapping[NodeName, str]) -> Write:
    """The identities of these peers, as one commit."""
    return Write(
        None, [], None, NO_CHANGES, None, None, peers={str(name): identity for name, identity in peers.items()}
    )


def write_of_founding(members: Members) -> Write:
    """The founding set, as one commit: it is part of the ledger from its beginning."""
    return Write(None, [], None, {ClusterMembers.name: TableChange(fields={"members": members})}, None, None)


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
