"""SQLite as a branch: frozen from the prepare to the end, repeated alike, and clear about what it cannot hold."""

from __future__ import annotations

import datetime
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raftcoord import Client, LocalProtocolError, TxId, Unavailable
from raftcoord.databases import drivers, gid
from raftcoord.databases.gid import Gid
from raftcoord.databases.registry import named
from raftcoord.databases.session import DriverSession
from raftcoord.databases.sqlite.rows import REPLAY_FAILED
from raftcoord.databases.steps import Effect, SqlError

from .banks import SqliteBank

LITE = named("sqlite").dialect
CLUSTER = "00000000000000aa"


@pytest.fixture
def bank(tmp_path: Path) -> Iterator[SqliteBank]:
    made = SqliteBank(tmp_path / "bank.db")
    yield made
    made.close()


def begin(bank: SqliteBank) -> tuple[Gid, DriverSession]:
    made = gid.make(CLUSTER, TxId.new(), "bank")
    session = drivers.session(bank.connect(), made.branch)
    session.enter()
    session.run(LITE.begin(made, checked=False))
    return made, session


def prepare(bank: SqliteBank, *statements: str) -> Gid:
    """A branch prepared by a program that has gone."""
    made, session = begin(bank)
    for sql in statements or ("UPDATE accounts SET amount = amount + 1 WHERE name = 'alice'",):
        session.given.execute(sql)
    session.run(LITE.prepare(made, marks=True))
    session.close()
    return made


WRITES = [
    "INSERT INTO accounts VALUES ('bob', 1)",
    "INSERT OR REPLACE INTO accounts VALUES ('alice', 1)",
    "INSERT OR IGNORE INTO accounts VALUES ('bob', 1)",
    "REPLACE INTO accounts VALUES ('alice', 1)",
    "INSERT INTO accounts VALUES ('alice', 1) ON CONFLICT DO UPDATE SET amount = 7",
    "UPDATE accounts SET amount = 0",
    "UPDATE OR IGNORE accounts SET amount = 0",
    "DELETE FROM accounts",
]


@pytest.mark.parametrize("sql", WRITES)
def test_while_it_is_prepared_every_other_writer_is_refused_and_readers_go_on(bank: SqliteBank, sql: str) -> None:
    made = prepare(bank)
    writer = bank.connect()
    with pytest.raises(sqlite3.IntegrityError, match="frozen: a transaction of raftcoord is prepared"):
        writer.execute(sql)
    writer.close()
    assert bank.balance() == 100
    assert bank.other.run(LITE.commit_prepared(made)) is Effect.COMMITTED
    assert bank.balance() == 101
    bank.sql("UPDATE accounts SET amount = 5")
    assert bank.balance() == 5


def test_without_the_freeze_another_writer_would_break_a_yes_vote(bank: SqliteBank) -> None:
    """The fact: what was prepared no longer applies. And we do not commit what we did not vote for."""
    made = prepare(bank, "UPDATE accounts SET amount = amount - 100 WHERE name = 'alice' AND amount >= 100")
    bank.sql("DROP TRIGGER raftcoord_freeze_update_accounts")
    bank.sql("UPDATE accounts SET amount = 50")
    with pytest.raises(SqlError, match="are not as they were when the branch was prepared") as raised:
        bank.other.run(LITE.commit_prepared(made))
    assert raised.value.code == REPLAY_FAILED
    assert bank.balance() == 50
    assert bank.other.run(LITE.proof(made)) is Effect.PREPARED


def test_whoever_comes_later_commits_it_once(bank: SqliteBank) -> None:
    made = prepare(bank)
    assert [each.gid for each in bank.other.run(LITE.list_prepared(CLUSTER))] == [made]
    assert bank.other.run(LITE.list_prepared("00000000000000bb")) == []
    assert bank.other.run(LITE.commit_prepared(made)) is Effect.COMMITTED
    assert bank.other.run(LITE.commit_prepared(made)) is Effect.COMMITTED
    assert bank.other.run(LITE.rollback_prepared(made)) is Effect.COMMITTED
    assert bank.balance() == 101


