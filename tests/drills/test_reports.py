"""Options are checked at birth, and reports are plain JSON."""

from __future__ import annotations

import json
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from raftcoord.bench import cluster as bench
from raftcoord.bench.cluster import Measured
from raftcoord.bench.measuring import BenchOptions, BenchReport
from raftcoord.demos.demo import DemoOptions, paid
from raftcoord.drills.audit import AuditViolation
from raftcoord.drills.catalog import drill_named
from raftcoord.drills.client_history import History
from raftcoord.drills.options import DrillOptions
from raftcoord.drills.orders import Generated
from raftcoord.drills.props import host_banks
from raftcoord.drills.report import DrillReport, FaultRecord, client_figures, failover_figures, timed
from raftcoord.errors import ConfigError, Halt
from raftcoord.types import TxId

HELD = {
    "transactions": 3,
    "committed": 2,
    "aborted": 1,
    "never_attempted": 0,
    "undecided": 0,
    "nodes_asked": 3,
    "banks": 4,
}


def test_a_held_drill_says_so_in_one_line() -> None:
    report = DrillReport("kill-leader", (), HELD, 1)
    assert report.verdict.startswith("HELD: kill-leader: 3 transactions, 2 committed, 1 aborted; 3 nodes and 4 banks")


def test_the_figures_of_a_verdict_add_up_and_the_rest_is_named() -> None:
    figures = {**HELD, "transactions": 1003, "committed": 1000, "never_attempted": 2}
    report = DrillReport("kill-leader", (), figures, 1)
    assert "1003 transactions, 1000 committed, 1 aborted, 2 never attempted; 3 nodes" in report.verdict
    with pytest.raises(Halt, match="1004 transactions are not"):
        _ = replace(report, figures={**figures, "transactions": 1004}).verdict


def test_the_attempts_that_paid_nothing_are_named() -> None:
    figures = {**HELD, "orders_paid": 2, "moved_cents": 1_50}
    said = "paid 2 orders, 1.50 in all, each exactly once"
    assert paid(figures) == f"{said}; attempts that came to nothing and were repeated: 1 (1 aborted)"
    more = {**figures, "transactions": 6, "never_attempted": 3}
    assert paid(more) == (
        f"{said}; attempts that came to nothing and were repeated: 4 (1 aborted, 3 refused before anything was attempted)"
    )
    assert paid({**figures, "transactions": 2, "aborted": 0}) == said
    with pytest.raises(Halt, match="one committed transaction"):
        paid({**figures, "orders_paid": 3})


def test_the_time_of_a_report_is_all_the_time_that_it_took() -> None:
    def make() -> DrillReport:
        time.sleep(0.05)
        return DrillReport("kill-leader", (), HELD, 1)

    assert timed(make).figures["wall_s"] >= 0.05


def test_a_broken_drill_names_the_transaction_and_where_the_files_are() -> None:
    txid = TxId.new()
    broken = (AuditViolation("lost", txid, "n2 says UNDECIDED"), AuditViolation("money", None, "1.00 was created"))
    report = DrillReport("kill-all", broken, {"x": math.nan}, 1, Path("/t"), [FaultRecord("kill -9", 1.23456)])
    assert report.verdict == f"BROKEN: kill-all: lost of transaction {txid}: n2 says UNDECIDED (and 1 more)"
    written = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert written["violations"][0] == {"kind": "lost", "txid": str(txid), "what": "n2 says UNDECIDED"}
    assert written["faults"][0]["at_s"] == 1.235
    assert written["figures"] == {"x": None}
    assert written["directory"] == "/t"


def test_failovers_are_counted_only_where_a_leader_was_lost() -> None:
    faults = [
        FaultRecord("a", 0.0, first_commit_s=0.4),
        FaultRecord("b", 1.0),
        FaultRecord("c", 2.0, first_commit_s=0.8),
    ]
    assert failover_figures(faults) == {
        "failovers": 2,
        "failover_s_p50": 0.4,
        "failover_s_p99": 0.8,
        "failover_s_max": 0.8,
    }
    assert failover_figures(faults[1:2]) == {}


