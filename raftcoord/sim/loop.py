"""An event loop for many processes on one virtual clock.

Real asyncio code runs on it unchanged: tasks, timers, executors, connections and servers. Every callback belongs to the process
that scheduled it. Each process has a queue of its own that it works through in passes, as an event loop does; between the
processes the passes interleave by chance, and chance is a generator that the caller seeds. Nothing reads the machine's clock.

Owed: the same seed and the same calls give the same order of everything. A process that was killed does nothing more: no
callback, no timer, no ``finally``. A paused one does nothing until it is resumed, and then everything that is due.

Never: a thread, a socket, a sleep. What is left of a dead process is kept until the end, because the end of a coroutine runs
its ``finally`` blocks, and a dead process runs none.
"""

from __future__ import annotations

import asyncio
import heapq
import random
import sys
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from contextvars import Context
from typing import TYPE_CHECKING, Any, Final

from raftcoord.errors import check

if TYPE_CHECKING:
    from raftcoord.sim.network import Network

PASS_DELAY_S_MAX: Final = 0.0001
"""How long a process with something to do waits for its turn (s), by chance; what arrives meanwhile is done in one pass."""

ROUNDING_S: Final = 1e-6
"""How much later a timer goes off (s): so much that the clock of its process shows the time that was asked for."""


class Killed(BaseException):
    """Raised in the middle of a process's work when that process is killed there. Not for ``except Exception``."""


