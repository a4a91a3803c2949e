"""Sets the stage, plays a scene on it, clears it.

It owes the end of every process that was started, however the scene ends: done, failed, or interrupted by SIGINT, SIGTERM
or SIGHUP; and the removal of the directory, unless it is worth a look. It never knows what the scene is about.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any, Final, TypeVar

from raftcoord.drills.props import Props, StagePlan
from raftcoord.drills.report import DrillReport, timed
from raftcoord.drills.stage import Stage

T = TypeVar("T")
_ENDING: Final = (signal.SIGTERM, signal.SIGHUP)


def play(
    plan: StagePlan, scene: Callable[[Stage], Coroutine[Any, Any, T]], keep: Callable[[T], bool], *, fast: bool = False
) -> T:
    """Play ``scene`` on a new stage; blocks. A signal ends it as KeyboardInterrupt.

    The directory is kept if the scene fails (the error's note names it), or if ``keep`` of its result is true.
    ``fast``: see ``run``.
    """
    with _directory() as directory:
        props = Props(directory, plan)
        try:
            result = run(_act(Stage(props), scene), fast=fast)
        finally:
            with _undisturbed():
                props.end()
    if not keep(result):
        shutil.rmtree(directory)
    return result


def run(scene: Coroutine[Any, Any, T], *, fast: bool = False) -> T:
    """As asyncio.run. A signal ends it as KeyboardInterrupt.

    ``fast``: on uvloop, where it is installed. Not for a history: its loop.time() is that of the pass's beginning, in whole
    milliseconds, and so an answer would seem to have come before it did.
    """
    with asyncio.Runner(loop_factory=_fast_loop() if fast else None) as runner:
        return runner.run(_interruptible(scene))


def reported(plan: StagePlan, scene: Callable[[Stage], Coroutine[Any, Any, DrillReport]]) -> DrillReport:
    """What ``scene`` reports; blocks. The files are kept if the report names their directory."""
    return timed(lambda: play(plan, scene, keep=lambda report: report.directory is not None))


async def in_thread(work: Callable[[threading.Event], T]) -> T:
    """``work`` in a thread. An interrupted caller sets the event that was given and waits: the thread may hold processes."""
    stop = threading.Event()
    working = asyncio.ensure_future(asyncio.to_thread(work, stop))
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        stop.set()
        with contextlib.suppress(Exception):
            await working
        raise


def _fast_loop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # the extra "fast" is not installed
        return None
    new_loop: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return new_loop


async def _act(stage: Stage, scene: Callable[[Stage], Coroutine[Any, Any, T]]) -> T:
    try:
        async with stage.lit():
            return await scene(stage)
    except BaseExceptionGroup as group:
        raise _first(group) from group


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def _interruptible(scene: Coroutine[Any, Any, T]) -> T:
    task = asyncio.ensure_future(scene)
    ended = False

    def end() -> None:
        nonlocal ended
        ended = True
        task.cancel()

    with contextlib.suppress(ValueError, RuntimeError):  # not the main thread: signals are somebody else's
        for number in _ENDING:
            asyncio.get_running_loop().add_signal_handler(number, end)
    try:
        return await task
    except asyncio.CancelledError:
        if ended:
            raise KeyboardInterrupt from None
        raise


@contextlib.contextmanager
def _directory() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="raftcoord-"))
    try:
        yield directory
    except KeyboardInterrupt as interrupt:
        shutil.rmtree(directory)
        interrupt.add_note("what was started is stopped, and its files are removed")
        raise
    except BaseException as error:
        error.add_note(f"the cluster's files and logs are kept in {directory}")
        raise


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """A second Ctrl-C must not leave processes behind."""
    before = {}
    with contextlib.suppress(ValueError):  # not the main thread
        before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, *_ENDING)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
