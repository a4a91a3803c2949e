"""What was written is there, in one piece, whoever reads it."""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest

from raftcoord.core.machine import Ledger
from raftcoord.core.tables.damages import Acknowledge, Damage, Heuristic
from raftcoord.core.tables.decisions import Complete, Decide
from raftcoord.core.tables.founding import Found
from raftcoord.core.tables.horizon import Lower, Retire
from raftcoord.core.tables.table import NO_CHANGES, Command, TableChange
from raftcoord.errors import Halt, LocalProtocolError, StorageError
from raftcoord.limits import NodeBounds
from raftcoord.storage.node_db import LogRow, NodeDb, Write
from raftcoord.storage.records import INDEX_MAX
from raftcoord.storage.write import Extent, extent_after
from raftcoord.types import Verdict, first_txid_of

from .filling import (
    BINDINGS,
    START_MS,
    contents,
    damaged,
    decision,
    field,
    fill,
    items,
    moved,
    opened,
    puts,
    rows,
    txid,
    write,
)


def test_a_new_node_starts_from_the_anchor(tmp_path: Path) -> None:
    db = opened(tmp_path / "deep" / "n1")
    stored = db.load()
    assert stored.log == [LogRow(1, 0, b"\x01")]
    assert (stored.applied_index, stored.applied_term) == (1, 0)
    assert (stored.term, stored.vote, field(stored, "cluster"), field(stored, "horizon_ms")) == (0, None, "", 0)
    assert (
        items(stored),
        stored.tables["decisions"].floor,
        items(stored, "damages"),
        items(stored, "participants"),
    ) == ([], b"", [], [])
    assert len(stored.node_uuid) == 16
    assert (stored.peers, stored.enrolled) == ({}, {})
    db.close()


def test_everything_written_is_there_after_a_restart(tmp_path: Path) -> None:
    db = opened(tmp_path)
    fill(db)
    before = contents(db)
    stored = before[0]
    assert [row.index for row in stored.log] == list(range(4, 21))
    assert (stored.term, stored.vote, stored.applied_index, stored.applied_term) == (2, 3, 12, 1)
    assert (field(stored, "cluster"), field(stored, "horizon_ms")) == ("0123456789abcdef", START_MS - 5)
    assert (stored.peers, stored.enrolled) == ({"n2": "22" * 16, "n3": "33" * 16}, {"n3": "33" * 16})
    assert len(items(stored)) == 60
    assert len(items(stored, "damages")) == 1
    assert items(stored, "participants") == BINDINGS
    assert [closing.who for decision in items(stored) for closing in decision.closed] == ["ops"]
    db.close()
    again = opened(tmp_path)
    assert contents(again) == before
    again.close()


def test_a_node_keeps_its_uuid_and_no_two_have_the_same(tmp_path: Path) -> None:
    uuids = []
    for name in ("n1", "n1", "n2"):
        db = opened(tmp_path / name, node=name)
        uuids.append(db.load().node_uuid)
        db.close()
    assert uuids[0] == uuids[1] != uuids[2]


def test_the_uuid_is_made_of_the_bytes_that_the_caller_gives(tmp_path: Path) -> None:
    """A simulator's nodes are the same in each run of a seed."""
    asked: list[int] = []

    def entropy(count: int) -> bytes:
        asked.append(count)
        return b"\x07" * count

    for _ in range(2):
        with closing(NodeDb.open(tmp_path, cluster_name="demo", node="n1", entropy=entropy)) as db:
            assert db.identity.uuid == b"\x07" * 16
    assert asked == [16], "once in the life of a directory"


def test_identities_of_peers_are_added_and_replaced_by_name(tmp_path: Path) -> None:
    db = opened(tmp_path)
    db.write(write(peers={"n2": "01" * 16}))
    db.write(write(append=rows(2, 3)))
    db.write(write(peers={"n3": "02" * 16}))
    db.write(write(peers={"n2": "03" * 16}))
    db.close()
    with closing(opened(tmp_path)) as db:
        assert db.load().peers == {"n2": "03" * 16, "n3": "02" * 16}


