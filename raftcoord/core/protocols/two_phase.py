"""Two-phase commit of ONE transaction: events in, effects out. No I/O, no clock, no randomness.

It owes the caller exactly one reply, every branch that may have prepared what STANDS, and nobody anything before it stands.
It never says what was proposed.

Theory of operation. The coordinator asks every branch to prepare, counts the ballots, and makes one proposal to the ledger.
The ledger decides, not the coordinator: a participant in doubt may have asked any node in the meantime, and that question may
have decided ABORT. So there is one road only: ballots -> one proposal -> what stands -> reply and delivery.

- A vote that is late, or lost with its connection, is a *proposal* to abort. Silence proves nothing: the branch may be
  prepared. But until something is in the ledger nothing is decided, so proposing ABORT is always safe.
- The branches of a COMMIT are exactly those that voted yes. A read-only branch kept nothing and was released by its vote.
- The branches of an ABORT are all that may have prepared: those that voted yes, and those that were asked and have not
  answered. Not those that voted no (they kept nothing), not the read-only ones, and not those that were never asked.
- When every vote is read-only the COMMIT is recorded all the same, with no branches: the caller is told an outcome, and an
  outcome that anybody was told must be in the ledger, or a later question would decide ABORT over it.
- What is delivered is what STANDS. A proposal may lose; then our own branches are told the standing outcome.
- A standing COMMIT with other branches than ours, or one that met our ABORT, was made by somebody else: the txid was used
  twice. The caller is told so. Our branches that it does not name are told ABORT; those that it names belong to it, and
  the coordinator that made it delivers it.
- FORGOTTEN: the txid is older than the horizon. A branch that is still prepared cannot belong to a COMMIT that was
  forgotten (see tables/decisions.py), so ours are told ABORT; the caller is told FORGOTTEN.
- When the fate of the proposal is not known at the deadline, the caller is told that the outcome is in doubt and NOTHING is
  delivered: a guess would be a second decision. The branches wait; the leader delivers if it is in the ledger, and the
  branches ask if it is not.

Once delivery is handed over (``Deliver``), it belongs to others, who repeat it until it is acknowledged and report that to the
ledger. The coordinator stays only for a caller who waits for the acknowledgements, and not beyond the deadline.

The three tables below are the whole behaviour. A key that is missing is a bug, and ``broken`` says so.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import Final

from raftcoord import limits
from raftcoord.core.protocols.interface import (
    BranchAcknowledged,
    BranchVoted,
    ConnectDeadline,
    Connected,
    Deliver,
    Effect,
    Event,
    Lost,
    PrepareDeadline,
    ProposalNotKnown,
    ProposeDecide,
    Reply,
    ReplyDeadline,
    ReplyInDoubt,
    ReplyTxidUsed,
    SendPrepare,
    Stands,
    Started,
)
from raftcoord.core.tables.decisions import Standing
from raftcoord.errors import broken, check
from raftcoord.types import State, Verdict, Vote, VoteKind


def not_connected(branch: str) -> str:
    """Why a transaction is aborted that names a participant which this node does not see."""
    return (
        f"participant {branch!r} is not connected to this node: start it, or correct the name; if it is connected to other nodes "
        "(raftcoord status), restart it with a cluster.yaml that names this one"
    )


# -- states -------------------------------------------------------------------------------------------------------


class Phase(enum.Enum):
    """Where the transaction is."""

    NEW = "new"
    PREPARING = "preparing"
    DECIDING = "deciding"
    FINISHING = "finishing"
    DONE = "done"


class Ballot(enum.Enum):
    """What is known of one branch's vote."""

    ABSENT = "not connected"
    ASKED = "asked"
    YES = "yes"
    NO = "no"
    READ_ONLY = "read-only"
    SILENT = "no answer"


class Said(enum.Enum):
    """What changes a ballot."""

    CONNECTED = "connected"
    YES = "yes"
    NO = "no"
    READ_ONLY = "read-only"
    LOST = "lost"


class Meaning(enum.Enum):
    """What the ledger's answer means for the proposal."""

    OURS = "COMMIT with our branches"
    ANOTHERS = "COMMIT by somebody else"
    ABORTED = "ABORT"
    FORGOTTEN = "older than the horizon"


class Move(enum.Enum):
    """What an event does in a phase."""

    BEGIN = "ask those that are connected"
    COUNT = "note the ballot; ask, propose or go on waiting"
    GIVE_UP_ABSENT = "propose ABORT if a branch was never asked"
    GIVE_UP_WAITING = "propose ABORT"
    CONCLUDE = "reply and deliver what stands"
    DOUBT = "reply in doubt, deliver nothing"
    TICK_OFF = "one acknowledgement fewer to wait for"
    ANSWER = "reply what stands"
    IGNORE = "too late to matter"


# -- the tables ---------------------------------------------------------------------------------------------------

