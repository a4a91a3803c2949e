"""What must be true after every step, whatever goes wrong.

    one outcome            of a txid, over all nodes, answers and time
    nothing lost           what was answered is committed; a synced write is there after any crash
    votes first            COMMIT only after every participant's durable yes
    together               no participant commits what another aborts
    nobody alone           an entry is committed when a majority has it on disk; a branch ends by the ledger's word only
    one leader             per term, and it has every committed entry
    log matching           the same index and term: the same entry, and the same before it
    verified               the commit index covers only what is committed
    disk first             term, vote and entries are on disk before the message that shows them
    no halt                a process that stops itself has a reason that was done to it
    nothing unknown        nothing is replicated that not every node can apply
    complete               a branch counts as done only when it is
    forgets                the horizon moves to where a majority of the clocks really is past the retention, and no further
    conduct                see conduct.py
    snapshot = replay      a ledger that was stored or copied equals the replay of the log (``compare``)

The first violation is kept; the simulation stops there. Nothing here changes what it looks at.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final

from raftcoord import limits
from raftcoord.consensus import engine
from raftcoord.consensus.replica import Replica
from raftcoord.core.commands import KINDS, Command, Complete, Decide, Enroll, Retire, open_entry
from raftcoord.participants.interface import Abort, AlreadyCommitted, Commit, NotPrepared, Prepare, Reply, Request
from raftcoord.sim.model import Decided
from raftcoord.sim.synced import Synced, Violation
from raftcoord.types import State, TxId, Verdict, Vote, VoteKind

_ANCHOR_TERM: Final = 0

CLOCKS_WITHIN_S: Final = 0.6
_CLOCK_SLACK_MS: Final = 100
"""A clock may have been set back since a node heard it, an election timeout ago (s); meanwhile clocks drift (ms)."""


class Invariants(Synced):
    """Watches every node and participant of a world. ``on_violation`` is called once, with the first."""

    def __init__(
        self, nodes: Sequence[str], participants: Collection[str], on_violation: Callable[[Violation], None]
    ) -> None:
        super().__init__(nodes, on_violation)
        self.submitted: dict[TxId, tuple[str, ...]] = {}
        """The participants of each transaction that a node coordinates."""
        self.completed_by_caller: set[tuple[TxId, str]] = set()
        """What callers have said, or are about to say, of branches of their own."""
        self.careless: set[TxId] = set()
        """Those for which a caller decided COMMIT in the name of participants that never prepared: damage, to be recorded."""
        self.untouched: set[TxId] = set()
        """Those of which the one caller was told that nothing had been attempted."""
        self.locking: frozenset[str] = frozenset()
        """Participants that lock the accounts of their payloads from the yes to the outcome."""
        self.forgotten: set[TxId] = set()
        """Those of which somebody was told FORGOTTEN: they are never decided any more."""
        self.reused: set[TxId] = set()
        """Those that a careless client submitted twice, with other payloads: a later vote is not the one that counted."""
        self.on_decided: Callable[[TxId, Decided], None] = lambda txid, decided: None
        self.leaders: dict[int, str] = {}
        self.decisions_committed = 0
        self.retention_ms = limits.RETENTION_MS_DEFAULT
        self.clocks: Callable[[], list[int]] = list
        """The latest that the clock of each node has really shown just now (ms)."""
        self._ids = {name: at for at, name in enumerate(nodes, 1)}
        self._majority = len(nodes) // 2 + 1
        self._participants = frozenset(participants)
        self._votes: dict[tuple[TxId, str], VoteKind] = {}
        self._doubts: dict[str, set[TxId]] = {name: set() for name in participants}
        self._keys: dict[tuple[TxId, str], set[str]] = {}
        self._ended: dict[tuple[TxId, str], Verdict] = {}

    def on_halt(self, name: str, error: BaseException, *, expected: bool) -> None:
        """A node stopped itself: only for what was done to its disk."""
        self.must(expected, "no halt", f"{name} halted: {error}")

    # -- consensus -----------------------------------------------------------------------------------------------------

    def on_heard(self, name: str, sender: int, message: dict[str, Any]) -> None:
        """A message has come in."""
        if self.conduct is not None:
            self.conduct.heard(name, sender, message)

    def on_link(self, name: str, peer: int, up: bool) -> None:
        """A link came up or went down."""
        if self.conduct is not None:
            self.conduct.linked(name, peer)

    def on_messages(self, name: str, replica: Replica, messages: list[tuple[int, dict[str, Any]]]) -> None:
        """These go out now: what they show must be on disk."""
        disk = self._disks[name]
        term, vote = disk.hard
        silent = name in self.wiped
        for to, message in messages:
            if silent:
                self._takes_no_part(name, message)
            if self.conduct is not None:
                self.conduct.sends(name, replica, to, message)
            match message["type"]:
                case "append_entries" | "pre_vote_reply":
                    good = message["term"] <= term
                case "request_vote":
                    good = message["term"] < term or (message["term"], self._ids[name]) == (term, vote)
                case "response_vote":  # a term that is over on the disk cannot be voted in again
                    good = message["term"] < term or (message["term"], to) == (term, vote)
                case "next_node_idx":
                    good = message["term"] <= term and (
                        not message["success"] or message["next_node_idx"] <= disk.last + 1
                    )
                case _:
                    good = True
            shown = f"its disk (term {term}, vote {vote}, log to {disk.last})"
            self.must(good, "disk first", f"{name} sent {message['type']}, which {shown} does not show")

    def _takes_no_part(self, name: str, message: dict[str, Any]) -> None:
        """A wiped node that nobody has enrolled (H16)."""
        match message["type"]:
            case "response_vote" | "request_vote":
                part = True
            case "pre_vote_reply":
                part = message["granted"]
            case "next_node_idx":
                part = message["success"]
            case _:
                part = False
        self.must(
            not part, "one leader", f"{name} has lost its disk, is not enrolled anew, and sends {message['type']}"
        )

    def on_proposed(self, name: str, command: Command) -> None:
        """A node proposes this itself. The clocks are those of the machines: what a node believes of them may be old."""
        if isinstance(command, Retire):
            latest = sorted(self.clocks(), reverse=True)[self._majority - 1] - self.retention_ms + _CLOCK_SLACK_MS
            self.must(
                command.before_ms <= latest,
                "forgets",
                f"{name} moves the horizon {command.before_ms - latest} ms beyond what a majority of the clocks allows",
            )

    def on_step(self, name: str, replica: Replica, local: float) -> None:
        """A step of that node is over; ``local``: its own clock (s)."""
        if self.conduct is not None:
            self.conduct.look(name, replica, local)
        raft = replica.raft
        seen = (raft.term, raft.role, raft.commit_index, replica.applied_index)
        before = self._seen.get(name)
        if seen == before:
            return
        self._seen[name] = seen
        self.must(replica.applied_index <= raft.commit_index, "verified", f"{name} applied more than is committed")
        if raft.is_leader and self.leaders.setdefault(raft.term, name) != name:
            self.violate("one leader", f"{name} leads in term {raft.term}, and so did {self.leaders[raft.term]}")
        for index in range(before[2] + 1 if before else 2, raft.commit_index + 1):
            self._committed(name, replica, index)
        if raft.is_leader and before is not None and before[2] < raft.commit_index:
            own = replica.log.term_at(raft.commit_index) == raft.term
            self.must(
                own,
                "verified",
                f"{name} commits up to {raft.commit_index} without an entry of its own term {raft.term}",
            )
        if raft.is_leader and (before is None or before[:2] != seen[:2]):
            self._complete_leader(name, replica)

    def _committed(self, name: str, replica: Replica, index: int) -> None:
        term = replica.log.term_at(index)
        if term is None:  # compacted: a copy was installed, or it was applied in a life before
            return
        if index < len(self.log):
            self.must(
                self.log[index][0] == term,
                "verified",
                f"{name} takes entry {index} of term {term} for committed; the committed one is of term {self.log[index][0]}",
            )
            return
        if index != len(self.log):
            self.violate("verified", f"{name} commits entry {index} before entry {len(self.log)}")
            return
        disks = (*self._disks.items(), *self._lost.items())
        holders = sorted({node for node, disk in disks if disk.holds(index, term)})
        self.must(
            len(holders) >= self._majority,
            "nobody alone",
            f"{name} takes entry {index} of term {term} for committed; on disk only {', '.join(holders) or 'nobody'} has it",
        )
        data = replica.log.between(index - 1, index)[0][0]
        self.log.append((term, zlib.crc32(data)))
        self.entries.append(data)
        self._apply(data, term, index)

    def _complete_leader(self, name: str, replica: Replica) -> None:
        if replica.raft.term < max(
            self.leaders
        ):  # elected late, by votes that were long on their way: it can commit nothing
            return
        last = len(self.log) - 1
        held = replica.log.term_at(last)
        self.must(
            held == self.log[last][0] or replica.log.first_index > last,
            "one leader",
            f"{name} leads in term {replica.raft.term} without the committed entry {last}",
        )

    def _apply(self, data: bytes, term: int, index: int) -> None:
        if data[:1] != engine.REGULAR:
            return
        sealed = open_entry(data[1:])
        if not all(row[0] in KINDS for row in sealed.rows):
            self.violate("nothing unknown", f"entry {index} is committed with a command that no release writes")
        for command in sealed.commands():
            self._check_complete(command)
            if isinstance(command, Enroll):
                self.wiped.discard(command.name)
            made = self.model.apply(command, term, index)
            if made is not None and isinstance(command, Decide):
                self.decisions_committed += 1
                self._decided(command.txid, made)

    def _check_complete(self, command: Command) -> None:
        """A branch counts as done only when it is."""
        if not isinstance(command, Complete):
            return
        for txid, branches in command.acks:
            known = self.model.decided.get(txid)
            for name in branches if known is not None and known.verdict is Verdict.COMMIT else ():
                done = (txid, name) in (self._ended if name in self._participants else self.completed_by_caller)
                mine = known is not None and name in known.branches
                self.must(done or not mine, "complete", f"{name} is called complete and has not committed", txid)

    def _decided(self, txid: TxId, made: Decided) -> None:
        if txid in self.forgotten:
            self.violate("one outcome", f"{made.verdict.name}, although somebody was told FORGOTTEN before", txid)
        if made.verdict is Verdict.COMMIT and txid in self.untouched:
            self._attempted(txid)
        for name in made.branches if made.verdict is Verdict.COMMIT else ():
            ended = self._ended.get((txid, name))
            self.must(ended is not Verdict.ABORT, "together", f"COMMIT that names {name}, which has aborted", txid)
        if made.verdict is Verdict.COMMIT and txid not in self.careless:
            asked = None if txid in self.reused else self.submitted.get(txid)
            needed = made.branches & self._participants if asked is None else set(asked)
            for name in sorted(needed):
                vote = self._votes.get((txid, name))
                if vote not in (VoteKind.YES, VoteKind.READ_ONLY):
                    self.violate("votes first", f"COMMIT without a yes of {name}", txid)
                elif vote is VoteKind.YES and name not in made.branches:
                    self.violate("votes first", f"COMMIT that does not name {name}, which voted yes", txid)
        self.on_decided(txid, made)

    # -- participants --------------------------------------------------------------------------------------------------

    def on_answered(self, name: str, replies: Sequence[tuple[Request, Reply]], prepared: Collection[TxId]) -> None:
        """A participant answers; what it answers is durable there."""
        doubts = self._doubts[name]
        willing: dict[TxId, Any] = {}
        for request, reply in replies:
            txid = request.txid
            match request, reply:
                case Prepare(_, payload), Vote(kind):
                    if kind is VoteKind.YES:
                        willing[txid] = payload
                        self.must(
                            (txid, name) not in self._ended,
                            "together",
                            f"{name} votes yes on what it has finished",
                            txid,
                        )
                        doubts.add(txid)
                    if self._votes.get((txid, name)) is not VoteKind.YES:
                        self._votes[txid, name] = kind
                case Commit(), None:
                    doubts.discard(txid)
                    self._end(name, txid, Verdict.COMMIT)
                case Abort(), None:
                    doubts.discard(txid)
                    self._end(name, txid, Verdict.ABORT)
                case Commit(), NotPrepared() if txid in self.careless:
                    pass
                case Abort(), AlreadyCommitted() if self._is_past(txid, name):
                    pass
                case _, (NotPrepared() | AlreadyCommitted()):
                    self.violate("together", f"{name}: {reply}", txid)
        for txid, payload in willing.items() if name in self.locking else ():
            self._lock(name, txid, payload)
        if doubts and not doubts <= set(prepared):
            gone = min(doubts - set(prepared))
            self.violate("nobody alone", f"{name} voted yes, was told nothing, and is not prepared any more", gone)

    def _is_past(self, txid: TxId, name: str) -> bool:
        """Whether that branch was committed and forgotten before somebody used the txid again."""
        return self.model.state(txid) is State.FORGOTTEN and self._ended.get((txid, name)) is Verdict.COMMIT

    def _lock(self, name: str, txid: TxId, payload: Any) -> None:
        """A yes holds its accounts until the outcome: no other yes may have one of them."""
        keys = self._keys[txid, name] = {operation["key"] for operation in payload}
        for other in self._doubts[name]:
            shared = keys & self._keys.get((other, name), set()) if other != txid else set()
            self.must(
                not shared, "together", f"{name} votes yes on two that change {shared}, the other is {other}", txid
            )

    def _end(self, name: str, txid: TxId, verdict: Verdict) -> None:
        ended = self._ended.setdefault((txid, name), verdict)
        self.must(ended is verdict, "one outcome", f"{name} ended {ended.name} and then {verdict.name}", txid)
        known = self.model.decided.get(txid)
        if verdict is Verdict.COMMIT:
            good = known is not None and known.verdict is Verdict.COMMIT and name in known.branches
            self.must(good, "together", f"{name} committed, and the ledger says {self._says(txid)}", txid)
            voted = self._votes.get((txid, name)) is VoteKind.YES
            self.must(voted, "together", f"{name} says that it committed what it never prepared", txid)
        elif self._votes.get((txid, name)) is VoteKind.YES:
            good = known is not None and (known.verdict is Verdict.ABORT or name not in known.branches)
            good = good or (known is None and self.model.state(txid) is State.FORGOTTEN)
            self.must(good, "together", f"{name} aborted, and the ledger says {self._says(txid)}", txid)

    def _says(self, txid: TxId) -> str:
        known = self.model.decided.get(txid)
        return (
            "nothing" if known is None else f"{known.verdict.name} for {', '.join(sorted(known.branches)) or 'nobody'}"
        )

    def on_reuse(self, txid: TxId) -> None:
        """Another program is about to submit under this txid as well."""
        self.reused.add(txid)
        self.untouched.discard(txid)

    def on_untouched(self, txid: TxId) -> None:
        """The only one who could commit this was told that nothing was attempted, and nothing ever would be."""
        if txid not in self.reused:
            self.untouched.add(txid)
            known = self.model.decided.get(txid)
            if known is not None and known.verdict is Verdict.COMMIT:
                self._attempted(txid)

    def _attempted(self, txid: TxId) -> None:
        self.violate("one outcome", "COMMIT, although its caller was told that nothing had been attempted", txid)

    def in_doubt(self) -> dict[str, set[TxId]]:
        """For each participant, what it voted yes on and has not finished."""
        return {name: doubts for name, doubts in self._doubts.items() if doubts}

    def ended(self, txid: TxId, name: str) -> Verdict | None:
        """How that branch ended, if it has."""
        return self._ended.get((txid, name))

    # -- answers -------------------------------------------------------------------------------------------------------

    def on_hidden(self, who: str, txid: TxId, why: str, since: int) -> None:
        """Somebody asked for the outcome and was refused, when entry ``since`` was the last that was committed."""
        known = self.model.decided.get(txid)
        hidden = known is not None and known.index <= since
        self.must(not hidden, "one outcome", f"{who} asked for what is decided, and was refused: {why}", txid)

    def on_answer(self, who: str, txid: TxId, state: State, term: int, index: int, since: int = 0) -> None:
        """Somebody was told this, who asked when entry ``since`` was the last that was committed."""
        stands = self.model.state(txid)
        known = self.model.decided.get(txid)
        match state:
            case State.COMMITTED | State.ABORTED:
                good = known is not None and (known.verdict is Verdict.COMMIT) == (state is State.COMMITTED)
            case State.FORGOTTEN:
                good = stands is State.FORGOTTEN
                self.forgotten.add(txid)
            case _:
                good = index > since and (known is None or known.index > index)
        self.must(
            good,
            "one outcome",
            f"{who} was told {state} at ({term}, {index}); the ledger says {self._says(txid)}",
            txid,
        )
