"""The record of one operation: who asked what of which transaction, when, and what came of it.

It owes the checker the truth as its client saw it: a call is recorded before it is made, its end after it has come. Never: an
end that nobody was told. A client that was killed, or an answer in doubt, leaves the operation open, and open it stays for
ever: it may take effect at any time after its call, or never.

What must be recorded, of every transaction that is judged:

    every submit and every decide   of every client, those of clients that were killed too: who else could have committed it?
    every resolve                   if the caller of ``judge`` says that no unseen actor may resolve; that includes the questions
                                    of participants, and ``raftcoord txn resolve``. A participant is told a branch's view
                                    (a COMMIT that does not name it is ABORTED to it), so its resolve is recorded as called,
                                    and left open.
    status                          as many as there are; each is one more witness

The resolve that a client sends inside its ``submit`` is a part of that submit. An error is an end, if it says what it did:

    Unavailable, Overloaded         ``not_attempted``
    LocalProtocolError              ``not_attempted`` for submit, status and resolve. A decide leaves it open: it may have
                                    been repeated, and what an earlier try has done the error does not say
    Aborted                         ``told(at, State.ABORTED)``, without an entry
    InDoubt, NotKnown, no answer    leave it open
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

from raftcoord.errors import check
from raftcoord.types import State, TxId, Verdict


class CallKind(enum.Enum):
    """What was asked."""

    DECIDE = "decide"
    SUBMIT = "submit"
    RESOLVE = "resolve"
    STATUS = "status"


class Ending(enum.Enum):
    """What the client knows of its call."""

    OPEN = "open"
    TOLD = "told"
    NOT_ATTEMPTED = "not attempted"


@dataclass(slots=True, eq=False)
class RecordedCall:
    """One call. ``called`` and ``returned``: on one clock for all operations of a history, in any unit.

    ``proposed``: of a decide, and of nothing else. ``state``: what was told, if the ending is TOLD; (``term``, ``index``): the
    answer's, (0, 0) if it bore none. An operation is open until ``told`` or ``not_attempted`` ends it, once.
    """

    client: int | str
    kind: CallKind
    txid: TxId
    called: float
    proposed: Verdict | None = None
    returned: float = math.inf
    ending: Ending = Ending.OPEN
    state: State | None = None
    term: int = 0
    index: int = 0

    def told(self, at: float, state: State, term: int = 0, index: int = 0) -> None:
        """The answer came at ``at``: ``state``, as of (term, index)."""
        check(self.ending is Ending.OPEN, f"{self} has ended twice")
        self.ending, self.returned, self.state, self.term, self.index = Ending.TOLD, at, state, term, index

    def not_attempted(self, at: float) -> None:
        """A definite refusal came at ``at``: nothing was attempted, and nothing ever will be."""
        check(self.ending is Ending.OPEN, f"{self} has ended twice")
        self.ending, self.returned = Ending.NOT_ATTEMPTED, at

    def __str__(self) -> str:
        proposed = "" if self.proposed is None else f" of {self.proposed.name}"
        returned = "" if self.returned == math.inf else f" to {self.returned:.12g}"
        return f"client {self.client}'s {self.kind.value}{proposed} ({self.called:.12g}{returned})"

    @property
    def answer(self) -> str:
        """What came of it, in words."""
        if self.ending is not Ending.TOLD:
            return str(self.ending.value)
        return f"{self.state} at term {self.term} index {self.index}" if self.index else f"{self.state}"


def flaw_of(operation: RecordedCall) -> str:
    """Why no verdict can rest on this record, or "": a clause that begins with a verb."""
    o = operation
    if not o.called <= o.returned:  # also if either is not a number
        return "returned before it was called"
    if (o.proposed is None) is (o.kind is CallKind.DECIDE):
        return "must say what it proposed if it is a decide, and only then"
    if o.ending is Ending.TOLD:
        if o.state is None or o.returned == math.inf:
            return "was told something, but what or when is not recorded"
        if o.index < 0 or (o.term > 0) is not (o.index > 0):
            return f"was answered as of term {o.term} index {o.index}, which is not an entry of a log"
    elif o.state is not None or o.index or o.term:
        return f"has an answer although it ended as {o.ending.value}"
    return ""