@pytest.mark.parametrize("vote", [None, 0, 5])
def test_no_vote_is_not_a_vote_for_node_0(tmp_path: Path, vote: int | None) -> None:
    db = opened(tmp_path)
    db.write(write(hard_state=(1, vote)))
    db.close()
    db = opened(tmp_path)
    assert db.load().vote == vote
    assert type(db.load().vote) is type(vote)
    db.close()


def test_a_tail_is_replaced_in_one_commit(tmp_path: Path) -> None:
    db = opened(tmp_path)
    db.write(write(append=rows(2, 9)))
    db.write(write(truncate_from=5, append=rows(5, 6, term=2)))
    assert [(row.index, row.term) for row in db.load().log] == [(1, 0), (2, 1), (3, 1), (4, 1), (5, 2), (6, 2)]
    db.write(write(truncate_from=50))  # nothing is there to be truncated
    db.write(write(append=rows(7, 7, term=2)))
    assert db.load().log[-1].index == 7
    db.close()


def test_a_decision_is_put_first_and_forgotten_next(tmp_path: Path) -> None:
    """A late record below the horizon that is retirable must not survive the write that brings it."""
    db = opened(tmp_path)
    aborted, complete = decision(1, commit=False), decision(2, outstanding=())
    outstanding, newer = decision(3), decision(100)
    everything = moved(START_MS + 50, **puts(aborted, complete, outstanding, newer))
    db.write(write(changes=everything))
    assert sorted(items(db.load())) == [outstanding, newer]
    acknowledged = moved(START_MS + 50, **puts(outstanding._replace(outstanding=())))
    db.write(write(changes=acknowledged))
    assert items(db.load()) == [newer]
    db.close()


def test_retiring_stops_exactly_at_the_horizon(tmp_path: Path) -> None:
    db = opened(tmp_path)
    db.write(write(changes=puts(*(decision(n, outstanding=()) for n in (49, 50, 51)))))
    db.write(write(changes=moved(START_MS + 50)))
    assert [d.txid for d in db.decisions(None, 9, None)] == [txid(51), txid(50)]
    assert all(d.txid >= first_txid_of(START_MS + 50) for d in items(db.load()))
    db.close()


@pytest.mark.parametrize("horizon_ms", [(1 << 48) - 1, 1 << 48, (1 << 64) - 1])
def test_a_horizon_beyond_every_txid_is_kept_exactly(tmp_path: Path, horizon_ms: int) -> None:
    db = opened(tmp_path)
    db.write(write(changes=moved(horizon_ms, **puts(decision(1, commit=False)))))
    db.close()
    db = opened(tmp_path)
    assert (field(db.load(), "horizon_ms"), items(db.load())) == (horizon_ms, [])
    db.close()


def test_a_later_put_replaces_the_record(tmp_path: Path) -> None:
    db = opened(tmp_path)
    first = decision(1)
    db.write(write(changes=puts(first)))
    db.write(write(changes=puts(first._replace(outstanding=()))))
    assert db.decision(first.txid) == first._replace(outstanding=())
    assert db.decisions("open", 9, None) == []
    assert db.decision(txid(2)) is None
    db.close()


def test_a_participant_is_bound_replaced_and_forgotten(tmp_path: Path) -> None:
    first, second = BINDINGS
    for binding, left in (
        (first, [first]),
        (second, [first, second]),
        (first._replace(identity="ab" * 16), [first._replace(identity="ab" * 16), second]),
        (second._replace(identity=""), [first._replace(identity="ab" * 16)]),
    ):
        with closing(opened(tmp_path)) as db:
            gone = not binding.identity
            change = TableChange(deletes={binding.name: None}) if gone else TableChange(puts={binding.name: binding})
            db.write(write(changes={"participants": change}))
            assert items(db.load(), "participants") == left


