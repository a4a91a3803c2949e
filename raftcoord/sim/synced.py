"""What each node has on its disk, synced, and that it is still there after whatever happened.

The lower half of invariants.py: it knows disks and the committed log, and nothing of votes, messages or participants.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from raftcoord.consensus import engine
from raftcoord.consensus.consensus import Consensus
from raftcoord.consensus.members_in_log import members_in
from raftcoord.core.machine import Ledger
from raftcoord.core.tables.decisions import Complete, Decide
from raftcoord.core.tables.table import Command
from raftcoord.events import Observers
from raftcoord.sim.conduct import Conduct
from raftcoord.sim.disk import SimNodeDb
from raftcoord.sim.happening import observers
from raftcoord.sim.models import LedgerModel, decisions, horizon, replayed
from raftcoord.storage.node_db import Stored, Write
from raftcoord.types import TxId

_ANCHOR_TERM: Final = 0
_RECENT: Final = 12


class Violation(Exception):
    """A promise was broken. ``invariant``: its name; ``txid``: the transaction, if there is one."""

    def __init__(self, invariant: str, what: str, txid: TxId | None = None) -> None:
        super().__init__(f"{invariant}: {what}")
        self.invariant = invariant
        self.what = what
        self.txid = txid


class _SyncedDisk:
    """What is synced on one node's disk: the term of each entry by index, and the hard state."""

    def __init__(self) -> None:
        self.terms: list[int] = [0, _ANCHOR_TERM]  # index 0 does not exist
        self.hard: tuple[int, int | None] = (0, None)

    @property
    def last(self) -> int:
        return len(self.terms) - 1

    def holds(self, index: int, term: int) -> bool:
        return index < len(self.terms) and self.terms[index] == term


