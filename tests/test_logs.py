"""The log of a process in the background is bounded, whatever it writes, and no line of it is lost on the way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from raftcoord import limits, logs
from raftcoord.processes.local_process import LocalProcess

SMALL = 4_000

WRITER = """
import logging, os, sys
from raftcoord import logs
logs.to_stderr("%(message)s", bytes_max={small})
print("raftcoord node x ready: here", flush=True)
for number in range({lines}):
    logging.getLogger("x").info("{who} %06d", number)
print("{who} halted: a sentence that only stderr gets", file=sys.stderr, flush=True)
os._exit(1)
"""


def writer(who: str, lines: int) -> list[str]:
    return [sys.executable, "-c", WRITER.format(small=SMALL, who=who, lines=lines)]


def environment(log: Path) -> dict[str, str]:
    return {**os.environ, logs.FILE_VARIABLE: str(log)}


def written(log: Path) -> list[str]:
    return [line for file in logs.files(log) for line in file.read_text().splitlines()]


def run(log: Path, who: str, lines: int) -> subprocess.Popen[bytes]:
    with log.open("ab") as file:
        return subprocess.Popen(writer(who, lines), stdout=file, stderr=file, env=environment(log))


def test_a_log_is_rotated_and_bounded_and_its_last_line_is_there(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    assert run(log, "a", 5_000).wait() == 1
    sizes = [file.stat().st_size for file in logs.files(log)]
    assert len(sizes) == limits.LOG_FILES_KEPT + 1
    assert max(sizes) < SMALL + 200
    lines = written(log)
    assert lines[-1] == "a halted: a sentence that only stderr gets"
    numbers = [int(line.split()[1]) for line in lines[:-1]]
    assert numbers == list(range(numbers[0], 5_000))  # none is lost between two files
    assert all(file.stat().st_mode & 0o077 == 0 for file in logs.files(log) if file != log)


def test_two_processes_that_write_to_one_log_rotate_it_together(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    both = [run(log, who, 300) for who in ("a", "b")]
    assert [process.wait() for process in both] == [1, 1]
    lines = written(log)
    assert len([line for line in lines if "halted" in line]) == 2
    for who in ("a", "b"):
        numbers = [int(line.split()[1]) for line in lines if line.startswith(f"{who} 0")]
        assert numbers == sorted(numbers)
        assert numbers[-1] == 299
    assert all(file.stat().st_size < SMALL + 400 for file in logs.files(log))


def test_a_process_killed_between_two_files_leaves_a_log_that_goes_on(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    log.write_text("full\n" * SMALL)
    log.rename(tmp_path / "x.log.1")  # killed here: nothing has its name
    assert run(log, "a", 1).wait() == 1
    assert written(log)[-2:] == ["a 000000", "a halted: a sentence that only stderr gets"]


def test_without_a_file_of_its_own_nothing_is_rotated(tmp_path: Path) -> None:
    """The variable may reach a process whose stderr is somebody else's, such as a service manager's."""
    log = tmp_path / "x.log"
    log.write_text("x" * 2 * SMALL)
    done = subprocess.run(writer("a", 3), capture_output=True, text=True, env=environment(log), check=False)
    assert done.stderr.splitlines()[0] == "a 000000"
    assert logs.files(log) == [log]


@pytest.mark.parametrize(("size", "rotated"), [(SMALL - 1, False), (SMALL, True)])
def test_a_full_log_is_rotated_before_a_start(tmp_path: Path, size: int, rotated: bool) -> None:
    log = tmp_path / "x.log"
    log.write_bytes(b"x" * size)
    logs.make_room(log, bytes_max=SMALL)
    assert logs.files(log) == [tmp_path / "x.log.1" if rotated else log]


@pytest.fixture
def process(tmp_path: Path) -> Iterator[LocalProcess]:
    program = (
        "import logging, signal; from raftcoord import logs; logs.to_stderr('%(name)s: %(message)s')\n"
        "signal.signal(signal.SIGHUP, lambda *_: logs.on_hangup(lambda: exit(3)))\n"
        "print('raftcoord node x ready: here', flush=True)\n"
        "while True: signal.pause(); logging.getLogger('x').info('woken')\n"
    )
    made = LocalProcess("node x", [sys.executable, "-c", program], tmp_path / "x.log", tmp_path / "x.pid")
    made.start()
    yield made
    made.kill()


def test_sighup_opens_the_log_anew_and_ends_nothing(process: LocalProcess) -> None:
    process.wait_ready()
    old = process.log_path.with_name("moved.log")
    process.log_path.rename(old)  # as logrotate does
    pid = process.pid
    assert pid is not None
    os.kill(pid, signal.SIGHUP)
    while not (process.log_path.exists() and "woken" in process.log_path.read_text()):
        assert process.pid == pid
    assert "SIGHUP: it goes on" in process.log_path.read_text()
    assert "woken" not in old.read_text()


def test_the_name_of_the_log_is_not_inherited_any_further(process: LocalProcess, tmp_path: Path) -> None:
    program = "import os; from raftcoord import logs; logs.to_stderr('%(message)s'); print(dict(os.environ))"
    log = tmp_path / "y.log"
    with log.open("ab") as file:
        subprocess.run([sys.executable, "-c", program], stdout=file, stderr=file, env=environment(log), check=True)
    assert logs.FILE_VARIABLE not in log.read_text()


def test_a_log_is_followed_from_one_file_to_the_next(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    log.write_text("before\n")
    follow = logs.Follow(log)
    with log.open("a") as old:
        print("one", file=old, flush=True)
        assert follow.new_lines() == ["one"]
        log.rename(tmp_path / "x.log.1")
        assert follow.new_lines() == []  # nothing has its name for a moment
        print("two", file=old, flush=True)
        log.write_text("three\nfo")
        assert follow.new_lines() == ["two", "three"]
        assert follow.new_lines() == []
    with log.open("a") as file:
        print("ur", file=file)
    assert follow.new_lines() == ["four"]
    follow.close()


def test_a_log_that_is_not_there_yet_is_followed_from_its_first_line(tmp_path: Path) -> None:
    follow = logs.Follow(tmp_path / "x.log")
    assert follow.new_lines() == []
    (tmp_path / "x.log").write_text("first\n")
    assert follow.new_lines() == ["first"]
    follow.close()


def test_the_last_lines_are_those_of_older_files_too(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    (tmp_path / "x.log.2").write_text("1\n2\n")
    (tmp_path / "x.log.1").write_text("3\n")
    log.write_text("4\n5\n")
    assert logs.last_lines(log, 2) == ["4", "5"]
    assert logs.last_lines(log, 4) == ["2", "3", "4", "5"]
    assert logs.last_lines(log, 0) == []
