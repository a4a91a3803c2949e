"""One connection, either end of it: requests, replies and notifications over frames.

Owed: every ``call`` is answered exactly once, later and never from inside ``call``: by the other end, by
``connection_lost`` (it may or may not have been carried out), or by ``unavailable`` or ``overloaded`` (it was not sent). Every
request reaches the handler once. What is written in one pass of the event loop goes out in one write, in order. A
malformed or out-of-state frame ends this connection with one line in the log and disturbs no other. Nothing is kept of it.

Never: a task, a timer or a coroutine per frame; a meaning of a method but "ping", which has none; a retry.

Bounds: bytes and items of a frame, what is handled in one pass of the loop, bytes waiting unsent, requests open each way. Before
the hello is done frames are small. At the accepting end, who does not read what was sent is not heard meanwhile; the dialing end
always reads, so that the two never wait for each other. What all connections may take together is the port's (census.py).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final, cast

from raftcoord import limits
from raftcoord.errors import LocalProtocolError, RaftcoordError, RemoteProtocolError, check
from raftcoord.foreign import Rationed
from raftcoord.limits import ConnectionBounds
from raftcoord.rpc import codes, frames
from raftcoord.rpc.codes import RpcError
from raftcoord.rpc.handler import Handler, OnReply, Port
from raftcoord.rpc.intake import Intake
from raftcoord.rpc.sockets import keep_alive, peername

log: Final = logging.getLogger("raftcoord.rpc")

PING: Final = "ping"
"""The notification that says no more than that the dialing end is there."""


class Connection(asyncio.Protocol):
    """``label`` names the port or the link in log lines. ``context`` is the handler's own. ``on_end`` is the acceptor's
    or the dialer's: called after the handler's ``on_closed``. ``port``: None at the dialing end.
    """

    __slots__ = (
        "_calls",
        "_deadline",
        "_finished",
        "_flush_due",
        "_last_id",
        "_log",
        "_loop",
        "_max_frame_bytes",
        "_out",
        "_pack",
        "_ping",
        "_port",
        "_reader",
        "_reason",
        "_serving",
        "_transport",
        "bounds",
        "closed",
        "context",
        "expendable",
        "greeted",
        "handler",
        "heard_at",
        "intake",
        "label",
        "on_end",
        "paused",
        "peername",
    )

    def __init__(
        self, handler: Handler, bounds: ConnectionBounds, *, max_frame_bytes: int, label: str, port: Port | None = None
    ) -> None:
        self.handler = handler
        self.bounds = bounds
        self.label = label
        self.context: Any = None
        self.on_end: Callable[[Connection, str], None] | None = None
        self.peername = "?"
        self.closed = False
        self.paused = False
        self._loop = asyncio.get_running_loop()
        self._max_frame_bytes = max_frame_bytes
        self._pack = frames.packer()
        items_max = limits.ANSWER_ITEMS_MAX if port is None else limits.FRAME_ITEMS_MAX
        self._reader = frames.FrameReader(min(max_frame_bytes, limits.HELLO_FRAME_BYTES_MAX), items_max)
        self.intake = Intake(self, self._reader, port)
        self._port = port
        self._log = Rationed(log, self._loop.time) if port is None else port.log
        self._ping: asyncio.TimerHandle | None = None
        self.greeted = False
        """Whether the hello is done."""
        self.expendable = False
        """Whether it may be closed while it is quiet, to make room for another: who is at the other end dials again."""
        self.heard_at = self._loop.time()
        self._transport: asyncio.Transport | None = None
        self._out: list[bytes] = []
        self._flush_due = False
        self._last_id = 0
        self._calls: dict[int, OnReply] = {}
        self._serving: set[int] = set()
        self._reason = ""
        self._finished = False
        self._deadline: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<Connection {self.label} {self.peername}{' closed' if self.closed else ''}>"

    @property
    def open_requests(self) -> int:
        """Requests of the other end that are not answered yet."""
        return len(self._serving)

    @property
    def open_calls(self) -> int:
        """Calls that the other end has not answered yet."""
        return len(self._calls)

    @property
    def unsent_bytes(self) -> int:
        """Bytes that wait unsent."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    def introduced(self, handler: Handler) -> None:
        """The hello is done: from now on ``handler`` hears what comes, in frames of full length."""
        self.handler = handler
        self.greeted = True
        self._reader.max_bytes = self._max_frame_bytes
        if self._port is None:
            self._ping = self._loop.call_later(self.bounds.ping_ms / 1000, self._say_ping)
        else:
            self._port.greeted(self)

    def _say_ping(self) -> None:
        if not self.closed:
            self.notify(PING, ())
            self._ping = self._loop.call_later(self.bounds.ping_ms / 1000, self._say_ping)

    # -- sending --------------------------------------------------------------------------------------------------

    def call(self, method: str, params: Any, on_reply: OnReply) -> int:
        """Send a request; ``on_reply`` gets the answer. The request's id, or 0 if it was not sent (see the module).

        LocalProtocolError, and no answer, if ``params`` (a list or tuple) cannot be written or are too long.
        """
        if self.closed:
            self._refuse(on_reply, codes.UNAVAILABLE, f"the connection to {self.peername} is closed: {self._reason}")
            return 0
        if len(self._calls) >= self.bounds.requests_max:
            self._refuse(on_reply, codes.OVERLOADED, f"{len(self._calls)} requests wait for {self.peername}; try later")
            return 0
        request_id = self._next_id()
        self._send(frames.encode((frames.REQUEST, request_id, method, params), self._pack, self._max_frame_bytes))
        self._calls[request_id] = on_reply
        return request_id

    def request(self, method: str, params: Any) -> asyncio.Future[Any]:
        """``call`` with a future, which gets the result or the RpcError."""
        future: asyncio.Future[Any] = self._loop.create_future()

        def on_reply(error: RpcError | None, result: Any) -> None:
            if future.done():
                return
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

        self.call(method, params, on_reply)
        return future

    def notify(self, method: str, params: Any) -> None:
        """Send a notification. Nothing happens on a closed connection. LocalProtocolError as for ``call``."""
        if not self.closed:
            self._send(frames.encode((frames.NOTIFICATION, method, params), self._pack, self._max_frame_bytes))

    def reply(self, request_id: int, result: Any) -> None:
        """Answer a request. Nothing happens on a closed connection."""
        if self.closed:
            return
        self._served(request_id)
        try:
            frame = frames.encode((frames.RESPONSE, request_id, None, result), self._pack, self._max_frame_bytes)
        except LocalProtocolError as error:
            self._complain(f"the answer to request {request_id} was not sent", error)
            frame = self._error_frame(request_id, RpcError(codes.INTERNAL, f"the answer cannot be sent: {error}"))
        self._send(frame)

    def reply_error(self, request_id: int, code: str, message: str, detail: dict[str, Any] | None = None) -> None:
        """Answer a request with an error (codes.py). Nothing happens on a closed connection."""
        self.reply_failure(request_id, RpcError(code, message, detail))

    def reply_failure(self, request_id: int, error: RaftcoordError) -> None:
        """Answer a request with ``error`` under its own code. Nothing happens on a closed connection."""
        if not self.closed:
            self._served(request_id)
            self._send(self._error_frame(request_id, codes.to_rpc(error)))

    def greet(self, request_id: int, answer: Callable[[], Any]) -> None:
        """Reply to the hello with ``answer()``, ahead of whatever ``answer`` itself sends."""
        ahead, self._out = self._out, []
        try:
            result = answer()
        finally:
            behind, self._out = self._out, ahead
        self.reply(request_id, result)
        self._out += behind

    def _next_id(self) -> int:
        request_id = self._last_id % frames.ID_MAX + 1
        while request_id in self._calls:
            request_id = request_id % frames.ID_MAX + 1
        self._last_id = request_id
        return request_id

    def _refuse(self, on_reply: OnReply, code: str, message: str) -> None:
        self._loop.call_soon(on_reply, RpcError(code, message), None)

    def _served(self, request_id: int) -> None:
        what = f"request {request_id} of {self.peername} is answered twice, or was not asked"
        check(request_id in self._serving, what)
        self._serving.remove(request_id)

    def _error_frame(self, request_id: int, error: RpcError) -> bytes:
        body = [error.code, error.message, error.detail]
        return frames.encode((frames.RESPONSE, request_id, body, None), self._pack, self._max_frame_bytes)

    def _send(self, frame: bytes) -> None:
        self._out.append(frame)
        if not self._flush_due:
            self._flush_due = True
            self._loop.call_soon(self._flush_gathered)

    def flush(self) -> None:
        """Write now what gathered, instead of at the end of the loop's pass."""
        out = self._out
        if not out or self._transport is None or self._finished:
            return
        self._transport.write(out[0] if len(out) == 1 else b"".join(out))
        out.clear()
        if self.paused and self._transport.get_write_buffer_size() > self.bounds.write_buffer_bytes_max:
            self.give_up(f"the reader does not read: more than {self.bounds.write_buffer_bytes_max} bytes wait for it")

    def _flush_gathered(self) -> None:
        self._flush_due = False
        self.flush()

    # -- receiving ------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Part of asyncio.Protocol."""
        if self.closed:
            return
        self.heard_at = self._loop.time()
        self.intake.take(data, self._transport)

    def receive(self, message: frames.Message) -> None:
        """One message of the other end. RemoteProtocolError if it breaks the rules."""
        kind = message[0]
        if kind == frames.RESPONSE:
            on_reply = self._calls.pop(message[1], None)
            if on_reply is None:
                raise RemoteProtocolError(f"an answer to request {message[1]}, which is not open")
            error = message[2]
            self._answer(on_reply, None if error is None else codes.received(*error), message[3])
        elif kind == frames.REQUEST:
            self._serve(message[1], message[2], message[3])
        elif message[1] != PING or not self.greeted:
            try:
                self.handler.on_notify(self, message[1], message[2])
            except RemoteProtocolError:
                raise
            except Exception as failure:
                self._complain(f"the notification {message[1][:60]!r} failed", failure)

    def _serve(self, request_id: int, method: str, params: list[Any]) -> None:
        if request_id in self._serving:
            raise RemoteProtocolError(f"a second request {request_id} while the first is open")
        self._serving.add(request_id)
        if len(self._serving) > self.bounds.requests_max:
            message = f"{self.bounds.requests_max} requests of this connection are open; wait for their answers"
            self.reply_error(request_id, codes.OVERLOADED, message)
            return
        try:
            self.handler.on_request(self, request_id, method, params)
        except RemoteProtocolError:
            raise
        except Exception as error:
            self.failed(request_id, method, error)

    def failed(self, request_id: int, method: str, error: Exception) -> None:
        """The handler met ``error`` instead of an answer to this request: it is the answer, or a bug."""
        expected = isinstance(error, RaftcoordError) and codes.to_rpc(error).code != codes.INTERNAL
        if not expected:
            self._complain(f"the request {method[:60]!r} failed", error)
            error = RpcError(codes.INTERNAL, f"the request {method[:60]!r} failed inside; the log there says more")
        if request_id in self._serving and isinstance(error, RaftcoordError):
            self.reply_failure(request_id, error)

    def _answer(self, on_reply: OnReply, error: RpcError | None, result: Any) -> None:
        try:
            on_reply(error, result)
        except Exception as failure:
            self._complain("an answer could not be handled", failure)

    def _complain(self, what: str, error: Exception) -> None:
        """A bug of ours: it goes to the loop's exception handler, which the process owns."""
        message = f"{self.label} {self.peername}: {what}"
        self._loop.call_exception_handler({"message": message, "exception": error, "protocol": self})

    # -- opening and closing --------------------------------------------------------------------------------------

    def close(self, reason: str) -> None:
        """Send what is waiting and close. ``on_closed(reason)`` follows in a later pass of the loop."""
        if self.closed:
            return
        if not self._finished:
            self.flush()
        if self.closed:
            return
        self.closed = True
        self._reason = reason
        self._loop.call_soon(self._finish)
        if self._transport is not None:
            self._transport.close()
            if self._transport.get_write_buffer_size():
                self._deadline = self._loop.call_later(limits.CLOSE_MS_MAX / 1000, self._transport.abort)

    def fault(self, reason: str) -> None:
        """The other end broke the rules: one line in the log, and the end of this connection."""
        if not self.closed:
            self._log.warning("%s: closed the connection of %s: %s", self.label, self.peername, reason)
            self.close(reason)

    def give_up(self, reason: str) -> None:
        """As ``fault``, and nothing more is sent: the other end does not read."""
        self.fault(reason)
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Part of asyncio.Protocol."""
        if self.closed:  # the server was closed between accept and here
            cast("asyncio.Transport", transport).abort()
            return
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by inheritance
        self.peername = peername(self._transport)
        self._transport.set_write_buffer_limits(high=self.bounds.write_buffer_pause_bytes)
        keep_alive(self._transport, self.bounds.silent_ms_max)
        self.handler.on_open(self)

    def eof_received(self) -> None:
        """Part of asyncio.Protocol."""
        if self._reader.held_bytes and not self.intake.behind:
            self.fault(f"cut off inside a frame, after {self._reader.held_bytes} bytes of it")

    def connection_lost(self, exc: Exception | None) -> None:
        """Part of asyncio.Protocol."""
        if self._deadline is not None:
            self._deadline.cancel()
        if self._ping is not None:
            self._ping.cancel()
        if not self.closed:
            self.closed = True
            self._reason = str(exc) if exc else "the other end closed it"
        self._finish()

    def pause_writing(self) -> None:
        """Part of asyncio.Protocol."""
        self.paused = True
        if self._port is not None:
            self._port.is_unread(self)

    def resume_writing(self) -> None:
        """Part of asyncio.Protocol."""
        self.paused = False
        self.intake.resume()

    def _finish(self) -> None:
        if self._finished:
            return
        self._finished = True
        self._out.clear()
        self._serving.clear()
        self.intake.forget()
        calls, self._calls = self._calls, {}
        error = RpcError(codes.CONNECTION_LOST, f"the connection to {self.peername} was lost: {self._reason}")
        for on_reply in calls.values():
            self._answer(on_reply, error, None)
        log.debug("%s: connection of %s ended: %s", self.label, self.peername, self._reason)
        try:
            if self._transport is not None:
                self.handler.on_closed(self, self._reason)
        except Exception as failure:
            self._complain("its end could not be handled", failure)
        if self.on_end is not None:
            self.on_end(self, self._reason)
