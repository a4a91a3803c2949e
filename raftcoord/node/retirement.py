"""What the leader proposes by itself: the cluster's id, once, and the horizon, every minute.

Owed: the horizon moves only while this node's clock agrees within ``spread_ms_max`` (ClockBounds) with the clocks of a majority,
itself counted; a peer whose clock has not been heard for an election timeout does not agree. It moves to the retention before the
time that a majority of the clocks has reached, and by ``retire_step_ms_max`` (NodeBounds) at a time. One wrong clock must not
make the cluster forget.
Never: by a follower.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from raftcoord.core.tables.decisions import Result
from raftcoord.core.tables.founding import Found
from raftcoord.core.tables.horizon import Retire
from raftcoord.core.tables.table import Command
from raftcoord.env import Env
from raftcoord.errors import Overloaded, RaftcoordError, Unavailable
from raftcoord.limits import NodeBounds
from raftcoord.node.agreement import Agreement
from raftcoord.node.alarms import Alarms

log: Final = logging.getLogger("raftcoord.node")

_FOUND_RETRY_MS: Final = 500
_DEADLINE_MS: Final = 5_000


OnDone = Callable[[bool], None]


def _propose(agreement: Agreement, alarms: Alarms, command: Command, on_done: OnDone) -> bool:
    """Whether the proposal was taken; then ``on_done`` is told whether it was applied."""

    def done(result: Result | RaftcoordError) -> None:
        on_done(not isinstance(result, RaftcoordError))

    try:
        agreement.propose(command, alarms.time() + _DEADLINE_MS / 1000, done)
    except (Overloaded, Unavailable):
        return False
    return True


class Founder:
    """Gives the cluster its id: 16 hex digits, minted by the first leader. A second proposal loses in the ledger."""

    def __init__(self, agreement: Agreement, alarms: Alarms, env: Env) -> None:
        self._agreement = agreement
        self._alarms = alarms
        self._env = env
        self._proposing = False
        agreement.on_leader_change.append(self._propose)

    def _propose(self) -> None:
        if self._agreement.ledger.cluster or not self._agreement.is_leader or self._proposing:
            return
        cluster = f"{self._env.rng.getrandbits(64):016x}"
        self._proposing = _propose(self._agreement, self._alarms, Found(cluster), self._done)
        if not self._proposing:
            self._alarms.after(_FOUND_RETRY_MS, self._propose)

    def _done(self, ok: bool) -> None:
        self._proposing = False
        if ok:
            log.info("this is cluster %s", self._agreement.ledger.cluster)
        else:
            self._alarms.after(_FOUND_RETRY_MS, self._propose)


class Retirement:
    """Moves the horizon to ``retention_ms`` behind this node's clock, while it leads."""

    def __init__(self, agreement: Agreement, alarms: Alarms, env: Env, retention_ms: int, bounds: NodeBounds) -> None:
        self._agreement = agreement
        self._alarms = alarms
        self._env = env
        self._retention_ms = retention_ms
        self._bounds: Final = bounds
        alarms.after(bounds.retire_every_ms, self._periodic)

    def _periodic(self) -> None:
        self._alarms.after(self._bounds.retire_every_ms, self._periodic)
        if not self._agreement.is_leader:
            return
        if not self.clock_agrees():
            log.warning(
                "no majority of the clocks is within %d s of this node's: nothing is retired; check the clocks of the nodes",
                self._env.clocks.spread_ms_max // 1000,
            )
            return
        before_ms = self._next_ms()
        if before_ms > self._agreement.ledger.horizon_ms:
            _propose(self._agreement, self._alarms, Retire(before_ms), lambda ok: None)

    def _next_ms(self) -> int:
        """Where the horizon may move to now."""
        offsets = sorted((offset for offset in self._offsets() if offset is not None), reverse=True)
        reached_ms = self._env.wall_ms() + min(0, offsets[len(self._offsets()) // 2])
        horizon_ms = self._agreement.ledger.horizon_ms
        latest_ms = horizon_ms + self._bounds.retire_step_ms_max if horizon_ms else reached_ms
        return min(reached_ms - self._retention_ms, latest_ms)

    def _offsets(self) -> list[int | None]:
        """How far the clock of each node is ahead of this one's, itself included (ms)."""
        return [0, *self._agreement.clock_offsets().values()]

    def clock_agrees(self) -> bool:
        """Whether a majority of the nodes, this one counted, have clocks within ``ClockBounds.spread_ms_max`` of this one's."""
        offsets = self._offsets()
        agreeing = sum(offset is not None and abs(offset) <= self._env.clocks.spread_ms_max for offset in offsets)
        return agreeing * 2 > len(offsets)
