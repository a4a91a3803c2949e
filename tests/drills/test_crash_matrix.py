"""The crash matrix: what it finds on real servers, and that it can find something."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from raftcoord_cli.main import main

from raftcoord import ConfigError, State, limits
from raftcoord.drills import crash_matrix
from raftcoord.drills.crash_matrix import CaseResult, CrashCase, report_of, run
from raftcoord.drills.crash_program import CENTS, Job, ProgramOutcome
from raftcoord.drills.crash_programs import ForkServer
from raftcoord.drills.options import PROGRAM, DrillOptions
from raftcoord.drills.points import Point
from raftcoord.drills.program_drivers import DRIVERS, PAIRS, Couple, chosen, couples, covering
from raftcoord.errors import RaftcoordError
from raftcoord.processes.local_cluster import LocalCluster, write_local_config

COUPLE = Couple(DRIVERS["psycopg"], DRIVERS["pymysql"])
PAID, NOT_PAID = (-CENTS, CENTS), (0, 0)


def cli(*arguments: str) -> Any:
    return CliRunner().invoke(main, ["drill", "databases", *arguments])


# -- on real servers ----------------------------------------------------------------------------------------------


def test_both_sides_are_equal_and_free_whatever_is_killed_wherever(
    record_property: Callable[[str, object], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """Each pair and each driver that is here, a program killed at each point; a server of each kind killed at each point."""
    report = run(DrillOptions(few=True, nodes=1))
    with capsys.disabled():
        for each in report.more["not_tested"]:
            print(f"\n  NOT TESTED: {each}", end="")
        print(f"\n  {report.verdict}", end=" ")
    assert report.held, report.verdict
    seen = {(*row["drivers"], row["killed"], row["point"]) for row in report.more["rows"]}
    for first, second in {case[:2] for case in seen}:
        assert {case[3] for case in seen if case[:3] == (first, second, PROGRAM)} == set(Point)
    for name, value in report.figures.items():
        record_property(name, value)


def test_the_command_prints_a_table_and_a_verdict() -> None:
    done = cli("crashes", "--pair", "sqlite-sqlite", "--nodes", "1", "--kill", "program")
    assert done.exit_code == 0, done.output
    rows = [" ".join(line.split()) for line in done.output.splitlines()]
    assert any(row.startswith("sqlite-sqlite sqlite3 + sqlite3 program between commits") for row in rows), done.output
    assert "HELD: databases-crash-matrix: 5 kills" in done.output.splitlines()[-1]


# -- it can find something ----------------------------------------------------------------------------------------


def test_without_a_resolver_locks_stay_and_the_matrix_is_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LocalCluster, "start_resolver", lambda self: False)
    monkeypatch.setattr(crash_matrix, "FREE_TIMEOUT_S", 0.3)
    monkeypatch.setattr(crash_matrix, "Point", [Point.AFTER_DECISION])
    report = run(DrillOptions(pairs=("sqlite-sqlite",), victims=(PROGRAM,), nodes=1, lanes=1))
    assert not report.held
    assert "still locked after 0.3 s" in report.verdict
    assert any("still prepared in sqlite-1-a" in each for each in report.more["wrong"])
    assert report.directory is not None
    shutil.rmtree(report.directory)


@pytest.mark.parametrize(
    ("point", "state", "told", "moved", "wrong"),
    [
        (Point.AFTER_DECISION, State.COMMITTED, ProgramOutcome.KILLED, PAID, ""),
        (Point.BEFORE_DECISION, State.ABORTED, ProgramOutcome.KILLED, NOT_PAID, ""),
        (Point.BEFORE_PREPARE, State.UNDECIDED, ProgramOutcome.KILLED, NOT_PAID, ""),
        (Point.BEFORE_DECISION, State.COMMITTED, ProgramOutcome.COMMITTED, PAID, ""),
        (Point.BEFORE_DECISION, State.ABORTED, ProgramOutcome.IN_DOUBT, NOT_PAID, ""),
        (Point.AFTER_DECISION, State.COMMITTED, ProgramOutcome.KILLED, (-CENTS, 0), "-10 and +0 cents were moved"),
        (Point.AFTER_DECISION, State.COMMITTED, ProgramOutcome.KILLED, NOT_PAID, "COMMITTED, and +0 and +0"),
        (Point.BEFORE_PREPARE, State.UNDECIDED, ProgramOutcome.KILLED, (0, CENTS), "UNDECIDED, and +0 and +10"),
        (Point.BEFORE_DECISION, State.ABORTED, ProgramOutcome.KILLED, PAID, "ABORTED, and -10 and +10"),
        (
            Point.BEFORE_DECISION,
            State.ABORTED,
            ProgramOutcome.COMMITTED,
            NOT_PAID,
            "told committed, and the ledger says ABORTED",
        ),
        (
            Point.BEFORE_DECISION,
            State.COMMITTED,
            ProgramOutcome.ABORTED,
            PAID,
            "told aborted, and the ledger says COMMITTED",
        ),
        (
            Point.BETWEEN_COMMITS,
            State.ABORTED,
            ProgramOutcome.KILLED,
            NOT_PAID,
            "killed between commits, and the ledger says",
        ),
        (
            Point.BETWEEN_PREPARES,
            State.COMMITTED,
            ProgramOutcome.KILLED,
            PAID,
            "killed between prepares, and the ledger says",
        ),
    ],
)
def test_a_contradiction_is_named(
    point: Point, state: State, told: ProgramOutcome, moved: tuple[int, int], wrong: str
) -> None:
    found = list(crash_matrix._contradictions(CrashCase(COUPLE, point, PROGRAM), state, told, moved))
    assert (wrong in found[0]) if wrong else not found


def test_nothing_run_is_not_held_and_says_what_was_not_there() -> None:
    report = report_of([], ["postgresql: no PostgreSQL server is installed"], [], DrillOptions())
    assert not report.held
    assert "nothing was run: postgresql: no PostgreSQL server" in report.verdict


def test_a_row_that_does_not_hold_breaks_the_verdict() -> None:
    row = CaseResult(
        CrashCase(COUPLE, Point.AFTER_DECISION, PROGRAM), "COMMITTED", ProgramOutcome.KILLED, 0.4, ("half of it",)
    )
    report = report_of([row], [], [], DrillOptions())
    assert (report.held, report.to_json()["rows"][0]["held"]) == (False, False)


# -- what is run --------------------------------------------------------------------------------------------------


def test_every_pair_and_every_driver_occurs() -> None:
    every = list(couples())
    assert {couple.pair for couple in every} == {"-".join(pair) for pair in PAIRS}
    assert {driver.name for couple in every for driver in couple} == set(DRIVERS)
    assert len(every) == len(set(every)) == 34
    few = covering(every)
    assert {couple.pair for couple in few} == {couple.pair for couple in every}
    assert {driver for couple in few for driver in couple} == set(chain.from_iterable(every))
    assert len(few) < 12


def test_a_program_uses_drivers_of_one_kind() -> None:
    for couple in couples():
        kinds = {driver.asynchronous for driver in couple if driver.name != "sqlite3"}
        assert len(kinds) <= 1


def test_what_is_not_known_is_refused_with_what_is() -> None:
    with pytest.raises(ConfigError, match="'oracle' is not known here; choose from psycopg"):
        chosen((), ("oracle",))
    with pytest.raises(ConfigError, match="'a-b' is not known here; choose from postgresql-mariadb"):
        chosen(("a-b",), ())
    with pytest.raises(ConfigError, match=r"no pair is left: .* all synchronous or all asynchronous"):
        chosen(("postgresql-mariadb",), ("psycopg", "aiomysql"))
    for wrong in ({"lanes": 0}, {"lanes": 17}, {"nodes": 2}, {"victims": ("disk",)}):
        with pytest.raises(ConfigError):
            DrillOptions(**wrong)  # type: ignore[arg-type]
    for arguments in (("--pair", "x"), ("--driver", "x"), ("--kill", "x"), ("--at-a-time", "0"), ("--nodes", "2")):
        assert cli("crashes", *arguments).exit_code == 2


def test_the_help_names_the_interval_that_is_in_force() -> None:
    shown = CliRunner().invoke(main, ["resolver", "run", "--help"]).output
    assert f"[default: {limits.RESOLVER_SAFETY_MS / 1000:g};" in shown


def test_a_program_that_fails_is_an_error_of_the_drill_and_no_outcome(tmp_path: Path) -> None:
    config = write_local_config(tmp_path, nodes=1).path
    assert config is not None
    programs = ForkServer(config, ["sqlite3"], tmp_path / "log")
    try:
        urls = (f"sqlite:///{tmp_path}/nowhere/a.db", f"sqlite:///{tmp_path}/b.db")
        job = Job(("sqlite3", "sqlite3"), urls, ("a", "b"), "alice", Point.BEFORE_PREPARE)
        with pytest.raises(RaftcoordError, match="OperationalError: unable to open"):
            programs.start(job)
    finally:
        programs.close()
