"""Frames: bytes to messages and back.

    frame        = length (4 bytes, big-endian, of the body) body
    body         = MessagePack of one message
    request      = [0, id, method, params]        id: 0 to 2**32-1; method: text; params: array
    response     = [1, id, error, result]         error: nil, or [code, message, detail]: text, text, map
    notification = [2, method, params]

Owed: whatever bytes arrive, the reader gives well-formed messages or raises RemoteProtocolError, and holds no more memory
than one frame. Never: a socket, a clock, or a judgement on what a method or its params mean.

Texts are UTF-8, map keys are texts, extension types are refused, and the items and the nesting of a frame are bounded before
anything is made of it (shape.py), so the code that handles a message need not fear its shape, only its meaning.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final, NoReturn

import msgpack

from raftcoord import limits
from raftcoord.errors import LocalProtocolError, RemoteProtocolError
from raftcoord.rpc.shape import check_shape

REQUEST: Final = 0
RESPONSE: Final = 1
NOTIFICATION: Final = 2

ID_MAX: Final = (1 << 32) - 1

Message = list[Any]

_HEADER_BYTES: Final = 4
_unpackb: Final = msgpack.unpackb


class FrameReader:
    """Gathers bytes, and gives them as messages one at a time. At a malformed frame it is spent: the place in the stream is lost.

    ``max_bytes``: of one frame, which may change between two frames; ``items_max``: see shape.py.
    """

    __slots__ = ("_at", "_held", "cost", "fault", "given", "items_max", "max_bytes")

    def __init__(self, max_bytes: int, items_max: int = limits.FRAME_ITEMS_MAX) -> None:
        self.max_bytes = max_bytes
        self.items_max = items_max
        self.fault = ""
        """Why it is spent; "" while it is not. Nothing is kept of the frame at which it ended."""
        self.given = 0
        """How many messages it has given."""
        self.cost = 0
        """What reading the last message cost, in the unit of ``ConnectionBounds.pass_cost_max``."""
        self._held = bytearray()
        self._at = 0  # where in what is held the next frame begins

    @property
    def held_bytes(self) -> int:
        """Bytes that are not given as messages yet. When ``next`` gave None: of a frame that is not complete."""
        return len(self._held) - self._at

    def feed(self, data: bytes) -> None:
        """Take more of the stream. What it says does not depend on the pieces in which it arrives."""
        if self.fault:
            return
        if self._at:
            del self._held[: self._at]
            self._at = 0
        self._held += data

    def next(self) -> Message | None:
        """The next message; None if it is not complete yet, or if the reader is spent."""
        held, body = self._held, self._at + _HEADER_BYTES
        if len(held) < body:
            if held and len(held) == self._at:  # all was read
                held.clear()
                self._at = 0
            return None
        length = int.from_bytes(held[self._at : body], "big")
        if length > self.max_bytes:
            self._end(f"a frame of {length} bytes: at most {self.max_bytes} are allowed here")
            return None
        end = body + length
        if len(held) < end:
            return None
        try:
            message = decode(held[body:end], self.items_max)
        except RemoteProtocolError as error:
            self._end(str(error))
            return None
        self._at = end
        self.given += 1
        self.cost = 1 + (length >> 10)
        return message

    def forget(self) -> None:
        """Free what is held."""
        self._held.clear()
        self._at = 0

    def _end(self, why: str) -> None:
        self.fault = why
        self.forget()


def decode(body: bytes | bytearray, items_max: int = limits.FRAME_ITEMS_MAX) -> Message:
    """The message that a frame's body writes. Raises RemoteProtocolError for anything else."""
    check_shape(body, items_max)
    try:
        message = _unpackb(
            body,
            raw=False,
            strict_map_key=True,
            max_array_len=items_max,
            max_map_len=items_max,
            max_ext_len=0,
            object_hook=_text_keys,
            ext_hook=_no_extension,
        )
    except RemoteProtocolError:
        raise
    except Exception as error:  # StackError, FormatError, ExtraData, UnicodeDecodeError, RecursionError: one meaning
        raise RemoteProtocolError(f"a frame that is not MessagePack ({type(error).__name__}: {error})") from None
    if type(message) is list and _well_formed(message):
        return message
    raise RemoteProtocolError("a frame that is neither a request, a response nor a notification")


def _well_formed(message: Message) -> bool:
    if len(message) == 4:
        kind, request_id, third, fourth = message
        if type(kind) is not int or type(request_id) is not int or not 0 <= request_id <= ID_MAX:
            return False
        if kind == RESPONSE:
            return third is None or _is_error(third)
        return kind == REQUEST and type(third) is str and type(fourth) is list
    if len(message) == 3:
        kind, method, params = message
        return type(kind) is int and kind == NOTIFICATION and type(method) is str and type(params) is list
    return False


def encode(message: tuple[Any, ...], pack: Callable[[Any], bytes], max_bytes: int) -> bytes:
    """``message`` as a frame. ``pack`` is from ``packer()``. LocalProtocolError if it cannot be written or is too long."""
    try:
        body = pack(message)
    except Exception as error:  # TypeError, OverflowError, UnicodeEncodeError, RecursionError: one meaning
        raise LocalProtocolError(
            f"this cannot be sent: {error}; send None, bool, int (64 bits), float, str, "
            "bytes, and lists and str-keyed dicts of them"
        ) from None
    length = len(body)
    if length > max_bytes:
        raise LocalProtocolError(f"a message of {length} bytes: at most {max_bytes} are allowed; send less at a time")
    return length.to_bytes(_HEADER_BYTES, "big") + body


class _ThreadPacker(threading.local):
    """One Packer per thread: it holds a large buffer, and is not safe to share between threads."""

    def __init__(self) -> None:
        self.pack: Callable[[Any], bytes] = msgpack.Packer(use_bin_type=True, autoreset=True).pack


_packer: Final = _ThreadPacker()


def packer() -> Callable[[Any], bytes]:
    """This thread's MessagePack writer."""
    return _packer.pack


def _is_error(value: Any) -> bool:
    return (
        type(value) is list
        and len(value) == 3
        and type(value[0]) is str
        and type(value[1]) is str
        and type(value[2]) is dict
    )


def _text_keys(value: dict[Any, Any]) -> dict[Any, Any]:
    for key in value:
        if type(key) is not str:
            raise RemoteProtocolError("a frame with a map key that is not text")
    return value


def _no_extension(code: int, _data: bytes) -> NoReturn:
    raise RemoteProtocolError(f"a frame with MessagePack extension type {code}: none is used here")
