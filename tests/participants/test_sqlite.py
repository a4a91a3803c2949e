"""The SQLite participant: votes, locks, what it remembers, and what it refuses."""

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from raftcoord import limits
from raftcoord.errors import ConfigError, CorruptionError, LocalProtocolError, StorageError
from raftcoord.participants.interface import (
    Abort,
    AlreadyCommitted,
    Commit,
    NotPrepared,
    Prepare,
    Reply,
    Request,
    WrongCluster,
)
from raftcoord.participants.sqlite import SqliteParticipant
from raftcoord.types import TxId, Verdict, Vote, VoteKind

START_MS = 1_700_000_000_000
DAY_MS = 24 * 3600 * 1000


class Clock:
    def __init__(self) -> None:
        self.ms = START_MS

    def __call__(self) -> int:
        return self.ms


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "bank.db"


Reopen = Callable[[], SqliteParticipant]


@pytest.fixture
def reopen(path: Path, clock: Clock) -> Iterator[Reopen]:
    opened: list[SqliteParticipant] = []

    def again() -> SqliteParticipant:
        for old in opened:
            old.close()
        opened.append(SqliteParticipant(path, wall_ms=clock))
        return opened[-1]

    yield again
    for old in opened:
        old.close()


@pytest.fixture
def bank(reopen: Reopen) -> SqliteParticipant:
    bank = reopen()
    bank.open_accounts({"alice": 100, "bob": 100})
    return bank


def txid(offset_ms: int = 0) -> TxId:
    return TxId.new(START_MS + offset_ms)


def add(key: str, amount: int) -> list[dict[str, Any]]:
    return [{"op": "add", "key": key, "amount": amount, "min": 0}]


def prepare(of: TxId, payload: object, within_ms: int = 60_000) -> Prepare:
    return Prepare(of, payload, START_MS + within_ms)


def answers(participant: SqliteParticipant, *batch: Request) -> list[tuple[Request, Reply]]:
    return list(participant.run(batch))


def reason(reply: Reply) -> str:
    assert isinstance(reply, Vote)
    assert reply.kind is VoteKind.NO
    return reply.reason


# -- votes and their effects


def test_money_moves_at_commit_and_not_at_the_vote(bank: SqliteParticipant) -> None:
    t = txid()
    assert bank.prepare(t, add("alice", -10)) == Vote.yes()
    assert bank.balance("alice") == 100
    bank.commit(t)
    assert bank.balances() == {"alice": 90, "bob": 100}
    assert bank.total() == 190
    assert bank.finished(t) is Verdict.COMMIT


def test_an_abort_leaves_the_amounts_and_frees_the_locks(bank: SqliteParticipant) -> None:
    t = txid()
    bank.prepare(t, add("alice", -10))
    bank.abort(t)
    assert bank.balance("alice") == 100
    assert bank.finished(t) is Verdict.ABORT
    assert bank.prepare(txid(), add("alice", -10)) == Vote.yes()


def test_a_no_vote_keeps_nothing_so_the_same_txid_may_try_again(bank: SqliteParticipant) -> None:
    t = txid()
    assert "would leave -1" in reason(bank.prepare(t, add("alice", -101)))
    assert not bank.prepared()
    assert bank.prepare(t, add("alice", -100)) == Vote.yes()


def test_only_expectations_are_read_only_and_hold_no_lock(bank: SqliteParticipant) -> None:
    t = txid()
    assert bank.prepare(t, [{"op": "expect", "key": "alice", "amount": 100}]) == Vote.read_only()
    assert not bank.prepared()
    assert bank.prepare(txid(), add("alice", -10)) == Vote.yes()


def test_the_same_payload_with_its_keys_in_another_order_is_the_same_payload(bank: SqliteParticipant) -> None:
    t = txid()
    assert bank.prepare(t, [{"op": "add", "key": "alice", "amount": 1}]) == Vote.yes()
    assert bank.prepare(t, [{"amount": 1, "key": "alice", "op": "add"}]) == Vote.yes()
    assert "with another payload" in reason(bank.prepare(t, [{"op": "add", "key": "alice", "amount": 2}]))
    bank.commit(t)
    assert bank.balance("alice") == 101


