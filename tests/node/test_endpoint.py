"""A branch is whatever can be asked and told: it need not be a connection."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from node.world import Caller, new_txid, serving_one, until
from raftcoord.limits import NodeBounds
from raftcoord.node.endpoint import NotDone, OnTold, OnVote
from raftcoord.types import State, TxId, Verdict, Vote


class Here:
    """A branch in this very process."""

    def __init__(self, vote: Vote, *told: NotDone | None) -> None:
        self.vote = vote
        self.answers = [*told, None]
        self.heard: list[tuple[TxId, Any]] = []
        self.gone = False
        self.busy = False
        self.waiting = 0

    def ask(self, txid: TxId, payload: Any, timeout_ms: int, voted: OnVote) -> None:
        self.heard.append((txid, payload))
        asyncio.get_running_loop().call_soon(voted, self.vote)

    def tell(self, txid: TxId, verdict: Verdict, told: OnTold) -> None:
        self.heard.append((txid, verdict))
        asyncio.get_running_loop().call_soon(told, self.answers.pop(0))

    def close(self, reason: str) -> None:
        self.gone = True


@pytest.mark.parametrize(("vote", "outcome"), [(Vote.yes(), Verdict.COMMIT), (Vote.no("sold out"), Verdict.ABORT)])
async def test_a_branch_that_is_no_connection_votes_and_is_told_until_it_acknowledges(
    vote: Vote, outcome: Verdict
) -> None:
    async with serving_one(bounds=NodeBounds(delivery_retry_ms_min=1)) as served:
        here, other = Here(vote, NotDone("internal", "not now")), Here(Vote.yes(), NotDone("internal", "not now"))
        for name, endpoint in (("a", here), ("b", other)):
            served.node.sessions.add(name, "1", endpoint)
        client, txid = await Caller.of(served), new_txid()
        answer = await client.submit(txid, "a", "b", wait="completed")
        assert (answer[0] == State.COMMITTED) == (outcome is Verdict.COMMIT)
        await until(lambda: other.heard.count((txid, outcome)) == 2)
        assert here.heard.count((txid, outcome)) == (2 if outcome is Verdict.COMMIT else 0)


async def test_a_branch_that_is_gone_or_busy_is_not_asked() -> None:
    async with serving_one() as served:
        here, client = Here(Vote.yes()), await Caller.of(served)
        served.node.sessions.add("a", "1", here)
        here.busy = True
        assert (await client.refused("submit", new_txid(), {"a": 1}, 50, "decided")).code == "overloaded"
        here.busy, here.gone = False, True
        assert (await client.submit(new_txid(), "a", timeout_ms=50))[0] == State.ABORTED
        assert here.heard == []
