"""What the caller gives wrongly is refused before anything is sent, with what to give instead."""

import asyncio
from typing import Any

import pytest

from raftcoord import ABORT, COMMIT, AsyncClient, ConfigError, LocalProtocolError, TxId, limits
from raftcoord.api import fields
from raftcoord.api.payloads import checked_payloads
from raftcoord.client.deadlines import SILENT, Deadlines
from raftcoord.rpc import frames

from .scripted_node import client_of, cluster, committed, raw, until


def nested(levels: int) -> Any:
    payload: Any = 1
    for _ in range(levels):
        payload = [payload]
    return payload


def cycle() -> list[Any]:
    round_and_round: list[Any] = []
    round_and_round.append(round_and_round)
    return round_and_round


WRONG: dict[str, tuple[str, dict[str, Any], str]] = {
    "no participant": ("submit", {"payloads": {}}, "without a participant"),
    "not a mapping": ("submit", {"payloads": ["bank-a"]}, "list is not a mapping"),
    "a bad name": ("submit", {"payloads": {"Bank A": 1}}, "participant 'Bank A' is not a name"),
    "a name that is no text": ("submit", {"payloads": {7: 1}}, "participant 7 is not a name"),
    "a set": ("submit", {"payloads": {"bank-a": {1, 2}}}, "contains a set; send None, bool"),
    "an object": ("submit", {"payloads": {"bank-a": [object()]}}, "contains a object"),
    "a key that is no text": ("submit", {"payloads": {"bank-a": {1: 2}}}, "the key 1; keys must be text"),
    "too large an integer": ("submit", {"payloads": {"bank-a": 1 << 64}}, "more than 64 bits"),
    "too small an integer": ("submit", {"payloads": {"bank-a": -(1 << 63) - 1}}, "more than 64 bits"),
    "half a surrogate pair": ("submit", {"payloads": {"bank-a": "\ud800"}}, "half a surrogate pair"),
    "a cycle": ("submit", {"payloads": {"bank-a": cycle()}}, "nested deeper than 32"),
    "a timeout of zero": ("submit", {"payloads": {"a": 1}, "timeout": 0}, "timeout 0: give seconds"),
    "a timeout of ten minutes and a bit": ("submit", {"payloads": {"a": 1}, "timeout": 600.001}, "timeout 600.001"),
    "a timeout that is no number": ("submit", {"payloads": {"a": 1}, "timeout": float("nan")}, "timeout nan"),
    "a timeout that is text": ("status", {"txid": TxId.new(), "timeout": "5"}, "timeout '5'"),
    "a timeout that is true": ("resolve", {"txid": TxId.new(), "timeout": True}, "timeout True"),
    "another wait": ("submit", {"payloads": {"a": 1}, "wait": "prepared"}, "wait 'prepared': give 'decided'"),
    "a short txid": ("status", {"txid": "abc"}, "'abc' is not a txid"),
    "a UUIDv4": ("resolve", {"txid": "f47ac10b-58cc-4372-a567-0e02b2c3d479"}, "is not a txid"),
    "a verdict that is a number": ("decide", {"txid": TxId.new(), "verdict": 1}, "verdict 1: give raftcoord.COMMIT"),
    "branches as text": ("decide", {"txid": TxId.new(), "verdict": COMMIT, "branches": "pg"}, "give a list of names"),
    "branches as a number": ("complete", {"txid": TxId.new(), "branches": 5}, "give a list of names"),
    "a branch twice": ("decide", {"txid": TxId.new(), "verdict": COMMIT, "branches": ["a", "a"]}, "named twice"),
    "a branch that is a list": (
        "decide",
        {"txid": TxId.new(), "verdict": COMMIT, "branches": [["a"]]},
        "list of names",
    ),
    "a bad branch": ("complete", {"txid": TxId.new(), "branches": ["a", "-"]}, "branch '-' is not a name"),
    "a commit with a reason": ("decide", {"txid": TxId.new(), "verdict": COMMIT, "reason": "x"}, "no reason"),
    "a reason that is too long": ("decide", {"txid": TxId.new(), "verdict": ABORT, "reason": "x" * 501}, "at most 500"),
    "a limit of zero": ("transactions", {"limit": 0}, "from 1 to 1000"),
    "a limit past the bound": ("transactions", {"limit": 1001}, "from 1 to 1000"),
    "another state": ("transactions", {"state": "lost"}, "state 'lost'"),
}


@pytest.mark.parametrize(("method", "given", "says"), WRONG.values(), ids=WRONG.keys())
def test_wrong_input_is_refused_and_nothing_is_sent(method: str, given: dict[str, Any], says: str) -> None:
    async def main() -> None:
        async with cluster(1) as nodes:
            async with client_of(nodes) as client:
                with pytest.raises(LocalProtocolError) as caught:
                    await getattr(client, method)(**given)
                assert says in str(caught.value)
            assert not nodes[0].asked
            assert not nodes[0].conns

    asyncio.run(main())