def test_an_account_can_be_created_and_deleted_by_transactions(bank: SqliteParticipant, reopen: Reopen) -> None:
    first, second = txid(), txid()
    assert (
        bank.prepare(first, [{"op": "set", "key": "carol", "amount": 5}, {"op": "delete", "key": "bob"}]) == Vote.yes()
    )
    bank = reopen()
    bank.commit(first)
    assert bank.balances() == {"alice": 100, "carol": 5}
    assert bank.prepare(second, [{"op": "delete", "key": "carol"}]) == Vote.yes()
    bank.commit(second)
    assert bank.balances() == {"alice": 100}


def test_a_prepare_past_its_deadline_is_refused(bank: SqliteParticipant, clock: Clock) -> None:
    on_time, late = txid(), txid()
    clock.ms += 1
    replies = answers(bank, prepare(on_time, add("alice", 1), 2), prepare(late, add("bob", 1), 1))
    assert replies[0][1] == Vote.yes()
    assert "came after its deadline" in reason(replies[1][1])


# -- one batch


def test_a_batch_is_answered_in_order_with_the_very_requests(bank: SqliteParticipant) -> None:
    t = txid()
    batch = [
        prepare(t, add("alice", -10)),
        Commit(t),
        Commit(t),
        prepare(t, add("alice", -10)),
        Commit(txid()),
        Abort(txid()),
    ]
    replies = answers(bank, *batch)
    assert [request for request, _ in replies] == batch
    assert all(request is mine for (request, _), mine in zip(replies, batch, strict=True))
    assert [reply for _, reply in replies[:3]] == [Vote.yes(), None, None]
    assert "already committed" in reason(replies[3][1])
    assert isinstance(replies[4][1], NotPrepared)
    assert replies[5][1] is None
    assert bank.balance("alice") == 90


def test_a_branch_that_begins_and_ends_in_one_batch_leaves_nothing_prepared(
    bank: SqliteParticipant, reopen: Reopen
) -> None:
    first, second = txid(), txid()
    answers(bank, prepare(first, add("alice", -10)), Commit(first), prepare(second, add("alice", -10)), Abort(second))
    bank = reopen()
    assert not bank.prepared()
    assert bank.balance("alice") == 90


def test_a_later_request_of_a_batch_sees_the_amounts_of_an_earlier_commit(bank: SqliteParticipant) -> None:
    first, second = txid(), txid()
    replies = answers(bank, prepare(first, add("alice", -60)), Commit(first), prepare(second, add("alice", -60)))
    assert "account 'alice' has 40" in reason(replies[2][1])


# -- locks


def test_a_prepare_that_meets_a_lock_waits_and_votes_when_it_is_free(bank: SqliteParticipant) -> None:
    first, second = txid(), txid(1)
    answers(bank, prepare(first, add("alice", -60)))
    waiting = prepare(second, add("alice", -60))
    assert answers(bank, waiting) == []
    assert bank.due_ms() == START_MS + limits.LOCK_WAIT_MS
    commit = Commit(first)
    replies = {id(request): reply for request, reply in answers(bank, commit)}
    assert replies[id(commit)] is None
    assert "account 'alice' has 40" in reason(replies[id(waiting)])
    assert bank.due_ms() is None


def test_a_prepare_gives_up_its_wait_at_the_bound_and_not_before(bank: SqliteParticipant, clock: Clock) -> None:
    first, second = txid(), txid(1)
    answers(bank, prepare(first, add("alice", -60)))
    assert answers(bank, prepare(second, add("alice", -60))) == []
    clock.ms += limits.LOCK_WAIT_MS - 1
    assert answers(bank) == []
    clock.ms += 1
    ((_, reply),) = answers(bank)
    assert reason(reply) == f"account 'alice' is locked by transaction {first}: try again later"
    bank.commit(first)
    assert bank.balance("alice") == 40


