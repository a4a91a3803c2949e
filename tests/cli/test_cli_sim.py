"""raftcoord sim: a hunt, a replay, the kinds of faults; what is wrong is one sentence, and then nothing is run."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from raftcoord_cli.main import main

from raftcoord.sim.faults import KINDS

ROOT = Path(__file__).parents[2]
PLANTED = "overwriting_for_the_cli:plant"


def run(*arguments: str) -> Result:
    result = CliRunner().invoke(main, ["sim", *arguments])
    assert "Traceback" not in result.output
    return result


def json_of(*arguments: str, code: int = 0) -> dict[str, Any]:
    result = run(*arguments, "-o", "json")
    assert (result.exit_code, result.stderr) == (code, ""), result.output
    value: dict[str, Any] = json.loads(result.stdout)
    return value


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A user's module beside which ``raftcoord`` is called; what it plants breaks every audit of money."""
    (tmp_path / "overwriting_for_the_cli.py").write_text(
        "from unittest import mock\n"
        "from raftcoord.participants.sqlite import SqliteParticipant\n"
        "total = SqliteParticipant.total\n"
        "def plant():\n"
        "    return mock.patch.object(SqliteParticipant, 'total', lambda self: total(self) + 1)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield PLANTED
    sys.modules.pop(PLANTED.partition(":")[0], None)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("run", "--seeds", "5"), "'5' is not a range of seeds; write --seeds A:B, as in 0:1000"),
        (("run", "--seeds", "5:5"), "there is no seed in 5:5: the end must be greater than the start"),
        (("run", "--seeds", "5:4"), "there is no seed in 5:4"),
        (("run", "--seeds", "a:b"), "'a' is not a seed: a seed is a number from 0 on"),
        (("run", "--seeds", "0:-1"), "'-1' is not a seed"),
        (("run", "--seeds", "0:" + "9" * 19), "of at most 18 digits"),
        (("run", "--seeds", "0:1:2"), "'1:2' is not a seed"),
        (("run", "--seeds", "0:2", "--faults", "kill,kil"), "there is no fault 'kil'; choose from: clog-one-way"),
        (("run", "--seeds", "0:2", "--faults", ""), "there is no fault ''"),
        (("run", "--seeds", "0:2", "--nodes", "4"), "a simulation has 3 or 5 nodes, not 4"),
        (("run", "--seeds", "0:2", "--duration", "0.5"), "from 1 to 600 virtual seconds, not 0.5"),
        (("run", "--seeds", "0:2", "--workers", "0"), "1 to 256 workers, not 0"),
        (("run", "--seeds", "0:2", "--with", "no.such:thing"), "module no.such cannot be imported: ModuleNotFound"),
        (("run", "--seeds", "0:2", "--with", "json"), "'json' does not name anything; write module:attribute"),
        (("run", "--seeds", "0:2", "--settings", "json:dumps"), "json:dumps() failed: TypeError"),
        (("replay", "x"), "'x' is not a seed"),
        (("replay", "1", "--nodes", "2"), "3 or 5 nodes"),
        (("replay", "1", "--plan", "absent.json"), "the plan absent.json cannot be read"),
    ],
)
def test_what_cannot_be_simulated_is_one_sentence_and_nothing_is_run(
    arguments: tuple[str, ...], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> None:
        raise AssertionError("something was run")

    monkeypatch.setattr("raftcoord.sim.simulation.Simulation.run", never)
    monkeypatch.setattr("raftcoord.sim.hunt._Worker.start", never)
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: ")
    assert says in line
    assert json_of(*arguments, code=2)["error"]["kind"] == "ConfigError"


@pytest.mark.parametrize("duration", ["nan", "inf", "-1"])
def test_a_duration_that_is_no_time_is_a_wrong_command_line(duration: str) -> None:
    error = json_of("run", "--seeds", "0:2", "--duration", duration, code=2)["error"]
    assert (error["kind"], "--duration" in error["message"]) == ("Usage", True)


def test_the_faults_are_listed() -> None:
    assert [each["name"] for each in json_of("faults")["faults"]] == list(KINDS)
    told = run("faults").stdout
    assert all(f"\n{kind} " in f"\n{told}" for kind in KINDS)


def test_a_hunt_that_holds_is_exit_code_0_and_a_replay_has_its_digest() -> None:
    given = ("--duration", "2", "--faults", "kill,crash-at")
    value = json_of("run", "--seeds", "3:5", "--workers", "1", *given)
    assert (value["held"], value["seeds"], value["seeds_held"], value["cases"]) == (True, 2, 2, [])
    assert set(value["injected"]) <= {"kill", "crash-at"}
    one = json_of("run", "--seeds", "3:4", "--workers", "1", *given)
    again = json_of("replay", "3", *given)
    assert (again["held"], again["verdict"]) == (True, "HELD: every promise kept")
    assert int(one["digest"], 16) == int(again["digest"], 16) ^ (3 * 0x9E3779B1 & 0xFFFFFFFF)
    assert again["raftcoord"].startswith("raftcoord ")


def test_a_hunt_is_told_as_a_table_with_a_verdict() -> None:
    result = run("run", "--seeds", "7:8", "--workers", "1", "--duration", "2", "--faults", "none")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[-1].startswith("HELD: 1 seed, ")
    for row in ("seeds", "decisions", "faults", "outcomes", "virtual time", "settled after"):
        assert f"\n {row} " in result.stdout
    assert "\x1b" not in result.stdout


def test_a_broken_promise_is_exit_code_6_with_the_case_and_the_commands_that_run_it_again(planted: str) -> None:
    result = run("run", "--seeds", "1:3", "--workers", "1", "--duration", "2", "--with", planted)
    assert result.exit_code == 6
    told = result.stdout
    assert "seed 1 broke a promise: " in told
    assert "(raftcoord 0." in told
    assert "It takes 0 of its " in told
    assert "leads in term " in told
    assert told.splitlines()[-1].startswith("BROKEN: 2 of 2 seeds; seed 1: ")
    whole, shrunk = (line.split() for line in told.splitlines() if line.startswith("  raftcoord sim replay "))
    assert whole == ["raftcoord", "sim", "replay", "1", "--duration", "2.0", "--with", planted]
    file = Path(shrunk[-1])
    try:
        assert shrunk[:-1] == ["raftcoord", "sim", "replay", "1", "--with", planted, "--plan"]
        again = json_of(*shrunk[2:], code=6)
        assert again["plan"]["faults"] == []
        assert again["invariant"] in told
        traced = run(*shrunk[2:], "--trace")
        assert traced.exit_code == 6
        assert len(traced.stdout) > len(told)
        assert traced.stdout.splitlines()[-1].startswith("BROKEN: ")
        other = run("replay", "2", "--with", planted, "--plan", str(file))
        assert other.exit_code == 2
        assert "is of seed 1, not 2; replay that seed" in other.stderr
    finally:
        file.unlink()


def test_ctrl_c_prints_the_summary_so_far_and_leaves_no_worker() -> None:
    program = "from raftcoord_cli.main import main; main()"
    words = ["sim", "run", "--seeds", "0:1000000", "--duration", "1", "--workers", "1"]
    command = [sys.executable, "-c", f"import os, signal\n{INTERRUPTING}\n{program}", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            told, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, errors) == (130, "")
    assert told.splitlines()[-1].startswith("interrupted; so far HELD: ")
    assert "Traceback" not in told


INTERRUPTING = """
from raftcoord.sim.summary import Summary
add = Summary.add
def counted(self, result):
    add(self, result)
    if self.seeds == 3:
        os.killpg(0, signal.SIGINT)
Summary.add = counted
os.setpgid(0, 0)
"""
