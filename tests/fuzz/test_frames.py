"""Frames: the same bytes are the same messages and the same error, in whatever pieces they arrive."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from raftcoord.errors import RemoteProtocolError
from raftcoord.rpc import frames

from .effort import examples
from .shapes import altered, damaged, ints, one_at_a_time, packed, pieces, texts, values

MAX_BYTES = 4096

errors = st.none() | st.tuples(texts, texts, st.dictionaries(texts, values, max_size=2)).map(list)
messages = (
    st.tuples(st.just(0), st.integers(0, frames.ID_MAX), texts, st.lists(values, max_size=3))
    | st.tuples(st.just(1), st.integers(0, frames.ID_MAX), errors, values)
    | st.tuples(st.just(2), texts, st.lists(values, max_size=3))
).map(list)
bodies = (
    messages.map(packed)
    | altered(messages, ints | values).map(packed)
    | damaged(messages.map(packed))
    | st.binary(max_size=40)
)


def framed(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + body


whole = st.lists(bodies.map(framed), max_size=5).map(b"".join)
streams = whole | damaged(whole, edits_max=2)


def read(parts: list[bytes]) -> tuple[list[Any], str]:
    """All messages, and the error that ended the stream, or ""."""
    reader = frames.FrameReader(MAX_BYTES)
    got: list[Any] = []
    for part in parts:
        reader.feed(part)
        while (message := reader.next()) is not None:
            got.append(message)
        assert reader.held_bytes < MAX_BYTES + 4
        if reader.fault:
            assert reader.held_bytes == 0
            return got, reader.fault
    return got, ""


@examples(200)
@given(streams, st.data())
def test_a_stream_means_the_same_in_any_pieces(stream: bytes, data: st.DataObject) -> None:
    whole = read([stream])
    assert repr(read(one_at_a_time(stream))) == repr(whole)  # as text, because nan is not equal to itself
    assert repr(read(data.draw(pieces(stream)))) == repr(whole)


@examples(200)
@given(bodies)
def test_what_is_read_can_be_written_and_is_read_the_same(body: bytes) -> None:
    try:
        message = frames.decode(body)
    except RemoteProtocolError:
        return
    written = frames.encode(message, frames.packer(), 1 << 20)
    assert repr(frames.decode(written[4:])) == repr(message)
