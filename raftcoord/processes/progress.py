"""Says in the log how far a node has come with reading what it has stored, while that takes long.

Owed: a line a second for as long as there is progress, and none without: ``raftcoord up`` waits for as long as they come. SQLite
checks the structure of a file in one call that says nothing, so what that uses of the processor and the disk is looked at.
"""

from __future__ import annotations

import logging
import resource
import threading
from typing import Final, Self

from raftcoord.storage.reading import Reading

log: Final = logging.getLogger("raftcoord.node")

EVERY_S: Final = 1.0

_WORK_S: Final = 0.02
"""Time on the processor (s) within EVERY_S that counts as progress; a process that waits needs a tenth of it."""


class Progress:
    """A thread that watches ``reading``, until ``stop`` or the end of the block."""

    def __init__(self) -> None:
        self.reading = Reading()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="progress", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._stopped.set()

    def _watch(self) -> None:
        seconds, said, cpu_s, blocks = 0.0, "", *_used()
        while not self._stopped.wait(EVERY_S):
            seconds += EVERY_S
            now_cpu_s, now_blocks = _used()
            now = str(self.reading)
            if now and (now != said or now_cpu_s >= cpu_s + _WORK_S or now_blocks > blocks):
                log.info("reading %s, for %.0f s", now, seconds)
            said, cpu_s, blocks = now, now_cpu_s, now_blocks


def _used() -> tuple[float, int]:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime, used.ru_inblock
