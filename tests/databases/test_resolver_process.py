"""Programs, the resolver and the servers killed with kill -9, on real servers: both sides equal, and nothing prepared is left."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from raftcoord import COMMIT, Client, TxId, limits
from raftcoord.config import Config
from raftcoord.databases import drivers
from raftcoord.databases import gid as gids
from raftcoord.processes.database_servers import DatabaseServer
from raftcoord.processes.local_cluster import LocalCluster, write_local_config
from raftcoord.processes.local_process import LocalProcess

from .banks import Bank, MariaDbBank, PostgreSqlBank
from .paying import BRANCHES, STOPS
from .test_resolver import leave, prepared, prepared_now

WAIT_S = 30.0
COMMITS = {"after decision", "between commits", "before complete"}


class Shop:
    """A PostgreSQL and a MariaDB, in a cluster of one node, with ``raftcoord`` on its cluster.yaml."""

    def __init__(self, directory: Path, pg: PostgreSqlBank, my: MariaDbBank) -> None:
        self.pg, self.my = pg, my
        config = write_local_config(directory, nodes=1)
        assert config.path is not None
        self.path = config.path
        orders = f"mysql://${{MY_USER}}@127.0.0.1:{my.server.port}/{my.database}"
        rows = f"  - {{name: ledger, url: '{pg.url}'}}\n  - {{name: orders, url: '{orders}'}}\n"
        self.path.write_text(config.to_yaml() + "resources:\n" + rows)
        self.config = Config.load(self.path)
        self.cluster = LocalCluster(self.config)

    def run(self, *arguments: str) -> tuple[int, str]:
        command = [
            sys.executable,
            "-c",
            "from raftcoord_cli.main import main; main()",
            *arguments,
            "-c",
            str(self.path),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert "Traceback" not in done.stdout + done.stderr
        return done.returncode, done.stdout + done.stderr

    def json(self, *arguments: str, code: int = 0) -> dict[str, Any]:
        returned, text = self.run(*arguments, "-o", "json")
        assert returned == code, text
        value: dict[str, Any] = json.loads(text)  # nothing but the result
        return value

    @functools.cached_property
    def id(self) -> str:
        with Client.from_config(self.path) as client:
            return client.cluster_id(timeout=WAIT_S)

    def sum(self) -> int:
        return self.pg.balance() + self.my.balance()

    def left(self) -> list[TxId]:
        """What is prepared of this cluster."""
        listed = [each for bank in (self.pg, self.my) for each in bank.other.run(bank.dialect.list_prepared(self.id))]
        return [each.gid.txid for each in listed if each.here]

    def pay(self, stop: str, txid: TxId) -> subprocess.Popen[str]:
        """A program that has reached ``stop``."""
        where = (str(self.path), self.pg.url, str(self.my.server.port), self.my.database, txid.hex(), stop)
        env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
        program = subprocess.Popen(
            [sys.executable, str(Path(__file__).parent / "paying.py"), *where],
            stdout=subprocess.PIPE,
            text=True,
            env=env,
        )
        assert program.stdout is not None
        assert program.stdout.readline() == "there\n"
        return program


@pytest.fixture(scope="module")
def shop(
    postgresql: DatabaseServer, mariadb: DatabaseServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shop]:
    made = Shop(tmp_path_factory.mktemp("shop"), PostgreSqlBank(postgresql), MariaDbBank(mariadb))
    patch = pytest.MonkeyPatch()
    patch.setenv("MY_USER", "root")
    try:
        up = made.json("up", "-d")
        assert up["resolver"] == made.cluster.resolver.pid
        yield made
    finally:
        made.cluster.stop_all()
        patch.undo()
        made.pg.close()
        made.my.close()


def until(condition: Callable[[], object], what: str = "the condition") -> float:
    """Wait; how long it took (s)."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < WAIT_S, f"{what} did not come about"
        time.sleep(0.02)
    return time.monotonic() - began


# -- the command line ---------------------------------------------------------------------------------------------


def test_up_starts_a_resolver_status_shows_it_and_it_is_started_again_when_it_was_killed(shop: Shop) -> None:
    pid = shop.json("status")["resolver"]
    assert pid == shop.cluster.resolver.pid
    assert f"resolver: running (pid {pid})" in shop.run("status")[1]
    shop.cluster.resolver.kill()
    assert shop.json("status")["resolver"] is None
    assert "none was started from here" in shop.run("status")[1]
    assert shop.json("up", "-d")["started"] == []
    assert shop.json("status")["resolver"] not in (None, pid)
    assert shop.json("up", "-d")["resolver"] == shop.json("status")["resolver"]


