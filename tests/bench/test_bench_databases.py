"""The benchmark of databases: it compares like with like, and what was counted is what the databases have."""

from __future__ import annotations

import contextlib
import json
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raftcoord.bench import databases as bench_databases
from raftcoord.bench.databases import Bank, Compared, Rate
from raftcoord.bench.measuring import BenchOptions, BenchReport
from raftcoord.databases.database import NotHere
from raftcoord.databases.steps import Statement
from raftcoord.errors import ConfigError, RaftcoordError
from raftcoord.processes.database_servers import DatabaseServer
from raftcoord.types import TxId


@pytest.fixture
def temp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Throwaway clusters are made here, so that a test sees what is left of them."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture
def bank() -> Iterator[Bank]:
    made = Bank("postgresql", "first")
    with contextlib.closing(made):
        yield made


def test_both_kinds_transfer_over_a_pair_and_leave_nothing_behind(temp: Path) -> None:
    told: list[Compared] = []
    options = BenchOptions(pairs=("mixed",), workers=(1, 3), seconds=0.3, processes=2, nodes=1)
    report = bench_databases.databases(options, told.append)
    assert report.results == tuple(told)
    assert [(each.pair, each.workers, each.processes) for each in told] == [("mixed", 1, 1), ("mixed", 3, 2)]
    for each in told:
        assert min(each.plain.transfers, each.coordinated.transfers) > 0
        assert each.ratio_min <= each.ratio_max
        assert each.ratio == pytest.approx(each.coordinated.rate_per_s / each.plain.rate_per_s)
    assert list(temp.iterdir()) == []


@pytest.mark.parametrize(
    "spoil",
    [
        ["UPDATE accounts SET cents = cents + 1 WHERE account = '7'"],
        ["INSERT INTO payments VALUES (1, 'nobody', 'first', '7', 1)"],
        ["BEGIN", "DELETE FROM payments", f"PREPARE TRANSACTION 'rc1.00000000000000aa.{TxId.new()}.first'"],
    ],
    ids=["money without a payment", "a payment without money", "a branch left prepared"],
)
def test_a_bank_whose_books_do_not_agree_is_no_rate(bank: Bank, spoil: list[str]) -> None:
    assert bank.count() == (0, 0)
    with bank.banks.outside() as session:
        for sql in spoil:
            session.execute(Statement(sql, outside=True))
    with pytest.raises(RaftcoordError, match="the payments moved"):
        bank.count()


def test_a_transfer_that_fails_is_an_error_and_no_rate(
    postgresql: DatabaseServer, temp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_databases, "_CENTS", 0)
    with pytest.raises(RaftcoordError, match=r"a transfer failed: OrderRefused: .* would be overdrawn"):
        bench_databases.databases(BenchOptions(pairs=("postgresql",), workers=(1,), seconds=0.1, nodes=1))


def test_a_server_that_is_not_installed_is_said_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(self: DatabaseServer, kind: str, **_: Any) -> None:
        raise NotHere("no PostgreSQL server is installed (apt-get install postgresql)")

    monkeypatch.setattr(DatabaseServer, "__init__", absent)
    with pytest.raises(ConfigError, match=r"apt-get install postgresql.*--pairs"):
        Bank("postgresql", "first")


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        ({"workers": (1,)}, {"workers": (1, 0)}),
        ({"workers": (60,)}, {"workers": (61,)}),
        ({"workers": (1, 2)}, {"workers": ()}),
        ({"pairs": ("mixed",)}, {"pairs": ("mixed", "oracle")}),
        ({"pairs": ("mariadb",)}, {"pairs": ()}),
        ({"seconds": 0.1}, {"seconds": 0.09}),
        ({"seconds": 3600.0}, {"seconds": 3601.0}),
        ({"processes": 60}, {"processes": 61}),
        ({"nodes": 5}, {"nodes": 6}),
    ],
)
def test_the_options_hold_at_the_bound_and_not_past_it(good: dict[str, Any], bad: dict[str, Any]) -> None:
    BenchOptions(**good)
    with pytest.raises(ConfigError, match="; give "):
        BenchOptions(**bad)


def test_the_report_is_json_with_units_in_its_names() -> None:
    rate = Rate(0, 1.0, 0.0, math.nan, math.nan)
    report = BenchReport("databases", 3, (Compared("mixed", 8, 2, rate, rate, math.nan, math.nan, math.nan),))
    (written,) = json.loads(json.dumps(report.to_json(), allow_nan=False))["results"]
    assert (written["pair"], written["workers"], written["ratio"]) == ("mixed", 8, None)
    assert written["plain"]["latency_ms_p99"] is None
