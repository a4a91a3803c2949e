"""The demo on real databases: everything is killed once and it holds; and it is not blind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raftcoord.databases import gid as gids
from raftcoord.demos import databases as databases_demo
from raftcoord.demos.databases import check_possible, run_databases_demo
from raftcoord.demos.demo import DemoOptions
from raftcoord.drills import trial
from raftcoord.drills.client_history import Told
from raftcoord.drills.database_banks import DatabaseBanks
from raftcoord.drills.database_faults import LEDGER, ORDERS
from raftcoord.drills.journal import Begun, HeldInCommit, Journal, JournalReader
from raftcoord.drills.orders import Generated, parse, written
from raftcoord.drills.paying_program import unfinished
from raftcoord.drills.props import Props
from raftcoord.drills.stage import Stage
from raftcoord.errors import ConfigError
from raftcoord.processes.database_servers import DatabaseServer, children_of
from raftcoord.types import State, TxId

COMMAND = [sys.executable, "-c", "from raftcoord_cli.main import main; main()", "demo", "--databases"]


@pytest.fixture
def servers(
    postgresql: DatabaseServer, mariadb: DatabaseServer, monkeypatch: pytest.MonkeyPatch
) -> Iterator[list[DatabaseServer]]:
    """The servers that the demo starts. The two of the session are here so that what is missing is skipped and said."""
    started: list[DatabaseServer] = []
    raise_databases = Props.raise_databases

    def noted(self: Props) -> None:
        raise_databases(self)
        started.extend(self.servers.values())

    monkeypatch.setattr(Props, "raise_databases", noted)
    yield started
    assert len(started) == 2
    for server in started:
        assert not server.directory.exists()
        assert server._process is not None
        assert server._process.poll() is not None


def test_everything_is_killed_once_and_every_order_is_paid_once_on_both_sides(servers: list[DatabaseServer]) -> None:
    report = run_databases_demo(DemoOptions(count=200, seed=2, databases=True))
    assert report.held, report.verdict
    assert report.verdict.startswith("HELD: demo --databases: ")
    assert report.directory is None
    leader, program, resolver, server = report.faults
    assert "the leader" in leader.what
    assert program.what == "kill -9 of program-1 after its decision to commit, before its commits"
    assert resolver.what == "kill -9 of the resolver, and of program-2 before its commits"
    assert server.what == "kill -9 of the PostgreSQL server"
    assert all(fault.healed for fault in report.faults)
    assert report.figures["orders_paid"] == report.figures["committed"] == 200
    assert report.figures["opening_cents"] == report.figures["closing_cents"]
    assert 0 < report.figures["locks_held_s_max"] < 30
    assert json.loads(json.dumps(report.to_json()))["held"] is True


def test_it_is_not_blind(servers: list[DatabaseServer], monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind the demo's back, before it looks: a credit that is gone, a payment that nobody made, branches left prepared."""
    monkeypatch.setattr(databases_demo, "strikes", lambda programs, seed: ())
    monkeypatch.setattr(databases_demo, "SPAN_S", 0.5)
    monkeypatch.setattr(trial, "QUIET_TIMEOUT_S", 0.5)
    quiet = Stage.quiet
    lost, stranger, left = [], TxId.new(), {LEDGER: TxId.new(), ORDERS: TxId.new()}

    async def tampered(stage: Stage, seconds: float) -> str:
        home, other = stage.props.banks[LEDGER], stage.props.banks[ORDERS]
        ((txid, bank, account, cents),) = other.rows("SELECT txid, bank, account, cents FROM payments LIMIT 1")
        lost.append(TxId.parse(txid))
        other.rows(f"DELETE FROM payments WHERE txid = '{txid}'")
        other.rows(f"UPDATE accounts SET cents = cents - {cents} WHERE bank = '{bank}' AND account = '{account}'")
        home.rows(f"INSERT INTO payments VALUES (1, '{stranger}', 'bank-home', '1', 0)")
        leave_prepared(home, left[LEDGER])
        leave_prepared(other, left[ORDERS])
        return await quiet(stage, seconds)

    monkeypatch.setattr(Stage, "quiet", tampered)
    report = run_databases_demo(DemoOptions(nodes=1, count=12, in_flight=2, databases=True))
    try:
        assert not report.held
        assert report.verdict.startswith("BROKEN: demo --databases: ")
        found = {(violation.kind, violation.txid) for violation in report.violations}
        assert found == {
            ("unsettled", None),
            ("half done", lost[0]),
            ("balance", lost[0]),
            ("money", None),
            ("stranger", stranger),
            ("left prepared", left[LEDGER]),
            ("left prepared", left[ORDERS]),
        }
        assert report.directory is not None
        assert {"PostgreSQL.log", "MariaDB.log", "history.jsonl"} <= {each.name for each in report.directory.iterdir()}
    finally:
        shutil.rmtree(report.directory or "", ignore_errors=True)


