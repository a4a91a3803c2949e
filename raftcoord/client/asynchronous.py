"""The asynchronous client: transactions over whichever node can be reached.

Owed: what is returned is recorded in the ledger; what is raised says truly whether anything happened (errors.py). Input is
checked before anything is sent. One connection is used as long as it serves, the others when it does not. Never: a submit
that is sent twice; a task that outlives ``close``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from raftcoord import limits
from raftcoord.api import fields, operations
from raftcoord.api.answers import DamagePage, DamageRow, NodeStatus, Page, ParticipantRow, Row
from raftcoord.api.leading import leader_among
from raftcoord.api.operations import A, Operation, R
from raftcoord.client import admission
from raftcoord.client.async_transaction import AsyncTransaction
from raftcoord.client.completing import Completing
from raftcoord.client.deadlines import GRACE_S, TIMEOUT_S, Deadlines
from raftcoord.client.link import ClusterIdentity, Link, NodeAddress
from raftcoord.client.nodes import Nodes
from raftcoord.client.retry import PATIENCE_S, Call, FateUnknown, Tries, share_of
from raftcoord.core.asking import Known
from raftcoord.env import Env
from raftcoord.errors import (
    ConfigError,
    ForgottenTxid,
    InDoubt,
    LocalProtocolError,
    RaftcoordError,
    Unavailable,
)
from raftcoord.events import Observers
from raftcoord.rpc.codes import RpcError
from raftcoord.types import Answer, Outcome, Payload, State, TxId, Verdict

if TYPE_CHECKING:
    from raftcoord.config import Config

_FOUNDED: Final = replace(operations.NODE, any_cluster=False)
"""Asked again until a node knows the cluster's id."""


