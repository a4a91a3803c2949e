"""What the asynchronous client asks about the horizon: the way out when wrong clocks have moved it into the future.

Owed: what was confirmed here is in the ledger, with who did it and when. Never: of a node that does not lead.
"""

from __future__ import annotations

import asyncio
from typing import Any

from raftcoord.client import checks
from raftcoord.client.link import Link
from raftcoord.errors import RaftcoordError, Unavailable

TIMEOUT_S = 5.0


class HorizonRequests:
    """The part of AsyncClient that is about the horizon."""

    async def nodes(self, *, timeout: float = 2.0) -> dict[str, dict[str, Any] | RaftcoordError]:
        """See AsyncClient."""
        raise NotImplementedError

    def _link_to(self, node_name: str) -> Link | None:
        raise NotImplementedError

    async def _ask_one(
        self, link: Link, deadline: float, method: str = "node", params: tuple[Any, ...] = ()
    ) -> dict[str, Any] | RaftcoordError:
        raise NotImplementedError

    async def lower_horizon(self, who: str, *, after_ms: int = 0, timeout: float = TIMEOUT_S) -> dict[str, Any]:
        """Lower a horizon that lies in the future, so that new txids are accepted again, a few minutes from now.

        What was forgotten stays forgotten. ``who``: whoever does this. ``after_ms``: the latest time (Unix, ms) that the clock of
        any machine showed which made txids while the horizon was wrong, if one was ahead of the nodes' clocks of now: txids up
        to then are not accepted any more. Returns what is recorded: ``was_ms``, ``horizon_ms``, ``who``, ``at_ms``. Raises
        Unavailable if a node does not run, its clock is wrong, there is no leader, or the horizon need not be lowered; then
        nothing was changed, or the message says that it is not confirmed.
        """
        name = checks.who(who)
        deadline = asyncio.get_running_loop().time() + checks.timeout(timeout)
        told = await self.nodes(timeout=min(timeout, 2.0))
        leaders = {
            node: info["term"] for node, info in told.items() if isinstance(info, dict) and info["role"] == "leader"
        }
        link = self._link_to(max(leaders, key=lambda node: leaders[node])) if leaders else None
        if link is None:
            raise Unavailable("there is no leader, so the horizon was not lowered; start the nodes that do not run")
        found = await self._ask_one(link, deadline, "lower_horizon", (name, after_ms))
        if isinstance(found, RaftcoordError):
            raise found
        return found
