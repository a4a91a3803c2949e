"""Blocking code in a process of the virtual loop: a stack of its own, on which it runs only while the loop stands still.

The resolver is synchronous: it waits for a database, for a node, and between two looks. Here each of its waits is a coroutine of
the virtual loop, and the code is parked until that has ended. One of the two runs at any time, and each hands over to the
other explicitly: so the order of everything is the loop's, and the same seed is the same run.

Owed: code whose process was killed does nothing more; it ends with the simulation. Never: two that run at once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Coroutine
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Final, TypeVar, cast

from raftcoord.client.asynchronous import AsyncClient
from raftcoord.client.synchronous import Client
from raftcoord.sim.loop import Killed

_T = TypeVar("_T")


class _Greenlets:
    """Two stacks in one thread: a change from one to the other costs less than a microsecond."""

    def __init__(self, work: Callable[[], None]) -> None:
        made = import_module("greenlet")
        self._here = made.getcurrent
        self._inner = made.greenlet(work)

    def enter(self) -> None:
        """In the loop: let ``work`` run until it leaves."""
        self._inner.parent = self._here()
        self._inner.switch()

    def leave(self) -> None:
        """In ``work``: let the loop go on until it enters."""
        self._inner.parent.switch()


class _Threads:
    """The same with a thread, where greenlet is not installed: on a busy machine each change waits for a processor."""

    def __init__(self, work: Callable[[], None]) -> None:
        self._to_work = threading.Semaphore(0)
        self._to_loop = threading.Semaphore(0)
        self._inner = threading.Thread(target=self._run, args=(work,), name="simulated", daemon=True)

    def enter(self) -> None:
        """See _Greenlets."""
        if self._inner.ident is None:
            self._inner.start()
        else:
            self._to_work.release()
        self._to_loop.acquire()

    def leave(self) -> None:
        """See _Greenlets."""
        self._to_loop.release()
        self._to_work.acquire()

    def _run(self, work: Callable[[], None]) -> None:
        work()
        self._to_loop.release()


_SIDES: Final = _Greenlets if find_spec("greenlet") else _Threads


class Blocking:
    """Runs ``work`` on a stack of its own, which waits with ``wait``. Spawn ``run()`` as a task of the process."""

    def __init__(self, work: Callable[[Blocking], None]) -> None:
        self._work = work
        self._sides = _SIDES(self._run)
        self._wanted: Coroutine[Any, Any, Any] | None = None
        self._result: Any = None
        self._error: BaseException | None = None
        self._is_over = False
        self._has_ended = False

    async def run(self) -> None:
        """Until ``work`` returns, or raise what it raises."""
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
            if not self._has_ended:
                self._sides.enter()

    def wait(self, wanted: Coroutine[Any, Any, _T]) -> _T:
        """In ``work``: what comes of ``wanted`` in the loop."""
        if not self._is_over:
            self._wanted = wanted
            self._sides.leave()
        if self._is_over:
            wanted.close()
            raise Killed
        if self._error is not None:
            raise self._error
        return cast("_T", self._result)

    def _hand_over(self) -> Coroutine[Any, Any, Any] | None:
        """Let ``work`` run until it waits again; for what, or None when it has ended."""
        self._wanted = None
        self._sides.enter()
        return self._wanted

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            if not self._is_over:
                self._work(self)
        except Killed:
            pass
        except BaseException as raised:
            error = raised
        self._error, self._wanted, self._has_ended = error, None, True


class BlockingClient(Client):
    """The synchronous client, whose calls are made in the virtual loop instead of a loop of its own."""

    def __init__(self, asynchronous: AsyncClient, blocking: Blocking) -> None:
        self._client = asynchronous
        self._blocking = blocking

    def _run(self, call: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        return self._blocking.wait(call())
