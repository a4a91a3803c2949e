"""The SQLite participant's process: it says when it is ready, ends cleanly, and comes back from kill -9 in doubt."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fake_node import FakeNode, listening, until

from raftcoord.participants.__main__ import main
from raftcoord.participants.sqlite import SqliteParticipant
from raftcoord.types import State, TxId

ADD = [{"op": "add", "key": "alice", "amount": -10, "min": 0}]


def cluster_yaml(directory: Path, node: FakeNode) -> Path:
    path = directory / "cluster.yaml"
    path.write_text(
        f"cluster: demo\ndata_dir: data\nnodes:\n  - {{name: n1, peer: 127.0.0.1:1, client: 127.0.0.1:{node.port}}}\n"
    )
    return path


@contextmanager
def process(config: Path, db: Path, *more: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [
        sys.executable,
        "-m",
        "raftcoord.participants",
        "--config",
        str(config),
        "--name",
        "bank-a",
        "--db",
        str(db),
    ]
    running = subprocess.Popen(
        [*command, *more],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    try:
        yield running
    finally:
        running.kill()
        running.communicate()


async def line_of(running: subprocess.Popen[bytes]) -> bytes:
    assert running.stdout is not None
    return await asyncio.wait_for(asyncio.to_thread(running.stdout.readline), 20)


def test_it_says_ready_serves_and_ends_on_sigterm(tmp_path: Path) -> None:
    async def test() -> None:
        async with listening(FakeNode()) as (node,):
            config = cluster_yaml(tmp_path, node)
            with process(config, tmp_path / "bank.db", "--open", "alice=100", "--open", "a=b=7") as running:
                assert await line_of(running) == b"raftcoord participant bank-a ready\n"
                t = TxId.new()
                assert await node.prepare(t, ADD) == [1, ""]
                assert await node.ask("commit", t) is True
                running.send_signal(signal.SIGTERM)
                assert await asyncio.to_thread(running.wait, 20) == 0
            with process(config, tmp_path / "bank.db", "--open", "alice=100") as running:
                assert await line_of(running) == b"raftcoord participant bank-a ready\n"

    asyncio.run(test())
    bank = SqliteParticipant(tmp_path / "bank.db")
    assert bank.balances() == {"alice": 90, "a=b": 7}
    bank.close()


def test_after_kill_9_it_asks_for_what_is_in_doubt_and_finishes_it(tmp_path: Path) -> None:
    async def test() -> None:
        async with listening(FakeNode()) as (node,):
            config, t = cluster_yaml(tmp_path, node), TxId.new()
            with process(config, tmp_path / "bank.db", "--open", "alice=100") as running:
                assert await node.prepare(t, ADD) == [1, ""]
                running.kill()
                await asyncio.to_thread(running.wait, 20)
            node.outcome = lambda method, txid: State.COMMITTED
            with process(config, tmp_path / "bank.db") as running:
                await until(lambda: node.asked == [("status", t)])
                assert await node.ask("commit", t) is True

    asyncio.run(test())
    bank = SqliteParticipant(tmp_path / "bank.db")
    assert bank.balance("alice") == 90
    bank.close()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--config", "nowhere.yaml", "--db", "bank.db"], "nowhere.yaml"),
        (["--db", "nowhere/bank.db"], "create the directory"),
        (["--db", "bank.db", "--open", "alice"], "write KEY=AMOUNT"),
        (["--db", "bank.db", "--open", "alice=1.5"], "integer amount (cents)"),
    ],
)
def test_what_is_wrong_is_one_sentence_and_exit_code_2(
    tmp_path: Path,
    arguments: list[str],
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    node = FakeNode()
    node.port = 9
    cluster_yaml(tmp_path, node)
    assert main(["--name", "bank-a", *arguments]) == 2
    said = capsys.readouterr().err
    assert words in said
    assert "Traceback" not in said


def test_a_name_that_is_none_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    node = FakeNode()
    node.port = 9
    config = cluster_yaml(tmp_path, node)
    assert main(["--config", str(config), "--name", "Bank A", "--db", str(tmp_path / "bank.db")]) == 2
    assert "is not a name" in capsys.readouterr().err
