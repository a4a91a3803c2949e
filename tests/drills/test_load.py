"""The load pays each order at most once, whatever its clients are told."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable, Mapping
from itertools import islice

from raftcoord.drills.client_history import History
from raftcoord.drills.load import Load, wait_until
from raftcoord.drills.orders import Generated, Order
from raftcoord.errors import Aborted, InDoubt, Overloaded, Unavailable
from raftcoord.types import Answer, Outcome, Payload, State, TxId

ORDERS = tuple(islice(Generated(1).orders(), 20))


class Scripted:
    """A client whose first submits end as ``script`` says, and whose every later one commits."""

    def __init__(self, *script: str, resolves_to: State = State.COMMITTED) -> None:
        self.script = list(script)
        self.resolves_to = resolves_to
        self.submitted: list[TxId] = []
        self.resolved: list[TxId] = []
        self.unreachable = 0

    async def submit(self, payloads: Mapping[str, Payload], *, txid: TxId, timeout: float) -> Outcome:
        self.submitted.append(txid)
        await asyncio.sleep(0)
        match self.script.pop(0) if self.script else "commit":
            case "unavailable":
                raise Unavailable("no node; try again")
            case "overloaded":
                raise Overloaded("full; try again")
            case "doubt":
                raise InDoubt(txid, "the node is gone")
            case "aborted":
                raise Aborted(txid, "locked")
            case "no":
                return Outcome(txid, False, "locked", 1, 2)
        return Outcome(txid, True, "", 1, 2)

    async def resolve(self, txid: TxId, *, timeout: float) -> Answer:
        self.resolved.append(txid)
        await asyncio.sleep(0)
        if self.unreachable:
            self.unreachable -= 1
            raise Unavailable("no node; try again")
        return Answer(txid, self.resolves_to, "", 1, 3)


def pay(client: Scripted, *orders: Order, in_flight: int = 1, give_up_s: float = 5.0) -> tuple[History, list[Order]]:
    history = History()
    load = Load([client], history, random.Random(0))
    return history, asyncio.run(load.pay_all(orders, in_flight, give_up_s))


def test_every_order_is_paid_once_when_all_is_well() -> None:
    client = Scripted()
    history, unpaid = pay(client, *ORDERS, in_flight=4)
    assert unpaid == []
    assert len(client.submitted) == history.committed == len(ORDERS)


def test_an_aborted_or_unattempted_order_is_paid_by_a_new_transaction() -> None:
    client = Scripted("no", "aborted", "unavailable", "overloaded")
    history, unpaid = pay(client, ORDERS[0])
    assert unpaid == []
    assert len(set(client.submitted)) == 5
    assert [told.certainty for told in history.told] == ["known", "known", "not attempted", "not attempted", "known"]


def test_a_transaction_in_doubt_that_was_committed_is_not_paid_again() -> None:
    client = Scripted("doubt")
    client.unreachable = 2
    history, unpaid = pay(client, ORDERS[0])
    assert unpaid == []
    assert len(client.submitted) == 1
    assert client.resolved == client.submitted * 3
    assert history.committed == 1


def test_a_transaction_in_doubt_that_was_aborted_is_paid_by_a_new_one() -> None:
    client = Scripted("doubt", resolves_to=State.ABORTED)
    history, unpaid = pay(client, ORDERS[0])
    assert unpaid == []
    assert len(client.submitted) == 2
    assert history.committed == 1


def test_an_order_whose_outcome_stays_unknown_is_given_up_and_not_paid_again() -> None:
    client = Scripted("doubt")
    client.unreachable = 10_000
    history, unpaid = pay(client, ORDERS[0], give_up_s=0.05)
    assert unpaid == [ORDERS[0]]
    assert history.doubtful() == tuple(client.submitted)


def test_an_order_that_is_always_refused_is_given_up() -> None:
    client = Scripted(*["no"] * 1000)
    _, unpaid = pay(client, ORDERS[0], give_up_s=0.05)
    assert unpaid == [ORDERS[0]]


def at_rate(client: Scripted, until: Callable[[Load], bool], *, in_flight_max: int) -> tuple[History, Load]:
    async def scenario() -> tuple[History, Load]:
        history = History()
        load = Load([client], history, random.Random(0))
        async with asyncio.TaskGroup() as group:
            group.create_task(load.at_rate(itertools.cycle(ORDERS), 1000.0, in_flight_max))
            await wait_until(lambda: until(load), 5.0)
            load.stop()
        return history, load

    return asyncio.run(scenario())


def test_at_a_rate_each_order_is_submitted_once_whatever_becomes_of_it() -> None:
    client = Scripted("no", "doubt", "unavailable")
    history, load = at_rate(client, lambda load: load.history.committed >= 10, in_flight_max=8)
    assert len(client.submitted) == len(history.attempts) >= 13
    assert load.in_flight == 0
    assert len(history.doubtful()) == 1


def test_an_order_that_finds_no_room_is_held_back() -> None:
    client = Scripted()
    history, load = at_rate(client, lambda load: load.held_back >= 3, in_flight_max=0)
    assert history.attempts == {}
    assert load.held_back >= 3


def test_what_is_doubtful_is_resolved_until_nothing_is() -> None:
    async def scenario() -> History:
        client = Scripted("doubt", "doubt", resolves_to=State.ABORTED)
        client.unreachable = 3
        history = History()
        load = Load([client], history, random.Random(0))
        for order in ORDERS[:2]:
            await load.attempt(order)
        assert len(history.doubtful()) == 2
        await load.resolve_doubtful(asyncio.get_running_loop().time() + 5)
        return history

    assert asyncio.run(scenario()).doubtful() == ()
