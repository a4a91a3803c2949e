"""What goes wrong around databases: programs that pay, the resolver and database servers are killed; and the stage for it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from typing import Final

from raftcoord.drills.database_banks import CALLED, MARIADB, POSTGRESQL
from raftcoord.drills.faults import Fault, Injected, Target
from raftcoord.drills.orders import HOME_BANK, Opening
from raftcoord.drills.programs import Program, Programs
from raftcoord.drills.props import Database
from raftcoord.drills.stage import Stage
from raftcoord.types import Branch, TxId

LEDGER: Final = Branch("ledger")
"""The resource in PostgreSQL: the home bank."""
ORDERS: Final = Branch("orders")
"""The resource in MariaDB: all other banks."""


def two_databases(opening: Opening) -> Mapping[Branch, Database]:
    """The home bank of ``opening`` in PostgreSQL, the others in MariaDB."""
    others = {bank: accounts for bank, accounts in opening.items() if bank != HOME_BANK}
    return {
        LEDGER: Database(POSTGRESQL, {HOME_BANK: opening[HOME_BANK]}),
        ORDERS: Database(MARIADB, others),
    }


class KillProgram(Fault):
    """kill -9 of a program, wherever it is; ``heal`` starts it again on what it has left."""

    def __init__(self, programs: Programs, program: Program) -> None:
        self._programs = programs
        self._program = program

    async def inject(self, target: Target) -> Injected:
        """Kill it."""
        await self._programs.kill(self._program)
        return Injected(f"kill -9 of {self._program.name}")

    async def heal(self, target: Target) -> str:
        """Start it again."""
        await self._programs.start(self._program)
        return f"{self._program.name} started again"


class KillInMidCommit(KillProgram):
    """kill -9 of a program in mid-commit: the resolver finishes what it has left, before it is started again."""

    def __init__(self, stage: Stage, programs: Programs, program: Program) -> None:
        super().__init__(programs, program)
        self._stage = stage
        self._since_s = math.nan
        self._left: list[TxId] = []

    async def inject(self, target: Target) -> Injected:
        """Kill it."""
        self._left = [await self._programs.kill_in_mid_commit(self._program)]
        self._since_s = asyncio.get_running_loop().time()
        return Injected(f"kill -9 of {self._program.name} after its decision to commit, before its commits")

    async def heal(self, target: Target) -> str:
        """Its locks are free; then start it again."""
        held_s = await self._stage.freed(self._left, self._since_s)
        again = await super().heal(target)
        return f"the resolver committed both sides, {held_s:.2f} s after the kill; {again}"


class KillResolver(Fault):
    """kill -9 of the resolver."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    async def inject(self, target: Target) -> Injected:
        """Kill it."""
        await self._stage.kill_resolver()
        return Injected("kill -9 of the resolver")

    async def heal(self, target: Target) -> str:
        """Start it again."""
        await self._stage.start_resolver()
        return "the resolver started again"


class KillResolverInMidCommit(KillInMidCommit):
    """kill -9 of the resolver and of a program in mid-commit: nobody is left to finish it until the resolver is back."""

    async def inject(self, target: Target) -> Injected:
        """Kill both, the resolver first."""
        await self._stage.kill_resolver()
        await super().inject(target)
        return Injected(f"kill -9 of the resolver, and of {self._program.name} before its commits")

    async def heal(self, target: Target) -> str:
        """Start the resolver; the locks are free; start the program."""
        await self._stage.start_resolver()
        self._since_s = asyncio.get_running_loop().time()
        held_s = await self._stage.freed(self._left, self._since_s)
        await self._programs.start(self._program)
        return (
            f"the resolver started again and committed both sides within {held_s:.2f} s; {self._program.name} as well"
        )


class KillServer(Fault):
    """kill -9 of a database server: what was prepared there is finished when it is back."""

    def __init__(self, stage: Stage, kind: str) -> None:
        self._stage = stage
        self._kind = kind

    async def inject(self, target: Target) -> Injected:
        """Kill it."""
        await self._stage.kill_server(self._kind)
        return Injected(f"kill -9 of the {CALLED[self._kind]} server")

    async def heal(self, target: Target) -> str:
        """Start it, and see that what was prepared there comes to its end."""
        await self._stage.start_server(self._kind)
        since_s = asyncio.get_running_loop().time()
        left = await asyncio.to_thread(self._stage.prepared, self._kind)
        came_back = f"{CALLED[self._kind]} started again"
        if not left:
            return f"{came_back}; no branch was left prepared there"
        held_s = await self._stage.freed(left, since_s)
        return f"{came_back}; the branches left prepared there, {len(left)}, were finished within {held_s:.2f} s"
