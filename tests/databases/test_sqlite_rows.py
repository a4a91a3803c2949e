"""What a SQLite branch commits is what its block saw: any statements, whoever commits it, with whatever settings."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from fuzz.effort import examples
from hypothesis import given
from hypothesis import strategies as st

from raftcoord import LocalProtocolError, TxId
from raftcoord.databases import drivers, gid
from raftcoord.databases.gid import Gid
from raftcoord.databases.registry import named
from raftcoord.databases.session import DriverSession
from raftcoord.databases.sqlite.dialect import Sqlite
from raftcoord.databases.sqlite.drivers import SqliteSession
from raftcoord.databases.sqlite.rows import REPLAY_FAILED
from raftcoord.databases.steps import BranchEnded, Effect, NotPossible, Result, SqlError, Statement

LITE = named("sqlite").dialect
CLUSTER = "00000000000000aa"
FAST = "/dev/shm" if Path("/dev/shm").is_dir() else None
"""A kill, unlike a power cut, does not need a disk."""
Dump = dict[str, list[tuple[Any, ...]]]

SCHEMA = """
CREATE TABLE a (id INTEGER PRIMARY KEY AUTOINCREMENT, t TEXT UNIQUE COLLATE NOCASE, r REAL, x,
    low TEXT GENERATED ALWAYS AS (lower(t)) STORED, long AS (length(t)) VIRTUAL);
CREATE INDEX a_r ON a (r) WHERE x IS NOT NULL;
CREATE INDEX a_x ON a (abs(r), low);
CREATE TABLE w (k TEXT COLLATE NOCASE, n, v, PRIMARY KEY (k, n)) WITHOUT ROWID;
CREATE TABLE p (id INTEGER PRIMARY KEY, name UNIQUE);
CREATE TABLE c (id INTEGER PRIMARY KEY, p INT REFERENCES p ON DELETE CASCADE ON UPDATE CASCADE,
    q INT REFERENCES p DEFERRABLE INITIALLY DEFERRED, n REFERENCES p (name) DEFERRABLE INITIALLY DEFERRED);
CREATE TABLE "odd ""t'" (rowid, "x y" DEFAULT (random()), at DEFAULT CURRENT_TIMESTAMP, b BLOB);
CREATE VIEW both AS SELECT id, t FROM a;
INSERT INTO a (t, r, x) VALUES ('one', 1, NULL), ('two', -0.0, x'00'), ('three', 9e999, 'three');
INSERT INTO w VALUES ('k', 1, 1), ('k', 2, 2), ('L', 1.5, NULL);
INSERT INTO p VALUES (1, 'x'), (2, 'y'), (3, NULL);
INSERT INTO c VALUES (1, 1, 2, 'x'), (2, 2, NULL, NULL), (3, NULL, 3, 'y');
INSERT INTO "odd ""t'" (rowid) VALUES ('not the rowid'), (7);
"""
TRIGGERS = """
CREATE TABLE log (what, id, at);
CREATE TRIGGER a_log AFTER UPDATE ON a BEGIN INSERT INTO log VALUES ('update', NEW.id, random()); END;
CREATE TRIGGER a_gone AFTER DELETE ON a BEGIN INSERT INTO log VALUES ('delete', OLD.id, random()); END;
CREATE TRIGGER a_touch AFTER INSERT ON a BEGIN UPDATE a SET x = random() WHERE id = NEW.id AND x IS NULL; END;
CREATE TRIGGER w_skip BEFORE INSERT ON w WHEN NEW.v = 3 BEGIN SELECT RAISE(IGNORE); END;
CREATE TRIGGER both_in INSTEAD OF INSERT ON both BEGIN INSERT INTO a (id, t) VALUES (NEW.id, NEW.t); END;
"""


def create(path: Path, script: str = SCHEMA) -> None:
    with closing(sqlite3.connect(path)) as made:
        made.executescript(script)


def dump(connection: sqlite3.Connection) -> Dump:
    """Every table with the exact values, and the schema, but nothing of raftcoord's."""
    text_factory, connection.text_factory = connection.text_factory, bytes
    cursor = connection.cursor()
    cursor.row_factory = None
    try:
        found: Dump = {}
        tables = cursor.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table'").fetchall()
        schemas = {name.decode(): sql.decode() for name, sql in tables}
        for name in schemas:
            if not name.startswith("raftcoord_"):
                quoted = '"' + name.replace('"', '""') + '"'
                found[name] = sorted(cursor.execute(f"SELECT * FROM {quoted}").fetchall(), key=repr)
                columns = [f'"{row[1].decode()}"' for row in cursor.execute(f"PRAGMA table_xinfo({quoted})").fetchall()]
                types = ", ".join(f"typeof({column})" for column in columns)
                rowid = "0" if "WITHOUT ROWID" in schemas[name] else "oid"
                found[f"{name}: types"] = sorted(cursor.execute(f"SELECT {rowid}, {types} FROM {quoted}").fetchall())
        found["schema"] = cursor.execute(
            "SELECT type, name, tbl_name, sql FROM sqlite_master WHERE substr(name, 1, 10) <> 'raftcoord_' "
            "AND substr(tbl_name, 1, 10) <> 'raftcoord_' ORDER BY 1, 2"
        ).fetchall()
        return {name: [tuple(map(repr, row)) for row in rows] for name, rows in found.items()}
    finally:
        cursor.close()
        connection.text_factory = text_factory