MOVES: Final[dict[tuple[Phase, type[Event]], Move]] = {
    (Phase.NEW, Started): Move.BEGIN,
    #
    (Phase.PREPARING, Connected): Move.COUNT,
    (Phase.PREPARING, BranchVoted): Move.COUNT,
    (Phase.PREPARING, Lost): Move.COUNT,
    (Phase.PREPARING, ConnectDeadline): Move.GIVE_UP_ABSENT,
    (Phase.PREPARING, PrepareDeadline): Move.GIVE_UP_WAITING,
    #
    (Phase.DECIDING, Connected): Move.IGNORE,
    (Phase.DECIDING, BranchVoted): Move.IGNORE,
    (Phase.DECIDING, Lost): Move.IGNORE,
    (Phase.DECIDING, ConnectDeadline): Move.IGNORE,
    (Phase.DECIDING, PrepareDeadline): Move.IGNORE,
    (Phase.DECIDING, Stands): Move.CONCLUDE,
    (Phase.DECIDING, ProposalNotKnown): Move.DOUBT,
    #
    (Phase.FINISHING, Connected): Move.IGNORE,
    (Phase.FINISHING, BranchVoted): Move.IGNORE,
    (Phase.FINISHING, Lost): Move.IGNORE,
    (Phase.FINISHING, ConnectDeadline): Move.IGNORE,
    (Phase.FINISHING, PrepareDeadline): Move.IGNORE,
    (Phase.FINISHING, BranchAcknowledged): Move.TICK_OFF,
    (Phase.FINISHING, ReplyDeadline): Move.ANSWER,
    #
    (Phase.DONE, Connected): Move.IGNORE,
    (Phase.DONE, BranchVoted): Move.IGNORE,
    (Phase.DONE, Lost): Move.IGNORE,
    (Phase.DONE, ConnectDeadline): Move.IGNORE,
    (Phase.DONE, PrepareDeadline): Move.IGNORE,
    (Phase.DONE, BranchAcknowledged): Move.IGNORE,
    (Phase.DONE, ReplyDeadline): Move.IGNORE,
}

BALLOTS: Final[dict[tuple[Ballot, Said], Ballot]] = {
    (Ballot.ABSENT, Said.CONNECTED): Ballot.ASKED,
    (Ballot.ASKED, Said.CONNECTED): Ballot.ASKED,
    (Ballot.ASKED, Said.YES): Ballot.YES,
    (Ballot.ASKED, Said.NO): Ballot.NO,
    (Ballot.ASKED, Said.READ_ONLY): Ballot.READ_ONLY,
    (Ballot.ASKED, Said.LOST): Ballot.SILENT,
    # A participant that connects once more has nothing to add to what it said.
    (Ballot.YES, Said.CONNECTED): Ballot.YES,
    (Ballot.READ_ONLY, Said.CONNECTED): Ballot.READ_ONLY,
}

STANDS: Final[dict[tuple[Verdict, Meaning], tuple[type[Reply | ReplyTxidUsed], Verdict]]] = {
    # proposed        what stands           tell the caller   tell our branches
    (Verdict.COMMIT, Meaning.OURS): (Reply, Verdict.COMMIT),
    (Verdict.COMMIT, Meaning.ANOTHERS): (ReplyTxidUsed, Verdict.ABORT),
    (Verdict.COMMIT, Meaning.ABORTED): (Reply, Verdict.ABORT),
    (Verdict.COMMIT, Meaning.FORGOTTEN): (Reply, Verdict.ABORT),
    (Verdict.ABORT, Meaning.ANOTHERS): (ReplyTxidUsed, Verdict.ABORT),
    (Verdict.ABORT, Meaning.ABORTED): (Reply, Verdict.ABORT),
    (Verdict.ABORT, Meaning.FORGOTTEN): (Reply, Verdict.ABORT),
}

_SAID: Final = {VoteKind.YES: Said.YES, VoteKind.NO: Said.NO, VoteKind.READ_ONLY: Said.READ_ONLY}
_MAY_HAVE_PREPARED: Final = frozenset({Ballot.ASKED, Ballot.YES, Ballot.SILENT})
_IN_FAVOUR: Final = frozenset({Ballot.YES, Ballot.READ_ONLY})

# -- the machine --------------------------------------------------------------------------------------------------


