"""Whatever bytes arrive, the reader gives well-formed messages or raises RemoteProtocolError."""

import contextlib
import math
import tracemalloc
from typing import Any

import msgpack
import pytest
from hypothesis import given as under
from hypothesis import settings
from hypothesis import strategies as st

from raftcoord import limits
from raftcoord.errors import LocalProtocolError, RemoteProtocolError
from raftcoord.rpc import frames

from .ends import body, framed

values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
ids = st.integers(0, frames.ID_MAX)
errors = st.none() | st.tuples(st.text(), st.text(), st.dictionaries(st.text(), values, max_size=2)).map(list)
messages = (
    st.tuples(st.just(0), ids, st.text(), st.lists(values, max_size=4))
    | st.tuples(st.just(1), ids, errors, values)
    | st.tuples(st.just(2), st.text(), st.lists(values, max_size=4))
).map(list)


def given(reader: frames.FrameReader, data: bytes) -> list[Any]:
    """The messages that ``data`` completes."""
    reader.feed(data)
    messages = []
    while (message := reader.next()) is not None:
        messages.append(message)
    return messages


def read(data: bytes, max_bytes: int = 1 << 20) -> list[Any]:
    reader = frames.FrameReader(max_bytes)
    messages = given(reader, data)
    if reader.fault:
        raise RemoteProtocolError(reader.fault)
    return messages


def packed(value: Any) -> bytes:
    return msgpack.packb(value, use_bin_type=True)


@settings(deadline=None, max_examples=60)
@under(st.lists(messages, max_size=5), st.data())
def test_any_split_of_valid_frames_gives_the_same_messages(sent: list[Any], data: st.DataObject) -> None:
    stream = b"".join(framed(message) for message in sent)
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=12).map(sorted))
    reader = frames.FrameReader(1 << 20)
    got: list[Any] = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        got += given(reader, stream[start:end])
    assert got == sent
    assert reader.held_bytes == 0


def test_a_stream_byte_by_byte() -> None:
    sent = [[0, 7, "m", [1, "x" * 300]], [2, "n", []]]
    reader = frames.FrameReader(1 << 20)
    got = [message for byte in b"".join(map(framed, sent)) for message in given(reader, bytes((byte,)))]
    assert got == sent


@settings(deadline=None, max_examples=60)
@under(st.binary(max_size=200))
def test_any_bytes_give_messages_or_a_remote_protocol_error(data: bytes) -> None:
    for stream in (data, body(data), body(data[:1]) + data):
        try:
            got = read(stream, 150)
        except RemoteProtocolError:
            continue
        assert all(isinstance(message, list) and message[0] in (0, 1, 2) for message in got)


@settings(deadline=None, max_examples=60)
@under(messages, st.data())
def test_a_flipped_byte_gives_a_message_or_a_remote_protocol_error(sent: Any, data: st.DataObject) -> None:
    stream = bytearray(framed(sent))
    stream[data.draw(st.integers(4, len(stream) - 1))] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(RemoteProtocolError):
        read(bytes(stream))


BAD_BODIES = {
    "empty": b"",
    "unused byte": b"\xc1",
    "half an array": b"\x94\x00",
    "two values": packed([2, "m", []]) + b"\xc0",
    "not an array": packed({"m": 1}),
    "unknown kind": packed([3, 1, "m", []]),
    "kind is true": packed([True, 1, None, None]),
    "too few fields": packed([0, 1, "m"]),
    "too many fields": packed([2, "m", [], 1]),
    "id too large": packed([0, 1 << 32, "m", []]),
    "id negative": packed([0, -1, "m", []]),
    "id is text": packed([0, "1", "m", []]),
    "method is bytes": packed([0, 1, b"m", []]),
    "params is a map": packed([0, 1, "m", {}]),
    "error is text": packed([1, 1, "broken", None]),
    "error is short": packed([1, 1, ["code", "message"], None]),
    "invalid UTF-8": b"\x93\x02\xa1\xff\x90",
    "integer map key": packed([2, "m", [{1: 2}]]),
    "bytes map key": packed([2, "m", [{b"k": 2}]]),
    "array as map key": b"\x93\x02\xa1m\x91\x81\x90\x01",
    "timestamp": packed([2, "m", [msgpack.Timestamp(1)]]),
    "extension": packed([2, "m", [msgpack.ExtType(5, b"x")]]),
    "empty extension": packed([2, "m", [msgpack.ExtType(5, b"")]]),
    "array header that lies": b"\x93\x02\xa1m\xdd\xff\xff\xff\xff",
    "string header that lies": b"\x93\x02\xdb\xff\xff\xff\xff",
    "nesting without end": b"\x91" * 100_000,
    "nesting at the parser's end": b"\x91" * 1023 + b"\x90",
}


