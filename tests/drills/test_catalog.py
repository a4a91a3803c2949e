"""A drill is added in one place, and is listed, checked and run from there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from raftcoord_cli.main import main

from raftcoord import ConfigError
from raftcoord.drills.audit import AuditViolation
from raftcoord.drills.catalog import DRILLS, Drill, drill_named
from raftcoord.drills.options import FLAGS, DrillOptions
from raftcoord.drills.report import DrillReport, Event, OnEvent

NIGHTLY = Path(__file__).parents[2] / "scripts" / "nightly"


def throwaway(options: DrillOptions, on_event: OnEvent) -> DrillReport:
    """A drill of a few lines; it is broken when it lasts for 13 s."""
    on_event(Event(0.0, "start", "nothing goes wrong"))
    broken = [AuditViolation("unlucky", None, "13 s")] if options.duration_s == 13 else []
    return DrillReport("throwaway", broken, {"orders": 0}, options.seed, if_held="nothing was done")


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DRILLS, "throwaway", Drill("throwaway", "for a test", throwaway, frozenset({"duration_s"})))


def cli(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["drill", *arguments])
    return result.exit_code, result.output


@pytest.mark.usefixtures("added")
def test_one_entry_makes_a_drill_that_is_listed_and_run() -> None:
    assert ["throwaway", "for", "a", "test"] in [line.split() for line in cli("ls")[1].splitlines()]
    listed = {each["name"]: each for each in json.loads(cli("ls", "-o", "json")[1])["drills"]}
    assert listed["throwaway"] == {"name": "throwaway", "summary": "for a test", "options": ["--duration"]}
    code, output = cli("run", "throwaway", "--duration", "12")
    assert (code, output.splitlines()[-1]) == (0, "HELD: throwaway: nothing was done")
    code, output = cli("run", "throwaway", "--duration", "13", "--seed", "7", "-o", "json")
    report = json.loads(output)
    assert (code, report["verdict"], report["seed"]) == (6, "BROKEN: throwaway: unlucky: 13 s", 7)


@pytest.mark.usefixtures("added")
def test_an_option_that_a_drill_does_not_take_is_refused_with_those_that_it_takes() -> None:
    code, output = cli("run", "throwaway", "--rate", "5")
    assert (code, "drill throwaway does not take --rate; give some of --duration" in output) == (2, True)
    for drill in DRILLS.values():
        assert drill.takes <= FLAGS.keys()
        drill.check(DrillOptions())


def test_the_drills_over_databases_are_listed_with_the_others_and_share_their_names() -> None:
    assert {"databases-transfers", "databases-crash-matrix", "kill-all"} <= DRILLS.keys()
    for name, option in (
        ("databases-transfers", "rounds"),
        ("databases-crash-matrix", "transfers"),
        ("kill-all", "lanes"),
    ):
        with pytest.raises(ConfigError, match=f"drill {name} does not take {FLAGS[option]}"):
            drill_named(name).check(DrillOptions(**{option: 3}))  # type: ignore[arg-type]


def test_every_option_of_a_drill_is_one_of_the_command() -> None:
    help_text = cli("run", "--help")[1]
    assert all(flag in help_text for flag in FLAGS.values())


def test_the_long_hunts_take_the_drills_from_the_list() -> None:
    assert "drill ls -o json" in NIGHTLY.read_text()
