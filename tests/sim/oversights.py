"""Mistakes that the simulator was once blind to: found by somebody who planted what the other lists do not have.

Each is a plant, as in mutations.py. What made the simulator see them is in docs/testing.md. Those that no simulation can
reach are in ``UNSEEN``, with the reason and the test that sees them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from plants import Plant, replacing  # tests/consensus/plants.py

from raftcoord.consensus.group import Group
from raftcoord.consensus.peers import Peers
from raftcoord.consensus.proposals import Proposals
from raftcoord.consensus.pysyncobj.guard import Guarded
from raftcoord.core import asking
from raftcoord.core.asking import Confirm
from raftcoord.core.protocols import two_phase
from raftcoord.core.protocols.two_phase import Ballot
from raftcoord.core.tables.decisions import Decisions
from raftcoord.core.tables.table import TableChange
from raftcoord.errors import Unavailable
from raftcoord.node.sessions import Sessions
from raftcoord.participants.locks import Locks
from raftcoord.participants.sqlite import SqliteParticipant
from raftcoord.types import TxId

OVERSIGHTS: Final[dict[str, Plant]] = {}


class Unseen(NamedTuple):
    """``why`` no simulation reaches it; ``test``: what fails with it, as pytest names it. It takes no fixture."""

    plant: Plant
    why: str
    test: str


UNSEEN: Final[dict[str, Unseen]] = {}


def plant(name: str, *replaced: tuple[Any, str, Any]) -> None:
    OVERSIGHTS[name] = replacing(*replaced)


# -- consensus --------------------------------------------------------------------------------------------------------


def _acknowledges_everything(
    self: Any, node: Any, reset: bool = False, nextNodeIdx: int | None = None, success: bool = False
) -> None:
    """What follows the verified entries is acknowledged with them."""
    _send_next(self, node, reset, None if success and not reset else nextNodeIdx, success)


_send_next = Guarded._SyncObj__sendNextNodeIdx
plant(
    "the whole log is acknowledged, an unverified tail included",
    (Guarded, "_SyncObj__sendNextNodeIdx", _acknowledges_everything),
)


plant("nothing is proposed again after a copy", (Proposals, "hand_over_again", lambda self: None))


def _measured(self: Any, node: int, rows: Any, wall_ms: int) -> None:
    _heard(self, node, rows, wall_ms)
    self.measured = {**getattr(self, "measured", {}), node: wall_ms - self._env.wall_ms()}


def _as_once_measured(self: Any) -> Any:
    return {self.names[node]: getattr(self, "measured", {}).get(node) for node in self._dialers}


_heard = Peers.heard
plant(
    "a clock's offset outlives its measurement",
    (Peers, "heard", _measured),
    (Peers, "clock_offsets", _as_once_measured),
)

# -- the ledger -------------------------------------------------------------------------------------------------------


def _shed_at_once(self: Any, stored_index: int, rows_max: int) -> None:
    taken, self.pending = self.pending, TableChange()
    try:
        _shed(self, 1 << 62, rows_max)
    finally:
        self.pending = taken


def _applied_and_shed(self: Any, now: float) -> None:
    _apply(self, now)
    self.ledger.shed(self.applied_index, self._memory_max)


_shed = Decisions.shed
_apply = Group.apply
plant("the ledger is shed before it is stored", (Decisions, "shed", _shed_at_once), (Group, "apply", _applied_and_shed))


def _stored_whatever_came_since(self: Any, change: TableChange) -> None:
    for txid in change.puts:
        self._unstored.pop(txid, None)


UNSEEN["a newer put is dropped when an older one is stored"] = Unseen(
    replacing((Decisions, "stored", _stored_whatever_came_since)),
    "the driver applies nothing between taking the changes and the end of their commit",
    "tests/core/test_ledger.py::test_what_changes_again_while_it_is_being_stored_is_known_as_it_is",
)

# -- asking -----------------------------------------------------------------------------------------------------------

_EARLY_MS: Final = 50


def _final_a_little_early(txid: TxId, applied: Any) -> Any:
    known = _final(txid, applied)
    early = known is None and txid.ms < applied.ledger.horizon_ms + _EARLY_MS
    return asking.forgotten(applied) if early else known


_final = asking.final
plant("FORGOTTEN is told 50 ms early", (asking, "final", _final_a_little_early))


def _recorded_or_below_the_horizon(txid: TxId, applied: Any) -> Any:
    below = txid.ms < applied.ledger.horizon_ms
    return _recorded(txid, applied) or (asking.forgotten(applied) if below else None)


_recorded = asking.recorded
plant("a horizon is believed that was not confirmed", (asking, "recorded", _recorded_or_below_the_horizon))


def _looked_without_a_majority(applied: Any, txid: TxId, branch: str | None = None) -> Any:
    known = asking.final(txid, applied)
    if known is None:
        try:
            term, index = yield Confirm()
        except Unavailable:
            term, index = applied.applied_term, applied.applied_index
        known = asking.final(txid, applied) or asking.undecided(term, index)
    return asking.seen_by(branch, known, txid, applied)


plant("UNDECIDED when the barrier fails", (asking, "status", _looked_without_a_majority))
plant("a decided or running txid runs again", (asking, "check_new", lambda *_: None))

# -- two-phase commit -------------------------------------------------------------------------------------------------

plant(
    "an abort is sent to those alone that voted yes",
    (two_phase, "_MAY_HAVE_PREPARED", frozenset({Ballot.YES})),
)


def _any_session(self: Any, name: str, *, but: Any = None) -> Any:
    sessions = [session for session in self._by_name.get(name, ()) if session is not but]
    return min(sessions, key=lambda session: session.endpoint.waiting, default=None)


UNSEEN["a closed session is picked"] = Unseen(
    replacing((Sessions, "pick", _any_session)),
    "a closing connection leaves the table in the next pass of the loop, and refuses by itself whatever is asked in between",
    "tests/node/test_sessions.py::test_a_session_that_is_closing_is_not_picked",
)

# -- participants -----------------------------------------------------------------------------------------------------


def _answered_and_kept(self: Any, error: Any) -> None:
    """Everybody is told that nothing was kept; in memory it is."""
    answered = [request for request, _ in self._replies]
    answered += [request for waiting in self._waiting.values() for request in waiting.requests]
    self._replies = [(request, error) for request in answered]
    self._waiting.clear()


plant("memory keeps what a full disk refused", (SqliteParticipant, "_undo_batch", _answered_and_kept))


def _held_with_the_first(self: Any, txid: TxId, keys: Iterable[str]) -> bool:
    wanted = tuple(dict.fromkeys(keys))
    held = _lock(self, txid, wanted)
    if not held and self.owner(wanted[0]) == txid:
        del self._behind[txid]
        return True
    return held


_lock = Locks.ask
plant("locks are granted with the first key", (Locks, "ask", _held_with_the_first))
