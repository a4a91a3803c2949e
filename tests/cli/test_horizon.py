"""raftcoord horizon lower on real processes: a horizon that lies in the future, and the way out by command line."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from raftcoord import limits
from raftcoord.config import Config
from raftcoord.core.tables.table import TableChange
from raftcoord.processes.local_cluster import LocalCluster, write_local_config
from raftcoord.storage.node_db import NodeDb, Write

DAY_MS = 86_400_000
SENTENCE = "what was forgotten stays forgotten"
WAIT_S = 30.0


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Config]:
    """Three nodes that run, and whose horizon lies two days ahead."""
    config = write_local_config(tmp_path_factory.mktemp("cluster"))
    cluster = LocalCluster(config)
    try:
        raftcoord(config, "up", "-d")
        raftcoord(config, "down")
        ahead = {
            "horizon": TableChange(fields={"horizon_ms": now_ms() + 2 * DAY_MS})
        }  # the same for all, as it is replicated
        for node in config.nodes:
            with closing(NodeDb.open(node.data_dir, cluster_name=config.cluster, node=node.name)) as db:
                db.write(Write(None, [], None, ahead, None, None))
        raftcoord(config, "up", "-d")
        yield config
    finally:
        cluster.stop_all()


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def raftcoord(config: Config, *arguments: str, code: int = 0) -> dict[str, Any]:
    """What the command says, as JSON."""
    program = "from raftcoord_cli.main import main; main()"
    command = [sys.executable, "-c", program, *arguments, "-c", str(config.path), "-o", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == code, done.stdout + done.stderr
    value: dict[str, Any] = json.loads(done.stdout)
    return value


def horizons(config: Config) -> set[int]:
    return {node["horizon_ms"] for node in raftcoord(config, "status")["nodes"]}


def test_a_horizon_in_the_future_is_found_and_lowered_by_command_line(config: Config, tmp_path: Path) -> None:
    assert min(horizons(config)) > now_ms() + DAY_MS
    wrong = [row for row in raftcoord(config, "doctor", code=2)["rows"] if row["verdict"] == "error"]
    assert [(row["check"], "raftcoord horizon lower --as NAME" in row["mend"]) for row in wrong] == [("horizon", True)]
    said = raftcoord(config, "horizon", "lower", "--as", "anna", code=2)["error"]["message"]
    assert f"--say '{SENTENCE}'" in said
    before = now_ms()
    found = raftcoord(config, "horizon", "lower", "--as", "anna", "--say", SENTENCE)
    beyond_ms = limits.ClockBounds.future_ms_max + limits.ClockBounds.spread_ms_max
    assert before + beyond_ms <= found["horizon_ms"] <= now_ms() + beyond_ms + limits.ClockBounds.spread_ms_max
    end = time.monotonic() + WAIT_S
    while horizons(config) != {found["horizon_ms"]}:
        assert time.monotonic() < end, (found, raftcoord(config, "status"))
    again = raftcoord(config, "horizon", "lower", "--as", "anna", "--say", SENTENCE, code=5)["error"]["message"]
    assert "nothing to lower" in again


def test_a_node_that_does_not_run_is_named_before_anything_is_lowered(config: Config) -> None:
    leader = raftcoord(config, "status")["leader"]
    stopped = next(node.name for node in config.nodes if node.name != leader)
    raftcoord(config, "node", "stop", stopped)
    try:
        said = raftcoord(config, "horizon", "lower", "--as", "anna", "--say", SENTENCE, code=5)["error"]["message"]
        assert f"the clock of node {stopped} is not known, and nothing was changed" in said
        assert f"raftcoord node start {stopped}" in said
    finally:
        raftcoord(config, "node", "start", stopped)
