"""The worker: the event loop that serves a participant.

It dials every node of the cluster, gathers what they ask while the last batch runs, calls ``participant.run`` in one thread
(never two calls at a time), and answers each request on the connection that it came from.

It owes: ``join`` before anything else; nothing from a node of another cluster reaches the participant; a branch that is in
doubt past its deadline is asked about at the nodes until one gives the outcome. It never decides an outcome, never lets
time do it, and does not assume that it is alone: another instance of the same name may finish what it has prepared.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Collection, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any, Final

from raftcoord import limits
from raftcoord.api.answers import UnreadableAnswer
from raftcoord.api.operations import (
    RESOLVE_BRANCH,
    STATUS_OF_BRANCH,
    OfBranch,
    Operation,
    R,
    Role,
    ToResolveBranch,
)
from raftcoord.config import Address
from raftcoord.core.asking import Known
from raftcoord.env import Env
from raftcoord.errors import LocalProtocolError, Overloaded
from raftcoord.foreign import shown
from raftcoord.participants.doubts import Doubts
from raftcoord.participants.interface import (
    Abort,
    AlreadyCommitted,
    Commit,
    NotPrepared,
    Participant,
    Prepare,
    Reply,
    Request,
    WrongCluster,
)
from raftcoord.participants.links import Arrival, WorkerLink
from raftcoord.rpc.codes import RpcError
from raftcoord.rpc.connection import Connection
from raftcoord.types import State, TxId, Vote, VoteKind, checked_cluster_id, checked_name

_log = logging.getLogger("raftcoord.participants")

GRACE_S: Final = 2.0
"""How long past its deadline a branch waits for the outcome (s) before it is resolved: delivery needs a moment."""

ORPHANED_GRACE_S: Final = 0.1
"""The same for a branch whose coordinator's connection has ended (s): nobody else takes over its phase one."""

RESTORED_GRACE_S: Final = 5.0
"""The same for a branch whose deadline is not known, because it was prepared before this start (s)."""

SWEEP_S: Final = 30.0
"""How often ``prepared()`` is compared with what is tracked (s): another instance may have left something."""

RESOLVE_TIMEOUT_MS: Final = 3_000
"""What a node gets to resolve one transaction (ms)."""

_DUE_S_MAX: Final = 1.0


