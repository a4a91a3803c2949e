"""What packed bytes promise, read before they are unpacked.

A parser makes an object for every item, and room for every item that a header promises: a frame of 2 MiB can ask for a hundred
times as much memory, and for seconds. So the items and the nesting of a frame are counted first, on its headers alone. Frames
that are too small to hold much, and those without many bytes that could open a container, need no count.

Never: an object made of what is in the frame.
"""

from __future__ import annotations

from typing import Final, NoReturn

from raftcoord import limits
from raftcoord.errors import RemoteProtocolError

_CONTAINERS: Final = bytes((*range(0x80, 0xA0), 0xDC, 0xDD, 0xDE, 0xDF))  # first bytes of arrays and maps


def _plain(first: int) -> int:
    """Bytes of an item that begins so and has a fixed length and nothing inside; 0 for any other."""
    if first < 0x80 or first >= 0xE0 or first in (0xC0, 0xC2, 0xC3):
        return 1
    if 0xA0 <= first < 0xC0:
        return 1 + (first & 0x1F)
    return {0xCA: 5, 0xCB: 9, 0xCC: 2, 0xCD: 3, 0xCE: 5, 0xCF: 9, 0xD0: 2, 0xD1: 3, 0xD2: 5, 0xD3: 9}.get(first, 0)


_PLAIN: Final = tuple(map(_plain, range(256)))
_LENGTHS: Final = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}  # bytes of the length of a bin or str
_COUNTS: Final = {0xDC: (2, 1), 0xDD: (4, 1), 0xDE: (2, 2), 0xDF: (4, 2)}  # bytes of the count, and items for each


def check_shape(body: bytes | bytearray, items_max: int) -> None:
    """RemoteProtocolError if ``body`` is not one value of at most ``items_max`` items, nested at most FRAME_NESTING_MAX deep."""
    length = len(body)
    if length <= limits.FRAME_NESTING_MAX:
        return
    if length <= items_max and length - len(body.translate(None, _CONTAINERS)) <= limits.FRAME_NESTING_MAX:
        return
    _walk(body, length, items_max)


def _walk(body: bytes | bytearray, end: int, items_max: int) -> None:
    at, items, left = 0, 1, 1
    outer: list[int] = []
    while True:
        while left == 0:
            if not outer:
                if at != end:
                    _refuse("that is not MessagePack (it ends elsewhere)")
                return
            left = outer.pop()
        if at >= end:
            _refuse("that is not MessagePack (it ends too soon)")
        left -= 1
        first = body[at]
        step = _PLAIN[first]
        if step:
            at += step
            continue
        if first < 0xA0:
            count = first & 0x0F if first >= 0x90 else (first & 0x0F) * 2
            at += 1
        elif first in _LENGTHS:
            width = _LENGTHS[first]
            at += 1 + width + int.from_bytes(body[at + 1 : at + 1 + width], "big")
            continue
        elif first in _COUNTS:
            width, each = _COUNTS[first]
            count = int.from_bytes(body[at + 1 : at + 1 + width], "big") * each
            at += 1 + width
        else:
            _refuse("with an extension type, or that is not MessagePack: none is used here")
        items += count
        if items > items_max:
            _refuse(f"of more than {items_max} items: send less at a time")
        outer.append(left)
        left = count
        if len(outer) > limits.FRAME_NESTING_MAX:
            _refuse(f"that is nested deeper than {limits.FRAME_NESTING_MAX} levels")


def _refuse(what: str) -> NoReturn:
    raise RemoteProtocolError(f"a frame {what}")
