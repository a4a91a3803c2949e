"""The drills and the demo with real processes: short, but nothing is simulated."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from raftcoord.bench import cluster as bench
from raftcoord.bench.cluster import Measured
from raftcoord.bench.measuring import BenchOptions
from raftcoord.demos.demo import DemoOptions, run_demo
from raftcoord.drills import banks, catalog
from raftcoord.drills.options import DrillOptions
from raftcoord.drills.report import Event
from raftcoord.processes.local_process import look_at

TESTS = Path(__file__).parents[1]


@pytest.fixture
def temp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Throwaway clusters are made here, so that a test sees what is left of them."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def pids(directory: Path) -> list[int]:
    return [json.loads(path.read_text())["pid"] for path in directory.rglob("*.pid")]


def running(directory_pids: list[int]) -> list[int]:
    return [pid for pid in directory_pids if look_at(pid) is not None]


def test_a_cluster_whose_leader_is_killed_holds_and_leaves_nothing_behind(temp: Path) -> None:
    started: list[int] = []
    events: list[Event] = []

    def on_event(event: Event) -> None:
        events.append(event)
        started.extend(pids(temp))

    report = catalog.run("kill-leader", DrillOptions(duration_s=1, rate=100), on_event)
    assert report.held, report.verdict
    assert report.figures["failovers"] == len(report.faults) >= 1
    assert report.figures["aborted"] > 0, "orders of empty accounts are refused"
    assert {event.kind for event in events} >= {"start", "fault", "heal", "settle", "audit"}
    assert len(set(started)) >= 5
    assert running(started) == []
    assert list(temp.iterdir()) == []


def test_nodes_that_reply_before_the_commit_are_called_broken(temp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAFTCOORD_PLANT", "reply-before-commit")
    monkeypatch.setenv("PYTHONPATH", str(TESTS), prepend=":")
    options = DrillOptions(rounds=1, rate=400, node_module="drills.broken_node")
    report = catalog.run("kill-all", options)
    assert not report.held
    told_wrongly = [violation for violation in report.violations if violation.kind in ("changed", "lost")]
    assert told_wrongly
    assert str(told_wrongly[0].txid) in json.dumps(report.to_json())
    assert report.directory is not None
    assert (report.directory / "history.jsonl").stat().st_size > 0


def test_a_wiped_node_is_refused_until_it_is_replaced_and_then_agrees(temp: Path) -> None:
    report = catalog.run("wipe-node", DrillOptions(rounds=1, rate=100))
    assert report.held, report.verdict
    (fault,) = report.faults
    assert "its data directory deleted" in fault.what
    assert "replaced, and takes part" in fault.healed


def test_a_cluster_that_takes_a_wiped_node_for_the_old_one_is_called_broken(
    temp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAFTCOORD_PLANT", "believe-any-identity")
    monkeypatch.setenv("PYTHONPATH", str(TESTS), prepend=":")
    report = catalog.run("wipe-node", DrillOptions(rounds=1, rate=100, node_module="drills.broken_node"))
    assert [violation.kind for violation in report.violations] == ["not refused"]


def test_a_follower_that_was_paused_deposes_nobody(temp: Path) -> None:
    report = catalog.run("pause-follower", DrillOptions(rounds=1, rate=100))
    assert report.held, report.verdict
    (fault,) = report.faults
    assert "leads as before" in fault.healed


def test_the_demo_pays_every_order_once_through_two_kills(temp: Path) -> None:
    report = run_demo(DemoOptions(count=400, in_flight=16))
    assert report.held, report.verdict
    assert report.figures["orders_paid"] == 400
    assert report.figures["moved_cents"] == report.figures["orders_cents"]
    assert [fault.what.partition(",")[0].partition(" of ")[0] for fault in report.faults][:1] == ["kill -9"]
    assert len(report.faults) == 2
    assert report.more["did"]
    assert report.more["next_steps"]
    assert list(temp.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_drill_stops_all_that_it_has_started(temp: Path, number: signal.Signals) -> None:
    program = (
        "from raftcoord.drills.catalog import DrillOptions, run\n"
        "try: run('kill-all', DrillOptions(), lambda event: print(event.kind, flush=True))\n"
        "except KeyboardInterrupt: print('interrupted')\n"
    )
    environment = os.environ | {"TMPDIR": str(temp)}
    with subprocess.Popen([sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, text=True) as drill:
        assert drill.stdout is not None
        assert drill.stdout.readline() == "start\n"
        started = pids(temp)
        drill.send_signal(number)
        assert drill.stdout.read().splitlines()[-1] == "interrupted"
    assert len(started) == 5
    assert running(started) == []
    assert list(temp.iterdir()) == []


def test_a_drill_that_fails_stops_all_and_names_the_files_that_it_keeps(temp: Path) -> None:
    started: list[int] = []

    def on_event(event: Event) -> None:
        started.extend(pids(temp))
        raise ValueError

    with pytest.raises(ValueError, match="files and logs are kept in") as caught:
        catalog.run("kill-all", DrillOptions(), on_event)
    assert len(started) == 5
    assert running(started) == []
    (directory,) = temp.iterdir()
    assert any(str(directory) in note for note in caught.value.__notes__)


def test_decisions_and_transfers_are_measured_from_outside_the_nodes(temp: Path) -> None:
    measured: list[Measured] = []
    report = bench.decide(BenchOptions(in_flight=(1, 8), seconds=0.2), on_result=measured.append)
    assert [(each.what, each.in_flight) for each in measured] == [
        ("decide through the leader", 1),
        ("decide through the follower", 1),
        ("decide through the leader", 8),
    ]
    assert report.results == tuple(measured)
    assert all(each.rate_per_s > 0 for each in measured)
    (transfers,) = bench.transfer(BenchOptions(in_flight=(8,), seconds=0.2, nodes=1)).results
    assert transfers.answers > 0
    assert list(temp.iterdir()) == []


def test_a_malformed_bank_is_refused_in_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert banks.main(["--config", "none.yaml", "--name", "x", "bank-aa"]) == 1
    assert "'bank-aa' is not a bank; write BANK=DB" in capsys.readouterr().err
