"""Orders between PostgreSQL and MariaDB under kills: they hold on real servers, and the audit finds what does not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from raftcoord_cli.main import main

from raftcoord import ConfigError, RaftcoordError, TxId
from raftcoord.drills.crashes_audit import Evidence, Payment, audit, expected, opening_of
from raftcoord.drills.crashes_payer import Entry, Word, read_journal
from raftcoord.drills.crashes_transfers import TransferOptions, _orders, run
from raftcoord.drills.crashes_worker import Worker
from raftcoord.drills.orders import Order
from raftcoord.drills.servers import MariaDbServer, PostgreSqlServer
from raftcoord.types import Branch, State

ORDERS = {n: Order(n, str(n), Branch("bank-aa"), str(n + 10), 100 * n, "") for n in (1, 2, 3)}


# -- on real servers ----------------------------------------------------------------------------------------------


def test_every_order_is_paid_once_whatever_is_killed(
    postgresql: PostgreSqlServer, mariadb: MariaDbServer, capsys: pytest.CaptureFixture[str]
) -> None:
    report = run(TransferOptions(transfers=100, workers=3))
    with capsys.disabled():
        print(f"\n  {report.verdict}", end=" ")
    assert report.held, report.verdict
    assert 0 < report.figures["commits_left_to_the_resolver"] < 100
    assert report.figures["payments"] == 200
    assert report.killed


@pytest.mark.nightly
def test_twenty_thousand_orders_are_paid_once_each(capsys: pytest.CaptureFixture[str]) -> None:
    report = run(TransferOptions(transfers=20_000, seed=int.from_bytes(os.urandom(3))))
    with capsys.disabled():
        print(json.dumps(report.to_json(), indent=1))
    assert report.held, report.verdict


# -- the audit finds it -------------------------------------------------------------------------------------------


def kept() -> Evidence:
    """Three orders paid; the second one at its second attempt."""
    opening = opening_of(ORDERS)
    journal, states, payments, closing = [], {}, [], dict(opening)
    for order in ORDERS.values():
        for word in (Word.ABORTED, Word.PAID) if order.order_id == 2 else (Word.LEFT,):
            txid = TxId.new()
            journal += [Entry(order.order_id, txid, Word.BEGUN), Entry(order.order_id, txid, word)]
            states[txid] = State.COMMITTED if word.paid else State.ABORTED
            if word.paid:
                payments += expected(order, txid)
    for side, _, _, bank, account, cents in payments:
        closing[side, bank, account] += cents
    return Evidence(ORDERS, journal, states, payments, opening, closing)


def found(evidence: Evidence) -> set[str]:
    return {violation.kind for violation in audit(evidence)}


def test_what_was_kept_is_held() -> None:
    assert audit(kept()) == []


def test_odd_orders_go_one_way_and_even_ones_the_other() -> None:
    assert [payment.side for payment in expected(ORDERS[1], TxId.new())] == [0, 1]
    assert [payment.side for payment in expected(ORDERS[2], TxId.new())] == [1, 0]
    assert {side for side, _, _ in opening_of(ORDERS)} == {0, 1}


def lose_a_side(evidence: Evidence) -> Evidence:
    return evidence._replace(payments=evidence.payments[1:])


def pay_twice(evidence: Evidence) -> Evidence:
    return evidence._replace(payments=[*evidence.payments, evidence.payments[0]])


def pay_what_was_aborted(evidence: Evidence) -> Evidence:
    aborted = next(txid for txid, state in evidence.states.items() if state is State.ABORTED)
    return evidence._replace(payments=[*evidence.payments, *expected(ORDERS[2], aborted)])


def pay_another_amount(evidence: Evidence) -> Evidence:
    first, *others = evidence.payments
    return evidence._replace(payments=[first._replace(cents=first.cents - 1), *others])


def pay_what_nobody_began(evidence: Evidence) -> Evidence:
    stray = Payment(0, 3, TxId.new(), "bank-home", "3", -1)
    return evidence._replace(payments=[*evidence.payments, stray])


def forget_the_order(evidence: Evidence) -> Evidence:
    return evidence._replace(journal=[entry for entry in evidence.journal if entry.order_id != 3])


def commit_a_second_attempt(evidence: Evidence) -> Evidence:
    return evidence._replace(states=dict.fromkeys(evidence.states, State.COMMITTED))


def abort_what_was_told_paid(evidence: Evidence) -> Evidence:
    return evidence._replace(states=dict.fromkeys(evidence.states, State.ABORTED))


def lose_a_cent(evidence: Evidence) -> Evidence:
    account = next(iter(evidence.closing))
    return evidence._replace(closing={**evidence.closing, account: evidence.closing[account] - 1})


@pytest.mark.parametrize(
    ("spoil", "kinds"),
    [
        (lose_a_side, {"lost", "money"}),
        (pay_twice, {"created", "money"}),
        (pay_what_was_aborted, {"created", "money"}),
        (pay_another_amount, {"created", "lost", "money"}),
        (pay_what_nobody_began, {"created", "money"}),
        (forget_the_order, {"created", "lost"}),
        (commit_a_second_attempt, {"created", "lost", "told"}),
        (abort_what_was_told_paid, {"created", "lost", "told"}),
        (lose_a_cent, {"money"}),
    ],
)
def test_the_audit_finds(spoil: Callable[[Evidence], Evidence], kinds: set[str]) -> None:
    assert found(spoil(kept())) == kinds


# -- what is run --------------------------------------------------------------------------------------------------


def test_a_line_of_the_journal_that_a_kill_has_cut_off_says_nothing(tmp_path: Path) -> None:
    journal, txid = tmp_path / "journal", TxId.new()
    assert read_journal(journal) == []
    journal.write_text(f"1 {txid} begun\n1 {txid} pai")
    assert read_journal(journal) == [Entry(1, txid, Word.BEGUN)]
    assert read_journal(journal, len(str(Entry(1, txid, Word.BEGUN)))) == []


def test_a_file_of_orders_is_used_again_until_there_are_enough(tmp_path: Path) -> None:
    file = tmp_path / "orders.tsv"
    rows = [
        "order_id\taccount_from\tbank_to\taccount_to\tamount\tpurpose",
        "77\t1\tAB\t2\t1.50\t",
        "78\t3\tCD\t4\t2.50\t",
    ]
    file.write_text("\n".join(rows) + "\n")
    orders = _orders(TransferOptions(transfers=5, orders=file))
    assert [(n, order.order_id, order.cents) for n, order in orders.items()] == [
        (1, 1, 150),
        (2, 2, 250),
        (3, 3, 150),
        (4, 4, 250),
        (5, 5, 150),
    ]


@pytest.mark.parametrize("wrong", [{"transfers": 0}, {"workers": 0}, {"workers": 33}, {"nodes": 1}, {"nodes": 4}])
def test_what_is_out_of_range_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        replace(TransferOptions(), **wrong)
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
    postgresql: PostgreSqlServer, mariadb: MariaDbServer, tmp_path: Path, drill: tuple[str, ...]
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
    fails = [sys.executable, "-c", "raise SystemExit('order 3 was tried 300 times')"]
    worker = Worker(7, tmp_path, [ORDERS[1]], lambda journal, orders: fails)
    assert not worker.is_running()
    worker.start()
    deadline = time.monotonic() + 60
    while worker.is_running():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    with pytest.raises(RaftcoordError, match="program 7 has ended with 1: order 3 was tried 300 times"):
        worker.ended()
