"""The leader drives again what is decided and not complete.

Owed: an open decision whose coordinator is gone reaches every branch that is connected to the leader: at once when a node
becomes leader or a participant connects, and within about two periods otherwise. Never: a decision; it reads the ledger and
hands over to delivery, which keeps the pace and does nothing twice.

A decision younger than the last sweep is left to the node that coordinates it. Sweeps go in small steps, because 100,000 open
decisions (a participant that was away all night) must not hold the event loop.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Final

from raftcoord import limits
from raftcoord.core.ledger import Decision
from raftcoord.errors import Overloaded, RaftcoordError, Unavailable
from raftcoord.node.agreement import Agreement
from raftcoord.node.alarms import Alarm, Alarms
from raftcoord.node.delivery import Delivery
from raftcoord.node.sessions import Sessions

log: Final = logging.getLogger("raftcoord.node")

_EVERYTHING: Final = 1 << 63
_NOTHING: Final = -1


class Recovery:
    """The sweeps of one node; they rest while it is not the leader."""

    def __init__(self, agreement: Agreement, sessions: Sessions, delivery: Delivery, alarms: Alarms) -> None:
        self._agreement = agreement
        self._sessions = sessions
        self._delivery = delivery
        self._alarms = alarms
        self._led_term = 0
        self._alarm: Alarm | None = None
        self._sweep: Iterator[Decision] | None = None
        self._mark = _NOTHING
        self._next_at = 0.0
        self._applied_then = 0
        self._connected: set[str] = set()
        self._connected_now: set[str] = set()
        agreement.on_leader_change.append(self._leader_changed)
        sessions.on_connected.append(self._participant_connected)

    @property
    def leads(self) -> bool:
        """Whether this node drives: it is leader, and has applied what earlier leaders had committed."""
        return self._agreement.is_leader and self._led_term == self._agreement.term

    # -- when -----------------------------------------------------------------------------------------------------

    def _leader_changed(self) -> None:
        if not self._agreement.is_leader or self._led_term == self._agreement.term:
            return
        term = self._agreement.term

        def reached(result: tuple[int, int] | RaftcoordError) -> None:
            if isinstance(result, RaftcoordError):
                self._alarms.after(limits.REDRIVE_EVERY_MS, self._leader_changed)
            elif self._agreement.is_leader and self._agreement.term == term:
                self._led_term = term
                log.info("leading in term %d with %d open decisions", term, self._agreement.ledger.open_count)
                self._sweep_all(_EVERYTHING)

        try:
            self._agreement.barrier(self._alarms.time() + limits.ASK_MS / 1000, reached)
        except (Overloaded, Unavailable):
            self._alarms.after(limits.REDRIVE_EVERY_MS, self._leader_changed)

    def _participant_connected(self, name: str) -> None:
        self._connected.add(name)
        if self.leads and self._sweep is None:
            self._begin(_NOTHING)

    def _periodic(self) -> None:
        self._sweep_all(self._applied_then)

    # -- what -----------------------------------------------------------------------------------------------------

    def _sweep_all(self, mark: int) -> None:
        self._next_at = self._alarms.time() + limits.REDRIVE_EVERY_MS / 1000
        self._applied_then = self._agreement.applied_index
        self._begin(mark)

    def _begin(self, mark: int) -> None:
        """Look at every open decision; drive those recorded at or below index ``mark``, and those of the newly connected."""
        self._alarms.cancel(self._alarm)
        self._mark = mark
        self._connected_now, self._connected = self._connected, set()
        self._sweep = self._agreement.ledger.open_decisions()
        self._step()

    def _step(self) -> None:
        sweep, self._alarm = self._sweep, None
        if sweep is None or not self.leads:
            self._sweep = None
            return
        for _ in range(limits.REDRIVE_STEP):
            decision = next(sweep, None)
            if decision is None:
                self._end()
                return
            self._drive(decision)
        self._alarm = self._alarms.after(limits.REDRIVE_STEP_MS, self._step)

    def _end(self) -> None:
        self._sweep = None
        if self._connected:
            self._alarm = self._alarms.after(0, lambda: self._begin(_NOTHING))
        else:
            self._alarm = self._alarms.at(self._next_at, self._periodic)

    def _drive(self, seen: Decision) -> None:
        ledger = self._agreement.ledger
        due = seen.index <= self._mark
        branches = [
            branch
            for branch in seen.outstanding
            if (due or branch in self._connected_now)
            and self._delivery.has_room(branch, damaged=ledger.damage(seen.txid, branch) is not None)
            and self._sessions.pick(branch)
        ]
        if not branches:
            return
        decision = ledger.decision(seen.txid)
        for branch in branches:
            if decision is not None and branch in decision.outstanding:
                self._delivery.deliver(decision.txid, decision.verdict, branch)
