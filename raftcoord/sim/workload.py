"""What the clients of a simulation do: transfers between banks, and everything that a careless or unlucky program does as well.

They repeat, they race COMMIT against resolve, they give up in the middle, they drive phase one themselves, they name
participants that nobody serves. Each request and each answer is recorded (``records``) for the history checker.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from raftcoord import limits
from raftcoord.client.asynchronous import AsyncClient
from raftcoord.env import Env
from raftcoord.errors import InDoubt, LocalProtocolError, Overloaded, RaftcoordError, Unavailable
from raftcoord.history.operations import CallKind, RecordedCall
from raftcoord.participants.interface import Participant
from raftcoord.participants.sqlite import SqliteParticipant
from raftcoord.sim.happening import note
from raftcoord.sim.invariants import Invariants
from raftcoord.sim.loop import Process
from raftcoord.sim.vault import Vault
from raftcoord.sim.world import EPOCH_MS, World
from raftcoord.types import Payload, TxId, Verdict

ACCOUNTS: Final = tuple(f"a{number}" for number in range(6))
OPENING: Final = 1_000
MakePayloads = Callable[[Sequence[str], random.Random], Mapping[str, Payload]]
Audit = Callable[[Mapping[str, Participant]], str]

_RECENT: Final = 24
_NEAR_MS: Final = 1_000
"""How far from the horizon what is asked about may lie (ms)."""

_OWN_BRANCHES: Final = ("pg", "my")
"""Branches of a caller that drives phase one itself."""


class Workload:
    """Clients on a world. ``gap_s``: the usual pause between two requests of a client (s); the rest as in Settings."""

    def __init__(
        self, world: World, invariants: Invariants, payloads: MakePayloads, audit: Audit, clients: int, gap_s: float
    ) -> None:
        self.audit = audit
        self._payloads = payloads
        self.records: list[RecordedCall] = []
        """Every request and what came of it. Times are the order of events: two that share a virtual time are not concurrent."""
        self._events = 0
        self.outcomes: dict[str, int] = {}
        self._world = world
        self._invariants = invariants
        self._gap_s = gap_s
        self._recent: deque[TxId] = deque(maxlen=_RECENT)
        self._stopped = False
        self._open = 0
        self._finishing = False
        self._names = [f"c{number}" for number in range(1, clients + 1)]
        world.clients = list(self._names)

    def start(self) -> None:
        """Let the clients begin."""
        for name in self._names:
            process, client = self._world.client(name)
            process.spawn(self._live(name, process, client, self._world.rng(f"{name} work")), "work")

    def stop(self) -> None:
        """No new requests."""
        self._stopped = True

    def finish(self) -> None:
        """Complete what callers decided and did not complete: the program is started again and does its duty."""
        if not self.idle or self._finishing:
            return
        left = [txid for txid in self._invariants.model.outstanding if self._is_ours(txid)]
        if left:
            self._finishing = True
            process, client = self._world.client("finisher")
            process.spawn(self._complete_all(client, left), "finish")

    def _is_ours(self, txid: TxId) -> bool:
        return bool(self._invariants.model.outstanding[txid] & set(_OWN_BRANCHES))

    async def _complete_all(self, client: AsyncClient, txids: list[TxId]) -> None:
        for txid in txids:
            await self.complete(client, txid, 5.0)
        self._finishing = False

    @property
    def idle(self) -> bool:
        """Whether every request has ended."""
        return self._stopped and not self._open

    async def _live(self, name: str, process: Process, client: AsyncClient, rng: random.Random) -> None:
        often = (
            self._transfer,
            self._transfer,
            self._transfer,
            self._transfer,
            self._drive,
            self._drive,
            self._ask,
            self._ask,
        )
        kinds = (*often, self._repeat, self._repeat, self._mistake, self._burst, self._ask_at_the_horizon)
        while True:
            await asyncio.sleep(rng.expovariate(1 / self._gap_s))
            if self._stopped:
                return
            task = process.spawn(self._counted(rng.choice(kinds)(name, client, rng)), "request")
            if rng.random() < 0.05:  # gives up: the program that asked is gone
                await asyncio.sleep(rng.random() * 0.02)
                task.cancel()
            elif rng.random() < 0.7:
                await asyncio.wait((task,))

    async def _counted(self, work: Awaitable[None]) -> None:
        self._open += 1
        try:
            await work
        finally:
            self._open -= 1

    # -- what they do --------------------------------------------------------------------------------------------------

    async def _transfer(self, name: str, client: AsyncClient, rng: random.Random) -> None:
        txid = self._mint(name, rng)
        payloads = self._payloads(self._world.banks, rng)
        self._invariants.submitted[txid] = tuple(payloads)
        await self._submit(name, client, rng, txid, payloads)

    async def _submit(
        self, name: str, client: AsyncClient, rng: random.Random, txid: TxId, payloads: Mapping[str, Payload]
    ) -> None:
        wait = "completed" if rng.random() < 0.2 else "decided"
        timeout = rng.uniform(0.2, 3.0)
        await self._request(
            name, "submit", txid, None, lambda: client.submit(payloads, timeout=timeout, txid=txid, wait=wait)
        )

    async def _drive(self, name: str, client: AsyncClient, rng: random.Random) -> None:
        txid = self._mint(name, rng)
        verdict = Verdict.COMMIT if rng.random() < 0.7 else Verdict.ABORT
        if rng.random() < 0.5:
            await asyncio.sleep(rng.random() * 0.05)  # its phase one; meanwhile others may resolve
        branches = _OWN_BRANCHES if verdict is Verdict.COMMIT else ()
        timeout = rng.uniform(0.2, 3.0)
        outcome = await self._request(
            name, "decide", txid, verdict, lambda: client.decide(txid, verdict, branches, timeout=timeout)
        )
        if outcome is not None and outcome.committed:
            await asyncio.sleep(rng.random() * 0.5)
            await self.complete(client, txid, 2.0)

    async def _burst(self, name: str, client: AsyncClient, rng: random.Random) -> None:
        """A batch job: many decisions, so close together that the ledger is not stored in between."""
        if rng.random() < 0.7:
            return
        for _ in range(rng.randrange(5, 30)):
            asyncio.get_running_loop().create_task(
                self._counted(self._one_of_many(name, client, self._mint(name, rng)))
            )
            await asyncio.sleep(rng.uniform(0.0005, 0.003))

    async def _one_of_many(self, name: str, client: AsyncClient, txid: TxId) -> None:
        await self._request(
            name,
            "decide",
            txid,
            Verdict.ABORT,
            lambda: client.decide(txid, Verdict.ABORT, reason="a batch", timeout=1.0),
        )

    async def complete(
        self, client: AsyncClient, txid: TxId, timeout: float, branches: Sequence[str] | None = _OWN_BRANCHES
    ) -> None:
        """The caller's own branches are done. ``branches`` None: all of them."""
        self._invariants.completed_by_caller.update((txid, branch) for branch in branches or _OWN_BRANCHES)
        with suppress(RaftcoordError):
            await client.complete(txid, branches, timeout=timeout)

    async def _ask(self, name: str, client: AsyncClient, rng: random.Random) -> None:
        if not self._recent:
            return
        txid = rng.choice(self._recent)
        if rng.random() < 0.1:  # of what may not be decided, or has another branch
            await self.complete(client, txid, 1.0, ("elsewhere",))
            return
        timeout = rng.uniform(0.2, 3.0)
        if rng.random() < 0.4:
            await self._request(name, "resolve", txid, None, lambda: client.resolve(txid, timeout=timeout))
        else:
            await self._request(name, "status", txid, None, lambda: client.status(txid, timeout=timeout))

    async def _ask_at_the_horizon(self, name: str, client: AsyncClient, rng: random.Random) -> None:
        """Of what has just been forgotten, or will be next: known to the ledger, or to nobody."""
        horizon_ms = self._invariants.horizon.ms
        if not horizon_ms:
            return
        txid = TxId.new(horizon_ms + rng.randrange(-60, 120), rng.randbytes(10))
        near = [known for known in self._recent if abs(known.ms - horizon_ms) < _NEAR_MS]
        if near and rng.random() < 0.5:
            txid = min(near, key=lambda known: abs(known.ms - horizon_ms))
        if rng.random() < 0.3:
            await self._request(name, "resolve", txid, None, lambda: client.resolve(txid, timeout=1.0))
        else:
            await self._request(name, "status", txid, None, lambda: client.status(txid, timeout=1.0))

    async def _repeat(self, name: str, client: AsyncClient, rng: random.Random) -> None:
        """A txid is used again, at another node and with another payload: it must not run twice."""
        submitted = [txid for txid in self._recent if txid in self._invariants.submitted]
        if not submitted or rng.random() < 0.5:
            await self._twins(name, client, rng)
            return
        txid = rng.choice(submitted[-3:])
        self._invariants.on_reuse(txid)
        await self._submit_elsewhere(rng, txid, self._payloads(self._world.banks, rng))

    async def _twins(self, name: str, client: AsyncClient, rng: random.Random) -> None:
        """Two programs submit under one txid at once, to other participants perhaps: one COMMIT stands, if any."""
        txid = self._mint(name, rng)
        self._invariants.on_reuse(txid)
        payloads = self._payloads(self._world.banks, rng)
        theirs = payloads if rng.random() < 0.3 else self._payloads(self._world.banks, rng)
        other = asyncio.get_running_loop().create_task(self._submit_elsewhere(rng, txid, theirs))
        await self._submit(name, client, rng, txid, payloads)
        await other

    async def _submit_elsewhere(self, rng: random.Random, txid: TxId, payloads: Mapping[str, Payload]) -> None:
        async with self._world.another_client(rng.choice(self._world.nodes)) as other:
            await self._submit("another", other, rng, txid, payloads)

    async def _mistake(self, name: str, client: AsyncClient, rng: random.Random) -> None:
        """A caller decides in the name of a participant that never prepared: damage, which must be recorded."""
        if rng.random() < 0.8:
            return
        txid = self._mint(name, rng)
        self._invariants.careless.add(txid)
        branches = (rng.choice(self._world.banks),)
        await self._request(
            name, "decide", txid, Verdict.COMMIT, lambda: client.decide(txid, Verdict.COMMIT, branches, timeout=2.0)
        )

    # -- recording -----------------------------------------------------------------------------------------------------

    async def _request(
        self, name: str, kind: str, txid: TxId, asked: Verdict | None, send: Callable[[], Awaitable[Any]]
    ) -> Any:
        since = len(self._invariants.log) - 1
        operation = RecordedCall(name, CallKind(kind), txid, self._event(), asked)
        self.records.append(operation)
        answer = None
        self._note(name, f"asks: {kind}{f' {asked.name}' if asked is not None else ''}", txid)
        try:
            answer = await send()
            outcome = str(answer.state)
            self._note(name, f"is told: {answer.state} (term {answer.term}, index {answer.index})", txid)
            operation.told(self._event(), answer.state, answer.term, answer.index)
            self._invariants.on_answer(name, txid, answer.state, answer.term, answer.index, since)
        except (Unavailable, Overloaded, LocalProtocolError) as error:
            outcome = type(error).__name__
            self._note(name, f"is told: {outcome}: {error}", txid)
            if kind in ("status", "resolve") and isinstance(error, LocalProtocolError):
                self._invariants.on_hidden(name, txid, str(error), since)
            if kind != "decide" or not isinstance(error, LocalProtocolError):
                operation.not_attempted(self._event())
                if kind in ("submit", "decide"):
                    self._invariants.on_untouched(txid)
        except InDoubt as error:
            outcome = "InDoubt"
            self._note(name, f"is told: {outcome}: {error}", txid)
        except asyncio.CancelledError:
            outcome = "gave up"
            self._note(name, f"gives up: {kind}", txid)
        self.outcomes[f"{kind} {outcome}"] = self.outcomes.get(f"{kind} {outcome}", 0) + 1
        return answer

    def _note(self, name: str, what: str, txid: TxId) -> None:
        """What a client asks, and the answer."""
        note(self._world.events, name, what, txid)

    def _event(self) -> int:
        self._events += 1
        return self._events

    def _mint(self, name: str, rng: random.Random) -> TxId:
        """A txid by the clock of that client's machine."""
        ahead_ms = self._world.machines[name].offset_ms
        txid = TxId.new(EPOCH_MS + int(self._world.loop.now * 1000) + ahead_ms, rng.randbytes(10))
        self._recent.append(txid)
        return txid


