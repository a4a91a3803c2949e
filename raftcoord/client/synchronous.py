"""The synchronous client: the asynchronous one in a thread of its own, with the same names.

Owed: safe to use from many threads at once; Ctrl-C ends the wait of the one that waits, and hangs up nothing else. Never: a use
across fork, where the thread does not exist; that is a clear error.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from raftcoord.api.answers import DamagePage, DamageRow, NodeStatus, ParticipantRow, Row
from raftcoord.api.operations import A, Operation, R
from raftcoord.client import admission
from raftcoord.client.asynchronous import AsyncClient
from raftcoord.client.deadlines import GRACE_S, TIMEOUT_S
from raftcoord.client.transaction import Transaction
from raftcoord.errors import LocalProtocolError, RaftcoordError
from raftcoord.events import Observers
from raftcoord.types import Answer, Outcome, Payload, State, TxId, Verdict

if TYPE_CHECKING:
    from raftcoord.config import Config

_T = TypeVar("_T")


class Client:
    """AsyncClient without ``await``: each method does, returns and raises what the method of that name does there.

    ``with`` closes it; otherwise ``client.close()``. If Ctrl-C interrupts ``submit`` or ``decide``, the transaction may have
    been decided: ``resolve`` its txid, which is why it is worth giving one.
    """

    def __init__(self, asynchronous: AsyncClient) -> None:
        """Takes over a client that has not been used yet; ``from_config`` and ``from_addresses`` make one."""
        self._client = asynchronous
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._closed = False
        self._loop = _new_loop()
        self._thread = threading.Thread(target=self._serve, name="raftcoord client", daemon=True)
        self._thread.start()

    @classmethod
    def from_config(cls, config: str | Path | Config, *, name: str = "client", grace: float = GRACE_S) -> Self:
        """See AsyncClient.from_config."""
        return cls(AsyncClient.from_config(config, name=name, grace=grace))

    @classmethod
    def from_addresses(cls, addresses: Iterable[str], *, name: str = "client", grace: float = GRACE_S) -> Self:
        """See AsyncClient.from_addresses."""
        return cls(AsyncClient.from_addresses(addresses, name=name, grace=grace))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up and end the thread. Calls that are open in other threads end as InDoubt or Unavailable."""
        with self._lock:
            if self._closed or os.getpid() != self._pid:
                return
            self._closed = True
            closing = asyncio.run_coroutine_threadsafe(self._shut(), self._loop)
        closing.result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def submit(
        self,
        payloads: Mapping[str, Payload],
        *,
        timeout: float = TIMEOUT_S,
        txid: TxId | str | None = None,
        wait: str = "decided",
    ) -> Outcome:
        """See AsyncClient.submit."""
        return self._run(lambda: self._client.submit(payloads, timeout=timeout, txid=txid, wait=wait))

    def status(self, txid: TxId | str, *, timeout: float = TIMEOUT_S) -> Answer:
        """See AsyncClient.status."""
        return self._run(lambda: self._client.status(txid, timeout=timeout))

    def resolve(self, txid: TxId | str, *, branch: str | None = None, timeout: float = TIMEOUT_S) -> Answer:
        """See AsyncClient.resolve."""
        return self._run(lambda: self._client.resolve(txid, branch=branch, timeout=timeout))

    def decide(
        self,
        txid: TxId | str,
        verdict: Verdict,
        branches: Iterable[str] = (),
        reason: str = "",
        *,
        timeout: float = TIMEOUT_S,
    ) -> Outcome:
        """See AsyncClient.decide."""
        return self._run(lambda: self._client.decide(txid, verdict, branches, reason, timeout=timeout))

    def complete(self, txid: TxId | str, branches: Iterable[str] | None = None, *, timeout: float = TIMEOUT_S) -> None:
        """See AsyncClient.complete."""
        return self._run(lambda: self._client.complete(txid, branches, timeout=timeout))

    def transaction(self, *, timeout: float = TIMEOUT_S) -> Transaction:
        """See AsyncClient.transaction."""
        return Transaction(self, timeout, self._complete_later)

    def cluster_id(self, *, timeout: float = TIMEOUT_S) -> str:
        """See AsyncClient.cluster_id."""
        return self._run(lambda: self._client.cluster_id(timeout=timeout))

    @property
    def events(self) -> Observers:
        """See AsyncClient. An observer is called in the thread that uses the transaction."""
        return self._client.events

    def admit(self, txid: TxId, timeout: float) -> str:
        """See AsyncClient.admit."""
        known = admission.admitted(self._client._nodes, txid, self._loop.time())
        if known:  # the way to the thread and back costs as much as a query
            self._check_usable()
            return known
        return self._run(lambda: self._client.admit(txid, timeout))

    def ask(self, operation: Operation[R, A], *given: Any, timeout: float = TIMEOUT_S) -> A:
        """See AsyncClient.ask."""
        return self._run(lambda: self._client.ask(operation, *given, timeout=timeout))

    def transactions(
        self,
        state: State | str | None = None,
        *,
        limit: int = 100,
        before: TxId | str | None = None,
        timeout: float = TIMEOUT_S,
    ) -> list[Row]:
        """See AsyncClient.transactions."""
        return self._run(lambda: self._client.transactions(state, limit=limit, before=before, timeout=timeout))

    def show(self, txid: TxId | str, *, timeout: float = TIMEOUT_S) -> Row | None:
        """See AsyncClient.show."""
        return self._run(lambda: self._client.show(txid, timeout=timeout))

    def node_info(self, node_name: str | None = None, *, timeout: float = TIMEOUT_S) -> NodeStatus:
        """See AsyncClient.node_info."""
        return self._run(lambda: self._client.node_info(node_name, timeout=timeout))

    def nodes(self, *, timeout: float = 2.0) -> dict[str, NodeStatus | RaftcoordError]:
        """See AsyncClient.nodes."""
        return self._run(lambda: self._client.nodes(timeout=timeout))

    def add_node(self, node_name: str, *, timeout: float = TIMEOUT_S) -> dict[str, Any]:
        """See AsyncClient.add_node."""
        return self._run(lambda: self._client.add_node(node_name, timeout=timeout))

    def remove_node(self, node_name: str, *, timeout: float = TIMEOUT_S) -> dict[str, Any]:
        """See AsyncClient.remove_node."""
        return self._run(lambda: self._client.remove_node(node_name, timeout=timeout))

    def replace_node(self, node_name: str, *, timeout: float = TIMEOUT_S) -> dict[str, Any]:
        """See AsyncClient.replace_node."""
        return self._run(lambda: self._client.replace_node(node_name, timeout=timeout))

    def lower_horizon(self, who: str, *, after_ms: int = 0, timeout: float = TIMEOUT_S) -> dict[str, Any]:
        """See AsyncClient.lower_horizon."""
        return self._run(lambda: self._client.lower_horizon(who, after_ms=after_ms, timeout=timeout))

    def damages(self, txid: TxId | str | None = None, *, limit: int = 100, timeout: float = TIMEOUT_S) -> DamagePage:
        """See AsyncClient.damages."""
        return self._run(lambda: self._client.damages(txid, limit=limit, timeout=timeout))

    def report_damage(self, txid: TxId | str, branch: str, what: str, *, timeout: float = TIMEOUT_S) -> None:
        """See AsyncClient.report_damage."""
        return self._run(lambda: self._client.report_damage(txid, branch, what, timeout=timeout))

    def acknowledge(self, txid: TxId | str, branch: str, who: str, *, timeout: float = TIMEOUT_S) -> DamageRow:
        """See AsyncClient.acknowledge."""
        return self._run(lambda: self._client.acknowledge(txid, branch, who, timeout=timeout))

    def acknowledge_all(self, who: str, *, upto_ms: int, branch: str | None = None, timeout: float = TIMEOUT_S) -> int:
        """See AsyncClient.acknowledge_all."""
        return self._run(lambda: self._client.acknowledge_all(who, upto_ms=upto_ms, branch=branch, timeout=timeout))

    def close_branches(
        self, branches: Mapping[TxId, Sequence[str]], who: str, why: str, *, timeout: float = TIMEOUT_S
    ) -> int:
        """See AsyncClient.close_branches."""
        return self._run(lambda: self._client.close_branches(branches, who, why, timeout=timeout))

    def participants(self, *, timeout: float = TIMEOUT_S) -> list[ParticipantRow]:
        """See AsyncClient.participants."""
        return self._run(lambda: self._client.participants(timeout=timeout))

    def replace_participant(
        self, name: str, who: str, *, identity: str | None = None, timeout: float = TIMEOUT_S
    ) -> dict[str, Any]:
        """See AsyncClient.replace_participant."""
        return self._run(lambda: self._client.replace_participant(name, who, identity=identity, timeout=timeout))

    def forget_participant(self, name: str, who: str, *, timeout: float = TIMEOUT_S) -> dict[str, Any]:
        """See AsyncClient.forget_participant."""
        return self._run(lambda: self._client.forget_participant(name, who, timeout=timeout))

    @property
    def resources(self) -> frozenset[str]:
        """See AsyncClient."""
        return self._client.resources

    @property
    def grace(self) -> float:
        """See AsyncClient."""
        return self._client.grace

    def _complete_later(self, txid: TxId, branches: tuple[str, ...]) -> None:
        with self._lock:
            if not self._closed:
                self._client._complete_later(txid, branches)

    async def _shut(self) -> None:
        """Close, and let the calls of other threads come to their end."""
        await self._client.close()
        await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}), return_exceptions=True)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()

    def _check_usable(self) -> None:
        if os.getpid() != self._pid:
            raise LocalProtocolError(
                "this client was made before a fork, in another process; make a new one in this process"
            )
        if self._closed:
            raise LocalProtocolError("this client is closed; make a new one")

    def _run(self, call: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        """Run one call in the thread and wait for it here."""
        with self._lock:
            self._check_usable()
            if threading.current_thread() is self._thread:
                raise LocalProtocolError("the synchronous client is used from its own thread; use AsyncClient there")
            future = asyncio.run_coroutine_threadsafe(call(), self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # Ctrl-C: nobody waits for it any more
            raise


def _new_loop() -> asyncio.AbstractEventLoop:
    """uvloop's, where it is installed: a decision costs the caller's process a third less."""
    try:
        import uvloop
    except ImportError:  # the extra "fast" is not installed
        return asyncio.new_event_loop()
    made: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return made
