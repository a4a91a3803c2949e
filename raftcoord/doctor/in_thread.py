"""Work that may hang, done in a thread that nobody waits for at the end.

Owed: the caller has its answer, or a TimeoutError, in time; a thread that hangs (a database that never answers, a dead network
file system) keeps neither the event loop nor the process alive.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")


async def in_thread(work: Callable[[], _T], timeout_s: float) -> _T:
    """What ``work()`` returns or raises, called in a thread of its own. Raises TimeoutError after ``timeout_s``.

    Not asyncio.to_thread: its threads are waited for when the process ends.
    """
    loop = asyncio.get_running_loop()
    answered: asyncio.Future[_T] = loop.create_future()

    def settle(result: _T | None, error: BaseException | None) -> None:
        if answered.done():
            return
        if error is None:
            answered.set_result(result)  # type: ignore[arg-type]  # None only beside an error, or as the result itself
        else:
            answered.set_exception(error)

    def run() -> None:
        result, failure = None, None
        try:
            result = work()
        except BaseException as error:
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody asks any more
            loop.call_soon_threadsafe(settle, result, failure)

    threading.Thread(target=run, name="raftcoord-doctor", daemon=True).start()
    return await asyncio.wait_for(answered, timeout_s)
