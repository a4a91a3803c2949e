"""Processes are found by their pid file, and nothing that merely has the same pid is ever signalled."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from raftcoord.config import Config
from raftcoord.errors import ConfigError, RaftcoordError
from raftcoord.processes import local_process
from raftcoord.processes.local_cluster import LocalCluster, write_local_config
from raftcoord.processes.local_process import LocalProcess, look_at

READY = "import signal; print('raftcoord node x ready: here', flush=True); signal.pause()"


class Room:
    """Makes processes in one directory, and ends those that a test leaves."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.made: list[LocalProcess] = []

    def process(self, program: str) -> LocalProcess:
        paths = (self.directory / "x.log", self.directory / "x.pid")
        self.made.append(LocalProcess("node x", [sys.executable, "-c", program], *paths))
        return self.made[-1]


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Room]:
    made = Room(tmp_path / "data")
    yield made
    for process in made.made:
        process.kill()


def test_a_started_process_is_found_by_another_object_and_stopped(room: Room) -> None:
    process = room.process(READY)
    assert process.pid is None
    process.start()
    process.wait_ready()
    again = room.process(READY)
    assert again.pid == process.pid is not None
    assert process.stop()
    assert again.pid is None
    assert not again.stop()


def test_a_process_is_in_a_session_of_its_own(room: Room) -> None:
    process = room.process(READY)
    process.start()
    pid = process.pid
    assert pid is not None
    assert os.getsid(pid) == pid


def test_starting_twice_is_refused_and_starts_nothing(room: Room) -> None:
    process = room.process(READY)
    process.start()
    pid = process.pid
    with pytest.raises(ConfigError, match=rf"node x is running already \(pid {pid}\); nothing was started"):
        room.process(READY).start()
    assert process.pid == pid


def test_of_many_that_start_at_once_one_does(room: Room) -> None:
    refused: list[ConfigError] = []

    def start() -> None:
        try:
            room.process(READY).start()
        except ConfigError as error:
            refused.append(error)

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 3


def test_a_process_that_ends_instead_is_reported_with_its_last_line(room: Room) -> None:
    process = room.process("print('noise'); raise SystemExit('port 127.0.0.1:7401 is in use')")
    process.start()
    with pytest.raises(RaftcoordError, match=r"^node x did not start: port 127\.0\.0\.1:7401 is in use$") as caught:
        process.wait_ready()
    assert not isinstance(caught.value, ConfigError)


def test_what_a_process_says_of_itself_is_not_named_twice(room: Room) -> None:
    process = room.process("raise SystemExit('node x: its disk is full')")
    process.start()
    with pytest.raises(RaftcoordError, match=r"^node x did not start: its disk is full$"):
        process.wait_ready()


def test_exit_code_2_is_the_operators_to_mend(room: Room) -> None:
    process = room.process("import sys; print('bad file', file=sys.stderr); sys.exit(2)")
    process.start()
    with pytest.raises(ConfigError, match="node x did not start: bad file"):
        process.wait_ready()


@pytest.mark.skipif(sys.platform != "linux", reason="ends the first thread alone, by a system call of Linux")
def test_a_process_has_not_ended_while_one_of_its_threads_runs(room: Room) -> None:
    process = room.process(
        "import ctypes, os, platform, threading, time\n"
        "def last():\n"
        "    print('bad port', flush=True)\n"
        "    time.sleep(0.5)\n"
        "    os._exit(2)\n"
        "threading.Thread(target=last).start()\n"
        "ctypes.CDLL(None).syscall({'x86_64': 60}.get(platform.machine(), 93), 0)\n"
    )
    process.start()
    with pytest.raises(ConfigError, match="node x did not start: bad port"):
        process.wait_ready()


def test_the_ready_line_of_an_earlier_run_does_not_count(room: Room) -> None:
    process = room.process(READY)
    process.start()
    process.wait_ready()
    process.kill()
    later = room.process("raise SystemExit('no')")
    later.start()
    with pytest.raises(RaftcoordError, match="did not start: no"):
        later.wait_ready()


