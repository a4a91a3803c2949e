"""Atomic commit over the caller's own connections, as moves: what is done next, and what each outcome of it means.

Theory of operation. The caller's program coordinates, so what must outlive it is in the databases (prepared branches that
have our gid) and in the ledger (the decision). For each point at which it may stop:

    before the first prepare        the databases roll back by themselves; nothing is on the ledger
    prepared, COMMIT not proposed   nobody else can propose COMMIT: rolling back is safe; the resolver does it if we cannot
    COMMIT proposed, not answered   in doubt: nothing may be touched; the connections are closed, so that the resolver can act
    COMMIT is recorded              success, whatever happens next; what could not be committed here is the resolver's
    ABORT is recorded               somebody resolved it before: roll back, Aborted

One branch alone whose txid nobody has read is committed by its own database, with nothing on the ledger, and its txid is never
shown: ``resolve`` would call it ABORTED. A txid that was read is decided like any other, over one branch or none: the program
that kept it may ask for it after a crash, and a decision that comes before the commit cannot contradict what is in the
database.

Ctrl-C and a cancellation go on as they are, at any of these points, with a note that says which it was.

Owed: each connection ends clean or closed. ``Moves`` is driven by transaction.py, which carries each move out and sends back
its result or throws in its error. Never: I/O, a clock of its own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, Final

from raftcoord import limits
from raftcoord.client.moves import (
    Clean,
    CloseConnection,
    Enter,
    Moves,
    ProposeOutcome,
    ReportComplete,
    Run,
    closed,
    one,
    outcome_of,
)
from raftcoord.databases.gid import Gid
from raftcoord.databases.owners import Marks
from raftcoord.databases.session import Base
from raftcoord.databases.steps import (
    BranchEnded,
    ConnectionLost,
    Effect,
    NeverSent,
    NotPossible,
    NotSetUp,
    Occupied,
    SqlError,
)
from raftcoord.errors import (
    Aborted,
    ConfigError,
    ForgottenTxid,
    FutureTxid,
    InDoubt,
    LocalProtocolError,
    Overloaded,
    RaftcoordError,
    Unavailable,
)
from raftcoord.events import Acknowledged, Asking, Decided, Deciding, Delivering, Observers
from raftcoord.types import Branch, Outcome, State, TxId, Verdict, checked_branch

_GRACE_S: Final = limits.GRACE_MS_DEFAULT / 1000

RECORD_ABORT_S: Final = 1.0
"""How long an abort that is certain waits to be recorded (s). It is for ``txn show``; nothing depends on it."""


_REFUSED: Final = (NotPossible, BranchEnded, SqlError, ConnectionLost)


class Enlisted:
    """A branch. ``touched``: it was told to prepare. ``prepared``: it has said so and shown it.

    ``ended``: its connection is clean or closed.
    """

    def __init__(self, session: Base, gid: Gid) -> None:
        self.session = session
        self.gid = gid
        self.touched = False
        self.prepared = False
        self.ended = False


class Committing:
    """One transaction. ``now``: the time that ``timeout`` (s) runs by. ``outcome``: what is recorded in the ledger, once known.

    ``resources``: the names that branches may have; none: any. ``grace``: seconds after ``timeout`` for what is decided by then.
    """

    def __init__(
        self,
        txid: TxId,
        timeout: float,
        now: Callable[[], float],
        resources: frozenset[str],
        grace: float = _GRACE_S,
        events: Observers | None = None,
    ) -> None:
        self.outcome: Outcome | None = None
        self._txid = txid
        self._events = Observers(now) if events is None else events
        self._was_read = False
        self._is_local = False
        self._timeout = timeout
        self._grace = grace
        self._resources = resources
        self._told = "it is not committed, and what was prepared of it the resolver rolls back"
        self._now = now
        self._deadline = now() + timeout
        self._branches: list[Enlisted] = []
        self._is_over = False

    @property
    def txid(self) -> TxId | None:
        """The transaction's, which from here on is recorded if it commits; None when its database has committed it alone.

        Another thread may read it while ``commit`` begins: each side sets its own flag before it looks at the other's.
        """
        self._was_read = True
        return None if self._is_local else self._txid

    @property
    def minted(self) -> TxId:
        """The same, unread."""
        return self._txid

    def aborted(self, reason: str, branch: str | None = None) -> Aborted:
        """The error of this transaction, of which nothing is committed."""
        return Aborted(self._txid, reason, branch)

    def left(self) -> float:
        """Seconds until the timeout."""
        return self._deadline - self._now()

    def patience_s(self) -> float:
        """How long one database is waited for now (s): what it does not finish, the resolver finishes."""
        return max(self.left(), 0.0) + self._grace

    def check_enlistment(self, connection: Any, branch: object) -> Branch:
        """Raise LocalProtocolError or ConfigError unless ``connection`` may be enlisted as ``branch``; the name, checked."""
        name = checked_branch(branch)
        if self._resources and name not in self._resources:
            known = ", ".join(sorted(self._resources))
            raise ConfigError(
                f"cluster.yaml names no resource {name!r}, so no resolver would finish that branch after a crash; its resources "
                f"are {known}"
            )
        if self._is_over:
            raise LocalProtocolError("this transaction is over; begin a new one")
        if len(self._branches) >= limits.BRANCHES_MAX:
            raise LocalProtocolError(f"at most {limits.BRANCHES_MAX} branches are allowed in one transaction")
        for each in self._branches:
            if connection in (each.session.connection, each.session.given):
                raise LocalProtocolError(
                    f"this connection is enlisted already, as branch {each.gid.branch!r}; enlist each connection once"
                )
            if each.gid.branch == name:
                raise LocalProtocolError(
                    f"a branch {name!r} is enlisted already; give each connection a name of its own"
                )
        return name

    def enlist(self, session: Base, cluster: str, checked: bool) -> Moves[bool]:
        """Begin the branch; whether the connection is known from now on to lead to its resource."""
        session.check_fit()
        gid = Gid(cluster, self._txid, session.branch)
        try:
            yield Enter(session)
            marks = yield Run(session, session.dialect.begin(gid, checked=checked))
            if not marks:
                raise NotSetUp(
                    "there is no table of marks in the database of this connection, so nobody could tell which resource it is: "
                    f"connect to the right one, or make the table with: raftcoord resource init {session.branch}"
                )
            self._branches.append(Enlisted(session, gid))
        except _REFUSED as error:
            clean = None if isinstance(error, ConnectionLost) else (yield from outcome_of(one(Clean(session))))
            if isinstance(error, ConnectionLost) or clean is not None:
                clean = (yield from closed(session)) or clean
            raise clean or _refusal(error, session.branch) from None
        except GeneratorExit:
            raise
        except BaseException:  # Ctrl-C, say: what the connection was told last is not known to have arrived
            yield from closed(session)
            raise
        return marks is Marks.NAMED

    def commit(self) -> Moves[None]:
        """The block was left without an exception. Raises Aborted, InDoubt, or LocalProtocolError for a broken rule."""
        self._is_over = True
        self._is_local = len(self._branches) <= 1
        if self._was_read:
            self._is_local = False
        yield from self._to_the_end(self._committed())

    def abandon(self) -> Moves[None]:
        """The block was left with an exception: roll back."""
        self._is_over = True
        yield from self._to_the_end(self._roll_back_all())

    def _committed(self) -> Moves[None]:
        if not self._is_local:
            yield from self._prepare_all()
            yield from self._finish((yield from self._decide()))
        elif self._branches:
            yield from self._commit_alone(self._branches[0])

    def _to_the_end(self, moves: Moves[None]) -> Moves[None]:
        """Every connection ends, however often that is interrupted. An interruption goes on, with a note of the outcome."""
        failed = yield from outcome_of(moves)
        for branch in self._branches:
            if not branch.ended:
                interruption = yield from closed(branch.session)
                branch.ended = True
                if failed is None or isinstance(failed, Exception):
                    failed = interruption or failed
        if failed is None:
            return
        if not isinstance(failed, RaftcoordError):
            failed.add_note(f"{self._name()}: {self._told}")
        raise failed

    def _commit_alone(self, branch: Enlisted) -> Moves[None]:
        session = branch.session
        try:
            self._check_time()
            self._told = f"its only branch {branch.gid.branch!r} may or may not be committed; look into that database"
            yield Run(session, session.dialect.commit_one_phase(branch.gid))
        except NeverSent as error:
            yield from _end(branch, CloseConnection(session))
            raise self._reason(error, branch) from None
        except ConnectionLost as error:
            raise ConnectionLost(
                f"{error}. Branch {branch.gid.branch!r} was the only one, and its database was told to commit it: look there "
                "whether it has. (A transaction whose txid is read inside the block is decided by the nodes, and can be resolved)"
            ) from None
        except _REFUSED as error:
            yield from self._roll_back(branch)
            raise self._reason(error, branch) from None
        yield from _end(branch, Clean(session))

    def _prepare_all(self) -> Moves[None]:
        """Who is late is told by the name of the branch that took the time, and not of the one whose turn it would be."""
        last: Enlisted | None = None
        for branch in self._branches:
            try:
                self._check_time()
            except NotPossible as error:
                yield from self._give_up(last, error)
            last = branch
            try:
                branch.touched = True
                branch.session.check_work()
                if self._events.wanted:
                    self._events.tell(Asking(self._txid, branch.gid.branch))
                yield Run(branch.session, branch.session.dialect.prepare(branch.gid, marks=True))
            except _REFUSED as error:
                yield from self._give_up(branch, error)
            branch.prepared = True

    def _decide(self) -> Moves[Outcome]:
        try:
            self._check_time()
        except NotPossible as error:
            yield from self._give_up(self._branches[-1] if self._branches else None, error)
        try:
            names = tuple(branch.gid.branch for branch in self._branches)
            before, self._told = self._told, "whether it is committed is not known; resolve it, which tells"
            if self._events.wanted:
                self._events.tell(Deciding(self._txid, Verdict.COMMIT, names))
            self.outcome = yield ProposeOutcome(self._txid, Verdict.COMMIT, names, "", self.left())
        except (Unavailable, Overloaded, FutureTxid, ForgottenTxid) as error:  # definite: it was not proposed
            self._told = before
            yield from self._roll_back_all()
            raise self.aborted(f"no node took the decision, and it was rolled back: {error}") from None
        except InDoubt:
            raise
        except RaftcoordError as error:
            raise InDoubt(self._txid, str(error)) from None
        assert self.outcome is not None
        if self._events.wanted:
            self._events.tell(Decided(self._txid, State.COMMITTED if self.outcome.committed else State.ABORTED))
        return self.outcome

    def _finish(self, outcome: Outcome) -> Moves[None]:
        if not outcome.committed:
            self._told = "it is aborted, and what is prepared of it the resolver rolls back"
            yield from self._roll_back_all()
            raise self.aborted(outcome.reason, outcome.branch)
        self._told = "it is committed, and what was not carried out of it the resolver does"
        done = []
        for branch in self._branches:
            if (yield from self._commit_one(branch)):
                done.append(branch.gid.branch)
        if done:
            yield ReportComplete(self._txid, tuple(done))

    def _commit_one(self, branch: Enlisted) -> Moves[bool]:
        """Whether it was. If not, the connection is closed, which makes it the resolver's."""
        session = branch.session
        if self._events.wanted:
            self._events.tell(Delivering(self._txid, branch.gid.branch, Verdict.COMMIT))
        try:
            effect = yield Run(session, session.dialect.commit_prepared_here(branch.gid))
        except _REFUSED:
            effect = Effect.UNKNOWN
        is_done = effect is Effect.COMMITTED
        if is_done and self._events.wanted:
            self._events.tell(Acknowledged(self._txid, branch.gid.branch))
        yield from _end(branch, Clean(session) if is_done else CloseConnection(session))
        return is_done

    def _give_up(self, failed: Enlisted | None, error: RaftcoordError) -> Moves[None]:
        """COMMIT was not proposed: roll back, record ABORT where anything was prepared, and say why."""
        left_over = isinstance(error, ConnectionLost) or any(branch.prepared for branch in self._branches)
        why = self._reason(error, failed)
        if failed is not None and isinstance(error, ConnectionLost):
            yield from _end(failed, CloseConnection(failed.session))
        yield from self._roll_back_all()
        if left_over:
            reason = str(error)[: limits.REASON_LENGTH_MAX]
            with contextlib.suppress(RaftcoordError):  # undecided is as good: the next one to ask makes it ABORT
                self.outcome = yield ProposeOutcome(self._txid, Verdict.ABORT, (), reason, RECORD_ABORT_S)
        raise why from None

    def _roll_back_all(self) -> Moves[None]:
        for branch in self._branches:
            yield from self._roll_back(branch)

    def _roll_back(self, branch: Enlisted) -> Moves[None]:
        """Prepared or not, or not known whether."""
        if branch.ended:
            return
        session, dialect = branch.session, branch.session.dialect
        try:
            yield Run(session, dialect.rollback(branch.gid, touched=branch.touched))
        except _REFUSED:
            yield from _end(branch, CloseConnection(session))
        else:
            yield from _end(branch, Clean(session))

    def _name(self) -> str:
        """For people: without the txid of what is not recorded."""
        return "this transaction" if self._is_local else f"transaction {self._txid}"

    def _check_time(self) -> None:
        if self.left() <= 0:
            raise NotPossible(f"the timeout of {self._timeout:g} s had passed before it was decided")

    def _reason(self, error: RaftcoordError, branch: Enlisted | None) -> RaftcoordError:
        name = None if branch is None else branch.gid.branch
        if isinstance(error, BranchEnded):
            return LocalProtocolError(
                f"branch {name!r} of {self._name()}: {error}. The other branches were rolled back; what the block "
                "itself has committed stands"
            )
        if isinstance(error, ConnectionLost):
            return self.aborted(f"{error}. Nothing was committed; try the transaction again", name)
        return self.aborted(str(error), name)


def _end(branch: Enlisted, move: Clean | CloseConnection) -> Moves[None]:
    yield move
    branch.ended = True


def _refusal(error: RaftcoordError, branch: str) -> RaftcoordError:
    """Why a connection was not enlisted, by blame."""
    text = f"branch {branch!r} was not enlisted: {error}"
    if isinstance(error, NotSetUp):
        return ConfigError(text)
    if isinstance(error, (Occupied, ConnectionLost)):
        return Unavailable(text)
    return LocalProtocolError(text)
