"""The command line on real processes: up, status, submit, txn, kill a node, down."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import pytest

from raftcoord.client.synchronous import Client
from raftcoord.config import Config
from raftcoord.processes.local_cluster import LocalCluster, write_local_config
from raftcoord.types import State, TxId, Verdict

PAY = {
    "branches": {
        "bank-a": [{"op": "add", "key": "alice", "amount": -10, "min": 0}],
        "bank-b": [{"op": "add", "key": "bob", "amount": 10}],
    }
}
WAIT_S = 30.0


class Shell:
    """``raftcoord`` as a process, on one cluster.yaml."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def command(self, *arguments: str) -> list[str]:
        program = "from raftcoord_cli.main import main; main()"
        return [sys.executable, "-c", program, *arguments, "-c", str(self.config.path)]

    def run(self, *arguments: str, stdin: object = None) -> tuple[int, str, str]:
        text = None if stdin is None else json.dumps(stdin)
        done = subprocess.run(
            self.command(*arguments), input=text, capture_output=True, text=True, check=False, timeout=60
        )
        assert "Traceback" not in done.stdout + done.stderr
        return done.returncode, done.stdout, done.stderr

    def json(self, *arguments: str, stdin: object = None, code: int = 0) -> dict[str, Any]:
        returned, stdout, stderr = self.run(*arguments, "-o", "json", stdin=stdin)
        assert returned == code, stdout + stderr
        value: dict[str, Any] = json.loads(stdout)
        return value


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """Three nodes that run, and two banks."""
    directory = tmp_path_factory.mktemp("cluster")
    config = write_local_config(directory)
    cluster = LocalCluster(config)
    shell = Shell(config)
    try:
        up = shell.json("up", "-d")
        assert up["started"] == ["n1", "n2", "n3"]
        assert up["leader"] in up["started"]
        cluster.start_participant("bank-a", directory / "a.db", arguments=["--open", "alice=30"])
        cluster.start_participant("bank-b", directory / "b.db", arguments=["--open", "bob=0"])
        eventually(lambda: connected_everywhere(shell))
        yield shell
    finally:
        cluster.stop_all()


def connected_everywhere(shell: Shell) -> bool:
    nodes = shell.json("status")["nodes"]
    return all(node["reachable"] and {"bank-a", "bank-b"} <= set(node["participants"]) for node in nodes)


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.05)


def test_up_twice_starts_nothing_and_says_who_leads(shell: Shell) -> None:
    assert shell.json("up", "-d")["started"] == []
    code, stdout, _ = shell.run("up", "-d")
    assert code == 0
    assert "(3 ran already)" in stdout


def test_status_shows_every_node_and_who_is_connected(shell: Shell) -> None:
    code, stdout, _ = shell.run("status")
    assert code == 0
    assert "leads in term" in stdout
    for name in ("n1", "n2", "n3", "bank-a", "bank-b"):
        assert name in stdout


def test_top_shows_as_many_looks_as_asked_for(shell: Shell) -> None:
    code, stdout, _ = shell.run("top", "-n", "2", "--every", "0.1", "-o", "json")
    assert code == 0
    assert [len(json.loads(line)["nodes"]) for line in stdout.splitlines()] == [3, 3]
    assert shell.run("top", "-n", "1")[0] == 0


def test_a_step_that_would_end_the_majority_is_refused_at_once_with_what_to_do(shell: Shell) -> None:
    shell.run("node", "kill", "n3")
    try:
        began = time.monotonic()
        error = shell.json("node", "remove", "n2", "-y", code=5)["error"]["message"]
        assert error.startswith("without node n2 only 1 of 2 voters would be up")
        assert "bring these back first: n3 (raftcoord node start NAME)" in error
        assert time.monotonic() - began < 10, "15 s are for a cluster that answers nothing"
    finally:
        shell.json("node", "start", "n3")
    eventually(lambda: connected_everywhere(shell))


