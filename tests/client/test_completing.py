"""Completions go to the nodes many at a time, from any thread, and none is forgotten."""

from __future__ import annotations

import asyncio
import threading

from raftcoord.client.completing import BATCH_MAX, Completing
from raftcoord.errors import Unavailable
from raftcoord.types import TxId


class Node:
    """Takes completions, ``awaited`` of them; ``open`` at once, at most ``open_max``."""

    def __init__(self, awaited: int = 1) -> None:
        self.all_taken = asyncio.Event()
        self._awaited = awaited
        self.taken: list[TxId] = []
        self.open = self.open_max = 0
        self.answers = asyncio.Event()
        self.answers.set()

    async def complete(self, txid: TxId, branches: tuple[str, ...]) -> None:
        self.taken.append(txid)
        if len(self.taken) == self._awaited:
            self.all_taken.set()
        self.open += 1
        self.open_max = max(self.open, self.open_max)
        try:
            await asyncio.sleep(0)
            await self.answers.wait()
        finally:
            self.open -= 1


def run(scene: object) -> None:
    async def limited() -> None:
        async with asyncio.timeout(30):
            await scene  # type: ignore[misc]

    asyncio.run(limited())


def test_those_of_many_threads_are_reported_in_batches_and_all_of_them() -> None:
    async def scene() -> None:
        txids = [TxId.new() for _ in range(4 * BATCH_MAX)]
        node = Node(len(txids))
        completing = Completing(asyncio.get_running_loop(), node.complete)

        def add(share: list[TxId]) -> None:
            for txid in share:
                completing.add(txid, ("a",))

        threads = [threading.Thread(target=add, args=(txids[number::4],)) for number in range(4)]
        for thread in threads:
            thread.start()
        await node.all_taken.wait()
        assert sorted(node.taken) == sorted(txids)
        assert 1 < node.open_max <= BATCH_MAX
        for thread in threads:
            thread.join()
        await completing.close()

    run(scene())


def test_closing_reports_what_has_gathered_and_leaves_no_task() -> None:
    async def scene() -> None:
        node, txid = Node(), TxId.new()
        completing = Completing(asyncio.get_running_loop(), node.complete)
        completing.add(txid, ("a",))
        await completing.close()
        assert node.taken == [txid]
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(scene())


def test_closing_does_not_wait_for_a_node_that_is_silent() -> None:
    async def scene() -> None:
        node = Node()
        node.answers.clear()
        completing = Completing(asyncio.get_running_loop(), node.complete)
        completing.add(TxId.new(), ("a",))
        await completing.close()
        assert node.open == 0
        assert asyncio.all_tasks() == {asyncio.current_task()}

    run(scene())


def test_one_that_cannot_be_reported_keeps_no_other_from_it() -> None:
    async def scene() -> None:
        told: list[TxId] = []
        first, second = TxId.new(), TxId.new()

        async def complete(txid: TxId, branches: tuple[str, ...]) -> None:
            if txid == first:
                raise Unavailable("no node")
            told.append(txid)

        completing = Completing(asyncio.get_running_loop(), complete)
        completing.add(first, ("a",))
        completing.add(second, ("a",))
        await completing.close()
        assert told == [second]

    run(scene())


def test_what_comes_behind_a_report_is_reported_as_well() -> None:
    async def scene() -> None:
        taken: asyncio.Queue[TxId] = asyncio.Queue()

        async def complete(txid: TxId, branches: tuple[str, ...]) -> None:
            taken.put_nowait(txid)

        completing = Completing(asyncio.get_running_loop(), complete)
        for _ in range(3):
            txid = TxId.new()
            completing.add(txid, ("a",))
            assert await taken.get() == txid
            await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}))  # the report has ended
        await completing.close()

    run(scene())
