"""Frames: bytes to messages and back.

    frame        = length (4 bytes, big-endian, of the body) body
    body         = MessagePack of one message
    request      = [0, id, method, params]        id: 0 to 2**32-1; method: text; params: array
    response     = [1, id, error, result]         error: nil, or [code, message, detail]: text, text, map
    notification = [2, method, params]

Owed: whatever bytes arrive, the reader gives well-formed messages or raises RemoteProtocolError, and holds no more memory
than one frame. Never: a socket, a clock, or a judgement on what a method or its params mean.

Texts are UTF-8, map keys are texts, extension types are refused, and arrays, maps and nesting are bounded (limits), so
whoever handles a message need not fear its shape, only its meaning.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Final, NoReturn

import msgpack

from raftcoord import limits
from raftcoord.errors import LocalProtocolError, RemoteProtocolError

REQUEST: Final = 0
RESPONSE: Final = 1
NOTIFICATION: Final = 2

ID_MAX: Final = (1 << 32) - 1

Message = list[Any]

_HEADER_BYTES: Final = 4
_CONTAINERS: Final = bytes((*range(0x80, 0xA0), 0xDC, 0xDD, 0xDE, 0xDF))  # first bytes of arrays and maps
_unpackb: Final = msgpack.unpackb


class FrameReader:
    """Gathers bytes into messages. At a malformed frame it is spent: the place in the stream is lost."""

    __slots__ = ("_held", "_max_bytes", "_wanted", "fault")

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self.fault: RemoteProtocolError | None = None
        """The malformed frame at which it is spent."""
        self._held = bytearray()
        self._wanted = 0  # bytes that complete the first frame of what is held, as far as is known

    @property
    def held_bytes(self) -> int:
        """Bytes of a frame that is not complete yet. At the end of a stream: whether it was cut off."""
        return len(self._held)

    def feed(self, data: bytes) -> list[Message]:
        """The messages that ``data`` completes, in order, up to a malformed frame: that one is ``fault``.

        Raises ``fault`` if nothing came before it, and whenever it is fed again: what a stream says does not depend on the
        pieces in which it arrives.
        """
        if self.fault is not None:
            raise self.fault
        messages: list[Message] = []
        try:
            self._read(data, messages)
        except RemoteProtocolError as error:
            self.fault = error
            self._held.clear()
            if not messages:
                raise
        return messages

    def _read(self, data: bytes, messages: list[Message]) -> None:
        held = self._held
        if held:
            held += data
            if len(held) < self._wanted:
                return
            data = bytes(held)
            held.clear()
        start, end = 0, len(data)
        while end - start >= _HEADER_BYTES:
            body = start + _HEADER_BYTES
            length = int.from_bytes(data[start:body], "big")
            if length > self._max_bytes:
                raise RemoteProtocolError(f"a frame of {length} bytes: at most {self._max_bytes} are allowed here")
            if end - body < length:
                self._wanted = length + _HEADER_BYTES
                break
            start = body + length
            messages.append(decode(data[body:start]))
        else:
            self._wanted = _HEADER_BYTES
        if start < end:
            held += data[start:]


def decode(body: bytes) -> Message:
    """The message that a frame's body writes. Raises RemoteProtocolError for anything else."""
    try:
        message = _unpackb(
            body,
            raw=False,
            strict_map_key=True,
            max_array_len=limits.FRAME_ITEMS_MAX,
            max_map_len=limits.FRAME_ITEMS_MAX,
            max_ext_len=0,
            object_hook=_text_keys,
            ext_hook=_no_extension,
        )
    except RemoteProtocolError:
        raise
    except Exception as error:  # StackError, FormatError, ExtraData, UnicodeDecodeError, RecursionError: one meaning
        raise RemoteProtocolError(f"a frame that is not MessagePack ({type(error).__name__}: {error})") from None
    if len(body) > limits.FRAME_NESTING_MAX:
        _check_nesting(body, message)
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


def _check_nesting(body: bytes, message: Any) -> None:
    """Refuse deep nesting. Counting the bytes that could open a container acquits nearly every frame at once."""
    if len(body) - len(body.translate(None, _CONTAINERS)) <= limits.FRAME_NESTING_MAX:
        return
    level = [message]
    for _ in range(limits.FRAME_NESTING_MAX):
        inner: list[Any] = []
        for container in level:
            items = container.values() if type(container) is dict else container
            inner += [item for item in items if type(item) is list or type(item) is dict]
        if not inner:
            return
        level = inner
    raise RemoteProtocolError(f"a frame that is nested deeper than {limits.FRAME_NESTING_MAX} levels")
