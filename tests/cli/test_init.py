"""``raftcoord init``: with pip alone there is a cluster in three commands, and no file is lost on the way."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from raftcoord.config import Address, Config
from raftcoord.node.cluster_file import commented

ROOT = Path(__file__).parent.parent.parent


def raftcoord(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from raftcoord_cli.main import main; main()", *arguments]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False, timeout=60)


def test_the_file_of_the_repository_is_what_init_writes() -> None:
    """Change the template in raftcoord/node/cluster_file.py, and write cluster.yaml from it."""
    ports = [(Address("127.0.0.1", 7400 + n), Address("127.0.0.1", 7500 + n)) for n in (1, 2, 3)]
    assert (ROOT / "cluster.yaml").read_text(encoding="utf-8") == commented("demo", ports)


@pytest.mark.parametrize("nodes", [1, 3, 5, 7])
def test_a_file_for_each_number_of_nodes_is_a_cluster(tmp_path: Path, nodes: int) -> None:
    directory = tmp_path / "shop"
    directory.mkdir()
    done = raftcoord(directory, "init", "--nodes", str(nodes), "-o", "json")
    assert done.returncode == 0, done.stderr
    config = Config.load(directory / "cluster.yaml")
    assert [node.name for node in config.nodes] == [f"n{n}" for n in range(1, nodes + 1)]
    assert config.cluster == "shop"
    told = json.loads(done.stdout)
    assert told["nodes"] == [{"name": n.name, "peer": str(n.peer), "client": str(n.client)} for n in config.nodes]


def test_the_next_commands_that_it_names_work(tmp_path: Path) -> None:
    assert "raftcoord init" in raftcoord(tmp_path, "up", "-d").stderr  # the error for the missing file names it
    done = raftcoord(tmp_path, "init")
    assert done.stdout.splitlines()[-1] == "next: raftcoord up -d; raftcoord status"
    try:
        assert raftcoord(tmp_path, "up", "-d").returncode == 0
        assert raftcoord(tmp_path, "status").returncode == 0
    finally:
        assert raftcoord(tmp_path, "down").returncode == 0


def test_a_file_that_is_there_is_replaced_only_with_force(tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text("mine")
    refused = raftcoord(tmp_path, "init")
    assert refused.returncode == 2
    assert "error: cluster.yaml is there already and was not changed; --force replaces it" in refused.stderr
    assert path.read_text() == "mine"
    assert raftcoord(tmp_path, "init", "--force").returncode == 0
    assert Config.load(path).nodes
    assert [file.name for file in tmp_path.iterdir()] == ["cluster.yaml"]


def test_what_cannot_be_written_or_named_is_one_sentence_and_no_file(tmp_path: Path) -> None:
    assert "absent/cluster.yaml cannot be written" in raftcoord(tmp_path, "init", "-c", "absent/cluster.yaml").stderr
    assert "is not a name" in raftcoord(tmp_path, "init", "--name", "Not A Name").stderr
    assert raftcoord(tmp_path, "init", "--nodes", "4").returncode == 2
    assert list(tmp_path.iterdir()) == []
