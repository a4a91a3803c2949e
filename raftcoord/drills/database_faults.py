"""What goes wrong around databases: programs that pay, the resolver and database servers are killed; and the databases for it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from raftcoord.databases.registry import named
from raftcoord.drills.faults import FaultStep, FaultSteps
from raftcoord.drills.orders import HOME_BANK, Opening
from raftcoord.drills.paying_programs import PayingProgram, PayingPrograms
from raftcoord.drills.props import PlannedDatabase
from raftcoord.types import Branch

if TYPE_CHECKING:
    from raftcoord.drills.stage import Stage

LEDGER: Final = Branch("ledger")
"""The resource in PostgreSQL: the home bank."""
ORDERS: Final = Branch("orders")
"""The resource in MariaDB: all other banks."""


def two_databases(opening: Opening) -> Mapping[Branch, PlannedDatabase]:
    """The home bank of ``opening`` in PostgreSQL, the others in MariaDB."""
    others = {bank: accounts for bank, accounts in opening.items() if bank != HOME_BANK}
    return {
        LEDGER: PlannedDatabase("postgresql", {HOME_BANK: opening[HOME_BANK]}),
        ORDERS: PlannedDatabase("mariadb", others),
    }


async def kill_program(programs: PayingPrograms, program: PayingProgram, stage: Stage) -> FaultSteps:
    """kill -9 of a program, wherever it is; it is started again on what it has left."""
    await programs.kill(program)
    yield FaultStep(f"kill -9 of {program.name}")
    await programs.start(program)
    yield FaultStep(f"{program.name} started again")


async def kill_in_mid_commit(programs: PayingPrograms, program: PayingProgram, stage: Stage) -> FaultSteps:
    """kill -9 of a program in mid-commit: the resolver finishes what it has left, before it is started again."""
    left = await programs.kill_in_mid_commit(program)
    since_s = asyncio.get_running_loop().time()
    yield FaultStep(f"kill -9 of {program.name} after its decision to commit, before its commits")
    held_s = await stage.freed([left], since_s)
    await programs.start(program)
    yield FaultStep(f"the resolver committed both sides, {held_s:.2f} s after the kill; {program.name} started again")


async def kill_resolver(stage: Stage) -> FaultSteps:
    """kill -9 of the resolver."""
    await stage.kill_resolver()
    yield FaultStep("kill -9 of the resolver")
    await stage.start_resolver()
    yield FaultStep("the resolver started again")


async def kill_resolver_in_mid_commit(programs: PayingPrograms, program: PayingProgram, stage: Stage) -> FaultSteps:
    """kill -9 of the resolver and of a program in mid-commit: nobody is left to finish it until the resolver is back."""
    await stage.kill_resolver()
    left = await programs.kill_in_mid_commit(program)
    yield FaultStep(f"kill -9 of the resolver, and of {program.name} before its commits")
    await stage.start_resolver()
    held_s = await stage.freed([left], asyncio.get_running_loop().time())
    await programs.start(program)
    yield FaultStep(
        f"the resolver started again and committed both sides within {held_s:.2f} s; {program.name} as well"
    )


async def kill_server(kind: str, stage: Stage) -> FaultSteps:
    """kill -9 of a database server: what was prepared there is finished when it is back."""
    await stage.kill_server(kind)
    yield FaultStep(f"kill -9 of the {named(kind).title} server")
    await stage.start_server(kind)
    since_s = asyncio.get_running_loop().time()
    left = await asyncio.to_thread(stage.prepared, kind)
    came_back = f"{named(kind).title} started again"
    if not left:
        yield FaultStep(f"{came_back}; no branch was left prepared there")
        return
    held_s = await stage.freed(left, since_s)
    yield FaultStep(f"{came_back}; the branches left prepared there, {len(left)}, were finished within {held_s:.2f} s")