def test_no_credential_stands_in_an_argument_or_in_the_log_of_the_resolver(shop: Shop) -> None:
    pid = shop.cluster.resolver.pid
    arguments = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
    assert arguments[1:4] == ["-m", "raftcoord.databases.resolver", str(shop.path)]
    assert not [argument for argument in arguments if "://" in argument]
    assert "://" not in shop.cluster.resolver.log_path.read_text()


def test_resource_init_and_ls(shop: Shop) -> None:
    assert [each["name"] for each in shop.json("resource", "init")["resources"]] == ["ledger", "orders"]
    assert "the table of marks is there, with its name" in shop.run("resource", "init", "ledger")[1]
    refused = shop.json("resource", "init", "stock", code=2)["error"]["message"]
    assert "its resources are ledger, orders" in refused
    foreign = leave(shop.pg, gids.make("00000000000000bb", TxId.new(), "ledger"), 0)
    rows = {each["name"]: each["prepared"] for each in shop.json("resource", "ls")["resources"]}
    (row,) = [row for row in rows["ledger"] if row["txid"] == str(foreign.txid)]
    assert (row["ours"], row["cluster"], row["branch"], row["here"]) == (False, "00000000000000bb", "ledger", True)
    text = shop.run("resource", "ls")[1]
    assert "cluster 00000000000000bb" in text
    shop.pg.other.run(shop.pg.dialect.rollback_prepared(foreign))


