"""What MariaDB does that cost others their data, on a real server, and that we do not fall for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pymysql
import pytest

from raftcoord import Aborted, Client, ConfigError, LocalProtocolError, TxId
from raftcoord.databases import drivers, gid
from raftcoord.databases.gid import XA_PART_BYTES_MAX, Gid
from raftcoord.databases.registry import named
from raftcoord.databases.session import DriverSession
from raftcoord.databases.steps import Effect, Result, SqlError, Statement
from raftcoord.processes.database_servers import DatabaseServer

from .banks import MariaDbBank, SqliteBank

MY = named("mariadb").dialect
CLUSTER = "00000000000000aa"


@pytest.fixture
def bank(mariadb: DatabaseServer) -> Iterator[MariaDbBank]:
    made = MariaDbBank(mariadb)
    yield made
    made.close()


def prepare(bank: MariaDbBank, *, cluster: str = CLUSTER, amount: int = 1) -> tuple[Gid, DriverSession]:
    """A branch that adds ``amount``, and the session that has prepared it."""
    made = gid.make(cluster, TxId.new(), "bank")
    session = drivers.session(bank.connect(), made.branch)
    session.run(MY.begin(made, checked=False))
    if amount:
        bank.add(session.connection, amount)
    session.run(MY.prepare(made, marks=True))
    return made, session


def leave(bank: MariaDbBank, session: DriverSession) -> None:
    """End the session, and wait until the server has seen it and 10 ms more (FACTS: 0 of 20,000 lost after that)."""
    thread = session.connection.thread_id()
    session.close()
    while bank.sql(f"SELECT 1 FROM information_schema.processlist WHERE id = {thread}"):
        time.sleep(0.005)
    time.sleep(0.05)


def test_while_the_preparing_session_lives_another_ones_commit_is_1397_and_no_success(bank: MariaDbBank) -> None:
    made, session = prepare(bank)
    with pytest.raises(pymysql.err.OperationalError) as raised:
        bank.other.connection.cursor().execute(f"XA COMMIT {made.xid}")
    assert raised.value.args[0] == 1397
    assert bank.other.run(MY.commit_prepared(made)) is Effect.PREPARED
    assert bank.other.run(MY.rollback_prepared(made)) is Effect.PREPARED
    assert bank.balance() == 100
    assert session.run(MY.commit_prepared_here(made)) is Effect.COMMITTED
    assert bank.balance() == 101
    session.close()


def test_after_it_has_gone_anybody_commits_once_and_the_mark_answers_for_ever(bank: MariaDbBank) -> None:
    made, session = prepare(bank)
    leave(bank, session)
    assert [each.gid for each in bank.other.run(MY.list_prepared(CLUSTER))] == [made]
    assert bank.other.run(MY.commit_prepared(made)) is Effect.COMMITTED
    assert bank.other.run(MY.commit_prepared(made)) is Effect.COMMITTED
    assert bank.other.run(MY.rollback_prepared(made)) is Effect.COMMITTED
    assert bank.balance() == 101


def test_1397_without_the_mark_is_not_taken_for_done(bank: MariaDbBank) -> None:
    made, session = prepare(bank)
    leave(bank, session)
    bank.sql(f"XA ROLLBACK {made.xid}")  # by hand
    assert bank.other.run(MY.commit_prepared(made)) is Effect.ABSENT
    assert bank.balance() == 100


def test_an_ok_without_the_mark_is_not_taken_for_done(bank: MariaDbBank) -> None:
    """FACTS: 2 of 4000 answered OK and had not committed. The answer is forced here; what is looked up then is real."""
    made, session = prepare(bank)
    leave(bank, session)
    bank.sql(f"XA ROLLBACK {made.xid}")
    steps = MY.commit_prepared(made)
    assert next(steps).sql == f"XA COMMIT {made.xid}"
    result = Result([], None, 0)
    found: Any = None
    try:
        while True:
            result = bank.other.execute(steps.send(result))
    except StopIteration as stop:
        found = stop.value
    assert found is Effect.ABSENT


def test_the_mark_is_in_the_branch_and_nowhere_before_its_commit(bank: MariaDbBank) -> None:
    made, session = prepare(bank)
    mark = f"SELECT 1 FROM raftcoord_marks WHERE gid = '{made}'"  # the table also says since when it is there, and whose it is
    assert not bank.sql(mark)
    session.run(MY.rollback_prepared(made))
    assert not bank.sql(mark)
    session.close()


def test_a_read_only_branch_whose_owner_has_gone_ends_without_harm(bank: MariaDbBank) -> None:
    """1402. None of ours is one, because of its mark; somebody's that bears our name may be."""
    made = gid.make(CLUSTER, TxId.new(), "bank")
    connection = bank.connect()
    cursor = connection.cursor()
    for sql in (f"XA START {made.xid}", "SELECT * FROM accounts", f"XA END {made.xid}", f"XA PREPARE {made.xid}"):
        cursor.execute(sql)
    leave(bank, drivers.session(connection, made.branch))
    assert bank.other.run(MY.commit_prepared(made)) is Effect.ABSENT
    assert not bank.prepared()