def test_a_transfer_is_committed_once_shown_and_resolved_to_the_same(shell: Shell) -> None:
    outcome = shell.json("submit", "-", "--wait", "completed", stdin=PAY)
    txid = outcome["txid"]
    assert (outcome["state"], outcome["committed"]) == ("COMMITTED", True)
    assert txid in {row["txid"] for row in shell.json("txn", "ls", "--state", "committed")["transactions"]}
    assert txid in shell.run("txn", "ls")[1]
    row = shell.json("txn", "show", txid)
    assert (row["state"], sorted(row["branches"])) == ("COMMITTED", ["bank-a", "bank-b"])
    assert "COMMITTED" in shell.run("txn", "show", txid)[1]
    assert shell.json("txn", "resolve", txid)["state"] == "COMMITTED"
    error = shell.json("submit", "-", "--txid", txid, stdin=PAY, code=2)["error"]
    assert error["kind"] == "LocalProtocolError"


def test_a_no_vote_aborts_with_its_reason_and_exit_code_3(shell: Shell) -> None:
    too_much = {"branches": {"bank-a": [{"op": "add", "key": "alice", "amount": -1000, "min": 0}]}}
    outcome = shell.json("submit", "-", stdin=too_much, code=3)
    assert (outcome["state"], outcome["branch"]) == ("ABORTED", "bank-a")
    assert outcome["reason"]
    assert shell.run("txn", "resolve", outcome["txid"])[0] == 3


def test_a_participant_that_nobody_serves_aborts_with_its_name(shell: Shell) -> None:
    outcome = shell.json("submit", "-", "--timeout", "2", stdin={"branches": {"bank-z": []}}, code=3)
    assert "bank-z" in outcome["reason"] + outcome["branch"]


def test_damage_is_shown_everywhere_until_somebody_acknowledges_it(shell: Shell) -> None:
    assert shell.json("txn", "ls", "--heuristic") == {"damages": [], "pending": 0, "total": 0}
    assert "no branch is damaged" in shell.run("txn", "ls", "--heuristic")[1]
    txid = shell.json("submit", "-", "--wait", "completed", stdin=PAY)["txid"]
    with Client.from_config(shell.config) as client:
        client.report_damage(txid, "bank-a", "rolled back by hand [at 9:15]")
    eventually(lambda: "damaged branches that nobody has acknowledged: 1" in shell.run("status")[1])
    eventually(lambda: shell.json("txn", "ls", "--heuristic")["pending"] == 1)
    for command in (("txn", "ls", "--heuristic"), ("txn", "show", txid)):
        assert "rolled back by hand [at 9:15]" in shell.run(*command)[1]
    assert shell.json("txn", "show", txid)["damages"][0]["acknowledged_by"] == ""
    refused = shell.json("txn", "acknowledge", txid, "bank-b", "--as", "ann", code=2)["error"]
    assert "no damage is recorded for branch 'bank-b'" in refused["message"]
    assert shell.json("txn", "acknowledge", txid, "bank-a", "--as", "ann")["acknowledged_by"] == "ann"
    late = shell.run("txn", "acknowledge", txid, "bank-a", "--as", "bob")[1]
    assert "acknowledged by ann, who came first; bob is not recorded" in late
    eventually(lambda: "nobody has acknowledged" not in shell.run("status")[1])
    eventually(lambda: shell.json("txn", "ls", "--heuristic")["damages"][0]["acknowledged_by"] == "ann")
    assert shell.run("txn", "ls", "--heuristic", "--state", "open")[0] == 2