def test_damage_is_kept_and_acknowledged(tmp_path: Path) -> None:
    db = opened(tmp_path)
    damage = Damage(txid(1), "bank-a", "committed by hand", START_MS, "")
    other = damage._replace(branch="bank-b")
    for one in (damage, other, damage._replace(acknowledged_by="ops")):
        db.write(write(changes={"damages": damaged(one)}))
    assert items(db.load(), "damages") == [damage._replace(acknowledged_by="ops"), other]
    db.close()


@pytest.mark.parametrize("count", [1, 2, 3, 2048, 2049])
def test_a_batch_of_any_size_is_one_write(tmp_path: Path, count: int) -> None:
    """2048 is the bound of one statement; smaller batches are filled up to a power of two with rows that must vanish."""
    db = opened(tmp_path)
    db.write(write(append=rows(2, count + 1), changes=puts(*(decision(n) for n in range(count)))))
    stored = db.load()
    assert sorted(items(stored)) == [decision(n) for n in range(count)]
    assert [row.index for row in stored.log] == list(range(1, count + 2))
    db.close()


def test_a_read_shows_every_write_that_has_returned(tmp_path: Path) -> None:
    db = opened(tmp_path)
    written, missed = [], []
    turn = threading.Condition()

    def read() -> None:
        for number in range(200):
            with turn:
                assert turn.wait_for(lambda number=number: len(written) > number, timeout=30)  # type: ignore[misc]
            if db.decision(txid(number)) is None:
                missed.append(number)

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(200):
        db.write(write(changes=puts(decision(number))))
        with turn:
            written.append(number)
            turn.notify()
    reader.join()
    assert missed == []
    db.close()


def test_decisions_are_listed_newest_first(tmp_path: Path) -> None:
    db = opened(tmp_path)
    fill(db)
    everything = sorted(items(db.load()), reverse=True)
    wanted = {
        None: everything,
        "committed": [d for d in everything if d.verdict],
        "aborted": [d for d in everything if not d.verdict],
        "open": [d for d in everything if d.outstanding],
    }
    for state, expected in wanted.items():
        assert db.decisions(state, 1000, None) == expected
        assert db.decisions(state, 1, None) == expected[:1]
        assert db.decisions(state, 7, expected[4].txid) == expected[5:12]
        assert db.decisions(state, 7, expected[-1].txid) == []
    db.close()


@pytest.mark.parametrize(("state", "limit"), [(None, 0), (None, -1), ("done", 5)])
def test_a_list_of_nonsense_is_refused(tmp_path: Path, state: str | None, limit: int) -> None:
    db = opened(tmp_path)
    with pytest.raises(LocalProtocolError, match="committed"):
        db.decisions(state, limit, None)
    db.close()


@pytest.mark.parametrize(("count", "floor"), [(4, None), (5, 0), (6, 1)])
def test_memory_gets_the_newest_decisions_and_every_open_one(tmp_path: Path, count: int, floor: int | None) -> None:
    db = opened(tmp_path, bounds=NodeBounds(memory_decisions_max=10))
    still_open = decision(1000 - 999, commit=True)
    complete = [decision(n + 2, outstanding=()) for n in range(count - 1)]
    db.write(write(changes=puts(still_open, *complete)))
    stored = db.load()
    assert stored.tables["decisions"].floor == (b"" if floor is None else sorted([still_open, *complete])[floor].txid)
    assert still_open in items(stored)
    assert len(items(stored)) == len(set(items(stored))) == count
    db.write(write(changes=puts(decision(0, outstanding=()))))
    assert decision(0, outstanding=()) not in items(db.load()) or count == 4
    db.close()


def _horizon_of(commands: list[Command]) -> int:
    ledger = Ledger()
    for index, command in enumerate(commands, 2):
        ledger.apply(command, 1, index)
    return ledger.horizon_ms


