"""The log as PySyncObj sees it (its Journal interface), and what of it is not on disk yet.

It keeps the entries after the compaction point in memory and stages every change; ``take`` hands the changes to the caller that
writes node.db. Nothing here touches a disk. The first entry is the anchor: it is applied everywhere and only its index and
term matter.

An entry is PySyncObj's triple (data, index, term).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from raftcoord.consensus.engine import EntryTriple, Staged, StoredLog
from raftcoord.errors import check
from raftcoord.limits import NodeBounds


class RaftLog:
    """Entries from the anchor to the last index, without a gap."""

    def __init__(self, stored: StoredLog, bounds: NodeBounds) -> None:
        self.bounds: Final = bounds
        self._entries: list[EntryTriple] = list(stored.entries)
        check(bool(self._entries), "the log has no anchor")
        self._bytes = sum(len(data) for data, _, _ in self._entries)
        self._term = stored.term
        self._vote = stored.vote
        self._applied_index = stored.applied_index
        self._truncate_from: int | None = None
        self._append: list[EntryTriple] = []
        self._hard_state_changed = False
        self.synced_index = self.last_index

    @property
    def first_index(self) -> int:
        """The anchor's index."""
        return self._entries[0][1]

    @property
    def last_index(self) -> int:
        """The index of the newest entry, on disk or not."""
        return self._entries[-1][1]

    def term_at(self, index: int) -> int | None:
        """The term of the entry at ``index``, or None if the log does not hold it."""
        at = index - self._entries[0][1]
        return self._entries[at][2] if 0 <= at < len(self._entries) else None

    def entries_from(self, index: int, bytes_max: int) -> list[EntryTriple]:
        """Entries from ``index`` on, at least one if there is one, up to ``bytes_max`` bytes of data."""
        at = index - self._entries[0][1]
        taken: list[EntryTriple] = []
        room = bytes_max
        for entry in self._entries[at : at + self.bounds.append_entries_max]:
            room -= len(entry[0])
            if room < 0 and taken:
                break
            taken.append(entry)
        return taken

    def between(self, after: int, upto: int) -> Sequence[EntryTriple]:
        """Entries with after < index <= upto."""
        first = self._entries[0][1]
        check(after >= first - 1, "asked for entries that are compacted")
        return self._entries[after + 1 - first : upto + 1 - first]

    # -- staging --------------------------------------------------------------------------------------------------

    @property
    def dirty(self) -> bool:
        """Whether something must be synced."""
        return self._hard_state_changed or bool(self._append) or self._truncate_from is not None

    @property
    def hard_state_dirty(self) -> bool:
        """Whether the term or the vote is not on disk yet."""
        return self._hard_state_changed

    def take(self) -> Staged:
        """The staged changes. After they are on disk, the caller calls ``synced`` with the last index as of now."""
        staged = Staged(
            self._truncate_from,
            self._append,
            (self._term, self._vote) if self._hard_state_changed else None,
        )
        self._truncate_from, self._append, self._hard_state_changed = None, [], False
        return staged

    def synced(self, index: int) -> None:
        """Everything up to ``index`` is on disk."""
        self.synced_index = max(self.synced_index, min(index, self.last_index))

    def compact(self, applied_index: int) -> int | None:
        """Forget entries far enough behind ``applied_index``; return the new first index, or None if there is nothing to do."""
        bounds = self.bounds
        behind = applied_index - self._entries[0][1]
        tail, slack, is_short = bounds.log_tail_entries, bounds.log_compact_slack, self._bytes <= bounds.log_tail_bytes
        if behind <= tail + slack and (is_short or behind <= slack):
            return None
        keep = tail if is_short else behind // 2
        self.deleteEntriesTo(behind - keep)
        return self.first_index

    def reset(self, index: int, term: int) -> None:
        """A copy of the ledger was installed: it is every entry up to ``index``. Stored by the installer."""
        check(not self.dirty, "a copy of the ledger was installed over unsynced records")
        self._entries = [(b"", index, term)]
        self._bytes = 0
        self._applied_index = index
        self.synced_index = index

    # -- PySyncObj's Journal interface -----------------------------------------------------------------------------

    def add(self, command: bytes, idx: int, term: int) -> None:
        """Append one entry."""
        check(idx == self._entries[-1][1] + 1, f"log entry {idx} does not follow {self._entries[-1][1]}")
        entry = (command, idx, term)
        self._entries.append(entry)
        self._append.append(entry)
        self._bytes += len(command)

    def deleteEntriesFrom(self, entryFrom: int) -> None:
        """Drop the tail from this position on (a position in the list, not an index)."""
        check(entryFrom > 0, "the anchor cannot be deleted")
        gone = self._entries[entryFrom:]
        if not gone:
            return
        del self._entries[entryFrom:]
        self._bytes -= sum(len(data) for data, _, _ in gone)
        index = gone[0][1]
        self._append = [entry for entry in self._append if entry[1] < index]
        self._truncate_from = index if self._truncate_from is None else min(self._truncate_from, index)
        self.synced_index = min(self.synced_index, index - 1)

    def deleteEntriesTo(self, entryTo: int) -> None:
        """Drop the head before this position (a position in the list, not an index)."""
        gone = self._entries[:entryTo]
        check(len(gone) < len(self._entries), "the whole log cannot be deleted")
        self._bytes -= sum(len(data) for data, _, _ in gone)
        del self._entries[:entryTo]

    def __getitem__(self, item):  # type: ignore[no-untyped-def]
        return self._entries[item]

    def __len__(self) -> int:
        return len(self._entries)

    def setCurrentTerm(self, term: int, votedForNodeId: int | None) -> None:
        """Stage the term and the vote in it."""
        check(term >= self._term, "the term moved backwards")
        check(
            term > self._term or self._vote is None or self._vote == votedForNodeId,
            f"a second vote in term {term}",
        )
        if (term, votedForNodeId) != (self._term, self._vote):
            self._term, self._vote = term, votedForNodeId
            self._hard_state_changed = True

    def getCurrentTerm(self) -> int:
        """The term as stored or staged."""
        return self._term

    def getVotedForNodeId(self) -> int | None:
        """The vote in that term."""
        return self._vote

    def getRaftCommitIndex(self) -> int:
        """What is certainly committed at start: what was applied."""
        return self._applied_index

    def setRaftCommitIndex(self, raftCommitIndex: int) -> None:
        """Nothing: the applied index is stored with the ledger, and the commit index is learnt again."""

    def onOneSecondTimer(self) -> None:
        """Nothing."""

    def _destroy(self) -> None:
        """Nothing."""
