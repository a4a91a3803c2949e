"""What a person gives to ``raftcoord submit`` and what reaches the accounts: read, or refused in words; never an exception."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import event, given
from hypothesis import strategies as st
from raftcoord_cli.submit import read_branches

from raftcoord.api.payloads import checked_payloads
from raftcoord.errors import ConfigError, LocalProtocolError
from raftcoord.participants import operations
from raftcoord.participants.operations import AMOUNT_MAX, AMOUNT_MIN, PayloadRefused
from raftcoord.participants.sqlite import SqliteParticipant
from raftcoord.rpc import frames
from raftcoord.types import TxId, Vote, VoteKind

from .effort import examples
from .shapes import NOW_MS, altered, damaged, ints, texts, values

keys = st.sampled_from(["alice", "bob", "new", "x" * 200])
amounts = st.integers(-150, 150) | st.sampled_from([AMOUNT_MIN, AMOUNT_MAX, AMOUNT_MAX + 1, 0])
operation = st.one_of(
    st.fixed_dictionaries({"op": st.just("add"), "key": keys, "amount": amounts}, optional={"min": amounts}),
    st.fixed_dictionaries({"op": st.just("set"), "key": keys, "amount": amounts}),
    st.fixed_dictionaries({"op": st.just("delete"), "key": keys}),
    st.fixed_dictionaries({"op": st.just("expect"), "key": keys, "amount": amounts | st.none()}),
)
good = st.lists(operation, min_size=1, max_size=3)
payloads = good | good | altered(good, ints | values) | values

branches = st.fixed_dictionaries({"branches": st.dictionaries(st.sampled_from(["bank-a", "bank-b"]), good, min_size=1)})
_JSON: Any = st.sampled_from(
    ['"a":1,"a":1', "NaN", "-Infinity", "1e999", "9" * 30, "9" * 5000, "\\ud800", '"\\ud800"', "[" * 5000, "\ufeff", "\x00", "//"]
)  # fmt: skip


@st.composite
def edited(draw: st.DrawFn) -> bytes:
    """A submit file into which something was put that JSON minds."""
    text = json.dumps(draw(branches))
    at = draw(st.integers(0, len(text)))
    return (text[:at] + draw(_JSON | texts) + text[at + draw(st.integers(0, 3)) :]).encode("utf-8", "surrogatepass")


written = branches.map(json.dumps) | altered(branches, ints | texts | st.floats()).map(json.dumps)
files = st.one_of(written.map(str.encode), edited(), damaged(written.map(str.encode)), st.binary(max_size=40))


@examples(300)
@given(files)
def test_any_file_is_branches_or_an_error_that_names_it(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "t.json"
        path.write_bytes(data)
        refusal = None
        with path.open(encoding="utf-8") as file:
            try:
                read = read_branches(file)
            except ConfigError as error:
                refusal = str(error)
    if refusal is not None:
        assert re.match(re.escape(str(path)) + r"(:\d+:\d+: | is empty|: )", refusal)
        refusal.encode()  # it can be printed
        return
    try:
        checked = checked_payloads(read)
    except LocalProtocolError as error:
        str(error).encode()
        return
    event("sent")
    frames.encode((0, 1, "submit", [b"", checked, 1, "decided"]), frames.packer(), 1 << 21)


@examples(300)
@given(payloads)
def test_any_payload_is_operations_or_refused_in_words(payload: Any) -> None:
    accounts = {"alice": 100, "bob": AMOUNT_MAX}
    try:
        parsed = operations.parse(payload)
        wanted = operations.evaluate(parsed, accounts.get)
    except PayloadRefused as refused:
        str(refused).encode()  # it can be sent as a reason
        return
    event("evaluated")
    assert [one._asdict().keys() & {"op", "key"} for one in parsed]
    assert all(amount is None or AMOUNT_MIN <= amount <= AMOUNT_MAX for amount in wanted.values())
    again = operations.parse(
        [{k: v for k, v in one._asdict().items() if k in item} for one, item in zip(parsed, payload, strict=True)]
    )
    assert again == parsed


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SqliteParticipant]:
    made = SqliteParticipant(tmp_path_factory.mktemp("bank") / "bank.db", wall_ms=lambda: NOW_MS)
    made.open_accounts({"alice": 100, "bob": AMOUNT_MAX})
    yield made
    made.close()


@examples(60)
@given(payloads, st.booleans())
def test_a_participant_votes_on_any_payload(bank: SqliteParticipant, payload: Any, commit: bool) -> None:
    txid = TxId.new(NOW_MS)
    vote = bank.prepare(txid, payload)
    assert isinstance(vote, Vote)
    event(vote.kind.name)
    if vote.kind is VoteKind.YES and commit:
        bank.commit(txid)
    else:
        bank.abort(txid)
    assert bank.prepared() == ()
    assert all(AMOUNT_MIN <= amount <= AMOUNT_MAX for amount in bank.balances().values())