class SyncedDisks:
    """The disks of all nodes. ``on_violation`` is called once, with the first violation; ``events``: gets what is seen here."""

    def __init__(
        self, nodes: Sequence[str], on_violation: Callable[[Violation], None], events: Observers | None = None
    ) -> None:
        self.events = events or observers()
        self.ledger_model = LedgerModel()
        self.model, self.horizon = self.ledger_model[decisions.DecisionsModel], self.ledger_model[horizon.HorizonModel]
        self.log: list[tuple[int, int]] = [(0, 0), (_ANCHOR_TERM, 0)]
        """(term, checksum) of each committed entry, by index."""
        self.entries: list[bytes] = [b"", b""]
        self.violation: Violation | None = None
        self.conduct: Conduct | None = None
        """Set by who knows the clocks."""
        self.copies_installed = self.disks_lost = 0
        self.wiped: set[str] = set()
        """Nodes that lost their disk and were not taken in anew."""
        self.taken_in: set[str] = set()
        """The identities in every set of members that was ever in a log."""
        self._on_violation = on_violation
        self._disks = {name: _SyncedDisk() for name in nodes}
        self._lost: dict[str, _SyncedDisk] = {}
        """Disks that are gone: what they held was held by a majority when the leader was told so."""
        self._identity: dict[str, str] = {}
        self._introduced: dict[str, dict[str, str]] = {name: {} for name in nodes}
        """Whose identity each node has on its disk, by name."""
        self._partaking: set[str] = set()
        """Identities that have taken part."""
        self._recent: deque[TxId] = deque(maxlen=_RECENT)
        """What the last committed commands decided or completed."""
        self._failed: dict[str, Write] = {}
        """Writes that failed: they may be stored or not."""
        self._seen: dict[str, tuple[int, str, int, int]] = {}
        self._known: dict[tuple[int, int], tuple[int, int]] = {
            (1, _ANCHOR_TERM): (0, 0)
        }  # -> (checksum, previous term)

    def violate(self, invariant: str, what: str, txid: TxId | None = None) -> None:
        """A promise is broken."""
        if self.violation is None:
            self.violation = Violation(invariant, what, txid)
            self._on_violation(self.violation)

    def must(self, condition: bool, invariant: str, what: str, txid: TxId | None = None) -> None:
        """``violate`` unless the condition holds."""
        if not condition:
            self.violate(invariant, what, txid)

    # -- disks ---------------------------------------------------------------------------------------------------------

    def on_stored(self, name: str, write: Write) -> None:
        """A synced write is on that node's disk."""
        disk = self._disks[name]
        if write.truncate_from is not None:
            del disk.terms[write.truncate_from :]
        for index, term, data in write.append:
            self._learn(index, term, data, disk.terms[-1], name)
            disk.terms.append(term)
            if data[:1] == engine.MEMBERS:
                self.taken_in.update(member.identity for member in members_in(data).members)
        if write.hard_state is not None:
            disk.hard = write.hard_state
        self._introduced[name].update(write.peers or {})

    def on_failed(self, name: str, write: Write) -> None:
        """A write met an error; the node halts now."""
        self._failed[name] = write

    def _learn(self, index: int, term: int, data: bytes, previous: int, name: str) -> None:
        entry = (zlib.crc32(data), previous)
        if self._known.setdefault((index, term), entry) != entry:
            self.violate("log matching", f"{name} stored another entry {index} of term {term} than a node before it")

    def on_installed(self, name: str, index: int, term: int) -> None:
        """A copy of the ledger stands for the log up to (index, term) on that node's disk."""
        self.copies_installed += 1
        committed = index < len(self.log) and self.log[index][0] == term
        self.must(committed, "snapshot = replay", f"{name} installed a copy up to {index}, which is not committed")
        disk = self._disks[name]
        lost = disk.last if disk.holds(index, term) and disk.last > index else 0
        self.must(not lost, "nothing lost", f"{name} held {index} to {lost}, and gave them up for a copy up to {index}")
        if committed:
            disk.terms = [0, *(term for term, _ in self.log[1 : index + 1])]

    def on_wiped(self, name: str, *, removed: bool) -> None:
        """That node's disk is empty now. ``removed``: what it held counts for nothing any more."""
        self._identity.pop(name, None)
        lost, self._disks[name] = self._disks[name], _SyncedDisk()
        if not removed:
            self._lost[name] = lost
        self._introduced[name] = {}
        self.disks_lost += 1
        self.wiped.add(name)

    def on_born(self, name: str, db: SimNodeDb, consensus: Consensus) -> None:
        """A node has been opened: everything that it synced in its life before must be there."""
        disk, stored = self._disks[name], db.load()
        self._identity[name], self._introduced[name] = stored.node_uuid.hex(), dict(stored.peers)
        last = stored.log[-1].index
        failed = self._failed.pop(name, None)
        least = disk.last
        if failed is not None and failed.truncate_from is not None:
            least = min(least, failed.truncate_from - 1 + len(failed.append))
        self.must(
            last >= least and stored.log[-1].term >= disk.terms[-1],
            "nothing lost",
            f"{name} had synced its log up to {disk.last} and finds it up to {last} after a crash",
        )
        self.must(
            (stored.term, stored.vote) == disk.hard or stored.term > disk.hard[0] or disk.hard[1] is None,
            "nothing lost",
            f"{name} had synced (term, vote) {disk.hard} and finds {(stored.term, stored.vote)} after a crash",
        )
        self._adopt(name, stored)
        raft = consensus.group.raft
        begins = (raft.term, raft.vote, raft.log.last_index)
        has = (*disk.hard, disk.last)
        self.must(
            begins == has, "nothing lost", f"{name} begins with (term, vote, last index) {begins}, its disk has {has}"
        )
        if self.conduct is not None:
            self.conduct.born(name)
        self._seen.pop(name, None)
        self.compare(name, consensus.ledger, stored.applied_index)

    def _adopt(self, name: str, stored: Stored) -> None:
        """What is on the disk now: a write that was never confirmed may be there too."""
        disk = self._disks[name]
        disk.hard = (stored.term, stored.vote)
        anchor = stored.log[0].index
        known = [self.log[at][0] if at < len(self.log) else 0 for at in range(1, anchor)]
        disk.terms = [0, *known, *(row.term for row in stored.log)]
        for before, row in zip(stored.log, stored.log[1:], strict=False):
            self._learn(row.index, row.term, row.data, before.term, name)

    @property
    def all_took_part(self) -> bool:
        """Whether each disk shows that its node took part. Before that a node waits for every other one, and none may be lost."""
        return all(disk.hard[0] > 0 or disk.terms[-1] > 0 for disk in self._disks.values())

    # -- who is who ----------------------------------------------------------------------------------------------------

    def takes_part(self, name: str, by: str) -> None:
        """A node counts for a majority: it is a member, or every other one has its identity on disk (H16)."""
        identity = self._identity[name]
        if identity in self.taken_in:
            return
        self.must(name not in self.wiped, "one leader", f"{name} has lost its disk, is no member, and sends {by}")
        if identity in self._partaking:
            return
        self._partaking.add(identity)
        strangers = [
            other
            for other, known in self._introduced.items()
            if other not in (name, *self._lost) and known.get(name) != identity
        ]
        self.must(
            not strangers, "one leader", f"{name} sends {by}, and {', '.join(strangers)} could not tell it from another"
        )

    # -- the ledger ----------------------------------------------------------------------------------------------------

    def touched(self, command: Command) -> None:
        """A command is committed: what it changes is looked at on every node."""
        match command:
            case Decide(txid):
                self._recent.append(txid)
            case Complete(acks):
                self._recent.extend(txid for txid, _ in acks)

    def compare_recent(self, name: str, ledger: Ledger, applied: int) -> None:
        """That node's ledger, after entry ``applied``, in what was changed last."""
        for txid in self._recent if applied < len(self.log) else ():
            if wrong := self.model.difference_of(ledger, txid, applied):
                self.violate("snapshot = replay", f"{name} {wrong}, up to entry {applied}", txid)

    def compare(self, name: str, ledger: Ledger, applied: int) -> None:
        """That node's ledger, after entry ``applied``, must equal the replay of the log up to there."""
        if applied >= len(self.log):
            self.violate("verified", f"{name} has applied {applied}, and only {len(self.log) - 1} are committed")
            return
        is_last = applied == len(self.log) - 1
        replay = self.ledger_model if is_last else replayed(self.entries, self.log, applied)
        found = replay.difference(ledger, self.model.decided)
        if found is not None:
            txid, what = found
            self.violate("snapshot = replay", f"{name} {what}, up to entry {applied}", txid)
