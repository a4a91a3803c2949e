"""The resolver and the transaction block with one rule of them broken. Only seeds that have databases can show it.

Each is a plant, as in mutations.py.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final
from unittest import mock

from plants import Plant, replacing  # tests/consensus/plants.py

from raftcoord.client.committing import Committing
from raftcoord.errors import InDoubt
from raftcoord.resolver import rules
from raftcoord.resolver.rules import Act
from raftcoord.resolver.sweep import Sweep
from raftcoord.resources.gid import Gid
from raftcoord.resources.mariadb import XAER_NOTA, MariaDb
from raftcoord.resources.steps import ConnectionLost, Effect, SqlError, Statement
from raftcoord.types import Answer, Outcome, State, TxId

RESOLVING: Final[dict[str, Plant]] = {}


def plant(name: str, *replaced: tuple[Any, str, Any]) -> None:
    RESOLVING[name] = replacing(*replaced)


# -- what the resolver asks -------------------------------------------------------------------------------------------


def _not_decided_is_aborted(self: Any, gid: Gid, *, final: bool) -> Answer:
    answer: Answer = self._ledger.status(gid.txid)
    return replace(answer, state=State.ABORTED) if final and answer.state is State.UNDECIDED else answer


plant("the resolver takes absence for an abort", (Sweep, "_asked", _not_decided_is_aborted))


def _old_is_aborted(self: Any, gid: Gid, *, final: bool) -> Answer:
    return Answer(gid.txid, State.ABORTED, "it is old", 0, 0) if final else _asked(self, gid, final=False)


_asked = Sweep._asked
plant("the resolver rolls back by age, unasked", (Sweep, "_asked", _old_is_aborted))

_LONG_MS: Final = 30_000


def _old_by_its_clock(self: Any, gid: Gid, *, final: bool) -> Answer:
    old = self._ledger._client._wall_ms() - gid.txid.ms > _LONG_MS
    return Answer(gid.txid, State.ABORTED, "it is old", 0, 0) if old else _asked(self, gid, final=final)


plant("the resolver rolls back what is old by its clock", (Sweep, "_asked", _old_by_its_clock))


def _asked_for_all(self: Any, gid: Gid, *, final: bool) -> Answer:
    answer: Answer = self._ledger.resolve(gid.txid) if final else self._ledger.status(gid.txid)
    return answer


plant("the resolver asks for the transaction, not for the branch", (Sweep, "_asked", _asked_for_all))


def _whoevers(self: Any, each: Any, seen: Any) -> bool:
    return bool(each.gid.branch == self._name and each.here)


plant("the resolver finishes branches of another cluster", (Sweep, "_is_mine", _whoevers))

# -- what it believes -------------------------------------------------------------------------------------------------


def _ok_is_proof(self: Any, gid: Gid) -> Any:
    try:
        yield Statement(f"XA COMMIT {gid.xid}", outside=True)
    except SqlError:
        return (yield from self.proof(gid))
    return Effect.COMMITTED


plant("OK is taken for a proof of a commit", (MariaDb, "commit_prepared", _ok_is_proof))


def _unknown_is_done(self: Any, gid: Gid) -> Any:
    try:
        yield Statement(f"XA COMMIT {gid.xid}", outside=True)
    except SqlError as error:
        if error.code != XAER_NOTA:
            raise
        return Effect.COMMITTED
    return (yield from self.proof(gid))


plant("1397 is taken for success", (MariaDb, "commit_prepared", _unknown_is_done))
RESOLVING["a branch that is gone counts as committed"] = lambda: mock.patch.dict(
    rules.ON_OPEN, {(State.COMMITTED, Effect.ABSENT): Act.COMPLETE}
)
plant("nobody reads the open decisions", (Sweep, "_open", lambda self: iter(())))


def _up_to_the_horizon(self: Any, horizon_ms: int) -> int:
    if horizon_ms <= 0:
        return 0
    before = TxId.new(horizon_ms, bytes(10))
    count: int = self._session.run(self._dialect.forget_marks(self._cluster, before))
    return count


plant("marks of open decisions are forgotten", (Sweep, "forget_marks", _up_to_the_horizon))

# -- what a program does ----------------------------------------------------------------------------------------------


def _decided_or_given_up(self: Any) -> Any:
    try:
        return (yield from _decide(self))
    except InDoubt as error:
        yield from self._roll_back_all()
        raise self.aborted(str(error)) from None


def _decided_or_hoped(self: Any) -> Any:
    try:
        return (yield from _decide(self))
    except InDoubt:
        return Outcome(self._txid, True, "", 0, 0)


_decide = Committing._decide
plant("a program rolls back what is in doubt", (Committing, "_decide", _decided_or_given_up))
plant("a program commits what is in doubt", (Committing, "_decide", _decided_or_hoped))


def _answered_or_not(self: Any, gid: Gid, *, marks: bool) -> Any:
    try:
        yield from _prepare(self, gid, marks=marks)
    except ConnectionLost:
        return


_prepare = MariaDb.prepare
plant("a prepare without an answer is taken for a yes", (MariaDb, "prepare", _answered_or_not))


def _called_done(self: Any, branch: Any) -> Any:
    yield from _commit_one(self, branch)
    return True


_commit_one = Committing._commit_one
plant("a program calls complete what it could not commit", (Committing, "_commit_one", _called_done))


def _late_all_the_same(self: Any, outcome: Outcome) -> Any:
    yield from _finish(self, replace(outcome, committed=True))


_finish = Committing._finish
plant("a program commits although somebody has aborted it", (Committing, "_finish", _late_all_the_same))