def test_a_process_that_never_gets_ready_is_reported_with_its_log(room: Room) -> None:
    process = room.process("import signal; print('still reading', flush=True); signal.pause()")
    process.start()
    with pytest.raises(RaftcoordError, match=r"not ready after 0\.\d+ s .*look at .*x\.log"):
        process.wait_ready(timeout_s=0.5)


READER = (
    "import sys, time\n"
    "for done in range({rows}):\n"
    "    print(f'12:00 n1 INFO raftcoord.node: reading decisions: {{done}} of {rows}, for 1 s', flush=True); time.sleep(0.2)\n"
    "{end}"
)


def test_a_process_that_makes_progress_is_waited_for_and_says_how_far_it_is(room: Room) -> None:
    process = room.process(READER.format(rows=10, end=READY))
    process.start()
    heard: list[tuple[str, str]] = []
    process.wait_ready(timeout_s=1.0, on_reading=lambda what, reading: heard.append((what, reading)))
    assert ("node x", "reading decisions: 9 of 10, for 1 s") in heard


def test_a_process_whose_progress_ends_is_reported_with_how_far_it_came(room: Room) -> None:
    process = room.process(READER.format(rows=3, end="time.sleep(60)"))
    process.start()
    with pytest.raises(RaftcoordError, match=r"not ready after 1 s without progress .*: reading decisions: 2 of 3"):
        process.wait_ready(timeout_s=1.0)


def test_a_paused_process_is_seen_as_paused_and_can_be_stopped(room: Room) -> None:
    process = room.process(READY)
    process.start()
    process.wait_ready()
    assert not process.paused
    assert process.pause()
    assert process.paused
    assert process.pid is not None
    assert process.stop()
    assert process.pid is None


def test_a_recycled_pid_is_never_signalled(room: Room) -> None:
    stranger = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    try:
        earlier = look_at(os.getpid())
        assert earlier is not None
        room.directory.mkdir()
        (room.directory / "x.pid").write_text(json.dumps({"pid": stranger.pid, "started": earlier.started}))
        process = room.process(READY)
        assert process.pid is None
        assert not process.kill()
        assert not process.stop()
        assert not process.pause()
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": "x"}', '{"pid": 1}'])
def test_a_torn_pid_file_names_nobody(room: Room, text: str) -> None:
    room.directory.mkdir()
    (room.directory / "x.pid").write_text(text)
    process = room.process(READY)
    assert process.pid is None
    process.start()
    assert process.pid is not None


def test_a_process_that_has_ended_and_is_not_reaped_counts_as_gone() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.read()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert look_at(child.pid) is None
    child.wait()
    child.stdout.close()


