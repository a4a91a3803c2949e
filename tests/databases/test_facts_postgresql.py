"""What PostgreSQL does that cost others their data, on a real server, and that we do not fall for it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import psycopg
import psycopg2
import pytest

from raftcoord import Aborted, Client, ConfigError, LocalProtocolError, State, TxId
from raftcoord.databases import drivers, gid
from raftcoord.databases.gid import POSTGRESQL_BYTES_MAX, Gid
from raftcoord.databases.registry import named
from raftcoord.databases.steps import Effect, NotPossible, Result, SqlError, Statement, Steps
from raftcoord.processes.database_servers import DatabaseServer

from .banks import PostgreSqlBank, SqliteBank

PG = named("postgresql").dialect
CLUSTER = "00000000000000aa"


@pytest.fixture
def bank(postgresql: DatabaseServer) -> Iterator[PostgreSqlBank]:
    made = PostgreSqlBank(postgresql)
    yield made
    made.close()


def new_gid(cluster: str = CLUSTER) -> Gid:
    return gid.make(cluster, TxId.new(), "bank")


def prepared(bank: PostgreSqlBank, *, marks: bool = True, cluster: str = CLUSTER, amount: int = 1) -> Gid:
    """A branch that adds ``amount``, prepared by a program that has gone."""
    made = new_gid(cluster)
    connection = bank.connect()
    session = drivers.session(connection, made.branch)
    session.run(PG.begin(made, checked=False))
    if amount:
        bank.add(connection, amount)
    session.run(PG.prepare(made, marks=marks))
    connection.close()
    return made


def test_the_server_takes_a_prepare_in_a_failed_transaction_and_prepares_nothing(bank: PostgreSqlBank) -> None:
    """The fact: no error, not even from tpc_prepare; the command tag alone tells."""
    for connect in (psycopg.connect, psycopg2.connect):
        connection: Any = connect(bank.url)
        connection.tpc_begin(connection.xid(1, str(TxId.new()), "b"))
        with pytest.raises((psycopg.Error, psycopg2.Error)):
            connection.cursor().execute("SELECT 1/0")
        connection.tpc_prepare()
        assert not bank.sql("SELECT gid FROM pg_prepared_xacts WHERE database = current_database()")
        connection.close()


def _saying(statement: Statement) -> Steps[Result]:
    return (yield statement)


@pytest.mark.parametrize("driver", ["psycopg", "psycopg2", "pg8000"])
def test_a_swallowed_failure_is_no_yes(
    postgresql: DatabaseServer, client: Client, driver: str, other: SqliteBank
) -> None:
    bank = PostgreSqlBank(postgresql)
    connect: Any = {
        "psycopg": lambda: psycopg.connect(bank.url),
        "psycopg2": lambda: psycopg2.connect(bank.url),
        "pg8000": lambda: __import__("pg8000.dbapi").dbapi.connect(
            host="127.0.0.1", port=postgresql.port, user="postgres", database=bank.database
        ),
    }[driver]
    for alone in (False, True):
        connection = connect()

        def block(connection: Any = connection, alone: bool = alone) -> None:
            with client.transaction() as tx:
                bank.add(tx.enlist(connection, "bank"), 1)
                if not alone:
                    other.add(tx.enlist(other.connect(), "other"), -1)
                with contextlib.suppress(Exception):  # the program's mistake
                    connection.cursor().execute("SELECT 1/0")

        with pytest.raises(Aborted, match="a statement of it failed") as raised:
            block()
        assert raised.value.branch == "bank"
        bank.add(connection, 0)  # it serves again
        connection.close()
    assert (bank.balance(), other.balance()) == (100, 100)
    bank.close()


@pytest.mark.parametrize(("steps", "word"), [(PG.commit_one_phase, "COMMIT"), (PG.prepare, "PREPARE TRANSACTION")])
def test_without_the_question_the_tag_still_tells(bank: PostgreSqlBank, steps: Any, word: str) -> None:
    """The second guard alone: the question is answered for the server, the rest is real."""
    made = new_gid()
    session = drivers.session(bank.connect(), made.branch)
    session.run(PG.begin(made, checked=False))
    with pytest.raises(psycopg.Error):
        session.connection.execute("SELECT 1/0")
    running = steps(made, marks=False) if word != "COMMIT" else steps(made)
    statement = next(running)
    _question, ending, *after = (*statement.ahead, statement.sql)
    assert ending.startswith(word)
    tag = session.execute(Statement(ending)).tag
    assert tag == "ROLLBACK"
    with pytest.raises(NotPossible, match=f"{word} was answered with ROLLBACK"):
        running.send(Result([], "SELECT", 1, (None, tag)) if after else Result([], tag, -1, (None,)))
    session.close()


@pytest.mark.parametrize("connect", [psycopg.connect, psycopg2.connect], ids=["at once", "one by one"])
def test_what_the_question_refuses_is_prepared_by_no_later_statement(bank: PostgreSqlBank, connect: Any) -> None:
    """The first guard alone, also when all go in one round trip: another's transaction is not even told to prepare."""
    made = new_gid()
    session = drivers.session(connect(bank.url), made.branch)
    session.run(PG.begin(made, checked=False))
    session.connection.commit()
    bank.add(session.connection, 1)
    statement = next(PG.prepare(made, marks=True))
    with pytest.raises(SqlError, match="22011"):
        session.run(_saying(statement))
    assert not bank.prepared()
    session.close()
    assert bank.balance() == 100


