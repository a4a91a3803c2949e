"""What the operator did wrong, and what the disk refuses: one clear error, and nothing acknowledged is lost."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from raftcoord.errors import ConfigError, StorageError
from raftcoord.storage import files, mark
from raftcoord.storage.node_db import LogRow, SnapshotInfo

from .filling import contents, decision, files_of, fill, opened, puts, rows, write

BIG = [LogRow(21, 2, os.urandom(400_000))]


def stopped(directory: Path) -> Path:
    db = opened(directory)
    fill(db)
    db.close()
    return directory


@pytest.mark.parametrize(("node", "cluster"), [("n2", "demo"), ("n1", "other"), ("n2", "other")])
def test_the_directory_of_another_node_or_cluster_is_left_alone(tmp_path: Path, node: str, cluster: str) -> None:
    stopped(tmp_path)
    before = files_of(tmp_path)
    with pytest.raises(
        ConfigError, match=f"belongs to node 'n1' of cluster 'demo', and this is node '{node}'"
    ) as caught:
        opened(tmp_path, node, cluster)
    assert "data_dir in cluster.yaml" in str(caught.value)
    assert files_of(tmp_path) == before
    opened(tmp_path).close()


def test_the_directory_of_another_node_that_was_killed_is_left_alone(tmp_path: Path) -> None:
    db = opened(tmp_path / "running")
    fill(db)
    shutil.copytree(tmp_path / "running", tmp_path / "killed")
    db.close()
    before = files_of(tmp_path / "killed")
    with pytest.raises(ConfigError, match="belongs to node 'n1'"):
        opened(tmp_path / "killed", "n2")
    assert files_of(tmp_path / "killed") == before


HOLD = """
import sys
from pathlib import Path
from raftcoord.storage.node_db import NodeDb
db = NodeDb.open(Path(sys.argv[1]), cluster_name="demo", node="n1")
print("held", flush=True)
sys.stdin.read()
"""


def test_a_directory_in_use_by_another_process_names_it(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        for node in ("n1", "n2"):
            with pytest.raises(ConfigError, match=f"in use by process {holder.pid}: stop that node first"):
                opened(tmp_path, node)
        (tmp_path / "LOCK").unlink()  # the file only names the holder
        with pytest.raises(ConfigError, match="in use by another process"):
            opened(tmp_path)
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    opened(tmp_path).close()


def test_a_directory_in_use_by_the_same_process_is_refused(tmp_path: Path) -> None:
    db = opened(tmp_path)
    with pytest.raises(ConfigError, match=f"process {os.getpid()}"):
        opened(tmp_path)
    db.write(write(append=rows(2, 2)))  # the refusal has not disturbed its locks
    db.close()
    opened(tmp_path).close()


def test_a_refused_open_lets_go_of_the_directory(tmp_path: Path) -> None:
    stopped(tmp_path)
    with pytest.raises(ConfigError):
        opened(tmp_path, "n2")
    opened(tmp_path).close()


def test_a_file_in_place_of_the_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "n1").write_text("a file")
    for directory in (tmp_path / "n1", tmp_path / "n1" / "below"):
        with pytest.raises(ConfigError, match="change its permissions, or data_dir"):
            opened(directory)
    assert (tmp_path / "n1").read_text() == "a file"


def test_a_directory_in_place_of_node_db_is_refused(tmp_path: Path) -> None:
    (tmp_path / "node.db").mkdir()
    with pytest.raises(ConfigError, match="cannot be used"):
        opened(tmp_path)


@contextmanager
def mounted(directory: Path, options: str) -> Iterator[Path]:
    """A small disk of its own at ``directory``; the test is skipped where that is not allowed."""
    directory.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(directory)], capture_output=True, check=False
    )
    if done.returncode != 0:
        pytest.skip("mounting a tmpfs needs root")
    try:
        yield directory
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=True)


needs_mount = pytest.mark.skipif(os.geteuid() != 0 or shutil.which("mount") is None, reason="mounting needs root")


@needs_mount
def test_a_read_only_disk_is_refused_and_left_alone(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "size=2m") as disk:
        stopped(disk / "n1")
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        before = files_of(disk / "n1")
        for directory in (disk / "n1", disk / "n2"):
            with pytest.raises(ConfigError, match="cannot be used"):
                opened(directory)
        assert files_of(disk / "n1") == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_without_permission_is_refused(tmp_path: Path) -> None:
    stopped(tmp_path / "n1")
    (tmp_path / "n1").chmod(0o500)
    try:
        with pytest.raises(ConfigError, match="change its permissions"):
            opened(tmp_path / "n1")
    finally:
        (tmp_path / "n1").chmod(0o700)


@needs_mount
def test_a_full_disk_stops_the_node_and_loses_nothing_acknowledged(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "size=2m") as disk:
        db = opened(disk / "n1")
        fill(db)
        acknowledged = contents(db)
        caught: StorageError | None = None
        for index in range(21, 41):
            try:
                db.write(write(append=[LogRow(index, 2, os.urandom(200_000))]))
            except StorageError as error:
                caught = error
                break
            acknowledged = contents(db)
        assert "is full" in str(caught)
        assert "make room there and start it again" in str(caught)
        assert str(disk / "n1" / "node.db") in str(caught)
        with pytest.raises(StorageError, match="an earlier write failed"):
            db.write(write())
        db.close()
        subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
        db = opened(disk / "n1")
        stored, lists = contents(db)
        kept = acknowledged[0].log
        assert stored.log[: len(kept)] == kept
        assert (stored._replace(log=kept), lists) == acknowledged
        db.write(write(append=rows(stored.log[-1].index + 1, stored.log[-1].index + 1)))
        db.close()


@needs_mount
def test_a_node_is_not_made_on_a_full_disk_and_is_made_when_there_is_room(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "size=64k") as disk:
        (disk / "ballast").write_bytes(bytes(40_000))
        with pytest.raises(StorageError, match="is full"):
            opened(disk / "n1")
        assert not (disk / "n1" / "node.db").exists()
        (disk / "ballast").unlink()
        subprocess.run(["mount", "-o", "remount,size=1m", str(disk)], check=True)
        opened(disk / "n1").close()


@needs_mount
def test_a_snapshot_on_a_full_disk_is_given_up_and_the_node_goes_on(tmp_path: Path) -> None:
    db = opened(tmp_path / "n1")
    fill(db, decisions=2000)
    with mounted(tmp_path / "disk", "size=64k") as disk:
        with pytest.raises(StorageError, match="The node goes on without it"):
            db.snapshot_to(disk / "copy-1.tmp")
        assert list(disk.iterdir()) == []
    db.write(write(append=rows(21, 21)))
    db.close()


LIMITED = """
import os, resource, sys
from pathlib import Path
from raftcoord.errors import StorageError
from raftcoord.storage.node_db import LogRow, NodeDb
sys.path.insert(0, sys.argv[2])
from storage.filling import write
db = NodeDb.open(Path(sys.argv[1]), cluster_name="demo", node="n1")
resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, resource.RLIM_INFINITY))
for index in range(2, 50):
    try:
        db.write(write(append=[LogRow(index, 1, os.urandom(50_000))]))
    except StorageError as error:
        print(index, error)
        break
