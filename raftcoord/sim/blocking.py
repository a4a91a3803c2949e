"""Blocking code in a process of the virtual loop: a thread that runs only while the loop stands still.

The resolver is synchronous: it waits for a database, for a node, and between two looks. Here each of its waits is a coroutine of
the virtual loop, and the thread is parked until that has ended. One of the two runs at any time, and each hands over to the
other explicitly: so the order of everything is the loop's, and the same seed is the same run.

Owed: a thread whose process was killed does nothing more; it ends with the simulation. Never: two that run at once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar, cast

from raftcoord.client.asynchronous import AsyncClient
from raftcoord.client.synchronous import Client
from raftcoord.sim.loop import Killed

_T = TypeVar("_T")


class Blocking:
    """Runs ``work`` in a thread of its own, which waits with ``wait``. Spawn ``run()`` as a task of the process."""

    def __init__(self, work: Callable[[Blocking], None]) -> None:
        self._work = work
        self._to_thread = threading.Semaphore(0)
        self._to_loop = threading.Semaphore(0)
        self._wanted: Coroutine[Any, Any, Any] | None = None
        self._result: Any = None
        self._error: BaseException | None = None
        self._is_over = False
        self._thread = threading.Thread(target=self._run, name="simulated", daemon=True)

    async def run(self) -> None:
        """Until ``work`` returns, or raise what it raises."""
        self._thread.start()
        try:
            while (wanted := self._hand_over()) is not None:
                self._result = self._error = None
                try:
                    self._result = await wanted
                except Exception as error:
                    self._error = error
            if self._error is not None:
                raise self._error
        finally:
            self._is_over = True
            self._to_thread.release()
            self._thread.join()

    def wait(self, wanted: Coroutine[Any, Any, _T]) -> _T:
        """In the thread: what comes of ``wanted`` in the loop."""
        if not self._is_over:
            self._wanted = wanted
            self._to_loop.release()
            self._to_thread.acquire()
        if self._is_over:
            wanted.close()
            raise Killed
        if self._error is not None:
            raise self._error
        return cast("_T", self._result)

    def _hand_over(self) -> Coroutine[Any, Any, Any] | None:
        """Let the thread run until it waits again; for what, or None when it has ended."""
        self._wanted = None
        self._to_thread.release()
        self._to_loop.acquire()
        return self._wanted

    def _run(self) -> None:
        self._to_thread.acquire()
        try:
            if not self._is_over:
                self._work(self)
        except Killed:
            pass
        except BaseException as error:
            self._error = error
        else:
            self._error = None
        finally:
            self._wanted = None
            self._to_loop.release()


class BlockingClient(Client):
    """The synchronous client, whose calls are made in the virtual loop instead of a loop of its own."""

    def __init__(self, asynchronous: AsyncClient, blocking: Blocking) -> None:
        self._client = asynchronous
        self._blocking = blocking

    def _run(self, call: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        return self._blocking.wait(call())