@pytest.mark.parametrize("connect", [psycopg.connect, psycopg2.connect], ids=["at once", "one by one"])
def test_what_goes_ahead_shows_its_tags_in_order(bank: PostgreSqlBank, connect: Any) -> None:
    session = drivers.session(connect(bank.url), new_gid().branch)
    many = Statement("SELECT 1 FROM accounts", ahead=("UPDATE accounts SET amount = 7", "SAVEPOINT a"))
    assert session.run(_saying(many)) == Result(
        [(1,)] if not session.at_once else [], "SELECT", 1, ("UPDATE", "SAVEPOINT")
    )
    assert bank.balance() == 100
    session.clean()
    session.close()


def test_without_the_tag_and_the_question_the_list_still_tells(bank: PostgreSqlBank) -> None:
    """The last guard alone: a driver that shows no tag, and a server that answered with nothing but success."""
    made = new_gid()
    steps = PG.prepare(made, marks=False)
    listing = next(steps)._replace(ahead=())
    assert "pg_prepared_xact()" in listing.sql
    with pytest.raises(NotPossible, match="lists nothing prepared"):
        steps.send(bank.other.execute(listing)._replace(ahead=(None, None)))


@pytest.mark.parametrize(
    "statement",
    ["LISTEN news", "NOTIFY news", "CREATE TEMPORARY TABLE t (x int)", "DECLARE c CURSOR WITH HOLD FOR SELECT 1"],
)
def test_what_cannot_be_prepared_aborts_and_says_what(
    client: Client, bank: PostgreSqlBank, other: SqliteBank, statement: str
) -> None:
    connection = bank.connect()

    def block() -> None:
        with client.transaction() as tx:
            other.add(tx.enlist(other.connect(), "other"), -1)
            bank.add(tx.enlist(connection, "bank"), 1)
            connection.execute(statement)

    with pytest.raises(Aborted, match="cannot be prepared: keep them out") as raised:
        block()
    assert raised.value.branch == "bank"
    assert (bank.balance(), other.balance()) == (100, 100)
    bank.add(connection, 1)
    connection.commit()
    connection.close()


def test_max_prepared_transactions_zero_is_said_at_enlist_with_what_to_change(client: Client) -> None:
    server = DatabaseServer("postgresql", settings={"max_prepared_transactions": "0"})
    try:
        server.start()
        connection = psycopg.connect(server.url())
        with (
            client.transaction() as tx,
            pytest.raises(ConfigError, match=r"max_prepared_transactions is 0.*ALTER SYSTEM SET"),
        ):
            tx.enlist(connection, "bank")
        assert connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
        session = drivers.connect(server.url())
        (finding, *_) = session.run(session.database.checks.check())
        assert finding.fatal
        assert "max_prepared_transactions" in finding.what
        session.close()
        connection.close()
    finally:
        server.stop()


