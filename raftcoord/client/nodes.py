"""The nodes of one client: a link to each, and which of them is in use.

Owed: the one in use changes only for one that has just answered. Never: a request; a retry.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

from raftcoord.client.link import ClusterIdentity, Link


class Nodes:
    """``links``: one for each address; none before ``begin``. ``in_use``: the one that is asked first.

    ``failing``: whether the last request that was tried at several nodes found none.
    """

    in_use: Link

    def __init__(self, cluster: ClusterIdentity, rng: random.Random) -> None:
        self.cluster = cluster
        self.links: Sequence[Link] = ()
        self.failing = False
        self._rng = rng

    def begin(self, links: Sequence[Link]) -> None:
        """Use one of ``links``, any."""
        self.links = links
        self.in_use = self._rng.choice(links)

    def use(self, link: Link) -> None:
        """It has just answered."""
        self.in_use, self.failing = link, False

    def named(self, node_name: str) -> Link | None:
        """The link to the node of that name, which is learned from its hello."""
        return next((link for link in self.links if link.node == node_name), None)

    def in_order(self, last: Link | None) -> list[Link]:
        """The links in the order of trying: the one in use first, the silent ones late, ``last`` at the end."""
        now = asyncio.get_running_loop().time()
        links = list(self.links)
        self._rng.shuffle(links)
        links.sort(
            key=lambda link: (link is last, link.suspect_until > now, link is not self.in_use, link.ready is None)
        )
        return links
