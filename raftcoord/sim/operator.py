"""The horizon in the wrong hands, and the operator who puts it right."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

from raftcoord.client.asynchronous import AsyncClient
from raftcoord.core.tables.horizon import Retire
from raftcoord.errors import RaftcoordError
from raftcoord.sim.world import EPOCH_MS, World

_TRIES_MAX: Final = 60
_PAUSE_S: Final = 0.3
_BEHIND_S: Final = 4.0
"""It hears nobody until transactions are accepted beyond the new horizon, or for longer."""


def move_horizon(world: World, name: str, ahead_ms: int) -> None:
    """Node ``name`` proposes a horizon in the future, as an older release did whose leader had a wrong clock."""
    consensus = world.machines[name].consensus
    if consensus is not None:
        command = Retire(EPOCH_MS + int(world.loop.now * 1000) + ahead_ms)
        with suppress(RaftcoordError):
            consensus.group.propose(command, world.loop.now + 60.0, lambda result: None)  # no event: it is not judged


def lower_horizon(world: World) -> None:
    """The operator lowers it; again and again until it is done or there is nothing to lower any more."""
    process, client = world.client("operator")
    process.spawn(_lower(world, client), "lower")


def leave_behind(world: World) -> None:
    """A follower hears no other node for a while. It does not learn that the horizon was lowered, and answers those who ask."""
    rng = world.rng(f"left behind {world.loop.now}")
    followers = [name for name in world.nodes if (node := world.machines[name].consensus) and not node.is_leader]
    if not followers or rng.random() < 0.3:
        return
    behind = rng.choice(followers)
    for name in world.nodes:
        if name != behind:
            world.network.clog(name, behind)
            until = world.loop.now + _BEHIND_S * rng.uniform(0.3, 1.0)
            world.loop.at(until, world.loop.world, world.network.unclog, name, behind)


async def _lower(world: World, client: AsyncClient) -> None:
    for _ in range(_TRIES_MAX):
        after_ms = EPOCH_MS + int(world.loop.now * 1000) + world.ahead_max_ms + world.knobs.clocks.future_ms_max
        try:
            await client.lower_horizon("operator", after_ms=after_ms, timeout=2.0)
            world.log("operator", "has lowered the horizon")
            return
        except RaftcoordError as error:
            world.log("operator", str(error))
        await asyncio.sleep(_PAUSE_S)
