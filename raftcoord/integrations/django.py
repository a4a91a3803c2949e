"""Django: ``atomic`` over two databases and more, in place of ``django.db.transaction.atomic``.

    from raftcoord.integrations.django import atomic

    with atomic(client, {"default": "ledger", "orders_db": "orders"}):
        Account.objects.filter(name="alice").update(amount=F("amount") - 10)
        Order.objects.using("orders_db").create(customer="alice")

Theory of operation. Django keeps books on each connection: whether autocommit is on, how deep in atomic blocks it stands, what
is to run on commit. This block writes them as Django's own outermost block does, so that a ``transaction.atomic()`` inside is a
savepoint, ``on_commit`` waits, and ``needs_rollback`` is obeyed. What Django would do at the end, commit or roll back, is not
done by it: that is client.transaction()'s, over the connection below.

Owed: after the block each connection is in autocommit as before, or gone, and then Django connects anew. Never: an on_commit
hook before COMMITTED is known, or after anything else.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, ParamSpec, TypeVar

from django.db import connections
from django.db.transaction import TransactionManagementError

from raftcoord.client.synchronous import Client
from raftcoord.client.transaction import Transaction
from raftcoord.databases import drivers, registry
from raftcoord.errors import Aborted, LocalProtocolError
from raftcoord.types import checked_branch

_P = ParamSpec("_P")
_T = TypeVar("_T")


class atomic:
    """A block, or a decorator of a view, that commits the databases of several aliases in one transaction.

    ``client``: a Client, or a function that returns one; a decorator is read before a server forks, and a client does not
    survive a fork. ``branches``: alias in DATABASES -> resource in cluster.yaml. ``timeout``: seconds until it is decided.

    ``with`` gives the Transaction. Left without an exception, everything is committed everywhere, or Aborted (nothing stands)
    or InDoubt (``resolve`` its txid) is raised. Raises LocalProtocolError if a connection of one of the aliases stands in a
    transaction already, by ATOMIC_REQUESTS or an atomic block around this one; nothing was changed then.
    """

    _from_testcase = False
    """Django asks this of the outermost block, to refuse ``durable=True`` inside."""

    def __init__(
        self, client: Client | Callable[[], Client], branches: Mapping[str, str], *, timeout: float = 10.0
    ) -> None:
        self._client = client
        self._branches = dict(branches)
        self._timeout = timeout
        self._transaction: Transaction | None = None
        self._held: list[_Held] = []

    def __call__(self, view: Callable[_P, _T]) -> Callable[_P, _T]:
        """The view in a block of its own for each call: committed before its response is sent."""
        if inspect.iscoroutinefunction(view):
            raise _asynchronous(view)

        @functools.wraps(view)
        def within(*args: _P.args, **kwargs: _P.kwargs) -> _T:
            with atomic(self._client, self._branches, timeout=self._timeout):
                response = view(*args, **kwargs)
                if inspect.iscoroutine(response):  # the dispatch() of a class with asynchronous handlers
                    response.close()
                    raise _asynchronous(view)
                return response

        return within

    def __enter__(self) -> Transaction:
        if self._transaction is not None:
            raise LocalProtocolError("a block is entered once; write atomic(...) again")
        found = [_Held(connections[alias], branch) for alias, branch in self._branches.items()]
        for held in found:
            held.check_fit()
        client = self._client if isinstance(self._client, Client) else self._client()
        self._transaction = tx = client.transaction(timeout=self._timeout).__enter__()
        try:
            for held in found:
                self._held.append(held)
                held.take(tx, self)
        except BaseException as error:
            self._end(tx, type(error))
            raise
        return tx

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        tx = self._transaction
        assert tx is not None
        if kind is None:
            for held in self._held:
                if reason := held.why_not(self):
                    self._end(tx, Aborted)
                    raise tx.aborted(reason, held.branch) from held.wrapper.rollback_exc
        hooks = self._end(tx, kind)
        if kind is None:
            _run(hooks)

    def _end(self, tx: Transaction, kind: type[BaseException] | None) -> list[tuple[Any, list[Any]]]:
        """End the transaction and let go of the connections; the on_commit hooks by connection."""
        failed: BaseException | None = None
        try:
            tx.__exit__(kind)
        except BaseException as error:
            failed = error
        for held in self._held:
            while not held.is_free:
                try:
                    held.let_go()
                except BaseException as interruption:  # Ctrl-C, say: it goes on when every connection is free
                    held.is_free = isinstance(interruption, Exception)
                    if failed is None or isinstance(failed, Exception):
                        interruption.add_note(f"before: {failed or 'the transaction had ended without an error'}")
                        failed = interruption
        if failed is not None:
            raise failed
        return [(held.wrapper, held.hooks) for held in self._held]


class _Held:
    """One alias in the block. ``wrapper``: Django's; ``raw``: the driver's connection below it, once taken."""

    def __init__(self, wrapper: Any, branch: str) -> None:
        self.wrapper = wrapper
        self.branch = checked_branch(branch)
        self.raw: Any = None
        self.hooks: list[Any] = []
        self.is_free = False

    def check_fit(self) -> None:
        """Raise LocalProtocolError unless a block can begin."""
        what = f"alias {self.wrapper.alias!r} (branch {self.branch!r})"
        vendors = [database.django for database in registry.DATABASES if database.django]
        if self.wrapper.vendor not in vendors:
            raise LocalProtocolError(
                f"{what}: Django's backend {self.wrapper.vendor} is not supported here; {', '.join(vendors)} are"
            )
        if getattr(getattr(self.wrapper, "pool", None), "close_returns", False):
            raise LocalProtocolError(
                f"{what}: its pool has close_returns, with which nobody can close a connection that is in doubt; set it to "
                "False in OPTIONS. Nothing was changed"
            )
        if self.wrapper.in_atomic_block:
            raise LocalProtocolError(
                f"{what} stands in a transaction of Django's already, which cannot become part of this one. If it is "
                "ATOMIC_REQUESTS, mark the view with @transaction.non_atomic_requests; if it is an atomic() block, leave it "
                "first; in tests, use TransactionTestCase. Nothing was changed"
            )
        if not self.wrapper.get_autocommit():
            raise LocalProtocolError(
                f"{what} is not in autocommit, as the program or its AUTOCOMMIT has set; this block switches it by itself. "
                "Nothing was changed"
            )

    def take(self, tx: Transaction, block: atomic) -> None:
        """Begin the branch, and write Django's books as an outermost atomic block does."""
        wrapper = self.wrapper
        wrapper.set_autocommit(False)
        self.raw = wrapper.connection
        given = tx.enlist(self.raw, self.branch)
        if given is not self.raw:  # a session that records what the program does
            from raftcoord.integrations.django_sqlite import Recorded

            wrapper.connection = Recorded(given)
        wrapper.commit_on_exit = True
        wrapper.needs_rollback = False
        wrapper.rollback_exc = None
        wrapper.in_atomic_block = True
        wrapper.atomic_blocks.append(block)
        wrapper.close = self._refuse_to_close

    def _refuse_to_close(self) -> None:
        """A pool would hand the connection to somebody else, with the branch on it."""
        self.wrapper.needs_rollback = True
        raise TransactionManagementError(
            f"the connection of alias {self.wrapper.alias!r} is in a transaction of raftcoord's, and ends with its block"
        )

    def why_not(self, block: atomic) -> str:
        """Why the block cannot be committed; empty if it can."""
        if self.wrapper.needs_rollback:
            return (
                "a statement failed and its error was swallowed, or set_rollback(True) was called; let the error leave the "
                "block, or put the statement into an inner transaction.atomic(), which is a savepoint"
            )
        if self.wrapper.atomic_blocks != [block]:
            return "an inner atomic() block is still open"
        return ""

    def let_go(self) -> None:
        """Write the books as at the end of an outermost block. It never fails; interrupted, it is repeated."""
        wrapper = self.wrapper
        self.hooks = self.hooks or wrapper.run_on_commit
        wrapper.run_on_commit = []
        wrapper.__dict__.pop("close", None)
        wrapper.in_atomic_block = False
        wrapper.needs_rollback = False
        wrapper.savepoint_ids = []
        wrapper.atomic_blocks = []
        if self.raw is not None:
            wrapper.connection = self.raw
        if self.raw is None or drivers.session(self.raw, checked_branch(self.branch)).is_closed():
            self._drop()
        else:
            try:
                wrapper.set_autocommit(True)
            except Exception:
                self._drop()
        self.is_free = True

    def _drop(self) -> None:
        """Django connects anew at the next use."""
        with contextlib.suppress(Exception):
            self.wrapper.close()


def _asynchronous(view: Any) -> LocalProtocolError:
    """It would work after the block has ended."""
    return LocalProtocolError(
        f"{view.__qualname__} is asynchronous, and Django's transactions are not; put the block into a function, and call it by "
        "sync_to_async"
    )


def _run(hooks: list[tuple[Any, list[Any]]]) -> None:
    """As Django does: per connection, in order, and the first that fails ends those of its connection."""
    with contextlib.ExitStack() as stack:
        for wrapper, waiting in reversed(hooks):
            stack.callback(_run_those_of, wrapper, waiting)


def _run_those_of(wrapper: Any, waiting: list[Any]) -> None:
    wrapper.run_on_commit = (
        waiting  # only now: a hook of another connection may have used this one, and so cleared its list
    )
    wrapper.run_and_clear_commit_hooks()
