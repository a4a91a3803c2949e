"""The dialing side: ``connect`` once, or a ``Dialer`` that keeps one connection up.

Owed: a connection is handed over only after its hello; a dialer tries again for ever, with jittered backoff that is capped,
and says why it fails once per reason. Never: two connections of one dialer at a time; a task that outlives ``stop``.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import ssl as tls
from collections.abc import Callable
from typing import Any, Final

from raftcoord.errors import LocalProtocolError, NoMember, RaftcoordError, Unavailable
from raftcoord.foreign import shown
from raftcoord.limits import ConnectionBounds
from raftcoord.rpc import codes
from raftcoord.rpc.codes import RpcError
from raftcoord.rpc.connection import Connection, log
from raftcoord.rpc.handler import Handler
from raftcoord.rpc.hello import HelloSender

BACKOFF_S_MIN: Final = 0.05
BACKOFF_S_MAX: Final = 1.0
CONNECT_S_MAX: Final = 1.0

OnUp = Callable[[Connection, dict[str, Any]], None]


async def connect(
    host: str,
    port: int,
    handler: Handler,
    *,
    role: str,
    details: dict[str, Any],
    max_frame_bytes: int,
    label: str,
    timeout: float,
    on_up: OnUp | None = None,
    bounds: ConnectionBounds = ConnectionBounds(),
    ssl: tls.SSLContext | None = None,
) -> tuple[Connection, dict[str, Any]]:
    """Dial once and say hello: the connection, and the details of the answer. ``timeout``: seconds for all of it.

    ``on_up`` is called with the same two before any other message reaches ``handler``. Raises Unavailable if nobody
    answers in time, and what the other end refused the hello with otherwise.
    """
    loop = asyncio.get_running_loop()
    answered: asyncio.Future[tuple[Connection, dict[str, Any]]] = loop.create_future()

    def up(conn: Connection, hello: dict[str, Any]) -> None:
        if answered.done():
            conn.close("nobody waits for it any more")
            return
        answered.set_result((conn, hello))
        if on_up is not None:
            on_up(conn, hello)

    def refused(error: RaftcoordError) -> None:
        if not answered.done():
            answered.set_exception(error)

    def protocol() -> Connection:
        introduction = HelloSender(handler, role, details, up, refused)
        return Connection(introduction, bounds, max_frame_bytes=max_frame_bytes, label=label)

    conn: Connection | None = None
    handed_over = False
    try:
        async with asyncio.timeout(timeout):
            _, conn = await loop.create_connection(protocol, host, port, ssl=ssl)
            both = await answered
        handed_over = True
        return both
    except TimeoutError:
        raise Unavailable(f"no answer from {host}:{port} within {timeout:.3g} s; is that node running?") from None
    except OSError as error:
        raise Unavailable(f"cannot reach {host}:{port}: {_why(error)}; is that node running?") from None
    except RpcError as error:
        if error.code == codes.CONNECTION_LOST:
            raise Unavailable(
                f"{host}:{port} hung up before it answered the hello: {error.message}; is that a raftcoord node, and the right "
                "one of its two ports?"
            ) from None
        raise codes.to_error(error) from None
    finally:
        answered.cancel()
        if conn is not None and not handed_over:
            conn.close("the hello was not answered in time")


def _why(error: OSError) -> str:
    """In the system's words: asyncio's own loop puts the address into them once more."""
    if isinstance(error, ConnectionError) and error.errno:
        return os.strerror(error.errno)
    return error.strerror or str(error)


class Dialer:
    """Keeps one connection to ``host``:``port`` up, from ``start`` to ``stop``.

    ``on_up(conn, hello)`` after each hello, before any other message; ``on_down(reason)`` when that connection has ended,
    after the handler's ``on_closed``, but not because of ``stop``. ``details``: called for each hello.
    """

    def __init__(
        self,
        host: str,
        port: int,
        handler: Handler,
        *,
        role: str,
        details: Callable[[], dict[str, Any]],
        rng: random.Random,
        on_up: OnUp,
        on_down: Callable[[str], None],
        max_frame_bytes: int,
        label: str,
        bounds: ConnectionBounds = ConnectionBounds(),
        ssl: tls.SSLContext | None = None,
    ) -> None:
        self.conn: Connection | None = None
        """The connection, while its hello is done and it is not closed."""
        self.last_error = "not tried yet"
        """Why it is down; "" while it is up."""
        self.is_no_member = False
        """Whether the other end refused it as no member of its cluster, the last time."""
        self._host = host
        self._port = port
        self._handler = handler
        self._role = role
        self._details = details
        self._rng = rng
        self._on_up = on_up
        self._on_down = on_down
        self._max_frame_bytes = max_frame_bytes
        self._label = label
        self._bounds = bounds
        self._ssl = ssl
        self._task: asyncio.Task[None] | None = None
        self._ended: asyncio.Future[str] | None = None

    def start(self) -> None:
        """Begin to dial."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name=f"dial {self._label}")

    async def stop(self, reason: str = "stopped") -> None:
        """Close the connection and dial no more."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        if self.conn is not None:
            self.conn.close(reason)
            self.conn = None

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        backoff = BACKOFF_S_MIN
        while True:
            began = loop.time()
            await self._once()
            if loop.time() - began > BACKOFF_S_MAX:
                backoff = BACKOFF_S_MIN
            await asyncio.sleep(backoff * (0.5 + self._rng.random() / 2))
            backoff = min(backoff * 2, BACKOFF_S_MAX)

    async def _once(self) -> None:
        """One connection, from dialing to its end."""
        self._ended = asyncio.get_running_loop().create_future()
        try:
            await connect(
                self._host,
                self._port,
                self._handler,
                role=self._role,
                details=self._details(),
                max_frame_bytes=self._max_frame_bytes,
                label=self._label,
                timeout=CONNECT_S_MAX,
                on_up=self._up,
                bounds=self._bounds,
                ssl=self._ssl,
            )
        except RaftcoordError as error:
            self.is_no_member = isinstance(error, NoMember)
            if self.conn is None:
                self._failed(str(error), refused=isinstance(error, LocalProtocolError))
                return
        except Exception as error:  # a bug; but a dialer that ends in silence would cut this node off for ever
            self._failed(f"dialing failed by a bug in raftcoord, please report it: {error!r}", error)
            return
        reason = await self._ended
        self.conn = None
        self.last_error = reason
        self._on_down(reason)

    def _failed(self, reason: str, bug: Exception | None = None, *, refused: bool = False) -> None:
        """``refused``: by the other end, for good as long as this end is what it is."""
        if self.last_error != reason:
            self.last_error = reason
            log.log(
                logging.ERROR if bug or refused else logging.INFO, "%s: %s", self._label, shown(reason), exc_info=bug
            )

    def _up(self, conn: Connection, hello: dict[str, Any]) -> None:
        conn.on_end = self._down
        self.conn = conn
        self.last_error, self.is_no_member = "", False
        self._on_up(conn, hello)

    def _down(self, conn: Connection, reason: str) -> None:
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(reason)