def test_a_wait_ends_at_the_deadline_if_that_is_sooner(bank: SqliteParticipant, clock: Clock) -> None:
    answers(bank, prepare(txid(), add("alice", -60)))
    assert answers(bank, prepare(txid(1), add("alice", -60), within_ms=100)) == []
    assert bank.due_ms() == START_MS + 100


def test_one_that_waits_for_a_younger_gives_up_first(bank: SqliteParticipant) -> None:
    answers(bank, prepare(txid(1), add("alice", -60)))
    assert answers(bank, prepare(txid(0), add("alice", -60))) == []
    assert bank.due_ms() == START_MS + limits.LOCK_WAIT_OLDER_MS


def test_of_two_that_wait_for_each_other_at_two_banks_one_gets_through(tmp_path: Path, clock: Clock) -> None:
    older, younger = txid(0), txid(1)
    banks = [SqliteParticipant(tmp_path / f"{i}.db", wall_ms=clock) for i in range(2)]
    for each in banks:
        each.open_account("alice", 100)
    answers(banks[0], prepare(older, add("alice", 1)))
    answers(banks[1], prepare(younger, add("alice", 1)))
    assert answers(banks[0], prepare(younger, add("alice", 1))) == []
    assert answers(banks[1], prepare(older, add("alice", 1))) == []
    clock.ms += limits.LOCK_WAIT_OLDER_MS
    assert answers(banks[0]) == []
    ((_, reply),) = answers(banks[1])
    assert str(younger) in reason(reply)
    replies = answers(banks[0], Abort(older))
    assert Vote.yes() in [reply for _, reply in replies]
    for each in banks:
        each.close()


def test_an_abort_reaches_a_prepare_that_waits(bank: SqliteParticipant) -> None:
    first, second = txid(), txid(1)
    answers(bank, prepare(first, add("alice", 1)))
    waiting = prepare(second, add("alice", 1))
    answers(bank, waiting)
    replies = answers(bank, Abort(second))
    assert "already aborted" in reason(next(reply for request, reply in replies if request is waiting))
    assert bank.finished(second) is Verdict.ABORT
    assert [reply for _, reply in answers(bank, Abort(first))] == [None]


def test_a_prepare_that_is_repeated_while_it_waits_gets_the_same_answer(bank: SqliteParticipant) -> None:
    first, second = txid(), txid(1)
    answers(bank, prepare(first, add("alice", 1)))
    once, again = prepare(second, add("alice", 1)), prepare(second, add("alice", 1))
    assert answers(bank, once, again) == []
    ((_, other),) = answers(bank, prepare(second, add("alice", 2)))
    assert "another payload" in reason(other)
    replies = answers(bank, Abort(first))
    assert [(r is once or r is again, v) for r, v in replies if isinstance(r, Prepare)] == [(True, Vote.yes())] * 2


def test_many_that_wait_for_one_account_and_are_all_refused_are_all_answered(bank: SqliteParticipant) -> None:
    first = txid()
    answers(bank, prepare(first, add("alice", -100)))
    waiting = [prepare(txid(i), add("alice", -1)) for i in range(1, 1500)]
    assert answers(bank, *waiting) == []
    assert len(answers(bank, Commit(first))) == 1500


def test_as_many_wait_as_may_and_not_one_more(path: Path, clock: Clock, bank: SqliteParticipant) -> None:
    bank.close()
    bank = SqliteParticipant(path, wall_ms=clock, lock_waiters_max=2)
    answers(bank, prepare(txid(), add("alice", 1)))
    assert answers(bank, prepare(txid(1), add("alice", 1)), prepare(txid(2), add("alice", 1))) == []
    ((_, reply),) = answers(bank, prepare(txid(3), add("alice", 1)))
    assert "2 others wait already" in reason(reply)


