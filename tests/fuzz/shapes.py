"""What is thrown at the code: junk of every shape, and good input that was damaged in a few places.

Damaged good input reaches the checks behind the first one; mere junk hardly ever does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, get_args, get_origin, get_type_hints

import msgpack
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from raftcoord.core.commands import KINDS, encode_command
from raftcoord.core.tables.table import Command
from raftcoord.types import TxId, Verdict

EDGES: Final = (
    0,
    1,
    2,
    7,
    127,
    128,
    255,
    65_535,
    65_536,
    (1 << 31) - 1,
    1 << 32,
    (1 << 63) - 1,
    1 << 63,
    (1 << 64) - 1,
)

ints = st.integers(-3, 9) | st.sampled_from([*EDGES, *(-edge for edge in EDGES if edge <= 1 << 63)])
"""Integers that MessagePack can write, mostly small, often at an edge."""

texts = st.text(max_size=12) | st.sampled_from(["", "a", "n1", "bank-a", "x" * 33, "x" * 600, "\x00\n", "é\U0001f4a5"])
leaves = st.none() | st.booleans() | ints | st.floats() | texts | st.binary(max_size=20)
values: SearchStrategy[Any] = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(texts, inner, max_size=4), max_leaves=12
)
"""Whatever a frame can carry."""

hashables = st.none() | ints | st.booleans() | texts | st.binary(max_size=20)
wild: SearchStrategy[Any] = st.recursive(
    leaves
    | st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=8))
    | st.builds(msgpack.Timestamp, st.just(0)),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(hashables, inner, max_size=4),
    max_leaves=12,
)
"""Whatever MessagePack can write."""

_SPLICES: Final = (
    *(b"\x00", b"\xff", b"\xc1", b"\xc0", b"\xa1\xff"),
    *(b"\x91" * 70, b"\x91" * 950, b"\x91" * 1100),  # nested
    *(b"\x80" * 3000, b"\xdc\xff\xff" * 70, b"\xdc\x0b\xb8" + b"\x80" * 3000),  # small, and much when unpacked
    *(b"\xdd\xff\xff\xff\xff", b"\xdb\x7f\xff\xff\xff", b"\xde\xff\xff"),  # headers that promise too much
)


@st.composite
def damaged(draw: DrawFn, source: SearchStrategy[bytes], edits_max: int = 4) -> bytes:
    """Bytes of ``source`` after 1 to ``edits_max`` edits: a flipped bit, something cut, put in, or repeated."""
    raw = bytearray(draw(source))
    for _ in range(draw(st.integers(1, edits_max))):
        at = draw(st.integers(0, len(raw)))
        match draw(st.sampled_from(("flip", "set", "cut", "end", "insert", "repeat"))):
            case "flip" if at < len(raw):
                raw[at] ^= 1 << draw(st.integers(0, 7))
            case "set" if at < len(raw):
                raw[at] = draw(st.integers(0, 255))
            case "cut":
                del raw[at : at + draw(st.integers(1, 8))]
            case "end":
                del raw[at:]
            case "insert":
                raw[at:at] = draw(st.binary(max_size=8) | st.sampled_from(_SPLICES))
            case "repeat":
                raw[at:at] = raw[at : at + draw(st.integers(1, 16))]
    return bytes(raw)


@st.composite
def altered(draw: DrawFn, source: SearchStrategy[Any], junk: SearchStrategy[Any] = values, edits_max: int = 2) -> Any:
    """A value of ``source`` of which 1 to ``edits_max`` parts, at any depth, were replaced, dropped or added."""
    value = draw(source)
    for _ in range(draw(st.integers(1, edits_max))):
        value = _altered_once(draw, value, junk)
    return value


def _altered_once(draw: DrawFn, value: Any, junk: SearchStrategy[Any]) -> Any:
    """One edit, at a place that is drawn evenly among all parts of ``value``."""
    place = draw(st.sampled_from(_places(value)))
    return _edited(draw, value, place, junk)


def _places(value: Any) -> list[tuple[Any, ...]]:
    """Where the parts of ``value`` are: indexes and keys from the top."""
    match value:
        case list() | tuple():
            inner: list[tuple[Any, Any]] = list(enumerate(value))
        case dict():
            inner = list(value.items())
        case _:
            inner = []
    return [(), *((step, *rest) for step, part in inner for rest in _places(part))]


def _edited(draw: DrawFn, value: Any, place: tuple[Any, ...], junk: SearchStrategy[Any]) -> Any:
    if not isinstance(value, (list, tuple, dict)):
        return draw(junk)
    copy = dict(value) if isinstance(value, dict) else list(value)
    if len(place) > 1 or (place and isinstance(copy[place[0]], (list, tuple, dict))):
        copy[place[0]] = _edited(draw, copy[place[0]], place[1:], junk)
    elif place and draw(st.sampled_from("rrrd")) == "r":
        copy[place[0]] = draw(junk)
    elif place:
        del copy[place[0]]
    elif isinstance(copy, list) and draw(st.booleans()):
        copy.append(draw(junk))
    elif isinstance(copy, dict) and draw(st.booleans()):
        copy[draw(texts)] = draw(junk)
    else:
        return draw(junk)
    return copy


@st.composite
def pieces(draw: DrawFn, data: bytes) -> list[bytes]:
    """``data`` cut at some places."""
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=6)))
    return [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]


def as_request(altered_one: Any) -> tuple[str, list[Any]]:
    """A method and its parameters, whatever was altered."""
    match altered_one:
        case [str(method), list(params)]:
            return method, params
        case [str(method), *params]:
            return method, params
    return "?", [altered_one]


def one_at_a_time(data: bytes) -> list[bytes]:
    """``data`` byte by byte."""
    return [data[at : at + 1] for at in range(len(data))]


# -- raftcoord's own words ------------------------------------------------------------------------------------------------

NOW_MS: Final = 1_750_000_000_000
_STEPS: Final = (-9_000_000, -2000, -1000, -999, -5, -4, 0, 1, 2)
TXIDS: Final = tuple(TxId.new(NOW_MS + step, bytes([number] * 10)) for number, step in enumerate(_STEPS))
"""Few, so that they meet again; some are older than horizons that ``times`` gives."""

txids = st.sampled_from(TXIDS)
times = st.sampled_from([0, 1, NOW_MS - 3000, NOW_MS - 1000, NOW_MS - 4, NOW_MS, NOW_MS + 1, (1 << 48) - 1])
_HEX: Final = ("0123456789abcdef", "fedcba9876543210", "0123456789abcdef" * 2, "f" * 32)
names = st.sampled_from(["a", "b", "bank-a", "n1", "", *_HEX]) | texts


def of_type(hint: Any) -> SearchStrategy[Any]:
    """Values of a field's type: whatever fields a command has or will have."""
    if get_origin(hint) is tuple:
        parts = get_args(hint)
        if parts[1:] == (...,):
            return st.lists(of_type(parts[0]), max_size=3).map(tuple)
        return st.tuples(*map(of_type, parts))
    return _OF_TYPE[hint]


_OF_TYPE: Final[dict[Any, SearchStrategy[Any]]] = {
    TxId: txids,
    Verdict: st.sampled_from(Verdict),
    str: names,
    int: times | ints,
    bytes: st.binary(max_size=40),
    bool: st.booleans(),
}


def _fields(kind: type[Any]) -> SearchStrategy[Any]:
    hints = get_type_hints(kind)
    return st.tuples(*(of_type(hints[field]) for field in kind._fields)).map(lambda fields: kind(*fields))


commands: SearchStrategy[Command] = st.one_of([_fields(kind) for kind in KINDS.values()])
"""Every kind of command, of any content that its types allow. Not every one of them is allowed by the codec."""

rows = commands.map(lambda command: msgpack.unpackb(encode_command(command), strict_map_key=False))
"""Commands as MessagePack values, to be altered."""

packed: Callable[[Any], bytes] = msgpack.packb
