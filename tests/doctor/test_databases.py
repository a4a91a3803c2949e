"""What the doctor says of real databases, and that the command which it gives mends it."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pymysql
import pytest
from databases.banks import Bank, MariaDbBank, PostgreSqlBank, SqliteBank

from raftcoord import TxId
from raftcoord.databases import drivers, registry
from raftcoord.databases import gid as gids
from raftcoord.databases.gid import Gid
from raftcoord.databases.registry import named
from raftcoord.databases.resource_config import ResourceConfig
from raftcoord.doctor import databases, prepared
from raftcoord.doctor.databases import DatabaseLook
from raftcoord.doctor.findings import REACHABLE, Row, Severity
from raftcoord.processes.database_servers import DatabaseServer
from raftcoord.processes.local_cluster import write_local_config
from raftcoord.types import Branch, State

from .rows import having, lacking, troubles

OURS = "00000000000000aa"
OTHER = "00000000000000bb"
NAME = "bank"
NAMED = frozenset({NAME})


def now_ms() -> int:
    return int(time.time() * 1000)


def look(url: str) -> DatabaseLook:
    return databases.look(ResourceConfig(Branch(NAME), url), now_ms)


def judged(url: str, states: dict[TxId, State | None] | None = None, cluster: str = OURS) -> list[Row]:
    """The rows about what is prepared."""
    found = look(url).found
    assert found is not None
    return prepared.judge(NAME, NAMED, found, cluster, states or {})


def new_gid(cluster: str = OURS, *, age_s: float = 0, branch: str = NAME) -> Gid:
    return gids.make(cluster, TxId.new(now_ms() - round(age_s * 1000), TxId.new()[6:]), branch)


def leave_prepared(bank: Bank, gid: Gid) -> None:
    """As a program that was killed, with a row of its own, so that none waits for another's lock."""
    connection = bank.connect()
    session = drivers.session(connection, gid.branch)
    session.enter()
    session.run(bank.dialect.begin(gid, checked=False))
    session.given.cursor().execute(f"INSERT INTO accounts VALUES ('{str(gid.txid)[-20:]}', 1)")
    session.run(bank.dialect.prepare(gid, marks=True))
    connection.close()


@pytest.fixture
def bank(postgresql: DatabaseServer) -> Iterator[PostgreSqlBank]:
    made = PostgreSqlBank(postgresql)
    yield made
    end_all(made)


@pytest.fixture
def maria(mariadb: DatabaseServer) -> Iterator[MariaDbBank]:
    made = MariaDbBank(mariadb)
    yield made
    end_all(made)


def end_all(bank: Bank) -> None:
    for each in bank.other.run(bank.dialect.list_prepared(None)):
        if each.here:
            bank.other.run(bank.dialect.rollback_prepared(each.gid))
    bank.close()


@pytest.fixture
def app(bank: PostgreSqlBank) -> Iterator[str]:
    """The URL of a user who is no superuser."""
    user = f"app_{bank.database}"
    bank.sql(f"CREATE USER {user}")
    yield bank.url.replace("postgres@", f"{user}@")
    bank.sql(f"DROP OWNED BY {user}")
    bank.sql(f"DROP USER {user}")


# -- PostgreSQL ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def unprepared(postgresql: DatabaseServer) -> Iterator[DatabaseServer]:
    """A server as PostgreSQL comes: nothing can be prepared, and fsync is on."""
    server = DatabaseServer("postgresql", durable=True, settings={"max_prepared_transactions": "0"})
    try:
        server.start()
        yield server
    finally:
        server.stop()


def test_max_prepared_transactions_0_is_an_error(unprepared: DatabaseServer) -> None:
    rows = look(unprepared.url()).rows
    row = having(rows, "max_prepared_transactions is 0")
    assert row.verdict is Severity.ERROR
    assert "ALTER SYSTEM SET max_prepared_transactions" in row.mend


