"""One look at one resource: what is prepared there, and what the ledger waits for there, brought to its outcome.

Owed: a branch is committed or rolled back only by the ledger's answer about that branch, and is called done only by the effect
that the database shows afterwards. A gid of another cluster is counted and never touched. What stops one branch stops no
other. Never: a state that must outlive this process; a killed resolver, or two at once, cost nothing but a repetition.

The order matters: the decisions that are open are read before the prepared branches are listed. A decision names a branch only
once it is prepared, so a branch of theirs that is then not listed has been finished by somebody.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Any, Final, Protocol

from raftcoord import limits
from raftcoord.api.answers import DamagePage, Row
from raftcoord.databases import gid as gids
from raftcoord.databases.gid import Gid
from raftcoord.databases.resolver.rules import ON_ANSWER, ON_EFFECT, ON_OPEN, Act, Pace, Paces
from raftcoord.databases.resolver.sweep_report import BranchLeft, SweepReport
from raftcoord.databases.session import DriverSession
from raftcoord.databases.steps import ConnectionLost, Dialect, Effect, PreparedHere, SqlError
from raftcoord.errors import InDoubt, Overloaded, RaftcoordError, Unavailable
from raftcoord.limits import ResolverBounds
from raftcoord.types import Answer, State, TxId

log: Final = logging.getLogger("raftcoord.resolver")

_NEVER_MS: Final = (1 << 48) - 1
_COMMITTED_AGAINST_ABORT: Final = "the ledger says ABORTED, and the mark of this branch stands: it was committed"
_SUSPECTED: Final = "committed in the ledger; in {0} it is neither prepared nor marked: {1}"
_STUCK: Final = "told to {0}, it stays prepared: the session that prepared it may be alive still; end that session"
_CLOSE: Final = (
    "it was committed here, or is lost. Compare it with the other branches; what is right is closed with: "
    "raftcoord txn close {0} --all --as NAME --why TEXT"
)
_NO_MARKS: Final = (
    "committed in the ledger and not prepared here, and the table of marks is gone, which would tell whether "
    + _CLOSE
    + ". "
    "raftcoord resource init {0} makes the table for the next time"
)
_YOUNG_MARKS: Final = (
    "committed in the ledger and not prepared here, and the table of marks is younger than that, or was emptied, so that it does "
    "not tell whether " + _CLOSE
)


class ResolverLedger(Protocol):
    """What is asked of the nodes: ``client.synchronous.Client`` keeps it."""

    def status(self, txid: TxId, /) -> Answer:
        """See AsyncClient."""

    def resolve(self, txid: TxId, /, *, branch: str | None = None) -> Answer:
        """See AsyncClient."""

    def complete(self, txid: TxId, branches: list[str], /) -> None:
        """See AsyncClient."""

    def report_damage(self, txid: TxId, branch: str, what: str, /) -> None:
        """See AsyncClient."""

    def damages(self, txid: TxId, /) -> DamagePage:
        """See AsyncClient."""

    def transactions(self, state: str, /, *, limit: int, before: TxId | None = None) -> list[Row]:
        """See AsyncClient."""


class Sweep:
    """The looks at one resource, over one ``session``. ``name``: of its branches; ``named``: of all resources.

    ``where``: the database, for people; ``safety_s``: how long an undecided branch is left to its program; ``now``: a clock (s);
    ``chance``: from 0 to 1, for jitter. ``paces`` outlives the session.
    """

    def __init__(
        self,
        name: str,
        named: frozenset[str],
        where: str,
        session: DriverSession,
        ledger: ResolverLedger,
        cluster: str,
        paces: Paces,
        bounds: ResolverBounds,
        *,
        safety_s: float,
        now: Callable[[], float],
        chance: Callable[[], float],
    ) -> None:
        self._name = name
        self._named = named
        self._where = where
        self._session = session
        self._dialect: Dialect = session.dialect
        self._ledger = ledger
        self._cluster = cluster
        self._paces = paces
        self._bounds: Final = bounds
        self._safety_s = safety_s
        self._now = now
        self._chance = chance
        self._open_next_at = 0.0
        self._aborted_next_at = 0.0
        self._aborted_before: TxId | None = None
        self._open_before: TxId | None = None
        self._oldest_open_ms = 0
        self._oldest_seen_ms = _NEVER_MS
        self._oldest_listed_ms = 0
        self._horizon_ms = 0
        """The horizon as it was heard last."""
        self._reading_ms = 0
        """The same when the open decisions began to be read."""
        self._passed_ms = 0
        """The same for the last time that they were read to the end."""

    def look(self, *, thorough: bool = False) -> SweepReport:
        """Look once, and do what is due. ``thorough``: the decisions that are open too, whether it is time for that or not.

        Raises ConnectionLost or SqlError when the database cannot be looked at, any other RaftcoordError when the nodes cannot.
        """
        seen = SweepReport(next_s=self._bounds.every_ms / 1000)
        rows: list[Row] = []
        unseen: RaftcoordError | None = None
        try:
            if thorough or self._now() >= self._open_next_at:
                rows.extend(self._open())
        except RaftcoordError as error:  # what is prepared holds locks, and is finished all the same
            unseen = error
        listed = self._session.run(self._dialect.list_prepared(None))
        self._oldest_listed_ms = min(
            (each.gid.txid.ms for each in listed if each.gid.cluster == self._cluster), default=_NEVER_MS
        )
        for each in [each for each in listed if self._is_mine(each, seen)]:
            self._prepared(each, seen)
        prepared = {each.gid for each in listed}
        for row in rows:
            if self._gid(row["txid"]) not in prepared:
                self._not_prepared(row, seen)
        if thorough or self._now() >= self._aborted_next_at:
            self._against_abort(seen)
        if unseen is not None:
            raise unseen
        return seen

    def forget_marks(self, horizon_ms: int) -> int:
        """Delete the marks of transactions that nobody can ask for any more; how many went.

        An open decision needs its mark, however old it is, and the row of a branch that is prepared is locked: none at or after
        the oldest of either is touched. What is decided later is not older than the horizon of before: so the horizon that
        counts is one that was known when all open decisions began to be read. Nothing is done before that.
        """
        before_ms = min(self._passed_ms, self._oldest_open_ms, self._oldest_listed_ms)
        self._horizon_ms = horizon_ms
        if before_ms <= 0:
            return 0
        return self._session.run(self._dialect.forget_marks(self._cluster, TxId.new(before_ms, bytes(10))))

    # -- what is listed as prepared -------------------------------------------------------------------------------

    def _is_mine(self, each: PreparedHere, seen: SweepReport) -> bool:
        """Whether it is this resource's to finish. What is not is counted, and reported if nobody else will."""
        gid = each.gid
        if gid.cluster != self._cluster:
            seen.foreign += 1
            return False
        if gid.branch == self._name and each.here:
            seen.prepared += 1
            return True
        if gid.branch == self._name:
            seen.left.append(
                BranchLeft(
                    gid, f"it is prepared in database {each.database!r}, and the url names another one; correct it"
                )
            )
        elif gid.branch not in self._named:
            seen.left.append(
                BranchLeft(gid, "cluster.yaml names no resource of that name; add it, and start the resolver again")
            )
        elif (
            each.here and self._paces.of(gid, self._now()).age(self._now(), None) > limits.RESOLVER_ELSEWHERE_MS / 1000
        ):
            why = f"it is prepared here for long, and is of resource {gid.branch!r}: check that its url names this database"
            seen.left.append(BranchLeft(gid, why))
        return False

    def _prepared(self, each: PreparedHere, seen: SweepReport) -> None:
        gid, now = each.gid, self._now()
        pace = self._paces.of(gid, now)
        age_s = pace.age(now, each.age_s)
        settled_s = self._bounds.settle_ms / 1000
        if age_s < settled_s or now < pace.next_at:
            self._rest(gid, pace, max(settled_s - age_s, pace.next_at - now), seen)
            return
        pace.why = ""
        with self._excused(gid, pace, seen):
            answer = self._asked(gid, final=age_s >= self._safety_s)
            act = ON_ANSWER[answer.state]
            if act is Act.AGAIN:
                self._wait(gid, self._safety_s - age_s, seen)
            elif act is Act.LEAVE:
                self._leave(gid, pace, answer.reason, seen)
            else:
                self._finish(gid, act, pace, seen)

    @contextlib.contextmanager
    def _excused(self, gid: Gid, pace: Pace, seen: SweepReport) -> Iterator[None]:
        """What stops this branch is reported, and stops no other."""
        try:
            yield
        except SqlError as error:
            self._leave(gid, pace, self._session.database.explained(error), seen)
        except (ConnectionLost, Unavailable, Overloaded, InDoubt):  # the database or the nodes, and so every branch
            raise
        except RaftcoordError as error:  # a txid that lies in the future, say
            self._leave(gid, pace, str(error), seen)

    def _asked(self, gid: Gid, *, final: bool) -> Answer:
        """What the branch has to do. Before ``final`` nothing is aborted by asking."""
        if not final:
            answer = self._ledger.status(gid.txid)
            if answer.state is State.UNDECIDED:
                return answer
        return self._ledger.resolve(gid.txid, branch=gid.branch)

    def _finish(self, gid: Gid, act: Act, pace: Pace, seen: SweepReport) -> None:
        if act is Act.COMMIT:
            effect = self._session.run(self._dialect.commit_prepared(gid))
        else:
            effect = self._session.run(self._dialect.rollback_prepared(gid))
        match ON_EFFECT[act, effect]:
            case Act.COMPLETE:
                self._ledger.complete(gid.txid, [gid.branch])
                seen.committed += 1
            case Act.NOTHING:
                seen.rolled_back += 1
            case Act.DAMAGE if self._ledger.status(gid.txid).state is not State.ABORTED:
                seen.rolled_back += 1  # it was forgotten while this process slept, and committed long before
            case Act.DAMAGE:
                self._damage(gid, pace, _COMMITTED_AGAINST_ABORT, seen)
            case _:
                pace.again(self._now(), self._chance())
                if pace.tries > limits.RESOLVER_TRIES_QUIET:
                    pace.why = _STUCK.format(act.value)
                self._rest(gid, pace, pace.next_at - self._now(), seen)

    def _rest(self, gid: Gid, pace: Pace, seconds: float, seen: SweepReport) -> None:
        """Not now. What was left alone stays reported."""
        if pace.why:
            seen.left.append(BranchLeft(gid, pace.why))
        else:
            self._wait(gid, seconds, seen)

    def _wait(self, gid: Gid, seconds: float, seen: SweepReport) -> None:
        seen.waiting.add(gid)
        seen.next_s = min(seen.next_s, max(seconds, 0.0))

    def _leave(self, gid: Gid, pace: Pace, why: str, seen: SweepReport) -> None:
        pace.why = why
        pace.again(self._now(), self._chance())
        seen.left.append(BranchLeft(gid, why))

    # -- what the ledger waits for --------------------------------------------------------------------------------

    def _open(self) -> Iterator[Row]:
        """Open decisions that wait for this resource, newest first; of a long backlog one part at a time."""
        if self._open_before is None:
            self._oldest_seen_ms = _NEVER_MS
            self._reading_ms = self._horizon_ms
        for _ in range(limits.RESOLVER_OPEN_PAGES):
            page = self._ledger.transactions("open", limit=limits.ROWS_MAX, before=self._open_before)
            yield from (row for row in page if self._name in row["outstanding"])
            self._oldest_seen_ms = min([self._oldest_seen_ms, *(row["txid"].ms for row in page)])
            if len(page) < limits.ROWS_MAX:
                self._open_before = None
                self._oldest_open_ms = self._oldest_seen_ms
                self._passed_ms = self._reading_ms
                self._open_next_at = self._now() + self._bounds.open_ms / 1000
                return
            self._open_before = page[-1]["txid"]

    def _not_prepared(self, row: Row, seen: SweepReport) -> None:
        gid, now = self._gid(row["txid"]), self._now()
        pace = self._paces.of(("open", gid.txid), now)
        due_at = max(pace.next_at, pace.first + self._safety_s)
        if now < due_at:
            again_s = max(due_at - now, self._bounds.every_ms / 1000)
            self._open_next_at = min(self._open_next_at, now + again_s)
            self._rest(gid, pace, again_s, seen)
            return
        pace.why = ""
        with self._excused(gid, pace, seen):
            effect = self._session.run(self._dialect.proof(gid))
            if effect is not Effect.ABSENT:
                pace.cleared()
            match ON_OPEN[row["state"], effect]:
                case Act.COMPLETE:
                    self._ledger.complete(gid.txid, [gid.branch])
                    seen.completed += 1
                case Act.SUSPECT if not self._session.run(self._dialect.covers(gid)):
                    self._leave(gid, pace, _YOUNG_MARKS.format(self._name), seen)
                case Act.SUSPECT if pace.suspect(now):
                    self._damage(gid, pace, _SUSPECTED.format(self._where, self._session.database.gone), seen)
                case Act.DAMAGE:
                    self._damage(gid, pace, _COMMITTED_AGAINST_ABORT, seen)
                case Act.LEAVE:
                    self._leave(gid, pace, _NO_MARKS.format(self._name), seen)
                case _:
                    seen.waiting.add(gid)

    # -- what was committed against an abort ------------------------------------------------------------------------

    def _against_abort(self, seen: SweepReport) -> None:
        """A mark of an ABORTED transaction: somebody has committed its branch by hand, and nothing waits for it.

        The newest aborts are looked at each time, and one part of the older ones: a branch that stays prepared, because the
        resolver was away, may be committed by hand long after its transaction was aborted.
        """
        newest = self._ledger.transactions("aborted", limit=limits.ROWS_MAX)
        self._look_for_marks(newest, seen)
        if len(newest) == limits.ROWS_MAX:
            older = self._ledger.transactions(
                "aborted", limit=limits.ROWS_MAX, before=self._aborted_before or newest[-1]["txid"]
            )
            self._look_for_marks(older, seen)
            self._aborted_before = older[-1]["txid"] if len(older) == limits.ROWS_MAX else None
        self._aborted_next_at = self._now() + self._bounds.aborted_ms / 1000

    def _look_for_marks(self, aborted: list[Row], seen: SweepReport) -> None:
        gids = [self._gid(row["txid"]) for row in aborted]
        if not gids:
            return
        marked = self._session.run(self._dialect.marked(gids))
        for gid in [gid for gid in gids if str(gid) in marked]:
            pace = self._paces.of(("aborted", gid.txid), self._now())
            with self._excused(gid, pace, seen):
                if not pace.recorded and self._is_acknowledged(gid):
                    pace.recorded = True
                self._damage(gid, pace, _COMMITTED_AGAINST_ABORT, seen)

    def _is_acknowledged(self, gid: Gid) -> bool:
        shown = self._ledger.damages(gid.txid).shown
        return any(damage.branch == gid.branch and damage.acknowledged_by for damage in shown)

    def _damage(self, gid: Gid, pace: Pace, what: str, seen: SweepReport) -> None:
        """Record it once, and go on looking: it may be put right."""
        pace.again(self._now(), self._chance())
        if pace.recorded:
            return
        self._ledger.report_damage(gid.txid, gid.branch, what)
        pace.recorded = True
        seen.damaged.append(BranchLeft(gid, what))
        log.critical("DAMAGE: transaction %s, branch %s: %s (raftcoord txn ls --heuristic)", gid.txid, gid.branch, what)

    def _gid(self, txid: Any) -> Gid:
        return gids.make(self._cluster, txid, self._name)