def bank(directory: Path, env: Env, lock_waiters_max: int = limits.LOCK_WAITERS_MAX) -> Participant:
    """The participant of which the banks are made, if the caller names no others."""
    made = SqliteParticipant(
        directory / "bank.db", wall_ms=env.wall_ms, entropy=env.rng.randbytes, lock_waiters_max=lock_waiters_max
    )
    made.open_accounts_once(dict.fromkeys(ACCOUNTS, OPENING))
    return made


def vault(directory: Path, env: Env) -> Participant:
    """The participant of which several instances run."""
    return Vault(directory / "vault.db", env, dict.fromkeys(ACCOUNTS, OPENING))


def conserved(participants: Mapping[str, Participant]) -> str:
    """Whether the banks hold as much money as they began with; what is wrong, or ""."""
    banks = [made for made in participants.values() if isinstance(made, SqliteParticipant | Vault)]
    total, expected = sum(made.total() for made in banks), len(banks) * len(ACCOUNTS) * OPENING
    return "" if total == expected else f"the banks hold {total}, and had {expected}"


def transfers(banks: Sequence[str], rng: random.Random) -> dict[str, Payload]:
    """A transfer: money from one bank to the others, to the cent. Some cannot be done."""
    chosen = rng.sample(list(banks), k=min(len(banks), rng.choice((2, 2, 2, 3))))
    amount = rng.randrange(1, 60) * (len(chosen) - 1)
    least = {"min": 0} if rng.random() < 0.8 else {}
    payloads: dict[str, Payload] = {chosen[0]: [{**add, **least} for add in _adds(-amount, rng)]}
    for bank in chosen[1:]:
        payloads[bank] = _adds(amount // (len(chosen) - 1), rng)
    kind = rng.random()
    if kind < 0.03:
        payloads["nobody"] = [{"op": "add", "key": "x", "amount": 1}]
    elif kind < 0.06:
        payloads[chosen[0]] = [{"op": "expect", "key": "no such account", "amount": 1}]
    elif kind < 0.12:
        expect: Payload = [{"op": "expect", "key": ACCOUNTS[0], "amount": OPENING}]
        return dict.fromkeys(chosen, expect)
    return payloads


def _adds(amount: int, rng: random.Random) -> list[dict[str, Any]]:
    """``amount`` on one account, or spread over several: then a branch needs more than one lock."""
    keys = rng.sample(ACCOUNTS, k=rng.choice((1, 1, 2, 3)))
    parts = [amount // len(keys)] * (len(keys) - 1)
    amounts = [*parts, amount - sum(parts)]
    return [{"op": "add", "key": key, "amount": part} for key, part in zip(keys, amounts, strict=True)]
