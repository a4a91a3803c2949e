"""The paying programs, seen by the process that started them: processes to kill, and journals of the answers that they got.

It owes the history every line of every journal, in the order of the returns as far as a look every 20 ms shows it. It never asks
a program: one that is killed cannot answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from raftcoord.drills.client_history import Told
from raftcoord.drills.journal import Begun, Entry, HeldInCommit, JournalReader, LeftToResolver
from raftcoord.drills.load import Load
from raftcoord.drills.node_link import eventually
from raftcoord.drills.orders import Order, both_ways, written
from raftcoord.drills.paying_program import PayingJob
from raftcoord.errors import RaftcoordError
from raftcoord.processes.commands import python
from raftcoord.processes.local_process import LocalProcess
from raftcoord.types import State, TxId

STOP_TIMEOUT_S: Final = 30.0
"""How long it may take until a program that is to stop in mid-commit has a decision (seconds)."""

_LOOK_S: Final = 0.02


@dataclass(frozen=True, slots=True)
class PayingWork:
    """What the programs do. ``directory``: where their files are; ``resources``: the names of the paying and the other one.

    ``rate_per_s``: how many orders fall due per second, over all programs. ``both_ways``: orders with an even id are paid back.
    ``left``: the part of the commits that is left to the resolver.
    """

    directory: Path
    config: Path
    orders: Sequence[Order]
    resources: tuple[str, str]
    rate_per_s: float
    both_ways: bool = False
    left: float = 0.0


class PayingProgram:
    """One program. ``at_stop``: the transaction in whose commit it waits to be killed. ``is_up``: nobody has killed it."""

    def __init__(self, work: PayingWork, number: int, of: int) -> None:
        self.name = f"program-{number + 1}"
        self.at_stop: TxId | None = None
        self.has_open = False
        self.is_up = False
        self.share = {order.order_id for order in work.orders[number::of]}
        self._number = number
        self._of = of
        self._starts = 0
        self._work = work
        directory = work.directory
        self.journal = directory / f"{self.name}.journal"
        self.orders = directory / f"{self.name}.tsv"
        self.orders.write_text(written(work.orders[number::of]), encoding="utf-8")
        self.stop = directory / f"{self.name}.stop"
        self.process = LocalProcess(
            f"program {self.name}", [], directory / f"{self.name}.log", directory / f"{self.name}.pid", throwaway=True
        )

    def start(self) -> None:
        """Start it, for the first time or after a kill; it is ready when this returns. Blocks."""
        work = self._work
        job = PayingJob(
            self.name,
            str(work.config),
            str(self.orders),
            str(self.journal),
            str(self.stop),
            work.resources,
            self._number + self._of * self._starts,
            self._number / work.rate_per_s,
            self._of / work.rate_per_s,
            work.both_ways,
            work.left,
        )
        self._starts += 1
        self.at_stop = None
        self.stop.unlink(missing_ok=True)
        self.process.command = python("raftcoord.drills.paying_program", json.dumps(job._asdict()))
        self.process.start()
        self.process.wait_ready()
        self.is_up = True

    def kill(self) -> None:
        self.is_up = False
        self.process.kill()

    def last_words(self) -> str:
        """The last line of its log."""
        return "".join(self.process.log_path.read_text(errors="replace").splitlines()[-1:])


class PayingPrograms:
    """``programs`` at work on ``work``; ``load`` is told what they do, as if it did it itself.

    ``left``: how many commits they have left to the resolver.
    """

    def __init__(self, work: PayingWork, programs: Sequence[PayingProgram], load: Load) -> None:
        self.programs = programs
        self.load = load
        self.left = 0
        self._orders = {order.order_id: order for order in (both_ways(work.orders) if work.both_ways else work.orders)}
        self._readers = [(program, JournalReader(program.journal)) for program in programs]
        self._paid: set[int] = set()

    @contextlib.asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        """They run inside. On the way out what is left of them is killed, and all of their journals has been read."""
        try:
            async with asyncio.TaskGroup() as group:  # a journal that cannot be read ends what happens inside
                following = group.create_task(self._follow())
                try:
                    await asyncio.gather(*(self.start(program) for program in self.programs))
                    yield
                finally:
                    following.cancel()
        finally:
            for program in self.programs:
                await self.kill(program)
        self._read()

    async def start(self, program: PayingProgram) -> None:
        """Start ``program`` on what it has left."""
        await asyncio.to_thread(program.start)

    async def kill(self, program: PayingProgram) -> None:
        await asyncio.to_thread(program.kill)

    async def kill_in_mid_commit(self, program: PayingProgram) -> TxId:
        """kill -9 of ``program`` with a decision to commit, and neither side committed; the transaction."""
        program.stop.touch()

        async def is_there() -> bool:
            return program.at_stop is not None

        if not await eventually(is_there, STOP_TIMEOUT_S) or program.at_stop is None:
            raise RaftcoordError(
                f"{program.name} has decided nothing for {STOP_TIMEOUT_S:g} s, and so was not killed; look at its log"
            )
        await self.kill(program)
        return program.at_stop

    async def have_paid(self, orders: float, seconds: float) -> None:
        """Wait until so many orders are paid, for at most ``seconds``, and no longer if a program falls."""

        async def is_so() -> bool:
            return self.load.paid >= orders or bool(self.fallen())

        await eventually(is_so, seconds)

    def unpaid(self) -> list[Order]:
        """The orders that no program knows to be paid."""
        return [order for order_id, order in self._orders.items() if order_id not in self._paid]

    def fallen(self) -> list[str]:
        """Programs that have ended by themselves although there are orders of theirs to pay, with their last words."""
        ended = [program for program in self.programs if program.is_up and program.process.pid is None]
        if ended:
            self._read()  # what they have paid last
        return [
            f"{program.name} has ended by itself: {program.last_words()}"
            for program in ended
            if not self._paid >= program.share
        ]

    async def _follow(self) -> None:
        while True:
            self._read()
            await asyncio.sleep(_LOOK_S)

    def _read(self) -> None:
        """Tell the history what the journals have gained."""
        told: list[Told] = []
        for program, reader in self._readers:
            for entry in reader.new():
                self._note(program, entry)
                if isinstance(entry, Told):
                    told.append(entry)
        for each in sorted(told, key=lambda each: each.returned_s):
            self.load.history.add(each)
            if each.state is State.COMMITTED:
                self._paid.add(self.load.history.attempts[each.txid].order_id)
        self.load.paid = len(self._paid)
        self.load.in_flight = sum(program.has_open for program in self.programs)
        self.load.exhausted = len(self._paid) == len(self._orders)

    def _note(self, program: PayingProgram, entry: Entry) -> None:
        match entry:
            case Begun(txid, order_id):
                self.load.history.begin(txid, self._orders[order_id])
                program.has_open = True
            case HeldInCommit(txid):
                program.at_stop = txid
            case LeftToResolver():
                self.left += 1
            case Told():
                program.has_open = False
