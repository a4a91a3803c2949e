"""A cluster that is not founded yet is waited for."""

from __future__ import annotations

import asyncio

from .scripted_node import CLUSTER, client_of, cluster


def test_the_clusters_id_is_waited_for_until_it_is_founded() -> None:
    async def run() -> None:
        async with cluster(1) as (node,), client_of([node]) as client:
            node.cluster = ""
            asking = asyncio.ensure_future(client.cluster_id(timeout=20))
            while node.methods.count("node") < 2:
                assert not asking.done(), asking.exception()
                await asyncio.sleep(0.001)
            node.cluster = CLUSTER
            assert await asking == CLUSTER

    asyncio.run(run())
