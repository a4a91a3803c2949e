"""Calls that wait for an answer, and one timer for all of them.

Owed: each call ends, with an answer or as SILENT at its deadline, and not more than SWEEP_S late. Never: a timer per call:
it would cost as much as the call.
"""

from __future__ import annotations

import asyncio
import math
from typing import Any, Final

from raftcoord import limits
from raftcoord.rpc.codes import RpcError

TIMEOUT_S: Final = 5.0
"""How long a call may take (s), unless its caller says otherwise."""

GRACE_S: Final = limits.GRACE_MS_DEFAULT / 1000
"""How long the outcome of a transaction is asked for after its timeout (s), unless the caller says otherwise."""

SWEEP_S: Final = 0.01

SILENT: Final = RpcError("silent", "no answer in time")
"""What a call ends with that nobody answered: it may or may not be carried out."""


class Exchange:
    """One call: it is the ``on_reply`` of Connection.call, and ``future`` gets the result, or an RpcError as a value."""

    __slots__ = ("_deadlines", "deadline", "future")

    def __init__(self, future: asyncio.Future[Any], deadline: float, deadlines: Deadlines) -> None:
        self.future = future
        self.deadline = deadline
        self._deadlines = deadlines

    def __call__(self, error: RpcError | None, result: Any) -> None:
        """The answer has come."""
        self._deadlines.discard(self)
        if not self.future.done():
            self.future.set_result(result if error is None else error)


class Deadlines:
    """The exchanges that wait, and the timer for the earliest deadline among them."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: dict[Exchange, None] = {}  # in the order in which they were made
        self._timer: asyncio.TimerHandle | None = None
        self._due = math.inf

    def exchange(self, deadline: float) -> Exchange:
        """A new exchange that ends at ``deadline`` (loop.time())."""
        made = Exchange(self._loop.create_future(), deadline, self)
        self._waiting[made] = None
        if deadline < self._due:
            self._arm(deadline)
        return made

    def discard(self, exchange: Exchange) -> None:
        """It is answered."""
        self._waiting.pop(exchange, None)

    def close(self) -> None:
        """End whatever waits, now."""
        if self._timer is not None:
            self._timer.cancel()
        self._end(tuple(self._waiting))

    def _arm(self, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._due = due
        self._timer = self._loop.call_at(due, self._sweep)

    def _sweep(self) -> None:
        self._timer, self._due = None, math.inf
        now = self._loop.time()
        self._end([exchange for exchange in self._waiting if exchange.deadline <= now])
        if self._waiting:
            self._arm(max(min(exchange.deadline for exchange in self._waiting), now + SWEEP_S))

    def _end(self, exchanges: list[Exchange] | tuple[Exchange, ...]) -> None:
        for exchange in exchanges:
            exchange(SILENT, None)