def random_commands(rng: random.Random, count: int) -> list[Command]:
    made: list[Command] = [Found("feedfacefeedface")]
    for number in range(count):
        some = txid(rng.randrange(number + 1))
        horizon_ms = _horizon_of(made)
        made.append(
            rng.choice(
                [
                    Decide(txid(number), Verdict(rng.randrange(2)), ("bank-a", "bank-b"), "because", "", number),
                    Decide(some, Verdict.ABORT, (), "resolved", "", number),
                    Complete(((some, ("bank-a",)), (txid(rng.randrange(number + 1)), ("bank-a", "bank-b")))),
                    Retire(START_MS + number - rng.randrange(20, 60)),
                    Lower(horizon_ms, max(0, horizon_ms - rng.randrange(1, 40)), "ops", number),
                    Heuristic(some, "bank-a", "by hand", number),
                    Acknowledge(some, "bank-a", "ops", number),
                ]
            )
        )
    return made


@pytest.mark.parametrize("seed", range(5))
def test_a_ledger_read_back_answers_as_the_one_that_was_written(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    ledger = Ledger()
    db = opened(tmp_path)
    for index, command in enumerate(random_commands(rng, 300), 2):
        ledger.apply(command, 1, index)
        if rng.random() < 0.3:
            last = db.load().log[-1].index
            db.write(write(append=rows(last + 1, index), changes=ledger.take_changes(), applied=(index, 1)))
    db.write(write(changes=ledger.take_changes()))
    db.close()
    db = opened(tmp_path)
    stored = db.load()
    again = Ledger(stored.tables)
    for number in range(300):
        assert again.decision(txid(number)) == ledger.decision(txid(number)) == db.decision(txid(number))
        assert again.state(txid(number)) == ledger.state(txid(number))
    assert sorted(again.open_decisions()) == sorted(ledger.open_decisions())
    assert sorted(again.damages()) == sorted(ledger.damages())
    assert again.cluster == ledger.cluster == "feedfacefeedface"
    db.close()


BROKEN_RULES = {
    "an applied entry is truncated": write(truncate_from=6),
    "the anchor is truncated": write(truncate_from=1),
    "a gap in the log": write(append=rows(22, 22)),
    "an entry is written twice": write(append=rows(20, 20)),
    "a gap after a truncation": write(truncate_from=15, append=rows(16, 16)),
    "a negative term": write(append=[LogRow(21, -1, b"")]),
    "a term that SQLite cannot hold": write(append=[LogRow(21, INDEX_MAX + 1, b"")]),
    "the term moves back": write(hard_state=(1, 3)),
    "a second vote": write(hard_state=(2, 1)),
    "a vote is taken back": write(hard_state=(2, None)),
    "a hard state beyond the bound": write(hard_state=(INDEX_MAX + 1, None)),
    "applied moves back": write(applied=(11, 1)),
    "applied beyond the log": write(applied=(21, 2)),
    "an entry that is not applied is dropped": write(drop_log_before=13),
    "the horizon moves back": write(changes=moved(START_MS - 6)),
    "an identity is not synced": write(peers={"n2": "44" * 16}, synced=False),
    "another cluster": write(changes={"founding": TableChange(fields={"cluster": "fedcba9876543210"})}),
}


@pytest.mark.parametrize("rule", BROKEN_RULES)
def test_a_write_that_breaks_a_rule_of_raft_changes_nothing(tmp_path: Path, rule: str) -> None:
    db = opened(tmp_path)
    fill(db)
    before = contents(db)
    with pytest.raises(Halt):
        db.write(BROKEN_RULES[rule])
    assert contents(db) == before
    db.close()


KEPT_RULES = {
    "above the applied entry": write(truncate_from=13),
    "the next entry": write(append=rows(21, 21)),
    "the largest term": write(append=[LogRow(21, INDEX_MAX, b"")]),
    "the same vote": write(hard_state=(2, 3)),
    "the largest hard state": write(hard_state=(INDEX_MAX, None)),
    "applied stands still": write(applied=(12, 1)),
    "applied to the end": write(applied=(20, 2)),
    "dropped up to the applied entry": write(drop_log_before=12),
    "the horizon stands still": write(changes=moved(START_MS - 5)),
    "the same cluster": write(changes={"founding": TableChange(fields={"cluster": "0123456789abcdef"})}),
}


@pytest.mark.parametrize("rule", KEPT_RULES)
def test_a_write_at_the_bound_of_a_rule_is_stored(tmp_path: Path, rule: str) -> None:
    db = opened(tmp_path)
    fill(db)
    db.write(KEPT_RULES[rule])
    stored = contents(db)
    db.close()
    db = opened(tmp_path)
    assert contents(db) == stored
    db.close()


def test_the_log_ends_at_the_largest_index() -> None:
    last = write(append=[LogRow(INDEX_MAX, 1, b"")])
    assert extent_after(last, Extent(1, INDEX_MAX - 1), 1) == Extent(1, INDEX_MAX)
    beyond = write(append=[LogRow(INDEX_MAX + 1, 1, b"")])
    with pytest.raises(Halt):
        extent_after(beyond, Extent(1, INDEX_MAX), 1)


def test_a_closed_node_db_refuses_to_write(tmp_path: Path) -> None:
    db = opened(tmp_path)
    db.close()
    db.close()
    with pytest.raises(StorageError, match="closed"):
        db.write(Write(None, [], None, NO_CHANGES, None, None))


def test_a_clean_close_leaves_one_whole_file(tmp_path: Path) -> None:
    db = opened(tmp_path)
    fill(db)
    db.close()
    assert {path.name for path in tmp_path.iterdir()} == {"node.db", "node.mark", "LOCK"}


def test_every_commit_is_synced(tmp_path: Path) -> None:
    db = opened(tmp_path)
    full = 2  # https://sqlite.org/pragma.html#pragma_synchronous
    assert db._writer.execute("PRAGMA synchronous").fetchall() == [(full,)]
    assert db._writer.execute("PRAGMA journal_mode").fetchall() == [(b"wal",)]
    db.close()


SYNCING = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from storage.filling import opened, rows, write
db = opened(Path(sys.argv[1]))
for index in range(2, 12):
    db.write(write(append=rows(index, index)))
    os.write(1, b"acknowledged\\n")
os._exit(0)
"""


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_a_sync_comes_before_each_acknowledgement(tmp_path: Path) -> None:
    """Seen from outside, as the operating system is asked for it."""
    trace = tmp_path / "trace"
    program = [sys.executable, "-c", SYNCING, str(tmp_path / "n1"), str(Path(__file__).parent.parent)]
    calls = "trace=fdatasync,fsync,write"
    done = subprocess.run(
        ["strace", "-f", "-y", "-o", str(trace), "-e", calls, *program], capture_output=True, check=False
    )
    if done.returncode != 0:
        pytest.skip("strace may not trace here")
    synced, acknowledged = False, 0
    for line in trace.read_text().splitlines():
        if "sync(" in line and "node.db-wal" in line:
            synced = True
        if "acknowledged" in line:
            assert synced, f"acknowledgement {acknowledged} came before its sync"
            synced, acknowledged = False, acknowledged + 1
    assert acknowledged == 10


def test_copies_that_a_dead_process_left_are_deleted_at_open(tmp_path: Path) -> None:
    opened(tmp_path).close()
    for name in ("copy-incoming.tmp", "copy-for-n2.tmp", "node.db.new", "node.db.new-wal"):
        (tmp_path / name).write_bytes(b"half")
    (tmp_path / "kept.txt").write_text("not ours")
    opened(tmp_path).close()
    assert {path.name for path in tmp_path.iterdir()} == {"node.db", "node.mark", "LOCK", "kept.txt"}
