"""The desk: it answers every operation of the table (api/operations.py), for every caller and through every door.

Owed: every request is answered once, with an outcome that is recorded, or with an error that says whether anything was attempted.
"unavailable" and "overloaded" are said only when nothing was. Bad input changes nothing. One asker's error disturbs no other.
Never: an answer from what was proposed; a connection.

A door (port_rpc.py) decodes a request, asks the function that ``methods`` names for it, and passes an answer on. An operation
is answered by ``answer(value)``, or by the RaftcoordError that was raised or passed to ``answer``.

``decide`` is the hot path: no task, no future and no timer of its own; the answer goes out from the proposal's callback.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from typing import Any, Final, NamedTuple

from raftcoord.api import answers, fields, operations
from raftcoord.api.answers import DamagePage, DamageRow, ManyAcknowledged, NodeStatus
from raftcoord.api.operations import A, Operation, R, Role
from raftcoord.core import asking, damage
from raftcoord.core.asking import Confirm, Question
from raftcoord.core.lowering import lower
from raftcoord.core.tables.decisions import Decide, Result, Standing
from raftcoord.env import Env
from raftcoord.errors import InDoubt, LocalProtocolError, NotKnown, Overloaded, RaftcoordError, Unavailable
from raftcoord.events import Decided
from raftcoord.limits import NodeBounds
from raftcoord.node import listings, membership
from raftcoord.node.admission import Admission
from raftcoord.node.agreement import Agreement
from raftcoord.node.listings import Answering, Asker, StoredDecisions
from raftcoord.node.sessions import Sessions
from raftcoord.node.transactions import Asked, Transactions
from raftcoord.types import TxId

log: Final = logging.getLogger("raftcoord.node")

Serve = Callable[[Any, Asker, Answering], None]
"""Answers one request. What it raises is the answer."""


class Served(NamedTuple):
    """An operation, and what answers it."""

    operation: Operation[Any, Any]
    serve: Serve


class Desk:
    """All that a node answers. ``about``: what ``node`` says besides."""

    def __init__(
        self,
        agreement: Agreement,
        stored: StoredDecisions,
        sessions: Sessions,
        admission: Admission,
        transactions: Transactions,
        env: Env,
        bounds: NodeBounds,
        *,
        node: str,
        cluster_name: str,
        about: Callable[[], NodeStatus],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._agreement = agreement
        self._events = agreement.events
        self._stored = stored
        self._sessions = sessions
        self._admission = admission
        self._transactions = transactions
        self._env = env
        self._clocks: Final = env.clocks
        self._bounds: Final = bounds
        self._node = node
        self._cluster_name = cluster_name
        self._about = about
        self._listings = listings.Listings()
        self._served: list[Served] = []
        self.serve(operations.DECIDE, self._decide)
        self.serve(operations.SUBMIT, self._submit)
        self.serve(operations.STATUS, self._status)
        self.serve(operations.STATUS_OF_BRANCH, self._status_of_branch)
        self.serve(operations.RESOLVE, self._resolve)
        self.serve(operations.RESOLVE_BRANCH, self._resolve_branch)
        self.serve(operations.COMPLETE, self._complete)
        self.serve(operations.NODE, self._describe)
        self.serve(operations.TRANSACTIONS, self._list)
        self.serve(operations.SHOW, self._show)
        self.serve(operations.DAMAGES, self._list_damages)
        self.serve(operations.REPORT_DAMAGE, self._report_damage)
        self.serve(operations.ACKNOWLEDGE, self._acknowledge)
        self.serve(operations.ACKNOWLEDGE_ALL, self._acknowledge_all)
        self.serve(operations.CLOSE, self._close)
        self.serve(operations.CHANGE_MEMBERS, self._change_members)
        self.serve(operations.LOWER_HORIZON, self._lower_horizon)
        self.serve(operations.PARTICIPANTS, self._participants)
        self.serve(operations.REPLACE_PARTICIPANT, self._replace_participant)
        self.serve(operations.FORGET_PARTICIPANT, self._forget_participant)

    def serve(self, operation: Operation[R, A], function: Callable[[R, Asker, Answering], None]) -> None:
        """Answer ``operation`` with ``function``."""
        self._served.append(Served(operation, function))

    def methods(self, roles: Collection[Role]) -> dict[str, Served]:
        """What an asker of those roles may ask, by its name on the wire."""
        return {
            method: served
            for served in self._served
            for role, method in served.operation.methods.items()
            if role in roles
        }

    # -- deciding -------------------------------------------------------------------------------------------------

    def _decide(self, request: operations.ToDecide, asker: Asker, answer: Answering) -> None:
        txid, verdict, branches, reason, timeout_ms = request
        agreement, events = self._agreement, self._events

        def done(result: Result | RaftcoordError) -> None:
            if type(result) is not Standing:
                answer(_not_decided(txid, result))
            elif result.decision is None:
                answer(asking.forgotten(agreement))
            elif verdict and asking.is_other(result.decision, branches):
                answer(asking.used(txid, result.decision))
            else:
                answer(asking.of_decision(result.decision))
            if events.wanted and type(result) is Standing:
                events.tell(Decided(txid, result.state, result.first))

        known = agreement.ledger.decision(txid)
        if known is not None:
            done(Standing(known.state, known, False))
            return
        now_ms = self._env.wall_ms()
        asking.check_decidable(txid, now_ms)
        deadline = self._loop.time() + timeout_ms / 1000
        agreement.propose(Decide(txid, verdict, branches, reason, "", now_ms), deadline, done)

    def _submit(self, request: operations.ToSubmit, asker: Asker, answer: Answering) -> None:
        if request.txid.ms >= self._agreement.ledger.horizon_ms:
            self._begin(request, answer)
            return

        def confirmed(result: tuple[int, int] | RaftcoordError) -> None:
            if isinstance(result, RaftcoordError):
                answer(result)
                return
            try:
                self._begin(request, answer)
            except RaftcoordError as error:
                answer(error)

        self._ask(asking.confirmed(f"nothing was attempted: {asking.NOT_THE_LATEST}"), confirmed, request.timeout_ms)

    def _begin(self, request: operations.ToSubmit, answer: Answering) -> None:
        txid, agreement = request.txid, self._agreement

        def used(standing: Standing) -> None:
            assert standing.decision is not None  # FORGOTTEN is nobody's use
            answer(asking.used(txid, standing.decision))

        asking.check_new(agreement, txid, self._transactions.running, self._env.wall_ms(), self._clocks)
        if agreement.leader is None:
            raise Unavailable(
                "this node sees no leader, so nothing was attempted; try another node, or again in a moment (raftcoord status)"
            )
        self._transactions.submit(
            Asked(
                txid,
                request.payloads,
                request.timeout_ms,
                request.wait == fields.COMPLETED,
                lambda standing: answer(asking.of_standing(standing, agreement)),
                used,
                lambda: answer(InDoubt(txid, asking.FATE_UNKNOWN)),
            )
        )

    # -- asking ---------------------------------------------------------------------------------------------------

    def _ask(self, question: Question[Any], answer: Answering, timeout_ms: int | None = None) -> None:
        patience_s = (self._bounds.question_ms if timeout_ms is None else timeout_ms) / 1000
        _Asking(question, self._agreement, self._loop.time() + patience_s, answer).go_on(None)

    def _status(self, request: operations.OfTxid, asker: Asker, answer: Answering) -> None:
        self._ask(asking.status(self._agreement, request.txid), answer)

    def _status_of_branch(self, request: operations.OfBranch, asker: Asker, answer: Answering) -> None:
        _check_own(asker, request.branch)
        self._ask(asking.status(self._agreement, request.txid, request.branch), answer)

    def _resolve(self, request: operations.ToResolve, asker: Asker, answer: Answering) -> None:
        question = asking.resolve(self._agreement, request.txid, self._env.wall_ms())
        self._ask(question, answer, request.timeout_ms)

    def _resolve_branch(self, request: operations.ToResolveBranch, asker: Asker, answer: Answering) -> None:
        _check_own(asker, request.branch)
        question = asking.resolve(self._agreement, request.txid, self._env.wall_ms(), request.branch)
        self._ask(question, answer, request.timeout_ms)

    def _complete(self, request: operations.ToComplete, asker: Asker, answer: Answering) -> None:
        self._ask(asking.complete(self._agreement, request.txid, request.branches), answer)

    # -- damage ---------------------------------------------------------------------------------------------------

    def _report_damage(self, request: operations.DamageReport, asker: Asker, answer: Answering) -> None:
        now_ms, unseen_max = self._env.wall_ms(), self._bounds.damages_unseen_max
        self._ask(damage.report(self._agreement, *request, now_ms, unseen_max), answer)

    def _acknowledge(self, request: operations.ToAcknowledge, asker: Asker, answer: Answering) -> None:
        self._ask(damage.acknowledge(self._agreement, *request, self._env.wall_ms()), answer)

    def _acknowledge_all(self, request: operations.ToAcknowledgeAll, asker: Asker, answer: Answering) -> None:
        question = damage.acknowledge_all(self._agreement, *request, self._env.wall_ms())
        self._ask(question, _through(lambda done: ManyAcknowledged(*done), answer))

    def _close(self, request: operations.ToClose, asker: Asker, answer: Answering) -> None:
        self._ask(
            damage.close(self._agreement, *request, self._env.wall_ms(), lambda name: bool(self._sessions.of(name))),
            answer,
        )

    def _list_damages(self, request: operations.DamageListing, asker: Asker, answer: Answering) -> None:
        def read() -> DamagePage:
            found = damage.listed(self._agreement, request.txid)
            pending = sum(not each.acknowledged_by for each in found)
            return DamagePage([DamageRow(*each[:5]) for each in found[: request.limit]], pending, len(found))

        self._listings.ask(asker, listings.at_once(read), answer)

    # -- operating ------------------------------------------------------------------------------------------------

    def _change_members(self, request: operations.ToChangeMembers, asker: Asker, answer: Answering) -> None:
        deadline = self._loop.time() + self._bounds.ask_ms / 1000
        membership.change(self._agreement, self._node, request.step, request.node, deadline, answer)

    def _lower_horizon(self, request: operations.ToLowerHorizon, asker: Asker, answer: Answering) -> None:
        agreement, (who, after_ms) = self._agreement, request
        if not agreement.is_leader:
            raise Unavailable("this node does not lead; ask the leader (raftcoord status)")

        def lowered(made: Any) -> dict[str, Any]:
            log.warning("the horizon was lowered from %d to %d ms by %s", made.was_ms, made.horizon_ms, who)
            return dict(made._asdict())

        question = lower(agreement, agreement.clock_offsets(), who, after_ms, self._env.wall_ms(), self._clocks)
        self._ask(question, _through(lowered, answer))

    def _participants(self, request: operations.ParticipantListing, asker: Asker, answer: Answering) -> None:
        portion = listings.Portion(answers.write_participant, self._bounds.listing_bytes_max)
        for row in self._admission.listed():
            if row.name > request.after and not portion.add(row):
                break
        answer(portion.page)

    def _replace_participant(self, request: operations.ToReplaceParticipant, asker: Asker, answer: Answering) -> None:
        self._ask(self._admission.replace(*request), answer)

    def _forget_participant(self, request: operations.ToForgetParticipant, asker: Asker, answer: Answering) -> None:
        self._ask(self._admission.forget(*request), answer)

    # -- showing --------------------------------------------------------------------------------------------------

    def _describe(self, request: operations.Nothing, asker: Asker, answer: Answering) -> None:
        agreement = self._agreement
        ledger = agreement.ledger
        status: NodeStatus = {
            "node": self._node,
            "cluster": ledger.cluster,
            "cluster_name": self._cluster_name,
            **agreement.position()._asdict(),  # type: ignore[typeddict-item]
            "open": ledger.open_count,
            "damages": ledger.damages_unseen,
            "decisions_in_memory": ledger.memory_count,
            "horizon_ms": ledger.horizon_ms,
            "participants": self._sessions.names(),
            "running": len(self._transactions.running),
            "peers": agreement.peers_status(),
            **membership.shown(agreement.members),
            "wall_ms": self._env.wall_ms(),
            **self._about(),
        }
        answer(status)

    def _list(self, request: operations.Listing, asker: Asker, answer: Answering) -> None:
        self._listings.ask(asker, listings.decisions(self._stored, request, self._bounds), answer)

    def _show(self, request: operations.OfTxid, asker: Asker, answer: Answering) -> None:
        txid = request.txid
        decision = self._agreement.ledger.decision(txid)
        running = self._transactions.running.get(txid)
        shown = None if decision is None else listings.row(decision)
        if running is not None:
            shown = {**(shown or listings.undecided_row(txid)), "running": running.show()}
        answer(shown)


class _Asking:
    """A question (core/asking.py) on its way to its answer."""

    __slots__ = ("_agreement", "_answer", "_deadline", "_question")

    def __init__(self, question: Question[Any], agreement: Agreement, deadline: float, answer: Answering) -> None:
        self._question = question
        self._agreement = agreement
        self._deadline = deadline
        self._answer = answer

    def go_on(self, came: Any, failed: RaftcoordError | None = None) -> None:
        """What was to be done came to this. Never raises: it is called from inside consensus."""
        try:
            step = self._question.send(came) if failed is None else self._question.throw(failed)
            if isinstance(step, Confirm):
                self._agreement.barrier(self._deadline, self._confirmed)
            else:
                self._agreement.propose(step.command, self._deadline, self._proposed)
        except StopIteration as end:
            self._answer(end.value)
        except Exception as error:  # of the question: its answer; of the proposal: nothing was attempted
            self._answer(error)

    def _confirmed(self, result: tuple[int, int] | RaftcoordError) -> None:
        if isinstance(result, RaftcoordError):
            self.go_on(None, Unavailable(str(result)))
        else:
            self.go_on(result)

    def _proposed(self, result: Result | RaftcoordError) -> None:
        if not isinstance(result, RaftcoordError):
            self.go_on(result)
        elif isinstance(result, (Unavailable, Overloaded)):
            self._answer(result)  # nothing was attempted
        else:
            self.go_on(None, NotKnown())


def _through(make: Callable[[Any], Any], answer: Answering) -> Answering:
    """``answer`` with what ``make`` makes of the value."""
    return lambda result: answer(result if isinstance(result, Exception) else make(result))


def _not_decided(txid: TxId, result: object) -> RaftcoordError:
    """The answer to a proposal that the ledger did not answer."""
    return result if isinstance(result, (Unavailable, Overloaded)) else InDoubt(txid, asking.FATE_UNKNOWN)


def _check_own(asker: Asker, branch: str) -> None:
    """A client may ask for any branch, a participant for its own."""
    if asker.name and branch != asker.name:
        raise LocalProtocolError(f"participant {asker.name!r} asked for branch {branch!r}; it may ask for its own only")