def test_the_plain_call_does_not_wait_for_a_lock(bank: SqliteParticipant) -> None:
    first = txid()
    bank.prepare(first, add("alice", 1))
    assert "is locked by transaction" in reason(bank.prepare(txid(1), add("alice", 1)))
    assert bank.due_ms() is None
    bank.commit(first)
    assert bank.prepare(txid(2), add("alice", 1)) == Vote.yes()


def test_locks_are_there_again_after_a_restart(bank: SqliteParticipant, reopen: Reopen) -> None:
    first = txid()
    bank.prepare(first, [*add("alice", 1), {"op": "expect", "key": "bob", "amount": 100}])
    bank = reopen()
    assert list(bank.prepared()) == [first]
    for key in ("alice", "bob"):
        assert f"locked by transaction {first}" in reason(bank.prepare(txid(1), add(key, 1)))
    bank.abort(first)
    assert bank.prepare(txid(2), add("bob", 1)) == Vote.yes()


# -- what is remembered, and for how long


def test_commit_of_an_aborted_txid_and_abort_of_a_committed_one_are_errors(bank: SqliteParticipant) -> None:
    done, undone = txid(), txid()
    bank.prepare(done, add("alice", 1))
    bank.commit(done)
    bank.abort(undone)
    with pytest.raises(AlreadyCommitted, match="it is committed here"):
        bank.abort(done)
    with pytest.raises(NotPrepared, match="it was aborted here"):
        bank.commit(undone)
    assert bank.balance("alice") == 101


def test_a_txid_older_than_the_retention_is_refused(bank: SqliteParticipant, clock: Clock) -> None:
    t = txid()
    clock.ms += limits.PARTICIPANT_RETENTION_MS
    assert bank.run([Prepare(t, add("alice", 1), clock.ms + 9)])[0][1] == Vote.yes()
    clock.ms += 1
    assert bank.prepare(t, add("alice", 1)) == Vote.yes()  # prepared branches do not expire
    assert "older than what this participant remembers" in reason(bank.prepare(txid(), add("bob", 1)))


def test_finished_txids_are_forgotten_after_the_retention_and_stay_refused(
    bank: SqliteParticipant, clock: Clock
) -> None:
    t = txid()
    bank.prepare(t, add("alice", 1))
    bank.commit(t)
    clock.ms += limits.PARTICIPANT_RETENTION_MS + 1
    bank.run([])
    assert bank.finished(t) is None
    with pytest.raises(NotPrepared, match="too old for a record"):
        bank.commit(t)
    assert "older than" in reason(bank.prepare(t, add("alice", 1)))
    assert bank.balance("alice") == 101


def test_a_forgotten_txid_stays_refused_when_the_clock_is_set_back(
    bank: SqliteParticipant, clock: Clock, reopen: Reopen
) -> None:
    t = txid()
    bank.prepare(t, add("alice", 1))
    bank.commit(t)
    clock.ms += 30 * DAY_MS
    bank.run([])
    clock.ms = START_MS
    bank = reopen()
    assert "older than" in reason(bank.prepare(t, add("alice", 1)))
    assert bank.prepare(txid(1), add("alice", 1)) == Vote.yes()


def test_an_old_txid_that_ended_lately_is_still_remembered(bank: SqliteParticipant, clock: Clock) -> None:
    t = txid()
    bank.prepare(t, add("alice", 1))
    clock.ms += limits.PARTICIPANT_RETENTION_MS + 1
    bank.commit(t)
    bank.run([])
    bank.commit(t)
    assert bank.balance("alice") == 101


def test_forgetting_is_bounded_work(bank: SqliteParticipant, clock: Clock) -> None:
    bank.run([Abort(txid(i)) for i in range(limits.FORGET_MIN + 2)])
    clock.ms += limits.PARTICIPANT_RETENTION_MS + limits.FORGET_MIN + 2

    def remembered() -> int:
        return sum(bank.finished(TxId(row[0])) is not None for row in rows(bank, "SELECT txid FROM finished"))

    bank.run([])
    assert remembered() == 2
    bank.run([])
    assert remembered() == 0


