"""Our own protocol with one rule of it broken: what somebody in a hurry might write.

Each is a plant: a context in which the product breaks exactly that rule. None of them says how it will be found.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final
from unittest import mock

from plants import Plant, both, handling, replacing  # tests/consensus/plants.py

from raftcoord.consensus import consensus, entries, proposals
from raftcoord.consensus.group import Group
from raftcoord.consensus.pysyncobj import guard
from raftcoord.consensus.pysyncobj.guard import Guarded
from raftcoord.consensus.pysyncobj.raft import Raft
from raftcoord.core import asking, participant
from raftcoord.core.asking import Known
from raftcoord.core.participant import Action, Ask, BranchState, Rule
from raftcoord.core.protocols import two_phase
from raftcoord.core.protocols.interface import PrepareDeadline, ProposeDecide, Reply
from raftcoord.core.protocols.two_phase import Ballot, Coordinator, Meaning, Phase
from raftcoord.core.tables.decisions import Decide, Decision, Decisions, Standing
from raftcoord.core.tables.table import NO_CHANGES, CommandKind
from raftcoord.errors import LocalProtocolError, Unavailable
from raftcoord.node.admission import Admission
from raftcoord.node.completion import Completion
from raftcoord.node.recovery import Recovery
from raftcoord.node.retirement import Retirement
from raftcoord.node.transactions import Running
from raftcoord.participants import accounts
from raftcoord.participants.accounts import AccountsFile
from raftcoord.participants.locks import Locks
from raftcoord.participants.sqlite import SqliteParticipant
from raftcoord.storage import snapshot
from raftcoord.storage.node_db import NodeDb
from raftcoord.types import State, Verdict

MUTATIONS: Final[dict[str, Plant]] = {}


def plant(name: str, *replaced: tuple[Any, str, Any]) -> None:
    MUTATIONS[name] = replacing(*replaced)


def table(name: str, where: dict[Any, Any], changed: dict[Any, Any]) -> None:
    """Some rows of a table say something else."""
    assert changed.keys() <= where.keys(), f"{changed.keys() - where.keys()} are gone: {name} changes nothing"
    MUTATIONS[name] = lambda: mock.patch.dict(where, changed)


def _decision(txid: Any, proposal: Any, agreement: Any) -> Decision:
    """What a node in a hurry believes to be decided."""
    verdict, branches = proposal.verdict, proposal.branches
    at = (0, 0) if agreement is None else (agreement.term, agreement.position().log_last)
    return Decision(txid, verdict, branches, branches, proposal.reason, proposal.branch, 0, *at)


# -- deciding ---------------------------------------------------------------------------------------------------------


def _answered_when_proposed(self: Any, command: Any, deadline: float, done: Callable[[Any], None]) -> None:
    if not isinstance(command, Decide):
        _propose(self, command, deadline, done)
        return
    _propose(self, command, deadline, lambda result: None)
    known = self.ledger.decision(command.txid) or _decision(command.txid, command, self)
    done(Standing(known.state, known, True))


_propose = consensus.Consensus.propose
plant("reply before commit", (consensus.Consensus, "propose", _answered_when_proposed))


def _delivered_before(self: Any, proposal: ProposeDecide) -> None:
    for branch in proposal.branches:
        self._owner.delivery.deliver(self._asked.txid, proposal.verdict, branch)
    _run_propose(self, proposal)


_run_propose = Running._propose
plant("deliver before it is decided", (Running, "_propose", _delivered_before))


def _silence_is_yes(self: Any, event: Any) -> Any:
    if isinstance(event, PrepareDeadline) and self.phase is Phase.PREPARING and not self._first(Ballot.ABSENT):
        named = tuple(name for name, ballot in self.ballots.items() if ballot in (Ballot.ASKED, Ballot.YES))
        return self._propose(ProposeDecide(Verdict.COMMIT, named, "", ""))
    return _handle(self, event)


_handle = Coordinator.handle
plant("commit on a timed-out vote", (Coordinator, "handle", _silence_is_yes))
table(
    "the proposal is delivered, not what stands",
    two_phase.STANDS,
    {(Verdict.COMMIT, Meaning.ABORTED): (Reply, Verdict.COMMIT)},
)


def _taken_for_abort(self: Any, result: Any) -> None:
    if not isinstance(result, Standing):
        proposal = ProposeDecide(Verdict.ABORT, (), "no majority confirmed it in time", "")
        made = _decision(self._asked.txid, proposal, self._owner.agreement)
        result = Standing(State.ABORTED, made, True)
    _decided(self, result)


_decided = Running._decided
plant("not known is taken for an abort", (Running, "_decided", _taken_for_abort))
plant("not known is told as unavailable", (proposals, "NotKnown", lambda: Unavailable(proposals.NEVER_HANDED_OVER)))


def _unrecorded(which: Callable[[ProposeDecide], bool]) -> Callable[[Any, ProposeDecide], None]:
    def propose(self: Any, proposal: ProposeDecide) -> None:
        if not which(proposal):
            _run_propose(self, proposal)
            return
        made = _decision(self._asked.txid, proposal, self._owner.agreement)
        self._decided(Standing(made.state, made, True))  # as if the ledger had said so

    return propose


plant(
    "an all read-only commit is not recorded",
    (Running, "_propose", _unrecorded(lambda proposal: proposal.verdict is Verdict.COMMIT and not proposal.branches)),
)
plant(
    "an abort is not recorded",
    (Running, "_propose", _unrecorded(lambda proposal: proposal.verdict is Verdict.ABORT)),
)

# -- asking -----------------------------------------------------------------------------------------------------------

plant(
    "absence read as abort",
    (asking, "undecided", lambda term, index: Known(State.ABORTED, "nothing is recorded", "", term, index)),
)


def _passed_at_once(self: Any, deadline: float, done: Callable[[Any], None]) -> None:
    done((self.applied_term, self.applied_index))


plant("a barrier skipped", (consensus.Consensus, "barrier", _passed_at_once))


def _settled_here(applied: Any, txid: Any, now_ms: int, branch: str | None = None) -> Any:
    yield from ()
    presumed = Known(State.ABORTED, "presumed abort", "", applied.applied_term, applied.applied_index)
    return asking.seen_by(branch, asking.final(txid, applied) or presumed, txid, applied)


plant("resolve without proposing", (asking, "resolve", _settled_here))


def _named_or_not(known: Known, txid: Any, branch: str, applied: Any) -> Known:
    return known._replace(state=State.ABORTED, branch="") if known.state is State.FORGOTTEN else known


plant("a commit is told to a branch that it does not name", (asking, "for_branch", _named_or_not))

# -- the ledger -------------------------------------------------------------------------------------------------------


def _last_wins(self: Any, command: Decide, term: int, index: int) -> Standing:
    known = self.decision(command.txid)
    if known is None or known.verdict is command.verdict:
        return _decide(self, command, term, index)
    made = _decision(command.txid, command, None)._replace(term=term, index=index)
    self._put(made)
    return Standing(made.state, made, True)


_decide = Decisions._decide
table("a decision overwritten", Decisions.commands, {1: CommandKind(Decide, _last_wins)})


def _decided_anew(self: Any, command: Decide, term: int, index: int) -> Standing:
    bound, self.bound = self.bound, b""
    try:
        return _decide(self, command, term, index)
    finally:
        self.bound = bound


table("a forgotten txid is decided anew", Decisions.commands, {1: CommandKind(Decide, _decided_anew)})
plant("an open commit is forgotten", (Decision, "retirable", property(lambda self: True)))


def _in_seconds(self: Any, agreement: Any, alarms: Any, env: Any, retention_ms: int, bounds: Any) -> None:
    _retirement(self, agreement, alarms, env, retention_ms // 1000, bounds)


_retirement = Retirement.__init__
plant("the horizon moved too early", (Retirement, "__init__", _in_seconds))
plant(
    "the horizon moved by a wrong clock",
    (Retirement, "clock_agrees", lambda self: True),
    (Retirement, "_next_ms", lambda self: self._env.wall_ms() - self._retention_ms),
)


def _all_at_the_first(self: Any, txid: Any, branch: str) -> None:
    decision = self._agreement.ledger.decision(txid)
    for each in decision.outstanding if decision is not None else ():
        _add(self, txid, each)


def _of_another(self: Any, txid: Any, branch: str) -> None:
    decision = self._agreement.ledger.decision(txid)
    others = [name for name in decision.outstanding if name != branch] if decision is not None else []
    _add(self, txid, others[0] if others else branch)


_add = Completion.add
plant("complete before the last acknowledgement", (Completion, "add", _all_at_the_first))
plant("an acknowledgement taken from another branch", (Completion, "add", _of_another))


def _driven_as_seen(self: Any, txid: Any, branch: str) -> bool:
    seen = self._outstanding(txid, branch)
    if seen is None or not self._sessions.pick(branch):
        return False
    overdue = self._delivery.env.wall_ms() - seen.at_ms > 1_000
    self._delivery.deliver(txid, Verdict.ABORT if overdue else seen.verdict, branch)
    return True


plant("a redelivery that aborts what timed out", (Recovery, "_deliver", _driven_as_seen))


def _admitted_whoever(self: Any, name: str, value: object) -> str:
    """Until now: any state under the name."""
    with suppress(LocalProtocolError, Unavailable):
        _check_admission(self, name, value)
    return str(value or "")


_check_admission = Admission.check
plant("a second state of a participant is admitted", (Admission, "check", _admitted_whoever))

# -- participants -----------------------------------------------------------------------------------------------------

table(
    "tombstone missing",
    participant.TABLE,
    {(BranchState.UNKNOWN, Ask.ABORT): Rule(Action.DONE, BranchState.UNKNOWN)},
)
table(
    "commit of an unknown txid is a success",
    participant.TABLE,
    {(state, Ask.COMMIT): Rule(Action.DONE, state) for state in (BranchState.UNKNOWN, BranchState.EXPIRED)},
)
table(
    "a finished txid runs again",
    participant.TABLE,
    {(BranchState.COMMITTED, Ask.PREPARE): Rule(Action.VOTE, BranchState.PREPARED)},
)


def _times_out(self: Any, batch: Any, now_ms: int) -> None:
    for txid in [txid for txid in self._prepared if txid.ms < now_ms - 1_500]:
        self._end(txid, Verdict.ABORT, now_ms)
    _serve_batch(self, batch, now_ms)


_serve_batch = SqliteParticipant._serve_batch
plant("a prepared branch times out by itself", (SqliteParticipant, "_serve_batch", _times_out))


def _written_later(self: Any, changes: Any) -> None:
    """A batch with a yes vote is committed together with the one after it."""
    if self._db.in_transaction:
        self._db.execute("COMMIT")
    if any(branch is not None for branch in changes.prepared.values()):
        self._db.execute("BEGIN IMMEDIATE")
        self._stage(changes)
    else:
        _write(self, changes)


_write = AccountsFile.write
plant("a yes vote before its commit", (AccountsFile, "write", _written_later))


def _connected_unsynced(path: Path) -> Any:
    db = _connect(path)
    db.execute("PRAGMA synchronous = OFF")
    return db


_connect = accounts._connect
plant("a yes vote before its sync", (accounts, "_connect", _connected_unsynced))


def _loaded_unlocked(self: Any) -> None:
    _load(self)
    self._locks = Locks()


_load = SqliteParticipant._load
plant("locks are lost with the process", (SqliteParticipant, "_load", _loaded_unlocked))

# -- consensus and storage --------------------------------------------------------------------------------------------


def _votes_at_once(self: Any, messages: Any) -> Any:
    at_once, after_sync = _sorted(self, messages)
    votes = [pair for pair in after_sync if pair[1]["type"] == "response_vote"]
    return at_once + votes, [pair for pair in after_sync if pair not in votes]


_sorted = Raft._sorted
plant("a vote before its sync", (Raft, "_sorted", _votes_at_once))


def _counts_itself_at_once(self: Any) -> None:
    _commit_up_to(self, [self.log.last_index, *_matches(self)], any_term=False)


def _counts_any_term(self: Any) -> None:
    _commit_up_to(self, [self.log.synced_index, *_matches(self)], any_term=True)


def _matches(self: Any) -> list[int]:
    return [self._SyncObj__raftMatchIndex[node] for node in self._peers if node.id in self.voters]


def _commit_up_to(self: Any, held: list[int], *, any_term: bool) -> None:
    index = sorted(held, reverse=True)[self.majority - 1]
    if index > self.commit_index and (any_term or self.log.term_at(index) == self.term):
        self._SyncObj__raftCommitIndex = index


plant("the leader counts what it has not synced", (Raft, "_advance_commit", _counts_itself_at_once))
plant("entries of older terms are committed by counting", (Raft, "_advance_commit", _counts_any_term))


def _asked_as_if_complete(self: Any, node: Any, message: Any) -> None:
    _on_vote_request(self, node, {**message, "last_log_term": 1 << 40, "last_log_index": 1 << 40})


_on_vote_request = Guarded._on_vote_request
MUTATIONS["a vote for an incomplete log"] = both(
    handling("request_vote", _asked_as_if_complete), replacing((Guarded, "_is_up_to_date", lambda self, message: True))
)
plant(
    "a vote is forgotten by a restart",
    (consensus, "log_of", lambda stored: _log_of(stored._replace(vote=None))),
)
_log_of = consensus.log_of


def _born_alike(self: Any, *args: Any, **named: Any) -> None:
    _replica(self, *args, **named)
    self.boot = 1


_replica = Group.__init__
plant("every life numbers its proposals alike", (Group, "__init__", _born_alike))
plant(
    "a copy replaces an acknowledged tail",
    (Group, "needs_copy", lambda self, index, term: index > self.applied_index),
)


def _filled_without_open(copy: Any, node_db: Path, cluster_name: str) -> Any:
    head = _fill(copy, node_db, cluster_name)
    copy.execute("DELETE FROM decisions WHERE flags = 3")
    return head


_fill = snapshot._fill
plant("a ledger copy without the open decisions", (snapshot, "_fill", _filled_without_open))


def _stored_late(self: Any, w: Any) -> None:
    """The applied index now, the decisions with the next commit."""
    late, self.late = getattr(self, "late", NO_CHANGES), w.changes or NO_CHANGES
    _store(self, w._replace(changes=late))


_store = NodeDb._store
plant("the applied index before the decisions", (NodeDb, "_store", _stored_late))


def _never_full_again(self: Any, w: Any) -> None:
    _write_db(self, w)
    if not w.synced:
        self._writer.execute("PRAGMA synchronous=NORMAL")


_write_db = NodeDb.write
plant("a sync that is left out after one that was not needed", (NodeDb, "write", _never_full_again))


# -- numbers and entries that no node would send ----------------------------------------------------------------------

plant("a peer's term is believed, however far ahead", (guard, "check_term", lambda *_: None))
plant("what a leader sends is appended unread", (entries, "opened", lambda *_: None))
