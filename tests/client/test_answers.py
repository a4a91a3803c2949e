"""An answer of a node is well-formed, or it is no answer."""

from __future__ import annotations

from typing import Any

import pytest

from raftcoord.api import answers
from raftcoord.api.answers import UnreadableAnswer
from raftcoord.types import State, TxId

TXID = TxId.new()
ROW: dict[str, Any] = {
    "txid": bytes(TXID),
    "state": 1,
    "branches": ["a"],
    "outstanding": [],
    "reason": "",
    "branch": "",
    "at_ms": 5,
    "term": 1,
    "index": 2,
}


def test_a_row_as_a_node_shows_it_is_read() -> None:
    assert answers.ROW.read(ROW) == {**ROW, "txid": TXID, "state": State.COMMITTED}
    assert answers.ROW.read({**ROW, "running": {"phase": "voting"}})["running"] == {"phase": "voting"}


@pytest.mark.parametrize("field", ROW)
@pytest.mark.parametrize("junk", [None, True, [1], {"a": 1}, 2.0, b"x", "x"])
def test_a_row_with_a_field_of_another_kind_is_unreadable(field: str, junk: object) -> None:
    if type(junk) is not type(ROW[field]) or junk == b"x" or junk == [1]:
        with pytest.raises(UnreadableAnswer):
            answers.ROW.read({**ROW, field: junk})


@pytest.mark.parametrize("field", ROW)
def test_a_row_without_one_of_its_fields_is_unreadable(field: str) -> None:
    with pytest.raises(UnreadableAnswer):
        answers.ROW.read({key: value for key, value in ROW.items() if key != field})


@pytest.mark.parametrize("state", [True, 1.0, 4, None, [1]])
def test_only_a_number_is_a_state(state: object) -> None:
    with pytest.raises(UnreadableAnswer):
        answers.KNOWN.read([state, "", "", 1, 1])
    with pytest.raises(UnreadableAnswer):
        answers.SETTLED.read([state, "", "", 1, 1])
