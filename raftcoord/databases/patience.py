"""How long a database may be silent before it is hung up on, so that nobody waits for an answer that cannot come.

A driver that waits for an answer waits for ever if the host has vanished, and few can be told otherwise once they are connected.
So the socket is shut down beneath the driver, which then reports by itself that its connection is lost: neither a setting of the
session nor a round trip is needed, and it is the same for every driver.

Owed: what runs longer than it was given ends as ConnectionLost, within a fraction of a second. Never: the end of a connection on
which nothing is waited for.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final, Protocol

from raftcoord import limits
from raftcoord.databases.steps import ConnectionLost

CONNECT_S: Final = limits.RESOURCE_CONNECT_MS // 1000
"""Whole seconds, as the C libraries take them."""

_GRAIN_S: Final = 0.1
"""How often the clock is looked at while anything is waited for (s)."""


class _Wait:
    """One wait until ``until``, by a clock (s). ``hung_up``: it was too long."""

    def __init__(self, hang_up: Callable[[], object], until: float = 0.0) -> None:
        self.until = until
        self.hung_up = False
        self._hang_up = hang_up

    def end(self) -> None:
        """Hang up."""
        self.hung_up = True
        with contextlib.suppress(Exception):  # the driver has closed it meanwhile
            self._hang_up()


class _Watch:
    """All waits of synchronous sessions, and the thread that looks at the clock while there are any."""

    def __init__(self) -> None:
        self._waits: set[_Wait] = set()
        self._lock = threading.Lock()
        self._any = threading.Event()
        self._thread: threading.Thread | None = None

    def add(self, wait: _Wait) -> None:
        with self._lock:
            self._waits.add(wait)
            if self._thread is None:
                self._thread = threading.Thread(target=self._look, name="raftcoord patience", daemon=True)
                self._thread.start()
            if not self._any.is_set():  # it is cleared under the lock as well
                self._any.set()

    def remove(self, wait: _Wait) -> None:
        with self._lock:
            self._waits.discard(wait)

    def _look(self) -> None:
        while self._any.wait():
            time.sleep(_GRAIN_S)
            now = time.monotonic()
            with self._lock:  # a wait that is over is not hung up on
                if not self._waits:
                    self._any.clear()
                for wait in [wait for wait in self._waits if wait.until <= now]:
                    self._waits.discard(wait)
                    wait.end()


_watch = _Watch()


def _forked() -> None:
    """A child has no thread of its parent's, and none of its waits."""
    global _watch
    _watch = _Watch()


os.register_at_fork(after_in_child=_forked)


class Speaking(Protocol):
    """A synchronous session, as far as it is watched."""

    def fileno(self) -> int:
        """Its socket, or -1."""


class RunningTimer(Protocol):
    """What an event loop's call_later returns."""

    def cancel(self) -> object:
        """It need not ring any more."""


def within(session: Speaking, seconds: float | None) -> contextlib.AbstractContextManager[None]:
    """What is done inside ends within ``seconds``, or as ConnectionLost. None: it takes as long as it takes."""
    return _UNWATCHED if seconds is None else _Watched(session, seconds)


_UNWATCHED: Final = contextlib.nullcontext()


class _Watched:
    """A class, and not a generator, because it stands around everything that is said to a database."""

    __slots__ = ("_seconds", "_session", "_twin", "_wait", "_watch")

    def __init__(self, session: Speaking, seconds: float) -> None:
        self._session = session
        self._seconds = seconds
        self._watch = _watch

    def __enter__(self) -> None:
        self._twin = _twin(self._session)
        if self._twin >= 0:
            self._wait = _Wait(partial(shut_down, self._twin), time.monotonic() + self._seconds)
            self._watch.add(self._wait)

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self._twin < 0:
            return
        self._watch.remove(self._wait)
        os.close(self._twin)
        if isinstance(error, ConnectionLost) and self._wait.hung_up:
            raise _too_late(self._seconds) from None


@contextlib.contextmanager
def within_loop(
    call_later: Callable[[float, Callable[[], None]], RunningTimer], hang_up: Callable[[], object], seconds: float
) -> Iterator[None]:
    """The same for what is awaited, by the clock of its event loop. ``hang_up``: makes it fail."""
    wait = _Wait(hang_up)
    alarm = call_later(seconds, wait.end)
    try:
        yield
    except ConnectionLost:
        if wait.hung_up:
            raise _too_late(seconds) from None
        raise
    finally:
        alarm.cancel()


def _too_late(seconds: float) -> ConnectionLost:
    return ConnectionLost(f"the database did not answer within {seconds:.3g} s, and was hung up on")


def _twin(session: Speaking) -> int:
    """The session's socket under a number of our own, which stays ours if the driver closes its own; -1 if there is none.

    Asked before anything is waited for: some drivers tell nothing while they wait.
    """
    try:
        fileno = session.fileno()
        return fileno if fileno < 0 else os.dup(fileno)
    except Exception:  # it is closed, which the next statement shows
        return -1


def shut_down(fileno: int) -> None:
    """End the connection whose socket it is, beneath the driver that reads from it."""
    with socket.socket(fileno=os.dup(fileno)) as twin:
        twin.shutdown(socket.SHUT_RDWR)


def keep_alive(fileno: int) -> None:
    """Have the kernel find out whether the host is still there. No effect on a Unix socket; -1: there is none."""
    silent_s = limits.RESOURCE_SILENT_MS // 1000
    if fileno < 0:
        return
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(fileno)) as twin:
        twin.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in (
            ("TCP_KEEPIDLE", max(1, silent_s // 3)),
            ("TCP_KEEPINTVL", max(1, silent_s // 3)),
            ("TCP_KEEPCNT", 2),
            ("TCP_USER_TIMEOUT", limits.RESOURCE_SILENT_MS),
        ):
            if hasattr(socket, name):  # TCP_USER_TIMEOUT: Linux alone
                twin.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
