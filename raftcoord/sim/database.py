"""A simulated database: what PostgreSQL and MariaDB do with prepared branches, and nothing else of them.

It reads the very statements that the dialects write (databases/postgresql, databases/mariadb), one table of marks, and one
number, which a branch adds to. What was answered is durable. What a real server does that misled others, it does as well
(database_mariadb.py, database_postgresql.py).

Owed: every end of a branch is reported to ``ServerWatcher`` at the moment in which it happens.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import Any, Final, Protocol

from raftcoord.databases import owners
from raftcoord.databases.steps import ConnectionLost, Result, SqlError, Statement
from raftcoord.sim.loop import Process, SimLoop

_DELAY_S: Final = 0.001
"""The longest way of a statement to the server, or of its answer back (s)."""

_NOTICED_S: Final = 0.1
"""How soon a server notices at most that a session has ended (s)."""

UPDATE: Final = "UPDATE account SET amount = amount + "
"""What a program says to change the number."""


Table = tuple[tuple[re.Pattern[str], Callable[..., Result]], ...]
"""What each statement does, by how it begins."""


class ServerWatcher(Protocol):
    """Who is told how branches end. ``by``: of whose connection."""

    def on_commit(self, server: SimServer, gid: str, by: str, *, prepared: bool) -> None:
        """The branch is committed now. ``prepared``: it was before."""

    def on_rollback(self, server: SimServer, gid: str, by: str) -> None:
        """The branch is rolled back now; it may have been prepared or not."""


class SimBranch:
    """A transaction under a gid. ``owner``: the session that keeps it from others; ``gone_at``: when the owner was gone."""

    def __init__(self, gid: str, owner: SimConnection | None) -> None:
        self.gid = gid
        self.owner = owner
        self.amount = 0
        self.marked: str | None = None
        self.ended = False
        self.prepared_at = 0.0
        self.gone_at = float("-inf")
        self.listed = True


class SimConnection:
    """One connection of ``process`` to ``server``. ``by``: the kind of program that holds it."""

    def __init__(self, server: SimServer, process: Process, by: str) -> None:
        self.server = server
        self.process = process
        self.by = by
        self.open = True
        self.branch: SimBranch | None = None
        """What the server has open for it."""
        self._waiting: Any = None
        process.on_kill.append(self._leave)

    async def ask(self, statement: Statement) -> Result:
        """Say it to the server. Raises SqlError or ConnectionLost."""
        if not self.open or not self.server.runs:
            self.lost()
            raise ConnectionLost("the connection to the simulated database is closed")
        loop = self.server.loop
        self._waiting = answer = loop.create_future()
        loop.at(loop.now + self.server.delay(), self.server.process, self.server.receive, self, statement)
        return await answer  # type: ignore[no-any-return]

    def answered(self, result: Result | SqlError) -> None:
        """The server's answer is here."""
        answer, self._waiting = self._waiting, None
        if answer is None or answer.done():
            return
        if isinstance(result, SqlError):
            answer.set_exception(result)
        else:
            answer.set_result(result)

    def lost(self) -> None:
        """It is closed, by whichever side."""
        self.open = False
        answer, self._waiting = self._waiting, None
        if answer is not None and not answer.done():
            answer.set_exception(ConnectionLost("the simulated database is gone"))

    def hang_up(self) -> None:
        """Close it from this side."""
        if self.open:
            self._leave()
            self.lost()

    def _leave(self) -> None:
        self.server.left(self)


