"""The ports of a node: whatever is sent, every request is answered definitely or its connection ends; nothing else happens.

What is a bug in the node would reach the event loop's exception handler, and fail these tests (memory.run).
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from hypothesis import event, given
from hypothesis import strategies as st
from node.local_consensus import Log
from node.world import NOW_MS, Caller, Clock, End, Served, dial, serving
from rpc.ends import Recorder

from raftcoord import limits
from raftcoord.errors import RaftcoordError
from raftcoord.rpc import codes, server
from raftcoord.rpc.codes import RpcError
from raftcoord.rpc.connection import Connection
from raftcoord.rpc.frames import decode
from raftcoord.types import State, TxId, Verdict

from . import memory
from .effort import examples
from .shapes import altered, as_request, damaged, ints, one_at_a_time, packed, pieces, texts, values

TXIDS = [
    bytes(TxId.new(NOW_MS + step, bytes(10))) for step in (-1000, 0, 1, 2, limits.ClockBounds.future_ms_max, 86_400_000)
]

txids = st.sampled_from(TXIDS[:4]) | st.sampled_from(TXIDS)
branch_names = st.sampled_from(["bank-a", "bank-b", "bank-c", "nobody"])
branches = st.lists(branch_names, unique=True, max_size=3)
timeouts = st.sampled_from([1, 2, 50, 5000, limits.TIMEOUT_MS_MAX])
payloads = st.dictionaries(branch_names, values, min_size=1, max_size=3)
listings = st.fixed_dictionaries(
    {},
    optional={
        "state": st.sampled_from([None, "committed", "aborted", "open"]),
        "limit": st.integers(1, 1000),
        "before": txids,
    },
)


def _asked(method: str, *params: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[str, list[Any]]]:
    return st.tuples(st.just(method), st.tuples(*params).map(list))


good_requests = st.one_of(
    _asked("decide", txids, st.sampled_from([0, 1]), branches, texts, timeouts),
    _asked("submit", txids, payloads, timeouts, st.sampled_from(["decided", "completed"])),
    _asked("submit", txids, payloads, timeouts, st.just("decided")),
    _asked("status", txids),
    _asked("resolve", txids, timeouts),
    _asked("complete", txids, st.none() | branches),
    _asked("node"),
    _asked("txns", listings),
    _asked("show", txids),
)
requests = st.one_of(
    good_requests,
    good_requests,
    altered(good_requests.map(list), ints | values).map(as_request),
    st.tuples(good_requests.map(lambda asked: asked[0]) | texts, st.lists(values, max_size=5)),
)
branch_requests = st.one_of(
    _asked("status", txids, branch_names | values),
    _asked("resolve", txids, branch_names | values, timeouts | values),
    st.tuples(st.sampled_from(["status", "resolve", "decide"]) | texts, st.lists(values, max_size=4)),
)
votes = st.sampled_from([[1, ""], [1, ""], [2, ""], [0, "sold out"]])
refusals = st.builds(
    RpcError,
    st.sampled_from(
        ["not_prepared", "already_committed", codes.OVERLOADED, codes.UNAVAILABLE, codes.INTERNAL, codes.IN_DOUBT, "?"]
    )
    | texts,
    texts,
    st.dictionaries(texts, values, max_size=2),
)
answers = st.one_of(votes, votes, st.just(True), altered(votes, ints | values), values, refusals, st.just(...))
"""What a participant answers; ``...``: nothing, its connection ends."""

scripts = st.just([[1, ""], True]) | st.lists(answers, min_size=1, max_size=3)


class Branch(End):
    """A participant that answers what comes next in ``script``, over and over."""

    def __init__(self, name: str, script: list[Any]) -> None:
        self.name = name
        self.script = script
        self.heard: list[tuple[str, list[Any]]] = []

    def on_request(self, conn: Connection, request_id: int, method: str, params: list[Any]) -> None:
        answer = self.script[len(self.heard) % len(self.script)]
        self.heard.append((method, params))
        assert method in ("prepare", "commit", "abort")
        if answer is ...:
            conn.close("so the script says")
        elif isinstance(answer, RpcError):
            conn.reply_failure(request_id, answer)
        else:
            conn.reply(request_id, answer)


async def definite(asked: asyncio.Future[Any]) -> Any:
    """The answer, or the error as a value: any but one that says that the node has a bug, or that the connection ended."""
    async with asyncio.timeout(2 * limits.TIMEOUT_MS_MAX / 1000):
        (answer,) = await asyncio.gather(asked, return_exceptions=True)
    assert not isinstance(answer, BaseException) or isinstance(answer, RpcError)
    assert not isinstance(answer, RpcError) or answer.code not in (codes.INTERNAL, codes.CONNECTION_LOST), answer
    return answer


@examples(100)
@given(
    st.lists(requests, max_size=8),
    st.lists(branch_requests, max_size=3),
    st.lists(st.tuples(branch_names, scripts), max_size=4),
    st.booleans(),
)
def test_every_request_has_a_definite_answer(
    asked: list[tuple[str, list[Any]]],
    asked_by_branch: list[tuple[str, list[Any]]],
    participants: list[tuple[str, list[Any]]],
    has_leader: bool,
) -> None:
    async def work() -> None:
        log = Log("n1")
        async with serving(log, clock=Clock()) as (served,):
            caller = await Caller.of(served)
            banks = [Branch(name, script) for name, script in participants]
            conns = [await join(served, bank, f"{n}") for n, bank in enumerate(banks)]
            if not has_leader:
                log.lead(None)
            for method, params in asked:
                answer = await definite(caller.begin(method, *params))
                if method == "submit" and not isinstance(answer, RpcError) and answer[0] == State.COMMITTED:
                    event("committed")
                    decision = served.decision(TxId(params[0]))
                    assert decision is not None
                    assert decision.verdict is Verdict.COMMIT
                    assert set(params[1]) <= {name for name, script in participants if any(is_a_yes(a) for a in script)}
            for method, params in asked_by_branch:
                for conn in conns:
                    if not conn.closed:
                        await definite(conn.request(method, params))
            assert not caller.conn.closed

    memory.run(work)


def is_a_yes(answer: Any) -> bool:
    """Whether it may count as a vote to commit."""
    return isinstance(answer, list) and len(answer) == 2 and type(answer[0]) is int and answer[0] in (1, 2)


async def join(served: Served, bank: Branch, instance: str) -> Connection:
    conn, _ = await dial(served, bank, "participant", {"name": bank.name, "instance": instance})
    return conn


hellos = st.one_of(
    st.tuples(
        st.sampled_from(["client", "participant", "peer"]),
        st.fixed_dictionaries({"name": branch_names, "instance": texts}),
    ),
    st.tuples(texts, st.dictionaries(texts | st.sampled_from(["name", "instance"]), values, max_size=3)),
)


@examples(60)
@given(hellos, st.booleans())
def test_any_hello_is_welcomed_or_refused(hello: tuple[str, dict[str, Any]], founded: bool) -> None:
    async def work() -> None:
        async with serving(Log("n1", founded=founded), clock=Clock()) as (served,):
            with suppress(RaftcoordError):
                conn, _ = await dial(served, End(), *hello)
                event(f"welcome {hello[0]}")
                assert hello[0] in ("client", "participant")
                assert not isinstance(await definite(Caller(conn).begin("node")), type(None))

    memory.run(work)


# -- bytes ----------------------------------------------------------------------------------------------------------------


def framed(message: Any) -> bytes:
    body = packed(message)
    return len(body).to_bytes(4, "big") + body


greeting = st.sampled_from([[0, 1, "hello", [1, "client", {"name": "t"}]]])
numbered = st.tuples(st.integers(2, 5), requests)
later = st.one_of(
    numbered.map(lambda pair: [0, pair[0], *pair[1]]),
    st.tuples(st.just(1), st.integers(0, 3), st.none(), values).map(list),
    st.tuples(st.just(2), texts, st.lists(values, max_size=2)).map(list),
)
conversation = st.tuples(greeting | altered(greeting, ints | values) | later, st.lists(later, max_size=4)).map(
    lambda parts: b"".join(map(framed, [parts[0], *parts[1]]))
)
streams = conversation | conversation | damaged(conversation, 2) | st.binary(max_size=40)


async def events_of(parts: list[bytes]) -> tuple[list[Any], bytes]:
    """What a handler behind the door is told of a stream that comes in these parts and then ends; and what is answered."""
    handler = Recorder()
    port = await server.listen("memory", 1, lambda: handler, max_frame_bytes=4096, label="port")
    _, raw = await asyncio.get_running_loop().create_connection(memory.Raw, "memory", 1)
    raw.write(*parts)
    raw.close()
    await raw.ended.wait()
    port.close()
    await port.wait_closed()
    return handler.events, bytes(raw.heard)


@examples(100)
@given(streams, st.data())
def test_a_connection_hears_the_same_in_any_pieces(stream: bytes, data: st.DataObject) -> None:
    cut = data.draw(pieces(stream))

    async def work() -> None:
        whole, _ = await events_of([stream])
        closings = [told for told in whole if told[0] == "closed"]
        assert len(closings) == 1
        assert whole[-1] == closings[0]
        event(str(whole[-1][1])[:30])
        assert repr((await events_of(one_at_a_time(stream)))[0]) == repr(whole)
        assert repr((await events_of(cut))[0]) == repr(whole)

    memory.run(work)


@examples(100)
@given(streams)
def test_any_bytes_at_the_client_port_are_answered_or_end_the_connection(stream: bytes) -> None:
    async def work() -> None:
        async with serving(Log("n1"), clock=Clock()) as (served,):
            caller = await Caller.of(served)
            loop = asyncio.get_running_loop()
            _, raw = await loop.create_connection(memory.Raw, "memory", served.node.client_port)
            raw.write(stream)
            await asyncio.sleep(10)
            assert all(well_formed(message) for message in split(bytes(raw.heard)))
            raw.close()
            assert not isinstance(await definite(caller.begin("node")), RpcError)  # nobody else was disturbed

    memory.run(work)


def split(heard: bytes) -> list[Any]:
    messages = []
    while heard:
        length = int.from_bytes(heard[:4], "big")
        messages.append(decode(heard[4 : 4 + length]))
        heard = heard[4 + length :]
    return messages


def well_formed(message: Any) -> bool:
    """An answer, and not one that says that the node has a bug."""
    return message[0] == 1 and (message[2] is None or message[2][0] != codes.INTERNAL)