class Process:
    """One simulated process. ``name``: of its machine too, which outlives it. Clocks: ``rate`` seconds per second."""

    def __init__(self, loop: SimLoop, name: str, *, clock_offset_s: float = 0.0, clock_rate: float = 1.0) -> None:
        self.name = name
        self.alive = True
        self.paused = False
        self.ready: deque[asyncio.Handle] = deque()
        self.due = False
        """Whether a pass of it is scheduled."""
        self.on_kill: list[Callable[[], None]] = []
        """Called when it is killed, before anybody else does anything."""
        self._loop = loop
        self._clock_offset_s = clock_offset_s
        self._clock_rate = clock_rate
        self.tasks: list[asyncio.Task[Any]] = []

    def __repr__(self) -> str:
        return f"<Process {self.name}{'' if self.alive else ' dead'}{' paused' if self.paused else ''}>"

    def local(self, now: float) -> float:
        """The time on its own monotonic clock (s) when it is ``now``."""
        return self._clock_offset_s + now * self._clock_rate

    def universal(self, local: float) -> float:
        """When its own clock will show ``local``."""
        return (local - self._clock_offset_s) / self._clock_rate

    def spawn(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Run ``work`` as a task of this process."""
        with self._loop.acting(self):
            task = self._loop.create_task(work, name=f"{self.name} {name}")
        self.tasks.append(task)
        return task

    def call(self, callback: Callable[..., Any], *args: Any) -> None:
        """Call ``callback`` in this process's next pass."""
        if self.alive:
            self._loop.enqueue(self, asyncio.Handle(callback, args, self._loop))

    def resume(self) -> None:
        """Go on after a pause."""
        self.paused = False
        self._loop.wake(self)

    def kill(self) -> None:
        """End it here and now."""
        if self.alive:
            self.alive = False
            self._loop.bury(self)
            for told in self.on_kill:
                told()


class _Acting:
    """While it lasts, what is scheduled belongs to that process."""

    __slots__ = ("_before", "_loop", "_process")

    def __init__(self, loop: SimLoop, process: Process) -> None:
        self._loop = loop
        self._process = process

    def __enter__(self) -> None:
        self._before, self._loop.current = self._loop.current, self._process

    def __exit__(self, *_: object) -> None:
        self._loop.current = self._before


class SimLoop(asyncio.AbstractEventLoop):
    """See the module's head. ``rng``: for the delays of passes. ``on_error``: an exception that nobody handled."""

    def __init__(
        self, rng: random.Random, on_error: Callable[[Process | None, BaseException | None, str], None]
    ) -> None:
        self.now = 0.0
        """Virtual time (s), the same for everybody."""
        self.world = Process(self, "world")
        """The simulation's own: faults and checks are scheduled in it."""
        self.current = self.world
        self.network: Network
        self._rng = rng
        self._on_error = on_error
        self._heap: list[tuple[float, int, Process, asyncio.Handle | None]] = []
        self._order = 0
        self._grave: list[Any] = []
        self._stopping = False
        self._closed = False

    # -- running ---------------------------------------------------------------------------------------------------

    def run_until(self, end: float, until: Callable[[], bool] | None = None) -> None:
        """Let virtual time pass up to ``end`` (s), or until ``stop``, or until nothing is left to do.

        ``until``: asked after each pass; True ends it.
        """
        heap, pop = self._heap, heapq.heappop
        asyncio._set_running_loop(self)
        try:
            self._stopping = False
            while heap and not self._stopping and heap[0][0] <= end:
                at, _, process, handle = pop(heap)
                if not process.alive:
                    self._grave.append(handle)
                    continue
                self.now = max(self.now, at)
                if handle is None:
                    process.due = False
                    if not process.paused:
                        self._pass(process)
                elif not handle.cancelled():
                    process.ready.append(handle)
                    if not process.due and not process.paused:
                        self._pass(process)
                if until is not None and until():
                    return
            if not self._stopping:
                self.now = max(self.now, end)
        finally:
            asyncio._set_running_loop(None)

    def _pass(self, process: Process) -> None:
        before, self.current = self.current, process
        ready = process.ready
        try:
            for _ in range(len(ready)):
                handle = ready.popleft()
                if not handle.cancelled():
                    handle._run()
                    if not process.alive:
                        self._grave.append(handle)
                        return
        finally:
            self.current = before
        if ready:
            self.wake(process)

    def wake(self, process: Process) -> None:
        """Give it a pass soon, if it has something to do."""
        if not process.due and process.ready and not process.paused and process.alive:
            process.due = True
            self._push(self.now + self._rng.random() * PASS_DELAY_S_MAX, process, None)

    def enqueue(self, process: Process, handle: asyncio.Handle) -> None:
        """``handle`` is ready to run in that process."""
        if process.alive:
            process.ready.append(handle)
            self.wake(process)
        else:
            self._grave.append(handle)

    def at(self, when: float, process: Process, callback: Callable[..., Any], *args: Any) -> asyncio.TimerHandle:
        """Call ``callback`` in that process when it is ``when`` (virtual time, s)."""
        handle = asyncio.TimerHandle(when, callback, args, self)
        self._push(max(when, self.now), process, handle)
        return handle

    def _push(self, at: float, process: Process, handle: asyncio.Handle | None) -> None:
        self._order += 1
        heapq.heappush(self._heap, (at, self._order, process, handle))

    def acting(self, process: Process) -> _Acting:
        """A context in which what is scheduled belongs to ``process``."""
        return _Acting(self, process)

    def bury(self, process: Process) -> None:
        """It is dead: keep what it leaves, run nothing of it."""
        self._grave.append((process, list(process.ready), list(asyncio.all_tasks(self))))
        process.ready.clear()

    def finish(self) -> None:
        """The simulation is over: nothing that is dropped from now on has an effect."""
        self._closed = True
        self._grave.append(self._heap)
        self._heap = []

    def drop(self) -> None:
        """Forget everything that ran here; what ends thereby cannot schedule anything."""
        check(self._closed, "the loop is dropped while it may run")
        hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
        asyncio._set_running_loop(self)
        try:
            self._end_coroutines()
            self._grave.clear()
        finally:
            asyncio._set_running_loop(None)
            sys.unraisablehook = hook

    def _end_coroutines(self) -> None:
        """Close every task's coroutine, those too that the closing of others makes: none is left for the garbage collector."""
        ended: list[asyncio.Task[Any]] = []
        while left := asyncio.all_tasks(self).difference(ended):
            for task in left:
                ended.append(task)
                with suppress(BaseException):
                    task.get_coro().close()

    # -- what asyncio asks for ---------------------------------------------------------------------------------------

    def time(self) -> float:
        """The monotonic clock of the process that asks (s)."""
        return self.current.local(self.now)

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        """Part of asyncio."""
        handle = asyncio.Handle(callback, args, self, context)
        if not self._closed:
            self.enqueue(self.current, handle)
        return handle

    call_soon_threadsafe = call_soon  # type: ignore[assignment]

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """Part of asyncio."""
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., Any], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """Part of asyncio. ``when``: on the clock of the process that asks."""
        process = self.current
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        if not self._closed:
            self._push(max(process.universal(when) + ROUNDING_S, self.now), process, handle)
        return handle

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        """Part of asyncio. Every executor is the same: ``func`` runs a little later, in one piece."""
        future: asyncio.Future[Any] = self.create_future()

        def run() -> None:
            if future.cancelled():
                return
            try:
                future.set_result(func(*args))
            except Killed:
                raise
            except BaseException as error:
                future.set_exception(error)

        self.at(self.now + self._rng.random() * PASS_DELAY_S_MAX * 4, self.current, run)
        return future

    async def create_connection(self, protocol_factory: Any, host: Any = None, port: Any = None, **_: Any) -> Any:
        """Part of asyncio."""
        return await self.network.connect(self.current, protocol_factory, host, port)

    async def create_server(self, protocol_factory: Any, host: Any = None, port: Any = None, **_: Any) -> Any:
        """Part of asyncio."""
        return self.network.listen(self.current, protocol_factory, host, port)

    def create_future(self) -> asyncio.Future[Any]:
        """Part of asyncio."""
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, *, name: str | None = None, context: Context | None = None) -> asyncio.Task[Any]:
        """Part of asyncio."""
        return asyncio.Task(coro, loop=self, name=name, context=context)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Part of asyncio: what a callback raised and nobody caught."""
        error = context.get("exception")
        if self._closed or isinstance(error, Killed) or not self.current.alive:
            return
        self._on_error(self.current, error, str(context.get("message", "")))

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        """Part of asyncio."""
        self.call_exception_handler(context)

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Part of asyncio."""

    def stop(self) -> None:
        """End ``run_until`` after this pass."""
        self._stopping = True

    def is_running(self) -> bool:
        """Part of asyncio."""
        return True

    def is_closed(self) -> bool:
        """Part of asyncio."""
        return self._closed

    def get_debug(self) -> bool:
        """Part of asyncio."""
        return False
