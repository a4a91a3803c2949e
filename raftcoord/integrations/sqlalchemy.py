"""SQLAlchemy 2.0 and 2.1: a Session whose commit is atomic across its engines.

    ledger = attach(create_engine("postgresql+psycopg://..."), "ledger")
    orders = attach(create_engine("mysql+pymysql://..."), "orders")
    Session = sessionmaker(class_=raftcoord.integrations.sqlalchemy.Session, client=client, timeout=10,
                           binds={Account: ledger, Order: orders})
    with Session.begin() as session:
        session.add(...)

Theory of operation. The Session is one of ``twophase=True``, whose steps are replaced: flush, events and the pools are
SQLAlchemy's, the branches are those of client/transaction.py.

    a connection is taken     after_begin: it is enlisted, as the branch that its engine is attached as
    commit                    SQLAlchemy flushes and says "prepare", which does nothing; then all is prepared, decided and
                              committed; then SQLAlchemy says "commit", which does nothing
    rollback, close           the first connection that is told so rolls every branch back
    in doubt                  the connections are invalidated, which closes them; nothing is rolled back

Never: a commit that has not gone through the client; whichever way one comes to a connection, it is refused there.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any, Final, NoReturn, TypeVar

from sqlalchemy import event, orm
from sqlalchemy.engine import Connection, Dialect, Engine
from sqlalchemy.ext import asyncio as sa_asyncio
from sqlalchemy.orm.session import SessionTransaction
from sqlalchemy.util import await_only

from raftcoord import limits
from raftcoord.api import fields
from raftcoord.client.asynchronous import AsyncClient
from raftcoord.client.deadlines import TIMEOUT_S
from raftcoord.client.synchronous import Client
from raftcoord.client.transaction import Transaction
from raftcoord.databases import registry
from raftcoord.errors import Aborted, LocalProtocolError
from raftcoord.integrations import sqlalchemy_branches
from raftcoord.types import Branch, Outcome, TxId, Verdict, checked_branch

_E = TypeVar("_E", bound=Engine | sa_asyncio.AsyncEngine)

_NAME: Final = "raftcoord_branch"
"""Where a dialect has the name that its engine is attached as."""


def attach(engine: _E, name: str) -> _E:
    """Make ``engine`` (of either kind) the resource ``name`` of cluster.yaml; returns it.

    It then works as before, and in a Session of this module. Raises LocalProtocolError for a driver that cannot take part.
    """
    branch = checked_branch(name)
    sync_engine = engine.sync_engine if isinstance(engine, sa_asyncio.AsyncEngine) else engine
    dialect = sync_engine.dialect
    known = {called for database in registry.DATABASES for driver in database.drivers for called in driver.sqlalchemy}
    if dialect.driver not in known:
        raise LocalProtocolError(
            f"engine {name!r}: {dialect.name}+{dialect.driver} cannot take part; the drivers are {', '.join(sorted(known))}"
        )
    standing = getattr(dialect, _NAME, None)
    if standing not in (None, branch):
        raise LocalProtocolError(f"this engine is attached already, as {standing!r}; attach each engine once")
    if standing is None:
        setattr(dialect, _NAME, branch)
        _replace_steps(dialect)
        event.listen(sync_engine, "reset", sqlalchemy_branches.refuse_open)
    return engine


class Session(orm.Session):
    """For ``sessionmaker(class_=Session, client=..., timeout=...)``: commit() commits in all of its engines, or in none.

    ``client``: a Client (an AsyncClient with AsyncSession); ``timeout``: seconds (0.001 to 600) from the first use of a
    connection until the transaction is aborted if it is not decided. All else is sqlalchemy.orm.Session's.

    commit() raises Aborted when nothing stands anywhere (the session is rolled back and may be used again), and InDoubt
    when that is not known: ``client.resolve(error.txid)`` tells it; the session is invalidated, its objects are detached.
    """

    def __init__(self, *args: Any, client: Client | AsyncClient, timeout: float = TIMEOUT_S, **options: Any) -> None:
        if options.setdefault("twophase", True) is not True:
            raise LocalProtocolError("this Session is always one of two phases; leave twophase out")
        super().__init__(*args, **options)
        self._atomic = _Atomic(client, fields.seconds(timeout))

    @property
    def txid(self) -> TxId | None:
        """The transaction's, from its first connection on and until the next one's; to ask with, and for the log.

        Once it was read, the commit is decided by the nodes, over one engine or ten. None: there is no transaction yet, or it was
        not read before one engine alone had committed.
        """
        return self._atomic.txid

    @property
    def outcome(self) -> Outcome | None:
        """What stands of it in the ledger; None as long as nothing is recorded."""
        return self._atomic.outcome

    def get_bind(self, *args: Any, **options: Any) -> Engine | Connection:
        """As of SQLAlchemy. Raises LocalProtocolError if the engine is not attached."""
        bind = super().get_bind(*args, **options)
        _branch_of(bind.dialect, bind)
        return bind


class AsyncSession(sa_asyncio.AsyncSession):
    """Session for ``async_sessionmaker(class_=AsyncSession, client=..., timeout=...)`` with an AsyncClient."""

    sync_session_class = Session
    sync_session: Session

    @property
    def txid(self) -> TxId | None:
        """See Session.txid."""
        return self.sync_session.txid

    @property
    def outcome(self) -> Outcome | None:
        """See Session.outcome."""
        return self.sync_session.outcome


class _State(enum.Enum):
    """Of a branch, as SQLAlchemy has been told."""

    OPEN = enum.auto()
    FLUSHED = enum.auto()
    COMMITTED = enum.auto()
    ENDED = enum.auto()


class _Xid:
    """What SQLAlchemy hands around as the branch's id; events see the txid and the branch in it."""

    def __init__(self) -> None:
        self.atomic: _Atomic | None = None
        self.transaction: Transaction | None = None
        self.branch = ""
        self.state = _State.OPEN

    def __str__(self) -> str:
        """A caller that reads it has read the txid."""
        if self.transaction is None:
            return "not begun"
        return f"{self.transaction.txid or 'a local commit'} {self.branch}"