class Worker:
    """Serves ``participant`` under ``name`` to the nodes at ``addresses`` (their client ports).

    ``cluster_name``: refuse nodes of any other. ``executor``: where the participant runs, one call at a time; a thread of
    its own by default. ``run`` serves until ``stop``; ``ready`` is set while at least one node is connected and admitted.
    """

    def __init__(
        self,
        participant: Participant,
        name: str,
        addresses: Collection[Address],
        env: Env,
        *,
        cluster_name: str = "",
        executor: Executor | None = None,
        queue_max: int = limits.WORKER_QUEUE_MAX,
    ) -> None:
        self.ready = asyncio.Event()
        self._participant = participant
        self._name = checked_name(name, "participant")
        self._env = env
        self._executor = executor
        self._queue_max = queue_max
        self._hello = {"name": self._name, "instance": f"{env.rng.getrandbits(64):016x}"}
        if cluster_name:
            self._hello["cluster_name"] = cluster_name
        self._links = [WorkerLink(address, self._name, lambda: self._hello, env, self) for address in addresses]
        self._cluster_name = cluster_name
        self._cluster = ""
        self._newcomers: list[tuple[WorkerLink, Connection, str, str]] = []
        self._queue: deque[Arrival] = deque()
        self._running: dict[int, Arrival] = {}  # by id of the request; the arrival keeps the request alive
        self._doubts = Doubts(env.rng)
        self._asked = 0
        self._due = False
        self._sweep_due = False
        self._stopping = False
        self._wake = asyncio.Event()
        self._timers: dict[str, asyncio.TimerHandle] = {}

    async def run(self) -> None:
        """Serve until ``stop``. Raises what the participant's ``run`` raised, or WrongCluster if every node is refused."""
        executor = self._executor or ThreadPoolExecutor(1, thread_name_prefix=f"participant {self._name}")
        try:
            await self._introduce(executor)
            for link in self._links:
                link.start()
            while not self._stopping:
                await self._wake.wait()
                self._wake.clear()
                await self._meet_newcomers(executor)
                if self._sweep_due:
                    await self._sweep(executor)
                if self._queue or self._due:
                    await self._run_batch(executor)
                if self._queue:
                    self._wake.set()
        finally:
            self.ready.clear()
            await asyncio.gather(*(link.stop() for link in self._links))
            for timer in self._timers.values():
                timer.cancel()
            if self._executor is None:
                executor.shutdown()

    def stop(self) -> None:
        """End ``run`` after the batch that is running; its replies are sent. What waits is left to be asked again."""
        self._stopping = True
        self._wake.set()

    # -- called by the links --------------------------------------------------------------------------------------

    def connected(self, link: WorkerLink, conn: Connection, cluster: str, cluster_name: str) -> None:
        """A node has answered the hello."""
        self._newcomers.append((link, conn, cluster, cluster_name))
        self._wake.set()

    def disconnected(self, link: WorkerLink, conn: Connection) -> None:
        """A node has gone, and with it the phase one of every transaction that it coordinated."""
        self._doubts.orphan(conn, asyncio.get_running_loop().time() + ORPHANED_GRACE_S)
        self._plan_asking()
        if not any(link.conn for link in self._links):
            self.ready.clear()

    def arrived(self, arrival: Arrival) -> None:
        """Take a request into the queue, or refuse it as overloaded."""
        waiting = len(self._queue) + len(self._running)
        if waiting >= self._queue_max:
            raise Overloaded(f"participant {self._name} has {waiting} requests waiting: try again later")
        self._queue.append(arrival)
        self._wake.set()

    async def _introduce(self, executor: Executor) -> None:
        """Ask the participant for the identity and the cluster of its state, which every hello gives."""
        loop = asyncio.get_running_loop()
        self._hello["cluster"] = await loop.run_in_executor(executor, self._participant.cluster)
        identity = await loop.run_in_executor(executor, self._participant.identity)
        if identity:
            self._hello["identity"] = identity
        else:
            _log.warning(
                "participant %s gives no identity of its state: give it the method identity() of Participant, so that no "
                "other state can serve under its name",
                self._name,
            )

    # -- the cluster ----------------------------------------------------------------------------------------------

    async def _meet_newcomers(self, executor: Executor) -> None:
        newcomers, self._newcomers = self._newcomers, []
        for link, conn, cluster, cluster_name in newcomers:
            try:
                self._check_cluster_name(cluster_name)
                await self._check_cluster(executor, cluster)
            except (WrongCluster, LocalProtocolError) as error:
                self._refuse(link, conn, error)
            else:
                link.admit(conn)
                if link.conn is not None:
                    self.ready.set()
                    self._ask()

    def _check_cluster_name(self, cluster_name: str) -> None:
        """Before the state is given to a cluster, which is for good."""
        if self._cluster_name and cluster_name != self._cluster_name:
            raise WrongCluster(
                f"participant {self._name} is for cluster {self._cluster_name!r}, this node is of cluster {cluster_name!r}: "
                "correct the addresses in cluster.yaml"
            )

    async def _check_cluster(self, executor: Executor, cluster: str) -> None:
        if not self._cluster:
            checked_cluster_id(cluster)
            await asyncio.get_running_loop().run_in_executor(executor, self._participant.join, cluster)
            self._cluster = self._hello["cluster"] = cluster
            await self._sweep(executor)
        elif cluster != self._cluster:
            raise WrongCluster(
                f"participant {self._name} serves cluster {self._cluster}, this node is of cluster {cluster or '(none)'}: "
                "correct the addresses in cluster.yaml"
            )

    def _refuse(self, link: WorkerLink, conn: Connection, error: Exception) -> None:
        if not link.refused:
            _log.error("node %s at %s is refused: %s", shown(link.node), link.address, shown(error))
        link.refuse(conn, str(error))
        if isinstance(error, WrongCluster) and all(link.refused for link in self._links):
            raise error

    # -- batches --------------------------------------------------------------------------------------------------

    async def _run_batch(self, executor: Executor) -> None:
        self._due = False
        batch: list[Request] = []
        while self._queue and len(batch) < limits.WORKER_BATCH_MAX:
            arrival = self._queue.popleft()
            if not arrival.is_unheard:
                self._running[id(arrival.request)] = arrival
                batch.append(arrival.request)
        loop = asyncio.get_running_loop()
        replies, due_ms = await loop.run_in_executor(executor, self._run_in_thread, batch)
        for request, reply in replies:
            arrival_of = self._running.pop(id(request), None)
            if arrival_of is None:
                _log.error("participant %s answered a request that was not asked: %r", self._name, request)
                continue
            self._note(request, reply, arrival_of.conn)
            arrival_of.answer(reply)
        if due_ms is not None:
            delay = min(max(due_ms - self._env.wall_ms(), 0) / 1000, _DUE_S_MAX)
            self._set_timer("due", loop.time() + delay, self._now_due)
        self._plan_asking()

    def _run_in_thread(self, batch: Sequence[Request]) -> tuple[Sequence[tuple[Request, Reply]], int | None]:
        return self._participant.run(batch), self._participant.due_ms()

    def _now_due(self) -> None:
        self._due = True
        self._wake.set()

    def _note(self, request: Request, reply: Reply, conn: Connection | None) -> None:
        """Keep the table of doubts in step with what the participant has just done."""
        txid = request.txid
        match request, reply:
            case Prepare(), Vote(VoteKind.YES):
                left_s = max(request.deadline_ms - self._env.wall_ms(), 0) / 1000 + GRACE_S
                if conn is not None and conn.closed:
                    left_s = ORPHANED_GRACE_S
                resolve_at = asyncio.get_running_loop().time() + left_s
                self._doubts.add(txid, resolve_at, resolve_at, conn)
            case Prepare(), _:
                pass
            case _, (NotPrepared() | AlreadyCommitted()) as error:
                _log.error("participant %s: %s", self._name, shown(error))
                self._doubts.drop(txid)
            case _, None:
                self._doubts.drop(txid)
            case _, error:
                _log.warning("participant %s could not finish transaction %s yet: %s", self._name, txid, shown(error))
                self._doubts.again(txid, asyncio.get_running_loop().time())

    # -- doubts ---------------------------------------------------------------------------------------------------

    async def _sweep(self, executor: Executor) -> None:
        """Compare what is tracked with what the participant has prepared."""
        self._sweep_due = False
        loop = asyncio.get_running_loop()
        prepared = set(await loop.run_in_executor(executor, self._participant.prepared))
        now = loop.time()
        for txid in sorted(self._doubts.txids() - prepared):
            self._doubts.drop(txid)
        for txid in sorted(prepared):
            self._doubts.add(txid, now + RESTORED_GRACE_S, now)
        self._set_timer("sweep", now + SWEEP_S, self._now_sweep)
        self._plan_asking()

    def _now_sweep(self) -> None:
        self._sweep_due = True
        self._wake.set()

    def _plan_asking(self) -> None:
        at = self._doubts.next_at()
        if at is not None and any(link.conn for link in self._links):
            self._set_timer("ask", at, self._ask)

    def _ask(self) -> None:
        now = asyncio.get_running_loop().time()
        conns = [link.conn for link in self._links if link.conn is not None]
        if not conns:  # asked again when one is connected
            return
        for question in self._doubts.take(now):
            self._asked += 1
            conn = conns[self._asked % len(conns)]
            if question.resolve:
                self._put(conn, RESOLVE_BRANCH, ToResolveBranch(question.txid, self._name, RESOLVE_TIMEOUT_MS))
            else:
                self._put(conn, STATUS_OF_BRANCH, OfBranch(question.txid, self._name))
        self._plan_asking()

    def _put(self, conn: Connection, operation: Operation[R, Known], request: R) -> None:
        txid: TxId = request[0]

        def on_reply(error: RpcError | None, result: Any) -> None:
            try:
                self._hear(txid, None if error is not None else operation.answer.read(result).state)
            except UnreadableAnswer:
                self._hear(txid, None)

        conn.call(operation.methods[Role.PARTICIPANT], operation.encode(request), on_reply)

    def _hear(self, txid: TxId, state: State | None) -> None:
        if txid not in self._doubts:
            return
        if state in (State.COMMITTED, State.ABORTED) and len(self._queue) < self._queue_max:
            request = Commit(txid) if state is State.COMMITTED else Abort(txid)
            _log.info("participant %s: transaction %s is %s, as a node says", self._name, txid, state)
            self._queue.append(Arrival(request))
            self._wake.set()
        else:
            self._doubts.again(txid, asyncio.get_running_loop().time())
            self._plan_asking()

    def _set_timer(self, name: str, at: float, action: Any) -> None:
        """One timer per name; it goes off at the earliest of the times that were asked for."""
        pending = self._timers.get(name)
        if pending is not None and not pending.cancelled() and pending.when() <= at:
            return
        if pending is not None:
            pending.cancel()

        def go() -> None:
            del self._timers[name]
            action()

        self._timers[name] = asyncio.get_running_loop().call_at(at, go)