def test_the_exit_code_is_told_of_a_process_that_ends_while_it_is_looked_for(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = room.process("import sys; sys.exit(7)")
    process.start()

    def look_when_it_has_ended(pid: int) -> object:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        return look_at(pid)

    monkeypatch.setattr(local_process, "look_at", look_when_it_has_ended)
    assert process.ended() == (True, 7)


def test_a_data_directory_that_is_a_file_is_named(room: Room) -> None:
    room.directory.write_text("")
    with pytest.raises(ConfigError, match=r"node x cannot be started: .*check data_dir"):
        room.process(READY).start()


def test_a_local_config_has_ports_of_its_own(tmp_path: Path) -> None:
    config = write_local_config(tmp_path, nodes=5)
    ports = {address.port for node in config.nodes for address in (node.peer, node.client)}
    assert len(ports) == 10
    assert max(ports) < 32_000
    assert Config.load(tmp_path / "cluster.yaml") == config


def test_a_cluster_knows_only_the_nodes_of_its_file(tmp_path: Path) -> None:
    cluster = LocalCluster(write_local_config(tmp_path))
    assert cluster.pid("n1") is None
    assert not cluster.kill("n1")
    assert cluster.stop_all() == []
    with pytest.raises(ConfigError, match="there is no node 'n4'"):
        cluster.kill("n4")
    with pytest.raises(RaftcoordError, match=r"participant '\.\./n1' is not a name"):
        cluster.kill_participant("../n1")


def test_a_cluster_needs_its_file(tmp_path: Path) -> None:
    config = write_local_config(tmp_path)
    (tmp_path / "cluster.yaml").unlink()
    with pytest.raises(ConfigError, match="write the configuration to a file first"):
        LocalCluster(config)


def test_nodes_and_participants_do_not_inherit_what_the_resolver_alone_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A variable that another value names as well stays: the node reads that one."""
    path = write_local_config(tmp_path).path
    assert path is not None
    written = path.read_text().replace("cluster: 'demo'", "cluster: ${CLUSTER}") + (
        "resources:\n- {name: ledger, url: 'postgresql://app:${PG_PASSWORD}@127.0.0.1:1/${CLUSTER}'}\n"
    )
    path.write_text(written)
    monkeypatch.setenv("PG_PASSWORD", "hush")
    monkeypatch.setenv("CLUSTER", "shop")
    cluster = LocalCluster(Config.load(path))
    try:
        cluster.start_all()
        cluster.start_resolver()
        cluster.start_participant("bank-a", tmp_path / "a.db")
        inherited = {}
        for what, pid in (
            ("node", cluster.pid("n1")),
            ("participant", cluster.participant_pid("bank-a")),
            ("resolver", cluster.resolver.pid),
        ):
            pairs = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            inherited[what] = [pair for pair in pairs if pair.startswith((b"PG_PASSWORD", b"CLUSTER"))]
        assert inherited["node"] == inherited["participant"] == [b"CLUSTER=shop"]
        assert sorted(inherited["resolver"]) == [b"CLUSTER=shop", b"PG_PASSWORD=hush"]
    finally:
        cluster.stop_all()


def test_sighup_does_not_end_a_node(tmp_path: Path) -> None:
    cluster = LocalCluster(write_local_config(tmp_path, nodes=1))
    try:
        cluster.start("n1")
        pid = cluster.pid("n1")
        assert pid is not None
        old = cluster.log_path("n1")
        old.rename(tmp_path / "moved.log")
        os.kill(pid, signal.SIGHUP)
        while not old.exists():
            assert cluster.pid("n1") == pid
        assert cluster.pid("n1") == pid
    finally:
        cluster.stop_all()


def test_a_throwaway_cluster_ends_with_the_process_that_started_it_also_by_kill_9(tmp_path: Path) -> None:
    config = write_local_config(tmp_path)
    program = (
        "import signal, sys; from raftcoord.config import Config; from raftcoord.processes.local_cluster import LocalCluster\n"
        "cluster = LocalCluster(Config.load(sys.argv[1]), throwaway=True); cluster.start_all()\n"
        "cluster.start_participant('bank-a', Config.load(sys.argv[1]).data_dir / 'a.db')\n"
        "print('up', flush=True); signal.pause()\n"
    )
    cluster = LocalCluster(config)
    command = [sys.executable, "-c", program, str(config.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        try:
            assert parent.stdout is not None
            assert parent.stdout.readline() == "up\n"
            pids = [cluster.pid("n1"), cluster.pid("n2"), cluster.pid("n3"), cluster.participant_pid("bank-a")]
            assert None not in pids
            parent.kill()
            parent.wait()
            deadline = time.monotonic() + 20
            while any(look_at(pid) for pid in pids if pid is not None):
                assert time.monotonic() < deadline
        finally:
            parent.kill()
            cluster.stop_all()


def test_other_processes_outlive_the_one_that_started_them(tmp_path: Path) -> None:
    config = write_local_config(tmp_path, nodes=1)
    program = (
        "import sys; from raftcoord.config import Config; from raftcoord.processes.local_cluster import LocalCluster\n"
        "LocalCluster(Config.load(sys.argv[1])).start_all()\n"
    )
    subprocess.run([sys.executable, "-c", program, str(config.path)], check=True, timeout=60)
    cluster = LocalCluster(config)
    assert cluster.pid("n1") is not None
    assert cluster.stop("n1")
