"""docs/tutorial.md does what it says: its code passes the conformance suite, and breaking it as told is caught."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from raftcoord.core.participant import TABLE, Ask, BranchState

RAFTCOORD = Path(sys.executable).with_name("raftcoord")
TUTORIAL = Path(__file__).parents[2] / "docs" / "tutorial.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", TUTORIAL.read_text(), re.MULTILINE | re.DOTALL)


def write_files(directory: Path) -> None:
    for code in blocks("python"):
        name = code.splitlines()[0].removeprefix("# ")
        assert name.endswith(".py"), name
        (directory / name).write_text(code)
    (order,) = blocks("json")
    (directory / "order.json").write_text(order)


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


class Shell:
    """Runs the tutorial's commands in ``directory``; one that ends with & runs until ``close``, once it has said ready."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._behind: list[subprocess.Popen[bytes]] = []

    def run(self, line: str) -> subprocess.CompletedProcess[str]:
        command = self._command(line)
        return subprocess.run(
            command, cwd=self._directory, env=environment(), capture_output=True, text=True, timeout=60, check=False
        )

    def start(self, line: str) -> bytes:
        """The first line that it prints."""
        command = self._command(line.removesuffix("&"))
        process = subprocess.Popen(command, cwd=self._directory, env=environment(), stdout=subprocess.PIPE)
        self._behind.append(process)
        assert process.stdout is not None
        return process.stdout.readline()

    def close(self) -> None:
        for process in self._behind:
            process.terminate()
            process.communicate(timeout=30)

    def _command(self, line: str) -> list[str]:
        program, *arguments = shlex.split(line)
        return {"python": [sys.executable], "raftcoord": [str(RAFTCOORD)]}[program] + arguments


def conformance(directory: Path, only: str = "") -> subprocess.CompletedProcess[str]:
    assert "python -m pytest test_seats.py\n" in blocks("sh")
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-rf", "-k", only, "test_seats.py"],
        cwd=directory,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_tutorials_participant_passes_the_conformance_suite(tmp_path: Path) -> None:
    write_files(tmp_path)
    done = conformance(tmp_path)
    assert done.returncode == 0, done.stdout
    assert "skipped" not in done.stdout


def test_the_mistake_that_the_tutorial_suggests_is_caught_by_the_test_that_it_names(tmp_path: Path) -> None:
    write_files(tmp_path)
    seats = tmp_path / "seats.py"
    line = '        self.finish(txid, "aborted")\n'
    assert line in seats.read_text()
    seats.write_text(
        seats.read_text().replace(line, "        if self.action(txid, Ask.ABORT) is not Action.TOMBSTONE:\n    " + line)
    )
    done = conformance(tmp_path, "abort or tombstone")
    failed = set(re.findall(r"^FAILED \S+::(\w+)", done.stdout, re.MULTILINE))
    assert failed == {"test_an_abort_refuses_the_prepare_that_comes_late", "test_a_tombstone_survives_kill_9"}
    assert "obligation 5" in done.stdout


def test_the_table_in_the_tutorial_is_the_table() -> None:
    rows = re.findall(r"^\| \*\*(\w+)\*\* \| (.*) \|$", TUTORIAL.read_text(), re.MULTILINE)
    assert len(rows) == 4
    for state, cells in rows:
        actions = [TABLE[BranchState(state), ask].action.value for ask in Ask]
        assert cells.replace("`", "").split(" | ") == actions


@pytest.mark.skipif(not RAFTCOORD.exists(), reason="the command raftcoord is not installed beside this Python")
def test_the_tutorials_commands_end_as_it_says(tmp_path: Path) -> None:
    write_files(tmp_path)
    prove, begin, submit, down = (block.strip().splitlines() for block in blocks("sh"))
    assert prove == ["python -m pytest test_seats.py"]
    shell = Shell(tmp_path)
    try:
        for line in begin[:2]:  # init and up
            done = shell.run(line)
            assert done.returncode == 0, done.stderr
        for line in begin[2:]:
            assert line.endswith("&")
            assert b" ready" in shell.start(line)
        first, again = shell.run(submit[0]), shell.run(submit[0])
        assert (first.returncode, again.returncode) == (0, 3), first.stdout + first.stderr + again.stderr
        assert "COMMITTED" in first.stdout
        assert "by seats: seat A1 is taken" in again.stdout
    finally:
        shell.close()
        ended = shell.run(down[0])
    assert ended.returncode == 0, ended.stderr