def test_all_damage_is_acknowledged_by_one_command(shell: Shell) -> None:
    with Client.from_config(shell.config) as client:
        txids = [str(client.decide(TxId.new(), Verdict.COMMIT, ["db", "bank-a"]).txid) for _ in range(3)]
        for txid in txids:
            client.complete(txid)
            client.report_damage(txid, "bank-a", "the marks were dropped")
    assert "nobody can confirm" in refusal(shell, "txn", "acknowledge", "--all", "--as", "ann")
    assert shell.json("txn", "acknowledge", "--all", "--of", "bank-b", "--as", "ann", "-y") == {"acknowledged": 0}
    assert shell.json("txn", "acknowledge", "--all", "--of", "bank-a", "--as", "ann", "-y") == {"acknowledged": 3}
    assert shell.json("txn", "acknowledge", "--all", "--as", "ann", "-y") == {"acknowledged": 0}
    for wrong in (["--all", txids[0]], [], [txids[0]], [txids[0], "bank-a", "--of", "bank-a"]):
        assert shell.run("txn", "acknowledge", "--as", "ann", *wrong)[0] == 2


def test_a_branch_that_never_comes_back_is_closed_and_its_outcome_stays(shell: Shell) -> None:
    with Client.from_config(shell.config) as client:
        txids = [str(client.decide(TxId.new(), Verdict.COMMIT, ["gone", "bank-a"]).txid) for _ in range(3)]
        closing = ("--as", "ann", "--why", "the shop was sold")
        assert shell.json("txn", "close", "gone", txids[0], *closing) == {"closed": 1}
        eventually(lambda: shell.json("txn", "show", txids[0])["closed"][0]["why"] == "the shop was sold")
        eventually(lambda: "gone by ann at" in shell.run("txn", "show", txids[0])[1])
        assert "nobody can confirm" in refusal(shell, "txn", "close", "gone", "--all", *closing)
        assert shell.json("txn", "close", "gone", "--all", "-y", *closing)["closed"] >= 2
        eventually(lambda: shell.json("txn", "close", "gone", "--all", "-y", *closing) == {"closed": 0})
        for txid in txids:
            client.complete(txid, ["bank-a"])
            assert client.resolve(txid, branch="gone").state is State.COMMITTED
    assert shell.run("txn", "close", "gone", *closing)[0] == 2
    assert shell.run("txn", "close", "gone", txids[0], "--all", *closing)[0] == 2
    assert "has no branch 'nobody'" in refusal(shell, "txn", "close", "nobody", txids[0], *closing)


def test_the_state_of_a_participant_is_shown_replaced_and_forgotten(shell: Shell) -> None:
    rows = {row["name"]: row for row in shell.json("participant", "ls")["participants"]}
    assert len(rows["bank-a"]["identity"]) == 32
    assert rows["bank-a"]["identity"][:8] in shell.run("participant", "ls")[1]
    replace = ("participant", "replace", "bank-a", "--as", "ann")
    assert "stop it first" in refusal(shell, *replace, "--identity", "ab" * 16, "-y")
    assert "nobody can confirm" in refusal(shell, *replace)
    assert "no state is bound" in refusal(shell, "participant", "forget", "nobody", "--as", "ann", "-y")


def refusal(shell: Shell, *words: str) -> str:
    return str(shell.json(*words, code=2)["error"]["message"])


def test_a_killed_node_is_missed_by_nobody_and_started_again(shell: Shell) -> None:
    leader = shell.json("status")["leader"]
    assert shell.json("node", "kill", leader)["done"] == "killed"
    assert shell.json("submit", "-", "--timeout", "20", stdin=PAY)["state"] == "COMMITTED"
    gone = next(node for node in shell.json("status")["nodes"] if node["name"] == leader)
    assert not gone["reachable"]
    assert shell.run("node", "kill", leader)[0] == 2
    assert shell.json("node", "start", leader)["pid"]
    assert shell.run("node", "start", leader)[0] == 2
    assert "ready" in shell.run("node", "logs", leader)[1]
    eventually(lambda: connected_everywhere(shell))


def test_a_paused_node_is_called_paused_and_goes_on(shell: Shell) -> None:
    names = [node["name"] for node in shell.json("status")["nodes"]]
    follower = next(name for name in names if name != shell.json("status")["leader"])
    assert shell.json("node", "pause", follower)["done"] == "paused"
    paused = next(node for node in shell.json("status")["nodes"] if node["name"] == follower)
    assert paused["why"] == f"paused; let it go on: raftcoord node resume {follower}"
    assert shell.json("node", "resume", follower)["done"] == "running"
    eventually(lambda: connected_everywhere(shell))