@pytest.mark.parametrize("ending", ["commit", "rollback"])
def test_a_transaction_that_the_block_has_ended_is_not_taken_for_the_branch(
    client: Client, bank: PostgreSqlBank, other: SqliteBank, ending: str
) -> None:
    """As a pool does that gets the connection back too early; and another's work is then on it."""
    connection = bank.connect()

    def block() -> None:
        with client.transaction() as tx:
            other.add(tx.enlist(other.connect(), "other"), -1)
            tx.enlist(connection, "bank")
            getattr(connection, ending)()
            bank.add(connection, 1)

    with pytest.raises(LocalProtocolError, match=r"'bank'.*was ended inside the block"):
        block()
    assert (bank.balance(), other.balance()) == (100, 100)
    assert not bank.prepared()
    assert not other.prepared()
    connection.close()


def test_a_gid_that_is_gone_is_a_question_which_the_mark_answers(bank: PostgreSqlBank) -> None:
    committed = prepared(bank)
    assert bank.other.run(PG.commit_prepared(committed)) is Effect.COMMITTED
    assert bank.other.run(PG.commit_prepared(committed)) is Effect.COMMITTED
    rolled_back = prepared(bank)
    bank.sql(f"ROLLBACK PREPARED '{rolled_back}'")  # by hand
    assert bank.other.run(PG.commit_prepared(rolled_back)) is Effect.ABSENT
    assert bank.other.run(PG.rollback_prepared(committed)) is Effect.COMMITTED
    assert bank.balance() == 101


def test_without_marks_it_is_not_known(postgresql: DatabaseServer) -> None:
    bank = PostgreSqlBank(postgresql, marks=False)
    made = prepared(bank, marks=False)
    assert bank.other.run(PG.commit_prepared(made)) is Effect.COMMITTED
    assert bank.other.run(PG.commit_prepared(made)) is Effect.UNKNOWN
    bank.close()


def test_another_database_lists_it_and_cannot_end_it(bank: PostgreSqlBank, postgresql: DatabaseServer) -> None:
    made = prepared(bank)
    stranger = drivers.connect(postgresql.url())
    (listed,) = [each for each in stranger.run(PG.list_prepared(CLUSTER)) if each.gid == made]
    assert (listed.here, listed.database) == (False, bank.database)
    assert listed.age_s is not None
    assert 0 <= listed.age_s < 30
    with pytest.raises(SqlError) as raised:
        stranger.run(PG.commit_prepared(made))
    assert raised.value.code in ("0A000", "55000")
    assert bank.other.run(PG.rollback_prepared(made)) is Effect.ABSENT
    stranger.close()


def test_two_clusters_on_one_server_see_their_own(bank: PostgreSqlBank) -> None:
    other_cluster = "00000000000000bb"
    mine, second = prepared(bank), prepared(bank, cluster=other_cluster, amount=0)
    assert [each.gid for each in bank.other.run(PG.list_prepared(CLUSTER))] == [mine]
    assert [each.gid for each in bank.other.run(PG.list_prepared(other_cluster))] == [second]
    assert {each.gid for each in bank.other.run(PG.list_prepared(None))} == {mine, second}
    for each in (mine, second):
        assert bank.other.run(PG.rollback_prepared(each)) is Effect.ABSENT


def test_marks_are_forgotten_by_age_and_cluster(bank: PostgreSqlBank) -> None:
    made = prepared(bank)
    bank.other.run(PG.commit_prepared(made))
    later = TxId.new(made.txid.ms + 1000)
    assert bank.other.run(PG.forget_marks("00000000000000bb", later)) == 0
    assert bank.other.run(PG.forget_marks(CLUSTER, TxId.new(made.txid.ms - 1000))) == 0
    assert bank.other.run(PG.forget_marks(CLUSTER, later)) == 1
    assert bank.other.run(PG.proof(made)) is Effect.ABSENT


def test_a_search_path_does_not_hide_the_marks(client: Client, bank: PostgreSqlBank, other: SqliteBank) -> None:
    bank.sql("CREATE SCHEMA tenant")
    connection = bank.connect()
    with client.transaction() as tx:
        bank.add(tx.enlist(connection, "bank"), 1)
        other.add(tx.enlist(other.connect(), "other"), -1)
        connection.execute("SET search_path = tenant")
    assert bank.other.run(PG.proof(gid.make(client.cluster_id(), tx.txid, "bank"))) is Effect.COMMITTED
    connection.close()


def test_rows_of_the_programs_own_kind_do_not_confuse_it(
    client: Client, bank: PostgreSqlBank, other: SqliteBank
) -> None:
    connection = psycopg.connect(bank.url, row_factory=psycopg.rows.dict_row)
    with client.transaction() as tx:
        bank.add(tx.enlist(connection, "bank"), 1)
        other.add(tx.enlist(other.connect(), "other"), -1)
    assert client.status(tx.txid).state is State.COMMITTED
    connection.close()


