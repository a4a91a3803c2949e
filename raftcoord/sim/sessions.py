"""Sessions over connections to a simulated database: where the real protocols leave raftcoord for a driver.

Owed: what session.py asks of a driver. The labelled moments around each statement are those at which a program may be killed or
stopped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from raftcoord import limits
from raftcoord.databases.registry import named
from raftcoord.databases.session import AsyncDriverSession, Base, DriverSession
from raftcoord.databases.steps import ConnectionLost, Result, Statement
from raftcoord.sim.blocking import Blocking
from raftcoord.sim.database import SimConnection
from raftcoord.types import Branch

_ANSWER_S: Final = limits.RESOURCE_ANSWER_MS / 1000


class _Base(Base):
    """What both share."""

    connection: SimConnection

    def __init__(self, connection: SimConnection, branch: Branch) -> None:
        super().__init__(connection, branch)
        self.database = named(connection.server.kind)
        self.at_once = self.database.drivers[0].session_class().at_once

    def is_closed(self) -> bool:
        """As far as this side knows."""
        return not self.connection.open

    def is_autocommit(self) -> bool:
        """Only the resolver's is."""
        return False


class ProgramSession(_Base, AsyncDriverSession):
    """A program's. ``point(label)``: a labelled moment."""

    def __init__(self, connection: SimConnection, branch: Branch, point: Callable[[str], None]) -> None:
        super().__init__(connection, branch)
        self._point = point

    def hang_up(self) -> None:
        """See AsyncDriverSession."""
        self.connection.hang_up()

    async def execute(self, statement: Statement) -> Result:
        """See AsyncDriverSession."""
        self._point("before-statement")
        result = await self.connection.ask(statement)
        self._point("after-statement")
        return result

    async def clean(self) -> None:
        """Nothing is open that the branch's own end has left."""

    async def close(self) -> None:
        """See AsyncDriverSession."""
        self.connection.hang_up()


class ResolverSession(_Base, DriverSession):
    """A resolver's, in a thread that waits with ``blocking``."""

    def __init__(self, connection: SimConnection, branch: Branch, blocking: Blocking) -> None:
        super().__init__(connection, branch)
        self._blocking = blocking

    def is_autocommit(self) -> bool:
        """See Base."""
        return True

    def execute(self, statement: Statement) -> Result:
        """See DriverSession. A silent database is hung up on, as patience.py does it for a real one."""
        return self._blocking.wait(self._ask(statement))

    async def _ask(self, statement: Statement) -> Result:
        try:
            return await asyncio.wait_for(self.connection.ask(statement), _ANSWER_S)
        except TimeoutError:
            self.connection.hang_up()
            raise ConnectionLost("the simulated database did not answer") from None

    def clean(self) -> None:
        """Nothing is open in autocommit."""

    def close(self) -> None:
        """See DriverSession."""
        self.connection.hang_up()
