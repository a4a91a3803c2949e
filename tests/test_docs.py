"""README.md and docs/ are true: what they name exists, and what they tell the reader to type ends as they say."""

from __future__ import annotations

import ast
import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

import click
import pytest
from raftcoord_cli.main import main

from raftcoord import Client, RaftcoordError, TxId, Verdict, limits
from raftcoord.config import Config
from raftcoord.drills.catalog import DRILLS
from raftcoord.limits import NodeBounds
from raftcoord.processes.local_cluster import LocalCluster, write_local_config

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
DOCS = [README, *sorted((ROOT / "docs").glob("*.md"))]
GUARANTEES = (ROOT / "docs" / "guarantees.md").read_text()
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
PYSYNCOBJ = (ROOT / "docs" / "pysyncobj.md").read_text()
HAZARDS = "tests/consensus/test_hazards.py"
RAFTCOORD = Path(sys.executable).with_name("raftcoord")
WAIT_S = 20.0


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@lru_cache
def functions(path: str) -> dict[str, ast.FunctionDef | ast.AsyncFunctionDef]:
    tree = ast.parse((ROOT / path).read_text())
    return {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def hazard_claims() -> dict[str, str]:
    """Each claim of test_hazards.py as its test id has it, and the plant that takes its correction out."""
    claims = {}
    for name, function in functions(HAZARDS).items():
        for made in function.decorator_list:
            match made:
                case ast.Call(
                    func=ast.Name(id="claim"),
                    args=[ast.Constant(value=str(hazard))],
                    keywords=[ast.keyword(arg="without", value=ast.Attribute(attr=plant))],
                ):
                    claims[f"{hazard}-{name}"] = plant
    return claims


# -- what is named exists


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_every_test_and_file_that_is_named_exists(path: Path) -> None:
    text = path.read_text()
    for file, name, claim in re.findall(r"`([\w/]+\.py)::(\w+)(?:\[([^\]]+)\])?`", text):
        assert (ROOT / file).is_file(), file
        assert name in functions(file), f"{file}::{name}"
        assert not claim or (file == HAZARDS and claim in hazard_claims()), claim
    for file in re.findall(r"`((?:tests|raftcoord|docs|scripts)/[\w/.]+)`", text):
        assert (ROOT / file).exists(), file


def test_every_promise_names_a_test() -> None:
    promised = GUARANTEES.partition("## The hazards")[0]
    promises = re.findall(r"^(?:### \d|\*\*).*?(?=^#|^\*\*|\Z)", promised, re.MULTILINE | re.DOTALL)
    assert len(promises) > 20
    for promise in promises:
        assert "::test_" in promise, promise.splitlines()[0]


def test_the_table_of_hazards_has_every_claim_with_its_plant() -> None:
    claims = hazard_claims()
    assert len(claims) > 20
    told: dict[str, set[str]] = {}
    for number, row in re.findall(r"^\| (H\d+) \|(.*)\|$", PYSYNCOBJ, re.MULTILINE):
        assert number not in told, number
        told[number] = set(re.findall(r"`(H\d+-\w+|h\d+_\w+)`", row))
    assert told == {
        number: {each for name, plant in claims.items() if name.startswith(f"{number}-") for each in (name, plant)}
        for number in {name.partition("-")[0] for name in claims}
    }


def anchors(path: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.M | re.S), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_every_link_leads_somewhere(path: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        file, _, anchor = link.partition("#")
        target = (path.parent / file) if file else path
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def typed(text: str) -> Iterator[list[str]]:
    """Every ``raftcoord ...`` that a reader is told to type, as its arguments."""
    lines = [line for block in blocks(text, "sh") for line in block.splitlines()]
    lines += re.findall(r"^    (raftcoord .*)$", text, re.MULTILINE)
    lines += re.findall(r"`(raftcoord [^`]+)`", text)
    lines += [line.partition("=")[2] for line in text.splitlines() if line.startswith("ExecStart=")]
    for line in lines:
        words = shlex.split(line.removesuffix("&"), comments=True)
        if words and Path(words[0]).name == "raftcoord":
            yield words[1:]


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_every_command_and_option_that_is_named_exists(path: Path) -> None:
    for words in typed(path.read_text()):
        command: click.Command = main
        while isinstance(command, click.Group) and words:
            name, *words = words
            found = [command.get_command(click.Context(command), each) for each in name.split("|")]
            assert all(found), name
            command = found[0] or command
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("-") and word != "-"} <= known, (command.name, words)


def test_operations_runs_every_drill() -> None:
    assert set(re.findall(r"^raftcoord drill run (\S+)", OPERATIONS, re.MULTILINE)) == set(DRILLS)


def test_the_limits_that_operations_tells_are_the_limits() -> None:
    table = OPERATIONS.partition("## Limits")[2].partition("## ")[0]
    for told in (
        f"| {', '.join(map(str, limits.NODES_ALLOWED[:-1]))} or {limits.NODES_ALLOWED[-1]} |",
        f"| {limits.NAME_LENGTH_MAX} characters",
        f"branches of a transaction | {limits.BRANCHES_MAX} |",
        f"| {limits.PAYLOAD_BYTES_MAX >> 20} MiB, nested {limits.PAYLOAD_NESTING_MAX} deep |",
        f"| {limits.REASON_LENGTH_MAX} characters, cut |",
        f"| {limits.TIMEOUT_MS_MIN} ms to {limits.TIMEOUT_MS_MAX // 60_000} minutes |",
        f"at a time | {NodeBounds.transactions_running_max:,} |",
        f"proposals open at one node | {NodeBounds.proposals_max:,} |",
        f"connections of one port | {limits.ConnectionBounds.connections_max:,} |",
        f"| {limits.ConnectionBounds.requests_max:,}; from {NodeBounds.prepares_open_max:,} on",
        f"| {limits.ROWS_MAX:,} |",
        f"SQLite participant | {limits.OPERATIONS_MAX:,} |",
        f"| {limits.LOCK_WAIT_MS // 1000} s, or {limits.LOCK_WAIT_OLDER_MS / 1000} s behind",
        f"not connected | {limits.CONNECT_WAIT_MS // 1000} s, or half",
    ):
        assert told in table, told
    assert f"{limits.HEARTBEAT_MS_MIN} to {limits.HEARTBEAT_MS_MAX:,}" in OPERATIONS
    assert f"at most {limits.ELECTION_MS_MAX:,}" in OPERATIONS


# -- what is typed ends as it says


def environment() -> dict[str, str]:
    path = os.pathsep.join([str(RAFTCOORD.parent), os.environ["PATH"]])
    return {**os.environ, "PATH": path, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


READY = """
jobs -p > pids
for _ in $(seq 400); do [ "$(grep -c ' ready$' out)" = 2 ] && break; sleep 0.05; done
"""


@pytest.mark.skipif(not RAFTCOORD.exists(), reason="the command raftcoord is not installed beside this Python")
def test_the_readmes_commands_and_its_python_run_as_written(tmp_path: Path) -> None:
    """In bash, block after block; only the installation is left out, and between the first two the reader waits for ready."""
    text = README.read_text()
    start, use, end = blocks(text, "sh")
    (program,) = blocks(text, "python")
    (tmp_path / "readme.py").write_text(program)
    install, _, start = start.partition("\n")
    assert install == "pip install '.[fast]'"
    assert "When both participants have printed `ready`:" in text
    again = use.partition("raftcoord status")[0]
    run = f"{sys.executable} readme.py\n"
    script = "set -em; exec > out 2> err\n" + start + READY + use + again + run + end + "wait\n"
    config = write_local_config(tmp_path)
    try:
        done = subprocess.run(["bash", "-c", script], cwd=tmp_path, env=environment(), timeout=120, check=False)
        said = (tmp_path / "out").read_text()
        assert done.returncode == 0, said + (tmp_path / "err").read_text()
    finally:
        LocalCluster(config).stop_all()
        for pid in (tmp_path / "pids").read_text().split() if (tmp_path / "pids").exists() else ():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
    outcomes = re.findall(r"^(COMMITTED) ([0-9a-f]{32}) ", said, re.MULTILINE)
    assert len({txid for _, txid in outcomes}) == 3, said
    assert "cluster demo is up: 3 nodes" in said
    assert "node n1 is killed" in said
    assert re.search(r"^stopped: .*node n2, node n3$", said, re.MULTILINE), said


@pytest.mark.skipif(not RAFTCOORD.exists(), reason="the command raftcoord is not installed beside this Python")
def test_a_node_under_a_supervisor_is_ready_stops_and_is_no_business_of_node_kill(tmp_path: Path) -> None:
    write_local_config(tmp_path, nodes=1)
    command = [str(RAFTCOORD), "node", "run", "n1"]
    with subprocess.Popen(command, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, text=True) as node:
        try:
            assert node.stdout is not None
            assert node.stdout.readline().startswith("raftcoord node n1 ready")
            kill = [str(RAFTCOORD), "node", "kill", "n1"]
            done = subprocess.run(kill, cwd=tmp_path, env=environment(), capture_output=True, text=True, check=False)
            assert (done.returncode, "does not run here" in done.stderr) == (2, True)
            assert (tmp_path / "data" / "n1" / "LOCK").read_text() == f"{node.pid}\n"
            node.send_signal(signal.SIGTERM)
            assert node.wait(WAIT_S) == 0
        finally:
            node.kill()


def test_a_damaged_node_is_refused_and_replaced_as_operations_says(tmp_path: Path) -> None:
    assert "`mv data/n2 data/n2.damaged`" in OPERATIONS
    config = write_local_config(tmp_path)
    cluster = LocalCluster(config)
    directory = tmp_path / "data" / "n2"
    try:
        cluster.start_all()
        with Client.from_config(config) as client:
            txids = [TxId.new() for _ in range(5)]
            for txid in txids:
                assert client.decide(txid, Verdict.COMMIT, ["bank-a"], timeout=WAIT_S).committed
            cluster.stop("n2")
            damage(directory / "node.db")
            with pytest.raises(RaftcoordError, match=r"is damaged: .* Nothing was changed\. Move .*/n2 away"):
                cluster.start("n2")
            directory.rename(directory.with_name("n2.damaged"))
            cluster.start("n2")
            eventually(lambda: waits(client, "n2"))
            assert client.replace_node("n2")["node"] == "n2"
            eventually(lambda: applied(client, "n2") == applied(client, "n1") == applied(client, "n3"))
        cluster.stop("n1")
        cluster.stop("n3")
        assert committed_at(config, "n2", txids) == 5
    finally:
        cluster.stop_all()


def damage(file: Path) -> None:
    raw = file.read_bytes()
    file.write_bytes(raw[: len(raw) // 2])


def applied(client: Client, node: str) -> object:
    said = client.nodes()[node]
    return said["applied_index"] if isinstance(said, dict) and said["leader"] else said


def waits(client: Client, node: str) -> bool:
    said = client.nodes()[node]
    return isinstance(said, dict) and said["role"] == "waiting" and "was wiped" in said["peers"]["n1"]["why"]


def committed_at(config: Config, node: str, txids: list[TxId]) -> int:
    """How many are told as committed by that node alone, which has no majority any more."""
    with Client.from_addresses([str(config.node(node).client)]) as client:
        return sum(client.status(txid).state.name == "COMMITTED" for txid in txids)


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.05)
