"""`raftcoord doctor` on real nodes: its exit codes, that it ends whatever hangs, and that it changes nothing."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from databases.banks import SqliteBank
from node.local_consensus import Log
from node.world import Clock, serving

from raftcoord import Client, TxId
from raftcoord.client.asynchronous import AsyncClient
from raftcoord.config import Config
from raftcoord.databases import drivers
from raftcoord.databases import gid as gids
from raftcoord.doctor import clocks, databases, examine, in_thread, nodes, prepared
from raftcoord.doctor.findings import DAMAGE, LEADER, REACHABLE, Severity
from raftcoord.processes.local_cluster import LocalCluster, write_local_config
from raftcoord.types import State

from .rows import having

HANGS_S = 60.0
"""Far more than the doctor may take; less than what hangs would."""


def command(config: Config, *arguments: str) -> list[str]:
    program = "from raftcoord_cli.main import main; main()"
    return [sys.executable, "-c", program, "doctor", "-c", str(config.path), *arguments]


def doctor(config: Config, code: int) -> list[dict[str, Any]]:
    done = subprocess.run(command(config, "-o", "json"), capture_output=True, text=True, check=False, timeout=HANGS_S)
    assert done.returncode == code, done.stdout + done.stderr
    rows: list[dict[str, Any]] = json.loads(done.stdout)["rows"]
    return rows


def errors(rows: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(row["subject"], row["check"]) for row in rows if row["verdict"] == "error"]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """Three nodes that lead one another."""
    made = LocalCluster(write_local_config(tmp_path_factory.mktemp("cluster")))
    made.start_all()
    try:
        with Client.from_config(made.config) as client:
            client.cluster_id(timeout=30)
        yield made
    finally:
        for node in made.config.nodes:
            made.kill(node.name)


def with_resources(config: Config, directory: Path, **urls: str) -> Config:
    """The same cluster, in a file that names resources."""
    lines = "".join(f"  - {{name: {name}, url: '{url}'}}\n" for name, url in urls.items())
    path = directory / "cluster.yaml"
    path.write_text(f"{config.to_yaml()}resources:\n{lines}", encoding="utf-8")
    return Config.load(path)


@pytest.fixture
def black_hole() -> Iterator[int]:
    """A port that takes connections and never answers."""
    with closing(socket.create_server(("127.0.0.1", 0), backlog=128)) as listening:
        yield listening.getsockname()[1]


# -- exit codes ---------------------------------------------------------------------------------------------------


def test_a_healthy_cluster_is_told_so_for_people_and_for_programs(cluster: LocalCluster) -> None:
    rows = doctor(cluster.config, 0)
    assert errors(rows) == []
    assert {row["subject"] for row in rows} == {"cluster", "node n1", "node n2", "node n3", "this machine"}
    checked = {row["check"] for row in rows}
    assert {"cluster.yaml", REACHABLE, LEADER, DAMAGE, "clock", "directory", "file system", "room", "fsync"} <= checked
    text = subprocess.run(command(cluster.config), capture_output=True, text=True, check=True, timeout=HANGS_S).stdout
    assert "0 errors" in text.splitlines()[-1]
    assert "leads, 3 of 3 nodes answer" in text


def test_a_node_that_is_down_or_held_is_exit_code_5(cluster: LocalCluster) -> None:
    try:
        cluster.pause("n3")
        assert ("node n3", REACHABLE) in errors(doctor(cluster.config, 5))
        cluster.resume("n3")
        cluster.kill("n2")
        assert ("node n2", REACHABLE) in errors(doctor(cluster.config, 5))
    finally:
        cluster.resume("n3")
        cluster.start_all()


def test_pending_damage_is_exit_code_6_until_somebody_acknowledges_it(cluster: LocalCluster) -> None:
    txid = TxId.new()
    with Client.from_config(cluster.config) as client:
        client.resolve(txid, timeout=30)
        client.report_damage(txid, "bank", "rolled back by hand", timeout=30)
        eventually_everywhere(cluster.config, 1)
        assert errors(doctor(cluster.config, 6)) == [("cluster", DAMAGE)]
        client.acknowledge(txid, "bank", "ann", timeout=30)
        eventually_everywhere(cluster.config, 0)
        assert errors(doctor(cluster.config, 0)) == []


def eventually_everywhere(config: Config, damages: int) -> None:
    """Every node has applied it: the doctor asks one of them."""
    with Client.from_config(config) as client:
        deadline = time.monotonic() + 30
        while not all(isinstance(info, dict) and info["damages"] == damages for info in client.nodes().values()):
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_what_is_set_up_wrongly_is_exit_code_2(cluster: LocalCluster, tmp_path: Path) -> None:
    config = with_resources(cluster.config, tmp_path, ledger="postgresql://u:${NOT_SET_ANYWHERE}@127.0.0.1/x")
    assert errors(doctor(config, 2)) == [("resource ledger", "url")]


def test_a_cluster_yaml_that_cannot_be_read_is_exit_code_2(tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text("cluster: [", encoding="utf-8")
    call = [sys.executable, "-c", "from raftcoord_cli.main import main; main()", "doctor", "-c", str(path)]
    done = subprocess.run(call, capture_output=True, text=True, check=False, timeout=HANGS_S)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {path}")


# -- it ends, whatever hangs ----------------------------------------------------------------------------------------


def test_databases_that_never_answer_are_given_up_and_hold_up_nothing(
    cluster: LocalCluster, tmp_path: Path, black_hole: int
) -> None:
    sqlite = SqliteBank(tmp_path / "audit.db")
    config = with_resources(
        cluster.config,
        tmp_path,
        ledger=f"postgresql://u:geheim@127.0.0.1:{black_hole}/x",
        orders=f"mysql://u:geheim@127.0.0.1:{black_hole}/x",
        audit=sqlite.url,
    )
    sqlite.close()
    rows = doctor(config, 5)
    assert errors(rows) == [("resource ledger", REACHABLE), ("resource orders", REACHABLE)]
    assert "geheim" not in json.dumps(rows)


def test_nodes_that_never_answer_are_given_up(tmp_path: Path, black_hole: int) -> None:
    config = write_local_config(tmp_path, nodes=1)
    assert config.path is not None
    text = config.path.read_text(encoding="utf-8").replace(str(config.nodes[0].client.port), str(black_hole))
    config.path.write_text(text, encoding="utf-8")
    assert set(errors(doctor(Config.load(config.path), 5))) == {("node n1", REACHABLE), ("cluster", LEADER)}


def test_what_it_waits_for_is_told_and_ctrl_c_ends_it(cluster: LocalCluster, tmp_path: Path, black_hole: int) -> None:
    config = with_resources(cluster.config, tmp_path, ledger=f"postgresql://u@127.0.0.1:{black_hole}/x")
    process = subprocess.Popen(command(config), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        first = process.stderr.readline()
        assert first.startswith("waiting for ")
        assert "resource ledger" in first
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=HANGS_S)
        assert stdout == ""
        assert "Traceback" not in stderr
        assert process.returncode == 130
    finally:
        process.kill()


def test_a_driver_and_a_file_system_that_hang_for_ever_are_rows(
    cluster: LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    never = threading.Event()
    monkeypatch.setattr(examine, "DATABASE_S", 0.2)
    monkeypatch.setattr(examine, "DISK_S", 0.2)
    monkeypatch.setattr(databases, "look", lambda *_: never.wait())
    monkeypatch.setattr(nodes, "directories", lambda *_: never.wait())
    report = examine.examine(with_resources(cluster.config, tmp_path, audit="sqlite:///audit.db"))
    never.set()
    assert having(report.rows, "resource audit", REACHABLE, "did not answer within 0.2 s").verdict is Severity.ERROR
    assert having(report.rows, "their file system hangs").verdict is Severity.ERROR
    assert having(report.rows, "3 of 3 nodes answer")


def test_a_pid_file_that_may_not_be_read_is_a_row(cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(_: Config) -> None:
        raise PermissionError(13, "Permission denied", "resolver.1.pid")

    monkeypatch.setattr(nodes, "judge_resolver", denied)
    row = having(examine.examine(cluster.config).rows, "Permission denied: resolver.1.pid")
    assert row.verdict is Severity.WARNING


def test_a_driver_that_fails_in_its_own_way_is_a_row_without_the_password(
    cluster: LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: object) -> None:
        raise LookupError("geheim is not right")

    monkeypatch.setattr(databases, "look", failing)
    config = with_resources(cluster.config, tmp_path, ledger="postgresql://u:geheim@127.0.0.1/x")
    row = having(examine.examine(config).rows, "resource ledger", "LookupError: *** is not right")
    assert row.verdict is Severity.ERROR


def test_hosts_that_no_name_server_tells_are_rows(cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    never = threading.Event()
    monkeypatch.setattr(nodes, "NAME_S", 0.2)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: never.wait())
    report = examine.examine(cluster.config)
    never.set()
    assert "name server does not answer" in having(report.rows, "node n1", REACHABLE).what
    assert report.fails(LEADER)

    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    assert "Name or service not known" in having(examine.examine(cluster.config).rows, "node n1", REACHABLE).what


def test_a_thread_that_hangs_does_not_keep_the_process() -> None:
    program = (
        "import asyncio, threading\n"
        "from raftcoord.doctor.in_thread import in_thread\n"
        "try: asyncio.run(in_thread(threading.Event().wait, 0.05))\n"
        "except TimeoutError: print('given up')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=HANGS_S)
    assert done.stdout == "given up\n"


def test_what_is_done_aside_returns_and_raises_as_it_is() -> None:
    assert asyncio.run(in_thread.in_thread(lambda: 7, HANGS_S)) == 7
    with pytest.raises(ZeroDivisionError):
        asyncio.run(in_thread.in_thread(lambda: 1 // 0, HANGS_S))


# -- clocks and the ledger ------------------------------------------------------------------------------------------


def test_the_clock_of_a_node_is_measured() -> None:
    async def measure() -> dict[str, clocks.ClockOffset]:
        clock = Clock()
        async with serving(Log("n1"), clock=clock) as (served,):
            address = f"127.0.0.1:{served.node.client_port}"
            async with AsyncClient.from_addresses([address]) as client:
                told = await client.nodes(timeout=30)
                return await nodes.clocks(client, told, lambda: clock.ms - 90_000)

    ((name, found),) = asyncio.run(measure()).items()
    assert name == "n1"
    assert abs(found.ahead_ms - 90_000) <= found.error_ms + 0.001, "a float of today's milliseconds ends there"


def test_an_orphan_bears_what_the_ledger_says_and_looking_decides_nothing(
    cluster: LocalCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepared, "ORPHAN_S", 0.0)
    bank = SqliteBank(tmp_path / "audit.db")
    config = with_resources(cluster.config, tmp_path, audit=bank.url)
    with Client.from_config(config) as client:
        gid = gids.make(client.cluster_id(timeout=30), TxId.new(), "audit")
        connection = bank.connect()
        session = drivers.session(connection, gid.branch)
        session.enter()
        session.run(bank.dialect.begin(gid, checked=False))
        session.run(bank.dialect.prepare(gid, marks=True))
        connection.close()
        report = examine.examine(config)
        assert having(report.rows, "resource audit", "orphan", str(gid), "UNDECIDED").verdict is Severity.ERROR
        assert having(report.rows, "resolver", "none was started").verdict is Severity.WARNING
        assert client.status(gid.txid).state is State.UNDECIDED
        assert bank.prepared() == [gid.txid]
        client.resolve(gid.txid)
        assert having(examine.examine(config).rows, "orphan", "ABORTED")
    bank.close()