class Coordinator:
    """One transaction over ``branches`` (at least one, each once). ``wait_completed``: reply after the acknowledgements."""

    __slots__ = ("_proposed", "_standing", "_wait_completed", "_waiting_for", "ballots", "phase")

    def __init__(self, branches: Iterable[str], *, wait_completed: bool = False) -> None:
        self.phase = Phase.NEW
        self.ballots: dict[str, Ballot] = dict.fromkeys(branches, Ballot.ABSENT)
        self._wait_completed = wait_completed
        self._proposed: ProposeDecide | None = None
        self._standing: Standing | None = None
        self._waiting_for: set[str] = set()
        check(bool(self.ballots), "a transaction without branches")

    @property
    def done(self) -> bool:
        """Whether nothing that may still happen has an effect."""
        return self.phase is Phase.DONE

    def handle(self, event: Event) -> list[Effect]:
        """What to do because of ``event``, in this order."""
        move = MOVES.get((self.phase, type(event)))
        if move is None:
            broken(f"a coordinator that is {self.phase.value} was given {type(event).__name__}")
        if move is Move.IGNORE:
            return []
        match event:
            case Started(connected):
                return self._begin(connected)
            case Connected(branch):
                return self._connected(branch)
            case BranchVoted(branch, vote):
                return self._voted(branch, vote)
            case Lost(branch, why):
                self._note(branch, Said.LOST)
                return self._abort(f"participant {branch!r} gave no vote: {why}", branch)
            case ConnectDeadline():
                return self._give_up_absent()
            case PrepareDeadline(after_ms):
                return self._give_up_absent() or self._abort(*self._late(after_ms))
            case Stands(standing):
                return self._conclude(standing)
            case ProposalNotKnown():
                self.phase = Phase.DONE
                return [ReplyInDoubt()]
            case BranchAcknowledged(branch):
                self._waiting_for.discard(branch)
                return [] if self._waiting_for else self._answer()
            case ReplyDeadline():
                return self._answer()

    # -- phase one ------------------------------------------------------------------------------------------------

    def _begin(self, connected: frozenset[str]) -> list[Effect]:
        self.phase = Phase.PREPARING
        effects: list[Effect] = []
        for branch in self.ballots:
            if branch in connected:
                self._note(branch, Said.CONNECTED)
                effects.append(SendPrepare(branch))
        return effects

    def _connected(self, branch: str) -> list[Effect]:
        before = self.ballots[branch]
        self._note(branch, Said.CONNECTED)
        return [SendPrepare(branch)] if before is Ballot.ABSENT else []

    def _voted(self, branch: str, vote: Vote) -> list[Effect]:
        self._note(branch, _SAID[vote.kind])
        if vote.kind is VoteKind.NO:
            return self._abort(vote.reason or f"participant {branch!r} voted no and gave no reason", branch)
        if not _IN_FAVOUR.issuperset(self.ballots.values()):
            return []
        prepared = tuple(branch for branch, ballot in self.ballots.items() if ballot is Ballot.YES)
        return self._propose(ProposeDecide(Verdict.COMMIT, prepared, "", ""))

    def _note(self, branch: str, said: Said) -> None:
        before = self.ballots.get(branch)
        after = None if before is None else BALLOTS.get((before, said))
        if after is None:
            broken(
                f"branch {branch!r} said {said.value!r} when its ballot was {before.value if before else 'unknown'!r}"
            )
        self.ballots[branch] = after

    def _give_up_absent(self) -> list[Effect]:
        absent = self._first(Ballot.ABSENT)
        return [] if absent is None else self._abort(not_connected(absent), absent)

    def _late(self, after_ms: int) -> tuple[str, str]:
        late = self._first(Ballot.ASKED)
        check(late is not None, "every branch has voted and nothing was proposed")
        assert late is not None
        return f"participant {late!r} did not vote within {after_ms} ms", late

    def _first(self, ballot: Ballot) -> str | None:
        return next((branch for branch, its in self.ballots.items() if its is ballot), None)

    def _abort(self, reason: str, branch: str) -> list[Effect]:
        prepared = tuple(branch for branch, ballot in self.ballots.items() if ballot in _MAY_HAVE_PREPARED)
        return self._propose(ProposeDecide(Verdict.ABORT, prepared, reason[: limits.REASON_LENGTH_MAX], branch))

    def _propose(self, proposal: ProposeDecide) -> list[Effect]:
        self._proposed = proposal
        self.phase = Phase.DECIDING
        return [proposal]

    # -- phase two ------------------------------------------------------------------------------------------------

    def _conclude(self, standing: Standing) -> list[Effect]:
        proposed = self._proposed
        assert proposed is not None  # the phase is DECIDING
        meaning = _meaning(proposed, standing)
        rule = STANDS.get((proposed.verdict, meaning))
        if rule is None:
            broken(f"{meaning.value} stands against our proposal {proposed.verdict.name}")
        reply, verdict = rule
        told = proposed.branches
        if meaning is Meaning.ANOTHERS and standing.decision is not None:
            told = tuple(branch for branch in told if branch not in standing.decision.branches)
        effects: list[Effect] = [Deliver(verdict, told)] if told else []
        if self._wait_completed and told and reply is Reply:
            self.phase = Phase.FINISHING
            self._standing = standing
            self._waiting_for = set(told)
            return effects
        self.phase = Phase.DONE
        return [reply(standing), *effects]

    def _answer(self) -> list[Effect]:
        standing = self._standing
        assert standing is not None  # the phase is FINISHING
        self.phase = Phase.DONE
        return [Reply(standing)]


def _meaning(proposed: ProposeDecide, standing: Standing) -> Meaning:
    if standing.state is State.FORGOTTEN:
        return Meaning.FORGOTTEN
    decision = standing.decision
    check(decision is not None, "a standing outcome without its decision")
    assert decision is not None
    if decision.verdict is Verdict.ABORT:
        return Meaning.ABORTED
    ours = proposed.verdict is Verdict.COMMIT and set(decision.branches) == set(proposed.branches)
    return Meaning.OURS if ours else Meaning.ANOTHERS
