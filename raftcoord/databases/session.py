"""A session: one connection of the caller (or of the resolver) that protocols are run on.

Owed: what a subclass does is one driver's way to carry out one statement; the order of the statements is the dialect's. A
session ends with ``clean`` (the connection is as it was given, outside any transaction) or with ``close``, never otherwise.
"""

from __future__ import annotations

import abc
import contextlib
from functools import cached_property
from typing import Any, Final, TypeVar

from raftcoord.databases.database import Database
from raftcoord.databases.driving import Driven
from raftcoord.databases.patience import within
from raftcoord.databases.steps import ConnectionLost, Dialect, Result, SqlError, Statement, Steps
from raftcoord.errors import LocalProtocolError
from raftcoord.types import Branch

_T = TypeVar("_T")
NO_BRANCH: Final = Branch("resource")


class Base(abc.ABC):
    """What synchronous and asynchronous sessions share. ``connection``: the caller's; ``given``: what the caller works on.

    ``at_once``: the driver can send several statements in one round trip and show the command tag of each.
    """

    database: Database
    at_once = False

    def __init__(self, connection: Any, branch: Branch = NO_BRANCH) -> None:
        self.connection = connection
        self.given = connection
        self.branch = branch

    @cached_property
    def dialect(self) -> Dialect:
        """The protocols of the database."""
        return self.database.dialect

    @abc.abstractmethod
    def is_closed(self) -> bool:
        """Whether the connection was closed or is known to be broken."""

    @abc.abstractmethod
    def is_autocommit(self) -> bool:
        """Whether each statement commits itself."""

    def is_failed(self) -> bool:
        """Whether it stands in a transaction that the server has given up."""
        return False

    def is_in_transaction(self) -> bool:
        """Whether a transaction is open, as far as the driver knows; MariaDB refuses XA START in one by itself."""
        return False

    def check_work(self) -> None:  # noqa: B027 - one session alone has something to check
        """Raise NotPossible if the branch was worked on in a way that its prepare cannot see; only SQLite's can be."""

    def check_fit(self) -> None:
        """Raise LocalProtocolError unless a branch can begin on the connection."""
        if self.is_closed():
            raise self.unfit("is closed", "connect anew")
        if self.is_failed():
            raise self.unfit("stands in a failed transaction", "rollback() it before it is enlisted")
        if self.is_autocommit():
            raise self.unfit("is in autocommit", "switch that off before it is enlisted; the block commits")
        if self.is_in_transaction():
            raise self.unfit("has a transaction open", "commit() or rollback() it before it is enlisted")

    def unfit(self, what: str, mend: str) -> LocalProtocolError:
        """The error for a connection that cannot be enlisted."""
        return LocalProtocolError(f"branch {self.branch!r}: the connection {what}; {mend}. Nothing was changed")


class DriverSession(Base):
    """A synchronous one. ``answer_s``: how long a protocol may take on a connection of our own; None on the caller's."""

    answer_s: float | None = None

    def fileno(self) -> int:
        """The connection's socket. Of a file -1: its own timeout bounds how long a lock is waited for."""
        return int(self.connection.fileno())

    @abc.abstractmethod
    def execute(self, statement: Statement) -> Result:
        """Carry out one statement; with those ahead of it, if ``at_once``. Raises SqlError or ConnectionLost."""

    def enter(self) -> None:
        """Prepare the connection for a branch, before its first statement."""

    @abc.abstractmethod
    def clean(self) -> None:
        """Give the connection back as it was, outside any transaction. Raises whatever; then close it."""

    def close(self) -> None:
        """Close the connection, whatever state it is in."""
        with contextlib.suppress(Exception):
            self.connection.close()

    def run(self, steps: Steps[_T]) -> _T:
        """Run a protocol; what it returns or raises. Interrupted, it is over, and the connection is to be closed."""
        with within(self, self.answer_s):
            return Driven(steps, SqlError, ConnectionLost).run(self._carry_out)

    def _carry_out(self, statement: Statement) -> Result:
        if self.at_once or not statement.ahead:
            return self.execute(statement)
        tags = tuple(self.execute(Statement(sql)).tag for sql in statement.ahead)
        return self.execute(statement._replace(ahead=()))._replace(ahead=tags)


class AsyncDriverSession(Base):
    """An asynchronous one."""

    @abc.abstractmethod
    def hang_up(self) -> None:
        """Make whatever waits for the database fail."""

    @abc.abstractmethod
    async def execute(self, statement: Statement) -> Result:
        """Carry out one statement; with those ahead of it, if ``at_once``. Raises SqlError or ConnectionLost."""

    async def enter(self) -> None:
        """Prepare the connection for a branch, before its first statement."""

    @abc.abstractmethod
    async def clean(self) -> None:
        """Give the connection back as it was, outside any transaction. Raises whatever; then close it."""

    @abc.abstractmethod
    async def close(self) -> None:
        """Close the connection, whatever state it is in."""

    async def run(self, steps: Steps[_T]) -> _T:
        return await Driven(steps, SqlError, ConnectionLost).run_async(self._carry_out)

    async def _carry_out(self, statement: Statement) -> Result:
        if self.at_once or not statement.ahead:
            return await self.execute(statement)
        tags = [(await self.execute(Statement(sql))).tag for sql in statement.ahead]
        return (await self.execute(statement._replace(ahead=())))._replace(ahead=tuple(tags))
