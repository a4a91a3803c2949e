"""A second state under the name of a participant, and an operator who gives up a branch.

A state that is not the one that the ledger has bound to the name must never be admitted, at whichever node it comes, however far
that node is behind. An operator may close a branch of a COMMIT whenever its participant seems to be away: nobody hears another
outcome.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from typing import Any

from raftcoord import limits
from raftcoord.core.tables.decisions import Decision
from raftcoord.errors import RaftcoordError
from raftcoord.rpc import dial
from raftcoord.rpc.connection import Connection
from raftcoord.sim.world import World
from raftcoord.types import Verdict

_STAYS_S = 0.2


class _Twin:
    """The dialing end of another state: if it is admitted, that is the violation; it answers nothing."""

    def on_open(self, conn: Connection) -> None:
        """Nothing."""

    def on_hello(self, conn: Connection, role: str, details: dict[str, Any]) -> dict[str, Any]:
        """A participant is not dialed."""
        return {}

    def on_request(self, conn: Connection, request_id: int, method: str, params: list[Any]) -> None:
        """Nothing."""

    def on_notify(self, conn: Connection, method: str, params: list[Any]) -> None:
        """Nothing."""

    def on_closed(self, conn: Connection, reason: str) -> None:
        """Nothing."""


def visit(world: World, bank: str, value: float) -> None:
    """Somebody starts another state under the name of ``bank``."""
    rng = random.Random(f"{world.seed}/twin {value}")
    process, _ = world.client("twin")
    process.spawn(_visit(world, bank, rng), "visit")


async def _visit(world: World, bank: str, rng: random.Random) -> None:
    identity = rng.randbytes(16).hex()
    for name in rng.sample(list(world.nodes), len(world.nodes)):
        if not _bound(world, bank):  # the first to come would be bound, as it should
            return
        node = world.config.node(name)
        conn: Connection | None = None
        with suppress(RaftcoordError, OSError):
            conn, _ = await dial.connect(
                node.client.host,
                node.client.port,
                _Twin(),
                role="participant",
                details={"name": bank, "instance": f"twin {identity}", "identity": identity},
                max_frame_bytes=limits.CLIENT_FRAME_BYTES_MAX,
                label="twin",
                timeout=1.0,
            )
        if conn is not None:
            conn.close("it was admitted")
            world.broken(f"{name} admitted a second state of {bank}")
        await asyncio.sleep(rng.random() * _STAYS_S)


def _bound(world: World, bank: str) -> bool:
    ledgers = (world.machines[name].consensus for name in world.nodes)
    return any(consensus is not None and bank in consensus.ledger.participants for consensus in ledgers)


def close(world: World, bank: str, value: float) -> None:
    """An operator gives up what waits for ``bank``, as far as some node knows."""
    rng = random.Random(f"{world.seed}/close {value}")
    process, client = world.client("closing")
    process.spawn(_close(world, client, bank, rng), "close")


async def _close(world: World, client: Any, bank: str, rng: random.Random) -> None:
    running = [consensus for name in world.nodes if (consensus := world.machines[name].consensus) is not None]
    if not running:
        return
    waiting = [decision for decision in rng.choice(running).ledger.open_decisions() if _waits(decision, bank)]
    async with client:
        for decision in waiting[:3]:
            with suppress(RaftcoordError):
                await client.close_branches({decision.txid: [bank]}, "operator", "it does not come back", timeout=2.0)


def _waits(decision: Decision, bank: str) -> bool:
    return decision.verdict is Verdict.COMMIT and bank in decision.outstanding