def test_resource_init_in_a_server_that_prepares_nothing_exits_2_with_the_setting(
    unprepared: DatabaseServer, tmp_path: Path
) -> None:
    config = write_local_config(tmp_path)
    assert config.path is not None
    with config.path.open("a") as file:
        file.write(f"resources:\n  - name: ledger\n    url: {unprepared.url()}\n")
    program = "from raftcoord_cli.main import main; main()"
    command = [sys.executable, "-c", program, "resource", "init", "-c", str(config.path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "max_prepared_transactions is 0" in done.stdout
    assert "ALTER SYSTEM SET max_prepared_transactions" in done.stdout
    assert "no branch can be prepared in ledger until that is fixed" in done.stdout
    assert "Traceback" not in done.stderr


def test_missing_marks_are_an_error_until_they_are_made(unprepared: DatabaseServer) -> None:
    url = unprepared.make("unmarked")
    row = having(look(url).rows, "raftcoord.marks")
    assert (row.verdict, row.mend) == (Severity.ERROR, f"raftcoord resource init {NAME}")
    session = drivers.connect(url)
    session.run(session.dialect.create_marks())
    session.close()
    lacking(look(url).rows, "raftcoord.marks")


def test_a_server_without_fsync_is_told_and_one_with_is_not(bank: PostgreSqlBank, unprepared: DatabaseServer) -> None:
    row = having(look(bank.url).rows, "fsync is off")
    assert row.verdict is Severity.WARNING
    lacking(look(unprepared.url()).rows, "fsync is off")


def test_a_healthy_postgresql_has_no_other_trouble(bank: PostgreSqlBank) -> None:
    rows = look(bank.url).rows
    assert [row.what for row in troubles(rows)] == [having(rows, "fsync is off").what]
    assert "PostgreSQL" in having(rows, REACHABLE).what


def test_a_user_without_delete_gets_the_grant_that_mends_it(bank: PostgreSqlBank, app: str) -> None:
    row = having(look(app).rows, "right to DELETE")
    assert row.verdict is Severity.WARNING
    bank.sql(row.mend)
    lacking(look(app).rows, "right to")


def test_a_user_without_any_right_on_the_marks_cannot_take_part(bank: PostgreSqlBank, app: str) -> None:
    bank.sql("REVOKE ALL ON raftcoord.marks FROM PUBLIC")
    bank.sql("REVOKE ALL ON SCHEMA raftcoord FROM PUBLIC")
    row = having(look(app).rows, "right to SELECT, INSERT, DELETE")
    assert row.verdict is Severity.ERROR
    for statement in row.mend.split("; "):
        bank.sql(statement)
    lacking(look(app).rows, "right to")


def test_a_user_who_may_only_read_is_an_error_and_looking_writes_nothing(bank: PostgreSqlBank, app: str) -> None:
    """The session can write nothing, and everything is looked at all the same."""
    user = app.partition("//")[2].partition("@")[0]
    bank.sql(f"ALTER ROLE {user} SET default_transaction_read_only = on")
    looked = look(app)
    row = having(looked.rows, "default_transaction_read_only")
    assert row.verdict is Severity.ERROR
    assert looked.found is not None
    bank.sql(row.mend)
    lacking(look(app).rows, "default_transaction_read_only")


def test_lazy_commits_of_a_user_are_told(bank: PostgreSqlBank, app: str) -> None:
    user = app.partition("//")[2].partition("@")[0]
    bank.sql(f"ALTER ROLE {user} SET synchronous_commit = off")
    row = having(look(app).rows, "synchronous_commit")
    assert row.verdict is Severity.WARNING
    bank.sql(row.mend)
    lacking(look(app).rows, "synchronous_commit")


def test_an_old_branch_of_ours_is_an_orphan_with_its_age_and_what_the_ledger_says(
    bank: PostgreSqlBank, monkeypatch: pytest.MonkeyPatch
) -> None:
    gid = new_gid()
    leave_prepared(bank, gid)
    lacking(judged(bank.url), "orphan")
    monkeypatch.setattr(prepared, "ORPHAN_S", 0.0)
    found = look(bank.url).found
    assert found is not None
    assert prepared.questions(found, OURS) == [gid.txid]
    row = having(judged(bank.url, {gid.txid: State.COMMITTED}), "orphan", str(gid), "the ledger says COMMITTED")
    assert row.verdict is Severity.ERROR
    assert row.mend.startswith("raftcoord resolver run --once")
    assert having(judged(bank.url), "orphan", "could not be asked")


def test_a_branch_that_this_user_may_not_end_names_whoever_may(
    bank: PostgreSqlBank, app: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepared, "ORPHAN_S", 0.0)
    leave_prepared(bank, new_gid())
    row = having(judged(app), "orphan", "user postgres has prepared it")
    assert "postgres" in row.mend
    assert having(judged(app), "no superuser").verdict is Severity.NOTE
    lacking(judged(bank.url), "no superuser", "has prepared it")


def test_a_branch_prepared_in_another_database_says_which(
    bank: PostgreSqlBank, postgresql: DatabaseServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepared, "ORPHAN_S", 0.0)
    leave_prepared(bank, new_gid())
    assert bank.database in having(judged(postgresql.url()), "orphan").mend


def test_a_branch_of_no_resource_says_that_one_is_missing(
    bank: PostgreSqlBank, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepared, "ORPHAN_S", 0.0)
    leave_prepared(bank, new_gid(branch="unnamed"))
    assert "'unnamed', in cluster.yaml" in having(judged(bank.url), "orphan").mend


@pytest.mark.parametrize("kind", ["bank", "maria"])
def test_other_clusters_and_other_programs_are_counted_and_are_no_trouble(
    kind: str, request: pytest.FixtureRequest
) -> None:
    bank: Bank = request.getfixturevalue(kind)
    for _ in range(2):
        leave_prepared(bank, new_gid(OTHER, age_s=300))
    foreign: Callable[[str], None] = PREPARE_FOREIGN[kind]
    foreign(bank.url)
    rows = judged(bank.url)
    try:
        row = having(rows, f"2 of cluster {OTHER}")
        assert row.verdict is Severity.NOTE
        if kind == "maria":
            assert "the oldest for 5 min" in row.what
        row = having(rows, "other programs", "1 prepared", "somebody")
        assert row.verdict is Severity.NOTE
        assert not troubles(rows)
        unknown = having(judged(bank.url, cluster=""), f"2 prepared, of cluster {OTHER}")
        assert unknown.verdict is Severity.NOTE
    finally:
        bank.sql({"bank": "ROLLBACK PREPARED 'somebody'", "maria": "XA ROLLBACK 'somebody'"}[kind])


def prepare_somebody_postgresql(url: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("SELECT 1")
        connection.execute("PREPARE TRANSACTION 'somebody'")


def prepare_somebody_mariadb(url: str) -> None:
    cursor = drivers.connect(url).connection.cursor()
    cursor.execute("XA START 'somebody'")
    cursor.execute("INSERT INTO accounts VALUES ('somebody', 1)")
    cursor.execute("XA END 'somebody'")
    cursor.execute("XA PREPARE 'somebody'")
    cursor.connection.close()


PREPARE_FOREIGN = {"bank": prepare_somebody_postgresql, "maria": prepare_somebody_mariadb}


# -- MariaDB ------------------------------------------------------------------------------------------------------


def test_a_healthy_mariadb_has_no_trouble_but_the_flush_of_this_server(maria: MariaDbBank) -> None:
    rows = look(maria.url).rows
    row = having(rows, "innodb_flush_log_at_trx_commit is 2")
    assert troubles(rows) == [row]
    assert row.verdict is Severity.WARNING
    maria.sql(row.mend.partition(",")[0])
    try:
        assert not troubles(look(maria.url).rows)
    finally:
        maria.sql("SET GLOBAL innodb_flush_log_at_trx_commit = 2")


def test_mariadb_without_marks_cannot_take_part(maria: MariaDbBank) -> None:
    maria.sql("DROP TABLE raftcoord_marks")
    row = having(look(maria.url).rows, "no table raftcoord_marks")
    assert (row.verdict, row.mend) == (Severity.ERROR, f"raftcoord resource init {NAME}")


def test_marks_outside_innodb_prove_nothing(maria: MariaDbBank) -> None:
    maria.sql("ALTER TABLE raftcoord_marks ENGINE = MyISAM")
    row = having(look(maria.url).rows, "raftcoord_marks is a table of MyISAM")
    assert row.verdict is Severity.ERROR
    maria.sql(row.mend)
    lacking(look(maria.url).rows, "MyISAM")


@pytest.mark.parametrize(
    ("granted", "part", "verdict"),
    [
        ("SELECT, INSERT", "DELETE command denied", Severity.WARNING),
        ("SELECT, DELETE", "INSERT command denied", Severity.ERROR),
        ("INSERT, DELETE", "raftcoord_marks cannot be read", Severity.ERROR),
    ],
)
def test_each_right_on_the_marks_is_missed(maria: MariaDbBank, granted: str, part: str, verdict: Severity) -> None:
    maria.sql("CREATE USER 'poor'@'%'")
    maria.sql(f"GRANT {granted} ON {maria.database}.raftcoord_marks TO 'poor'@'%'")
    url = maria.url.replace("root@", "poor@")
    try:
        row = having(look(url).rows, part)
        assert row.verdict is verdict
        with pymysql.connect(host="127.0.0.1", port=maria.server.port, user="root") as nowhere:
            nowhere.cursor().execute(row.mend)  # whatever database an administrator is in
        lacking(look(url).rows, "denied", "cannot be read")
    finally:
        maria.sql("DROP USER 'poor'@'%'")


def test_a_read_only_server_cannot_take_part(maria: MariaDbBank) -> None:
    maria.sql("SET GLOBAL read_only = 1")
    try:
        row = having(look(maria.url).rows, "read_only")
        assert row.verdict is Severity.ERROR
    finally:
        maria.sql("SET GLOBAL read_only = 0")


def test_an_old_branch_in_mariadb_is_an_orphan_by_the_age_of_its_transaction(maria: MariaDbBank) -> None:
    old, fresh = new_gid(age_s=75), new_gid()
    leave_prepared(maria, old)
    leave_prepared(maria, fresh)
    rows = judged(maria.url, {old.txid: State.UNDECIDED})
    assert having(rows, "orphan", str(old), "UNDECIDED").verdict is Severity.ERROR
    lacking(rows, str(fresh))
    assert having(rows, "1 of this cluster, for less than").verdict is Severity.OK


def test_a_branch_that_a_slow_program_is_just_committing_is_no_orphan(
    maria: MariaDbBank, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its transaction is old and MariaDB tells no age: the second look finds it gone."""
    gid = new_gid(age_s=75)
    leave_prepared(maria, gid)
    sleep = time.sleep

    def second_look(seconds: float) -> None:
        """Only the doctor's own: the thread that gives up statements which hang sleeps too."""
        if seconds == databases.SECOND_LOOK_S:
            maria.other.run(maria.dialect.rollback_prepared(gid))
        else:
            sleep(seconds)

    monkeypatch.setattr(time, "sleep", second_look)
    lacking(judged(maria.url), "orphan")


# -- SQLite, and what cannot be reached -----------------------------------------------------------------------------


def test_an_orphan_in_sqlite_freezes_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepared, "ORPHAN_S", 0.0)
    bank = SqliteBank(tmp_path / "bank.db")
    gid = new_gid()
    leave_prepared(bank, gid)
    assert having(judged(bank.url), "orphan", str(gid)).verdict is Severity.ERROR
    bank.close()


def test_a_sqlite_file_that_does_not_suit_is_an_error_with_a_way_out(tmp_path: Path) -> None:
    bank = SqliteBank(tmp_path / "bank.db")
    assert having(look(bank.url).rows, "set-up").verdict is Severity.OK
    bank.sql("CREATE VIRTUAL TABLE words USING fts5(text)")
    row = having(look(bank.url).rows, "is virtual")
    assert row.verdict is Severity.ERROR
    assert row.mend == "keep it in another file"
    assert having(look(bank.url).rows, "file system")
    bank.close()


@pytest.mark.parametrize(
    "url", ["postgresql://u:geheim@127.0.0.1:1/x", "mysql://u:geheim@127.0.0.1:1/x", "sqlite:////not/there.db"]
)
def test_what_cannot_be_reached_is_said_without_the_password(url: str) -> None:
    looked = look(url)
    row = having(looked.rows, REACHABLE)
    assert row.verdict is Severity.ERROR
    assert row.mend
    assert looked.found is None
    assert "geheim" not in str(looked)


def test_a_refused_password_is_not_shown(maria: MariaDbBank) -> None:
    maria.sql("CREATE USER 'shy'@'%' IDENTIFIED BY 'right'")
    try:
        looked = look(maria.url.replace("root@", "shy:geheim@"))
        assert "denied" in having(looked.rows, "shy").what
        assert "geheim" not in str(looked)
    finally:
        maria.sql("DROP USER 'shy'@'%'")


def test_a_variable_that_is_not_set_is_named() -> None:
    looked = look("postgresql://u:${NOT_SET_ANYWHERE}@127.0.0.1:1/x")
    row = having(looked.rows, "NOT_SET_ANYWHERE")
    assert row.verdict is Severity.ERROR
    assert "export" in row.mend


def test_a_missing_driver_is_an_error_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = dataclasses.replace(named("postgresql"), drivers=())
    monkeypatch.setattr(registry, "DATABASES", (absent,))
    row = having(look("postgresql://u@127.0.0.1:1/x").rows, "no driver for postgresql")
    assert row.verdict is Severity.ERROR
    assert "pip install" in row.what
