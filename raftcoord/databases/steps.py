"""What is said to a database, without saying it: the words that the protocols in this room are written in.

A protocol is a generator. It yields a Statement and is sent its Result, or has SqlError or ConnectionLost thrown in; what
it returns is what it found. So one text serves synchronous and asynchronous drivers, and the resolver as well as the client.

Owed by the caller that runs one: each Statement is carried out once and in order, and nothing after one that was refused; an
error that the database answered is thrown in as SqlError with its SQLSTATE or error number; a connection that can no longer
answer is ConnectionLost, and the Statement's fate is then unknown. A protocol that is interrupted (Ctrl-C, a cancellation) is
closed, and its connection with it: it cleans up behind a RaftcoordError alone, because nobody would carry out what it still
had to say. Never: a judgement by the text of a message.
"""

from __future__ import annotations

import enum
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol, TypeVar

from raftcoord.databases.gid import Gid
from raftcoord.errors import RaftcoordError
from raftcoord.types import TxId

if TYPE_CHECKING:
    from raftcoord.databases.owners import Marks, Owner


class Statement(NamedTuple):
    """One statement. ``params``: SQLite only, for ``?``; elsewhere what is put into SQL is checked text.

    ``reads``: its rows are wanted; otherwise only ``tag`` and ``touched`` are. ``outside``: must not stand inside a transaction
    (COMMIT PREPARED), so that a driver that begins one by itself must be kept from it. ``ahead``: statements that go before it,
    in the same round trip where the driver can: the order is the same, and an error of any of them is the error of all.
    ``apart``: SQLite only, on a second connection to the same file that has nothing of the caller's.
    """

    sql: str
    params: tuple[Any, ...] | dict[str, Any] = ()
    reads: bool = False
    outside: bool = False
    ahead: tuple[str, ...] = ()
    apart: bool = False


class Result(NamedTuple):
    """What came of it. ``tag``: the server's command tag, None from a driver that does not show it.

    ``touched``: rows that were found or written, -1 if that is not told. ``ahead``: the tags of the statements that went ahead.
    """

    rows: list[tuple[Any, ...]]
    tag: str | None
    touched: int
    ahead: tuple[str | None, ...] = ()


class SqlError(RaftcoordError):
    """The database refused a statement. ``code``: SQLSTATE (PostgreSQL), error number as text (MariaDB), name (SQLite)."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(f"{text} ({code})" if code else text)
        self.code = code
        self.text = text


class ConnectionLost(RaftcoordError):
    """The connection ended, or may have: whether its last statement was carried out is not known."""


class LoginRefused(ConnectionLost):
    """The server answered, and lets nobody in with this user, password and database."""


class NeverSent(ConnectionLost):
    """The connection had ended before: its last statement was not carried out."""


class NotPossible(RaftcoordError):
    """A branch cannot be prepared, and why: nothing of it will stand once it is rolled back."""


class NotSetUp(NotPossible):
    """The database is not set up for it: the operator can fix that."""


class Occupied(NotPossible):
    """Somebody else's transaction is in the way: try again."""


class BranchEnded(RaftcoordError):
    """Somebody else ended the branch's transaction: commit() or rollback() inside the block, or a pool that got it back."""


POOLED: Final = "its connection was given back to the pool inside the block; return it after the block"
"""What BranchEnded says when that is known."""


class Effect(enum.Enum):
    """What has become of a branch, as the database itself shows it."""

    COMMITTED = "committed"
    """Its mark is there, or the session that prepared it got that answer."""
    PREPARED = "prepared"
    """It is still listed as prepared."""
    ABSENT = "absent"
    """Neither listed nor marked: rolled back, or never prepared."""
    UNKNOWN = "unknown"
    """Not listed, and this database has no marks that could tell more."""


class PreparedHere(NamedTuple):
    """A prepared branch as a database lists it. ``age_s``: None if the database does not say; ``here``: whether this session
    can end it (PostgreSQL lists those of every database of the server)."""

    gid: Gid
    age_s: float | None
    database: str
    here: bool


INIT: Final = "raftcoord resource init"
"""What fixes a missing table of marks."""


class Finding(NamedTuple):
    """What ``check`` found wrong with a database. ``fatal``: no branch can be prepared. ``mend``: what to do."""

    what: str
    mend: str
    fatal: bool


_T = TypeVar("_T")
Steps = Generator[Statement, Result, _T]


class Dialect(Protocol):
    """How one kind of database takes part. The first five are the client's, the others anybody's, on any session."""

    name: str

    def begin(self, gid: Gid, *, checked: bool) -> Steps[Marks]:
        """Start the branch on the caller's connection; returns what marks there are.

        ``checked``: this connection was found fit for this resource before. Raises NotPossible with what to change; then nothing
        is left open that was not.
        """

    def prepare(self, gid: Gid, *, marks: bool) -> Steps[None]:
        """Prepare it and prove it. Raises NotPossible or BranchEnded."""

    def commit_prepared_here(self, gid: Gid) -> Steps[Effect]:
        """Commit on the session that has prepared it: its OK is proof."""

    def commit_one_phase(self, gid: Gid) -> Steps[None]:
        """Commit a branch that is not prepared. Raises NotPossible or BranchEnded if it cannot be; nothing of it stands then."""

    def rollback(self, gid: Gid, *, touched: bool) -> Steps[None]:
        """Roll a branch back on its own session. ``touched``: it was told to prepare, and may be prepared."""

    def list_prepared(self, cluster: str | None) -> Steps[list[PreparedHere]]:
        """The prepared branches of ``cluster``; None: of every cluster, to report them."""

    def commit_prepared(self, gid: Gid) -> Steps[Effect]:
        """Commit a prepared branch from any session, and return what stands then."""

    def rollback_prepared(self, gid: Gid) -> Steps[Effect]:
        """Roll a prepared branch back from any session, and return what stands then: COMMITTED is damage."""

    def proof(self, gid: Gid) -> Steps[Effect]:
        """What stands of a branch."""

    def marked(self, gids: Sequence[Gid]) -> Steps[frozenset[str]]:
        """Which of ``gids`` have a mark, as text. None do where there is no table of marks."""

    def covers(self, gid: Gid) -> Steps[bool]:
        """Whether the marks are known to be older than ``gid``, so that its mark would be there if it had been committed.

        They are if one of them is of an older transaction, or the table was made or named before. Only after ABSENT.
        """

    def create_marks(self) -> Steps[None]:
        """Make what the proof needs, unless it is there. Once per database, with the right to create."""

    def owners(self) -> Steps[frozenset[Owner] | None]:
        """Whose the marks are; None: there are none."""

    def add_owner(self, owner: Owner) -> Steps[None]:
        """Write down that the marks are of ``owner``, beside others that they may be of."""

    def forget_marks(self, cluster: str, before: TxId) -> Steps[int]:
        """Delete the cluster's marks of transactions older than ``before``; returns how many went."""
