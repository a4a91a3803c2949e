"""Clients at work: orders go in, and what the clients are told goes into the history.

It owes each order at most one payment: a new transaction for an order is begun only when the one before it is known to be
aborted, or was promised not to have been attempted. What is in doubt is resolved first. It never decides what an answer
is worth; the audit does.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, Protocol

from raftcoord.drills.client_history import History, Told
from raftcoord.drills.orders import Order
from raftcoord.errors import Aborted, InDoubt, Overloaded, Unavailable
from raftcoord.types import Answer, Outcome, Payload, State, TxId

SUBMIT_TIMEOUT_S: Final = 5.0
"""What a client gives its transaction (seconds); several elections fit into it."""

RESOLVE_TIMEOUT_S: Final = 2.0
RETRY_S_MIN: Final = 0.01
RETRY_S_MAX: Final = 0.5
"""Bounds of the pause before the next attempt at an order (seconds); it doubles from one to the other, with jitter."""

_LOOK_S: Final = 0.005


async def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Look every 5 ms until ``condition()`` holds. False if it does not within ``seconds``."""
    loop = asyncio.get_running_loop()
    until_s = loop.time() + seconds
    while True:
        if condition():
            return True
        if loop.time() >= until_s:
            return False
        await asyncio.sleep(_LOOK_S)


class LoadClient(Protocol):
    """What the load needs of ``raftcoord.AsyncClient``."""

    async def submit(self, payloads: Mapping[str, Payload], *, txid: TxId, timeout: float) -> Outcome: ...

    async def resolve(self, txid: TxId, *, timeout: float) -> Answer: ...


class Load:
    """``clients`` take turns. ``in_flight`` counts their open transactions, ``held_back`` the orders that found no room.

    ``paid`` and ``exhausted`` belong to ``pay_all``: how many orders it has paid, and whether it has come to its end.
    """

    def __init__(self, clients: Sequence[LoadClient], history: History, rng: random.Random) -> None:
        self.history = history
        self.in_flight = 0
        self.held_back = 0
        self.paid = 0
        self.exhausted = False
        self._clients = clients
        self._rng = rng
        self._turn = 0
        self._stopped = asyncio.Event()

    def stop(self) -> None:
        """Begin no further transaction. Those that are open come to their end."""
        self._stopped.set()

    # -- two ways of sending orders -------------------------------------------------------------------------------

    async def at_rate(self, orders: Iterator[Order], rate_per_s: float, in_flight_max: int) -> None:
        """Submit ``rate_per_s`` orders per second until ``stop``, each once, whatever becomes of it.

        The rate does not wait for answers. An order that is due while ``in_flight_max`` transactions are open is held back.
        """
        loop = asyncio.get_running_loop()
        started_s = loop.time()
        async with asyncio.TaskGroup() as open_transactions:
            for number, order in enumerate(orders):
                if await self._stopped_within(started_s + number / rate_per_s - loop.time()):
                    break
                if self.in_flight >= in_flight_max:
                    self.held_back += 1
                    continue
                open_transactions.create_task(self.attempt(order))

    async def pay_all(self, orders: Iterable[Order], in_flight: int, give_up_s: float) -> list[Order]:
        """Pay every order, ``in_flight`` at a time, with a new transaction after each abort.

        Returns the orders that could not be paid in ``give_up_s`` seconds each, or were not begun because of ``stop``.
        """
        waiting = iter(orders)
        unpaid: list[Order] = []
        self.exhausted = False

        async def payer() -> None:
            for order in waiting:
                if not await self._pay(order, give_up_s):
                    unpaid.append(order)

        async with asyncio.TaskGroup() as payers:
            for _ in range(in_flight):
                payers.create_task(payer())
        self.exhausted = True
        return unpaid

    async def _pay(self, order: Order, give_up_s: float) -> bool:
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + give_up_s
        pause_s = RETRY_S_MIN
        while not self._stopped.is_set():
            told = await self.attempt(order)
            while told.certainty == "unknown" and loop.time() < give_up_at:
                await asyncio.sleep(self._jitter(pause_s))
                told = await self._resolve(told.txid, told.client)
            if told.state is State.COMMITTED:
                self.paid += 1
                return True
            if told.certainty == "unknown" or loop.time() >= give_up_at:
                return False
            await asyncio.sleep(self._jitter(pause_s))
            pause_s = min(2 * pause_s, RETRY_S_MAX)
        return False

    def _jitter(self, pause_s: float) -> float:
        return pause_s * self._rng.uniform(0.5, 1.5)

    async def _stopped_within(self, seconds: float) -> bool:
        if seconds > 0:
            try:
                await asyncio.wait_for(self._stopped.wait(), seconds)
            except TimeoutError:
                return False
        return self._stopped.is_set()

    # -- one call, and what the client was told -------------------------------------------------------------------

    async def attempt(self, order: Order) -> Told:
        """Submit ``order`` as one new transaction."""
        txid = TxId.new()
        client = self._turn = (self._turn + 1) % len(self._clients)
        self.history.begin(txid, order)
        self.in_flight += 1
        try:
            return await self._submit(txid, client, order)
        finally:
            self.in_flight -= 1

    async def _submit(self, txid: TxId, client: int, order: Order) -> Told:
        now_s = asyncio.get_running_loop().time
        called_s = now_s()
        told = Told(txid, client, "submit", called_s, called_s, "known", None)
        try:
            outcome = await self._clients[client].submit(order.payloads(), txid=txid, timeout=SUBMIT_TIMEOUT_S)
        except Aborted as aborted:
            told = told._replace(state=State.ABORTED, reason=aborted.reason)
        except (Unavailable, Overloaded) as refused:
            told = told._replace(certainty="not attempted", reason=str(refused))
        except InDoubt as doubt:
            told = told._replace(certainty="unknown", reason=doubt.why)
        else:
            told = told._replace(state=outcome.state, reason=outcome.reason, term=outcome.term, index=outcome.index)
        return self._told(told._replace(returned_s=now_s()))

    async def _resolve(self, txid: TxId, client: int) -> Told:
        now_s = asyncio.get_running_loop().time
        called_s = now_s()
        told = Told(txid, client, "resolve", called_s, called_s, "unknown", None)
        try:
            answer = await self._clients[client].resolve(txid, timeout=RESOLVE_TIMEOUT_S)
        except (Unavailable, Overloaded, InDoubt) as error:
            told = told._replace(reason=str(error))
        else:
            told = told.resolved(answer)
        return self._told(told._replace(returned_s=now_s()))

    def _told(self, told: Told) -> Told:
        self.history.add(told)
        return told

    async def resolve_doubtful(self, until_s: float, in_flight: int = 32) -> None:
        """Ask for every outcome that no client knows, until all are known or ``until_s`` (``loop.time()``) has come."""
        loop = asyncio.get_running_loop()
        while (doubtful := self.history.doubtful()) and loop.time() < until_s:
            waiting = iter(doubtful)

            async def resolver(number: int, waiting: Iterator[TxId] = waiting) -> None:
                for txid in waiting:
                    await self._resolve(txid, number % len(self._clients))

            async with asyncio.TaskGroup() as resolvers:
                for number in range(in_flight):
                    resolvers.create_task(resolver(number))
            await asyncio.sleep(RETRY_S_MIN)
