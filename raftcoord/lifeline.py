"""Processes that end with the one that started them, however that ends: those of throwaway clusters.

The parent holds one end of a pipe and gives the other to its children. When it is gone, also by kill -9, the system closes its
end, and each child reads the end of the file and ends. A child that SIGSTOP holds ends when it is let go on.
"""

from __future__ import annotations

import functools
import os
import stat
import threading
from typing import Final

VARIABLE: Final = "RAFTCOORD_LIFELINE"
"""The number of the file descriptor at which a child sees that its parent is gone."""


@functools.cache
def held() -> int:
    """The descriptor to hand on to children, of a pipe whose other end this process holds for as long as it lives."""
    reading, _writing = os.pipe()  # neither is inherited unasked
    return reading


def watch() -> None:
    """End this process when the one that holds its lifeline has ended; without a lifeline do nothing. Returns at once."""
    number = os.environ.pop(VARIABLE, "")
    if not number.isdecimal():
        return
    descriptor = int(number)
    try:
        if not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            return
        os.set_inheritable(descriptor, False)
    except OSError:  # the variable came from somewhere else
        return
    threading.Thread(target=_wait, args=(descriptor,), name="lifeline", daemon=True).start()


def _wait(descriptor: int) -> None:
    os.read(descriptor, 1)  # nobody writes: it returns at the end of the file
    os._exit(1)