def begin(connection: sqlite3.Connection) -> tuple[Gid, DriverSession]:
    made = gid.make(CLUSTER, TxId.new(), "bank")
    session = drivers.session(connection, made.branch)
    session.enter()
    session.run(LITE.begin(made, checked=False))
    return made, session


def prepare(made: Gid, session: DriverSession, dialect: Any = LITE) -> None:
    session.check_work()
    session.run(dialect.prepare(made, marks=True))


def vote(made: Gid, session: DriverSession, dialect: Any = LITE) -> None:
    """As a program does it: what cannot be prepared is rolled back."""
    try:
        prepare(made, session, dialect)
    except (NotPossible, BranchEnded):
        session.run(LITE.rollback(made, touched=True))
        session.clean()
        raise


VALUES = st.one_of(
    st.none(),
    st.integers(-3, 6),
    st.sampled_from([2**63 - 1, -(2**63)]),
    st.sampled_from([0.0, -0.0, 0.1, 1.0, float("inf"), float("-inf"), 5e-324, 1e300]),
    st.sampled_from(["", "one", "ONE", "k", "K", "a\0b", "ü", "1", "1.0", "01", "x", "y"]),
    st.sampled_from([b"", b"\0", b"\xff\xfe", b"one"]),
)
NOT_DETERMINISTIC = ("random()", "CURRENT_TIMESTAMP", "randomblob(3)", "mine()", "julianday('now')")
EXPRESSIONS = st.sampled_from(
    [
        "?",
        "?",
        "?",
        "CAST(x'fffe31' AS TEXT)",
        "-0.0",
        "'a' LIKE 'A'",
        "changes()",
        "last_insert_rowid()",
        *NOT_DETERMINISTIC,
    ]
)
STATEMENTS = st.sampled_from(
    [
        "INSERT INTO a (t, r, x) VALUES ({0}, {1}, {2})",
        "INSERT INTO a (id, t, x) VALUES ({0}, {1}, {2}) RETURNING id, low",
        "INSERT OR REPLACE INTO a (id, t, x) VALUES ({0}, {1}, {2})",
        "INSERT OR IGNORE INTO a (id, t, x) VALUES (1, {0}, {1}), (9, {2}, 1)",
        "INSERT OR FAIL INTO a (t, x) VALUES ({0}, 1), ('two', {1}), ('never', {2})",
        "INSERT INTO a (t, x) VALUES ({0}, 1), ('two', {1}), ('never', {2})",
        "INSERT INTO a (t) VALUES ({0}) ON CONFLICT DO UPDATE SET x = {1}, r = {2}",
        "UPDATE a SET x = {0} WHERE t LIKE 'ONE' OR r > {1}",
        "UPDATE a SET id = id + 100, r = {0} WHERE id < 3",
        "UPDATE OR REPLACE a SET t = {0} WHERE id = {1}",
        "UPDATE OR IGNORE a SET t = {0}",
        "UPDATE OR FAIL a SET t = {0}",
        "DELETE FROM a WHERE id = {0}",
        "DELETE FROM a",
        "INSERT INTO a (t, x) SELECT t || {0}, x FROM a",
        "INSERT INTO both VALUES ({0}, {1})",
        "INSERT INTO w VALUES ({0}, {1}, {2})",
        "REPLACE INTO w VALUES ({0}, {1}, {2})",
        "INSERT INTO w VALUES ({0}, {1}, 1), ('k', 1, 2), ('never', 1, 1)",
        "UPDATE w SET k = {0} WHERE n = {1}",
        "UPDATE w SET k = upper(k), v = {0}",
        "UPDATE OR REPLACE w SET n = {0}",
        "DELETE FROM w WHERE k = {0}",
        "INSERT INTO p VALUES ({0}, {1})",
        "UPDATE p SET id = {0} WHERE id = {1}",
        "UPDATE p SET name = {0} WHERE id = {1}",
        "DELETE FROM p WHERE id = {0}",
        "REPLACE INTO p VALUES ({0}, {1})",
        "INSERT INTO c VALUES ({0}, NULL, {1}, {2})",
        "UPDATE c SET p = {0} WHERE id = {1}",
        "UPDATE c SET q = {0} WHERE id = {1}",
        "DELETE FROM c WHERE id = {0}",
        'INSERT INTO "odd ""t\'" (rowid, b) VALUES ({0}, {1})',
        'UPDATE "odd ""t\'" SET b = {0}, rowid = {1}',
        'DELETE FROM "odd ""t\'" WHERE b IS {0}',
        "DELETE FROM sqlite_sequence",
        "WITH n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 300) INSERT INTO w SELECT {0}, i, {1} FROM n",
        "SAVEPOINT s",
        "SAVEPOINT s",
        "ROLLBACK TO s",
        "RELEASE s",
    ]
)


