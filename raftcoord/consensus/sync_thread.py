"""Where node.db is written: outside of the event loop's thread, one piece of work at a time, in order."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, Final, Protocol

QUICK_S: Final = 0.001
"""A sync below this (s) may be done in the event loop, if it is a small one: a thread and back is 0.1 to 0.2 ms of waiting."""


class Runner(Protocol):
    """Runs a function outside of the event loop's thread."""

    def run(self, work: Callable[[], Any], done: Callable[[Any, BaseException | None], None]) -> None:
        """Call ``work()`` elsewhere, then ``done(result, None)`` or ``done(None, error)`` in the event loop."""


class SyncThread:
    """One worker thread, in which node.db is written."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._work: queue.SimpleQueue[tuple[Callable[[], Any], Callable[..., None]] | None] = queue.SimpleQueue()
        self._last_s = 1.0
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def run(self, work: Callable[[], Any], done: Callable[[Any, BaseException | None], None]) -> None:
        """Call ``work()`` in the thread, then ``done`` in the event loop."""
        self._work.put((work, done))

    def run_here(self, work: Callable[[], Any]) -> None:
        """Call ``work()`` in the caller's thread. Not while other work runs."""
        self._timed(work)

    @property
    def is_quick(self) -> bool:
        """Whether the latest work took so little time that handing it to a thread and back would cost as much again."""
        return self._last_s < QUICK_S

    def _timed(self, work: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        try:
            return work()
        finally:
            self._last_s = time.perf_counter() - began

    def close(self) -> None:
        """End after the work that was handed over."""
        self._work.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (item := self._work.get()) is not None:
            work, done = item
            try:
                result, error = self._timed(work), None
            except BaseException as caught:
                result, error = None, caught
            self._loop.call_soon_threadsafe(done, result, error)
