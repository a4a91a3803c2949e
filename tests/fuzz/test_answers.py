"""What a node says to a client and to a participant: read as what it is, or refused; never taken for an outcome."""

from __future__ import annotations

import asyncio
import random
import tempfile
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from hypothesis import event, given
from hypothesis import strategies as st

from raftcoord.api import answers
from raftcoord.client.asynchronous import AsyncClient
from raftcoord.client.link import NodeAddress
from raftcoord.config import Address
from raftcoord.core.asking import Known
from raftcoord.env import Env
from raftcoord.errors import RaftcoordError
from raftcoord.participants.interface import WrongCluster
from raftcoord.participants.sqlite import SqliteParticipant
from raftcoord.participants.worker import Worker
from raftcoord.rpc import codes, server
from raftcoord.rpc.codes import RpcError
from raftcoord.rpc.connection import Connection
from raftcoord.types import Answer, Outcome, State, TxId, Verdict

from . import memory
from .effort import examples
from .shapes import NOW_MS, altered, as_request, ints, texts, values

TXID = TxId.new(NOW_MS, bytes(10))
CLUSTER = "00000000000000aa"
PORT = 1

told = st.tuples(st.sampled_from(State).map(int), texts, texts, st.integers(0, 9), st.integers(0, 9)).map(list)
row = st.fixed_dictionaries(
    {
        "txid": st.just(bytes(TXID)),
        "state": st.sampled_from(State).map(int),
        "branches": st.lists(texts, max_size=2),
        "outstanding": st.lists(texts, max_size=2),
        "reason": texts,
        "branch": texts,
        "at_ms": st.integers(0, 9),
        "term": st.integers(0, 9),
        "index": st.integers(0, 9),
    },
    optional={"running": st.fixed_dictionaries({"phase": texts, "ballots": st.dictionaries(texts, texts, max_size=2)})},
)
good = told | told | row | st.lists(row, max_size=2) | st.just(True) | st.none()
results = good | altered(good, ints | values) | values
known_codes = [codes.BAD_REQUEST, codes.TXID_USED, codes.OVERLOADED, codes.UNAVAILABLE, codes.IN_DOUBT, codes.INTERNAL]
known_codes += [codes.WRONG_VERSION, codes.WRONG_CLUSTER, codes.CONNECTION_LOST]
refusals = st.builds(
    RpcError,
    st.sampled_from(known_codes) | texts,
    texts,
    st.fixed_dictionaries({}, optional={"txid": st.just(bytes(TXID)) | values, "why": texts | values}),
)
hello = st.fixed_dictionaries({"node": st.just("n1"), "cluster": st.just(CLUSTER), "cluster_name": st.just("demo")})
hellos = st.one_of(hello, hello, hello, altered(hello, ints | values, 1), refusals)
hellos = hellos.map(lambda said: said if isinstance(said, (dict, RpcError)) else {"node": said})


def is_row(shown: Any) -> bool:
    return (
        isinstance(shown["txid"], TxId)
        and isinstance(shown["state"], State)
        and all(type(name) is str for key in ("branches", "outstanding") for name in shown[key])
        and all(type(shown[key]) is str for key in ("reason", "branch"))
        and all(type(shown[key]) is int for key in ("at_ms", "term", "index"))
    )


def is_outcome(found: Any) -> bool:
    return type(found.reason) is str and type(found.term) is type(found.index) is int


@examples(200)
@given(results)
def test_an_answer_is_read_as_what_it_is_or_refused(result: Any) -> None:
    for read, is_good in (
        (
            lambda: answers.KNOWN.read(result),
            lambda known: type(known) is Known and type(known.state) is State and is_outcome(known),
        ),
        (
            lambda: answers.SETTLED.read(result),
            lambda known: known.state is not State.UNDECIDED and is_outcome(known),
        ),
        (lambda: answers.ROWS.read(result), lambda page: all(map(is_row, page[0]))),
        (lambda: answers.ROW.read(result), is_row),
        (lambda: answers.STATUS.read(result), lambda found: type(found) is dict),
    ):
        try:
            found = read()
        except answers.UnreadableAnswer:
            continue
        event(type(found).__name__)
        assert is_good(found), found


class AnyNode:
    """A node that says what comes next in its scripts, over and over. ``...``: it hangs up."""

    def __init__(self, hellos: list[Any], answers: list[Any]) -> None:
        self.hellos = hellos
        self.answers = answers
        self.greeted = 0
        self.asked = 0
        self.conns: list[Connection] = []

    def on_open(self, conn: Connection) -> None:
        self.conns.append(conn)

    def on_hello(self, conn: Connection, role: str, details: dict[str, Any]) -> dict[str, Any]:
        said = self.hellos[self.greeted % len(self.hellos)]
        self.greeted += 1
        if isinstance(said, RpcError):
            raise said
        return dict(said)

    def on_request(self, conn: Connection, request_id: int, method: str, params: list[Any]) -> None:
        said = self.answers[self.asked % len(self.answers)]
        self.asked += 1
        if said is ...:
            conn.close("so the script says")
        elif isinstance(said, RpcError):
            conn.reply_failure(request_id, said)
        else:
            conn.reply(request_id, said)

    def on_notify(self, conn: Connection, method: str, params: list[Any]) -> None:
        raise AssertionError("nobody notifies a node")

    def on_closed(self, conn: Connection, reason: str) -> None:
        self.conns.remove(conn)