def rows(bank: SqliteParticipant, sql: str) -> list[tuple[Any, ...]]:
    return bank._file.look(sql)


# -- the cluster, the file


def test_the_first_cluster_is_kept_and_another_is_refused(bank: SqliteParticipant, reopen: Reopen) -> None:
    bank.join("00000000000000aa")
    bank.join("00000000000000aa")
    with pytest.raises(WrongCluster, match="belongs to cluster 00000000000000aa"):
        bank.join("00000000000000bb")
    bank = reopen()
    with pytest.raises(WrongCluster, match="give this one a new file"):
        bank.join("00000000000000bb")


def test_a_file_is_used_by_one_participant_at_a_time(bank: SqliteParticipant, path: Path) -> None:
    with pytest.raises(ConfigError, match=r"is in use by another participant \(process \d+\)"):
        SqliteParticipant(path)
    bank.close()
    SqliteParticipant(path).close()


def test_accounts_are_opened_once_however_often_the_command_is_repeated(
    bank: SqliteParticipant, tmp_path: Path
) -> None:
    with pytest.raises(LocalProtocolError, match="account 'bob' exists already"):
        bank.open_accounts({"carol": 1, "bob": 1})
    assert bank.balance("carol") is None
    assert not bank.open_accounts_once({"carol": 1})
    fresh = SqliteParticipant(tmp_path / "fresh.db")
    assert fresh.open_accounts_once({"carol": 1})
    assert not fresh.open_accounts_once({"carol": 1})
    assert fresh.total() == 1
    fresh.close()


@pytest.mark.parametrize(("key", "amount"), [("", 1), ("x", 1.5), ("x", True), ("x", 1 << 63)])
def test_an_account_that_cannot_be_is_not_opened(bank: SqliteParticipant, key: str, amount: int) -> None:
    with pytest.raises(LocalProtocolError, match="cannot be opened"):
        bank.open_account(key, amount)


def test_an_account_that_a_transaction_is_creating_cannot_be_opened(bank: SqliteParticipant) -> None:
    bank.prepare(txid(), [{"op": "set", "key": "carol", "amount": 1}])
    with pytest.raises(LocalProtocolError, match="or a transaction holds it"):
        bank.open_account("carol", 1)


def test_a_commit_is_synced_before_it_is_answered(bank: SqliteParticipant) -> None:
    # What a kill -9 cannot show: SQLite syncs the write-ahead log in each commit when synchronous is FULL (2).
    assert bank._file._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert bank._file._db.execute("PRAGMA synchronous").fetchone() == (2,)


def test_another_program_reads_while_the_participant_writes(bank: SqliteParticipant, path: Path) -> None:
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    assert reader.execute("SELECT sum(amount) FROM accounts").fetchone() == (200,)
    t = txid()
    bank.prepare(t, add("alice", 1))
    bank.commit(t)
    assert reader.execute("SELECT sum(amount) FROM accounts").fetchone() == (200,)
    reader.execute("COMMIT")
    assert reader.execute("SELECT sum(amount) FROM accounts").fetchone() == (201,)
    reader.close()


def test_a_prepared_branch_with_a_flipped_byte_is_refused_with_the_way_out(
    bank: SqliteParticipant, path: Path, reopen: Reopen
) -> None:
    t = txid()
    bank.prepare(t, add("alice", -10))
    bank.close()
    db = sqlite3.connect(path)
    record = bytearray(db.execute("SELECT record FROM prepared").fetchone()[0])
    record[-1] ^= 1
    db.execute("UPDATE prepared SET record = ?", (bytes(record),))
    db.commit()
    db.close()
    with pytest.raises(CorruptionError, match=f"raftcoord txn resolve {t}"):
        reopen()
    with pytest.raises(CorruptionError, match="DELETE FROM prepared"):  # and not: in use by another
        reopen()


