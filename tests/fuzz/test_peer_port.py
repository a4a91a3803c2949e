"""A whole consensus node and two peers that say anything: in hellos, in answers to its own, in messages, in copies of the ledger.

It refuses, hangs up, or halts for one of the documented contradictions (test_consensus_messages.py); and as long as it has not
halted, it welcomes the next peer that is in order.
"""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from hypothesis import event, given
from hypothesis import strategies as st
from storage.filling import opened

from raftcoord import limits
from raftcoord.config import Address, Config, NodeConfig, Timing
from raftcoord.consensus import engine
from raftcoord.consensus.consensus import Consensus
from raftcoord.env import Env
from raftcoord.errors import RaftcoordError
from raftcoord.rpc import codes, dial, server
from raftcoord.rpc.codes import RpcError
from raftcoord.rpc.connection import Connection
from raftcoord.types import NodeName

from . import memory
from .effort import examples
from .shapes import NOW_MS, altered, damaged, ints, texts, values
from .test_consensus_messages import DOCUMENTED, checked, datas
from .test_frames import framed
from .test_node_db import copy_steps, whole

IDENTITIES = {"n2": "0123456789abcdef" * 2, "n3": "fedcba9876543210" * 2}


def hello_of(node: str) -> dict[str, Any]:
    return {
        "node": node,
        "identity": IDENTITIES[node],
        "knows": ...,
        "cluster_name": "demo",
        "cluster": "",
        "nodes": ["n1", "n2", "n3"],
        "addresses": ["127.0.0.1:9", "127.0.0.1:19"],
        "members": None,
    }


hello = st.sampled_from(["n2", "n3"]).map(hello_of)
"""What a peer says; ``...`` stands for the identity of the node under test, which is another one each time."""

strange = altered(hello, ints | values, 1).map(lambda said: said if isinstance(said, dict) else {"node": said})
hellos = hello | hello | hello | hello | strange
led = st.builds(
    lambda data, commit: [1, 1, commit, 1, 0, [[engine.NO_OP, 2, 1], [data, 3, 1]]], datas, st.integers(0, 3)
)
"""What the first leader of a new cluster sends."""

heard = st.lists(checked | led, max_size=3) | altered(st.lists(checked, max_size=3), ints | values)
messages = st.tuples(st.just("notify"), st.just("raft"), st.tuples(heard, st.just(NOW_MS)).map(list))
copies = copy_steps.map(lambda step: ("request", f"copy_{step[0]}", step[1]))
said = st.one_of(
    *(messages, messages, messages, copies),
    st.sampled_from([[("request", f"copy_{step}", params) for _, (step, params) in whole]]).map(lambda steps: ("all", steps, [])),
    st.tuples(st.sampled_from(["notify", "request"]), st.sampled_from(["raft", "copy_end"]) | texts, altered(messages.map(list))),
    st.tuples(st.just("bytes"), damaged(st.just(framed(b"\x93\x02\xa4raft\x90"))), st.just([])),
    st.tuples(st.just("wait"), st.sampled_from([0.01, 0.4, 2.0]), st.just([])),
)  # fmt: skip

opening = st.just([]) | led.map(lambda row: [("notify", "raft", [[row], NOW_MS]), ("wait", 0.1, [])])


def config_in(directory: Path) -> Config:
    nodes = tuple(
        NodeConfig(NodeName(f"n{n}"), Address("127.0.0.1", n), Address("127.0.0.1", n + 10), directory / f"n{n}")
        for n in (1, 2, 3)
    )
    return Config("demo", nodes, Timing(20, 150, 300))


class Here:
    """Syncs at once."""

    def run(self, work: Callable[[], Any], done: Callable[[Any, BaseException | None], None]) -> None:
        result, error = None, None
        try:
            result = work()
        except Exception as caught:
            error = caught
        asyncio.get_running_loop().call_soon(done, result, error)


class Peer:
    """Answers the hello of the node under test with ``answer``, and hears it out."""

    def __init__(self, answer: dict[str, Any]) -> None:
        self.answer = answer

    def on_open(self, conn: Connection) -> None:
        pass

    def on_hello(self, conn: Connection, role: str, details: dict[str, Any]) -> dict[str, Any]:
        return self.answer

    def on_request(self, conn: Connection, request_id: int, method: str, params: list[Any]) -> None:
        conn.reply(request_id, True)

    def on_notify(self, conn: Connection, method: str, params: list[Any]) -> None:
        pass

    def on_closed(self, conn: Connection, reason: str) -> None:
        pass