class SimServer:
    """See the module's head. ``epoch_ms``: the wall time when it was 0.0 s."""

    kind: str
    """postgresql or mariadb."""
    statements: Table
    """What it understands beside ``_COMMON``."""

    def __init__(self, loop: SimLoop, name: str, rng: random.Random, watcher: ServerWatcher, epoch_ms: int) -> None:
        self.loop = loop
        self.name = name
        self.amount = 0
        self.marks: dict[str, float] = {owners.SINCE: -1.0}
        """What was marked, and when (virtual s)."""
        self.prepared: dict[str, SimBranch] = {}
        self.process = Process(loop, name)
        self.on_unlisted: Callable[[SimServer, str], None] = lambda server, gid: None
        """Called when MariaDB has answered OK without effect."""
        self.rng = rng
        self._epoch_ms = epoch_ms
        self._watcher = watcher
        self._armed: tuple[int, Callable[[], None]] | None = None
        self._connections: dict[SimConnection, None] = {}

    @property
    def runs(self) -> bool:
        """Whether it is up."""
        return self.process.alive

    def delay(self) -> float:
        """How long the next message takes (s)."""
        return self.rng.random() * _DELAY_S

    def connect(self, process: Process, by: str) -> SimConnection:
        """A connection of ``process``. Raises ConnectionLost if nobody listens."""
        if not self.runs:
            raise ConnectionLost("the simulated database does not run")
        made = SimConnection(self, process, by)
        self._connections[made] = None
        return made

    # -- its life -------------------------------------------------------------------------------------------------

    def kill(self) -> None:
        """End it at once: what was not prepared is rolled back, and nothing is left of any session."""
        self.process.kill()
        for connection in list(self._connections):
            self._forget(connection, "server")
            self.loop.at(self.loop.now + self.delay(), connection.process, connection.lost)
        self._connections.clear()

    def start(self) -> None:
        """Start it again: what is prepared is listed."""
        if not self.runs:
            self.process = Process(self.loop, self.name)
            for branch in self.prepared.values():
                branch.listed, branch.gone_at = True, float("-inf")

    def arm(self, passes: int, ends: Callable[[], None]) -> None:
        """Call ``ends`` when so many more statements have come in, before or after the last one is carried out."""
        self._armed = (passes, ends)

    def disarm(self) -> None:
        """Nothing ends it any more."""
        self._armed = None

    def left(self, connection: SimConnection) -> None:
        """The other end is gone; the server notices it soon, if it runs."""
        if connection in self._connections:
            when = self.loop.now + self.rng.random() * _NOTICED_S
            self.loop.at(when, self.process, self._noticed, connection)

    def _noticed(self, connection: SimConnection) -> None:
        if connection in self._connections:
            del self._connections[connection]
            self._forget(connection, connection.by)

    def _forget(self, connection: SimConnection, by: str) -> None:
        branch, connection.branch = connection.branch, None
        if branch is None:
            return
        if branch.gid in self.prepared:
            branch.owner, branch.gone_at = None, self.loop.now
        elif branch.gid:
            self._watcher.on_rollback(self, branch.gid, by)

    # -- what is said to it ---------------------------------------------------------------------------------------

    def receive(self, connection: SimConnection, statement: Statement) -> None:
        """A statement is here, with those that go ahead of it."""
        if connection not in self._connections:
            return
        ends = self._ends_now()
        if ends is not None and self.rng.random() < 0.5:
            ends()
            if self.runs:  # it stands still: that statement is the first when it goes on
                self.loop.at(self.loop.now, self.process, self.receive, connection, statement)
            return
        result: Result | SqlError
        try:
            ahead = tuple(self._carry_out(connection, sql).tag for sql in statement.ahead)
            result = self._carry_out(connection, statement.sql)._replace(ahead=ahead)
        except SqlError as error:
            result = error
        if ends is not None:
            ends()
        if self.runs and not self.process.paused:
            self.loop.at(self.loop.now + self.delay(), connection.process, connection.answered, result)
        elif self.runs:
            self.process.call(connection.answered, result)

    def _ends_now(self) -> Callable[[], None] | None:
        """What happens at this statement, if anything."""
        if self._armed is None:
            return None
        passes, ends = self._armed
        self._armed = None if passes <= 0 else (passes - 1, ends)
        return ends if passes <= 0 else None

    def _carry_out(self, connection: SimConnection, sql: str) -> Result:
        for pattern, carry_out in (*self.statements, *_COMMON):
            found = pattern.match(sql)
            if found is not None:
                return carry_out(self, connection, *found.groups())
        raise NotImplementedError(f"the simulated {self.kind} cannot do: {sql}")

    # -- both -----------------------------------------------------------------------------------------------------

    def _work(self, connection: SimConnection, amount: str) -> Result:
        branch = self.begun(connection)
        branch.amount += int(amount)
        return done(1)

    def begun(self, connection: SimConnection) -> SimBranch:
        """The transaction that is open there, or a new one."""
        if connection.branch is None:
            connection.branch = SimBranch("", connection)
        return connection.branch

    def commit(self, branch: SimBranch, by: str) -> Result:
        """It is committed, prepared or not."""
        was_prepared = self.prepared.pop(branch.gid, None) is not None
        self.amount += branch.amount
        if branch.marked is not None:
            self.marks[branch.marked] = self.loop.now
        self._watcher.on_commit(self, branch.gid, by, prepared=was_prepared)
        return done(0)

    def roll_back(self, branch: SimBranch, by: str) -> Result:
        """It is rolled back, prepared or not."""
        self.prepared.pop(branch.gid, None)
        self._watcher.on_rollback(self, branch.gid, by)
        return done(0)

    def prepare(self, branch: SimBranch) -> Result:
        """It is prepared."""
        branch.prepared_at = self.loop.now
        self.prepared[branch.gid] = branch
        return done(0, "PREPARE TRANSACTION")

    def owner_rows(self) -> list[tuple[str]]:
        """Whose the marks are."""
        return [(gid,) for gid in sorted(self.marks) if owners.FIRST <= gid < owners.LAST]

    def add_mark(self, connection: SimConnection, gid: str) -> Result:
        """A mark outside of any branch."""
        self.marks.setdefault(gid, self.loop.now)
        return done(1)

    def _mark_of(self, connection: SimConnection, gid: str) -> Result:
        return rows([(1,)] if gid in self.marks else [])

    def _marks_of(self, connection: SimConnection, listed: str) -> Result:
        return rows([(gid,) for gid in re.findall(r"'([^']+)'", listed) if gid in self.marks])

    def _covers(self, connection: SimConnection, head: str, gid: str, since_ms: str) -> Result:
        older = any(head <= mark < gid for mark in self.marks)
        named = [at for mark, at in self.marks.items() if mark == owners.SINCE or owners.FIRST <= mark < owners.LAST]
        return rows([(older or any(self._epoch_ms + at * 1000 < int(since_ms) for at in named),)])

    def _delete_marks(self, connection: SimConnection, first: str, last: str) -> Result:
        gone = [mark for mark in self.marks if first <= mark < last]
        for mark in gone:
            del self.marks[mark]
        return done(len(gone))


def done(touched: int, tag: str | None = None) -> Result:
    """What a statement that returns no rows answers."""
    return Result([], tag, touched)


def rows(found: list[Any]) -> Result:
    """What a query answers."""
    return Result(found, None, len(found))


def table(*entries: tuple[str, Callable[..., Result]]) -> Table:
    """What a server understands, by how it begins."""
    return tuple((re.compile(pattern, re.DOTALL), carry_out) for pattern, carry_out in entries)


_COMMON: Final = table(
    (rf"{re.escape(UPDATE)}(-?\d+)$", SimServer._work),
    (r"SELECT 1 FROM raftcoord[._]marks WHERE gid = '([^']+)'$", SimServer._mark_of),
    (r"SELECT gid FROM raftcoord[._]marks WHERE gid IN \((.*)\)$", SimServer._marks_of),
    (r"SELECT EXISTS .*?gid >= '([^']+)' AND gid < '([^']+)'.*\* 1000 < (\d+)\)$", SimServer._covers),
    (r"DELETE FROM raftcoord[._]marks WHERE gid >= '([^']+)' AND gid < '([^']+)'$", SimServer._delete_marks),
)