def test_a_file_that_is_not_a_database_is_refused(path: Path, reopen: Reopen) -> None:
    path.write_bytes(before := b"these are not the bytes of a database" * 100)
    with pytest.raises(ConfigError, match="is not a SQLite database, and was left as it is"):
        reopen()
    assert path.read_bytes() == before


def test_a_file_that_is_cut_short_is_refused(bank: SqliteParticipant, path: Path, reopen: Reopen) -> None:
    bank.close()
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(CorruptionError, match="is damaged"):
        reopen()


def test_a_file_of_another_program_or_of_a_newer_version_is_refused(path: Path, reopen: Reopen, tmp_path: Path) -> None:
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE songs(title)")
    db.close()
    with pytest.raises(ConfigError, match="another program"):
        reopen()
    newer = tmp_path / "newer.db"
    SqliteParticipant(newer).close()
    db = sqlite3.connect(newer)
    db.execute("PRAGMA user_version = 2")
    db.close()
    with pytest.raises(ConfigError, match="newer version"):
        SqliteParticipant(newer)


def test_a_directory_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="create the directory"):
        SqliteParticipant(tmp_path / "nowhere" / "bank.db")


# -- a disk that refuses


def fill_the_disk(bank: SqliteParticipant) -> None:
    """From now on the file cannot grow: SQLite says SQLITE_FULL, as it does for ENOSPC."""
    pages = bank._file._db.execute("PRAGMA page_count").fetchone()[0]
    bank._file._db.execute(f"PRAGMA max_page_count = {pages}")


def make_room(bank: SqliteParticipant) -> None:
    bank._file._db.execute("PRAGMA max_page_count = 1000000")


def test_a_full_disk_fails_the_batch_as_a_whole_and_nothing_is_half_done(
    bank: SqliteParticipant, reopen: Reopen
) -> None:
    held, waiting = txid(), prepare(txid(1), add("alice", -1))
    bank.prepare(held, add("alice", -10))
    assert answers(bank, waiting) == []
    fill_the_disk(bank)
    large = [{"op": "set", "key": f"{i:0200}", "amount": i} for i in range(500)]
    batch = [Commit(held), prepare(txid(2), add("bob", 1)), prepare(txid(3), large)]
    replies = answers(bank, *batch)
    assert {id(request) for request, _ in replies} == {id(request) for request in (*batch, waiting)}
    assert all(isinstance(reply, StorageError) and "is full" in str(reply) for _, reply in replies)
    assert list(bank.prepared()) == [held]
    assert bank.balances() == {"alice": 100, "bob": 100}
    make_room(bank)
    assert [reply for _, reply in answers(bank, *batch)] == [None, Vote.yes(), Vote.yes()]
    assert reopen().balance("alice") == 90


def test_another_program_that_writes_fails_the_batch_and_not_the_participant(
    bank: SqliteParticipant, path: Path
) -> None:
    bank._file._db.execute("PRAGMA busy_timeout = 0")
    intruder = sqlite3.connect(path, isolation_level=None)
    intruder.execute("BEGIN IMMEDIATE")
    ((_, reply),) = answers(bank, prepare(txid(), add("alice", 1)))
    assert isinstance(reply, StorageError)
    assert "another program is writing" in str(reply)
    intruder.execute("ROLLBACK")
    intruder.close()
    assert bank.prepare(txid(), add("alice", 1)) == Vote.yes()


def test_after_any_other_failed_write_nothing_is_answered_until_it_is_opened_again(
    bank: SqliteParticipant, reopen: Reopen
) -> None:
    bank._file._db.execute("PRAGMA query_only = ON")
    for _ in range(2):
        with pytest.raises(StorageError, match="start the participant again"):
            bank.run([Abort(txid())])
    assert reopen().balances() == {"alice": 100, "bob": 100}
