"""What belongs to one user no other one can open: neither to read it nor to lock it."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from raftcoord import private
from raftcoord.errors import ConfigError
from raftcoord.participants.sqlite import SqliteParticipant
from raftcoord.processes.local_cluster import LocalCluster, write_local_config
from raftcoord.storage.node_db import NodeDb

NOBODY = 65_534

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that everybody can reach, with the usual umask. Not pytest's: those are closed to others."""
    before = os.umask(0o022)
    with tempfile.TemporaryDirectory(prefix="raftcoord-test-") as made:
        Path(made).chmod(0o755)
        try:
            yield Path(made)
        finally:
            os.umask(before)


def as_nobody(act: Callable[[], None]) -> str:
    """What ``act`` raises in a process of another user; "" if nothing."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        said = b""
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            act()
        except OSError as error:
            said = type(error).__name__.encode()
        finally:
            os.write(writing, said)
            os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with os.fdopen(reading, "rb") as file:
        return file.read().decode()


def lock(path: Path) -> None:
    """What needs no more than the right to read."""
    descriptor = os.open(path, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def opened_up(directory: Path) -> list[Path]:
    return [path for path in (directory, *directory.rglob("*")) if private.opened_to(path)]


@contextmanager
def running_node(config_path: Path, name: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "raftcoord.node", str(config_path), name]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert "ready" in process.stdout.readline()
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=30)


def test_what_a_node_makes_is_its_owners_alone(place: Path) -> None:
    config = write_local_config(place)
    with running_node(place / "cluster.yaml", "n1"):
        directory = config.node("n1").data_dir
        assert {path.name for path in directory.iterdir()} >= {"node.db", "node.db-wal", "node.db-shm", "LOCK"}
        assert opened_up(directory) == []


def test_the_files_of_a_local_cluster_are_their_owners_alone(place: Path) -> None:
    config = write_local_config(place)
    cluster = LocalCluster(config)
    try:
        cluster.start_all()
        cluster.start_participant("bank-a", place / "a.db", arguments=["--open", "alice=30"])
        names = {path.name for path in config.data_dir.iterdir()}
        assert names >= {"n1.log", "n1.pid", "participant.bank-a.log", "participant.bank-a.pid"}
        assert opened_up(config.data_dir) == []
        assert [path for path in place.glob("a.db*") if private.opened_to(path)] == []
    finally:
        cluster.stop_all()


@as_root
@pytest.mark.parametrize("name", ["", "node.db", "node.db-shm", "node.mark", "LOCK"])
def test_another_user_cannot_lock_what_a_node_needs(place: Path, name: str) -> None:
    db = NodeDb.open(place / "n1", cluster_name="demo", node="n1")
    try:
        assert as_nobody(lambda: lock(place / "n1" / name)) == "PermissionError"
    finally:
        db.close()


@as_root
def test_another_user_cannot_lock_a_pid_file_of_an_earlier_release(place: Path) -> None:
    """The directory is as it was; the files in it are taken back at the start."""
    config = write_local_config(place)
    config.data_dir.mkdir(mode=0o755)
    pid_file, log = config.data_dir / "n1.pid", config.data_dir / "n1.log"
    for path in (pid_file, log):
        path.write_text("")
        assert as_nobody(lambda path=path: lock(path)) == ""  # type: ignore[misc]
    cluster = LocalCluster(config)
    try:
        cluster.start_all(wait_ready=False)
        for path in (pid_file, log):
            assert as_nobody(lambda path=path: lock(path)) == "PermissionError"  # type: ignore[misc]
    finally:
        cluster.stop_all()


def test_a_data_directory_of_an_earlier_release_is_taken_back(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    directory = place / "n1"
    caplog.set_level("INFO")
    NodeDb.open(directory, cluster_name="demo", node="n1").close()
    assert opened_up(directory) == []
    directory.chmod(0o755)
    (directory / "node.db").chmod(0o644)
    NodeDb.open(directory, cluster_name="demo", node="n1").close()
    assert opened_up(directory) == []
    assert f"now they cannot: {directory}, {directory / 'node.db'}" in caplog.text


def test_the_directory_of_another_node_is_not_touched(place: Path) -> None:
    directory = place / "n1"
    NodeDb.open(directory, cluster_name="demo", node="n1").close()
    directory.chmod(0o755)
    with pytest.raises(ConfigError, match="belongs to node 'n1' of cluster 'demo'"):
        NodeDb.open(directory, cluster_name="demo", node="n2")
    assert private.opened_to(directory) == "0755"


@as_root
def test_what_cannot_be_taken_back_is_refused_with_the_command(place: Path) -> None:
    directory = place / "n1"
    NodeDb.open(directory, cluster_name="demo", node="n1").close()
    for path in (directory, *directory.iterdir()):
        path.chmod(0o777)

    def open_it() -> None:
        try:
            NodeDb.open(directory, cluster_name="demo", node="n1").close()
        except ConfigError as error:
            if f"Run `chmod go-rwx {directory}` as its owner" in str(error):
                raise PermissionError from None

    assert as_nobody(open_it) == "PermissionError"


def test_a_participants_file_is_its_owners_alone_also_one_of_an_earlier_release(place: Path) -> None:
    path = place / "bank.db"
    SqliteParticipant(path).close()
    assert [file for file in place.glob("bank.db*") if private.opened_to(file)] == []
    path.chmod(0o644)
    SqliteParticipant(path).close()
    assert not private.opened_to(path)


def test_a_directory_that_is_there_keeps_its_mode_and_a_link_is_not_followed(place: Path) -> None:
    there, other = place / "there", place / "other"
    there.mkdir(mode=0o755)
    other.write_text("somebody else's")
    other.chmod(0o644)
    (there / "link").symlink_to(other)
    private.make_directory(there)
    assert private.opened_to(there) == "0755"
    assert private.take_back_directory(there) == [there]
    assert private.opened_to(other) == "0644"


def test_a_pid_file_that_somebody_locks_is_named(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raftcoord.processes.local_process.PID_FILE_S", 0.2)
    cluster = LocalCluster(write_local_config(place))
    cluster.config.data_dir.mkdir()
    pid_file = cluster.config.data_dir / "n1.pid"
    pid_file.write_text("")
    with pid_file.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match=r"n1\.pid is locked by another program.*fuser"):
            cluster.start("n1")


@as_root
def test_a_command_of_another_user_is_told_whose_account_it_needs(place: Path) -> None:
    directory = place / "data"
    private.make_directory(directory)

    def use_it() -> None:
        try:
            private.must_be_ours(directory)
        except ConfigError as error:
            if "is for its owner alone: use the account that started its nodes (user id 0)" in str(error):
                raise PermissionError from None

    private.must_be_ours(directory)
    private.must_be_ours(place / "absent")
    assert as_nobody(use_it) == "PermissionError"
