"""Write-once decisions.

Theory of operation. Every node applies the same commands in the same order, and each answer depends on nothing but the
commands before it: no clock, no memory bound, no file. So all nodes give the same answer, and the first decision for a
txid is the only one.

    known                          the standing decision, whatever is proposed
    older than the horizon         FORGOTTEN: it was finished, or never committed; nothing is recorded
    otherwise                      recorded

A decision is forgotten as soon as it is both older than the horizon and retirable: an abort, or a commit that every
branch has acknowledged. It makes no difference which of the two came last. A commit with a branch that an operator has closed is
never forgotten: that branch has not acknowledged, and whenever it comes back it must hear COMMIT.

Why FORGOTTEN may be told to a branch in doubt as ABORTED, and to nobody else: a COMMIT is retired only when every branch
it names has acknowledged, so a branch that is still prepared cannot belong to a retired COMMIT. Somebody who merely asks
may ask about a retired COMMIT, and must not hear ABORTED.

Memory. Decisions at or above ``floor`` are all in memory, and so is every open one; other older ones are looked up with
``older``, which reads what was stored. Moving the floor changes speed, never an answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Final, NamedTuple, Self
from zlib import crc32

import msgpack

from raftcoord import limits
from raftcoord.core.tables.table import (
    CHANGED,
    UNCHANGED,
    CommandKind,
    Done,
    Many,
    Part,
    Rows,
    Table,
    TableChange,
    Tables,
    are_texts,
    beyond,
    hex_of,
    pairs_of,
    pairs_within,
    txid_of,
)
from raftcoord.errors import check
from raftcoord.types import BranchesByTxid, State, TxId, Verdict


class Closing(NamedTuple):
    """A branch that an operator has closed: it is not waited for any more. ``who`` did it, for the reason ``why``."""

    branch: str
    who: str
    why: str
    at_ms: int


class Decision(NamedTuple):
    """A recorded decision. ``outstanding``: the branches that have not acknowledged it; (term, index): its log entry.

    ``closed``: branches that are not outstanding because an operator closed them.
    """

    txid: TxId
    verdict: Verdict
    branches: tuple[str, ...]
    outstanding: tuple[str, ...]
    reason: str
    branch: str
    at_ms: int
    term: int
    index: int  # type: ignore[assignment]
    closed: tuple[Closing, ...] = ()

    @property
    def state(self) -> State:
        """COMMITTED or ABORTED."""
        return State.COMMITTED if self.verdict else State.ABORTED

    @property
    def retirable(self) -> bool:
        """Whether it may be forgotten once it is older than the horizon."""
        return not (self.outstanding or self.closed) or self.verdict is Verdict.ABORT


class Standing(NamedTuple):
    """The answer to Decide: what stands at (term, index). ``decision`` is None when the state is FORGOTTEN."""

    state: State
    decision: Decision | None
    first: bool
    """Whether this very command made it so."""


Result = Standing | Done
"""What a rule answers."""

FORGOTTEN: Final = Standing(State.FORGOTTEN, None, False)

# -- the commands -------------------------------------------------------------------------------------------------

_VERDICTS: Final = {int(verdict): verdict for verdict in Verdict}


class Decide(NamedTuple):
    """Propose an outcome. The first for a txid wins; every later one is told what stands.

    ``branches``: those that must be told (the yes-voters); ``branch``: the one that caused an abort, or "";
    ``at_ms``: the proposer's clock, kept for people to read and never compared.
    """

    txid: TxId
    verdict: Verdict
    branches: tuple[str, ...]
    reason: str
    branch: str
    at_ms: int

    def excess(self, horizon_ms_max: int) -> str:
        """See Command."""
        within = (
            len(self.branches) <= limits.BRANCHES_MAX
            and len(self.reason) <= limits.REASON_LENGTH_MAX
            and len(self.branch) <= limits.NAME_LENGTH_MAX
            and 0 <= self.at_ms <= limits.TIME_MS_MAX
        )
        return "" if within else f"a decision of {self.txid} with a field beyond its bound"

    @classmethod
    def read(cls, row: tuple[Any, ...]) -> Self | None:
        """See Command. Every decision passes here on every node: a match statement would cost five times as much."""
        if len(row) != 7:
            return None
        _, txid, verdict, branches, reason, branch, at_ms = row
        known = _VERDICTS.get(verdict) if type(verdict) is int else None
        if (
            known is None
            or type(txid) is not bytes
            or type(reason) is not str
            or type(branch) is not str
            or type(at_ms) is not int
            or not are_texts(branches)
        ):
            return None
        return cls(txid_of(txid), known, branches, reason, branch, at_ms)


class Complete(NamedTuple):
    """These branches have acknowledged the outcome. ``acks``: (txid, branches) pairs; unknown ones are ignored."""

    acks: BranchesByTxid

    def excess(self, horizon_ms_max: int) -> str:
        """See Command."""
        return "" if all(len(branches) <= limits.BRANCHES_MAX for _, branches in self.acks) else beyond(self)

    @classmethod
    def read(cls, row: tuple[Any, ...]) -> Self | None:
        """See Command."""
        match row:
            case (_, tuple(acks)):
                return cls(pairs_of(acks))
        return None


class Close(NamedTuple):
    """``who`` says that these branches of COMMITs will never come back, and ``why``: they are waited for no longer.

    ``branches``: (txid, branches) pairs; what is not outstanding, or not of a COMMIT, is ignored. The decision is never
    forgotten: a branch that comes back all the same hears COMMIT.
    """

    branches: BranchesByTxid
    who: str
    why: str
    at_ms: int

    def excess(self, horizon_ms_max: int) -> str:
        """See Command."""
        within = (
            pairs_within(self.branches)
            and len(self.who) <= limits.WHO_LENGTH_MAX
            and len(self.why) <= limits.REASON_LENGTH_MAX
            and 0 <= self.at_ms <= limits.TIME_MS_MAX
        )
        return "" if within else beyond(self)

    @classmethod
    def read(cls, row: tuple[Any, ...]) -> Self | None:
        """See Command."""
        match row:
            case (_, tuple(branches), str(who), str(why), int(at_ms)) if type(at_ms) is int:
                return cls(pairs_of(branches), who, why, at_ms)
        return None


# -- the rows -----------------------------------------------------------------------------------------------------

COMMIT_FLAG: Final = 1
OPEN_FLAG: Final = 2
CLOSED_FLAG: Final = 4
"""``flags`` repeats of a record what SQL must see: the verdict is COMMIT; a branch is outstanding; it is a COMMIT and a branch
was closed by an operator. Retirable means neither 3 nor 4 and more."""

_pack = msgpack.Packer().pack
_unpackb = msgpack.unpackb


def _row(decision: Decision) -> tuple[bytes, int, bytes, int]:
    txid, verdict, branches, outstanding, reason, branch, at_ms, term, index, closed = decision
    if closed:  # seldom: without one the record is that of format 1
        record: bytes = _pack((verdict, branches, outstanding, reason, branch, at_ms, term, index, closed))
    else:
        record = _pack((verdict, branches, outstanding, reason, branch, at_ms, term, index))
    flags = (COMMIT_FLAG if verdict else 0) | (OPEN_FLAG if outstanding else 0) | (CLOSED_FLAG if closed else 0)
    return txid, flags, record, crc32(record, crc32(txid, flags))


def _is_right(txid: bytes, flags: int, record: bytes, crc: int) -> bool:
    """The flags are the start value: one call less, a million times at open."""
    return crc32(record, crc32(txid, flags)) == crc


def _item(txid: bytes, flags: int, record: bytes, crc: int) -> Decision:
    verdict, branches, outstanding, reason, branch, at_ms, term, index, *closed = _unpackb(record, use_list=False)
    # The checksum proves that this txid was valid when it was written: it need not be parsed again.
    made = Decision(
        bytes.__new__(TxId, txid), _VERDICTS[verdict], branches, outstanding, reason, branch, at_ms, term, index
    )
    if closed:
        [rows] = closed
        return made._replace(closed=tuple(Closing(*row) for row in rows))
    return made


_ROWS: Final = Rows(
    sql=(
        "CREATE TABLE decisions(txid BLOB PRIMARY KEY, flags INTEGER NOT NULL, record BLOB NOT NULL, crc INTEGER NOT NULL) "
        "WITHOUT ROWID"
    ),
    columns=("txid", "flags", "record", "crc"),
    keys=1,
    pack=_row,
    is_right=_is_right,
    unpack=_item,
    key=lambda txid: (txid,),
    called=lambda txid, *_: f"the decision of transaction {hex_of(txid)}",
    since=1,
    indexes={"decisions_by_flags": "CREATE INDEX decisions_by_flags ON decisions(flags)"},
    many=Many(
        pinned="INDEXED BY decisions_by_flags WHERE flags IN (2, 3, 7)",
        forgettable="flags NOT IN (3, 5, 7)",
    ),
)

# -- the table ----------------------------------------------------------------------------------------------------


class Decisions(Table):
    """The decisions of one node's ledger. ``bound``: what is below it is older than the horizon (horizon.py moves it)."""

    name = "decisions"
    rows: ClassVar[Rows] = _ROWS

    def __init__(self, ledger: Tables, stored: Part) -> None:
        super().__init__(ledger, stored)
        self.bound = b""  # bytes compare faster than times, and every decision is compared
        self.floor = stored.floor
        self._lowered: tuple[tuple[bytes, bytes, int], ...] = ()  # between which bounds it was lowered, by which entry
        self._older = stored.older
        # An open one below the floor is in _open alone: a second place would go on showing it as open.
        self._decisions: dict[TxId, Decision] = {d.txid: d for d in stored.rows if d.txid >= stored.floor}
        self._open: dict[TxId, Decision] = {d.txid: d for d in stored.rows if d.outstanding}
        self._unstored: dict[TxId, Decision] = {}  # changed below the floor, not yet confirmed as stored

    # -- asking ---------------------------------------------------------------------------------------------------

    def decision(self, txid: TxId) -> Decision | None:
        """The recorded decision, or None: undecided here so far, or forgotten."""
        found = self._decisions.get(txid)
        if found is None and txid < self.floor:
            found = self._open.get(txid) or self._unstored.get(txid) or self._older(txid)
            if found is not None and found.retirable and self._was_lowered_over(found):
                return None
        if found is not None and txid < self.bound and found.retirable:
            return None
        return found

    def _was_lowered_over(self, found: Decision) -> bool:
        """Whether it was forgotten when the horizon was lowered: it may be on disk until that is stored."""
        return any(found.index <= at and low <= found.txid < high for low, high, at in self._lowered)

    def state(self, txid: TxId) -> State:
        """COMMITTED, ABORTED, FORGOTTEN, or UNDECIDED as far as this node has applied."""
        found = self.decision(txid)
        if found is not None:
            return found.state
        return State.FORGOTTEN if txid < self.bound else State.UNDECIDED

    def open_decisions(self) -> Iterator[Decision]:
        """Decisions with a branch that has not acknowledged, oldest record first."""
        return iter(tuple(self._open.values()))

    def open_since(self, index: int) -> list[Decision]:
        """The open decisions recorded after log index ``index``, oldest first; 0 for all, or one that this object has applied.

        It costs what it gives: what is recorded later comes later in the table, and what was read from the disk before all that.
        """
        found = []
        for decision in reversed(self._open.values()):
            if decision.index <= index:
                break
            found.append(decision)
        found.reverse()
        return found

    def open_decision(self, txid: TxId) -> Decision | None:
        """The decision if a branch of it is outstanding, else None. From memory, however old it is."""
        return self._open.get(txid)

    @property
    def open_count(self) -> int:
        """How many decisions have a branch outstanding."""
        return len(self._open)

    @property
    def memory_count(self) -> int:
        """How many decisions are in memory."""
        return len(self._decisions)

    # -- the rules ------------------------------------------------------------------------------------------------

    def _decide(self, command: Decide, term: int, index: int) -> Standing:
        txid = command.txid
        known = self.decision(txid)
        if known is not None:
            return Standing(known.state, known, False)
        if txid < self.bound:
            return FORGOTTEN
        branches = tuple(dict.fromkeys(command.branches)) if command.branches else ()
        made = Decision(
            txid, command.verdict, branches, branches, command.reason, command.branch, command.at_ms, term, index
        )
        self._put(made)
        return Standing(made.state, made, True)

    def _complete(self, command: Complete, term: int, index: int) -> Done:
        changed = False
        for txid, branches in command.acks:
            known = self._open.get(txid)
            if known is None:
                continue
            left = tuple(branch for branch in known.outstanding if branch not in branches)
            if left != known.outstanding:
                self._put(known._replace(outstanding=left))
                changed = True
        return CHANGED if changed else UNCHANGED

    def _close(self, command: Close, term: int, index: int) -> Done:
        changed = False
        for txid, branches in command.branches:
            changed |= self.close(txid, branches, command.who, command.why, command.at_ms)
        return CHANGED if changed else UNCHANGED

    commands: ClassVar[dict[int, CommandKind]] = {
        1: CommandKind(Decide, _decide),
        2: CommandKind(Complete, _complete),
        10: CommandKind(Close, _close),
    }

    def complete(self, txid: TxId, branch: str) -> bool:
        """That branch is waited for no longer, as if it had acknowledged; whether that changed anything."""
        return self._complete(Complete(((txid, (branch,)),)), 0, 0).changed

    def close(self, txid: TxId, branches: tuple[str, ...], who: str, why: str, at_ms: int) -> bool:
        """These branches of a COMMIT are waited for no longer; whether that changed anything."""
        known = self._open.get(txid)
        if known is None or known.verdict is not Verdict.COMMIT:
            return False
        closed = [branch for branch in known.outstanding if branch in branches]
        if not closed:
            return False
        left = tuple(branch for branch in known.outstanding if branch not in branches)
        closings = tuple(Closing(branch, who, why, at_ms) for branch in closed)
        self._put(known._replace(outstanding=left, closed=known.closed + closings))
        return True

    def _put(self, decision: Decision) -> None:
        txid = decision.txid
        self.pending.puts[txid] = decision
        if decision.outstanding:
            self._open[txid] = decision
        else:
            self._open.pop(txid, None)
        if txid < self.floor:
            self._unstored[txid] = decision
        elif txid < self.bound and decision.retirable:
            self._decisions.pop(txid, None)
        else:
            self._decisions[txid] = decision
        if txid < self.bound:
            self.pending.forget_below = self.bound

    # -- the horizon ----------------------------------------------------------------------------------------------

    def forget_before(self, bound: bytes) -> None:
        """See Table."""
        self.bound = self.pending.forget_below = bound
        for table in (self._decisions, self._open):
            for txid in [txid for txid, known in table.items() if txid < bound and known.retirable]:
                del table[txid]

    def lower(self, bound: bytes, index: int) -> bool:
        """Log entry ``index`` lowers the horizon; False, and nothing is changed, if a decision between the two is open."""
        high = self.bound
        if any(bound <= txid < high for txid in self._open):
            return False
        self.pending.forget_below = high  # of what came before; what is put from now on must not be forgotten by that
        self.pending = TableChange(forget_below=bound, before=self.pending)
        self._lowered = (*self._lowered, (bound, high, index))
        self.bound = bound
        return True

    # -- memory ---------------------------------------------------------------------------------------------------

    def stored(self, change: TableChange) -> None:
        """See Table."""
        if change.before is not None:
            self.stored(change.before)
        if self._unstored:
            for txid, put in change.puts.items():
                if self._unstored.get(txid) is put:
                    del self._unstored[txid]

    def shed(self, stored_index: int, rows_max: int) -> None:
        """See Table."""
        if len(self._decisions) > rows_max:
            self.keep_newest(rows_max // 2, stored_index)

    def keep_newest(self, keep: int, stored_index: int) -> None:
        """Keep the newest ``keep`` decisions in memory, if every change up to log index ``stored_index`` is stored.

        Does nothing while a change waits to be taken, or one above ``stored_index`` would be dropped.
        """
        if len(self._decisions) <= keep or self.pending.count:
            return
        order = sorted(self._decisions)
        floor = order[len(order) - keep] if keep else order[-1] + b"\x00"
        if any(self._decisions[txid].index > stored_index for txid in order if txid < floor):
            return
        check(floor >= self.floor, "the ledger's floor moved down")
        self.floor = floor
        self._decisions = {txid: self._decisions[txid] for txid in order if txid >= floor}
