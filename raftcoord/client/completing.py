"""What the callers' transactions have committed, reported complete behind their backs, many at a time.

Owed: nobody waits for it, and it costs the nodes a log entry for a batch, not for each. What cannot be reported stays open in
the ledger, and the resolver finds by its mark that it is done. Never: a task that outlives ``close``.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Final

from raftcoord.errors import RaftcoordError
from raftcoord.types import TxId

GATHER_S: Final = 0.05
"""How long the first of a batch waits for others (s): open decisions are looked into only after seconds."""

BATCH_MAX: Final = 256
"""Reports that are open at a time: the node's own bound on one connection is 4,096."""

CLOSE_S: Final = 1.0
"""How long closing a client waits until what was committed is reported (s)."""

_Complete = Callable[[TxId, tuple[str, ...]], Coroutine[Any, Any, None]]


class Completing:
    """The reports of one client, whose loop it is. ``add`` may be called in any thread, everything else in the loop's."""

    def __init__(self, loop: asyncio.AbstractEventLoop, complete: _Complete) -> None:
        self._loop = loop
        self._complete = complete
        self._gathered: deque[tuple[TxId, tuple[str, ...]]] = deque()
        self._due = False
        self._closed = False
        self._timer: asyncio.TimerHandle | None = None
        self._reporting: asyncio.Task[None] | None = None

    def add(self, txid: TxId, branches: tuple[str, ...]) -> None:
        """``branches`` have carried out the outcome."""
        self._gathered.append((txid, branches))
        if not self._due:  # set false before the queue is emptied, so that nothing is left in it
            self._due = True
            self._loop.call_soon_threadsafe(self._wait)

    async def close(self) -> None:
        """Report what has gathered, now, for at most CLOSE_S."""
        if self._timer is not None:
            self._timer.cancel()
        reporting = self._report()
        if reporting is not None:
            await asyncio.wait((reporting,), timeout=CLOSE_S)
        self._closed = True
        if reporting is not None and reporting.cancel():
            await asyncio.wait((reporting,))

    def _wait(self) -> None:
        self._timer = self._loop.call_later(GATHER_S, self._report)

    def _report(self) -> asyncio.Task[None] | None:
        """Start reporting, unless that is done already."""
        if self._reporting is None and self._gathered and not self._closed:
            self._reporting = self._loop.create_task(self._report_all(), name="complete")
            self._reporting.add_done_callback(self._reported)
        return self._reporting

    async def _report_all(self) -> None:
        while self._gathered:
            self._due = False
            batch = [self._gathered.popleft() for _ in range(min(len(self._gathered), BATCH_MAX))]
            await asyncio.gather(*(self._report_one(*each) for each in batch))

    async def _report_one(self, txid: TxId, branches: tuple[str, ...]) -> None:
        with contextlib.suppress(RaftcoordError):  # the ledger still calls them open, and the resolver looks
            await self._complete(txid, branches)

    def _reported(self, _task: asyncio.Task[None]) -> None:
        self._reporting = None
        self._report()