# -- the facts themselves, as the server tells them ---------------------------------------------------------------


def refused(bank: PostgreSqlBank, sql: str) -> str:
    """The SQLSTATE with which the server refuses ``sql``."""
    with pytest.raises(SqlError) as raised:
        bank.other.execute(Statement(sql, outside=True))
    return raised.value.code


def test_a_second_commit_and_a_rollback_behind_a_commit_are_42704(bank: PostgreSqlBank) -> None:
    made = prepared(bank)
    bank.sql(f"COMMIT PREPARED '{made}'")
    assert refused(bank, f"COMMIT PREPARED '{made}'") == "42704"
    assert refused(bank, f"ROLLBACK PREPARED '{made}'") == "42704"
    assert bank.balance() == 101


def test_another_user_may_not_end_it_and_a_superuser_may(bank: PostgreSqlBank) -> None:
    bank.sql(f"CREATE ROLE clerk_{bank.database} LOGIN")
    mine = prepared(bank)
    clerk = drivers.connect(bank.url.replace("postgres@", f"clerk_{bank.database}@"))
    with pytest.raises(SqlError) as raised:
        clerk.run(PG.commit_prepared(mine))
    assert raised.value.code == "42501"
    assert bank.other.run(PG.proof(mine)) is Effect.PREPARED
    theirs = new_gid()
    for sql in ("BEGIN", f"PREPARE TRANSACTION '{theirs}'"):
        clerk.execute(Statement(sql))
    assert bank.other.run(PG.rollback_prepared(theirs)) is Effect.ABSENT
    assert bank.other.run(PG.commit_prepared(mine)) is Effect.COMMITTED
    clerk.close()


def test_a_gid_has_fewer_than_200_bytes(bank: PostgreSqlBank) -> None:
    longest = "g" * POSTGRESQL_BYTES_MAX
    for sql in ("BEGIN", f"PREPARE TRANSACTION '{longest}'", f"ROLLBACK PREPARED '{longest}'", "BEGIN"):
        bank.other.execute(Statement(sql))
    assert refused(bank, f"PREPARE TRANSACTION '{longest}g'") == "22023"
    bank.other.execute(Statement("ROLLBACK"))


@pytest.mark.parametrize("what", ["LISTEN news", "CREATE TEMPORARY TABLE t (x int)"])
def test_listen_and_temporary_tables_are_0a000_at_the_prepare(bank: PostgreSqlBank, what: str) -> None:
    for sql in ("BEGIN", what):
        bank.other.execute(Statement(sql))
    assert refused(bank, f"PREPARE TRANSACTION '{new_gid()}'") == "0A000"
    assert not bank.prepared()


def test_a_commit_in_another_database_is_0a000(bank: PostgreSqlBank, postgresql: DatabaseServer) -> None:
    made, elsewhere = prepared(bank), PostgreSqlBank(postgresql)
    assert refused(elsewhere, f"COMMIT PREPARED '{made}'") == "0A000"
    elsewhere.close()
    assert bank.other.run(PG.rollback_prepared(made)) is Effect.ABSENT


def test_a_serialization_failure_at_the_prepare_says_to_try_again(
    client: Client, bank: PostgreSqlBank, other: SqliteBank
) -> None:
    bank.sql("INSERT INTO accounts VALUES ('bob', 100)")
    mine, rival = bank.connect(), bank.connect()
    for connection in (mine, rival):
        connection.isolation_level = psycopg.IsolationLevel.SERIALIZABLE

    def block() -> None:
        with client.transaction() as tx:
            other.add(tx.enlist(other.connect(), "other"), -1)
            tx.enlist(mine, "bank")
            mine.execute("SELECT sum(amount) FROM accounts WHERE name = 'bob'")
            bank.add(mine, 1)
            rival.execute("SELECT sum(amount) FROM accounts WHERE name = 'alice'")
            rival.execute("UPDATE accounts SET amount = amount + 1 WHERE name = 'bob'")
            rival.commit()

    with pytest.raises(Aborted, match=r"\(40001\); try the transaction again"):
        block()
    assert (bank.balance(), other.balance()) == (100, 100)
    assert not bank.prepared()
    mine.close()
    rival.close()
