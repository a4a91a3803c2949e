"""The synchronous client: the same names, from any thread, and clear about forks and ends."""

import asyncio
import inspect
import os
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from raftcoord import COMMIT, AsyncClient, Client, InDoubt, LocalProtocolError, State, TxId

from .scripted_node import SILENCE, ScriptedNode, committed

ROOT = Path(__file__).parent.parent.parent


@contextmanager
def a_node() -> Iterator[ScriptedNode]:
    """A scripted node whose loop runs in a thread."""
    node = ScriptedNode("n1")
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    asyncio.run_coroutine_threadsafe(node.start(), loop).result(5)
    try:
        yield node
    finally:
        asyncio.run_coroutine_threadsafe(node.stop(), loop).result(5)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)
        loop.close()


def test_every_method_has_the_name_and_the_parameters_of_the_asynchronous_one() -> None:
    def public(cls: type) -> dict[str, inspect.Signature]:
        return {
            name: inspect.signature(getattr(cls, name))
            for name in dir(cls)
            if not name.startswith("_") and callable(getattr(cls, name))
        }

    asynchronous, synchronous = public(AsyncClient), public(Client)
    assert asynchronous.keys() == synchronous.keys()
    for name, signature in asynchronous.items():
        assert signature.parameters == synchronous[name].parameters, name
        assert signature.return_annotation.removeprefix("Async") == synchronous[name].return_annotation, name


def test_it_serves_many_threads_and_leaves_none() -> None:
    threads = threading.active_count()
    with a_node() as node:
        node.answers["decide"] = committed()
        with Client.from_addresses([node.address]) as client:
            with ThreadPoolExecutor(8) as pool:
                ids = [TxId.new() for _ in range(200)]
                outcomes = list(pool.map(lambda txid: client.decide(txid, COMMIT, ["a"]), ids))
            assert [outcome.txid for outcome in outcomes] == ids
            assert all(outcome.committed for outcome in outcomes)
            assert len(node.conns) == 1
            assert client.nodes()["n1"] == node.info()
    assert threading.active_count() == threads


def test_errors_are_raised_in_the_caller() -> None:
    with a_node() as node, Client.from_addresses([node.address]) as client:
        with pytest.raises(LocalProtocolError, match="without a participant"):
            client.submit({})
        assert not node.asked


def test_a_closed_client_says_so_and_ends_the_calls_of_other_threads() -> None:
    with a_node() as node:
        node.answers["submit"] = SILENCE
        client = Client.from_addresses([node.address])
        asked = threading.Event()
        node.answers["submit"] = lambda method, params: asked.set() or SILENCE
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(client.submit, {"bank-a": []})
            assert asked.wait(5)
            client.close()
            with pytest.raises(InDoubt):
                waiting.result(5)
        client.close()
        with pytest.raises(LocalProtocolError, match="closed"):
            client.status(TxId.new())


def test_a_fork_makes_it_a_clear_error() -> None:
    with a_node() as node, Client.from_addresses([node.address]) as client:
        client.nodes()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: fork with threads
            pid = os.fork()
        if pid == 0:
            code = 1
            try:
                client.status(TxId.new())
            except LocalProtocolError as error:
                code = 0 if "fork" in str(error) and "make a new one" in str(error) else 2
            finally:
                client.close()
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert "n1" in client.nodes()


def test_ctrl_c_ends_the_wait_at_once_and_a_finally_can_still_ask() -> None:
    program = """
import sys, raftcoord
client = raftcoord.Client.from_addresses([sys.argv[1]])
txid = raftcoord.TxId.new()
print("ready", flush=True)
try:
    client.submit({"bank-a": []}, txid=txid, timeout=60)
except KeyboardInterrupt:
    print(client.status(txid).state, flush=True)
    client.close()
"""
    with a_node() as node:
        asked = threading.Event()
        node.answers["submit"] = lambda method, params: asked.set() or SILENCE
        node.answers["status"] = [int(State.UNDECIDED), "", "", 1, 1]
        process = subprocess.Popen(
            [sys.executable, "-c", program, node.address],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert asked.wait(20)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
        assert (process.returncode, out, err) == (0, "ready\nUNDECIDED\n", "")


def test_a_client_that_is_never_closed_does_not_hold_the_process() -> None:
    program = "import raftcoord; raftcoord.Client.from_addresses(['127.0.0.1:1'])"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, timeout=20, check=False
    )
    assert done.returncode == 0


def test_its_own_thread_may_not_use_it() -> None:
    with a_node() as node, Client.from_addresses([node.address]) as client:

        async def inside() -> None:
            client.status(TxId.new())

        with pytest.raises(LocalProtocolError, match="its own thread"):
            asyncio.run_coroutine_threadsafe(inside(), client._loop).result(5)


def test_from_config_reads_cluster_yaml(tmp_path: Path) -> None:
    with a_node() as node:
        node.answers["decide"] = committed()
        written = tmp_path / "cluster.yaml"
        written.write_text(
            f"cluster: demo\ndata_dir: data\nnodes:\n- {{name: n1, peer: '127.0.0.1:1', client: '{node.address}'}}\n"
        )
        with Client.from_config(written) as client:
            assert client.decide(TxId.new(), COMMIT).committed
            assert client.node_info("n1")["node"] == "n1"