async def greeted(details: dict[str, Any]) -> Connection | None:
    """A connection to the node's peer port, if it takes this hello."""
    with suppress(RaftcoordError):
        conn, _ = await dial.connect(
            "127.0.0.1", 1, Peer({}), role="peer", details=details, label="peer", timeout=1,
            max_frame_bytes=limits.PEER_FRAME_BYTES_MAX,
        )  # fmt: skip
        return conn
    return None


async def say(conn: Connection, halted: list[Exception], kind: str, what: Any, params: Any) -> None:
    if conn.closed:
        return
    given_params = params if isinstance(params, list) else [params]
    match kind:
        case "notify":
            conn.notify(what, given_params)
        case "request":
            (answer,) = await asyncio.gather(
                asyncio.wait_for(conn.request(what, given_params), 5), return_exceptions=True
            )
            if what.startswith("copy_"):
                event(f"{what}: {answer.code if isinstance(answer, RpcError) else answer!r}")
            assert not isinstance(answer, RpcError) or answer.code != codes.INTERNAL
            # Damaged bytes may have promised a longer frame than they are: the node waits for the rest, and answers nothing.
            assert not isinstance(answer, TimeoutError) or conn.context == "damaged" or halted
        case "all":
            for step in what:
                await say(conn, halted, *step)
        case "bytes":
            conn.context = "damaged"
            conn._out.append(what)
            conn.flush()
        case "wait":
            await asyncio.sleep(what)


@examples(30)
@given(
    st.lists(hellos, min_size=2, max_size=2),
    st.lists(st.tuples(hellos, opening, st.lists(said, min_size=2, max_size=8)), min_size=2, max_size=4),
)
def test_whatever_a_peer_says_the_node_goes_on_or_halts_for_a_documented_reason(
    answers: list[dict[str, Any]], visits: list[tuple[dict[str, Any], list[Any], list[Any]]]
) -> None:
    async def work() -> None:
        halted: list[Exception] = []
        with tempfile.TemporaryDirectory() as place, closing(opened(Path(place) / "n1")) as db:
            ours = db.identity.uuid.hex()
            ports = []
            for number, answer in enumerate(answers, 2):
                name = f"n{number}"
                own = {"node": name, "identity": IDENTITIES[name]} if answer in map(hello_of, IDENTITIES) else {}
                peer = Peer(told(answer | own, ours))
                ports.append(await listening(number, peer))
            node = Consensus(
                config_in(Path(place)), NodeName("n1"), db, Env(lambda: NOW_MS, random.Random(1)),
                on_halt=halted.append, runner=Here(),
            )  # fmt: skip
            await node.start()
            await asyncio.sleep(1)  # until it has met the peers that are in order: before that it takes no part
            for details, first, sayings in visits:
                conn = await known(told(details, ours))
                for saying in [*first, *sayings] if conn is not None else ():
                    await say(conn, halted, *saying)
            await asyncio.sleep(3)
            event(f"{node.position().role}, {node.position().log_last - 1} entries")
            if not halted:
                assert await greeted(told({**GOOD, "cluster": node.ledger.cluster}, ours)) is not None
            await node.stop()
            for port in ports:
                port.close()
                await port.wait_closed()
        assert all(str(error).startswith(DOCUMENTED) for error in halted), halted
        event(f"halted: {len(halted)}")

    memory.run(work)


GOOD = hello_of("n2")


def told(details: dict[str, Any], ours: str) -> dict[str, Any]:
    return {key: ours if value is ... else value for key, value in details.items()}


async def known(details: dict[str, Any]) -> Connection | None:
    """Greeted twice: at the first time the node has to write down who it is."""
    conn = await greeted(details)
    if conn is not None:
        conn.close("to come again")
        await asyncio.sleep(0.2)
        conn = await greeted(details)
    return conn


async def listening(port: int, peer: Peer) -> server.Server:
    return await server.listen(
        "127.0.0.1", port, lambda: peer, max_frame_bytes=limits.PEER_FRAME_BYTES_MAX, label=f"n{port}"
    )
