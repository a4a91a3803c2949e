"""What one commit stores, and the rules of Raft that it must not break.

Owes: a Write that would lose something acknowledged - an applied entry, a vote, a term - is refused before anything is
written. The code that made it has a bug, and a bug must not reach the disk. Pure: touches no file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from raftcoord.core.tables import TABLES
from raftcoord.core.tables.members import Members
from raftcoord.core.tables.table import Changes, TableChange
from raftcoord.errors import check
from raftcoord.storage.records import INDEX_MAX, JOINED, OWN_ROWS, LogRow, NodeState, epoch_of


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
    for table in TABLES:
        if table.name in w.changes:
            table.check_change(old.fields, w.changes[table.name])
    peers = old.peers if w.peers is None else {**old.peers, **w.peers}
    rows = own_rows_in(w)
    epochs = {**old.epochs, **{name: epoch_of(name, value) for name, value in rows.items()}} if rows else old.epochs
    fields = fields_after(w.changes, old.fields)
    return NodeState(old.writes + w.synced, term, vote, applied_index, applied_term, peers, epochs, fields)


def own_rows_in(w: Write) -> dict[str, Any]:
    """What ``w`` stores in rows of meta, by the name of the row."""
    rows = {JOINED: w.joined} if w.joined is not None else {}
    for change in w.changes.values():
        rows.update({name: value for name, value in _fields_of(change).items() if name in OWN_ROWS})
    return rows


def fields_after(changes: Changes, old: Mapping[str, Any]) -> Mapping[str, Any]:
    """Those of the fields ``old``, after ``changes``."""
    new = {name: value for change in changes.values() for name, value in _fields_of(change).items() if name in old}
    return {**old, **new} if new else old


def _fields_of(change: TableChange) -> dict[str, Any]:
    return change.fields if change.before is None else {**_fields_of(change.before), **change.fields}
