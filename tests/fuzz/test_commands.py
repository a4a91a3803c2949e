"""Replicated commands: an entry is read as it was written, or the node halts on it and a peer that sends it is refused."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftcoord import limits
from raftcoord.consensus.entries import acceptable
from raftcoord.core.commands import KINDS, Sealed, encode_command, encode_entry, open_entry
from raftcoord.errors import Halt, RemoteProtocolError

from .effort import examples
from .shapes import altered, commands, damaged, ints, packed, rows, wild

numbers = st.integers(0, 9) | st.sampled_from([1 << 31, (1 << 63) - 1])
written = st.builds(
    lambda origin, boot, seq, batch: encode_entry(origin, boot, seq, [encode_command(one) for one in batch]),
    numbers,
    numbers,
    numbers,
    st.lists(commands, max_size=3),
)
"""Entries as this version writes them, but for bounds that its codec has."""

loose = st.tuples(
    st.just(1), numbers, numbers, numbers, st.lists(rows | altered(rows, ints | wild, 1), min_size=1, max_size=3)
)
crooked = altered(rows, ints | wild, 1).map(lambda row: encode_entry(1, 1, 1, [packed(row)]))
deep = st.integers(1, 1100).map(lambda levels: encode_entry(1, 1, 1, [b"\x91" * levels + b"\xc0"]))
entries = (
    written
    | altered(loose, wild).map(packed)
    | damaged(written)
    | deep
    | crooked
    | wild.map(packed)
    | st.binary(max_size=60)
)


def written_again(entry: Sealed) -> bytes:
    return encode_entry(entry.origin, entry.boot, entry.seq, [encode_command(one) for one in entry.commands()])


def read(data: bytes) -> Sealed | None:
    """The entry, if all of it can be read."""
    try:
        entry = open_entry(data)
        entry.commands()
    except Halt:
        return None
    return entry


@examples(400)
@given(entries)
def test_an_entry_is_read_or_halts_the_node(data: bytes) -> None:
    entry = read(data)
    if entry is None:
        with pytest.raises(RemoteProtocolError):
            acceptable(data)
        return
    if any(command.excess(limits.TIME_MS_MAX) for command in entry.commands()):
        with pytest.raises(RemoteProtocolError, match="an entry with"):
            acceptable(data)
    else:
        assert acceptable(data) == entry.commands()
    # Not the same bytes: MessagePack writes one number in several ways, and nodes pass on what the proposer wrote.
    again = open_entry(written_again(entry))
    assert again[:3] == entry[:3]
    assert again.commands() == entry.commands()
    assert written_again(again) == written_again(entry)


@examples(200)
@given(written)
def test_an_entry_of_ours_is_written_again_byte_for_byte(data: bytes) -> None:
    entry = read(data)
    assert entry is None or written_again(entry) == data


@examples(100)
@given(commands)
def test_a_command_that_is_read_is_the_one_that_was_written(command: Any) -> None:
    entry = read(encode_entry(1, 2, 3, [encode_command(command)]))
    assert entry is None or entry.commands() == (command,)
    assert entry is None or type(entry.commands()[0]) is type(command)


def test_the_kinds_of_command_come_through() -> None:
    """The claims above are about something: every kind is drawn, and read, often."""
    seen: set[int] = set()

    @examples(1000)
    @given(written)
    def collect(data: bytes) -> None:
        if read(data) is not None:
            seen.update(row[0] for row in msgpack.unpackb(data, strict_map_key=False)[4])

    collect()
    assert seen == set(KINDS)