async def listening(node: AnyNode) -> server.Server:
    return await server.listen("memory", PORT, lambda: node, max_frame_bytes=1 << 20, label="n1")


said_back = st.lists(results | results | refusals | st.just(...), min_size=1, max_size=4)
CALLS = {
    "submit": lambda client: client.submit({"bank-a": 1}, txid=TXID, timeout=2),
    "status": lambda client: client.status(TXID, timeout=2),
    "resolve": lambda client: client.resolve(TXID, timeout=2),
    "decide": lambda client: client.decide(TXID, Verdict.COMMIT, ["bank-a"], timeout=2),
    "complete": lambda client: client.complete(TXID, timeout=2),
    "transactions": lambda client: client.transactions(timeout=2),
    "show": lambda client: client.show(TXID, timeout=2),
    "node_info": lambda client: client.node_info("n1", timeout=2),
    "nodes": lambda client: client.nodes(timeout=2),
}
IS_GOOD = {
    "submit": lambda found: type(found) is Outcome and is_outcome(found),
    "status": lambda found: type(found) is Answer and is_outcome(found),
    "resolve": lambda found: type(found) is Answer and found.state is not State.UNDECIDED,
    "decide": lambda found: type(found) is Outcome and is_outcome(found),
    "complete": lambda found: found is None,
    "transactions": lambda found: all(map(is_row, found)),
    "show": lambda found: found is None or is_row(found),
    "node_info": lambda found: type(found) is dict,
    "nodes": lambda found: all(type(one) is dict or isinstance(one, RaftcoordError) for one in found.values()),
}


@examples(120)
@given(
    st.lists(hellos, min_size=1, max_size=2),
    said_back,
    st.lists(st.sampled_from(sorted(CALLS)), min_size=1, max_size=3),
)
def test_a_client_returns_what_is_well_formed_or_raises_an_error_of_ours(
    greetings: list[Any], said: list[Any], calls: list[str]
) -> None:
    async def work() -> None:
        port = await listening(AnyNode(greetings, said))
        env = Env(lambda: NOW_MS, random.Random(1))
        async with AsyncClient([NodeAddress("memory", PORT, "n1")], cluster_name="demo", env=env) as client:
            for call in calls:
                try:
                    found = await CALLS[call](client)
                except RaftcoordError as error:
                    event(f"{call}: {type(error).__name__}")
                    known = not isinstance(error, RpcError)
                else:
                    event(f"{call}: good")
                    known = bool(IS_GOOD[call](found))
                assert known
        port.close()
        await port.wait_closed()

    memory.run(work)


# -- what a node asks of a participant ------------------------------------------------------------------------------------

operation = st.fixed_dictionaries(
    {"op": st.sampled_from(["add", "set", "delete", "expect"]), "key": st.sampled_from(["alice", "bob", "new"])},
    optional={"amount": st.integers(-5, 200) | st.none(), "min": st.integers(-5, 5)},
)
payload = st.lists(operation, min_size=1, max_size=3)
txids = st.sampled_from([TXID, TxId.new(NOW_MS + 1, bytes(10)), TxId.new(NOW_MS - 86_400_000 * 30, bytes(10))]).map(
    bytes
)
asked = st.one_of(
    st.tuples(st.just("prepare"), st.tuples(txids, payload | altered(payload, ints | values), st.just(1000)).map(list)),
    st.tuples(st.sampled_from(["commit", "abort"]), st.tuples(txids).map(list)),
)
requests = asked | altered(asked.map(list), ints | values).map(as_request)


@examples(60)
@given(st.lists(hellos, min_size=1, max_size=2), said_back, st.lists(requests, min_size=2, max_size=8))
def test_a_worker_answers_whatever_it_is_asked_and_hears_whatever_it_is_told(
    greetings: list[Any], said: list[Any], requests_: list[tuple[str, list[Any]]]
) -> None:
    async def work() -> None:
        node = AnyNode(greetings, said)
        port = await listening(node)
        env = Env(lambda: NOW_MS, random.Random(1))
        with tempfile.TemporaryDirectory() as place:
            bank = SqliteParticipant(Path(place) / "bank.db", wall_ms=env.wall_ms)
            with closing(bank):
                bank.open_accounts({"alice": 100, "bob": 100})
                worker = Worker(bank, "bank-a", [Address("memory", PORT)], env, executor=memory.Here())
                running = asyncio.create_task(worker.run())
                await asyncio.sleep(3)
                for method, params in requests_:
                    for conn in [conn for conn in node.conns if not conn.closed and worker.ready.is_set()]:
                        await check_reply(conn, method, params)
                await asyncio.sleep(20)
                worker.stop()
                with suppress(WrongCluster):
                    await running
                bank.prepare(TxId.new(NOW_MS, b"0123456789"), [{"op": "add", "key": "alice", "amount": 1}])
        port.close()
        await port.wait_closed()

    memory.run(work)


async def check_reply(conn: Connection, method: str, params: list[Any]) -> None:
    (reply,) = await asyncio.gather(conn.request(method, params), return_exceptions=True)
    if isinstance(reply, RpcError):
        event(f"{method[:8]}: {reply.code}")
        assert reply.code in (codes.BAD_REQUEST, codes.CONNECTION_LOST, "not_prepared", "already_committed")
    else:
        event(f"{method}: {reply if reply is True else reply[0]}")
        assert (method == "prepare") == isinstance(reply, list)
