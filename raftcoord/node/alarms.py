"""Many deadlines, one timer.

Owed: each alarm rings once, at its time or a little later, unless it is cancelled. Never: a timer of the event loop per alarm:
a transaction sets three and cancels nearly all of them, and that must cost a push onto a heap and no more.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable
from itertools import count
from typing import Final

_SWEEP_MIN: Final = 1024
"""Cancelled alarms that may lie in the heap whatever its size."""


class Alarm:
    """One deadline; made by ``Alarms.at``."""

    __slots__ = ("ring",)

    def __init__(self, ring: Callable[[], None]) -> None:
        self.ring: Callable[[], None] | None = ring


class Alarms:
    """The alarms of one event loop. Times are ``loop.time()``."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._heap: list[tuple[float, int, Alarm]] = []
        self._order = count()
        self._cancelled = 0
        self._timer: asyncio.TimerHandle | None = None
        self._armed_for = 0.0

    def __len__(self) -> int:
        return len(self._heap) - self._cancelled

    def time(self) -> float:
        """Now, as the event loop counts it (s)."""
        return self._loop.time()

    def at(self, when: float, ring: Callable[[], None]) -> Alarm:
        """Call ``ring()`` at ``when``."""
        alarm = Alarm(ring)
        heapq.heappush(self._heap, (when, next(self._order), alarm))
        if self._timer is None or when < self._armed_for:
            self._arm(when)
        return alarm

    def after(self, delay_ms: float, ring: Callable[[], None]) -> Alarm:
        """Call ``ring()`` in ``delay_ms``."""
        return self.at(self._loop.time() + delay_ms / 1000, ring)

    def cancel(self, alarm: Alarm | None) -> None:
        """It will not ring. Nothing happens if it is None, has rung, or was cancelled."""
        if alarm is None or alarm.ring is None:
            return
        alarm.ring = None
        self._cancelled += 1
        if self._cancelled > _SWEEP_MIN and self._cancelled * 2 > len(self._heap):
            self._heap = [entry for entry in self._heap if entry[2].ring is not None]
            heapq.heapify(self._heap)
            self._cancelled = 0

    def close(self) -> None:
        """Nothing rings any more."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        self._heap.clear()
        self._cancelled = 0

    def _arm(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._armed_for = when
        self._timer = self._loop.call_at(when, self._due)

    def _due(self) -> None:
        self._timer = None
        now = self._loop.time()
        while self._heap and (self._heap[0][2].ring is None or self._heap[0][0] <= now):
            alarm = heapq.heappop(self._heap)[2]
            ring, alarm.ring = alarm.ring, None
            if ring is None:
                self._cancelled -= 1
                continue
            try:
                ring()
            except Exception as error:
                self._loop.call_exception_handler({"message": "an alarm could not be handled", "exception": error})
        if self._heap and (self._timer is None or self._heap[0][0] < self._armed_for):
            self._arm(self._heap[0][0])
