"""Long answers are read a page at a time and in turn, so that nobody who decides waits for somebody who lists."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from node.world import Caller, Served, new_txid, serving_one, until
from raftcoord import limits
from raftcoord.limits import NodeBounds
from raftcoord.rpc import codes
from raftcoord.rpc.codes import RpcError
from raftcoord.types import Verdict


async def filled(served: Served, count: int) -> Caller:
    """A client, after ``count`` decisions."""
    client = await Caller.of(served)
    for _ in range(count):
        await client.decide(new_txid(), Verdict.ABORT)
    return client


def pages_read(served: Served, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many rows each page had, as they are read."""
    pages: list[int] = []
    sound = served.consensus.decisions

    def decisions(state: str | None, limit: int, before: bytes | None) -> list[Any]:
        read = sound(state, limit, before)
        pages.append(len(read))
        return read

    monkeypatch.setattr(served.consensus, "decisions", decisions)
    return pages


async def test_a_listing_of_several_pages_is_whole_and_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving_one(bounds=NodeBounds(listing_page_rows=3)) as served:
        client = await filled(served, 10)
        pages = pages_read(served, monkeypatch)
        rows = await client.ask("txns", {"limit": 8})
        assert pages == [3, 3, 2]
        txids = [row["txid"] for row in rows]
        assert txids == sorted(txids, reverse=True)
        assert len(set(txids)) == 8
        assert len(await client.ask("txns", {"limit": 9})) == 9
        assert len(await client.ask("txns", {"limit": 100})) == 10


async def test_who_decides_is_answered_between_two_pages_and_who_lists_little_waits_for_one_page_of_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with serving_one(bounds=NodeBounds(listing_page_rows=1)) as served:
        greedy = await filled(served, 40)
        modest = await Caller.of(served)
        pages = pages_read(served, monkeypatch)
        long = [greedy.begin("txns", {"limit": 40}) for _ in range(10)]
        await until(lambda: len(pages) >= 2)
        await modest.decide(new_txid(), Verdict.ABORT)
        assert len(await modest.ask("txns", {"limit": 1})) == 1
        assert len(pages) < 200
        assert [len(rows) for rows in await asyncio.gather(*long)] == [40] * 10
        assert len(pages) == 401


async def test_so_many_listings_of_a_connection_wait_and_one_more_is_overloaded() -> None:
    async with serving_one(bounds=NodeBounds(listing_page_rows=1)) as served:
        client = await filled(served, 5)
        asked = [client.begin("txns", {"limit": 5}) for _ in range(limits.LISTINGS_WAITING_MAX + 1)]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        refused = [answer for answer in answers if isinstance(answer, RpcError)]
        assert [error.code for error in refused] == [codes.OVERLOADED]
        assert answers[-1] is refused[0]
        assert len(await client.ask("txns", {"limit": 5})) == 5


async def test_a_listing_whose_client_has_gone_is_read_no_further(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving_one(bounds=NodeBounds(listing_page_rows=1)) as served:
        client = await filled(served, 100)
        other = await Caller.of(served)
        pages = pages_read(served, monkeypatch)
        client.begin("txns", {"limit": 100}).add_done_callback(lambda future: future.exception())
        await until(lambda: pages)
        client.conn.close("enough")
        await until(lambda: not served.node.desk._listings._waiting)
        assert len(pages) < 100
        await other.decide(new_txid())