def leave_prepared(bank: DatabaseBanks, txid: TxId) -> None:
    """A branch of another cluster, which the resolver leaves alone."""
    gid = gids.make("00000000000000bb", txid, "stranger")
    with bank.outside() as session:
        if session.dialect.name == "postgresql":
            begin, *prepare = "BEGIN", f"PREPARE TRANSACTION '{gid}'"
        else:
            begin, *prepare = f"XA START {gid.xid}", f"XA END {gid.xid}", f"XA PREPARE {gid.xid}"
        cursor = session.connection.cursor()
        for statement in (begin, "UPDATE accounts SET cents = cents", *prepare):
            cursor.execute(statement)


# -- Ctrl-C, and what is missing ----------------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="what runs is read from /proc")
def test_ctrl_c_leaves_no_process_and_no_directory(
    postgresql: DatabaseServer, mariadb: DatabaseServer, tmp_path: Path
) -> None:
    with subprocess.Popen(
        COMMAND,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path), "PYTHONUNBUFFERED": "1"},
        start_new_session=True,
    ) as demo:
        assert demo.stdout is not None
        lines = []
        for line in demo.stdout:
            lines.append(line)
            if "the leader of term" in line:
                break
        own = {pid: _command(pid) for pid in children_of(demo.pid)}
        places = {word for command in own.values() for word in command if "raftcoord-db-" in word}
        assert len(places) >= 2, lines
        os.killpg(demo.pid, signal.SIGINT)
        demo.communicate(timeout=60)
    assert demo.returncode == 130
    assert list(tmp_path.iterdir()) == []
    for place in places:
        assert not Path(place.partition("=")[2] or place).exists()
    assert [pid for pid, command in own.items() if _command(pid) == command] == []


def _command(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except OSError:
        return []


def test_without_a_server_it_says_what_to_install_and_what_works_without(tmp_path: Path) -> None:
    done = subprocess.run(
        [*COMMAND, "-o", "json"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PATH": str(tmp_path), "TMPDIR": str(tmp_path)},
    )
    assert done.returncode == 2
    message = json.loads(done.stdout)["error"]["message"]
    assert "no MariaDB server was found (apt-get install mariadb-server-core" in message
    assert "`raftcoord demo` needs no database" in message
    assert list(tmp_path.iterdir()) == []


def test_without_drivers_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(databases_demo.servers, "missing", dict)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "pymysql" else name)
    with pytest.raises(ConfigError, match=r"pip install 'raftcoord\[databases\]'"):
        check_possible()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"nodes": 2}, "give 1, 3, 5 or 7"),
        ({"count": 0}, "give 1 to 1000000"),
        ({"in_flight": 1}, "give 2 to 16"),
        ({"in_flight": 17}, "give 2 to 16"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        DemoOptions(databases=True, **options)


# -- what a program leaves ----------------------------------------------------------------------------------------


def told(txid: TxId, state: State | None) -> Told:
    return Told(txid, 1, "submit", 1.0, 2.0, "unknown" if state is None else "known", state)


def test_a_journal_tells_the_next_program_what_is_paid_and_what_to_ask_for(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = Journal(path)
    paid, aborted, doubtful, killed = (TxId.new() for _ in range(4))
    for entry in (
        Begun(paid, 1),
        told(paid, State.COMMITTED),
        Begun(aborted, 2),
        told(aborted, State.ABORTED),
        Begun(doubtful, 3),
        told(doubtful, None),
        Begun(killed, 4),
        HeldInCommit(killed),
    ):
        journal.write(entry)
    assert unfinished(path) == ({1}, {3: doubtful, 4: killed})
    assert list(JournalReader(path).new())[:4] == [
        Begun(paid, 1),
        told(paid, State.COMMITTED),
        Begun(aborted, 2),
        told(aborted, State.ABORTED),
    ]


def test_a_line_that_was_half_written_at_the_kill_is_cut_off_and_the_reader_never_sees_it(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    first, second = Begun(TxId.new(), 1), Begun(TxId.new(), 2)
    reader = JournalReader(path)
    assert list(reader.new()) == []
    Journal(path).write(first)
    with path.open("ab") as file:
        file.write(b'{"Begun": {"txid": "01')
    assert list(reader.new()) == [first]
    Journal(path).write(second)
    assert list(reader.new()) == [second]
    assert list(JournalReader(path).new()) == [first, second]


def test_orders_are_written_as_they_are_read() -> None:
    generated = Generated(seed=5).orders()
    orders = tuple(next(generated) for _ in range(200))
    assert parse(written(orders), "written") == orders
