"""The banks' books are read as they were committed."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from raftcoord.drills.audit import Books
from raftcoord.drills.books import open_banks, prepared_count, read_books
from raftcoord.errors import CorruptionError
from raftcoord.participants.sqlite import SqliteParticipant
from raftcoord.types import Branch, State, TxId

BANK = Branch("bank-aa")


def test_a_new_bank_holds_its_opening(tmp_path: Path) -> None:
    paths = open_banks(tmp_path, {BANK: {"1": 100, "2": 0}})
    assert read_books(paths[BANK]) == Books({"1": 100, "2": 0}, {}, ())


def test_books_show_what_is_committed_aborted_and_prepared_while_the_participant_runs(tmp_path: Path) -> None:
    paths = open_banks(tmp_path, {BANK: {"1": 100, "2": 0, "3": 0}})
    done, undone, open_ = (TxId.new() for _ in range(3))
    with closing(SqliteParticipant(paths[BANK])) as participant:
        for txid, key in ((done, "1"), (undone, "2"), (open_, "3")):
            assert participant.prepare(txid, [{"op": "add", "key": key, "amount": 5}]).kind
        participant.commit(done)
        participant.abort(undone)
        books = read_books(paths[BANK])
        assert books == Books({"1": 105, "2": 0, "3": 0}, {done: State.COMMITTED, undone: State.ABORTED}, (open_,))
        assert prepared_count(paths) == 1


def test_a_database_that_is_none_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "bank.db"
    path.write_bytes(b"x" * 5000)
    with pytest.raises(CorruptionError, match=r"bank\.db"):
        read_books(path)
