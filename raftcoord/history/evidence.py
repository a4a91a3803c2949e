"""What a history shows of one transaction: of each kind of answer the one that binds most.

Whether a write-once ledger can have given these answers depends on a few of them: the first outcome told, the latest call that
was still told UNDECIDED, the first FORGOTTEN, the first call that could have made the outcome. They are kept as they come, so
that gathering is linear and needs no sorting. Never: a judgement; that is rules.py and log.py.
"""

from __future__ import annotations

from typing import Final

from raftcoord.history.operations import CallKind, Ending, RecordedCall, flaw_of
from raftcoord.types import State, TxId, Verdict

_COMMITTED: Final = State.COMMITTED
_ABORTED: Final = State.ABORTED
_UNDECIDED: Final = State.UNDECIDED
_TOLD: Final = Ending.TOLD
_NOT_ATTEMPTED: Final = Ending.NOT_ATTEMPTED
_STATUS: Final = CallKind.STATUS
_DECIDE: Final = CallKind.DECIDE
_SUBMIT: Final = CallKind.SUBMIT
_COMMIT: Final = Verdict.COMMIT
_ABORT: Final = Verdict.ABORT

_NONE: Final[list[RecordedCall]] = []
"""Shared by all, and so never changed: most transactions have no list of their own."""


def _with(some: list[RecordedCall], one: RecordedCall) -> list[RecordedCall]:
    if not some:
        return [one]
    some.append(one)
    return some


class Evidence:
    """Of one transaction; each field is None or empty if there is no such operation."""

    __slots__ = (
        "abort_by",
        "aborted",
        "commit_by",
        "committed",
        "entry",
        "flawed",
        "forgotten",
        "forgotten_all",
        "forgotten_low",
        "other_entry",
        "txid",
        "undecided",
        "undecided_all",
        "undecided_high",
        "unfinished",
    )

    def __init__(self, txid: TxId) -> None:
        self.txid = txid
        self.committed: RecordedCall | None = None
        """The first to return of those that were told COMMITTED."""
        self.aborted: RecordedCall | None = None
        """Likewise ABORTED."""
        self.entry: RecordedCall | None = None
        """One that was told an outcome and its entry."""
        self.other_entry: RecordedCall | None = None
        """One that was told another entry than ``entry``."""
        self.undecided: RecordedCall | None = None
        """The last to be called of those that were told UNDECIDED."""
        self.undecided_high: RecordedCall | None = None
        """Of these the one as of the highest index."""
        self.undecided_all = _NONE
        """All of these that have an index."""
        self.forgotten: RecordedCall | None = None
        """The first to return of those that were told FORGOTTEN."""
        self.forgotten_low: RecordedCall | None = None
        """Of these the one as of the lowest index."""
        self.forgotten_all = _NONE
        """All of these that have an index."""
        self.commit_by: RecordedCall | None = None
        """The first to be called of those that can have made it COMMITTED."""
        self.abort_by: RecordedCall | None = None
        """Likewise ABORTED."""
        self.unfinished: RecordedCall | None = None
        """One that promises an outcome and was told UNDECIDED."""
        self.flawed: RecordedCall | None = None
        """One whose record contradicts itself."""

    @property
    def outcome(self) -> RecordedCall | None:
        """The first to return of those that were told an outcome; COMMITTED if two were told."""
        return self.committed or self.aborted

    def add(self, o: RecordedCall) -> None:
        """One more operation of this transaction."""
        if flaw_of(o):
            self.flawed = o
            return
        ending, kind, state = o.ending, o.kind, o.state
        if ending is _TOLD:
            if state is _COMMITTED:
                if self.committed is None or o.returned < self.committed.returned:
                    self.committed = o
                if o.index:
                    self._add_entry(o)
            elif state is _ABORTED:
                if self.aborted is None or o.returned < self.aborted.returned:
                    self.aborted = o
                if o.index:
                    self._add_entry(o)
            elif state is _UNDECIDED:
                self._add_undecided(o)
            else:
                self._add_forgotten(o)
        if kind is _STATUS or ending is _NOT_ATTEMPTED:
            return
        proposed = o.proposed
        # Even if it was told the other outcome: this one is asked for only if it was told as well, and then two were.
        if (kind is _SUBMIT or proposed is _COMMIT) and (self.commit_by is None or o.called < self.commit_by.called):
            self.commit_by = o
        if (kind is not _DECIDE or proposed is _ABORT) and (self.abort_by is None or o.called < self.abort_by.called):
            self.abort_by = o

    def _add_entry(self, o: RecordedCall) -> None:
        if self.entry is None:
            self.entry = o
        elif o.index != self.entry.index or o.term != self.entry.term:
            self.other_entry = o

    def _add_undecided(self, o: RecordedCall) -> None:
        if o.kind is not _STATUS:
            self.unfinished = o
        if self.undecided is None or o.called > self.undecided.called:
            self.undecided = o
        if o.index:
            if self.undecided_high is None or o.index > self.undecided_high.index:
                self.undecided_high = o
            self.undecided_all = _with(self.undecided_all, o)

    def _add_forgotten(self, o: RecordedCall) -> None:
        if self.forgotten is None or o.returned < self.forgotten.returned:
            self.forgotten = o
        if o.index:
            if self.forgotten_low is None or o.index < self.forgotten_low.index:
                self.forgotten_low = o
            self.forgotten_all = _with(self.forgotten_all, o)