def test_every_kind_of_value_arrives_as_it_was_sent() -> None:
    payload = [None, True, -(1 << 63), (1 << 64) - 1, 1.5, float("inf"), "\0ä", b"\xff", {"k": [1], "": {}}, []]

    async def main() -> None:
        async with cluster(1) as nodes, client_of(nodes) as client:
            nodes[0].answers["submit"] = committed()
            await client.submit({"bank-a": payload, "bank-b": (1, 2)})
            assert nodes[0].asked[-1][1][1] == {"bank-a": payload, "bank-b": [1, 2]}

    asyncio.run(main())


def test_nesting_at_the_bound_arrives_and_one_past_it_does_not() -> None:
    deepest = nested(limits.PAYLOAD_NESTING_MAX)

    async def main() -> None:
        async with cluster(1) as nodes, client_of(nodes) as client:
            nodes[0].answers["submit"] = committed()
            await client.submit({"bank-a": deepest})
            assert nodes[0].asked[-1][1][1] == {"bank-a": deepest}
            with pytest.raises(LocalProtocolError, match="nested deeper than 32 levels"):
                await client.submit({"bank-a": [deepest]})

    asyncio.run(main())


def test_payloads_of_max_bytes_arrive_and_one_byte_more_does_not() -> None:
    room = limits.PAYLOAD_BYTES_MAX - len(frames.packer()({"bank-a": b"x" * 70_000})) + 70_000

    async def main() -> None:
        async with cluster(1) as nodes, client_of(nodes) as client:
            nodes[0].answers["submit"] = committed()
            await client.submit({"bank-a": b"x" * room})
            assert len(nodes[0].asked[-1][1][1]["bank-a"]) == room
            with pytest.raises(LocalProtocolError, match="at most 1048576 are allowed"):
                await client.submit({"bank-a": b"x" * (room + 1)})

    asyncio.run(main())


def test_branches_at_the_bound_pass_and_one_past_it_does_not() -> None:
    names = [f"b{number}" for number in range(limits.BRANCHES_MAX + 1)]
    assert fields.branches(names[:-1]) == tuple(names[:-1])
    assert len(checked_payloads(dict.fromkeys(names[:-1]))) == limits.BRANCHES_MAX
    for call in (fields.branches, lambda given: checked_payloads(dict.fromkeys(given))):
        with pytest.raises(LocalProtocolError, match="65 branches: at most 64"):
            call(names)


def test_items_at_the_bound_pass_and_one_past_it_does_not() -> None:
    envelope = 3  # the map, a name and the list
    checked_payloads({"a": [None] * (limits.PAYLOAD_ITEMS_MAX - envelope)})
    with pytest.raises(LocalProtocolError, match="more than 65000 items"):
        checked_payloads({"a": [None] * (limits.PAYLOAD_ITEMS_MAX - envelope + 1)})


def test_timeouts_at_the_bounds_pass() -> None:
    assert fields.seconds(0.001) == 0.001
    assert fields.seconds(600) == 600
    with pytest.raises(LocalProtocolError):
        fields.seconds(0.0009)


def test_the_time_in_a_txid_is_for_the_nodes_to_judge() -> None:
    far = TxId.new(1_700_000_000_000 + 2 * limits.DECIDE_FUTURE_MS_MAX)
    assert fields.txid(str(far)) == far


@pytest.mark.parametrize("grace", [0, 0.5, limits.GRACE_MS_MAX / 1000])
def test_a_grace_within_its_bounds_passes(grace: float) -> None:
    assert AsyncClient.from_addresses(["127.0.0.1:1"], grace=grace).grace == grace


@pytest.mark.parametrize("grace", [-0.001, limits.GRACE_MS_MAX / 1000 + 0.001, True, None, "2", float("nan")])
def test_a_grace_past_its_bounds_does_not(grace: Any) -> None:
    with pytest.raises(LocalProtocolError, match="grace"):
        AsyncClient.from_addresses(["127.0.0.1:1"], grace=grace)


def test_a_txid_may_be_written_as_a_uuid() -> None:
    txid = TxId.new()
    text = str(txid)
    hyphened = f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
    assert raw(fields.txid(hyphened)) == raw(txid)


@pytest.mark.parametrize("addresses", [[], ["127.0.0.1"], ["127.0.0.1:x"], ["127.0.0.1:70000"]])
def test_addresses_that_are_none_are_a_config_error(addresses: list[str]) -> None:
    with pytest.raises(ConfigError):
        AsyncClient.from_addresses(addresses)


def test_exchanges_end_at_their_deadlines_in_whatever_order_they_came() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        deadlines = Deadlines(loop)
        now = loop.time()
        late, soon, answered = (deadlines.exchange(now + wait) for wait in (0.05, 0.01, 0.01))
        answered(None, "an answer")
        await until(soon.future.done)
        assert soon.future.result() is SILENT
        assert not late.future.done()
        assert answered.future.result() == "an answer"
        await until(late.future.done)
        assert loop.time() >= now + 0.05
        late(None, "too late")
        assert late.future.result() is SILENT
        left = deadlines.exchange(now + 100)
        deadlines.close()
        assert left.future.result() is SILENT

    asyncio.run(main())
