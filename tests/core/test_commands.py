"""The codec of what is replicated: every command comes back as it was, and nothing unreadable is guessed at."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftcoord import limits
from raftcoord.core.commands import FORMAT, KINDS, encode_command, encode_entry, open_entry
from raftcoord.core.tables.damages import Acknowledge, Heuristic, Settle
from raftcoord.core.tables.decisions import Close, Complete, Decide
from raftcoord.core.tables.founding import Enroll, Found
from raftcoord.core.tables.horizon import Lower, Retire
from raftcoord.core.tables.participants import Bind
from raftcoord.core.tables.table import Command
from raftcoord.errors import Halt, LocalProtocolError
from raftcoord.types import TxId, Verdict

txids = st.builds(TxId.new, st.integers(0, (1 << 48) - 1), st.binary(min_size=10, max_size=10))
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
branches = st.lists(texts, max_size=4).map(tuple)
times = st.integers(0, (1 << 63) - 1)
moments = st.integers(0, limits.TIME_MS_MAX)
pairs = st.lists(st.tuples(txids, branches), max_size=4).map(tuple)
identities = st.binary(min_size=16, max_size=16).map(bytes.hex)
commands: st.SearchStrategy[Command] = st.one_of(
    st.builds(Decide, txids, st.sampled_from(Verdict), branches, texts, texts, times),
    st.builds(Complete, st.lists(st.tuples(txids, branches), max_size=4).map(tuple)),
    st.builds(Retire, st.integers(0, (1 << 48) - 1)),
    st.builds(Found, texts),
    st.builds(Heuristic, txids, texts, texts, times),
    st.builds(Acknowledge, txids, texts, texts, times),
    st.builds(Enroll, texts, identities),
    st.builds(Bind, texts, identities, identities | st.just(""), texts, times),
    st.builds(Close, pairs, texts, texts, times),
    st.builds(Lower, moments, moments, texts, moments),
    st.builds(Settle, pairs, texts, times),
)
names = st.integers(0, (1 << 64) - 1)
T = TxId.new(1, bytes(10))


@given(st.lists(commands, max_size=20), names, names, names)
def test_an_entry_comes_back_as_it_was(batch: list[Command], origin: int, boot: int, seq: int) -> None:
    entry = open_entry(encode_entry(origin, boot, seq, [encode_command(command) for command in batch]))
    assert (entry.origin, entry.boot, entry.seq) == (origin, boot, seq)
    assert list(entry.commands()) == batch
    assert [type(command) for command in entry.commands()] == [type(command) for command in batch]


def test_every_kind_of_command_has_a_number_that_never_changes() -> None:
    assert list(KINDS.items()) == [
        (1, Decide),
        (2, Complete),
        (3, Retire),
        (4, Found),
        (5, Heuristic),
        (6, Acknowledge),
        (7, Enroll),
        (9, Bind),
        (10, Close),
        (11, Lower),
        (12, Settle),
    ]
    assert msgpack.packb(FORMAT) == b"\x01"


def test_the_bytes_of_a_decision_are_those_in_every_log_so_far() -> None:
    command = Decide(T, Verdict.COMMIT, ("a",), "why", "b", 7)
    expected = (
        "95" + "01" + "010203" + "91" + "97" + "01" + "c410" + T.hex() + "01" + "91a161" + "a3776879" + "a162" + "07"
    )
    assert encode_entry(1, 2, 3, [encode_command(command)]).hex() == expected


@given(st.binary(max_size=200))
def test_any_bytes_are_an_entry_or_halt(data: bytes) -> None:
    readable_or_halt(data)


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats()
    | st.text(max_size=5)
    | st.binary(),
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=20,
)
rows = st.builds(lambda kind, fields: [kind, *fields], st.integers(0, 12), st.lists(anything, max_size=7))


@given(
    anything | st.builds(lambda rest, found: [FORMAT, 1, 1, *rest, found], st.lists(names, max_size=2), st.lists(rows))
)
def test_any_messagepack_is_an_entry_or_halts(value: Any) -> None:
    readable_or_halt(msgpack.packb(value))


def readable_or_halt(data: bytes) -> None:
    try:
        found = open_entry(data).commands()
    except Halt:
        return
    assert all(type(command) in KINDS.values() for command in found)


@given(st.lists(commands, min_size=1, max_size=3), st.data())
def test_an_entry_that_is_cut_or_longer_halts(batch: list[Command], data: st.DataObject) -> None:
    whole = encode_entry(1, 2, 3, [encode_command(command) for command in batch])
    cut = data.draw(st.integers(0, len(whole) - 1))
    for wrong in (whole[:cut], whole + b"\x00"):
        with pytest.raises(Halt, match="newer version"):
            open_entry(wrong).commands()


def one(*row: Any) -> bytes:
    return msgpack.packb([FORMAT, 1, 1, 1, [row]])


@pytest.mark.parametrize(
    "entry",
    [
        msgpack.packb([FORMAT + 1, 1, 1, 1, []]),
        msgpack.packb([0, 1, 1, 1, []]),
        msgpack.packb([FORMAT, 1, 1, []]),
        msgpack.packb([FORMAT, "n1", 1, 1, []]),
        msgpack.packb([]),
        one(),
        one(0),
        one(8, 1),
        one("decide"),
        one(True, T, 1, [], "", "", 0),
        one(1, T, 2, [], "", "", 0),
        one(1, T, True, [], "", "", 0),
        one(1, T, 1, "ab", "", "", 0),
        one(1, T, 1, [b"a"], "", "", 0),
        one(1, T, 1, [], None, "", 0),
        one(1, T, 1, [], "", "", 0.5),
        one(1, T, 1, [], "", "", True),
        one(1, T, 1, [], "", ""),
        one(1, T[:15], 1, [], "", "", 0),
        one(1, bytes(16), 1, [], "", "", 0),
        one(2, [[T]]),
        one(2, [[T, "a"]]),
        one(2, [[T.hex(), []]]),
        one(2, []) + b"\x00",
        one(3, -1),
        one(3, 1 << 48),
        one(3, True),
        one(4, 5),
        one(5, T, "a", "what", "when"),
        one(6, T, "a", None, 1),
        one(7, "n3", bytes(16)),
        one(7, "n3", "0" * 31),
        one(7, "n3", "0" * 33),
        one(7, "n3", "F" * 32),
        one(7, b"n3", "0" * 32),
        one(7, "n" * 33, "0" * 32),
        one(7, "n3"),
    ],
)
def test_what_this_version_would_not_have_written_halts(entry: bytes) -> None:
    with pytest.raises(Halt, match="what this version cannot read"):
        open_entry(entry).commands()


@pytest.mark.parametrize("before_ms", [0, (1 << 48) - 1])
def test_a_horizon_at_its_bounds(before_ms: int) -> None:
    assert open_entry(one(3, before_ms)).commands() == (Retire(before_ms),)


@pytest.mark.parametrize("name", ["n", "n" * 32])
def test_the_name_of_who_is_enrolled_at_its_bounds(name: str) -> None:
    assert open_entry(one(7, name, "0f" * 16)).commands() == (Enroll(name, "0f" * 16),)


@pytest.mark.parametrize("count", [0, 1, 15, 16, (1 << 16) - 1])
def test_an_entry_of_so_many_commands(count: int) -> None:
    entry = open_entry(encode_entry(1, 2, 3, [encode_command(Retire(5))] * count))
    assert entry.commands() == (Retire(5),) * count


def test_an_entry_of_one_command_more_is_refused() -> None:
    with pytest.raises(LocalProtocolError, match="65536 commands"):
        encode_entry(1, 2, 3, [encode_command(Retire(5))] * (1 << 16))


@pytest.mark.parametrize("levels", [64, 900, 1000, 1019])
def test_a_command_nested_to_the_parser_s_end_halts_like_any_other(levels: int) -> None:
    entry = encode_entry(1, 1, 1, [b"\x91" * levels + b"\xc0", b"\x92\x01" + b"\x91" * levels + b"\xc0"])
    for row in open_entry(entry).rows:
        with pytest.raises(Halt, match="cannot read"):
            open_entry(entry)._replace(rows=(row,)).commands()
