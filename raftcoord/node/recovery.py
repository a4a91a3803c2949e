"""The leader drives again what is decided and not complete.

Owed: an open decision whose coordinator is gone reaches every branch that is connected to the leader: at once when a node
becomes leader or a participant connects, and within about two periods otherwise. Never: a decision; it reads the ledger and
hands over to delivery, which keeps the pace and does nothing twice.

A decision younger than the last sweep is left to the node that coordinates it.

Theory of operation. What is open may be a great deal, and most of it for participants that are away: nobody can do anything
about that, so it must cost nothing. A new leader reads every open decision once. From then on a sweep reads those recorded since
the last one, and remembers each under the names of its outstanding branches:

    parked    not handed over: the participant is away, or delivery has no room for more of it
    handed    handed over; looked at again now and then, because delivery and the acknowledgements drop what is too much for them

and then goes through the names that are connected. What was completed meanwhile is found out when it is its turn. All goes in
small steps: 100,000 open decisions (a participant that was away all night) must not hold the event loop.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator
from typing import Final

from raftcoord.core.tables.decisions import Decision
from raftcoord.errors import Overloaded, RaftcoordError, Unavailable
from raftcoord.limits import NodeBounds
from raftcoord.node.agreement import Agreement
from raftcoord.node.alarms import Alarm, Alarms
from raftcoord.node.delivery import Delivery
from raftcoord.node.sessions import Sessions
from raftcoord.types import TxId

log: Final = logging.getLogger("raftcoord.node")

_PURGE_SLACK: Final = 1_024
"""How many txids are parked under a name, beyond twice what was left last time, before those that are complete are looked for."""

_BRANCHES_A_PIECE: Final = 16
"""Outstanding branches of a decision that count as one piece of work: it may have limits.BRANCHES_MAX."""


class Recovery:
    """The sweeps of one node; they rest while it is not the leader."""

    def __init__(
        self, agreement: Agreement, sessions: Sessions, delivery: Delivery, alarms: Alarms, bounds: NodeBounds
    ) -> None:
        self._bounds: Final = bounds
        self._agreement = agreement
        self._sessions = sessions
        self._delivery = delivery
        self._alarms = alarms
        self._led_term = 0
        self._alarm: Alarm | None = None
        self._sweep: Iterator[None] | None = None
        self._parked: dict[str, list[TxId]] = {}
        self._handed: dict[str, deque[tuple[TxId, bool]]] = {}
        """With each, whether delivery did not hold it when it was looked at last: its acknowledgement may be on its way."""
        self._purge_at: dict[str, int] = {}
        self._seen = 0
        """Every open decision recorded up to this index is parked or handed over."""
        self._next_at = 0.0
        self._applied_then = 0
        self._connected: list[str] = []
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
                self._alarms.after(self._bounds.redrive_every_ms, self._leader_changed)
            elif self._agreement.is_leader and self._agreement.term == term:
                self._led_term = term
                log.info("leading in term %d with %d open decisions", term, self._agreement.ledger.open_count)
                self._forget_all()
                self._sweep_all(self._agreement.applied_index)

        try:
            self._agreement.barrier(self._alarms.time() + self._bounds.ask_ms / 1000, reached)
        except (Overloaded, Unavailable):
            self._alarms.after(self._bounds.redrive_every_ms, self._leader_changed)

    def _participant_connected(self, name: str) -> None:
        self._connected.append(name)
        if self.leads and self._sweep is None:
            self._begin(self._catch_up())

    def _periodic(self) -> None:
        self._sweep_all(self._applied_then)

    # -- what -----------------------------------------------------------------------------------------------------

    def _forget_all(self) -> None:
        self._parked.clear()
        self._handed.clear()
        self._purge_at.clear()
        self._seen = 0

    def _sweep_all(self, mark: int) -> None:
        """Take up what is open and recorded at or below index ``mark``, and hand over what is connected."""
        self._next_at = self._alarms.time() + self._bounds.redrive_every_ms / 1000
        self._applied_then = self._agreement.applied_index
        self._begin(self._take_up(mark))

    def _begin(self, sweep: Iterator[None]) -> None:
        self._alarms.cancel(self._alarm)
        self._sweep = sweep
        self._step()

    def _step(self) -> None:
        sweep, self._alarm = self._sweep, None
        if sweep is None or not self.leads:
            self._sweep = None
            self._forget_all()
            return
        for _ in range(self._bounds.redrive_step):
            if next(sweep, self) is self:
                self._end()
                return
        self._alarm = self._alarms.after(self._bounds.redrive_step_ms, self._step)

    def _end(self) -> None:
        self._sweep = None
        if self._connected:
            self._alarm = self._alarms.after(0, lambda: self._begin(self._catch_up()))
        else:
            self._alarm = self._alarms.at(self._next_at, self._periodic)

    def _take_up(self, mark: int) -> Iterator[None]:
        """One ``None`` after each piece of work, as the other parts of a sweep."""
        grown: dict[str, None] = {}
        for decision in self._agreement.ledger.open_since(self._seen):
            if decision.index <= mark:
                grown.update(dict.fromkeys(decision.outstanding))
                self._park(decision)
            for _ in range(0, len(decision.outstanding), _BRANCHES_A_PIECE):
                yield
        self._seen = max(self._seen, mark)
        for name in self._sessions.names():
            self._look_again(name)
            yield
            yield from self._hand_over(name)
        for name in grown:
            if name in self._parked:
                yield from self._purge(name)

    def _catch_up(self) -> Iterator[None]:
        """All that is open for those that have just connected, also what is younger than the last sweep."""
        connected, self._connected = set(self._connected), []
        for name in sorted(connected):
            yield from self._hand_over(name)
        for decision in self._agreement.ledger.open_since(self._seen):
            for name in decision.outstanding:
                if name in connected:
                    self._deliver(decision.txid, name)
            yield

    def _park(self, decision: Decision) -> None:
        for branch in decision.outstanding:
            self._parked.setdefault(branch, []).append(decision.txid)

    def _purge(self, name: str) -> Iterator[None]:
        """Drop what was completed without this node: the branches of a database are never handed over, and must not stay."""
        parked = self._parked[name]
        if len(parked) <= self._purge_at.setdefault(name, 2 * len(parked) + _PURGE_SLACK):
            return
        left = []
        for txid in parked:
            if self._outstanding(txid, name):
                left.append(txid)
            yield
        self._purge_at[name] = 2 * len(left) + _PURGE_SLACK
        self._parked[name] = left

    def _hand_over(self, name: str) -> Iterator[None]:
        """What is parked for ``name``, oldest first, as long as there is room. What is damaged is in nobody's way."""
        parked = deque(self._parked.pop(name, ()))
        aside: list[TxId] = []
        while parked and self._sessions.pick(name):
            txid = parked.popleft()
            if self._outstanding(txid, name) is None:
                pass
            elif self._deliver(txid, name):
                self._handed.setdefault(name, deque()).append((txid, False))
            elif self._agreement.ledger.damage(txid, name) is None:
                parked.appendleft(txid)
                break
            else:
                aside.append(txid)
            yield
        if parked or aside:
            self._parked[name] = [*parked, *aside]
        else:
            self._purge_at.pop(name, None)

    def _look_again(self, name: str) -> None:
        """A part of what was handed over: what is complete is done, what delivery does not hold any more is parked again."""
        handed = self._handed.get(name)
        if handed is None:
            return
        for _ in range(min(len(handed), self._bounds.redrive_step)):
            txid, missed = handed.popleft()
            if self._outstanding(txid, name) is None:
                continue
            if self._delivery.holds(txid, name):
                handed.append((txid, False))
            elif not missed:
                handed.append((txid, True))
            else:
                self._parked.setdefault(name, []).append(txid)
        if not handed:
            del self._handed[name]

    def _deliver(self, txid: TxId, name: str) -> bool:
        """Hand the outcome over, if there is room for it."""
        decision = self._outstanding(txid, name)
        damaged = self._agreement.ledger.damage(txid, name) is not None
        if decision is None or not self._delivery.has_room(name, damaged=damaged):
            return False
        self._delivery.deliver(txid, decision.verdict, name)
        return True

    def _outstanding(self, txid: TxId, branch: str) -> Decision | None:
        decision = self._agreement.ledger.open_decision(txid)
        return decision if decision is not None and branch in decision.outstanding else None
