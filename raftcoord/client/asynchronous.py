"""The asynchronous client: transactions over whichever node can be reached.

Owed: what is returned stands in the ledger; what is raised says truly whether anything happened (errors.py). Input is checked
before anything is sent. One connection is used as long as it serves, the others when it does not. Never: a submit that is
sent twice; a task that outlives ``close``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from raftcoord import limits
from raftcoord.client import answers, checks
from raftcoord.client.admission import Admission
from raftcoord.client.answers import Row
from raftcoord.client.async_transaction import TransactionRequests
from raftcoord.client.completing import Completing
from raftcoord.client.damages import GRACE_S, TIMEOUT_S, DamageRequests
from raftcoord.client.deadlines import Deadlines
from raftcoord.client.effort import PATIENCE_S, Ask, Effort, Lost, share_of
from raftcoord.client.horizon import HorizonRequests
from raftcoord.client.link import ClusterIdentity, Endpoint, Link
from raftcoord.client.participants import ParticipantRequests
from raftcoord.env import Env
from raftcoord.errors import ConfigError, InDoubt, LocalProtocolError, RaftcoordError, Unavailable
from raftcoord.rpc.codes import RpcError
from raftcoord.types import Answer, Outcome, Payload, State, TxId, Verdict, checked_branch, checked_name

if TYPE_CHECKING:
    from raftcoord.config import Config


class AsyncClient(Admission, DamageRequests, HorizonRequests, ParticipantRequests, TransactionRequests):
    """A client of one cluster. Make it with ``from_config`` or ``from_addresses``, and use it in one event loop.

    ``async with`` closes it; otherwise ``await client.close()``. A txid may be given as a TxId or as 32 hex digits. Every
    method raises LocalProtocolError, before anything is sent, for what it was given wrongly.
    """

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
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
        self._cluster = ClusterIdentity(cluster_name, cluster_id, source)
        self._name = name
        self.resources = frozenset(resources)
        self.grace = checks.grace(grace)
        self._simulated = env is not None
        env = env or Env.real()
        self._rng = env.rng
        self._wall_ms = env.wall_ms
        self._loop: asyncio.AbstractEventLoop | None = None
        self._links: list[Link] = []
        self._deadlines: Deadlines
        self._sticky: Link
        self._failing = False
        """Whether the last request that was tried at several nodes found none."""
        self._closed = False

    @classmethod
    def from_config(cls, config: str | Path | Config, *, name: str = "client", grace: float = GRACE_S) -> Self:
        """A client of the cluster that cluster.yaml (its path, or the Config read from it) describes. Raises ConfigError.

        ``grace``: seconds after a transaction's timeout to learn its outcome and to carry it out; see the class.
        """
        from raftcoord.config import Config  # it brings PyYAML, which a client by addresses does not need
        from raftcoord.storage.founded import founded_in

        read = config if isinstance(config, Config) else Config.load(config)
        endpoints = [Endpoint(node.client.host, node.client.port, node.name) for node in read.nodes]
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
        return cls([Endpoint(address.host, address.port) for address in parsed], name=name, grace=grace)

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
        for link in self._links:
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
        """Run a transaction over the participants that ``payloads`` names; the Outcome is what stands in the ledger.

        ``timeout``: seconds (0.001 to 600) until it is aborted if it is not decided. ``wait``: "decided", or "completed" to
        return when every participant has carried out the outcome (or ``timeout`` has passed). A node that is lost on
        the way is not asked again: the transaction is resolved through another one, which aborts it if it was not
        decided, and ``Outcome.reason`` then says so.

        Raises InDoubt if no node could tell the outcome until the client's ``grace`` after ``timeout``; Unavailable or
        Overloaded if nothing was attempted.
        """
        given = checks.payloads(payloads)
        seconds = checks.timeout(timeout)
        made = self._mint() if txid is None else checks.txid(txid)
        ask = Ask("submit", (made, given), (checks.wait(wait),), timed=True, txid=made, repeatable=False)
        deadline = asyncio.get_running_loop().time() + seconds
        try:
            result = await self._answer(ask, deadline)
        except Lost as lost:
            return await self._settle(made, lost, deadline + self.grace)
        return answers.standing(made, result)

    async def status(self, txid: TxId | str, *, timeout: float = TIMEOUT_S) -> Answer:
        """What is known of a transaction: COMMITTED, ABORTED, UNDECIDED so far, or FORGOTTEN (older than the horizon).

        Changes nothing. Raises Unavailable if no node answers within ``timeout`` seconds.
        """
        made = checks.txid(txid)
        return answers.answer(made, await self._ask(Ask("status", (made,)), timeout))

    async def resolve(self, txid: TxId | str, *, branch: str | None = None, timeout: float = TIMEOUT_S) -> Answer:
        """The final answer: an undecided transaction is aborted by this. COMMITTED or ABORTED.

        Or FORGOTTEN: it is older than the horizon and finished; it may have been either, and nothing of it is left to do.
        ``branch``: what that branch, which is prepared, has to do: ABORTED also if the transaction was committed without it, or
        is forgotten; FORGOTTEN only if it must be left alone, because damage was recorded for it.
        Raises InDoubt if no node confirms it within ``timeout`` seconds, Unavailable if none could be asked.
        """
        made = checks.txid(txid)
        if branch is None:
            ask = Ask("resolve", (made,), timed=True, txid=made)
        else:
            ask = Ask("resolve_branch", (made, checked_branch(branch)), timed=True, txid=made)
        result = await self._ask(ask, timeout)
        return answers.final(made, result)

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

        The Outcome is what stands, and may differ from ``verdict``: then somebody resolved it before. ``branches``: who must
        carry it out; report them with ``complete``. ``reason``: of an abort. Asking again is safe.

        Raises Unavailable or Overloaded if nothing was attempted within ``timeout`` seconds. InDoubt if it was, and no node
        confirms it until the client's ``grace`` after that: do not guess, ask ``resolve``. LocalProtocolError if a COMMIT with
        other branches stands, or the txid is older than the horizon.
        """
        made = checks.txid(txid)
        wanted = checks.verdict(verdict)
        head = (made, int(wanted), checks.branches(branches), checks.reason(reason, wanted))
        deadline = asyncio.get_running_loop().time() + checks.timeout(timeout)
        return answers.standing(
            made, await self._answer(Ask("decide", head, timed=True, txid=made), deadline, self.grace)
        )

    async def complete(
        self, txid: TxId | str, branches: Iterable[str] | None = None, *, timeout: float = TIMEOUT_S
    ) -> None:
        """Report that ``branches`` (None: all) have carried out the outcome, so that it may be forgotten one day.

        Asking again is safe. Raises Unavailable if no node confirms it within ``timeout`` seconds; then repeat it.
        """
        made = checks.txid(txid)
        await self._ask(Ask("complete", (made, None if branches is None else checks.branches(branches))), timeout)

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
        below = None if before is None else TxId.parse(before)
        kind, left, rows, is_cut = checks.kind(state), checks.limit(limit), list[Row](), True
        while is_cut and left > 0:
            query = {"state": kind, "limit": left, "before": below}
            some, is_cut = answers.page(await self._ask(Ask("txns", (query,)), timeout))
            rows += some
            left -= len(some)
            below = rows[-1]["txid"] if rows else None
        return rows

    async def show(self, txid: TxId | str, *, timeout: float = TIMEOUT_S) -> Row | None:
        """The recorded decision with its branches, or None if one node has none recorded. Raises Unavailable."""
        result = await self._ask(Ask("show", (TxId.parse(txid),)), timeout)
        return None if result is None else answers.row(result)

    async def node_info(self, node_name: str | None = None, *, timeout: float = TIMEOUT_S) -> dict[str, Any]:
        """How one node is: the one named, or any. Raises Unavailable; LocalProtocolError if no node is called that."""
        if node_name is None:
            return answers.info(await self._ask(Ask("node", (), any_cluster=True), timeout))
        seconds = checks.timeout(timeout)
        loop = self._bind(asyncio.get_running_loop())
        deadline = loop.time() + seconds
        if self._link_to(node_name) is None:
            await self.nodes(timeout=seconds)  # names are learned from hellos
        link = self._link_to(node_name)
        if link is None:
            known = ", ".join(sorted(link.node or str(link) for link in self._links))
            raise LocalProtocolError(f"no node that answers is called {node_name!r}; the nodes are {known}")
        found = await self._ask_one(link, deadline)
        if isinstance(found, RaftcoordError):
            raise found
        return found

    async def nodes(self, *, timeout: float = 2.0) -> dict[str, dict[str, Any] | RaftcoordError]:
        """How each node is, or why that is not known, by the node's name (its address, if that has not been learned)."""
        seconds = checks.timeout(timeout)
        loop = self._bind(asyncio.get_running_loop())
        deadline = loop.time() + seconds
        found = await asyncio.gather(*(self._ask_one(link, deadline) for link in self._links))
        return {link.node or str(link): each for link, each in zip(self._links, found, strict=True)}

    async def _ask_one(
        self, link: Link, deadline: float, method: str = "node", params: tuple[Any, ...] = ()
    ) -> dict[str, Any] | RaftcoordError:
        try:
            conn = await link.open(deadline, any_cluster=True)
            reply = await link.ask(conn, method, params, deadline)
            if isinstance(reply, RpcError):
                return Unavailable(f"{link}: {reply.message}")
            return answers.info(reply)
        except RaftcoordError as error:
            return error

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
        ask = Ask("change_members", (step, checked_name(node_name, "node")))
        return answers.info(await self._ask(ask, checks.timeout(timeout)))

    def _link_to(self, node_name: str) -> Link | None:
        return next((link for link in self._links if link.node == node_name), None)

    # -- asking ---------------------------------------------------------------------------------------------------

    async def _ask(self, ask: Ask, timeout: float) -> Any:
        deadline = asyncio.get_running_loop().time() + checks.timeout(timeout)
        return await self._answer(ask, deadline)

    async def _answer(self, ask: Ask, deadline: float, grace: float = 0.0) -> Any:
        """The result of ``ask``. The common case runs here: a good connection, an answer, and nothing in between."""
        loop = self._bind(asyncio.get_running_loop())
        link = self._sticky
        conn = link.ready
        if conn is None:
            return await self._persist(Effort(ask, self._order(None), deadline, self._rng, grace))
        now = loop.time()
        share = share_of(ask, deadline - now, len(self._links))
        reply = await link.ask(conn, ask.method, ask.params(share), now + share + PATIENCE_S)
        if type(reply) is not RpcError:
            return reply
        effort = Effort(ask, self._order(link), deadline, self._rng, grace)
        effort.judge(link, reply)
        return await self._persist(effort)

    async def _persist(self, effort: Effort) -> Any:
        try:
            link, result = await effort.run()
        except (Unavailable, InDoubt):
            self._failing = True
            raise
        self._failing = False
        self._sticky = link
        if effort.fate_unknown:
            effort.check_known(result)
        return result

    async def _settle(self, txid: TxId, lost: Lost, deadline: float) -> Outcome:
        """What stands of a submit whose fate is unknown: ask the others first."""
        effort = Effort(Ask("resolve", (txid,), timed=True, txid=txid), self._order(lost.link), deadline, self._rng)
        effort.touched(lost.link, str(lost))
        found = answers.standing(txid, await self._persist(effort), submitted=True)
        if found.committed:
            return found
        why = f"resolved after {lost.link} was lost ({lost}): {found.reason}"
        return Outcome(txid, False, why[: limits.REASON_LENGTH_MAX], found.term, found.index, found.branch)

    def _order(self, last: Link | None) -> list[Link]:
        """The links in the order of trying: the one in use first, the silent ones late, ``last`` at the end."""
        now = asyncio.get_running_loop().time()
        links = list(self._links)
        self._rng.shuffle(links)
        links.sort(
            key=lambda link: (link is last, link.suspect_until > now, link is not self._sticky, link.ready is None)
        )
        return links

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
        self._links = [Link(endpoint, self._cluster, self._deadlines, self._name) for endpoint in self._endpoints]
        self._sticky = self._rng.choice(self._links)
        return loop

    def _mint(self) -> TxId:
        if self._simulated:
            return TxId.new(self._wall_ms(), self._rng.randbytes(10))
        return TxId.new()
