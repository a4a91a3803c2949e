"""What is owed to branches: a COMMIT only after every durable yes, one outcome for all, and a word to each that was asked.

The middle part of invariants.py: it knows votes, what participants answer and what is decided, and nothing of messages or terms.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

from raftcoord.core.asking import PRESUMED_ABORT
from raftcoord.core.tables.decisions import Complete, Decide
from raftcoord.core.tables.table import Command
from raftcoord.events import Observers
from raftcoord.participants.interface import Abort, AlreadyCommitted, Commit, NotPrepared, Prepare, Reply, Request
from raftcoord.sim.happening import BranchAnswered, OutcomeMade
from raftcoord.sim.models.decisions import ModelDecision
from raftcoord.sim.synced import SyncedDisks, Violation
from raftcoord.types import State, TxId, Verdict, Vote, VoteKind


class Branches(SyncedDisks):
    """The branches of all transactions. ``on_violation`` is called once, with the first violation."""

    def __init__(
        self,
        nodes: Sequence[str],
        participants: Collection[str],
        on_violation: Callable[[Violation], None],
        events: Observers | None = None,
    ) -> None:
        super().__init__(nodes, on_violation, events)
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
        self.on_decided: Callable[[TxId, ModelDecision], None] = lambda txid, decided: None
        self.on_command: Callable[[Command], None] = lambda command: None
        """Called with each command that is committed."""
        self.databases: frozenset[str] = frozenset()
        """Names of branches in databases; ``is_carried_out(txid, name)``: whether such a one is committed there."""
        self.is_carried_out: Callable[[TxId, str], bool] = lambda txid, name: False
        self._participants = frozenset(participants)
        self._asked: dict[TxId, set[str]] = {}
        self._votes: dict[tuple[TxId, str], VoteKind] = {}
        self._doubts: dict[str, set[TxId]] = {name: set() for name in participants}
        self._unsure: dict[str, set[TxId]] = {name: set() for name in participants}
        """What a participant was told when its disk failed."""
        self._keys: dict[tuple[TxId, str], set[str]] = {}
        self._ended: dict[tuple[TxId, str], Verdict] = {}

    # -- decisions ---------------------------------------------------------------------------------------------------

    def abort_names_all(self, name: str, command: Decide) -> None:
        """Who was asked may have prepared, whether its vote was heard or not: an abort goes to all of them."""
        txid = command.txid
        if txid not in self.submitted or txid in self.reused or command.reason == PRESUMED_ABORT:
            return  # not by the one coordinator of it
        released = (VoteKind.NO, VoteKind.READ_ONLY)
        asked = {bank for bank in self._asked.get(txid, ()) if self._votes.get((txid, bank)) not in released}
        left = asked - set(command.branches)
        self.must(
            not left,
            "together",
            f"{name} aborts, and not at {', '.join(sorted(left))}, which it asked to prepare",
            txid,
        )

    def check_complete(self, command: Command) -> None:
        """A branch counts as done only when it is."""
        if not isinstance(command, Complete):
            return
        for txid, branches in command.acks:
            known = self.model.decided.get(txid)
            for name in branches if known is not None and known.verdict is Verdict.COMMIT else ():
                done = (txid, name) in (self._ended if name in self._participants else self.completed_by_caller)
                done = done or (name in self.databases and self.is_carried_out(txid, name))
                mine = known is not None and name in known.branches
                self.must(done or not mine, "complete", f"{name} is called complete and has not committed", txid)

    def decided(self, txid: TxId, made: ModelDecision) -> None:
        """That decision is made: a COMMIT needs the yes of everybody, and contradicts nobody."""
        if self.events.wanted:
            self.events.tell(OutcomeMade(txid, made.verdict, made.branches))
        if txid in self.model.lost:
            self.violate("one outcome", f"{made.verdict.name} of what was decided and forgotten before", txid)
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

    # -- participants ------------------------------------------------------------------------------------------------

    def on_asked(self, name: str, batch: Sequence[Request]) -> None:
        """These requests have reached a participant."""
        for request in batch:
            if isinstance(request, Prepare):
                self._asked.setdefault(request.txid, set()).add(name)

    def on_failed_batch(self, name: str, batch: Sequence[Request]) -> None:
        """What was asked of a participant may be done or not."""
        self._unsure[name].update(request.txid for request in batch if not isinstance(request, Prepare))

    def on_answered(self, name: str, replies: Sequence[tuple[Request, Reply]], prepared: Collection[TxId]) -> None:
        """A participant answers; what it answers is durable there."""
        if self.events.wanted:
            for request, reply in replies:
                self.events.tell(BranchAnswered(name, request, reply))
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
        gone = doubts - set(prepared)
        doubts -= gone & self._unsure[name]  # before the locks: its accounts are free as well
        for txid, payload in willing.items() if name in self.locking else ():
            self._lock(name, txid, payload)
        if gone := gone - self._unsure[name]:
            self.violate("nobody alone", f"{name} voted yes, was told nothing, and is not prepared any more", min(gone))

    def _is_past(self, txid: TxId, name: str) -> bool:
        """Whether that branch was committed and forgotten before somebody used the txid again."""
        return self.model.state(txid) is State.FORGOTTEN and self._ended.get((txid, name)) is Verdict.COMMIT

    def _lock(self, name: str, txid: TxId, payload: Any) -> None:
        """A yes holds its accounts until the outcome: no other yes may have one of them."""
        keys = self._keys[txid, name] = {operation["key"] for operation in payload}
        for other in sorted(self._doubts[name]):
            shared = keys & self._keys.get((other, name), set()) if other != txid else set()
            self.must(
                not shared,
                "together",
                f"{name} votes yes on two that change {', '.join(sorted(shared))}, the other is {other}",
                txid,
            )

    def _end(self, name: str, txid: TxId, verdict: Verdict) -> None:
        ended = self._ended.setdefault((txid, name), verdict)
        self.must(ended is verdict, "one outcome", f"{name} ended {ended.name} and then {verdict.name}", txid)
        known = self.model.decided.get(txid)
        if verdict is Verdict.COMMIT:
            good = known is not None and known.verdict is Verdict.COMMIT and name in known.branches
            self.must(good, "together", f"{name} committed, and the ledger says {self.says(txid)}", txid)
            voted = self._votes.get((txid, name)) is VoteKind.YES
            self.must(voted, "together", f"{name} says that it committed what it never prepared", txid)
        elif self._votes.get((txid, name)) is VoteKind.YES:
            good = known is not None and (known.verdict is Verdict.ABORT or name not in known.branches)
            good = good or (known is None and self.model.state(txid) is State.FORGOTTEN)
            self.must(good, "together", f"{name} aborted, and the ledger says {self.says(txid)}", txid)

    def says(self, txid: TxId) -> str:
        """The decision in the ledger, in words."""
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