def test_whoever_comes_later_rolls_it_back(bank: SqliteBank) -> None:
    made = prepare(bank)
    assert bank.other.run(LITE.rollback_prepared(made)) is Effect.ABSENT
    assert bank.other.run(LITE.commit_prepared(made)) is Effect.ABSENT
    assert bank.balance() == 100


def test_a_program_that_ends_before_the_prepare_leaves_nothing(bank: SqliteBank) -> None:
    made, session = begin(bank)
    session.given.execute("UPDATE accounts SET amount = 0")
    session.close()
    assert bank.balance() == 100
    assert bank.other.run(LITE.proof(made)) in (Effect.ABSENT, Effect.UNKNOWN)


def test_what_was_done_is_what_is_committed(client: Client, bank: SqliteBank, other: SqliteBank) -> None:
    bank.sql("CREATE TABLE log (id INTEGER PRIMARY KEY AUTOINCREMENT, at TEXT, who TEXT, amount REAL, raw BLOB)")
    bank.sql("CREATE TRIGGER t AFTER UPDATE ON accounts BEGIN INSERT INTO log (who) VALUES ('trigger'); END")
    connection = bank.connect()
    day = datetime.date(2025, 1, 2)
    with client.transaction() as tx:
        lite: Any = tx.enlist(connection, "bank")
        other.add(tx.enlist(other.connect(), "other"), -1)
        row = lite.execute(
            "INSERT INTO log (at, raw) VALUES (?, ?) RETURNING id", (str(day), bytearray(b"\0x"))
        ).fetchone()
        lite.executemany("INSERT INTO log (who, amount) VALUES (:who, :amount)", [{"who": "ü", "amount": 1.5}] * 3)
        lite.execute("SAVEPOINT s")
        lite.execute("DELETE FROM accounts")
        lite.execute("ROLLBACK TO s")
        lite.execute("UPDATE accounts SET amount = amount + 1")
        inside = lite.execute("SELECT id, at, who, amount, raw FROM log ORDER BY id").fetchall()
    assert row == (1,)
    assert bank.sql("SELECT id, at, who, amount, raw FROM log ORDER BY id") == inside
    assert (len(inside), bank.balance()) == (5, 101)
    connection.execute("UPDATE accounts SET amount = 3")  # the caller's own again, with its implicit BEGIN
    assert connection.in_transaction
    connection.rollback()
    connection.close()


REFUSED = [
    lambda lite: lite.commit(),
    lambda lite: lite.rollback(),
    lambda lite: lite.close(),
    lambda lite: lite.__enter__(),
    lambda lite: lite.executescript("DELETE FROM accounts"),
    lambda lite: lite.cursor().executescript("DELETE FROM accounts"),
    lambda lite: lite.execute("COMMIT"),
    lambda lite: lite.execute(" -- well\n /* well */ END"),
    lambda lite: lite.execute("ROLLBACK"),
    lambda lite: lite.execute("BEGIN"),
    lambda lite: lite.execute("CREATE TABLE t (x)"),
    lambda lite: lite.execute("DROP TABLE accounts"),
    lambda lite: lite.execute("ATTACH 'x.db' AS x"),
    lambda lite: lite.execute("PRAGMA user_version = 7"),
    lambda lite: lite.execute("PRAGMA user_version(7)"),
    lambda lite: lite.execute("VACUUM"),
    lambda lite: lite.blobopen("accounts", "amount", 1),
    lambda lite: lite.cursor(sqlite3.Cursor),
]


@pytest.mark.parametrize("refused", REFUSED)
def test_what_cannot_be_repeated_is_refused_before_it_is_done(
    client: Client, bank: SqliteBank, other: SqliteBank, refused: Any
) -> None:
    with client.transaction() as tx:
        lite: Any = tx.enlist(bank.connect(), "bank")
        other.add(tx.enlist(other.connect(), "other"), -1)
        lite.execute("UPDATE accounts SET amount = amount + 1")
        with pytest.raises(LocalProtocolError, match="has no place in a SQLite branch"):
            refused(lite)
    assert (bank.balance(), other.balance()) == (101, 99)