@st.composite
def programs(draw: st.DrawFn) -> list[tuple[str, tuple[Any, ...]]]:
    made = []
    for _ in range(draw(st.integers(1, 9))):
        sql = draw(STATEMENTS)
        expressions = [draw(EXPRESSIONS) for _ in range(3) if f"{{{_}}}" in sql]
        values = tuple(draw(VALUES) for each in expressions if each == "?")
        made.append((sql.format(*expressions), values))
    return made


SETTINGS = st.fixed_dictionaries(
    {
        "foreign_keys": st.booleans(),
        "recursive_triggers": st.booleans(),
        "case_sensitive_like": st.booleans(),
        "ignore_check_constraints": st.booleans(),
        "reverse_unordered_selects": st.booleans(),
    }
)


def connect(path: Path, pragmas: dict[str, bool]) -> sqlite3.Connection:
    made = sqlite3.connect(path)
    for name, value in pragmas.items():
        made.execute(f"PRAGMA {name} = {int(value)}")
    return made


def outcome(execute: Callable[..., Any], sql: str, values: tuple[Any, ...]) -> str:
    try:
        execute(sql, values).fetchall()
    except sqlite3.Error as error:
        return str(error)
    return "done"


@examples(40)
@given(programs(), SETTINGS, SETTINGS, st.booleans(), st.booleans())
def test_what_is_committed_is_what_the_block_saw_whatever_it_did(
    program: list[tuple[str, tuple[Any, ...]]],
    ours: dict[str, bool],
    theirs: dict[str, bool],
    triggers: bool,
    here: bool,
) -> None:
    with TemporaryDirectory(dir=FAST) as directory:
        paths = [Path(directory, name) for name in ("branch.db", "plain.db")]
        create(paths[0], SCHEMA + TRIGGERS * triggers)
        shutil.copyfile(*paths)
        connection, plain = (connect(path, ours) for path in paths)
        counter = iter(range(1000))
        for each in (connection, plain):
            each.create_function("mine", 0, lambda: next(counter))
        plain.isolation_level = None
        plain.execute("BEGIN IMMEDIATE")
        try:
            made, session = begin(connection)
        except NotPossible:
            assert triggers
            return
        is_exact = not triggers
        for sql, values in program:
            try:
                said = outcome(session.given.execute, sql, values)
            except LocalProtocolError:
                assert "REPLACE" in sql
                continue
            is_exact = is_exact and not any(word in sql for word in ('INTO "odd', "changes()", *NOT_DETERMINISTIC))
            assert outcome(plain.execute, sql, values) == said or not is_exact
        seen = dump(connection)
        if is_exact:
            assert {**seen, "schema": []} == {**dump(plain), "schema": []}
        would_commit = outcome(plain.execute, "COMMIT", ())
        before = dump(sqlite3.connect(paths[0]))
        try:
            vote(made, session)
        except NotPossible:
            assert "sqlite_sequence" in str(program) or would_commit != "done" or not is_exact
            assert dump(sqlite3.connect(paths[0])) == before
            return
        assert would_commit == "done" or not is_exact
        assert dump(sqlite3.connect(paths[0])) == before
        if here:
            assert session.run(LITE.commit_prepared_here(made)) is Effect.COMMITTED
            session.clean()
        else:
            session.close()
        other = connect(paths[0], theirs)
        assert drivers.session(other, made.branch).run(LITE.commit_prepared(made)) is Effect.COMMITTED
        assert dump(other) == seen
        assert other.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        for table in ("raftcoord_open", "raftcoord_touched", "raftcoord_prepared"):
            assert other.execute(f"SELECT * FROM {table}").fetchall() == []
        for name, value in theirs.items():
            if name != "case_sensitive_like":
                assert other.execute(f"PRAGMA {name}").fetchone() == (int(value),)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "bank.db"
    create(made)
    return made