try:
    db.write(write())
except StorageError as error:
    print(error)
db.close()
"""


def test_a_file_size_limit_stops_the_node_and_loses_nothing_acknowledged(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path / "n1"), str(Path(__file__).parent.parent)],
        capture_output=True,
        text=True,
        check=True,
    )
    first, second = done.stdout.splitlines()
    index, message = first.split(" ", 1)
    assert 5 < int(index) < 15
    assert message.startswith(f"cannot write {tmp_path / 'n1' / 'node.db'}: ")
    assert "start it again" in message
    assert "an earlier write failed" in second
    db = opened(tmp_path / "n1")
    assert db.load().log[-1].index in (int(index) - 1, int(index))  # the refused one may be there or not
    db.close()
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_after_a_failed_write_the_object_is_dead_for_ever(tmp_path: Path) -> None:
    db = opened(tmp_path)
    fill(db)
    before = contents(db)
    db._writer.execute("PRAGMA max_page_count=10").fetchall()
    everything = write(append=BIG, hard_state=(9, 1), changes=puts(decision(999)), applied=(20, 2))
    with pytest.raises(StorageError, match="is full"):
        db.write(everything)
    db._writer.execute("PRAGMA max_page_count=100000").fetchall()  # there is room again
    for attempt in (everything, write()):
        with pytest.raises(StorageError, match="never tried again"):
            db.write(attempt)
    with pytest.raises(StorageError, match="never tried again"):
        db.install(tmp_path / "copy-1.tmp", SnapshotInfo(30, 2, 0, 0))
    assert contents(db) == before, "nothing of the failed write may show"
    db.close()
    db = opened(tmp_path)
    assert contents(db) == before
    db.close()


def test_a_failed_installation_changes_nothing_and_stops_the_node(tmp_path: Path) -> None:
    leader = opened(tmp_path / "n1")
    fill(leader, decisions=1000)
    info = leader.snapshot_to(tmp_path / "copy-1.tmp")
    leader.close()
    db = opened(tmp_path / "n2", "n2")
    before = contents(db)
    db._writer.execute("PRAGMA max_page_count=12").fetchall()
    with pytest.raises(StorageError, match="is full"):
        db.install(tmp_path / "copy-1.tmp", info)
    assert contents(db) == before
    with pytest.raises(StorageError, match="never tried again"):
        db.write(write())
    db.close()
    db = opened(tmp_path / "n2", "n2")
    assert contents(db) == before
    db.install(tmp_path / "copy-1.tmp", info)
    db.close()


def test_a_mark_that_cannot_be_written_stops_the_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    db = opened(tmp_path)
    monkeypatch.setattr(mark.os, "pwrite", lambda *_: 5)
    with pytest.raises(StorageError, match="is full"):
        db.write(write(append=rows(2, 2)))
    monkeypatch.undo()
    with pytest.raises(StorageError, match="never tried again"):
        db.write(write(append=rows(3, 3)))
    db.close()
    opened(tmp_path).close()


def test_another_program_that_locks_the_file_is_told_of(tmp_path: Path) -> None:
    db = opened(tmp_path)
    db._writer.execute("PRAGMA busy_timeout=1").fetchall()
    with closing(sqlite3.connect(tmp_path / "node.db", isolation_level=None)) as shell:
        shell.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageError, match="close the other program"):
            db.write(write(append=rows(2, 2)))
    db.close()


class Stop(BaseException):
    """The process dies here."""


@pytest.mark.parametrize("step", range(8))
def test_a_crash_in_the_middle_of_creation_leaves_no_half_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    steps = 0

    def dying(real: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal steps
            steps += 1
            if steps > step:
                raise Stop
            return real(*args, **kwargs)

        return call

    with monkeypatch.context() as patched:
        for owner, name in (
            (files, "sync_file"),
            (mark, "sync_file"),
            (files, "create_tables"),
            (files, "connect"),
            (mark.os, "pwrite"),
        ):
            patched.setattr(owner, name, dying(getattr(owner, name)))
        patched.setattr(Path, "rename", dying(Path.rename))
        try:
            opened(tmp_path / "n1").close()
        except Stop:
            assert steps == step + 1
        else:
            assert step >= 6, "no step was left to die in"
    db = opened(tmp_path / "n1")
    fill(db)
    db.close()
    assert {path.name for path in (tmp_path / "n1").iterdir()} == {"node.db", "node.mark", "LOCK"}


def test_a_file_is_synced_before_it_gets_its_name_and_the_name_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut must not leave a name without its content, nor lose the name of a node that has voted."""
    seen: list[tuple[str, str]] = []
    rename = Path.rename

    def renaming(source: Path, target: Path) -> Path:
        seen.append(("name", target.name))
        return rename(source, target)

    for room in (files, mark):
        monkeypatch.setattr(room, "sync_file", lambda path: seen.append(("sync", path.name)))
    monkeypatch.setattr(Path, "rename", renaming)
    opened(tmp_path / "n1").close()
    mark_made = [("sync", "node.mark.new"), ("name", "node.mark")]
    assert seen == [*mark_made, ("sync", "node.db.new"), ("name", "node.db"), ("sync", "n1")]
