"""The words as values: valid or not made, and every bound at the bound and one past it."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftcoord import limits, types
from raftcoord.errors import Aborted, LocalProtocolError
from raftcoord.types import (
    Answer,
    Outcome,
    State,
    TxId,
    Verdict,
    Vote,
    VoteKind,
    checked_branch,
    checked_cluster_id,
    checked_name,
    first_txid_of,
)

times = st.integers(0, (1 << 48) - 1)
tails = st.binary(min_size=10, max_size=10)
T = TxId.new(1_700_000_000_000, bytes(10))


@given(times, tails)
def test_a_txid_is_a_uuid_of_version_7_that_bears_its_time(ms: int, tail: bytes) -> None:
    txid = TxId.new(ms, tail)
    assert len(txid) == 16
    assert (txid[6] >> 4, txid[8] >> 6) == (7, 2)
    assert txid.ms == ms


@given(times, tails)
def test_a_txid_is_read_back_from_what_it_is_written_as(ms: int, tail: bytes) -> None:
    txid = TxId.new(ms, tail)
    text = str(txid)
    assert len(text) == 32
    hyphenated = f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
    assert TxId.parse(text) == TxId.parse(text.upper()) == TxId.parse(hyphenated) == TxId.parse(txid) == txid
    assert repr(txid) == f"TxId({text})"


@given(times, times, tails, tails)
def test_txids_sort_by_time(one_ms: int, other_ms: int, one: bytes, other: bytes) -> None:
    if one_ms < other_ms:
        assert TxId.new(one_ms, one) < TxId.new(other_ms, other)


@given(times, tails)
def test_the_first_txid_of_a_millisecond_stands_before_all_of_it(ms: int, tail: bytes) -> None:
    assert first_txid_of(ms) <= TxId.new(ms, tail)
    assert ms == 0 or TxId.new(ms - 1, b"\xff" * 10) < first_txid_of(ms)


@pytest.mark.parametrize(
    "raw", [b"", T[:15], T + b"\x00", bytes(16), T[:6] + b"\x40" + T[7:], T[:8] + b"\x00" + T[9:], str(T), None, 5]
)
def test_what_is_no_txid(raw: Any) -> None:
    with pytest.raises(LocalProtocolError, match="is not a txid"):
        TxId(raw)


@pytest.mark.parametrize(
    "text", ["", "0" * 32, str(T)[:31], str(T) + "0", f" {T}", f"{T}\n", "x" * 32, "٣" * 32, None, 7]
)
def test_what_writes_no_txid(text: Any) -> None:
    with pytest.raises(LocalProtocolError, match="is not a txid"):
        TxId.parse(text)


def test_new_txids_of_one_process_strictly_increase_whichever_thread_asks() -> None:
    made: list[list[TxId]] = [[] for _ in range(4)]
    threads = [threading.Thread(target=lambda mine=mine: mine.extend(TxId.new() for _ in range(2000))) for mine in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(mine == sorted(mine) for mine in made)
    assert len({txid for mine in made for txid in mine}) == 8000


def txids_of_a_clock(monkeypatch: pytest.MonkeyPatch, *ms: int) -> list[TxId]:
    """What a process with this clock would make."""
    monkeypatch.setattr("raftcoord.types._generator", types._Generator())
    clock = iter(time * 1_000_000 for time in ms)
    monkeypatch.setattr("raftcoord.types.time.time_ns", lambda: next(clock))
    return [TxId.new() for _ in ms]


def test_a_clock_that_goes_back_a_little_does_not_make_txids_go_back(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, third = txids_of_a_clock(monkeypatch, 5_000_000, 4_999_000, 5_000_001)
    assert first < second < third
    assert first.ms == second.ms == third.ms - 1


def test_a_clock_that_was_far_ahead_does_not_make_txids_of_the_future_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    _, second, third = txids_of_a_clock(monkeypatch, 5_000_000, 4_998_999, 4_999_000)
    assert (second.ms, third.ms) == (4_998_999, 4_999_000)


@pytest.mark.parametrize("name", ["a", "9", "n1", "bank-a", "a" * limits.NAME_LENGTH_MAX])
def test_names(name: str) -> None:
    assert checked_name(name, "node") == checked_branch(name) == name


@pytest.mark.parametrize(
    "name", ["", "-a", "a-", "A", "a_b", "a.b", "a b", "ä", "a\n", "a" * (limits.NAME_LENGTH_MAX + 1), None, 1, b"a"]
)
def test_what_is_no_name(name: Any) -> None:
    with pytest.raises(LocalProtocolError, match=r"branch .* is not a name"):
        checked_branch(name)


def test_a_cluster_id_is_16_hex_digits() -> None:
    assert checked_cluster_id("0123456789abcdef") == "0123456789abcdef"
    for wrong in ("0123456789abcde", "0123456789abcdef0", "0123456789ABCDEF", "", None, b"0123456789abcdef"):
        with pytest.raises(LocalProtocolError, match="is not a cluster id"):
            checked_cluster_id(wrong)


def test_a_long_value_is_shortened_in_the_error() -> None:
    with pytest.raises(LocalProtocolError) as error:
        checked_name("x" * 10_000, "node")
    assert len(str(error.value)) < 250


def test_the_numbers_that_go_over_the_wire() -> None:
    assert [(v.name, v.value) for v in Verdict] == [("ABORT", 0), ("COMMIT", 1)]
    assert [(s.name, s.value) for s in State] == [("ABORTED", 0), ("COMMITTED", 1), ("UNDECIDED", 2), ("FORGOTTEN", 3)]
    assert [(k.name, k.value) for k in VoteKind] == [("NO", 0), ("YES", 1), ("READ_ONLY", 2)]
    assert f"{State.ABORTED}" == "ABORTED"


def test_only_an_outcome_is_final() -> None:
    assert [Answer(T, state, "", 1, 2).final for state in State] == [True, True, False, False]


def test_an_outcome_raises_only_if_it_is_an_abort() -> None:
    Outcome(T, True, "", 1, 2).raise_if_aborted()
    aborted = Outcome(T, False, "too little money", 1, 2, "bank-a")
    assert (aborted.state, Outcome(T, True, "", 1, 2).state) == (State.ABORTED, State.COMMITTED)
    with pytest.raises(Aborted, match="by branch 'bank-a': too little money") as error:
        aborted.raise_if_aborted()
    assert (error.value.txid, error.value.reason, error.value.branch) == (T, "too little money", "bank-a")


def test_votes() -> None:
    assert Vote.yes() == Vote(VoteKind.YES, "")
    assert Vote.read_only() == Vote(VoteKind.READ_ONLY, "")
    assert Vote.no("why") == Vote(VoteKind.NO, "why")
    at_the_bound = "x" * limits.REASON_LENGTH_MAX
    assert Vote.no(at_the_bound).reason == Vote.no(at_the_bound + "y").reason == at_the_bound
