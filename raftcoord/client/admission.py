"""Before the first branch of a transaction: whether it could be decided at all now.

Owed: what is refused here has changed nothing and holds no lock. A healthy connection is believed, and costs no round trip.
Clocks are compared here, before anything is prepared, and never after it. Never: a promise: the nodes may be gone a moment later.
"""

from __future__ import annotations

import asyncio
from typing import Final

from raftcoord.api.operations import NODE, STATUS, OfTxid
from raftcoord.client.link import Link
from raftcoord.client.nodes import Nodes
from raftcoord.errors import ForgottenTxid, FutureTxid, RaftcoordError, Unavailable
from raftcoord.rpc.codes import RpcError
from raftcoord.rpc.connection import Connection
from raftcoord.types import State, TxId

REACH_S: Final = 2.0
"""How long a node that could decide is looked for (s), when the one in use does not serve: an election takes less."""

_PAUSE_S: Final = 0.1


def admitted(nodes: Nodes, txid: TxId, now: float) -> str:
    """The cluster's id if the node in use serves as far as is known, and finds ``txid`` fit; else ""."""
    if nodes.links and not nodes.failing:
        link = nodes.in_use
        if link.ready is not None and not link.silent and link.finds_fit(txid, now):
            return nodes.cluster.id
    return ""


async def admit(nodes: Nodes, txid: TxId, timeout: float) -> str:
    """The cluster's id. Raises Unavailable, FutureTxid or ForgottenTxid if nothing must begin under ``txid`` now."""
    loop = asyncio.get_running_loop()
    if known := admitted(nodes, txid, loop.time()):
        return known
    deadline = loop.time() + min(timeout, REACH_S)
    while True:
        refusals = await _look(nodes, txid, deadline)
        if not refusals:
            return nodes.cluster.id
        wrong = next((each for each in refusals if not isinstance(each, Unavailable)), None)
        if wrong is not None:
            raise wrong
        if loop.time() + _PAUSE_S >= deadline:
            raise _nobody(refusals)
        await asyncio.sleep(_PAUSE_S)


async def _look(nodes: Nodes, txid: TxId, deadline: float) -> list[RaftcoordError]:
    """Ask all nodes at once; the first that serves is the one in use. Why none does; nothing: one does."""
    loop = asyncio.get_running_loop()
    refusals: list[RaftcoordError] = []
    asked = [loop.create_task(_look_at(link, txid, deadline)) for link in nodes.links]
    try:
        for answered in asyncio.as_completed(asked):
            found = await answered
            if isinstance(found, Link):
                nodes.use(found)
                return []
            refusals.append(found)
    finally:
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
    return refusals


async def _look_at(link: Link, txid: TxId, deadline: float) -> Link | RaftcoordError:
    """The link, if its node could get that transaction decided."""
    try:
        conn = await link.open(deadline)
    except RaftcoordError as error:
        return Unavailable(f"{link}: {error}")
    info = await link.ask(conn, NODE.method, (), deadline)
    if not isinstance(info, dict):
        return Unavailable(f"{link}: {info.message if isinstance(info, RpcError) else 'it does not say how it is'}")
    link.learn_clock(info)
    if not info.get("leader"):
        return Unavailable(f"{link}: it sees no leader")
    wall_ms, horizon_ms = info.get("wall_ms"), info.get("horizon_ms")
    if type(wall_ms) is int and txid.ms > wall_ms + link.clocks.future_ms_max:
        return FutureTxid(
            f"the clock of this machine is {(txid.ms - wall_ms) // 1000} s ahead of that of node {link}, and at most "
            f"{link.clocks.future_ms_max // 1000} s are allowed; nothing was begun: correct the clock that is wrong (raftcoord "
            "doctor)"
        )
    if type(horizon_ms) is int and txid.ms < horizon_ms and await _is_forgotten(link, conn, txid, deadline):
        return ForgottenTxid(
            f"the txid {txid} is older than the horizon of node {link}, so nothing can be decided under it; nothing was "
            "begun: correct the clock that is wrong (raftcoord doctor)"
        )
    return link


async def _is_forgotten(link: Link, conn: Connection, txid: TxId, deadline: float) -> bool:
    """Whether the horizon has passed it: a node may lag, and show the horizon of before it was lowered."""
    known = await link.ask(conn, STATUS.method, STATUS.encode(OfTxid(txid)), deadline)
    return type(known) is list and known[:1] == [State.FORGOTTEN]


def _nobody(refusals: list[RaftcoordError]) -> Unavailable:
    each = "; ".join(dict.fromkeys(map(str, refusals)))
    return Unavailable(
        f"no node could decide a transaction now, and nothing was begun ({each}); try again when a majority of the nodes runs"
    )
