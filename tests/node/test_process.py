"""``python -m raftcoord.node CLUSTER_YAML NAME``: one line when it serves, one sentence when it cannot, and no traceback."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from raftcoord.config import Address, NodeConfig
from raftcoord.node.main import warn_of_strangers
from raftcoord.types import NodeName


def free_port() -> int:
    """A port below the ephemeral range that nobody listens on now."""
    for port in range(21_000 + hash(__file__) % 4_000, 32_000):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no free port")


def write_config(directory: Path, peer: int, client: int, cluster: str = "demo") -> Path:
    path = directory / "cluster.yaml"
    path.write_text(
        f"cluster: {cluster}\ndata_dir: data\nnodes:\n"
        f'  - {{name: n1, peer: "127.0.0.1:{peer}", client: "127.0.0.1:{client}"}}\n'
    )
    return path


@pytest.fixture
def config(tmp_path: Path) -> Path:
    peer = free_port()
    return write_config(tmp_path, peer, peer + 1)


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "raftcoord.node", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


@contextmanager
def running(config: Path) -> Iterator[subprocess.Popen[str]]:
    """A node that has said that it is ready."""
    with subprocess.Popen(
        [sys.executable, "-m", "raftcoord.node", str(config), "n1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("raftcoord node n1 ready: peers 127.0.0.1:"), (line, process.stderr)
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.communicate()


def test_it_says_ready_once_and_stops_cleanly_on_sigterm_and_starts_again(config: Path) -> None:
    for _ in range(2):
        with running(config) as process:
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=30)
            assert process.returncode == 0, err
            assert out == ""
            assert "Traceback" not in err


def test_it_may_open_as_many_files_as_the_system_lets_it() -> None:
    code = (
        "import resource as r; from raftcoord.node.main import raise_open_files\n"
        "hard = r.getrlimit(r.RLIMIT_NOFILE)[1]; r.setrlimit(r.RLIMIT_NOFILE, (64, hard))\n"
        "raise_open_files(); print(r.getrlimit(r.RLIMIT_NOFILE) == (hard, hard))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n"


def test_without_its_arguments_it_says_how_it_is_used() -> None:
    done = run()
    assert done.returncode == 2
    assert done.stderr == "usage: python -m raftcoord.node CLUSTER_YAML NAME\n"


@pytest.mark.parametrize(("name", "said"), [("n7", "n7"), ("n1", "retention")])
def test_a_wrong_name_or_key_is_one_sentence(name: str, said: str, config: Path) -> None:
    config.write_text(config.read_text() + ("retention: 7\n" if said == "retention" else ""))
    assert_one_sentence(run(config, name), said)


def test_a_port_in_use_is_one_sentence_and_changes_nothing_for_its_owner(tmp_path: Path) -> None:
    with socket.socket() as owner:
        owner.bind(("127.0.0.1", 0))
        owner.listen()
        taken = owner.getsockname()[1]
        for peer, client in ((free_port(), taken), (taken, free_port())):
            assert_one_sentence(run(write_config(tmp_path, peer, client), "n1"), f"{taken} is in use")


def test_a_directory_in_use_or_of_another_cluster_is_one_sentence(config: Path) -> None:
    with running(config) as process:
        assert_one_sentence(run(config, "n1"), str(process.pid))
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    config.write_text(config.read_text().replace("cluster: demo", "cluster: other"))
    assert_one_sentence(run(config, "n1"), "demo")


def test_a_disk_that_refuses_a_write_halts_the_node_with_one_sentence(config: Path) -> None:
    code = (
        "import sys; from raftcoord.errors import StorageError; from raftcoord.storage.node_db import NodeDb\n"
        "from raftcoord.node.main import main\n"
        "def refuse(self, w): raise StorageError('the disk is full: make room and start the node again')\n"
        "NodeDb.write = refuse\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    command = [sys.executable, "-c", code, str(config), "n1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "node n1 halted: the disk is full: make room and start the node again"
    assert "Traceback" not in done.stderr


def assert_one_sentence(done: subprocess.CompletedProcess[str], said: str) -> None:
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith("node n")


def test_ports_that_are_open_to_other_machines_are_a_warning_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    warn_of_strangers(NodeConfig(NodeName("n1"), Address("127.0.0.1", 1), Address("10.0.0.1", 2), Path("data/n1")))
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "its client port 10.0.0.1:2 is open to other machines (allow_remote)" in record.getMessage()