def test_a_statement_that_failed_is_not_repeated(client: Client, bank: SqliteBank, other: SqliteBank) -> None:
    with client.transaction() as tx:
        lite: Any = tx.enlist(bank.connect(), "bank")
        other.add(tx.enlist(other.connect(), "other"), -1)
        with pytest.raises(sqlite3.IntegrityError):
            lite.execute("INSERT INTO accounts VALUES ('alice', 7)")
        lite.execute("UPDATE accounts SET amount = amount + 1")
    assert (bank.balance(), other.balance()) == (101, 99)


def test_the_recorder_ends_with_its_branch(client: Client, bank: SqliteBank) -> None:
    with client.transaction() as tx:
        lite: Any = tx.enlist(bank.connect(), "bank")
    with pytest.raises(LocalProtocolError, match="has ended"):
        lite.execute("DELETE FROM accounts")


def test_a_second_transaction_is_told_who_is_prepared(client: Client, bank: SqliteBank) -> None:
    made = prepare(bank)
    with client.transaction() as tx, pytest.raises(Unavailable, match=f"{made} is prepared in this file"):
        tx.enlist(bank.connect(), "bank")


def test_another_writer_is_waited_for_and_then_told(client: Client, bank: SqliteBank) -> None:
    writer = bank.connect()
    writer.execute("UPDATE accounts SET amount = 1")
    with client.transaction() as tx, pytest.raises(Unavailable, match="in use by another writer"):
        tx.enlist(sqlite3.connect(bank.path, timeout=0.05), "bank")
    writer.rollback()
    writer.close()


@pytest.mark.parametrize(
    ("sql", "why"),
    [
        ("ATTACH ':memory:' AS side", "attached"),
        ("CREATE TEMP TABLE t (x)", "temporary"),
        ("CREATE VIRTUAL TABLE f USING fts5(x)", "virtual"),
    ],
)
def test_what_could_not_be_frozen_is_refused_at_enlist(client: Client, bank: SqliteBank, sql: str, why: str) -> None:
    connection = bank.connect()
    connection.execute(sql)
    connection.commit()
    with client.transaction() as tx, pytest.raises(LocalProtocolError, match=why):
        tx.enlist(connection, "bank")
    connection.close()


def test_a_database_in_memory_is_refused(client: Client) -> None:
    connection = sqlite3.connect(":memory:")
    with client.transaction() as tx, pytest.raises(LocalProtocolError, match="in memory"):
        tx.enlist(connection, "bank")
    connection.close()


def test_a_table_made_later_is_frozen_too(bank: SqliteBank) -> None:
    bank.other.run(LITE.create_marks())
    bank.sql('CREATE TABLE "odd ""name" (x)')
    made = prepare(bank)
    with pytest.raises(SqlError, match="frozen"):
        bank.sql('INSERT INTO "odd ""name" VALUES (1)')
    bank.other.run(LITE.rollback_prepared(made))


def test_a_prepare_is_synced_and_the_setting_is_given_back(bank: SqliteBank) -> None:
    connection = bank.connect()
    connection.execute("PRAGMA synchronous = OFF")
    session = drivers.session(connection, gid.make(CLUSTER, TxId.new(), "bank").branch)
    session.enter()
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
    session.clean()
    assert connection.execute("PRAGMA synchronous").fetchone() == (0,)
    assert connection.isolation_level == ""
    connection.close()


def test_foreign_keys_hold_at_the_replay_as_they_did(bank: SqliteBank) -> None:
    bank.sql("CREATE TABLE p (id INTEGER PRIMARY KEY)")
    bank.sql("CREATE TABLE c (p REFERENCES p ON DELETE CASCADE)")
    bank.sql("INSERT INTO p VALUES (1)")
    bank.sql("INSERT INTO c VALUES (1)")
    made = gid.make(CLUSTER, TxId.new(), "bank")
    connection = bank.connect()
    connection.execute("PRAGMA foreign_keys = ON")
    session = drivers.session(connection, made.branch)
    session.enter()
    session.run(LITE.begin(made, checked=False))
    session.given.execute("DELETE FROM p")
    session.run(LITE.prepare(made, marks=True))
    session.close()
    assert bank.other.run(LITE.commit_prepared(made)) is Effect.COMMITTED
    assert bank.sql("SELECT * FROM c") == []
    assert bank.sql("PRAGMA foreign_keys") == [(0,)]
