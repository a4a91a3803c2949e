"""What one commit stores, and the rules of Raft that it must not break.

Owes: a Write that would lose something acknowledged - an applied entry, a vote, a term - is refused before anything is
written. Whoever made it has a bug, and a bug must not reach the disk. Pure: touches no file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from raftcoord.core.decisions import Changes
from raftcoord.core.tables.members import Members
from raftcoord.errors import check
from raftcoord.storage.records import INDEX_MAX, LogRow, NodeState


class Write(NamedTuple):
    """What one commit stores, in this order. None: as it was.

    ``synced`` False: it need not be on disk when the write returns, only before the next synced one is. That is allowed for
    what the stored log can give again: changes of the ledger.

    ``truncate_from``: delete the log from this index on (above the applied index); ``append``: rows that follow the last one;
    ``hard_state``: (term, vote); ``changes``: of the ledger, up to ``applied`` (index, term); ``drop_log_before``: delete the
    log below this index (at most the applied index: that row stays); ``peers``: the identities of these peers, by name;
    ``joined``: the members as another node said them.
    """

    truncate_from: int | None
    append: list[LogRow]
    hard_state: tuple[int, int | None] | None
    changes: Changes
    applied: tuple[int, int] | None
    drop_log_before: int | None
    synced: bool = True
    peers: Mapping[str, str] | None = None
    joined: Members | None = None

    @property
    def only_appends(self) -> bool:
        """Whether it adds log entries and changes nothing else: then the node's state stays as it is stored."""
        others = (self.truncate_from, self.hard_state, self.applied, self.peers, self.joined)
        return not self.changes and all(other is None for other in others)


class Extent(NamedTuple):
    """The first and the last index of the stored log."""

    first: int
    last: int


def extent_after(w: Write, extent: Extent, applied_index: int) -> Extent:
    """The log's extent after ``w``. Raises Halt if ``w`` would leave a gap or delete what it must not."""
    first, last = extent
    if w.truncate_from is not None:
        check(w.truncate_from > max(applied_index, first), "an applied log entry would be truncated")
        last = min(last, w.truncate_from - 1)
    for index, term, _ in w.append:
        check(index == last + 1 <= INDEX_MAX, f"log entry {index} would follow {last}")
        check(0 <= term <= INDEX_MAX, f"log entry {index} would have term {term}")
        last = index
    if w.drop_log_before is not None:
        kept = w.applied[0] if w.applied else applied_index
        check(w.drop_log_before <= kept, f"the log would be dropped before {w.drop_log_before}, applied is {kept}")
        first = max(first, w.drop_log_before)
    return Extent(first, last)


def state_after(w: Write, old: NodeState, last: int) -> NodeState:
    """The node's state after ``w``, whose log then ends at ``last``. Raises Halt if anything would move back."""
    check(
        w.synced or not (w.append or w.hard_state or w.truncate_from or w.peers or w.joined),
        "log, term, vote or an identity would be stored without a sync",
    )
    if w.only_appends:
        return old
    term, vote = w.hard_state or (old.term, old.vote)
    check(old.term <= term <= INDEX_MAX, f"the term would go from {old.term} to {term}")
    check(term > old.term or old.vote in (None, vote), f"a second vote would be given in term {term}")
    applied_index, applied_term = w.applied or (old.applied_index, old.applied_term)
    check(
        old.applied_index <= applied_index <= last,
        f"entry {applied_index} would be applied after {old.applied_index}, and the log ends at {last}",
    )
    horizon_ms = old.horizon_ms if w.changes.retire_before_ms is None else w.changes.retire_before_ms
    forwards = horizon_ms >= old.horizon_ms or w.changes.before is not None
    check(forwards, f"the horizon would move back from {old.horizon_ms} to {horizon_ms} ms")
    cluster = old.cluster if w.changes.cluster is None else w.changes.cluster
    check(old.cluster in ("", cluster), f"the cluster's id would change from {old.cluster} to {cluster}")
    peers = old.peers if w.peers is None else {**old.peers, **w.peers}
    enrolled = old.enrolled if w.changes.enrolled is None else w.changes.enrolled
    joined_epoch = old.joined_epoch if w.joined is None else w.joined.epoch
    return NodeState(
        old.writes + w.synced,
        term,
        vote,
        applied_index,
        applied_term,
        cluster,
        horizon_ms,
        peers,
        enrolled,
        old.members_epoch if (members := members_in(w)) is None else members.epoch,
        joined_epoch,
    )


def members_in(w: Write) -> Members | None:
    """The newest set that ``w`` stores as the ledger's, or None."""
    earlier = None if w.changes.before is None else w.changes.before.members
    return w.changes.members or earlier