class AsyncClient:
    """A client of one cluster. Make it with ``from_config`` or ``from_addresses``, and use it in one event loop.

    ``async with`` closes it; otherwise ``await client.close()``. A txid may be given as a TxId or as 32 hex digits. Every
    method raises LocalProtocolError, before anything is sent, for what it was given wrongly.
    """

    def __init__(
        self,
        endpoints: Sequence[NodeAddress],
        *,
        cluster_name: str = "",
        cluster_id: str = "",
        source: str = "",
        name: str = "client",
        env: Env | None = None,
        resources: Iterable[str] = (),
        grace: float = GRACE_S,
    ) -> None:
        """``cluster_name``: refuse nodes of any other; and of any other ``cluster_id``, if that is known from ``source``.

        ``name``: for the nodes' logs. ``env``: a simulator's, else the real.
        ``resources``: the names that connections may be enlisted by, because a resolver looks after them; none: by any.
        ``grace``: seconds (0 to 600) after the timeout of a transaction in which its outcome is still asked for, if it may be
        decided, and in which a database may finish what was decided.
        """
        if not endpoints:
            raise ConfigError("a client without an address; give at least one node's host:port")
        self._endpoints = tuple(endpoints)
        self._name = name
        self.resources = frozenset(resources)
        self.grace = fields.grace(grace)
        self.events = Observers(self._time)
        """Who observes the transactions over connections that this client decides (raftcoord/events.py)."""
        self._simulated = env is not None
        env = env or Env.real()
        self._rng = env.rng
        self._wall_ms = env.wall_ms
        self._clocks = env.clocks
        self._loop: asyncio.AbstractEventLoop | None = None
        self._nodes = Nodes(ClusterIdentity(cluster_name, cluster_id, source), self._rng)
        self._deadlines: Deadlines
        self._completing: Completing
        self._closed = False

    @classmethod
    def from_config(cls, config: str | Path | Config, *, name: str = "client", grace: float = GRACE_S) -> Self:
        """A client of the cluster that cluster.yaml (its path, or the Config read from it) describes. Raises ConfigError.

        ``grace``: seconds after a transaction's timeout to learn its outcome and to carry it out; see the class.
        """
        from raftcoord.config import Config  # it brings PyYAML, which a client by addresses does not need
        from raftcoord.storage.founded import founded_in

        read = config if isinstance(config, Config) else Config.load(config)
        endpoints = [NodeAddress(node.client.host, node.client.port, node.name) for node in read.nodes]
        resources = [each.name for each in read.resources]
        found, where = founded_in(node.data_dir for node in read.nodes)
        return cls(
            endpoints,
            cluster_name=read.cluster,
            cluster_id=found,
            source=str(where) if found else "",
            name=name,
            resources=resources,
            grace=grace,
        )

    @classmethod
    def from_addresses(cls, addresses: Iterable[str], *, name: str = "client", grace: float = GRACE_S) -> Self:
        """A client of the nodes whose client ports are at ``addresses``, each ``host:port``. Raises ConfigError.

        ``grace``: as for ``from_config``.
        """
        from raftcoord.config import Address

        parsed = [Address.parse(address) for address in addresses]
        return cls([NodeAddress(address.host, address.port) for address in parsed], name=name, grace=grace)

    async def __aenter__(self) -> Self:
        self._bind(asyncio.get_running_loop())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Hang up. Calls that are open end at once, as InDoubt if they may have been carried out."""
        if self._loop is not None:
            await self._completing.close()
        self._closed = True
        if self._loop is None:
            return
        self._loop = None
        for link in self._nodes.links:
            await link.close()
        self._deadlines.close()
        await asyncio.sleep(0)  # the sockets are closed in the loop's next pass

    # -- transactions ---------------------------------------------------------------------------------------------

    async def submit(
        self,
        payloads: Mapping[str, Payload],
        *,
        timeout: float = TIMEOUT_S,
        txid: TxId | str | None = None,
        wait: str = "decided",
    ) -> Outcome:
        """Run a transaction over the participants that ``payloads`` names; the Outcome is what the ledger has recorded.

        ``timeout``: seconds (0.001 to 600) until it is aborted if it is not decided. ``wait``: "decided", or "completed" to
        return when every participant has carried out the outcome (or ``timeout`` has passed). A node that is lost on
        the way is not asked again: the transaction is resolved through another one, which aborts it if it was not
        decided, and ``Outcome.reason`` then says so.

        Raises InDoubt if no node reported the outcome until the client's ``grace`` after ``timeout``; Unavailable or
        Overloaded if nothing was attempted.
        """
        seconds = fields.seconds(timeout)
        made = self._mint() if txid is None else fields.txid(txid)
        request = operations.SUBMIT.given(made, payloads, fields.milliseconds(seconds), wait)
        deadline = asyncio.get_running_loop().time() + seconds
        try:
            known = await self._answer(operations.SUBMIT, request, deadline)
        except FateUnknown as lost:
            return await self._settle(made, lost, deadline + self.grace)
        return _outcome(made, known)

    async def status(self, txid: TxId | str, *, timeout: float = TIMEOUT_S) -> Answer:
        """What is known of a transaction: COMMITTED, ABORTED, UNDECIDED so far, or FORGOTTEN (older than the horizon).

        Changes nothing. Raises Unavailable if no node answers within ``timeout`` seconds.
        """
        made = fields.txid(txid)
        return _as_answer(made, await self.ask(operations.STATUS, made, timeout=timeout))

    async def resolve(self, txid: TxId | str, *, branch: str | None = None, timeout: float = TIMEOUT_S) -> Answer:
        """The final answer: an undecided transaction is aborted by this. COMMITTED or ABORTED.

        Or FORGOTTEN: it is older than the horizon and finished; it may have been either, and nothing of it is left to do.
        ``branch``: what that branch, which is prepared, has to do: ABORTED also if the transaction was committed without it, or
        is forgotten; FORGOTTEN only if it must be left alone, because damage was recorded for it.
        Raises InDoubt if no node confirms it within ``timeout`` seconds, Unavailable if none could be asked.
        """
        made = fields.txid(txid)
        if branch is None:
            return _as_answer(made, await self.ask(operations.RESOLVE, made, timeout=timeout))
        return _as_answer(made, await self.ask(operations.RESOLVE_BRANCH, made, branch, timeout=timeout))

    async def decide(
        self,
        txid: TxId | str,
        verdict: Verdict,
        branches: Iterable[str] = (),
        reason: str = "",
        *,
        timeout: float = TIMEOUT_S,
    ) -> Outcome:
        """Propose the outcome of a transaction whose phase one the caller drives. The first proposal wins.

        The Outcome is the recorded one, and may differ from ``verdict``: then somebody resolved it before. ``branches``: who must
        carry it out; report them with ``complete``. ``reason``: of an abort. Asking again is safe.

        Raises Unavailable or Overloaded if nothing was attempted within ``timeout`` seconds. InDoubt if it was, and no node
        confirms it until the client's ``grace`` after that: do not guess, ask ``resolve``. LocalProtocolError if a COMMIT with
        other branches is recorded, or the txid is older than the horizon.
        """
        if verdict is Verdict.ABORT:
            reason = "the caller decided so" if reason == "" else reason
        elif reason and verdict is Verdict.COMMIT:
            raise LocalProtocolError(f"a commit has no reason, and {str(reason)[:60]!r} was given; leave it out")
        seconds = fields.seconds(timeout)
        request = operations.DECIDE.given(txid, verdict, branches, reason, fields.milliseconds(seconds))
        deadline = asyncio.get_running_loop().time() + seconds
        return _outcome(request.txid, await self._answer(operations.DECIDE, request, deadline, self.grace))

    async def complete(
        self, txid: TxId | str, branches: Iterable[str] | None = None, *, timeout: float = TIMEOUT_S
    ) -> None:
        """Report that ``branches`` (None: all) have carried out the outcome, so that it may be forgotten one day.

        Asking again is safe. Raises Unavailable if no node confirms it within ``timeout`` seconds; then repeat it.
        """
        await self.ask(operations.COMPLETE, txid, branches, timeout=timeout)

    def transaction(self, *, timeout: float = TIMEOUT_S) -> AsyncTransaction:
        """A transaction over database connections that the caller has: enlist them, work on them, leave the block.

        ``timeout``: seconds (0.001 to 600) from here until it is aborted if nothing was decided. What may be decided by then is
        asked for, and what is decided is carried out, for the client's ``grace`` after that.
        """
        return AsyncTransaction(self, timeout)

    async def admit(self, txid: TxId, timeout: float) -> str:
        """The cluster's id. Raises Unavailable, FutureTxid or ForgottenTxid if nothing must begin under ``txid`` now."""
        self._bind(asyncio.get_running_loop())
        return await admission.admit(self._nodes, txid, timeout)

    async def cluster_id(self, *, timeout: float = TIMEOUT_S) -> str:
        """The cluster's id: 16 hex digits, part of every gid. Raises Unavailable if no node reports it within ``timeout`` s."""
        if not self._nodes.cluster.id:
            await self.ask(_FOUNDED, timeout=timeout)
        if not self._nodes.cluster.id:
            raise Unavailable("no node has told the cluster's id; try again when a majority of the nodes runs")
        return self._nodes.cluster.id

    def _complete_later(self, txid: TxId, branches: tuple[str, ...]) -> None:
        """Report ``branches`` complete while the caller goes on."""
        self._completing.add(txid, branches)

    # -- looking --------------------------------------------------------------------------------------------------

    async def transactions(
        self,
        state: State | str | None = None,
        *,
        limit: int = 100,
        before: TxId | str | None = None,
        timeout: float = TIMEOUT_S,
    ) -> list[Row]:
        """Recorded decisions as one node has applied them, newest first.

        ``state``: "committed", "aborted", "open" (a branch has not acknowledged), or None for all. ``limit``: 1 to 1000.
        ``before``: only txids below this one, to page on. Fewer than ``limit``: there are no more. ``timeout``: of each answer;
        rows of many branches need several. Raises Unavailable.
        """
        wanted = operations.TRANSACTIONS.given(state, limit, before)
        rows, left, is_cut = list[Row](), wanted.limit, True
        while is_cut and left > 0:
            page = await self.ask(operations.TRANSACTIONS, wanted.state, left, wanted.before, timeout=timeout)
            rows += page.rows
            left, is_cut = left - len(page.rows), page.is_cut
            wanted = wanted._replace(before=rows[-1]["txid"] if rows else None)
        return rows

    async def show(self, txid: TxId | str, *, timeout: float = TIMEOUT_S) -> Row | None:
        """The recorded decision with its branches, or None if one node has none recorded. Raises Unavailable."""
        return await self.ask(operations.SHOW, txid, timeout=timeout)

    async def node_info(self, node_name: str | None = None, *, timeout: float = TIMEOUT_S) -> NodeStatus:
        """How one node is: the one named, or any. Raises Unavailable; LocalProtocolError if no node is called that."""
        if node_name is None:
            return await self.ask(operations.NODE, timeout=timeout)
        seconds = fields.seconds(timeout)
        loop = self._bind(asyncio.get_running_loop())
        deadline = loop.time() + seconds
        if self._nodes.named(node_name) is None:
            await self.nodes(timeout=seconds)  # names are learned from hellos
        link = self._nodes.named(node_name)
        if link is None:
            known = ", ".join(sorted(link.node or str(link) for link in self._nodes.links))
            raise LocalProtocolError(f"no node that answers is called {node_name!r}; the nodes are {known}")
        return await self._ask_at(link, deadline, operations.NODE)

    async def nodes(self, *, timeout: float = 2.0) -> dict[str, NodeStatus | RaftcoordError]:
        """How each node is, or why that is not known, by the node's name (its address, if that has not been learned)."""
        seconds = fields.seconds(timeout)
        loop = self._bind(asyncio.get_running_loop())
        deadline = loop.time() + seconds

        async def ask(link: Link) -> NodeStatus | RaftcoordError:
            try:
                return await self._ask_at(link, deadline, operations.NODE)
            except RaftcoordError as error:
                return error

        found = await asyncio.gather(*map(ask, self._nodes.links))
        return {link.node or str(link): each for link, each in zip(self._nodes.links, found, strict=True)}

    # -- operating ------------------------------------------------------------------------------------------------

    async def add_node(self, node_name: str, *, timeout: float = TIMEOUT_S) -> dict[str, Any]:
        """Take the node ``node_name`` in as a member: it is sent the ledger, and votes when it has caught up.

        It must run, in an empty data directory and with a cluster.yaml that names the members and itself. Returns ``node``,
        ``step``, ``by`` (the leader), ``epoch`` and ``members``. Asking again is safe. Raises LocalProtocolError for what cannot
        be, and Unavailable if it could not be done in ``timeout`` seconds: the node is not there, or there is no majority.
        """
        return await self._change_members("add", node_name, timeout)

    async def remove_node(self, node_name: str, *, timeout: float = TIMEOUT_S) -> dict[str, Any]:
        """Take the member ``node_name`` out. As ``add_node``; refused if the voters that are up would be no majority then."""
        return await self._change_members("remove", node_name, timeout)

    async def replace_node(self, node_name: str, *, timeout: float = TIMEOUT_S) -> dict[str, Any]:
        """Take the new node that answers as ``node_name`` in place of the member of that name, whose data is given up for good.

        The old one must be stopped, and the new one running in an empty data directory. As ``add_node``.
        """
        return await self._change_members("replace", node_name, timeout)

    async def _change_members(self, step: str, node_name: str, timeout: float) -> dict[str, Any]:
        return await self.ask(operations.CHANGE_MEMBERS, step, node_name, timeout=timeout)

    async def lower_horizon(self, who: str, *, after_ms: int = 0, timeout: float = TIMEOUT_S) -> dict[str, Any]:
        """Lower a horizon that lies in the future, so that new txids are accepted again, a few minutes from now.

        What was forgotten stays forgotten. ``who``: the name of the operator. ``after_ms``: a time (Unix, ms). Txids up to
        it are not accepted any more. Give the latest time that the clock of any client showed while the horizon was wrong, if
        it was ahead of the nodes' clocks of now. Returns what is recorded: ``was_ms``, ``horizon_ms``, ``who``, ``at_ms``. Raises
        Unavailable if a node does not run, its clock is wrong, there is no leader, or the horizon need not be lowered; then
        nothing was changed, or the message says that it is not confirmed.
        """
        given = operations.LOWER_HORIZON.given(who, after_ms)
        deadline = asyncio.get_running_loop().time() + fields.seconds(timeout)
        leader = leader_among(await self.nodes(timeout=min(timeout, 2.0)))
        link = None if leader is None else self._nodes.named(leader.name)
        if link is None:
            raise Unavailable("there is no leader, so the horizon was not lowered; start the nodes that do not run")
        return await self._ask_at(link, deadline, operations.LOWER_HORIZON, *given)

    async def participants(self, *, timeout: float = TIMEOUT_S) -> list[ParticipantRow]:
        """Each participant whose state one node knows, or that is connected to it, by name.

        ``timeout``: of each answer; thousands of participants need several. Raises Unavailable.
        """
        page: Page[ParticipantRow] = await self.ask(operations.PARTICIPANTS, timeout=timeout)
        rows = page.rows
        while page.is_cut:
            page = await self.ask(operations.PARTICIPANTS, rows[-1].name, timeout=timeout)
            rows += page.rows
        return rows

    async def replace_participant(
        self, name: str, who: str, *, identity: str | None = None, timeout: float = TIMEOUT_S
    ) -> dict[str, Any]:
        """Let another state go by the name of a participant, in place of the one that is known, which is lost for good.

        ``identity``: of the new state (32 hex digits); None: the one that a node has refused under that name, so start the
        participant on its new state first. ``who``: the name of the operator. The outcomes of branches that the old state
        had prepared are delivered to the new one, which does not know them: that is recorded as damage. Returns what is
        recorded: ``name``, ``identity``, ``before``, ``who``, ``at_ms``. Asking again is safe. Raises LocalProtocolError if
        the old state is connected or the name is not known, and Unavailable if no other state was refused or no node confirms
        it within ``timeout`` seconds.
        """
        return await self.ask(operations.REPLACE_PARTICIPANT, name, identity, who, timeout=timeout)

    async def forget_participant(self, name: str, who: str, *, timeout: float = TIMEOUT_S) -> dict[str, Any]:
        """Forget which state goes by the name of a participant that does not exist any more. The next that comes is bound.

        Raises as ``replace_participant``.
        """
        return await self.ask(operations.FORGET_PARTICIPANT, name, who, timeout=timeout)

    # -- damage ---------------------------------------------------------------------------------------------------

    async def damages(
        self, txid: TxId | str | None = None, *, limit: int = 100, timeout: float = TIMEOUT_S
    ) -> DamagePage:
        """Damaged branches as one node has applied them, first those that nobody has acknowledged, each newest first.

        ``txid``: of that transaction alone. ``limit``: 1 to 500. Raises Unavailable.
        """
        return await self.ask(operations.DAMAGES, limit, txid, timeout=timeout)

    async def report_damage(self, txid: TxId | str, branch: str, what: str, *, timeout: float = TIMEOUT_S) -> None:
        """Record that ``branch`` was finished outside the protocol. The first record for a branch is kept.

        ``what``: what happened, to be read by a person (1 to 500 characters). Asking again is safe. Raises Unavailable if no
        node confirms it within ``timeout`` seconds; then repeat it.
        """
        await self.ask(operations.REPORT_DAMAGE, txid, branch, what, timeout=timeout)

    async def acknowledge(self, txid: TxId | str, branch: str, who: str, *, timeout: float = TIMEOUT_S) -> DamageRow:
        """Say that ``who`` has seen the damage of ``branch`` and dealt with it: the ledger waits for that branch no longer.

        Returns the damage as it is recorded: ``acknowledged_by`` may name somebody who came first. It stays listed until it
        is older than the horizon. A branch that comes back all the same hears COMMIT. Asking again is safe. Raises
        LocalProtocolError if none is recorded, Unavailable if no node confirms it within ``timeout`` seconds.
        """
        return await self.ask(operations.ACKNOWLEDGE, txid, branch, who, timeout=timeout)

    async def acknowledge_all(
        self, who: str, *, upto_ms: int, branch: str | None = None, timeout: float = TIMEOUT_S
    ) -> int:
        """As ``acknowledge``, for all damage that nobody has acknowledged; how many branches that were.

        ``upto_ms``: only what was reported until then (Unix time, ms; the ``at_ms`` of the newest that was looked at), because
        nobody has seen what came since. ``branch``: of that name alone. ``timeout``: for each 500 of them.
        """
        count, left = 0, 1
        while left:
            done = await self.ask(operations.ACKNOWLEDGE_ALL, branch, upto_ms, who, timeout=timeout)
            count, left = count + done.acknowledged, done.left
        return count

    async def close_branches(
        self, branches: Mapping[TxId, Sequence[str]], who: str, why: str, *, timeout: float = TIMEOUT_S
    ) -> int:
        """Say that these branches of COMMITs will never come back, so that the ledger waits for them no longer.

        ``branches``: at most 500 in all, by txid. ``who`` and ``why`` are recorded; ``show`` gives them. The outcome is not
        changed and never forgotten: a branch that comes back all the same hears COMMIT. Returns how many are closed; those that
        have acknowledged meanwhile are not. Asking again is safe. Raises LocalProtocolError, and then none is closed, if one is
        not of a COMMIT or its participant is connected; Unavailable if no node confirms it within ``timeout`` seconds.
        """
        return await self.ask(operations.CLOSE, branches, who, why, timeout=timeout)

    # -- asking ---------------------------------------------------------------------------------------------------

    async def ask(self, operation: Operation[R, A], *given: Any, timeout: float = TIMEOUT_S) -> A:
        """Ask for any operation of the table (api/operations.py), with what its request takes but the timeout.

        LocalProtocolError for what is given wrongly; Unavailable, Overloaded or InDoubt as the operation is.
        """
        seconds = fields.seconds(timeout)
        at = operation.timeout_at
        values = given if at < 0 else (*given[:at], fields.milliseconds(seconds), *given[at:])
        deadline = asyncio.get_running_loop().time() + seconds
        return await self._answer(operation, operation.given(*values), deadline)

    async def _ask_at(self, link: Link, deadline: float, operation: Operation[R, A], *given: Any) -> A:
        """The same, of that node alone, once."""
        call = Call(operation, operation.given(*given))
        conn = await link.open(deadline, any_cluster=operation.any_cluster)
        reply = await link.ask(conn, call.method, call.params(0.0), deadline)
        if isinstance(reply, RpcError):
            raise Unavailable(f"{link}: {reply.message}")
        return operation.answer.read(reply)

    async def _answer(self, operation: Operation[R, A], request: R, deadline: float, grace: float = 0.0) -> A:
        """The answer to ``request``. The common case runs here: a good connection, an answer, and nothing in between."""
        loop = self._bind(asyncio.get_running_loop())
        call = Call(operation, request)
        link = self._nodes.in_use
        conn = link.ready
        if conn is None:
            return call.read(await self._persist(Tries(call, self._nodes.in_order(None), deadline, self._rng, grace)))
        now = loop.time()
        share = share_of(call, deadline - now, len(self._nodes.links))
        reply = await link.ask(conn, operation.method, call.params(share), now + share + PATIENCE_S)
        if type(reply) is not RpcError:
            return call.read(reply)
        tries = Tries(call, self._nodes.in_order(link), deadline, self._rng, grace)
        tries.judge(link, reply)
        return call.read(await self._persist(tries))

    async def _persist(self, tries: Tries) -> Any:
        try:
            link, result = await tries.run()
        except (Unavailable, InDoubt):
            self._nodes.failing = True
            raise
        self._nodes.use(link)
        if tries.fate_unknown:
            tries.check_known(result)
        return result

    async def _settle(self, txid: TxId, lost: FateUnknown, deadline: float) -> Outcome:
        """The outcome of a submit whose fate is unknown: ask the others first."""
        call = Call(operations.RESOLVE, operations.ToResolve(txid, limits.TIMEOUT_MS_MAX))
        tries = Tries(call, self._nodes.in_order(lost.link), deadline, self._rng)
        tries.touched(lost.link, str(lost))
        known = call.read(await self._persist(tries))
        if known.state is State.FORGOTTEN:
            raise InDoubt(txid, "it is older than what the cluster remembers")
        found = _outcome(txid, known)
        if found.committed:
            return found
        why = f"resolved after {lost.link} was lost ({lost}): {found.reason}"
        return Outcome(txid, False, why[: limits.REASON_LENGTH_MAX], found.term, found.index, found.branch)

    def _bind(self, loop: asyncio.AbstractEventLoop) -> asyncio.AbstractEventLoop:
        """Belong to ``loop`` from the first use on."""
        if self._loop is loop:
            return loop
        if self._closed:
            raise LocalProtocolError("this client is closed; make a new one")
        if self._loop is not None:
            raise LocalProtocolError("this client belongs to another event loop; make one for each loop")
        self._loop = loop
        self._deadlines = Deadlines(loop)
        self._completing = Completing(loop, self.complete)
        parts = (self._nodes.cluster, self._deadlines, self._name, self._clocks)
        self._nodes.begin([Link(each, *parts) for each in self._endpoints])
        return loop

    def _time(self) -> float:
        return 0.0 if self._loop is None else self._loop.time()

    def _mint(self) -> TxId:
        if self._simulated:
            return TxId.new(self._wall_ms(), self._rng.randbytes(10))
        return TxId.new()


def _as_answer(txid: TxId, known: Known) -> Answer:
    return Answer(txid, known.state, known.reason, known.term, known.index)


def _outcome(txid: TxId, known: Known) -> Outcome:
    """COMMITTED or ABORTED, of what was read as settled. ForgottenTxid if it is neither."""
    if known.state is State.FORGOTTEN:
        raise ForgottenTxid(
            f"txid {txid} is older than what the cluster remembers: nothing was recorded, and what became of it before is not "
            "known any more; use a new txid"
        )
    return Outcome(txid, known.state is State.COMMITTED, known.reason, known.term, known.index, known.branch or None)
