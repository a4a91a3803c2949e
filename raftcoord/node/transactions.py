"""The transactions that this node coordinates: core/protocols/two_phase.py, carried out.

Owed: every submit is answered once, no later than its timeout, and is then forgotten here; every effect of its coordinator is
carried out in order. Never: a rule of two-phase commit, which is the coordinator's; nor an answer that the ledger did not give.

Time. Votes are waited for until a reserve before the timeout, which is the ledger's; a participant that is not connected is
waited for shortly, because a worker that lost its connection dials again within a second.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any, Final, NamedTuple

from raftcoord import events, limits
from raftcoord.core.protocols.interface import (
    BranchAcknowledged,
    BranchVoted,
    ConnectDeadline,
    Connected,
    Deliver,
    Effect,
    Event,
    Lost,
    PrepareDeadline,
    ProposalNotKnown,
    ProposeDecide,
    Reply,
    ReplyDeadline,
    ReplyInDoubt,
    ReplyTxidUsed,
    SendPrepare,
    Stands,
    Started,
)
from raftcoord.core.protocols.two_phase import Ballot, Coordinator, not_connected
from raftcoord.core.tables.decisions import Decide, Result, Standing
from raftcoord.env import Env
from raftcoord.errors import Halt, LocalProtocolError, Overloaded, RaftcoordError, Unavailable
from raftcoord.limits import NodeBounds
from raftcoord.node.agreement import Agreement
from raftcoord.node.alarms import Alarm, Alarms
from raftcoord.node.delivery import Delivery
from raftcoord.node.endpoint import NoVote
from raftcoord.node.sessions import Sessions
from raftcoord.types import Payload, TxId, Verdict, Vote

log: Final = logging.getLogger("raftcoord.node")

_PROPOSE_RETRY_MS: Final = 20


class Asked(NamedTuple):
    """A checked submit, and its three possible answers."""

    txid: TxId
    payloads: dict[str, Payload]
    timeout_ms: int
    wait_completed: bool
    stands: Callable[[Standing], None]
    txid_used: Callable[[Standing], None]
    in_doubt: Callable[[], None]


def coordinator_of(asked: Asked) -> Coordinator:
    """The protocol that runs a transaction: others come in here, beside two-phase commit."""
    return Coordinator(asked.payloads, wait_completed=asked.wait_completed)


class Transactions:
    """The running table. ``on_halt`` is told of a broken invariant."""

    def __init__(
        self,
        agreement: Agreement,
        sessions: Sessions,
        delivery: Delivery,
        alarms: Alarms,
        env: Env,
        on_halt: Callable[[Exception], None],
        bounds: NodeBounds,
    ) -> None:
        self.agreement = agreement
        self.events = agreement.events
        self.sessions = sessions
        self.delivery = delivery
        self.alarms = alarms
        self.env = env
        self.on_halt = on_halt
        self._running_max: Final = bounds.transactions_running_max
        self.running: dict[TxId, Running] = {}
        self.absent: dict[str, dict[TxId, Running]] = {}
        """Who waits for a participant to connect, by its name."""
        sessions.on_connected.append(self._connected)

    def submit(self, asked: Asked) -> None:
        """Run it. Raises Overloaded or LocalProtocolError when nothing was attempted. The txid must not be running."""
        if len(self.running) >= self._running_max:
            raise Overloaded(f"this node runs {len(self.running)} transactions, its most; try again in a moment")
        connected = []
        for branch in asked.payloads:
            self.sessions.check_participant(branch)
            session = self.sessions.pick(branch)
            if session is not None:
                if session.endpoint.busy:
                    raise Overloaded(
                        f"participant {branch!r} has {session.endpoint.waiting} requests to answer; try again in a moment"
                    )
                connected.append(branch)
        if self.events.wanted:
            self.events.tell(events.Submitting(asked.txid, tuple(asked.payloads)))
        made = self.running[asked.txid] = Running(self, asked)
        made.start(frozenset(connected))

    def _connected(self, name: str) -> None:
        for running in tuple(self.absent.get(name, {}).values()):
            running.feed(Connected(name))


class Running:
    """One transaction on its way."""

    __slots__ = ("_alarms", "_asked", "_deadline", "_owner", "_replied", "_vote_deadline", "_vote_ms", "coordinator")

    def __init__(self, owner: Transactions, asked: Asked) -> None:
        self._owner = owner
        self._asked = asked
        self._vote_ms = asked.timeout_ms - min(limits.DECIDE_RESERVE_MS, asked.timeout_ms // 4)
        now = owner.alarms.time()
        self._deadline = now + asked.timeout_ms / 1000
        self._vote_deadline = now + self._vote_ms / 1000
        self._alarms: list[Alarm] = []
        self._replied = False
        self.coordinator = coordinator_of(asked)

    def start(self, connected: frozenset[str]) -> None:
        """Ask for the votes."""
        asked, owner = self._asked, self._owner
        self._at(self._vote_deadline, PrepareDeadline(self._vote_ms))
        if len(connected) < len(asked.payloads):
            wait_ms = min(limits.CONNECT_WAIT_MS, asked.timeout_ms // 2)
            self._at(owner.alarms.time() + wait_ms / 1000, ConnectDeadline())
            for branch in asked.payloads:
                if branch not in connected:
                    owner.absent.setdefault(branch, {})[asked.txid] = self
        self.feed(Started(connected))

    def feed(self, event: Event) -> None:
        """Something has happened. Never raises: it is called from inside consensus and connections."""
        try:
            for effect in self.coordinator.handle(event):
                self._carry_out(effect)
        except Halt as error:
            self._owner.on_halt(error)
        except Exception:
            log.exception("transaction %s met an error inside this node; its branches will ask", self._asked.txid)
            self._forget()
            if not self._replied:
                self._replied = True
                self._asked.in_doubt()
        if self.coordinator.done:
            self._forget()

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case SendPrepare(branch):
                self._prepare(branch)
            case ProposeDecide():
                self._propose(effect)
            case Deliver(verdict, branches):
                self._deliver(verdict, branches)
            case Reply(standing):
                self._replied = True
                self._asked.stands(standing)
            case ReplyTxidUsed(standing):
                self._replied = True
                self._asked.txid_used(standing)
            case ReplyInDoubt():
                self._replied = True
                self._asked.in_doubt()

    def _deliver(self, verdict: Verdict, branches: tuple[str, ...]) -> None:
        if self._asked.wait_completed:
            self._at(self._deadline, ReplyDeadline())
        for branch in branches:
            told = partial(self._later, BranchAcknowledged(branch)) if self._asked.wait_completed else None
            self._owner.delivery.deliver(self._asked.txid, verdict, branch, told)

    # -- votes ----------------------------------------------------------------------------------------------------

    def _prepare(self, branch: str) -> None:
        owner, asked = self._owner, self._asked
        session = owner.sessions.pick(branch)
        left_ms = max(1, round((self._vote_deadline - owner.alarms.time()) * 1000))
        if session is None:
            self._later(BranchVoted(branch, Vote.no(not_connected(branch))))
            return
        if owner.events.wanted:
            owner.events.tell(events.Asking(asked.txid, branch))
        try:
            session.endpoint.ask(asked.txid, asked.payloads[branch], left_ms, partial(self._voted, branch))
        except LocalProtocolError as error:
            self._later(BranchVoted(branch, Vote.no(str(error))))

    def _voted(self, branch: str, vote: Vote | NoVote) -> None:
        told = self._owner.events
        if told.wanted:
            told.tell(events.Voted(self._asked.txid, branch, vote.why if isinstance(vote, NoVote) else vote))
        self.feed(Lost(branch, vote.why) if isinstance(vote, NoVote) else BranchVoted(branch, vote))

    # -- the decision ---------------------------------------------------------------------------------------------

    def _propose(self, proposal: ProposeDecide) -> None:
        """Propose, and if this node refuses for the moment, again until the timeout: branches are prepared and wait."""
        owner = self._owner
        command = Decide(
            self._asked.txid,
            proposal.verdict,
            proposal.branches,
            proposal.reason,
            proposal.branch,
            owner.env.wall_ms(),
        )
        try:
            owner.agreement.propose(command, self._deadline, self._decided)
        except (Overloaded, Unavailable):
            if owner.alarms.time() >= self._deadline:
                self._later(ProposalNotKnown())
            else:
                pause_ms = _PROPOSE_RETRY_MS * (1 + owner.env.rng.random())
                self._alarms.append(owner.alarms.after(pause_ms, partial(self._propose, proposal)))

    def _decided(self, result: Result | RaftcoordError) -> None:
        told = self._owner.events
        if told.wanted and isinstance(result, Standing):
            told.tell(events.Decided(self._asked.txid, result.state, result.first))
        self.feed(Stands(result) if isinstance(result, Standing) else ProposalNotKnown())

    # -- time and endings -----------------------------------------------------------------------------------------

    def _at(self, when: float, event: Event) -> None:
        self._alarms.append(self._owner.alarms.at(when, partial(self.feed, event)))

    def _later(self, event: Event) -> None:
        """Not from inside an effect: the effects that follow it belong to the event before."""
        self._at(self._owner.alarms.time(), event)

    def _forget(self) -> None:
        owner, asked = self._owner, self._asked
        if owner.running.get(asked.txid) is not self:
            return
        del owner.running[asked.txid]
        for alarm in self._alarms:
            owner.alarms.cancel(alarm)
        self._alarms.clear()
        for branch in asked.payloads:
            waiting = owner.absent.get(branch)
            if waiting is not None:
                waiting.pop(asked.txid, None)
                if not waiting:
                    del owner.absent[branch]
        self._asked = asked._replace(payloads={})

    def show(self) -> dict[str, Any]:
        """Where it stands, for people."""
        ballots: dict[str, Ballot] = self.coordinator.ballots
        return {
            "phase": self.coordinator.phase.value,
            "ballots": {branch: ballot.value for branch, ballot in ballots.items()},
        }
