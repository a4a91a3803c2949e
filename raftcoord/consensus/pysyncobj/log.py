"""The log as PySyncObj sees it (its Journal interface), and what of it is not on disk yet.

It keeps the entries after the compaction point in memory and stages every change; ``take`` hands the changes to whoever
writes node.db. Nothing here touches a disk. The first entry is the anchor: it is applied everywhere and only its index and
term matter.

An entry is PySyncObj's triple (data, index, term). One that holds a set of members counts from when it is appended: ``members``
is the newest set in the log, committed or not, and goes back when that entry is truncated.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from raftcoord import limits
from raftcoord.consensus.pysyncobj import library as engine
from raftcoord.core.members import Members, decode
from raftcoord.errors import Halt, check

EntryTriple = tuple[bytes, int, int]


class Staged(NamedTuple):
    """Changes to be stored in one commit: first truncate, then append.

    ``truncate_from``: delete every stored entry at or above this index; None: delete nothing.
    ``hard_state``: (term, vote) if it changed. It and the entries must be on disk before a message that shows them is sent.
    """

    truncate_from: int | None
    append: list[EntryTriple]
    hard_state: tuple[int, int | None] | None


class RaftLog:
    """Entries from the anchor to the last index, without a gap.

    ``members``: the set that is in force before the entries after ``applied_index``; ``hearsay``: it is only what another node
    said, and no log that this node had holds it.
    """

    def __init__(
        self,
        entries: Iterable[EntryTriple],
        term: int,
        vote: int | None,
        applied_index: int,
        members: Members | None = None,
        hearsay: bool = False,
    ) -> None:
        self._entries: list[EntryTriple] = list(entries)
        check(bool(self._entries), "the log has no anchor")
        self._bytes = sum(len(data) for data, _, _ in self._entries)
        self._term = term
        self._vote = vote
        self._applied_index = applied_index
        self._truncate_from: int | None = None
        self._append: list[EntryTriple] = []
        self._hard_state_changed = False
        self.synced_index = self.last_index
        self._sets: list[tuple[int, Members | None]] = [(applied_index, members)]
        self._hearsay = members if hearsay else None
        for entry in self._entries:
            if entry[1] > applied_index:
                self._note_members(entry)

    @property
    def members(self) -> Members | None:
        """The newest set of members in the log; None: none is known."""
        return self._sets[-1][1]

    def members_before(self, index: int) -> Members | None:
        """The set in force before the entry ``index``; None if it is not known from the log."""
        members = next((members for at, members in reversed(self._sets) if at < index), None)
        return None if members is self._hearsay else members

    @property
    def members_are_hearsay(self) -> bool:
        """Whether the newest set is only what another node said."""
        return self._hearsay is not None and self.members is self._hearsay

    @property
    def members_index(self) -> int:
        """The index of the entry that holds it; at most the applied index if it is older than the log."""
        return self._sets[-1][0]

    def _note_members(self, entry: EntryTriple) -> None:
        data, index, _ = entry
        if data[:1] == engine.MEMBERS:
            self._sets.append((index, members_in(data)))

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
        for entry in self._entries[at : at + limits.APPEND_ENTRIES_MAX]:
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
        first = self._entries[0][1]
        behind = applied_index - first
        if behind <= limits.LOG_TAIL_ENTRIES + limits.LOG_COMPACT_SLACK and (
            self._bytes <= limits.LOG_TAIL_BYTES or behind <= limits.LOG_COMPACT_SLACK
        ):
            return None
        keep = limits.LOG_TAIL_ENTRIES if self._bytes <= limits.LOG_TAIL_BYTES else behind // 2
        self.deleteEntriesTo(behind - keep)
        while len(self._sets) > 1 and self._sets[1][0] <= applied_index:
            del self._sets[0]
        return self.first_index

    def reset(self, index: int, term: int, members: Members | None) -> None:
        """A copy of the ledger, with these members, was installed: it is every entry up to ``index``. Stored by the installer."""
        check(not self.dirty, "a copy of the ledger was installed over unsynced records")
        self._entries = [(b"", index, term)]
        self._bytes = 0
        self._applied_index = index
        self.synced_index = index
        self._sets = [(index, members)]

    # -- PySyncObj's Journal interface -----------------------------------------------------------------------------

    def add(self, command: bytes, idx: int, term: int) -> None:
        """Append one entry."""
        check(idx == self._entries[-1][1] + 1, f"log entry {idx} does not follow {self._entries[-1][1]}")
        entry = (command, idx, term)
        self._note_members(entry)
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
        while self._sets[-1][0] >= index:
            self._sets.pop()

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


def members_in(data: bytes) -> Members:
    """The set of members that an entry holds. Raises Halt for one that this release would not have written."""
    members = decode(data[1:])
    if members is None:
        raise Halt(
            "the log holds a set of members that this version cannot read. It was written by a newer version of raftcoord; start "
            "this node with that version"
        )
    return members
