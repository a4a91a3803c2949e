"""Operators who change the members, and nodes that are started with a wrong cluster.yaml.

replace       the new node that says it is that one is taken in in its place
leave         a member is removed: while it runs, while it is down, or it comes back afterwards with its old data. Then its
              directory is emptied, and it is added as a new one
wrong file    a node that has its members on disk is started with a cluster.yaml of other names: it must refuse with a ConfigError
              soon, take no part before that, and leave its data as it was
"""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import Sequence
from dataclasses import replace as with_other
from typing import TYPE_CHECKING, Final

from raftcoord.client.asynchronous import AsyncClient
from raftcoord.config import Address, Config, NodeConfig
from raftcoord.errors import ConfigError, RaftcoordError
from raftcoord.sim.loop import Killed
from raftcoord.types import NodeName

if TYPE_CHECKING:
    from raftcoord.sim.machines import Machine
    from raftcoord.sim.world import World

_PAUSE_S: Final = 0.2
_TIMEOUT_S: Final = 2.0
_SOON_S: Final = 1.0
"""What a node may take beyond ``NodeBounds.ask_members_ms``, by its own clock (s)."""

_TICK_S: Final = 0.1

STRANGE: Final = "n9"
"""A name that no member ever has."""


def replace(world: World, name: str) -> None:
    """The operator accepts the new node that says it is ``name``; again and again until it is done."""
    process, client = world.client("operator")
    process.spawn(_replace(world, name, client), "replace")


async def _replace(world: World, name: str, client: AsyncClient) -> None:
    machine = world.machines[name]
    while machine.consensus is None or not machine.consensus.group.raft.admitted:
        try:
            await client.replace_node(name, timeout=_TIMEOUT_S)
            world.log(name, "is replaced")
        except RaftcoordError as error:
            world.log("operator", str(error))
        await asyncio.sleep(_PAUSE_S)


def leave(world: World, name: str, value: float) -> None:
    """The operator removes ``name``, and adds a new node of that name. ``value``: 0 to 1, what the old one does meanwhile."""
    world.changing.add(name)
    world.removed.add(name)
    if value < 0.3:
        world.kill(name, power_cut=value < 0.15)
    process, client = world.client("operator")
    process.spawn(_leave(world, name, client, value), "leave")


async def _leave(world: World, name: str, client: AsyncClient, value: float) -> None:
    rng = random.Random(f"{world.seed}/leave {name} {value}")
    await _until_done(world, client, "remove", name)
    await asyncio.sleep(rng.random() * 0.5)
    if value > 0.6:
        world.kill(name, power_cut=value > 0.8)
        world.start(name)  # by mistake, with its old data
        await asyncio.sleep(rng.random())
    world.kill(name)
    shutil.rmtree(world.next_directory(name), ignore_errors=True)
    world.wiped(name, removed=True)
    world.machines[name].names = None  # an empty node with a file of other nodes would found a cluster of its own
    world.start(name)
    await asyncio.sleep(rng.random() * 0.5)
    await _until_done(world, client, "add", name)
    world.changing.discard(name)


async def _until_done(world: World, client: AsyncClient, step: str, name: str) -> None:
    """Again and again, as asking again is safe: until it is no member, or votes."""
    while True:
        try:
            call = client.add_node if step == "add" else client.remove_node
            members = (await call(name, timeout=_TIMEOUT_S))["members"]
            found = [member["voter"] for member in members if member["name"] == name]
            if found == ([True] if step == "add" else []):
                world.log(name, "votes again" if step == "add" else "is removed")
                return
        except RaftcoordError as error:
            world.log("operator", str(error))
        await asyncio.sleep(_PAUSE_S)


def other_names(nodes: Sequence[str], name: str, rng: random.Random) -> tuple[str, ...]:
    """The names in a wrong cluster.yaml of ``name``: one more, one less or another one."""
    others = [node for node in nodes if node != name]
    gone = rng.choice(others)
    left = [node for node in others if node != gone]
    return tuple(rng.choice(([*nodes, STRANGE], [name, *left], [name, *left, STRANGE], [name])))


def config_of(config: Config, names: Sequence[str]) -> Config:
    """``config`` as it is in a file that names these nodes."""
    known = {str(node.name): node for node in config.nodes}
    first = config.nodes[0]
    addresses = (Address("127.0.0.99", first.peer.port), Address("127.0.0.99", first.client.port))
    strange = NodeConfig(NodeName(STRANGE), *addresses, first.data_dir.parent / STRANGE)
    return with_other(config, nodes=tuple(known.get(name, strange) for name in sorted(names)))


async def start(world: World, machine: Machine) -> None:
    """Start the node of ``machine``: with a wrong file it must refuse, and with the right one it must not."""
    node, db, consensus = machine.node, machine.db, machine.consensus
    if node is None or db is None or consensus is None:
        return
    wrong = machine.names is not None and consensus.group.members is not None
    before, began = db.load() if wrong else None, asyncio.get_running_loop().time()
    loop = asyncio.get_running_loop()
    late: asyncio.TimerHandle | None = None

    def wait(ticks: int) -> None:
        """In small steps: while it is paused, one of them passes at most."""
        nonlocal late
        if ticks == 0:
            world.broken(f"{machine.name} does not refuse a cluster.yaml of {machine.names}")
        late = loop.call_later(_TICK_S, wait, ticks - 1)

    if wrong:
        wait(round((world.knobs.node.ask_members_ms / 1000 + _SOON_S) / _TICK_S))
    try:
        await node.start()
    except ConfigError as error:
        world.log(machine.name, f"refuses to start: {error}")
        if not wrong:
            world.broken(f"{machine.name} refuses its cluster.yaml, which is right: {error}")
        elif db.load() != before:
            world.broken(f"{machine.name} refused its cluster.yaml, and its node.db is another than before")
        took = asyncio.get_running_loop().time() - began
        world.log(machine.name, f"took {took:.2f} s for that")
        world.kill(machine.name)
        raise Killed from None
    finally:
        if late is not None:
            late.cancel()
    if (
        wrong and set(machine.names or ()) != set(world.nodes) - world.removed
    ):  # else these were the members for a while
        world.broken(f"{machine.name} takes part with a cluster.yaml that names {machine.names}")
