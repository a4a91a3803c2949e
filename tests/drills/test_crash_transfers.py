"""Orders between PostgreSQL and MariaDB under kills: they hold on real servers, and the audit finds what does not."""

from __future__ import annotations

import math
import os
import random
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from raftcoord_cli.main import main

from raftcoord import ConfigError, RaftcoordError, TxId
from raftcoord.drills.catalog import drill_named
from raftcoord.drills.client_history import History, Told
from raftcoord.drills.journal import Begun, Journal
from raftcoord.drills.load import Load
from raftcoord.drills.options import DrillOptions
from raftcoord.drills.orders import HOME_BANK, Order, both_ways, opening_for
from raftcoord.drills.paying_programs import PayingProgram, PayingPrograms, PayingWork
from raftcoord.drills.transfers import orders_of, run
from raftcoord.processes.database_servers import DatabaseServer
from raftcoord.types import Branch, State

ORDERS = {n: Order(n, str(n), Branch("bank-aa"), str(n + 10), 100 * n, "") for n in (1, 2, 3)}


# -- on real servers ----------------------------------------------------------------------------------------------


def test_every_order_is_paid_once_whatever_is_killed(
    postgresql: DatabaseServer, mariadb: DatabaseServer, capsys: pytest.CaptureFixture[str]
) -> None:
    report = run(DrillOptions(transfers=100, workers=3))
    with capsys.disabled():
        print(f"\n  {report.verdict}", end=" ")
    assert report.held, report.verdict
    assert 0 < report.figures["commits_left_to_the_resolver"] < 100
    assert report.figures["payments"] == 200
    assert report.more["killed"]


# -- what is run --------------------------------------------------------------------------------------------------


def test_a_file_of_orders_is_used_again_until_there_are_enough(tmp_path: Path) -> None:
    file = tmp_path / "orders.tsv"
    rows = [
        "order_id\taccount_from\tbank_to\taccount_to\tamount\tpurpose",
        "77\t1\tAB\t2\t1.50\t",
        "78\t3\tCD\t4\t2.50\t",
    ]
    file.write_text("\n".join(rows) + "\n")
    orders = orders_of(DrillOptions(transfers=5, orders=file))
    assert [(order.order_id, order.cents) for order in orders] == [(1, 150), (2, 250), (3, 150), (4, 250), (5, 150)]


def test_odd_orders_go_one_way_and_even_ones_the_other() -> None:
    first, second, third = both_ways(ORDERS.values())
    assert (first, third) == (ORDERS[1], ORDERS[3])
    assert second.sides == (("bank-aa", "12", -200), (HOME_BANK, "2", 200))
    opening = opening_for([first, second, third], spare_cents=1)
    assert opening == {HOME_BANK: {"1": 101, "2": 0, "3": 301}, "bank-aa": {"11": 0, "12": 201, "13": 0}}


@pytest.mark.parametrize("wrong", [{"transfers": 0}, {"workers": 0}, {"workers": 33}, {"nodes": 1}, {"nodes": 4}])
def test_what_is_out_of_range_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        drill_named("databases-transfers").check(replace(DrillOptions(), **wrong))
    arguments = [f"--{name}={value}" for name, value in wrong.items()]
    assert CliRunner().invoke(main, ["drill", "databases", "transfers", *arguments]).exit_code == 2


def test_a_file_that_is_not_there_is_refused_before_anything_is_started(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["drill", "databases", "transfers", "--orders", str(tmp_path / "no.tsv")])
    assert (done.exit_code, "cannot read the orders" in done.output) == (2, True)


@pytest.mark.parametrize(
    "drill",
    [
        pytest.param(("transfers",), id="transfers", marks=pytest.mark.nightly),
        pytest.param(("crashes", "--few"), id="crashes"),
    ],
)
def test_ctrl_c_leaves_nothing_behind(
    postgresql: DatabaseServer, mariadb: DatabaseServer, tmp_path: Path, drill: tuple[str, ...]
) -> None:
    """As a terminal sends it: to every process of the group. It ends in order, and leaves no process and no file."""
    command = [sys.executable, "-c", "from raftcoord_cli.main import main; main()", "drill", "databases", *drill]
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        start_new_session=True,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if " paid, " in line or " of " in line:
            break
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=90)
    assert (process.returncode, "rror" in output) == (130, False), output
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("raftcoord")]
    assert not [pid for pid in _pids() if str(tmp_path) in _command_of(pid)]


def _pids() -> list[int]:
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]


def _command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def test_a_program_that_gives_up_is_named_with_its_last_words(tmp_path: Path) -> None:
    work = PayingWork(tmp_path, tmp_path / "absent.yaml", (ORDERS[1],), ("ledger", "orders"), math.inf)
    program = PayingProgram(work, 0, 1)
    with pytest.raises(RaftcoordError, match=r"absent\.yaml"):
        program.start()
    load = Load([], History(), random.Random(0))
    programs = PayingPrograms(work, [program], load)
    assert programs.fallen() == [], "nobody has started it"
    program.is_up = True
    assert programs.fallen() == [f"program-1 has ended by itself: {program.last_words()}"]
    assert "absent.yaml" in program.last_words()


def test_a_program_that_has_just_paid_all_and_ended_is_not_fallen(tmp_path: Path) -> None:
    """What it has written last may not have been read when its end is seen."""
    work = PayingWork(tmp_path, tmp_path / "cluster.yaml", (ORDERS[1],), ("ledger", "orders"), math.inf)
    program = PayingProgram(work, 0, 1)
    programs = PayingPrograms(work, [program], Load([], History(), random.Random(0)))
    program.is_up = True
    program.process.log_path.touch()
    assert programs.fallen() == ["program-1 has ended by itself: "]
    txid, journal = TxId.new(), Journal(program.journal)
    journal.write(Begun(txid, 1))
    journal.write(Told(txid, 0, "submit", 1.0, 2.0, "known", State.COMMITTED))
    assert programs.fallen() == []