def test_a_deadlock_victim_that_goes_on_is_rolled_back_and_the_connection_serves_again(
    client: Client, bank: MariaDbBank, other: SqliteBank
) -> None:
    bank.sql("INSERT INTO accounts VALUES ('bob', 100)")
    bank.sql("CREATE TABLE big (x INT PRIMARY KEY)")
    bank.sql("INSERT INTO big SELECT seq FROM seq_1_to_200")
    rival, victim = bank.connect(), bank.connect()
    rival.begin()
    rival.cursor().execute("UPDATE big SET x = x + 1000")  # the heavier one survives
    rival.cursor().execute("UPDATE accounts SET amount = amount WHERE name = 'bob'")
    codes = []

    def cross() -> None:
        rival.cursor().execute("UPDATE accounts SET amount = amount WHERE name = 'alice'")

    def block() -> None:
        with client.transaction() as tx:
            other.add(tx.enlist(other.connect(), "other"), -1)
            bank.add(tx.enlist(victim, "bank"), 1)
            crossing = threading.Thread(target=cross)
            crossing.start()
            waiting = "SELECT 1 FROM information_schema.innodb_trx WHERE trx_state = 'LOCK WAIT'"
            while crossing.is_alive() and not bank.sql(waiting):
                time.sleep(0.15)  # the server shows what it saw 100 ms ago to whoever asks more often
            try:
                victim.cursor().execute("UPDATE accounts SET amount = 0 WHERE name = 'bob'")
            except pymysql.err.OperationalError as error:  # and goes on
                codes.append(error.args[0])
            crossing.join(10)

    with pytest.raises(Aborted, match="deadlock's victim") as raised:
        block()
    assert codes == [1213]
    assert raised.value.branch == "bank"
    rival.rollback()
    assert (bank.balance(), other.balance()) == (100, 100)
    bank.add(victim, 7)
    victim.commit()
    assert bank.balance() == 107
    rival.close()
    victim.close()


def test_a_database_without_the_marks_is_said_at_enlist(client: Client, mariadb: DatabaseServer) -> None:
    bank = MariaDbBank(mariadb, marks=False)
    connection = bank.connect()
    with (
        client.transaction() as tx,
        pytest.raises(ConfigError, match=r"no table raftcoord_marks.*raftcoord resource init"),
    ):
        tx.enlist(connection, "bank")
    bank.add(connection, 1)  # and it serves again
    connection.commit()
    assert bank.balance() == 101
    (finding, *_) = bank.other.run(bank.other.database.checks.check())
    assert finding.fatal
    connection.close()
    bank.close()


def test_commit_inside_the_block_is_refused_by_the_server(client: Client, bank: MariaDbBank, other: SqliteBank) -> None:
    connection = bank.connect()
    with client.transaction() as tx:
        bank.add(tx.enlist(connection, "bank"), 1)
        other.add(tx.enlist(other.connect(), "other"), -1)
        with pytest.raises(pymysql.err.OperationalError, match="1399"):
            connection.commit()
    assert (bank.balance(), other.balance()) == (101, 99)
    connection.close()


def test_two_clusters_on_one_server_see_their_own(bank: MariaDbBank) -> None:
    second = "00000000000000bb"
    (mine, session), (theirs, their_session) = prepare(bank), prepare(bank, cluster=second, amount=0)
    assert [each.gid for each in bank.other.run(MY.list_prepared(CLUSTER))] == [mine]
    assert [each.gid for each in bank.other.run(MY.list_prepared(second))] == [theirs]
    assert {each.gid for each in bank.other.run(MY.list_prepared(None))} >= {mine, theirs}
    session.run(MY.rollback(mine, touched=True))
    their_session.run(MY.rollback(theirs, touched=True))
    session.close()
    their_session.close()
    assert not bank.prepared()


def test_a_reconnected_session_is_not_taken_for_the_branch(
    client: Client, bank: MariaDbBank, other: SqliteBank
) -> None:
    connection = bank.connect()

    def block() -> None:
        with client.transaction() as tx:
            other.add(tx.enlist(other.connect(), "other"), -1)
            bank.add(tx.enlist(connection, "bank"), 1)
            bank.sql(f"KILL {connection.thread_id()}")
            connection.connect()  # as a driver's automatic reconnect does

    with pytest.raises((Aborted, LocalProtocolError)) as raised:
        block()
    assert "bank" in str(raised.value)
    assert (bank.balance(), other.balance()) == (100, 100)
    assert not bank.prepared()
    assert not connection.open


def test_marks_are_forgotten_by_age(bank: MariaDbBank) -> None:
    made, session = prepare(bank)
    session.run(MY.commit_prepared_here(made))
    assert bank.other.run(MY.forget_marks(CLUSTER, TxId.new(made.txid.ms - 1000))) == 0
    assert bank.other.run(MY.forget_marks(CLUSTER, TxId.new(made.txid.ms + 1000))) == 1
    session.close()


