"""What a node gives its observers: a transaction from its submit to its last acknowledgement."""

from __future__ import annotations

from typing import Any

import pytest

from node.world import NO, Bank, Caller, new_txid, serving_one, until
from raftcoord import events
from raftcoord.errors import LocalProtocolError
from raftcoord.types import State, Verdict, Vote


async def test_a_transaction_is_seen_from_its_submit_to_its_last_acknowledgement() -> None:
    seen: list[Any] = []
    async with serving_one() as served:
        served.node.events.attach(seen.append)
        bank, client, txid = await Bank("a").join(served), await Caller.of(served), new_txid()
        await client.submit(txid, "a")
        await bank.hears("commit", txid)
        await until(lambda: served.consensus.ledger.open_count == 0)
    assert seen == [
        events.Submitting(txid, ("a",)),
        events.Asking(txid, "a"),
        events.Voted(txid, "a", Vote.yes()),
        events.Decided(txid, State.COMMITTED),
        events.Delivering(txid, "a", Verdict.COMMIT),
        events.Acknowledged(txid, "a"),
    ]


async def test_a_request_that_is_answered_with_an_error_is_seen() -> None:
    seen: list[Any] = []
    async with serving_one() as served:
        served.node.events.attach(seen.append)
        client, txid = await Caller.of(served), new_txid()
        await client.refused("complete", txid, ["a"])
        await client.refused("status", txid, 1)
    assert [event.operation for event in seen] == ["complete", "status"]
    assert all(isinstance(event.error, LocalProtocolError) for event in seen)


async def test_an_observer_that_raises_at_every_event_changes_no_outcome() -> None:
    def broken(event: Any) -> None:
        raise ValueError

    async with serving_one() as served:
        served.node.events.attach(broken)
        banks = [await Bank("a").join(served), await Bank("b", prepare=NO).join(served)]
        client, txid = await Caller.of(served), new_txid()
        assert (await client.submit(txid, "a", "b"))[0] == State.ABORTED
        await banks[0].hears("abort", txid)
        again = new_txid()
        assert (await client.submit(again, "a"))[0] == State.COMMITTED
        await banks[0].hears("commit", again)
        await until(lambda: served.consensus.ledger.open_count == 0)
        assert not served.halted


async def test_with_no_observer_no_event_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    for kind in (events.Submitting, events.Asking, events.Voted, events.Decided, events.Delivering):
        monkeypatch.setattr(kind, "__init__", lambda *args: made.append(args))
    async with serving_one() as served:
        bank, client, txid = await Bank("a").join(served), await Caller.of(served), new_txid()
        await client.submit(txid, "a")
        await bank.hears("commit", txid)
    assert not made
