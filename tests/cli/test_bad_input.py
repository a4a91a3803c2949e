"""Bad input on a cluster that runs: one sentence with the next step, the right exit code, nothing changed, nobody disturbed."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest

from raftcoord import limits
from raftcoord.config import Address, Config
from raftcoord.processes.local_cluster import LocalCluster, write_local_config
from raftcoord.rpc.hello import PROTOCOL_VERSION
from raftcoord.types import TxId

WAIT_S = 30.0
NAMES = ("n1", "n2", "n3")


class Site:
    """A cluster, and ``raftcoord`` as a process beside it."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.cluster = LocalCluster(config)

    def command(self, *arguments: str) -> list[str]:
        program = "from raftcoord_cli.main import main; main()"
        return [sys.executable, "-c", program, *arguments, "-c", str(self.config.path)]

    def run(self, *arguments: str, stdin: object = None) -> tuple[int, dict[str, Any]]:
        """The exit code, and what ``-o json`` says."""
        text = None if stdin is None else json.dumps(stdin)
        command = self.command(*arguments, "-o", "json")
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=60)
        assert "Traceback" not in done.stdout + done.stderr
        return done.returncode, json.loads(done.stdout)

    def refusal(self, *arguments: str, code: int = 2, stdin: object = None) -> str:
        """The sentence of a command that ends with ``code``."""
        returned, value = self.run(*arguments, stdin=stdin)
        error = value["error"]
        assert (returned, error["exit_code"]) == (code, code), value
        message: str = error["message"]
        return message

    def submit(self, branches: dict[str, Any], *arguments: str) -> tuple[int, dict[str, Any]]:
        return self.run("submit", "-", *arguments, stdin={"branches": branches})

    def unharmed(self) -> None:
        """Every node runs, and alice has what she had."""
        assert None not in [self.cluster.pid(name) for name in NAMES]
        code, value = self.submit({"bank-a": [{"op": "expect", "key": "alice", "amount": 30}]})
        assert code == 0, value


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Three nodes, and bank-a on a.db, in which alice has 30."""
    directory = tmp_path_factory.mktemp("cluster")
    site = Site(write_local_config(directory))
    try:
        site.cluster.start_all()
        site.cluster.start_participant("bank-a", directory / "a.db", arguments=["--open", "alice=30"])
        eventually(lambda: all("bank-a" in node.get("participants", ()) for node in site.run("status")[1]["nodes"]))
        yield site
    finally:
        site.cluster.stop_all()


@pytest.fixture
def n3_stopped(site: Site) -> Iterator[Path]:
    """The data directory of n3, which does not run. It is put back and started afterwards, and has missed nothing."""
    site.cluster.stop("n3")
    directory = site.config.node("n3").data_dir
    kept = directory.with_name("kept")
    shutil.copytree(directory, kept)
    yield directory
    shutil.rmtree(directory)
    kept.rename(directory)
    site.cluster.start("n3")
    site.unharmed()


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.05)


def add(amount: object, key: str = "alice") -> list[dict[str, object]]:
    return [{"op": "add", "key": key, "amount": amount}]


@pytest.mark.parametrize(
    ("branches", "says"),
    [
        ({"bank-z": add(1)}, "participant 'bank-z' is not connected to this node: start it, or correct the name"),
        ({"bank-a": add(1), "bank-z": add(1)}, "participant 'bank-z' is not connected to this node"),
        ({"bank-a": {"steal": 5}}, "must be a list of operations such as"),
        ({"bank-a": [{"op": "steal", "key": "alice"}]}, "unknown op 'steal': use one of add, set, delete, expect"),
        ({"bank-a": add(1, "carol")}, "account 'carol' does not exist: only set creates an account"),
        ({"bank-a": add(1.5)}, "amount 1.5 is not an integer: write whole cents"),
        ({"bank-a": add("1")}, "amount '1' is not an integer: write whole cents"),
        ({"bank-a": add(2**63 - 1)}, "account 'alice' has 30: adding 9223372036854775807 exceeds"),
    ],
)
def test_what_no_participant_can_do_is_aborted_with_its_reason(site: Site, branches: dict[str, Any], says: str) -> None:
    code, outcome = site.submit(branches, "--timeout", "3")
    assert (code, outcome["state"]) == (3, "ABORTED")
    assert says in outcome["reason"]
    site.unharmed()


def test_a_txid_runs_once(site: Site) -> None:
    txid = str(TxId.new())
    assert site.submit({"bank-a": add(0)}, "--txid", txid)[0] == 0
    says = site.refusal("submit", "-", "--txid", txid, stdin={"branches": {"bank-a": add(1)}})
    assert f"txid {txid} was used before: COMMITTED stands for it" in says
    assert "a retry needs a new txid" in says
    site.unharmed()


def framed(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + body


def request(*message: object) -> bytes:
    return framed(msgpack.packb(message))


MALFORMED = {
    "not MessagePack": framed(b"\xc1"),
    "another protocol": b"GET / HTTP/1.1\r\n\r\n",
    "too long": (1 << 30).to_bytes(4, "big") + b"x",
    "cut off": framed(b"x" * 100)[:50],
    "nested deeply": framed(b"\x91" * 5000 + b"\x00"),
    "before the hello": request(0, 1, "submit", []),
    "an answer to nothing": request(1, 7, None, 1),
}


def answer_to(address: Address, sent: bytes) -> bytes:
    """Everything that comes back until the connection is closed, which it must be."""
    with socket.create_connection(
        (address.host, address.port), timeout=limits.ConnectionBounds.hello_ms_max / 2000
    ) as client:
        client.sendall(sent)
        if sent == MALFORMED["cut off"]:
            client.shutdown(socket.SHUT_WR)
        received = b""
        try:
            while chunk := client.recv(65_536):
                received += chunk
        except ConnectionResetError:
            pass
        return received


@pytest.mark.parametrize("port", ["client", "peer"])
def test_a_malformed_frame_closes_that_connection_with_one_line_in_the_log(site: Site, port: str) -> None:
    node = site.config.nodes[0]
    address: Address = getattr(node, port)
    log = site.cluster.log_path("n1")
    for sent in MALFORMED.values():
        before = log.read_text()
        assert answer_to(address, sent) == b""
        (line,) = log.read_text()[len(before) :].splitlines()
        assert f"WARNING raftcoord.rpc: n1 {port}" in line
        assert "closed the connection of 127.0.0.1" in line
    site.unharmed()


@pytest.mark.parametrize("port", ["client", "peer"])
def test_a_hello_of_another_version_is_told_which_is_spoken(site: Site, port: str) -> None:
    hello = request(0, 1, "hello", [PROTOCOL_VERSION + 1, "client", {}])
    answer = answer_to(getattr(site.config.nodes[0], port), hello)
    code, message, _ = msgpack.unpackb(answer[4:])[2]
    assert code == "wrong_version"
    assert message.endswith("use the same raftcoord release on both")
    site.unharmed()


def test_a_directory_in_use_names_the_process_that_has_it(site: Site) -> None:
    pid = site.cluster.pid("n1")
    assert f"is in use by process {pid}: stop that node first" in site.refusal("node", "run", "n1")
    assert f"node n1 is running already (pid {pid})" in site.refusal("node", "start", "n1")
    site.unharmed()


def test_the_directory_of_another_node_is_left_alone(site: Site, n3_stopped: Path) -> None:
    shutil.rmtree(n3_stopped)
    shutil.copytree(site.config.node("n2").data_dir, n3_stopped)
    says = site.refusal("node", "start", "n3")
    assert says.startswith(f"node n3 did not start: the data directory {n3_stopped} belongs to node 'n2' of cluster")
    assert "give this node a directory of its own" in says


def test_the_directory_of_another_cluster_is_left_alone(site: Site, n3_stopped: Path, tmp_path: Path) -> None:
    assert site.config.path is not None
    text = site.config.path.read_text().replace("cluster: 'demo'", "cluster: 'shop'")
    (tmp_path / "shop.yaml").write_text(text)
    says = Site(Config.load(tmp_path / "shop.yaml")).refusal("node", "start", "n3")
    assert "belongs to node 'n3' of cluster 'demo', and this is node 'n3' of cluster 'shop'" in says


def test_a_directory_that_cannot_be_written_is_named(site: Site, n3_stopped: Path) -> None:
    shutil.rmtree(n3_stopped)
    n3_stopped.touch()
    try:
        says = site.refusal("node", "start", "n3")
    finally:
        n3_stopped.unlink()
        n3_stopped.mkdir()
    assert f"the data directory {n3_stopped} cannot be used" in says
    assert "change its permissions, or data_dir in cluster.yaml" in says


def flipped(db: Path) -> None:
    raw = bytearray(db.read_bytes())
    raw[2 * 4096 - 6] ^= 0x40  # at the end of a page, where its rows begin
    db.write_bytes(raw)


@pytest.mark.parametrize(
    "damage", [flipped, lambda db: db.write_bytes(db.read_bytes()[:9000]), lambda db: db.write_bytes(b""), Path.unlink]
)
def test_a_damaged_node_db_is_not_run_on(site: Site, n3_stopped: Path, damage: Callable[[Path], object]) -> None:
    db = n3_stopped / "node.db"
    damage(db)
    before = db.read_bytes() if db.exists() else None
    says = site.refusal("node", "start", "n3", code=1)
    assert says.startswith(f"node n3 did not start: {db} is damaged: ")
    assert f"Move {n3_stopped} away, start the node again and run `raftcoord node replace n3`" in says
    assert (db.read_bytes() if db.exists() else None) == before


def test_a_second_participant_on_one_file_is_refused(site: Site) -> None:
    assert site.config.path is not None
    file = str(site.config.path.with_name("a.db"))
    says = site.refusal("participant", "run", "--name", "bank-b", "--db", file)
    assert says.startswith(f"{file} is in use by another participant (process ")
    site.unharmed()


def test_a_participant_of_another_cluster_is_refused(site: Site, tmp_path: Path) -> None:
    other = Site(write_local_config(tmp_path, nodes=1, cluster="shop"))
    file = tmp_path / "b.db"
    try:
        other.cluster.start_all()
        other.cluster.start_participant("bank-b", file)
    finally:
        other.cluster.stop_all()
    says = site.refusal("participant", "run", "--name", "bank-b", "--db", str(file))
    assert says.startswith(f"{file} belongs to cluster ")
    assert says.endswith("connect it to its own cluster, or give this one a new file with --db")
    site.unharmed()


def test_nodes_of_another_cluster_are_not_mistaken_for_ours(site: Site, tmp_path: Path) -> None:
    assert site.config.path is not None
    (tmp_path / "shop.yaml").write_text(site.config.path.read_text().replace("cluster: 'demo'", "cluster: 'shop'"))
    stranger = Site(Config.load(tmp_path / "shop.yaml"))
    code, status = stranger.run("status")
    assert code == 5
    assert {node["why"] for node in status["nodes"]} == {
        "it is a node of cluster 'demo', not of 'shop'; check the addresses"
    }
    stdin = {"branches": {"bank-a": add(1)}}
    assert "nothing was changed" in stranger.refusal("submit", "-", "--timeout", "0.5", stdin=stdin, code=5)
    says = stranger.refusal("participant", "run", "--name", "till", "--db", str(tmp_path / "till.db"))
    assert "is for cluster 'shop', this node is of cluster 'demo': correct the addresses" in says
    assert "till" not in {row["name"] for row in site.run("participant", "ls")[1]["participants"]}
    site.unharmed()


def test_ctrl_c_of_a_second_up_leaves_the_nodes_of_the_first(site: Site) -> None:
    up = subprocess.Popen(site.command("up"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert up.stdout is not None
        assert "3 of 3 ran already and go on" in up.stdout.readline() + up.stdout.readline()
        assert "leads in term" in up.stdout.readline()
        up.send_signal(signal.SIGINT)
        stdout, stderr = up.communicate(timeout=WAIT_S)
        assert (up.returncode, stdout.strip(), stderr.strip()) == (130, "nothing was stopped", "")
    finally:
        up.kill()
        up.communicate()
    site.unharmed()


def test_a_node_in_the_foreground_speaks_json_and_ends_at_ctrl_c(site: Site, n3_stopped: Path) -> None:
    node = subprocess.Popen(
        site.command("node", "run", "n3", "-o", "json"), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert node.stdout is not None
        assert json.loads(node.stdout.readline()) == {"node": "n3", "ready": True}
        node.send_signal(signal.SIGINT)
        assert (node.communicate(timeout=WAIT_S)[0], node.returncode) == ("", 0)
    finally:
        node.kill()
        node.communicate()
