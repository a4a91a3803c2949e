"""The sets of members in one group's log: which is in force, and which was before it.

A set counts from when its entry is appended, and no more when that is truncated (Ongaro's dissertation, chapter 4). The engine is
handed the newest one at each change; it does not read entries.
"""

from __future__ import annotations

from collections.abc import Iterable

from raftcoord.consensus.engine import MEMBERS, EntryTriple, InForce, Log
from raftcoord.core.tables.members import Members, decode
from raftcoord.errors import Halt


class MembersInLog:
    """``members``: the set that is in force before ``entries``, which follow ``applied_index``; ``hearsay``: see InForce."""

    def __init__(
        self, members: Members | None, applied_index: int, entries: Iterable[EntryTriple], *, hearsay: bool
    ) -> None:
        self._sets: list[tuple[int, InForce]] = []  # (term, set)
        self._oldest(InForce(members, applied_index, hearsay and members is not None))
        for data, index, term in entries:
            if data[:1] == MEMBERS:
                self.add(index, term, members_in(data))

    def _oldest(self, in_force: InForce) -> None:
        self._sets = [(0, in_force)]
        self.newest = in_force
        """What the engine is to follow."""

    def before(self, index: int) -> Members | None:
        """The set in force before the entry ``index``; None if it is not known from the log."""
        found = next((each for _, each in reversed(self._sets) if each.at < index), None)
        return None if found is None or found.hearsay else found.members

    def add(self, index: int, term: int, members: Members) -> None:
        """The log's entry ``index``, of ``term``, holds ``members``."""
        self.newest = InForce(members, index)
        self._sets.append((term, self.newest))

    def truncated(self, log: Log) -> None:
        """Drop what ``log`` does not hold any more. The oldest set is applied, and stays."""
        while len(self._sets) > 1 and log.term_at(self.newest.at) != self._sets[-1][0]:
            self._sets.pop()
            self.newest = self._sets[-1][1]

    def compacted(self, applied_index: int) -> None:
        """Forget what was in force before a set that is applied."""
        while len(self._sets) > 1 and self._sets[1][1].at <= applied_index:
            del self._sets[0]

    def reset(self, members: Members | None, index: int) -> None:
        """A copy of the ledger up to ``index``, with these members, is the log now."""
        self._oldest(InForce(members, index))


def members_in(data: bytes) -> Members:
    """The set of members that an entry holds. Raises Halt for one that this release would not have written."""
    members = decode(data[1:])
    if members is None:
        raise Halt(
            "the log holds a set of members that this version cannot read. It was written by a newer version of raftcoord; start "
            "this node with that version"
        )
    return members
