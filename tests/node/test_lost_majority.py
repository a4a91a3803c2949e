"""Replacing a node when there is nobody left who could agree to it."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from raftcoord import Client
from raftcoord.errors import Unavailable
from raftcoord.processes.local_cluster import LocalCluster, write_local_config


@pytest.fixture
def bereft(tmp_path: Path) -> Iterator[LocalCluster]:
    """Three nodes of which two have lost their data: they have met one another, and n1 refuses both."""
    cluster = LocalCluster(write_local_config(tmp_path))
    try:
        cluster.start_all()
        with Client.from_config(cluster.config) as client:
            until(lambda: bool(client.node_info("n1")["cluster"]))
        cluster.stop_all()
        for name in ("n2", "n3"):
            shutil.rmtree(cluster.config.node(name).data_dir)
        cluster.start_all()
        yield cluster
    finally:
        cluster.stop_all()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.05)


def test_after_the_loss_of_the_majority_no_lost_node_is_called_linked(bereft: LocalCluster) -> None:
    with Client.from_addresses([str(bereft.config.node("n3").client)]) as client:
        until(lambda: bool(client.node_info()["peers"]["n2"]["up"]))
        with pytest.raises(Unavailable) as refused:
            client.replace_node("n2", timeout=5.0)
    assert "linked" not in str(refused.value)


def test_it_says_that_a_majority_is_needed(bereft: LocalCluster) -> None:
    with Client.from_config(bereft.config) as client:
        until(lambda: bool(client.node_info("n1")["peers"]["n2"]["refused"]))
        with pytest.raises(Unavailable) as refused:
            client.replace_node("n2", timeout=5.0)
    assert "linked" not in str(refused.value)
    assert "sees no leader: a majority of the members must be up with their data" in str(refused.value)