class _Atomic:
    """The transaction of one session: what of it is SQLAlchemy's business and what the client's."""

    def __init__(self, client: Client | AsyncClient, timeout: float) -> None:
        self._client = client
        self._timeout = timeout
        self._transaction: Transaction | None = None
        self._last: Transaction | None = None
        self._xids: list[_Xid] = []

    @property
    def txid(self) -> TxId | None:
        return None if self._last is None else self._last.txid

    @property
    def outcome(self) -> Outcome | None:
        return None if self._last is None else self._last.outcome

    def enlist(self, connection: Connection) -> None:
        """Begin a branch on a connection that SQLAlchemy has just begun a transaction on."""
        branch = _branch_of(connection.dialect, connection)
        if connection.dialect.is_async is not isinstance(self._client, AsyncClient):
            raise LocalProtocolError(
                f"engine {branch!r} and the client are of different kinds: AsyncSession with asynchronous engines takes an "
                "AsyncClient, Session a Client"
            )
        begun = connection.get_transaction()
        xid = getattr(begun, "xid", None)
        if not isinstance(xid, _Xid):
            raise LocalProtocolError(f"the connection of {branch!r} has a transaction that this Session did not begin")
        if self._transaction is None:
            self._transaction = self._last = self._begin()
        self._transaction.enlist_session(sqlalchemy_branches.session(connection, branch))
        xid.atomic, xid.transaction, xid.branch = self, self._transaction, branch
        self._xids.append(xid)

    def finish(self) -> None:
        """Prepare, decide, commit. Raises as the end of ``client.transaction()`` does."""
        transaction, xids = self._transaction, self._xids
        if transaction is None:
            return
        if any(xid.state is not _State.FLUSHED for xid in xids):
            self.roll_back()
            raise LocalProtocolError("the session was not flushed into all of its connections; it was rolled back")
        self.forget()
        transaction.__exit__(None)
        for xid in xids:
            xid.state = _State.COMMITTED

    def roll_back(self) -> None:
        """Every branch, unless it has been."""
        transaction = self._transaction
        self.forget()
        if transaction is not None:
            transaction.__exit__(Exception)

    def forget(self) -> None:
        """The transaction is over; its connections may be others' already."""
        for xid in self._xids:
            xid.state = _State.ENDED
        self._transaction, self._xids = None, []

    def _begin(self) -> Transaction:
        client = self._client
        if isinstance(client, AsyncClient):
            return Transaction(_InGreenlet(client), self._timeout, client._complete_later).__enter__()
        return client.transaction(timeout=self._timeout).__enter__()


