"""The client port: what clients and participants may ask of a node.

Owed: every request is answered once, with an outcome that stands, or with an error that says whether anything was attempted.
"unavailable" and "overloaded" are said only when nothing was. Bad input changes nothing. One caller's error disturbs no other.
Never: an answer from what was proposed.

``decide`` is the hot path: no task, no future and no timer of its own; the answer goes out from the proposal's callback.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final

from raftcoord import limits
from raftcoord.core.commands import Complete, Decide
from raftcoord.core.decisions import Result, Standing
from raftcoord.env import Env
from raftcoord.errors import LocalProtocolError, Overloaded, RaftcoordError, RemoteProtocolError, Unavailable
from raftcoord.node import answers, listings, membership, namesakes, requests
from raftcoord.node.admission import Admission
from raftcoord.node.agreement import Agreement
from raftcoord.node.closing import Closing
from raftcoord.node.damages import Damages
from raftcoord.node.listings import StoredDecisions
from raftcoord.node.operating import Operating
from raftcoord.node.sessions import Session, Sessions
from raftcoord.node.transactions import Asked, Transactions
from raftcoord.rpc.codes import unknown_method
from raftcoord.rpc.connection import Connection
from raftcoord.types import TxId, Verdict, checked_name

log: Final = logging.getLogger("raftcoord.node")

PRESUMED_ABORT: Final = "it was undecided when its outcome was asked for (presumed abort)"
_FATE: Final = "the proposal was handed over, and no majority confirmed it in time"

Method = Callable[[Connection, int, list[Any]], None]


class Service:
    """The handler of every connection on the client port. ``about``: what ``node`` says besides."""

    def __init__(
        self,
        agreement: Agreement,
        stored: StoredDecisions,
        sessions: Sessions,
        admission: Admission,
        transactions: Transactions,
        env: Env,
        *,
        node: str,
        cluster_name: str,
        about: Callable[[], dict[str, Any]],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._agreement = agreement
        self._stored = stored
        self._sessions = sessions
        self._admission = admission
        self._transactions = transactions
        self._env = env
        self._node = node
        self._cluster_name = cluster_name
        self._about = about
        self._listings = listings.Listings()
        self._damages = damages = Damages(agreement, env)
        operating = Operating(agreement, admission, Closing(agreement, sessions, env), env, node)
        self._client_methods: dict[str, Method] = {
            "decide": self._decide,
            "submit": self._submit,
            "status": self._status,
            "resolve": self._resolve,
            "resolve_branch": self._branch_resolve,
            "complete": self._complete,
            "node": self._describe,
            "txns": self._list,
            "show": self._show,
            **operating.methods,
            "damages": self._list_damages,
            "report_damage": damages.report,
            "acknowledge": damages.acknowledge,
            "acknowledge_all": damages.acknowledge_all,
        }
        self._participant_methods: dict[str, Method] = {
            "status": self._branch_status,
            "resolve": self._branch_resolve,
        }

    # -- connections ----------------------------------------------------------------------------------------------

    def on_open(self, conn: Connection) -> None:
        """Nothing is due before the hello."""

    def on_hello(self, conn: Connection, role: str, details: dict[str, Any]) -> dict[str, Any]:
        """Clients are welcome at any time; participants once the cluster has its id, which they remember."""
        other = namesakes.of_another_cluster(details, self._agreement.ledger.cluster, self._cluster_name)
        if role == "participant":
            name = checked_name(details.get("name"), "participant")
            instance = requests.instance(details.get("instance"))
            if not self._agreement.ledger.cluster:
                raise Unavailable(
                    "the cluster is not founded yet: a majority of the nodes must be up; dial again in a moment"
                )
            if other:
                namesakes.note_participant(name, other)
            else:
                self._sessions.check_free(name)
                identity = self._admission.check(name, details.get("identity"))
                conn.context = self._sessions.add(name, instance, conn, identity)
        elif role == "client":
            namesakes.refuse_client(other)
            conn.expendable = True
        else:
            raise LocalProtocolError(
                f"role {role[:60]!r} is not served on this port; it serves 'client' and 'participant'"
            )
        return {
            "node": self._node,
            "cluster": self._agreement.ledger.cluster,
            "cluster_name": self._cluster_name,
            "wall_ms": self._env.wall_ms(),
            "horizon_ms": self._agreement.ledger.horizon_ms,
        }

    def on_request(self, conn: Connection, request_id: int, method: str, params: list[Any]) -> None:
        """Answered here or from a callback. A RaftcoordError that is raised is the answer."""
        known = self._client_methods if conn.context is None else self._participant_methods
        serve = known.get(method)
        if serve is None:
            raise LocalProtocolError(str(unknown_method(method)))
        serve(conn, request_id, params)

    def on_notify(self, conn: Connection, method: str, params: list[Any]) -> None:
        """Nobody notifies a node."""
        raise RemoteProtocolError(f"the notification {method[:60]!r}: none is known here")

    def on_closed(self, conn: Connection, reason: str) -> None:
        """A participant's session ends with its connection; a client's transactions go on."""
        if isinstance(conn.context, Session):
            self._sessions.remove(conn.context, reason)

    # -- deciding -------------------------------------------------------------------------------------------------

    def _decide(self, conn: Connection, request_id: int, params: list[Any]) -> None:
        raw, number, names, text, timeout = requests.params(
            params, "txid", "verdict", "branches", "reason", "timeout_ms"
        )
        txid = requests.txid(raw)
        verdict = requests.verdict(number)
        branches = requests.branches(names)
        reason = requests.reason(text)
        deadline = self._loop.time() + requests.timeout_ms(timeout) / 1000
        now_ms = self._env.wall_ms()

        def done(result: Result | RaftcoordError) -> None:
            if type(result) is Standing:
                decision = result.decision
                if verdict and decision is not None and decision.verdict and set(decision.branches) != set(branches):
                    conn.reply_failure(request_id, answers.txid_used(txid, decision))
                else:
                    conn.reply(request_id, answers.of_standing(result, self._agreement))
            else:
                self._not_decided(conn, request_id, txid, result)

        known = self._agreement.ledger.decision(txid)
        if known is not None:
            done(Standing(known.state, known, False))
        else:
            requests.decidable(txid, now_ms)
            self._agreement.propose(Decide(txid, verdict, branches, reason, "", now_ms), deadline, done)

    def _submit(self, conn: Connection, request_id: int, params: list[Any]) -> None:
        raw, given, timeout, wait = requests.params(params, "txid", "{participant: payload}", "timeout_ms", "wait")
        txid = requests.txid(raw)
        asked = Asked(
            txid,
            requests.payloads(given),
            requests.timeout_ms(timeout),
            requests.wait_completed(wait),
            lambda standing: conn.reply(request_id, answers.of_standing(standing, self._agreement)),
            lambda standing: self._used(conn, request_id, txid, standing),
            lambda: conn.reply_failure(request_id, answers.in_doubt(txid, _FATE)),
        )
        self._must_be_new(txid)
        if self._agreement.leader is None:
            raise Unavailable(
                "this node sees no leader, so nothing was attempted; try another node, or again in a moment (raftcoord status)"
            )
        self._transactions.submit(asked)

    def _must_be_new(self, txid: TxId) -> None:
        ledger = self._agreement.ledger
        decision = ledger.decision(txid)
        if decision is not None:
            raise answers.txid_used(txid, decision)
        if txid in self._transactions.running:
            raise answers.txid_running(txid)
        requests.not_forgotten(txid, ledger.horizon_ms)
        requests.not_in_the_future(txid, self._env.wall_ms())

    def _used(self, conn: Connection, request_id: int, txid: TxId, standing: Standing) -> None:
        assert standing.decision is not None  # FORGOTTEN is not somebody's use
        conn.reply_failure(request_id, answers.txid_used(txid, standing.decision))

    def _not_decided(self, conn: Connection, request_id: int, txid: TxId, result: object) -> None:
        """The end of a proposal that the ledger did not answer."""
        if isinstance(result, (Unavailable, Overloaded)):
            conn.reply_failure(request_id, result)
        else:
            conn.reply_failure(request_id, answers.in_doubt(txid, _FATE))

    # -- asking ---------------------------------------------------------------------------------------------------

    def _status(self, conn: Connection, request_id: int, params: list[Any]) -> None:
        (raw,) = requests.params(params, "txid")
        self._look(conn, request_id, requests.txid(raw), lambda told: told)

    def _branch_status(self, conn: Connection, request_id: int, params: list[Any]) -> None:
        raw, name = requests.params(params, "txid", "branch")
        txid, branch = requests.txid(raw), self._own_branch(conn, name)
        self._look(conn, request_id, txid, lambda told: answers.for_branch(told, txid, branch, self._agreement))

    def _look(
        self, conn: Connection, request_id: int, txid: TxId, view: Callable[[answers.Told], answers.Told]
    ) -> None:
        """What is applied here is final and told at once. Absence proves nothing until a barrier was passed."""
        told = answers.final(txid, self._agreement)
        if told is not None:
            conn.reply(request_id, view(told))
            return

        def reached(result: tuple[int, int] | RaftcoordError) -> None:
            if isinstance(result, RaftcoordError):
                conn.reply_failure(
                    request_id,
                    Unavailable(
                        "this node could not confirm in time that it knows the latest decisions; ask another one, or again"
                    ),
                )
            else:
                conn.reply(request_id, view(answers.final(txid, self._agreement) or answers.undecided(*result)))

        self._agreement.barrier(self._loop.time() + limits.ASK_MS / 1000, reached)

    def _resolve(self, conn: Connection, request_id: int, params: list[Any]) -> None:
        raw, timeout = requests.params(params, "txid", "timeout_ms")
        self._settle(conn, request_id, requests.txid(raw), requests.timeout_ms(timeout), lambda told: told)

    def _branch_resolve(self, conn: Connection, request_id: int, params: list[Any]) -> None:
        raw, name, timeout = requests.params(params, "txid", "branch", "timeout_ms")
        txid, branch = requests.txid(raw), self._own_branch(conn, name)
        self._settle(
            conn,
            request_id,
            txid,
            requests.timeout_ms(timeout),
            lambda told: answers.for_branch(told, txid, branch, self._agreement),
        )

    def _settle(
        self,
        conn: Connection,
        request_id: int,
        txid: TxId,
        timeout_ms: int,
        view: Callable[[answers.Told], answers.Told],
    ) -> None:
        """As ``_look``; what is undecided is proposed to be aborted, and told is what then stands."""
        told = answers.final(txid, self._agreement)
        if told is not None:
            conn.reply(request_id, view(told))
            return
        now_ms = self._env.wall_ms()
        requests.decidable(txid, now_ms)

        def done(result: Result | RaftcoordError) -> None:
            if isinstance(result, Standing):
                conn.reply(request_id, view(answers.of_standing(result, self._agreement)))
            else:
                self._not_decided(conn, request_id, txid, result)

        command = Decide(txid, Verdict.ABORT, (), PRESUMED_ABORT, "", now_ms)
        self._agreement.propose(command, self._loop.time() + timeout_ms / 1000, done)

    @staticmethod
    def _own_branch(conn: Connection, value: object) -> str:
        branch = requests.branch(value)
        session = conn.context  # None: a client, which may ask for any
        if session is not None and branch != session.name:
            raise LocalProtocolError(
                f"participant {session.name!r} asked for branch {branch!r}; it may ask for its own only"
            )
        return branch

    # -- completing -----------------------------------------------------------------------------------------------

    def _complete(self, conn: Connection, request_id: int, params: list[Any]) -> None:
        raw, names = requests.params(params, "txid", "branches")
        txid = requests.txid(raw)
        wanted = None if names is None else requests.branches(names)
        deadline = self._loop.time() + limits.ASK_MS / 1000
        if self._agreement.ledger.decision(txid) is not None:
            self._complete_known(conn, request_id, txid, wanted, deadline)
            return

        def reached(result: tuple[int, int] | RaftcoordError) -> None:
            try:
                if isinstance(result, RaftcoordError):
                    raise Unavailable(
                        "nothing was completed: this node could not confirm the decision in time; ask again"
                    )
                self._complete_known(conn, request_id, txid, wanted, deadline)
            except RaftcoordError as error:
                conn.reply_failure(request_id, error)

        self._agreement.barrier(deadline, reached)

    def _complete_known(
        self, conn: Connection, request_id: int, txid: TxId, wanted: tuple[str, ...] | None, deadline: float
    ) -> None:
        ledger = self._agreement.ledger
        decision = ledger.decision(txid)
        if decision is None and txid.ms >= ledger.horizon_ms:
            raise LocalProtocolError(f"transaction {txid} is not decided, so nothing can be complete; decide it first")
        unknown = set(wanted or ()) - set(decision.branches if decision else ())
        if decision is not None and unknown:
            raise LocalProtocolError(
                f"transaction {txid} has no branch {min(unknown)!r}; its branches: {', '.join(decision.branches) or 'none'}"
            )
        left = () if decision is None else decision.outstanding
        acknowledged = left if wanted is None else tuple(branch for branch in left if branch in wanted)
        if not acknowledged:
            conn.reply(request_id, True)
            return

        def done(result: Result | RaftcoordError) -> None:
            if isinstance(result, (Unavailable, Overloaded)):
                conn.reply_failure(request_id, result)
            elif isinstance(result, RaftcoordError):
                why = "it is decided, but whether its completion was recorded is not known; complete it again, that is safe"
                conn.reply_failure(request_id, answers.in_doubt(txid, why))
            else:
                conn.reply(request_id, True)

        self._agreement.propose(Complete(((txid, acknowledged),)), deadline, done)

    # -- showing --------------------------------------------------------------------------------------------------

    def _describe(self, conn: Connection, request_id: int, params: list[Any]) -> None:
        requests.params(params)
        agreement = self._agreement
        ledger = agreement.ledger
        conn.reply(
            request_id,
            {
                "node": self._node,
                "cluster": ledger.cluster,
                "cluster_name": self._cluster_name,
                "role": agreement.role,
                "leader": agreement.leader,
                "term": agreement.term,
                "commit_index": agreement.commit_index,
                "applied_index": agreement.applied_index,
                "log_first": agreement.log_first,
                "log_last": agreement.log_last,
                "open": ledger.open_count,
                "damages": self._damages.pending,
                "decisions_in_memory": ledger.memory_count,
                "horizon_ms": ledger.horizon_ms,
                "participants": self._sessions.names(),
                "running": len(self._transactions.running),
                "peers": agreement.peers_status(),
                **membership.shown(agreement.members),
                "wall_ms": self._env.wall_ms(),
                **self._about(),
            },
        )

    def _list(self, conn: Connection, request_id: int, params: list[Any]) -> None:
        wanted = requests.listing(*requests.params(params, "{state, limit, before}"))
        self._listings.ask(conn, request_id, "txns", listings.decisions(self._stored, wanted))

    def _list_damages(self, conn: Connection, request_id: int, params: list[Any]) -> None:
        self._listings.ask(conn, request_id, "damages", listings.at_once(lambda: self._damages.show(params)))

    def _show(self, conn: Connection, request_id: int, params: list[Any]) -> None:
        (raw,) = requests.params(params, "txid")
        txid = requests.txid(raw)
        decision = self._agreement.ledger.decision(txid)
        running = self._transactions.running.get(txid)
        shown = None if decision is None else answers.row(decision)
        if running is not None:
            shown = {**(shown or answers.undecided_row(txid)), "running": running.show()}
        conn.reply(request_id, shown)
