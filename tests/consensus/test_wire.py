"""Messages between nodes: what is well-formed comes through unchanged, and nothing else comes through."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftcoord.consensus.engine import NUMBER_MAX, Message
from raftcoord.consensus.messages import decode, encode
from raftcoord.errors import RemoteProtocolError

numbers = st.integers(0, NUMBER_MAX)
small = st.integers(0, 50)


@st.composite
def appends(draw: st.DrawFn) -> Message:
    index, term = draw(small), draw(small)
    message = {"type": "append_entries", "prevLogIdx": index, "prevLogTerm": term, "commit_index": draw(numbers)}
    entries = []
    for data in draw(st.lists(st.binary(max_size=9), max_size=5)):
        index, term = index + 1, term + draw(st.integers(0, 3))
        entries.append((data, index, term))
    return {**message, "entries": entries, "term": term + draw(small)}


def built(kind: str, **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Message]:
    return st.fixed_dictionaries({"type": st.just(kind), **fields})


asking = {"term": numbers, "last_log_index": numbers, "last_log_term": numbers}
messages = st.one_of(
    appends(),
    built("next_node_idx", term=numbers, next_node_idx=numbers, reset=st.booleans(), success=st.booleans()),
    built("request_vote", **asking),
    built("response_vote", term=numbers),
    built("pre_vote", **asking),
    built("pre_vote_reply", term=numbers, asked=numbers, granted=st.booleans()),
    built("propose", entries=st.lists(st.binary(max_size=9), max_size=4)),
)
anything = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=20,
)
nearly = st.builds(lambda kind, rest: [kind, *rest], st.integers(0, 8) | st.booleans(), st.lists(anything, max_size=6))


@given(messages)
def test_a_message_comes_through_unchanged(message: Message) -> None:
    assert decode(msgpack.unpackb(msgpack.packb(encode(message)))) == message


@given(anything | nearly)
def test_whatever_comes_is_a_message_or_refused(row: Any) -> None:
    try:
        message = decode(row)
    except RemoteProtocolError:
        return
    assert decode(msgpack.unpackb(msgpack.packb(encode(message)))) == message


@given(messages, st.data())
def test_a_field_of_another_type_is_refused(message: Message, data: st.DataObject) -> None:
    row = encode(message)
    at = data.draw(st.integers(1, len(row) - 1))
    stranger = data.draw(anything.filter(lambda value: type(value) is not type(row[at])))
    row[at] = stranger
    with pytest.raises(RemoteProtocolError, match="a peer sent"):
        decode(row)


@pytest.mark.parametrize("field", [0, NUMBER_MAX])
def test_a_number_at_its_bound(field: int) -> None:
    assert decode([4, field])["term"] == field


@pytest.mark.parametrize("field", [-1, NUMBER_MAX + 1, True, 1.0, "1", None])
def test_a_number_past_its_bound_or_of_another_type(field: Any) -> None:
    with pytest.raises(RemoteProtocolError, match="response_vote whose term"):
        decode([4, field])


@pytest.mark.parametrize("row", [[], [4], [4, 1, 1], [0, 1], [8, 1], [True, 1], [[4], 1], {}, b"", None, (4, 1)])
def test_another_shape(row: Any) -> None:
    with pytest.raises(RemoteProtocolError, match="run the same raftcoord release"):
        decode(row)


@pytest.mark.parametrize(
    "entry",
    [
        [b"", True, 1],
        [b"", 1, True],
        [b"", 1, False],
        [b"", 0, 0],
        [b"", 1, -1],
        [b"", NUMBER_MAX + 1, 1],
        [b"", 1, NUMBER_MAX + 1],
        ["", 1, 1],
        [b"", 1],
        [b"", 1, 1, 1],
        b"",
    ],
)
def test_a_malformed_entry(entry: Any) -> None:
    with pytest.raises(RemoteProtocolError, match="append_entries"):
        decode([1, 9, 1, 0, 0, [entry]])


@pytest.mark.parametrize(
    ("previous", "previous_term", "term", "entries"),
    [
        (1, 1, 9, [[b"", 3, 1]]),
        (1, 1, 9, [[b"", 2, 1], [b"", 2, 1]]),
        (1, 1, 9, [[b"", 2, 1], [b"", 4, 1]]),
        (1, 2, 9, [[b"", 2, 1]]),
        (1, 1, 9, [[b"", 2, 3], [b"", 3, 2]]),
        (1, 1, 2, [[b"", 2, 3]]),
    ],
    ids=["gap", "twice", "gap later", "older than the previous", "terms fall", "newer than the leader"],
)
def test_entries_that_no_leader_would_send(previous: int, previous_term: int, term: int, entries: list[Any]) -> None:
    with pytest.raises(RemoteProtocolError, match="do not follow each other"):
        decode([1, term, 1, previous, previous_term, entries])
