"""The resolver and the transaction block with one rule of them broken. Only seeds that have databases can show it.

Each is a plant, as in mutations.py.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from plants import Plant, replacing  # tests/consensus/plants.py

from raftcoord.client.committing import Committing
from raftcoord.databases.gid import Gid
from raftcoord.databases.mariadb.dialect import XAER_NOTA, MariaDb
from raftcoord.databases.resolver.sweep import Sweep
from raftcoord.databases.steps import Effect, SqlError, Statement
from raftcoord.errors import InDoubt
from raftcoord.types import Answer, Outcome, State

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


def _unknown_is_done(self: Any, gid: Gid) -> Any:
    try:
        yield Statement(f"XA COMMIT {gid.xid}", outside=True)
    except SqlError as error:
        if error.code != XAER_NOTA:
            raise
        return Effect.COMMITTED
    return (yield from self.proof(gid))


plant("1397 is taken for success", (MariaDb, "commit_prepared", _unknown_is_done))
plant("nobody reads the open decisions", (Sweep, "_open", lambda self: iter(())))


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
