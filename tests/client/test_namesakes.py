"""Two clusters of one name on one machine: whoever belongs to the one does not reach the other without a word."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from raftcoord import Client
from raftcoord.config import Config
from raftcoord.errors import Unavailable
from raftcoord.processes.local_cluster import LocalCluster, write_local_config
from raftcoord.storage.founded import founded_in
from raftcoord.storage.node_db import NodeDb


@pytest.fixture(scope="module")
def clusters(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[LocalCluster, LocalCluster]]:
    """Two of one name: the first has run and is stopped, and the second runs on the addresses of the first."""
    first = LocalCluster(write_local_config(tmp_path_factory.mktemp("first"), nodes=1))
    first.start_all()
    first.start_participant("bank-a", first.config.data_dir / "a.db")  # it has joined, so the cluster is founded
    first.stop_all()
    directory = tmp_path_factory.mktemp("second")
    path = first.config.path
    assert path is not None
    text = path.read_text().replace(str(first.config.data_dir), str(directory / "data"))
    (directory / "cluster.yaml").write_text(text)
    second = LocalCluster(Config.load(directory / "cluster.yaml"))
    second.start_all()
    try:
        second.start_participant("bank-b", directory / "b.db")
        yield first, second
    finally:
        second.stop_all()


def ids(clusters: tuple[LocalCluster, LocalCluster]) -> tuple[str, str]:
    first, second = clusters
    with Client.from_config(second.config) as client:
        running = client.node_info("n1")["cluster"]
    return founded_in([first.config.node("n1").data_dir])[0], running


def test_a_client_of_the_other_cluster_says_both_ids(clusters: tuple[LocalCluster, LocalCluster]) -> None:
    first, _ = clusters
    stored, running = ids(clusters)
    assert stored
    assert stored != running
    with Client.from_config(first.config) as client, pytest.raises(Unavailable) as refused:
        client.resolve("01a1fc473a1370b2b1b22c74445395dd", timeout=2.0)
    assert stored in str(refused.value)
    assert running in str(refused.value)
    assert "two clusters are called 'demo'" in str(refused.value)


def test_status_says_it_and_so_does_the_nodes_log(clusters: tuple[LocalCluster, LocalCluster]) -> None:
    first, second = clusters
    stored, running = ids(clusters)
    command = [
        sys.executable,
        "-c",
        "from raftcoord_cli.main import main; main()",
        "status",
        "-c",
        str(first.config.path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 5
    assert stored in done.stdout
    assert running in done.stdout
    log = second.log_path("n1").read_text()
    assert f"it belongs to the cluster with the id '{stored}', and this node to '{running}'" in log


def test_a_participant_of_the_other_cluster_ends_with_one_sentence_and_its_name_is_not_taken(
    clusters: tuple[LocalCluster, LocalCluster],
) -> None:
    first, second = clusters
    stored, running = ids(clusters)
    program = (
        "import sys; from raftcoord.config import Config; from raftcoord.participants.serve import serve\n"
        "from raftcoord.participants.sqlite import SqliteParticipant\n"
        "serve(SqliteParticipant(sys.argv[1]), 'bank-a', Config.load(sys.argv[2]))\n"
    )
    command = [sys.executable, "-c", program, str(first.config.data_dir / "a.db"), str(second.config.path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert stored in done.stderr.splitlines()[-1]
    assert running in done.stderr.splitlines()[-1]
    with Client.from_config(second.config) as client:
        assert [each.name for each in client.participants()] == ["bank-b"]
    assert "participant bank-a is not admitted" in second.log_path("n1").read_text()


def test_what_is_no_node_db_says_nothing(tmp_path: Path) -> None:
    for name, content in (("n1", b""), ("n2", b"SQLite format 3\0" + bytes(4096))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "node.db").write_bytes(content)
    NodeDb.open(tmp_path / "n3", cluster_name="demo", node="n3").close()  # not founded
    assert founded_in(tmp_path / name for name in ("n0", "n1", "n2", "n3")) == ("", Path())


def test_reading_which_cluster_it_is_leaves_no_file(
    clusters: tuple[LocalCluster, LocalCluster], tmp_path: Path
) -> None:
    copy = tmp_path / "n1"
    shutil.copytree(clusters[0].config.node("n1").data_dir, copy)
    before = sorted(path.name for path in copy.iterdir())
    assert founded_in([copy])[0]
    assert sorted(path.name for path in copy.iterdir()) == before