class _InGreenlet:
    """An AsyncClient, for the code that SQLAlchemy runs in its greenlet."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self.resources = client.resources
        self.events = client.events

    @property
    def grace(self) -> float:
        return self._client.grace

    def admit(self, txid: TxId, timeout: float) -> str:
        return await_only(self._client.admit(txid, timeout))

    def decide(
        self, txid: TxId, verdict: Verdict, branches: tuple[str, ...], reason: str, *, timeout: float
    ) -> Outcome:
        return await_only(self._client.decide(txid, verdict, branches, reason, timeout=timeout))


def _branch_of(dialect: Dialect, bind: Engine | Connection) -> Branch:
    name: Branch | None = getattr(dialect, _NAME, None)
    if name is None:
        url = bind.engine.url.render_as_string(hide_password=True)
        raise LocalProtocolError(
            f"the engine {url} is not attached; call raftcoord.integrations.sqlalchemy.attach(engine, NAME) with its name in "
            "cluster.yaml, or use it through a Session of its own"
        )
    return name


@event.listens_for(Session, "after_begin", insert=True)
def _after_begin(session: Session, transaction: SessionTransaction, connection: Connection) -> None:
    if transaction.parent is not None:
        return
    try:
        session._atomic.enlist(connection)
    except BaseException as error:  # SQLAlchemy has it already: nothing may go over it until the session is rolled back
        _go_on(error, connection.invalidate)


@event.listens_for(Session, "after_transaction_create", insert=True)
def _after_transaction_create(session: Session, transaction: SessionTransaction) -> None:
    """The root's commit, whether it is called by the session or by a ``with`` block, is ours."""
    if transaction.parent is None:
        session._atomic.forget()
        commit = _commit(session, transaction, transaction.commit)
        transaction.commit = commit  # type: ignore[method-assign]


def _commit(
    session: Session, transaction: SessionTransaction, tell_sqlalchemy: Callable[..., None]
) -> Callable[..., None]:
    def commit(*args: Any, **options: Any) -> None:
        if transaction.is_active:
            transaction.prepare()  # flushes; if that fails, SQLAlchemy has rolled back
        try:
            session._atomic.finish()
        except (Aborted, LocalProtocolError) as error:
            _go_on(error, transaction.rollback)
        except BaseException as error:
            _go_on(error, session.invalidate)
        tell_sqlalchemy(*args, **options)

    return commit


def _go_on(error: BaseException, end: Callable[[], object]) -> NoReturn:
    """``error`` goes on, whatever comes while ``end`` is called; interrupted, it is called again."""
    for _ in range(limits.CLOSE_TRIES_MAX):
        try:
            end()
        except Exception:
            break
        except BaseException as interruption:  # it goes on, unless one does already
            if isinstance(error, Exception):
                interruption.__notes__ = [*getattr(error, "__notes__", ()), *getattr(interruption, "__notes__", ())]
                interruption.add_note(f"before: {error}")
                error = interruption
        else:
            break
    raise error


def _replace_steps(dialect: Dialect) -> None:
    """SQLAlchemy's two-phase steps, for the xids that we make. One that a program has made itself goes the old way."""
    steps = {name: getattr(dialect, name) for name in _STEPS}

    def step(name: str, ours: Callable[[Connection, _Xid], None]) -> Callable[..., None]:
        def take(connection: Connection, xid: Any, *args: Any, **options: Any) -> None:
            if isinstance(xid, _Xid):
                ours(connection, xid)
            else:
                steps[name](connection, xid, *args, **options)

        return take

    for name, ours in _STEPS.items():
        setattr(dialect, name, step(name, ours))
    dialect.create_xid = _Xid  # type: ignore[method-assign]


def _begin_nothing(connection: Connection, xid: _Xid) -> None:
    """It begins when the session has it: ``after_begin``."""


def _flushed(connection: Connection, xid: _Xid) -> None:
    if xid.atomic is None or xid.state is not _State.OPEN:
        raise LocalProtocolError(
            "the connection is no branch of a transaction: it was not enlisted, or has been rolled back; roll the session back, "
            "and use attached engines through raftcoord's Session alone"
        )
    xid.state = _State.FLUSHED


def _committed(connection: Connection, xid: _Xid) -> None:
    if xid.state is not _State.COMMITTED:
        _rolled_back(connection, xid)
        raise LocalProtocolError(
            "a connection of a Session was told to commit, and all was rolled back: only session.commit() can"
        )


def _rolled_back(connection: Connection, xid: _Xid) -> None:
    if xid.atomic is None:
        connection.dialect.do_rollback(connection.connection)
    elif xid.state in (_State.OPEN, _State.FLUSHED):
        xid.atomic.roll_back()


_STEPS: Final = {
    "do_begin_twophase": _begin_nothing,
    "do_prepare_twophase": _flushed,
    "do_commit_twophase": _committed,
    "do_rollback_twophase": _rolled_back,
}