def test_a_variable_that_is_not_set_is_told_before_anything_is_started(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MY_USER")
    message = shop.json("up", "-d", code=2)["error"]["message"]
    (line,) = [number for number, text in enumerate(shop.path.read_text().splitlines(), 1) if "orders" in text]
    assert message.startswith(f"{shop.path}:{line}: the environment variable MY_USER is not set")
    for command in (("resolver", "run", "--once"), ("resource", "ls"), ("resource", "init")):
        assert "MY_USER is not set" in shop.json(*command, code=2)["error"]["message"]
    assert shop.run("status")[0] == 0  # it needs none
    with Client.from_config(shop.path) as client:
        assert client.node_info()["node"] == "n1"


def test_resolver_run_says_that_it_is_ready_and_ends_at_sigterm(shop: Shop, tmp_path: Path) -> None:
    program = "from raftcoord_cli.main import main; main()"
    for arguments in (
        [sys.executable, "-c", program, "resolver", "run", "-c"],
        [sys.executable, "-m", "raftcoord.databases.resolver"],
    ):
        process = LocalProcess("resolver", [*arguments, str(shop.path)], tmp_path / "log", tmp_path / "pid")
        process.start()
        process.wait_ready()
        assert process.terminate()
        process.wait_stopped(5)
        assert process.ended() == (True, 0)
    assert "resolver demo ready: ledger, orders" in (tmp_path / "log").read_text()


def test_without_resources_there_is_nothing_to_resolve(tmp_path: Path) -> None:
    path = write_local_config(tmp_path, nodes=1).path
    for command in (["resolver", "run"], ["resource", "ls"], ["resource", "init"]):
        done = subprocess.run(
            [sys.executable, "-c", "from raftcoord_cli.main import main; main()", *command, "-c", str(path)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, "names no resources" in done.stderr) == (2, True)
    done = subprocess.run(
        [sys.executable, "-m", "raftcoord.databases.resolver", str(path)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, "names no resources" in done.stderr) == (2, True)


# -- crashes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stop", STOPS)
def test_a_program_killed_anywhere_leaves_both_sides_equal_and_nothing_prepared(
    shop: Shop, stop: str, record_property: Callable[[str, object], None], capsys: pytest.CaptureFixture[str]
) -> None:
    before, txid = (shop.pg.balance(), shop.my.balance()), TxId.new()
    program = shop.pay(stop, txid)
    program.kill()
    program.communicate()
    seconds = until(lambda: not shop.left(), "nothing prepared")
    paid = 10 if stop in COMMITS else 0
    assert (shop.pg.balance(), shop.my.balance()) == (before[0] - paid, before[1] + paid)
    with Client.from_config(shop.path) as client:
        if paid:
            until(lambda: not client.show(txid)["outstanding"], "every branch acknowledged")  # type: ignore[index]
        assert str(client.status(txid).state) == ("COMMITTED" if paid else "ABORTED")
        assert client.damages(txid).total == 0
    record_property("locks_free_s", seconds)
    with capsys.disabled():
        print(f"\n  killed {stop}: nothing prepared after {seconds:.2f} s", end=" ")


def test_a_live_program_is_left_to_finish_its_own(shop: Shop) -> None:
    """Of those that wait before their decision, only one beyond the safety interval is aborted."""
    before = shop.sum()
    safety_s = limits.RESOLVER_SAFETY_MS / 1000
    for _ in range(20):
        began, txid = time.monotonic(), TxId.new()
        program = shop.pay("between prepares", txid)
        try:
            time.sleep(safety_s / 4)
            with Client.from_config(shop.path) as client:
                state, left = str(client.status(txid).state), shop.left()
            took_s = time.monotonic() - began
        finally:
            program.kill()
            program.communicate()
        until(lambda: not shop.left())
        assert shop.sum() == before
        if took_s < safety_s:
            assert (state, left) == ("UNDECIDED", [txid])
            return
    pytest.skip("the machine is too slow to look within the safety interval")


def test_a_resolver_killed_again_and_again_loses_nothing(shop: Shop) -> None:
    """It keeps nothing: whatever point of its work a kill meets, the next one begins at what the databases and the ledger say."""
    shop.pg.sql("CREATE TABLE payments (number INT PRIMARY KEY)")
    shop.my.sql("CREATE TABLE payments (number INT PRIMARY KEY)")
    shop.cluster.resolver.kill()
    with Client.from_config(shop.path) as client:
        cluster = shop.id
        txids = [TxId.new() for _ in range(40)]
        for number, txid in enumerate(txids):
            for bank, branch in ((shop.pg, "ledger"), (shop.my, "orders")):
                _pay(bank, gids.make(cluster, txid, branch), number)
            if number % 2:
                client.decide(txid, COMMIT, BRANCHES)
        kills = 0
        deadline = time.monotonic() + 60
        while _open(shop, client, txids):
            assert time.monotonic() < deadline
            shop.cluster.start_resolver()
            # the first wait covers the interval for which undecided branches are left alone, the later ones stop it at work
            until_work = limits.RESOLVER_SAFETY_MS / 1000 - 0.1 if kills == 0 else 0.05 * (kills % 12)
            time.sleep(until_work)
            shop.cluster.resolver.kill()
            kills += 1
            if kills == 12:
                shop.cluster.start_resolver()
                until(lambda: not _open(shop, client, txids), "all finished")
        assert kills >= 1
        for bank in (shop.pg, shop.my):
            assert sorted(n for (n,) in bank.sql("SELECT number FROM payments")) == list(range(1, 40, 2))
        assert [str(client.status(txid).state) for txid in txids] == ["ABORTED", "COMMITTED"] * 20
        assert client.damages().total == 0
    shop.cluster.start_resolver()


def _pay(bank: Bank, gid: gids.Gid, number: int) -> None:
    session = drivers.session(bank.connect(), gid.branch)
    session.enter()
    marks = session.run(session.dialect.begin(gid, checked=False))
    session.given.cursor().execute(f"INSERT INTO payments VALUES ({number})")
    session.run(session.dialect.prepare(gid, marks=marks))
    session.close()


def _open(shop: Shop, client: Client, txids: list[TxId]) -> bool:
    rows = client.transactions("open", limit=1000)
    return bool(shop.left()) or bool({row["txid"] for row in rows} & set(txids))


def test_once_finishes_what_can_be_finished_and_tells_what_cannot(shop: Shop) -> None:
    shop.cluster.resolver.kill()
    try:
        with Client.from_config(shop.path) as client:
            cluster = shop.id
            committed = leave(shop.pg, gids.make(cluster, TxId.new(), "ledger"))
            client.decide(committed.txid, COMMIT, ["ledger"])
            stranger = leave(shop.my, gids.make(cluster, TxId.new(), "stock"), 0)
            found = {each["name"]: each for each in shop.json("resolver", "run", "--once", code=4)["resources"]}
            assert (found["ledger"]["committed"], found["ledger"]["left"], found["ledger"]["reachable"]) == (
                1,
                [],
                True,
            )
            assert [left["txid"] for left in found["orders"]["left"]] == [str(stranger.txid)]
            shop.my.other.run(shop.my.dialect.rollback_prepared(stranger))
            assert "nothing to do" in shop.run("resolver", "run", "--once")[1]
            gone = leave(shop.pg, gids.make(cluster, TxId.new(), "ledger"))
            client.decide(gone.txid, COMMIT, ["ledger"])
            shop.pg.other.run(shop.pg.dialect.rollback_prepared(gone))
            assert shop.json("resolver", "run", "--once", code=6)["resources"][0]["damaged"][0]["txid"] == str(
                gone.txid
            )
            (damage,) = client.damages(gone.txid).shown
            assert damage.branch == "ledger"
            client.acknowledge(gone.txid, "ledger", "ann")
            assert shop.run("resolver", "run", "--once")[0] == 0
    finally:
        shop.cluster.start_resolver()


def test_two_clusters_on_one_server_do_not_touch_each_other(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Shop(tmp_path, shop.pg, shop.my)
    try:
        other.json("up", "-d")
        before = shop.sum()
        txid, twin = TxId.new(), TxId.new()
        program = shop.pay("after decision", txid)
        shop.cluster.resolver.kill()
        program.kill()
        program.communicate()
        time.sleep(2.5)  # the other cluster's resolver would have presumed abort by now
        assert shop.left() == [txid, txid]
        with Client.from_config(other.path) as client:
            assert str(client.status(txid).state) == "UNDECIDED"
            mine = leave(shop.pg, gids.make(other.id, twin, "ledger"), 0)
            until(lambda: mine.txid not in prepared(shop.pg, "ledger"), "its own branch rolled back")
        shop.cluster.start_resolver()
        until(lambda: not shop.left())
        assert shop.sum() == before
    finally:
        other.cluster.stop_all()
        shop.cluster.start_resolver()


def test_down_stops_the_resolver_first(tmp_path: Path, shop: Shop) -> None:
    other = Shop(tmp_path, shop.pg, shop.my)
    try:
        other.json("up", "-d")
        assert other.json("down")["stopped"] == ["resolver", "node n1"]
        assert other.cluster.resolver.pid is None
    finally:
        other.cluster.stop_all()


# -- servers ------------------------------------------------------------------------------------------------------


def test_databases_killed_with_branches_prepared_are_finished_when_they_are_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MY_USER", "root")
    postgresql, mariadb = DatabaseServer("postgresql", durable=True), DatabaseServer("mariadb", durable=True)
    made: list[Shop] = []
    try:
        postgresql.start()
        mariadb.start()
        shop = Shop(tmp_path, PostgreSqlBank(postgresql), MariaDbBank(mariadb))
        made.append(shop)
        shop.json("up", "-d")
        txid = TxId.new()
        program = shop.pay("after decision", txid)
        for server in (postgresql, mariadb):
            server.kill()
        program.kill()
        program.communicate()
        until(lambda: shop.cluster.resolver.log_path.read_text().count("cannot be reached") == 2)
        assert shop.json("resource", "ls", code=5)["resources"][0]["reachable"] is False
        for server in (postgresql, mariadb):
            server.start()
        seconds = until(
            lambda: not [*prepared_now(shop.pg, "ledger"), *prepared_now(shop.my, "orders")], "nothing prepared"
        )
        assert (shop.pg.balance(), shop.my.balance()) == (90, 110)
        with capsys.disabled():
            print(f"\n  both servers killed: nothing prepared {seconds:.2f} s after they were back", end=" ")
        assert shop.cluster.resolver.log_path.read_text().count("cannot be reached") == 2
    finally:
        for shop in made:
            shop.cluster.stop_all()
        postgresql.stop()
        mariadb.stop()


def test_a_lost_server_does_not_hold_up_the_other(
    tmp_path: Path, mariadb: DatabaseServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_USER", "root")
    postgresql = DatabaseServer("postgresql")
    made: list[Shop] = []
    try:
        postgresql.start()
        shop = Shop(tmp_path, PostgreSqlBank(postgresql), MariaDbBank(mariadb))
        made.append(shop)
        shop.json("up", "-d")
        postgresql.kill()
        with Client.from_config(shop.path) as client:
            gid = leave(shop.my, gids.make(shop.id, TxId.new(), "orders"))
            client.decide(gid.txid, COMMIT, ["orders"])
        until(lambda: not prepared(shop.my, "orders"))
        assert shop.my.balance() == 90
    finally:
        for shop in made:
            shop.cluster.stop_all()
        postgresql.stop()