@pytest.mark.parametrize("bad", BAD_BODIES.values(), ids=BAD_BODIES.keys())
def test_a_malformed_body_is_a_remote_protocol_error(bad: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        read(body(bad))


def test_what_precedes_a_malformed_frame_is_read_although_it_came_in_the_same_piece() -> None:
    reader = frames.FrameReader(100)
    good = framed([2, "m", []])
    assert given(reader, good + body(b"\xc1") + good) == [[2, "m", []]]
    for _ in range(2):
        assert given(reader, good) == []
        assert "not MessagePack" in reader.fault
        assert reader.held_bytes == 0


def test_not_a_number_passes() -> None:
    (message,) = read(framed([2, "m", [math.nan, math.inf]]))
    assert math.isnan(message[2][0])
    assert message[2][1] == math.inf


def test_a_frame_may_have_max_bytes_and_not_one_more() -> None:
    frame = framed([2, "m", ["x" * 100]])
    length = len(frame) - 4
    assert len(read(frame, length)) == 1
    with pytest.raises(RemoteProtocolError, match=f"a frame of {length} bytes"):
        read(frame, length - 1)


def test_a_frame_that_is_too_long_is_refused_at_its_header() -> None:
    with pytest.raises(RemoteProtocolError, match="at most 99"):
        read((100).to_bytes(4, "big"), 99)


def nested(levels: int) -> Any:
    """A notification whose arrays are nested ``levels`` deep, itself and its params counted."""
    inner: Any = "x" * 80
    for _ in range(levels - 2):
        inner = [inner]
    return [2, "m", [inner]]


def test_nesting_at_the_bound_and_one_past_it() -> None:
    assert read(framed(nested(limits.FRAME_NESTING_MAX))) == [nested(limits.FRAME_NESTING_MAX)]
    with pytest.raises(RemoteProtocolError, match="nested deeper"):
        read(framed(nested(limits.FRAME_NESTING_MAX + 1)))


def test_many_shallow_containers_are_not_deep() -> None:
    wide = [2, "m", [[{"k": []}] for _ in range(500)]]
    assert read(framed(wide)) == [wide]


@pytest.mark.parametrize(
    ("make", "each"),
    [(lambda n: [None] * n, 1), (lambda n: dict.fromkeys(map(str, range(n))), 2)],
    ids=["list", "dict"],
)
def test_items_at_the_bound_and_one_past_it(make: Any, each: int) -> None:
    most = (limits.FRAME_ITEMS_MAX - 5) // each  # the message, its three fields, and the container count as well
    assert read(framed([2, "m", [make(most)]]))
    with pytest.raises(RemoteProtocolError, match="more than 65536 items"):
        read(framed([2, "m", [make(most + 1)]]))


HUNGRY = {
    "two million empty maps": b"\xdd\x00\x1f\xff\xf0" + b"\x80" * 0x1FFFF0,
    "many lists of many empty maps": (b"\xdc\xff\xff" + b"\x80" * 0xFFFF) * 31,
    "headers in headers that promise much": b"\xdc\xff\xff" * 600_000,
    "headers in headers, and then what they promise": b"\xdc\xff\xff" * 60 + b"\xc0" * 2_000_000,
    "two million lists of one": b"\x91" * 2_000_000 + b"\xc0",
}


@pytest.mark.parametrize("hungry", HUNGRY.values(), ids=HUNGRY.keys())
def test_a_frame_is_refused_before_it_takes_memory_and_nothing_of_it_is_kept(hungry: bytes) -> None:
    stream = body(b"\x93\x02\xa1m\x91" + hungry)
    reader = frames.FrameReader(8 << 20)
    tracemalloc.start()
    reader.feed(stream)
    assert reader.next() is None
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "items" in reader.fault or "nested" in reader.fault
    assert held < 100_000
    assert peak < 4 * len(stream)  # the stream, the frame, and one copy without what may open a container


@pytest.mark.parametrize("count", [0, 15, 16, 300, 65_000])
@pytest.mark.parametrize("make", [lambda n: "x" * n, lambda n: b"\x80" * n, lambda n: [1] * n, lambda n: [{}] * n])
def test_what_is_counted_is_what_is_unpacked(make: Any, count: int) -> None:
    sent = [2, "m", [make(count), 1.5, -1, 1 << 40, None]]
    assert read(framed(sent)) == [sent]


@pytest.mark.parametrize("value", [object(), 1 << 64, "\ud800", {1, 2}])
def test_what_cannot_be_sent_is_a_local_protocol_error_and_leaves_the_packer_clean(value: object) -> None:
    with pytest.raises(LocalProtocolError, match="cannot be sent"):
        frames.encode((2, "m", [1, 2, value]), frames.packer(), 100)
    assert read(framed([2, "m", []])) == [[2, "m", []]]


def test_a_message_to_send_may_have_max_bytes_and_not_one_more() -> None:
    message = (2, "m", ["x" * 50])
    length = len(packed(message))
    assert len(frames.encode(message, frames.packer(), length)) == length + 4
    with pytest.raises(LocalProtocolError, match="at most"):
        frames.encode(message, frames.packer(), length - 1)
