"""Outcomes on their way to the branches.

Owed: an outcome that was handed over is told to its branch again and again, with capped and jittered pauses, and at once when
the participant connects, until the branch acknowledges it. A branch that says it cannot carry it out is damage: recorded in the
ledger, said loudly once, never taken for an acknowledgement, and still told, slowly, in nobody else's way, until it is done or
a person acknowledges the damage. Never: a decision; what arrives here stands.

What does not outlive this process needs no care here: the ledger calls the decision open, and the leader drives it.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final

from raftcoord import limits
from raftcoord.core.damage import too_many
from raftcoord.core.tables.damages import Heuristic
from raftcoord.core.tables.decisions import Result
from raftcoord.env import Env
from raftcoord.errors import Overloaded, RaftcoordError, Unavailable
from raftcoord.events import Acknowledged, Damaged, Delivering
from raftcoord.foreign import Rationed, shown
from raftcoord.limits import NodeBounds
from raftcoord.node.agreement import Agreement
from raftcoord.node.alarms import Alarm, Alarms
from raftcoord.node.completion import Completion
from raftcoord.node.endpoint import NotDone
from raftcoord.node.sessions import ParticipantSession, Sessions
from raftcoord.types import State, TxId, Verdict

log: Final = logging.getLogger("raftcoord.node")

OnAcknowledged = Callable[[], None]

_VERB: Final = {Verdict.COMMIT: "commit", Verdict.ABORT: "abort"}
_UNDONE: Final = (Verdict.ABORT, "already_committed")
_DAMAGE: Final = {(Verdict.COMMIT, "not_prepared"), _UNDONE}
_RECORD_DEADLINE_MS: Final = 5_000


class _Outcome:
    """One outcome for one branch. In flight (``session``), resting (``alarm`` alone), or ready (neither)."""

    __slots__ = ("alarm", "attempt", "failures", "loud", "on_acknowledged", "recorded", "session", "txid", "verdict")

    def __init__(self, txid: TxId, verdict: Verdict) -> None:
        self.txid = txid
        self.verdict = verdict
        self.on_acknowledged: OnAcknowledged | None = None
        self.session: ParticipantSession | None = None
        self.alarm: Alarm | None = None
        self.attempt = 0
        self.failures = 0
        self.loud = False
        self.recorded = False


class Delivery:
    """Every outcome that this node has to deliver, by participant."""

    def __init__(
        self,
        agreement: Agreement,
        sessions: Sessions,
        completion: Completion,
        alarms: Alarms,
        env: Env,
        bounds: NodeBounds,
    ) -> None:
        self.agreement = agreement
        self.events = agreement.events
        self.sessions = sessions
        self.completion = completion
        self.alarms = alarms
        self.env = env
        self.bounds: Final = bounds
        self.log = Rationed(log, alarms.time)
        self._routes: dict[str, _Route] = {}
        sessions.on_connected.append(self._connected)

    def deliver(self, txid: TxId, verdict: Verdict, branch: str, on_acknowledged: OnAcknowledged | None = None) -> None:
        """Tell ``branch`` that ``verdict`` stands for ``txid``, until it acknowledges. Again for the same two: no effect."""
        route = self._routes.get(branch)
        if route is None:
            route = self._routes[branch] = _Route(self, branch)
        route.add(txid, verdict, on_acknowledged)

    def pending(self, branch: str) -> int:
        """How many outcomes ``branch`` has not acknowledged to this node."""
        route = self._routes.get(branch)
        return 0 if route is None else len(route.pending)

    def holds(self, txid: TxId, branch: str) -> bool:
        """Whether the outcome of ``txid`` is on its way to ``branch`` from here."""
        route = self._routes.get(branch)
        return route is not None and txid in route.pending

    def has_room(self, branch: str, *, damaged: bool = False) -> bool:
        """Whether to hand over what is not urgent: half of the room is kept for what this node coordinates.

        What is ``damaged`` takes no room from the rest: it may never end.
        """
        route = self._routes.get(branch)
        taken = 0 if route is None else len(route.pending) - (0 if damaged else route.damaged)
        return taken < self.bounds.deliveries_pending_max // 2

    def _connected(self, name: str) -> None:
        route = self._routes.get(name)
        if route is not None:
            route.connected()


class _Route:
    """The outcomes for one participant."""

    def __init__(self, delivery: Delivery, name: str) -> None:
        self._delivery = delivery
        self._alarms = delivery.alarms
        self._bounds: Final = delivery.bounds
        self._name = name
        self._ready: deque[_Outcome] = deque()
        self._in_flight = 0
        self.pending: dict[TxId, _Outcome] = {}
        self.damaged = 0  # of those pending

    def add(self, txid: TxId, verdict: Verdict, on_acknowledged: OnAcknowledged | None) -> None:
        outcome = self.pending.get(txid)
        if outcome is None:
            outcome = self.pending[txid] = _Outcome(txid, verdict)
            self._ready.append(outcome)
            if len(self.pending) > self._bounds.deliveries_pending_max:
                self._drop_oldest()
        if on_acknowledged is not None:
            outcome.on_acknowledged = on_acknowledged
        self._pump()

    def connected(self) -> None:
        for outcome in self.pending.values():
            if outcome.session is None and outcome.alarm is not None:
                self._alarms.cancel(outcome.alarm)
                self._make_ready(outcome)
        self._pump()

    # -- sending --------------------------------------------------------------------------------------------------

    def _pump(self) -> None:
        while self._ready and self._in_flight < self._bounds.deliveries_in_flight_max:
            session = self._delivery.sessions.pick(self._name)
            if session is None:
                return
            outcome = self._ready.popleft()
            if self.pending.get(outcome.txid) is not outcome:
                continue
            if outcome.failures and self._settled(outcome):
                self._forget(outcome)
            else:
                self._send(outcome, session)

    def _send(self, outcome: _Outcome, session: ParticipantSession) -> None:
        self._in_flight += 1
        outcome.session = session
        outcome.attempt += 1
        outcome.alarm = self._alarms.after(self._bounds.delivery_answer_ms, partial(self._overdue, outcome))
        events = self._delivery.events
        if events.wanted:
            events.tell(Delivering(outcome.txid, self._name, outcome.verdict))
        session.endpoint.tell(outcome.txid, outcome.verdict, partial(self._answered, outcome, outcome.attempt))

    def _overdue(self, outcome: _Outcome) -> None:
        """No answer for long. The same instance is not asked twice; another one is, if there is one."""
        other = self._delivery.sessions.pick(self._name, but=outcome.session)
        if other is None:
            outcome.alarm = self._alarms.after(self._bounds.delivery_answer_ms, partial(self._overdue, outcome))
            return
        self._land(outcome)
        outcome.failures += 1
        self._send(outcome, other)

    def _make_ready(self, outcome: _Outcome) -> None:
        outcome.alarm = None
        self._ready.append(outcome)

    def _rested(self, outcome: _Outcome) -> None:
        self._make_ready(outcome)
        self._pump()

    # -- answers --------------------------------------------------------------------------------------------------

    def _answered(self, outcome: _Outcome, attempt: int, failure: NotDone | None) -> None:
        if self.pending.get(outcome.txid) is not outcome:
            return
        if failure is None:
            events = self._delivery.events
            if events.wanted:
                events.tell(Acknowledged(outcome.txid, self._name))
            self._delivery.completion.add(outcome.txid, self._name)
            self._forget(outcome)
        elif attempt == outcome.attempt and outcome.session is not None:
            if (outcome.verdict, failure.code) == _UNDONE and self._is_forgotten(outcome.txid):
                self._forget(outcome)
            else:
                self._land(outcome)
                self._failed(outcome, failure)
        self._pump()

    def _failed(self, outcome: _Outcome, error: NotDone) -> None:
        outcome.failures += 1
        if (outcome.verdict, error.code) in _DAMAGE:
            self._damaged(outcome, error)
            pause_ms: float = self._bounds.damage_retry_ms
        else:
            doubled = self._bounds.delivery_retry_ms_min * 2 ** min(outcome.failures - 1, 16)
            pause_ms = min(doubled, self._bounds.delivery_retry_ms_max)
            if error.code == "internal" and outcome.failures == 1:
                self._delivery.log.warning(
                    "participant %s failed to %s %s: %s; it is told again",
                    self._name,
                    _VERB[outcome.verdict],
                    outcome.txid,
                    error.message,
                )
        jittered = pause_ms * (0.5 + self._delivery.env.rng.random() / 2)
        outcome.alarm = self._alarms.after(jittered, partial(self._rested, outcome))

    def _damaged(self, outcome: _Outcome, error: NotDone) -> None:
        what = f"told to {_VERB[outcome.verdict]}, it answered {error.code}: {shown(error.message)}"
        if not outcome.loud:
            outcome.loud = True
            self.damaged += 1
            if self._delivery.events.wanted:
                self._delivery.events.tell(Damaged(outcome.txid, self._name, what))
            self._delivery.log.critical(
                "DAMAGE: transaction %s is decided, and participant %s cannot carry it out: %s. A person must compare its "
                "state with the ledger (raftcoord txn show %s)",
                outcome.txid,
                self._name,
                what,
                outcome.txid,
            )
        if outcome.recorded:
            return

        def done(result: Result | RaftcoordError) -> None:
            outcome.recorded = not isinstance(result, RaftcoordError)

        delivery = self._delivery
        unseen = delivery.agreement.ledger.damages_unseen
        if unseen >= self._bounds.damages_unseen_max:
            log.warning("the damage of %s is not recorded: %s", outcome.txid, too_many(unseen))
            return
        command = Heuristic(outcome.txid, self._name, what[: limits.REASON_LENGTH_MAX], delivery.env.wall_ms())
        try:
            delivery.agreement.propose(command, self._alarms.time() + _RECORD_DEADLINE_MS / 1000, done)
        except (Overloaded, Unavailable) as refused:
            delivery.log.warning("the damage of %s is not recorded yet: %s", outcome.txid, refused)

    # -- endings --------------------------------------------------------------------------------------------------

    def _is_forgotten(self, txid: TxId) -> bool:
        """Whether it lies behind the horizon: the branch then belongs to a COMMIT that was complete and is forgotten.

        A program that uses a txid again long afterwards, at a node that lags, comes here: nothing is damaged.
        """
        return self._delivery.agreement.ledger.state(txid) is State.FORGOTTEN

    def _settled(self, outcome: _Outcome) -> bool:
        """Whether the branch has acknowledged to another node meanwhile."""
        decision = self._delivery.agreement.ledger.decision(outcome.txid)
        return decision is not None and self._name in decision.branches and self._name not in decision.outstanding

    def _land(self, outcome: _Outcome) -> None:
        self._alarms.cancel(outcome.alarm)
        outcome.session = None
        outcome.alarm = None
        self._in_flight -= 1

    def _forget(self, outcome: _Outcome) -> None:
        self._drop(outcome)
        if outcome.session is not None:
            self._land(outcome)
        self._alarms.cancel(outcome.alarm)
        if outcome.on_acknowledged is not None:
            outcome.on_acknowledged()

    def _drop_oldest(self) -> None:
        oldest = next((outcome for outcome in self.pending.values() if outcome.session is None), None)
        if oldest is not None:
            self._alarms.cancel(oldest.alarm)
            self._drop(oldest)

    def _drop(self, outcome: _Outcome) -> None:
        del self.pending[outcome.txid]
        self.damaged -= outcome.loud
