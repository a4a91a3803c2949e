"""The client about damage: what is sent, what is read back, and what is refused before anything is sent."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from raftcoord import AsyncClient, Client, LocalProtocolError, TxId, Unavailable, limits
from raftcoord.api import answers
from raftcoord.api.answers import DamagePage, DamageRow, UnreadableAnswer
from raftcoord.rpc.codes import RpcError
from raftcoord.types import State

from .scripted_node import aborted, client_of, cluster, in_turn, raw

TXID = TxId.new()
ROW: dict[str, Any] = {"txid": raw(TXID), "branch": "ledger", "what": "gone", "at_ms": 5, "acknowledged_by": ""}
DAMAGE = DamageRow(TXID, "ledger", "gone", 5, "")


def test_damage_is_listed_reported_and_acknowledged() -> None:
    async def scene() -> None:
        async with cluster(1) as (node,), client_of([node]) as client:
            node.answers["damages"] = {"damages": [ROW], "pending": 1, "total": 4}
            node.answers["report_damage"] = True
            node.answers["acknowledge"] = {**ROW, "acknowledged_by": "ann"}
            assert await client.damages(str(TXID), limit=7) == DamagePage([DAMAGE], 1, 4)
            assert await client.report_damage(TXID, "ledger", "gone") is None
            assert (await client.acknowledge(TXID.hex(), "ledger", "ann")).acknowledged_by == "ann"
            assert node.asked[-3:] == [
                ("damages", [{"limit": 7, "txid": raw(TXID)}]),
                ("report_damage", [raw(TXID), "ledger", "gone"]),
                ("acknowledge", [raw(TXID), "ledger", "ann"]),
            ]

    asyncio.run(scene())


def test_all_damage_is_acknowledged_in_as_many_requests_as_it_takes() -> None:
    async def scene() -> None:
        async with cluster(1) as (node,), client_of([node]) as client:
            node.answers["acknowledge_all"] = in_turn({"acknowledged": 500, "left": 3}, {"acknowledged": 3, "left": 0})
            assert await client.acknowledge_all("ann", upto_ms=5, branch="ledger") == 503
            assert node.asked[-2:] == [("acknowledge_all", ["ledger", 5, "ann"])] * 2

    asyncio.run(scene())


def test_branches_are_closed_with_a_name_and_a_reason() -> None:
    async def scene() -> None:
        async with cluster(1) as (node,), client_of([node]) as client:
            node.answers["close"] = {"closed": 1}
            assert await client.close_branches({TXID: ["gone"]}, "ann", "sold") == 1
            assert node.asked[-1] == ("close", [[[raw(TXID), ["gone"]]], "ann", "sold"])
            for who, why in (
                (" ", "sold"),
                ("ann", ""),
                ("ann", "x" * (limits.REASON_LENGTH_MAX + 1)),
                ("ann", "a\nb"),
            ):
                with pytest.raises(LocalProtocolError):
                    await client.close_branches({TXID: ["gone"]}, who, why)

    asyncio.run(scene())


@pytest.mark.parametrize("nonsense", [None, [], {"acknowledged": 0, "left": 5}, {"acknowledged": "1", "left": 0}])
def test_an_answer_that_would_never_end_is_not_believed(nonsense: object) -> None:
    with pytest.raises(UnreadableAnswer):
        answers.ACKNOWLEDGED.read(nonsense)


def test_the_synchronous_client_does_the_same() -> None:
    async def scene() -> None:
        async with cluster(1) as (node,):
            node.answers["damages"] = {"damages": [ROW], "pending": 1, "total": 1}
            node.answers["report_damage"] = True
            node.answers["acknowledge"] = ROW
            node.answers["resolve_branch"] = aborted("forgotten")

            def calls() -> None:
                with Client.from_addresses([node.address]) as client:
                    assert client.damages().shown == [DAMAGE]
                    client.report_damage(TXID, "ledger", "gone")
                    assert client.acknowledge(TXID, "ledger", "ann") == DAMAGE
                    assert client.resolve(TXID, branch="ledger").state is State.ABORTED

            await asyncio.to_thread(calls)
            method, params = node.asked[-1]
            assert (method, params[:2]) == ("resolve_branch", [raw(TXID), "ledger"])

    asyncio.run(scene())


def test_a_report_is_repeated_at_another_node_until_one_confirms_it() -> None:
    async def scene() -> None:
        async with cluster(2) as (n1, n2), client_of([n1, n2], n1) as client:
            n1.answers["report_damage"] = RpcError("in_doubt", "not confirmed", {"txid": raw(TXID), "why": "slow"})
            n2.answers["report_damage"] = in_turn(RpcError("unavailable", "no leader"), True)
            await client.report_damage(TXID, "ledger", "gone")
            assert n2.methods.count("report_damage") == 2

    asyncio.run(scene())


def test_a_report_that_no_node_confirms_is_unavailable() -> None:
    async def scene() -> None:
        async with cluster(1) as (node,), client_of([node]) as client:
            with pytest.raises(Unavailable):
                await client.report_damage(TXID, "ledger", "gone", timeout=0.1)

    asyncio.run(scene())


@pytest.mark.parametrize(
    ("method", "arguments", "says"),
    [
        ("damages", {"limit": 0}, "limit 0"),
        ("damages", {"limit": limits.DAMAGES_MAX + 1}, "limit 501"),
        ("damages", {"txid": "abc"}, "is not a txid"),
        ("report_damage", {"txid": TXID, "branch": "Ledger", "what": "gone"}, "is not a name"),
        ("report_damage", {"txid": TXID, "branch": "ledger", "what": ""}, "say what happened"),
        ("report_damage", {"txid": TXID, "branch": "ledger", "what": "x" * 501}, "1 to 500 characters"),
        ("report_damage", {"txid": TXID, "branch": "ledger", "what": "\ud800"}, "half a surrogate pair"),
        ("acknowledge", {"txid": TXID, "branch": "ledger", "who": " "}, "names nobody"),
        ("acknowledge", {"txid": TXID, "branch": "ledger", "who": "x" * 65}, "1 to 64 printable"),
        ("resolve", {"txid": TXID, "branch": "no name"}, "is not a name"),
    ],
)
def test_what_is_given_wrongly_is_refused_before_anything_is_sent(
    method: str, arguments: dict[str, Any], says: str
) -> None:
    async def scene() -> None:
        async with AsyncClient.from_addresses(["127.0.0.1:9"]) as client:
            with pytest.raises(LocalProtocolError, match=says):
                await getattr(client, method)(**arguments)

    asyncio.run(scene())


@pytest.mark.parametrize("field", ROW)
def test_damage_with_a_field_of_another_kind_is_unreadable(field: str) -> None:
    for junk in (None, [1], 2.5):
        with pytest.raises(UnreadableAnswer):
            answers.DAMAGE.read({**ROW, field: junk})
    with pytest.raises(UnreadableAnswer):
        answers.DAMAGES.read({"damages": [{**ROW, "txid": b"short"}], "pending": 0, "total": 1})
    with pytest.raises(UnreadableAnswer):
        answers.DAMAGES.read([ROW])