def test_figures_of_clients_that_were_told_nothing_are_not_numbers() -> None:
    assert math.isnan(client_figures(History())["commit_latency_ms_p50"])


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ({"duration_s": 1.0}, {"duration_s": 0.99}),
        ({"duration_s": 86_400.0}, {"duration_s": 86_401.0}),
        ({"duration_s": 15.0}, {"duration_s": math.nan}),
        ({"rate": 0.1}, {"rate": 0.09}),
        ({"rate": 20_000.0}, {"rate": 20_001.0}),
        ({"nodes": 3}, {"nodes": 1}),
        ({"nodes": 7}, {"nodes": 4}),
        ({"rounds": 1}, {"rounds": 0}),
        ({"rounds": 10_000}, {"rounds": 10_001}),
    ],
)
def test_drill_options_hold_at_the_bound_and_not_past_it(good: dict[str, Any], bad: dict[str, Any]) -> None:
    drill_named("kill-leader").check(DrillOptions(**good))
    with pytest.raises(ConfigError, match="; give "):
        drill_named("kill-leader").check(DrillOptions(**bad))


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ({"nodes": 1}, {"nodes": 2}),
        ({"count": 1}, {"count": 0}),
        ({"count": 1_000_000}, {"count": 1_000_001}),
        ({"in_flight": 1}, {"in_flight": 0}),
        ({"in_flight": 1024}, {"in_flight": 1025}),
        ({"databases": True, "in_flight": 2}, {"databases": True, "in_flight": 1}),
        ({"databases": True, "in_flight": 16}, {"databases": True, "in_flight": 17}),
    ],
)
def test_demo_options_hold_at_the_bound_and_not_past_it(good: dict[str, Any], bad: dict[str, Any]) -> None:
    DemoOptions(**good)
    with pytest.raises(ConfigError, match="; give "):
        DemoOptions(**bad)


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ({"in_flight": (1,)}, {"in_flight": (1, 0)}),
        ({"in_flight": (4096,)}, {"in_flight": (4097,)}),
        ({"in_flight": (1, 2)}, {"in_flight": ()}),
        ({"seconds": 0.1}, {"seconds": 0.09}),
        ({"seconds": 3600.0}, {"seconds": 3601.0}),
        ({"nodes": 5}, {"nodes": 6}),
    ],
)
def test_bench_options_hold_at_the_bound_and_not_past_it(good: dict[str, Any], bad: dict[str, Any]) -> None:
    BenchOptions(**good)
    with pytest.raises(ConfigError, match="; give "):
        BenchOptions(**bad)


@pytest.mark.parametrize(("kills", "nodes"), [(0, 3), (10_001, 3), (1, 1), (1, 4)])
def test_a_failover_benchmark_refuses_what_it_cannot_run(kills: int, nodes: int) -> None:
    with pytest.raises(ConfigError):
        bench.failover(kills, nodes)


def test_measurements_are_json_with_units_in_their_names() -> None:
    measured = Measured("decide through the leader", "n1", 64, 5.0, 100, 20.0, 1.0, 2.0, math.nan)
    written = json.loads(json.dumps(BenchReport("decide", 3, (measured,)).to_json(), allow_nan=False))
    assert written["results"][0]["rate_per_s"] == 20.0
    assert written["results"][0]["latency_ms_max"] is None


def test_the_home_bank_has_a_process_of_its_own() -> None:
    opening = Generated(1, banks=5).opening()
    assert host_banks(opening, 2) == {
        "bank-home": ("bank-home",),
        "banks-1": ("bank-aa", "bank-cc", "bank-ee"),
        "banks-2": ("bank-bb", "bank-dd"),
    }
    assert host_banks(Generated(1, banks=1).opening(), 2) == {"bank-home": ("bank-home",), "bank-aa": ("bank-aa",)}