# -- the facts themselves, as the server tells them ---------------------------------------------------------------


def refused(connection: Any, sql: str) -> int:
    """The number of the error with which the server refuses ``sql``."""
    with pytest.raises(pymysql.err.MySQLError) as raised:
        connection.cursor().execute(sql)
    number: int = raised.value.args[0]
    return number


def test_whether_the_preparing_session_lives_decides_who_may_commit(bank: MariaDbBank) -> None:
    """1397 for everybody else, each time; for itself never."""
    for _ in range(50):
        made, session = prepare(bank)
        assert refused(bank.other.connection, f"XA COMMIT {made.xid}") == 1397
        assert session.run(MY.commit_prepared_here(made)) is Effect.COMMITTED
        session.close()
    assert bank.balance() == 150


def test_another_sessions_xa_commit_needs_autocommit_and_is_1400_otherwise(bank: MariaDbBank) -> None:
    made, session = prepare(bank)
    leave(bank, session)
    connection = bank.connect()  # as PEP 249 has it, autocommit is off
    assert refused(connection, f"XA COMMIT {made.xid}") == 1400
    connection.autocommit(True)
    connection.cursor().execute(f"XA COMMIT {made.xid}")
    connection.close()
    assert bank.balance() == 101


def test_a_deadlock_victim_takes_nothing_but_xa_rollback(bank: MariaDbBank) -> None:
    bank.sql("INSERT INTO accounts VALUES ('bob', 100)")
    bank.sql("CREATE TABLE big (x INT PRIMARY KEY)")
    bank.sql("INSERT INTO big SELECT seq FROM seq_1_to_200")
    made, rival, victim = gid.make(CLUSTER, TxId.new(), "bank"), bank.connect(), bank.connect()
    rival.begin()
    rival.cursor().execute("UPDATE big SET x = x + 1000")  # the heavier one survives
    rival.cursor().execute("UPDATE accounts SET amount = amount WHERE name = 'bob'")
    victim.cursor().execute(f"XA START {made.xid}")
    bank.add(victim, 1)
    crossing = threading.Thread(target=bank.add, args=(rival, 1))
    crossing.start()
    deadline = time.monotonic() + 20
    while not bank.sql("SELECT 1 FROM information_schema.innodb_trx WHERE trx_state = 'LOCK WAIT'"):
        assert time.monotonic() < deadline
        time.sleep(0.15)  # the server shows what it saw 100 ms ago to whoever asks more often
    assert refused(victim, "UPDATE accounts SET amount = 0 WHERE name = 'bob'") == 1213
    crossing.join(20)
    rolled_back = {1399, 1402, 1614}
    assert refused(victim, f"XA END {made.xid}") in rolled_back
    assert refused(victim, f"XA PREPARE {made.xid}") in rolled_back
    victim.cursor().execute(f"XA ROLLBACK {made.xid}")
    rival.rollback()
    bank.add(victim, 1)
    victim.commit()
    assert bank.balance() == 101
    rival.close()
    victim.close()


def test_a_session_left_prepared_poisons_whoever_uses_it_next(bank: MariaDbBank) -> None:
    """Why a connection whose branch stands is closed and never handed back."""
    made, session = prepare(bank)
    for sql in ("SELECT * FROM accounts", "UPDATE accounts SET amount = 0", "BEGIN", "COMMIT", "ROLLBACK"):
        assert refused(session.connection, sql) == 1399
    session.run(MY.rollback(made, touched=True))
    session.close()


def test_a_read_only_branch_answers_1402_to_whoever_comes_later(bank: MariaDbBank) -> None:
    made, connection = gid.make(CLUSTER, TxId.new(), "bank"), bank.connect()
    for sql in (f"XA START {made.xid}", "SELECT * FROM accounts", f"XA END {made.xid}", f"XA PREPARE {made.xid}"):
        connection.cursor().execute(sql)
    leave(bank, drivers.session(connection, made.branch))
    assert refused(bank.other.connection, f"XA COMMIT {made.xid}") == 1402


def test_each_part_of_an_xid_has_at_most_64_bytes(bank: MariaDbBank) -> None:
    connection, longest = bank.connect(), XA_PART_BYTES_MAX
    for xid in (f"'{'g' * longest}','{'b' * longest}'", gid.make("f" * 16, TxId.new(), "b" * 32).xid):
        for sql in (f"XA START {xid}", f"XA END {xid}", f"XA ROLLBACK {xid}"):
            connection.cursor().execute(sql)
    assert refused(connection, f"XA START '{'g' * (longest + 1)}','b'")
    assert refused(connection, f"XA START 'g','{'b' * (longest + 1)}'")
    connection.close()


def test_an_error_bears_the_servers_number(bank: MariaDbBank) -> None:
    with pytest.raises(SqlError) as raised:
        bank.other.execute(Statement("SELECT nothing"))
    assert raised.value.code == "1054"