def test_a_node_without_its_data_waits_until_it_is_replaced(shell: Shell) -> None:
    before = shell.json("status")
    name = next(node["name"] for node in before["nodes"] if node["name"] != before["leader"])
    refused = shell.json("node", "replace", name, "-y", code=2)["error"]["message"]
    assert "there is nothing to replace" in refused
    assert shell.json("node", "kill", name)["done"] == "killed"
    nobody = f"error: the leader has not heard of a new node {name}, and nothing was changed; start it in an empty"
    code, _, stderr = shell.run("node", "replace", name, "-y")
    assert (code, stderr.startswith(nobody)) == (5, True)
    shutil.rmtree(shell.config.node(name).data_dir)
    assert shell.json("node", "start", name)["pid"]
    eventually(lambda: f"node {name} was wiped or replaced" in shell.run("status")[1])
    assert "waiting" in shell.run("status")[1]
    assert "add -y" in shell.json("node", "replace", name, code=2)["error"]["message"]
    assert "there is no node 'n9'" in shell.json("node", "replace", "n9", "-y", code=2)["error"]["message"]
    code, stdout, stderr = shell.run("node", "replace", name, "-y")
    assert code == 0, stderr
    assert stdout.endswith(f"node {name} votes; the members are n1, n2, n3\n")
    eventually(lambda: connected_everywhere(shell))
    eventually(lambda: {node["role"] for node in shell.json("status")["nodes"]} == {"leader", "follower"})
    assert "was wiped" not in shell.run("status")[1]


def test_up_in_the_foreground_shows_who_leads_and_stops_the_nodes_at_ctrl_c(tmp_path: Path) -> None:
    shell = Shell(write_local_config(tmp_path))
    cluster = LocalCluster(shell.config)
    up = subprocess.Popen(
        shell.command("up"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    try:
        assert up.stdout is not None
        assert any("leads in term" in line for line in lines_until_end(up.stdout))
        assert cluster.pid("n1") is not None
        up.send_signal(signal.SIGINT)
        _, stderr = up.communicate(timeout=WAIT_S)
        assert (up.returncode, stderr.strip()) == (130, "")
        assert [cluster.pid(name) for name in ("n1", "n2", "n3")] == [None] * 3
    finally:
        up.kill()
        up.communicate()
        cluster.stop_all()


def lines_until_end(file: IO[str]) -> Iterator[str]:
    while line := file.readline():
        yield line


def test_one_node_whose_port_is_taken_leaves_none_running(tmp_path: Path, shell: Shell) -> None:
    taken = shell.config.nodes[0].client
    config = write_local_config(tmp_path)
    path = tmp_path / "cluster.yaml"
    path.write_text(path.read_text().replace(str(config.nodes[2].client), str(taken)))
    other = Shell(Config.load(path))
    code, stdout, stderr = other.run("up", "-d", "-o", "json")
    try:
        assert code == 2, stdout + stderr
        assert str(taken) in json.loads(stdout)["error"]["message"], stderr
        assert [LocalCluster(other.config).pid(name) for name in ("n1", "n2", "n3")] == [None] * 3
    finally:
        LocalCluster(other.config).stop_all()


def test_down_stops_nodes_and_participants(tmp_path: Path) -> None:
    shell = Shell(write_local_config(tmp_path, nodes=1))
    cluster = LocalCluster(shell.config)
    try:
        assert shell.json("up", "-d")["leader"] == "n1"
        cluster.start_participant("bank-a", tmp_path / "a.db")
        assert shell.json("down")["stopped"] == ["participant bank-a", "node n1"]
        assert cluster.pid("n1") is None
        assert cluster.participant_pid("bank-a") is None
        assert shell.json("down")["stopped"] == []
        assert shell.json("up", "-d")["started"] == ["n1"]
    finally:
        cluster.stop_all()