WORK = (
    "UPDATE a SET x = random() WHERE t LIKE 'ONE'",
    "REPLACE INTO w VALUES ('K', 2, random())",
    "UPDATE p SET id = id + 10 WHERE id = 1",
    'INSERT INTO "odd ""t\'" DEFAULT VALUES',
)


def kill_at(at: int, *, behind: bool) -> Callable[[Any, Statement], Result]:
    """The session's execute, with a kill -9 of this process at the ``at``-th statement."""
    execute, left = SqliteSession.execute, iter(range(at, -1, -1))

    def killing(session: SqliteSession, statement: Statement) -> Result:
        is_last = next(left) == 0
        if is_last and not behind:
            os.kill(os.getpid(), signal.SIGKILL)
        try:
            return execute(session, statement)
        finally:
            if is_last:
                os.kill(os.getpid(), signal.SIGKILL)

    return killing


def in_a_process(program: Callable[[], None]) -> bool:
    """Whether it came to its end, and was not killed."""
    pid = os.fork()
    if pid == 0:
        try:
            program()
            os._exit(0)
        finally:
            os._exit(1)
    status = os.waitpid(pid, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return not os.WIFSIGNALED(status)


@pytest.mark.parametrize(("journal", "behind"), [("delete", False), ("wal", True)])
def test_killed_at_any_statement_another_process_with_other_settings_commits_what_the_block_saw_or_nothing(
    journal: str, behind: bool
) -> None:
    with TemporaryDirectory(dir=FAST) as directory:
        kill_everywhere(Path(directory), journal, behind)


def kill_everywhere(tmp_path: Path, journal: str, behind: bool) -> None:
    at, finished, effects = 0, False, set()
    seen_at = tmp_path / "seen"
    while not finished:
        path = tmp_path / f"{at}.db"
        create(path, f"PRAGMA journal_mode = {journal};" + SCHEMA)
        bank = drivers.connect(f"sqlite:///{path}")
        bank.run(LITE.create_marks())
        bank.close()
        before = dump(sqlite3.connect(path))
        made = gid.make(CLUSTER, TxId.new(), "bank")

        def program(path: Path = path, made: Gid = made, at: int = at) -> None:
            session = drivers.session(sqlite3.connect(path), made.branch)
            session.enter()
            session.connection.execute("PRAGMA foreign_keys = ON")
            SqliteSession.execute = kill_at(at, behind=behind)  # type: ignore[method-assign]
            session.run(LITE.begin(made, checked=False))
            for sql in WORK:
                session.given.execute(sql)
            seen_at.write_text(repr(dump(session.connection)))
            prepare(made, session)
            session.run(LITE.commit_prepared_here(made))
            session.clean()

        finished = in_a_process(program)
        theirs = connect(path, {"case_sensitive_like": True, "foreign_keys": True, "recursive_triggers": True})
        session = drivers.session(theirs, made.branch)
        effect = session.run(LITE.commit_prepared(made))
        effects.add(effect)
        if effect is Effect.COMMITTED:
            assert repr(dump(theirs)) == seen_at.read_text()
        else:
            assert dump(theirs) == before
        theirs.execute("INSERT INTO p (name) VALUES ('free again')")
        theirs.close()
        at += 1
    assert {Effect.COMMITTED, Effect.ABSENT} <= effects
    assert at > 40


def prepared(path: Path, *statements: str, **pragmas: bool) -> tuple[Gid, Dump]:
    """A branch prepared by a program that has gone, and what it saw last."""
    connection = connect(path, pragmas)
    made, session = begin(connection)
    for sql in statements:
        session.given.execute(sql)
    seen = dump(connection)
    prepare(made, session)
    session.close()
    return made, seen


def commit(path: Path, made: Gid, **pragmas: bool) -> Dump:
    connection = connect(path, pragmas)
    assert drivers.session(connection, made.branch).run(LITE.commit_prepared(made)) is Effect.COMMITTED
    return dump(connection)


def roll_back(path: Path, made: Gid) -> None:
    session = drivers.connect(f"sqlite:///{path}")
    assert session.run(LITE.rollback_prepared(made)) is Effect.ABSENT
    session.close()


def test_a_setting_of_the_one_who_commits_has_no_say_in_it(path: Path) -> None:
    made, seen = prepared(path, "DELETE FROM a WHERE t LIKE 'ONE'", case_sensitive_like=True)
    assert commit(path, made, case_sensitive_like=False) == seen


def test_the_programs_triggers_are_not_run_twice_and_stay(path: Path) -> None:
    with closing(sqlite3.connect(path)) as made:
        made.executescript(TRIGGERS)
    branch, seen = prepared(
        path, "UPDATE a SET r = 2", "INSERT INTO both VALUES (50, 'by a view')", "DELETE FROM a WHERE id = 2"
    )
    assert commit(path, branch) == seen
    assert len(seen["log"]) == 5


def test_a_row_that_replace_took_away_is_gone(path: Path) -> None:
    made, seen = prepared(path, "INSERT OR REPLACE INTO a (id, t) VALUES (1, 'TWO')")
    assert [row[0] for row in seen["a"]] == ["1", "3"]
    assert commit(path, made) == seen


def test_what_a_failed_statement_left_is_committed(path: Path) -> None:
    connection = sqlite3.connect(path)
    made, session = begin(connection)
    for sql in (
        "INSERT OR FAIL INTO p VALUES (7, 'seven'), (1, 'taken')",
        "INSERT INTO p VALUES (8, 'eight'), (1, 'taken')",
    ):
        with pytest.raises(sqlite3.IntegrityError):
            session.given.execute(sql)
    seen = dump(connection)
    prepare(made, session)
    session.close()
    assert commit(path, made) == seen
    assert "7" in str(seen["p"])
    assert "8" not in str(seen["p"])


def test_the_callers_factories_and_converters_have_no_say_in_it(path: Path) -> None:
    connection = sqlite3.connect(path, detect_types=sqlite3.PARSE_DECLTYPES | sqlite3.PARSE_COLNAMES)
    connection.text_factory = lambda raw: raw.decode(errors="replace").upper()
    connection.row_factory = sqlite3.Row
    made, session = begin(connection)
    session.given.execute("INSERT INTO a (t, x) VALUES ('aB', CAST(x'ff61' AS TEXT))")
    assert session.given.execute("SELECT t FROM a WHERE t = 'aB'").fetchone()["t"] == "AB"
    seen = dump(connection)
    prepare(made, session)
    session.close()
    assert commit(path, made) == seen


REFUSED: list[tuple[str, str, str]] = [
    ("CREATE TABLE t (x COLLATE ours, y); CREATE INDEX i ON t (x)", "INSERT INTO t VALUES (1, 2)", "no such collation"),
    ("CREATE TABLE t (x); CREATE INDEX i ON t (mine(x))", "INSERT INTO t VALUES (1)", "mine"),
    ("CREATE TABLE t (x, y AS (mine(x)) STORED)", "INSERT INTO t VALUES (1)", "mine"),
    ("", "DELETE FROM sqlite_sequence", "not shown"),
    ("", "DELETE FROM raftcoord_marks", "not shown"),
    ("", "INSERT INTO c (q) VALUES (99)", "FOREIGN KEY"),
    ("", "DELETE FROM p WHERE id = 2", "FOREIGN KEY"),
    ("", "UPDATE p SET name = 'X' WHERE name = 'x'", "FOREIGN KEY"),
    ("", "UPDATE c SET n = 'nobody'", "FOREIGN KEY"),
]


@pytest.mark.parametrize(("schema", "sql", "why"), REFUSED)
def test_what_another_program_could_not_commit_is_a_no_with_the_reason(
    path: Path, schema: str, sql: str, why: str
) -> None:
    connection = connect(path, {"foreign_keys": True})
    connection.create_collation("ours", lambda one, two: (one > two) - (one < two))
    connection.create_function("mine", 1, lambda value: value, deterministic=True)
    connection.executescript(schema)
    drivers.session(connection, gid.make(CLUSTER, TxId.new(), "bank").branch).run(LITE.create_marks())
    connection.execute("INSERT INTO raftcoord_marks VALUES ('of another transaction', 1)")
    connection.commit()
    before = dump(connection)
    made, session = begin(connection)
    session.given.execute(sql)
    with pytest.raises(NotPossible, match=why):
        vote(made, session)
    assert dump(connection) == before
    connection.execute("UPDATE p SET name = name")
    connection.close()


def test_a_check_or_a_trigger_with_a_function_of_the_programs_is_no_hindrance(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.create_function("mine", 1, lambda value: value, deterministic=True)
    connection.executescript(
        "CREATE TABLE t (x CHECK (mine(x) < 9)); CREATE TRIGGER g AFTER INSERT ON t BEGIN UPDATE t SET x = mine(x); END"
    )
    made, session = begin(connection)
    session.given.execute("INSERT INTO t VALUES (mine(8))")
    seen = dump(connection)
    prepare(made, session)
    session.close()
    assert commit(path, made) == seen


KEEPS_OUT = [
    ("PRAGMA locking_mode = EXCLUSIVE", "locking_mode"),
    ("CREATE TABLE t (rowid, oid, _rowid_)", "called rowid, oid and _rowid_"),
    ("CREATE TABLE t (a, b, c, d, e, f, g, h, i, PRIMARY KEY (a, b, c, d, e, f, g, h, i)) WITHOUT ROWID", "at most 8"),
    ("CREATE TRIGGER g AFTER DELETE ON p BEGIN REPLACE INTO p VALUES (9, 9); END", "'g' may take rows away by REPLACE"),
    (
        "CREATE TABLE t (x UNIQUE ON CONFLICT REPLACE); CREATE TRIGGER g AFTER DELETE ON p BEGIN SELECT 1; END",
        "'t' may take rows away by REPLACE",
    ),
    (
        "PRAGMA recursive_triggers = 1; CREATE TRIGGER g AFTER UPDATE ON p BEGIN SELECT RAISE(IGNORE); END",
        "RAISE.IGNORE",
    ),
]


@pytest.mark.parametrize(("script", "why"), KEEPS_OUT)
def test_a_file_in_which_changes_cannot_be_seen_is_refused_when_the_branch_begins(
    path: Path, script: str, why: str
) -> None:
    connection = sqlite3.connect(path)
    connection.executescript(script)
    session = drivers.session(connection, gid.make(CLUSTER, TxId.new(), "bank").branch)
    session.enter()
    with pytest.raises(NotPossible, match=why):
        session.run(LITE.begin(gid.make(CLUSTER, TxId.new(), "bank"), checked=False))
    session.clean()
    assert not connection.in_transaction
    connection.close()


def test_a_primary_key_of_eight_columns_is_served(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(
            "CREATE TABLE t (a, b, c, d, e, f, g, h, v, PRIMARY KEY (h, g, f, e, d, c, b, a)) WITHOUT ROWID"
        )
    made, seen = prepared(path, "INSERT INTO t VALUES (1, 2, 'x', 4, 5, 6, 7, x'08', 9)", "UPDATE t SET v = 10, a = 0")
    assert commit(path, made) == seen


def test_a_file_in_utf_16_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "wide.db"
    create(path, "PRAGMA encoding = 'UTF-16le';" + SCHEMA)
    session = drivers.session(sqlite3.connect(path), gid.make(CLUSTER, TxId.new(), "bank").branch)
    session.enter()
    with pytest.raises(NotPossible, match="use UTF-8"):
        session.run(LITE.begin(gid.make(CLUSTER, TxId.new(), "bank"), checked=False))
    session.close()


def test_replace_beside_triggers_of_the_programs_is_refused_and_the_branch_goes_on(path: Path) -> None:
    with closing(sqlite3.connect(path)) as made:
        made.executescript(TRIGGERS)
    connection = sqlite3.connect(path)
    branch, session = begin(connection)
    with pytest.raises(LocalProtocolError, match="recursive_triggers = ON"):
        session.given.execute("INSERT OR REPLACE INTO a (id, t) VALUES (1, 'two')")
    session.given.execute("UPDATE a SET t = replace(t, 'o', 'q')")
    seen = dump(connection)
    prepare(branch, session)
    session.close()
    assert commit(path, branch) == seen


def test_or_rollback_ends_the_branch(path: Path) -> None:
    connection = sqlite3.connect(path)
    before = dump(connection)
    made, session = begin(connection)
    session.given.execute("UPDATE p SET name = NULL")
    with pytest.raises(sqlite3.IntegrityError):
        session.given.execute("INSERT OR ROLLBACK INTO p VALUES (1, 1)")
    with pytest.raises(BranchEnded):
        vote(made, session)
    assert dump(connection) == before
    connection.close()


def test_a_program_that_commits_inside_leaves_nothing_of_ours_behind(path: Path) -> None:
    connection = sqlite3.connect(path)
    made, session = begin(connection)
    session.given.execute("UPDATE p SET name = NULL")
    connection.execute("COMMIT")
    with pytest.raises(BranchEnded):
        vote(made, session)
    connection.execute("UPDATE p SET name = NULL")
    connection.commit()
    for table in ("raftcoord_open", "raftcoord_touched", "raftcoord_prepared"):
        assert connection.execute(f"SELECT * FROM {table}").fetchall() == []
    connection.close()


def test_a_schema_changed_beside_the_recorder_is_a_no(path: Path) -> None:
    connection = sqlite3.connect(path)
    made, session = begin(connection)
    session.given.execute("UPDATE p SET name = NULL")
    connection.execute("ALTER TABLE p ADD COLUMN more")
    with pytest.raises(NotPossible, match="worked on beside"):
        vote(made, session)
    connection.close()


@pytest.mark.parametrize("room", [0, -1])
def test_the_rows_of_a_branch_are_bounded(path: Path, room: int) -> None:
    made, _ = prepared(path, "UPDATE p SET name = 'x' || id || hex(zeroblob(500))")
    with closing(sqlite3.connect(path)) as connection:
        ((size,),) = connection.execute("SELECT length(work) FROM raftcoord_prepared").fetchall()
    roll_back(path, made)
    connection = sqlite3.connect(path)
    again, session = begin(connection)
    session.given.execute("UPDATE p SET name = 'x' || id || hex(zeroblob(500))")
    if room:
        with pytest.raises(NotPossible, match=f"take {size} bytes, and at most {size - 1} can be prepared"):
            vote(again, session, Sqlite(work_bytes_max=size + room))
        assert connection.execute("SELECT count(*) FROM raftcoord_prepared").fetchone() == (0,)
    else:
        vote(again, session, Sqlite(work_bytes_max=size))
    connection.close()


def test_a_renamed_table_is_watched_by_its_new_name(path: Path) -> None:
    prepared_before, _ = prepared(path, "UPDATE p SET name = NULL")
    roll_back(path, prepared_before)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("ALTER TABLE w RENAME TO v")
        connection.execute("ALTER TABLE v RENAME COLUMN k TO kk")
    made, seen = prepared(
        path.rename(path.with_name("moved.db")), "UPDATE v SET n = 7 WHERE n = 1", "DELETE FROM v WHERE n = 2"
    )
    assert commit(path.with_name("moved.db"), made) == seen


def test_what_another_version_has_prepared_is_left_to_it(path: Path) -> None:
    made, _ = prepared(path, "UPDATE p SET name = NULL")
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE raftcoord_prepared SET work = x'9300c290'")
        connection.commit()
        with pytest.raises(SqlError, match="another version") as raised:
            drivers.session(connection, made.branch).run(LITE.commit_prepared(made))
    assert raised.value.code == REPLAY_FAILED


def test_a_column_added_while_it_is_prepared_does_not_keep_it_from_being_committed(path: Path) -> None:
    made, _ = prepared(path, "UPDATE p SET name = 'new' WHERE id = 1", "INSERT INTO p VALUES (30, 'more')")
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("ALTER TABLE p ADD COLUMN more DEFAULT 5")
    assert {row[1:] for row in commit(path, made)["p"]} >= {("b'new'", "5"), ("b'more'", "5")}


def test_a_table_that_is_gone_when_it_is_committed_is_reported_and_nothing_is_committed(path: Path) -> None:
    made, _ = prepared(path, "UPDATE p SET name = 'new' WHERE id = 1", "INSERT INTO w VALUES ('z', 1, 1)")
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DROP TABLE w")
        with pytest.raises(SqlError, match="rows of table 'w'") as raised:
            drivers.session(connection, made.branch).run(LITE.commit_prepared(made))
        assert raised.value.code == REPLAY_FAILED
        assert connection.execute("SELECT name FROM p WHERE id = 1").fetchone() == ("x",)
        assert drivers.session(connection, made.branch).run(LITE.proof(made)) is Effect.PREPARED


def test_a_file_of_two_names_is_refused(path: Path) -> None:
    path.with_name("second.db").hardlink_to(path)
    session = drivers.session(sqlite3.connect(path), gid.make(CLUSTER, TxId.new(), "bank").branch)
    with pytest.raises(NotPossible, match="2 names"):
        session.enter()
    session.close()


def test_a_symbolic_link_leads_to_the_same_branch(path: Path) -> None:
    link = path.with_name("link.db")
    link.symlink_to(path)
    made, seen = prepared(link, "UPDATE p SET name = random()")
    with pytest.raises(sqlite3.IntegrityError, match="frozen"), closing(sqlite3.connect(path)) as writer:
        writer.execute("DELETE FROM p")
    assert commit(path, made) == seen
