"""The ledger: write-once decisions.

Theory of operation. Every node applies the same commands in the same order, and each answer depends on nothing but the
commands before it: no clock, no memory bound, no file. So all nodes give the same answer, and the first decision for a
txid is the only one.

    known                          the standing decision, whatever is proposed
    older than the horizon         FORGOTTEN: it was finished, or never committed; nothing is recorded
    otherwise                      recorded

The horizon moves forwards. An operator alone may lower it (Lower), above everything that was made so far, after wrong clocks have
moved it into the future. What was retired or refused as FORGOTTEN lies below it still, so it stays forgotten.

A decision is forgotten as soon as it is both older than the horizon and retirable: an abort, or a commit that every
branch has acknowledged. It makes no difference which of the two came last. A commit with a branch that an operator has closed is
never forgotten: that branch has not acknowledged, and whenever it comes back it must hear COMMIT.

Why FORGOTTEN may be told to a branch in doubt as ABORTED, and to nobody else: a COMMIT is retired only when every branch
it names has acknowledged, so a branch that is still prepared cannot belong to a retired COMMIT. Somebody who merely asks
may ask about a retired COMMIT, and must not hear ABORTED.

``apply`` is total: it never raises for any decoded command (hazard H9). What it changed is taken by ``take_changes`` and
must be stored in one commit with the applied index.

Memory. Decisions at or above ``floor`` are all in memory, and so is every open one; other older ones are looked up with
``older``, which reads what was stored. Moving the floor changes speed, never an answer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar, Final

from raftcoord import limits
from raftcoord.core.commands import (
    Acknowledge,
    Bind,
    Close,
    Command,
    Complete,
    Decide,
    Enroll,
    Found,
    Heuristic,
    Lower,
    Retire,
    Settle,
)
from raftcoord.core.decisions import SETTLED, Binding, Changes, Closing, Damage, Decision, Done, Result, Standing
from raftcoord.core.tables.members import Members
from raftcoord.errors import broken, check
from raftcoord.types import State, TxId, Verdict, first_txid_of

FORGOTTEN: Final = Standing(State.FORGOTTEN, None, False)
_CHANGED: Final = Done(True)
_UNCHANGED: Final = Done(False)


def _nothing_older(txid: TxId) -> Decision | None:
    return None


LOWERED: Final = "horizon"
"""Under this name, in place of a branch, it is recorded among the damages who lowered the horizon: acknowledged, to be read."""


def _record_of(command: Lower) -> TxId:
    """Where that is recorded."""
    return TxId.new(command.at_ms, command.was_ms.to_bytes(10, "big"))


def _bound_of(horizon_ms: int) -> bytes:
    """What is below it is older than the horizon: bytes compare faster than times, and every decision is compared."""
    return first_txid_of(horizon_ms) if horizon_ms < 1 << 48 else b"\xff" * 17


class Ledger:
    """The table of decisions of one node, after some prefix of the log.

    ``older`` gives a stored decision, or None; it must show every change that was confirmed with ``stored``.
    """

    def __init__(
        self,
        *,
        cluster: str = "",
        horizon_ms: int = 0,
        decisions: Iterable[Decision] = (),
        damages: Iterable[Damage] = (),
        floor: bytes = b"",
        older: Callable[[TxId], Decision | None] = _nothing_older,
        enrolled: Mapping[str, str] | None = None,
        participants: Iterable[Binding] = (),
        members: Members | None = None,
    ) -> None:
        self.cluster = cluster
        self.horizon_ms = horizon_ms
        self.enrolled: Mapping[str, str] = dict(enrolled or {})
        """Node name -> identity, for nodes that were replaced before members were part of the ledger."""
        self.participants: Mapping[str, Binding] = {binding.name: binding for binding in participants}
        """Participant name -> which state goes by it, where that is known. A change gives another object."""
        self.members = members
        """The members of the cluster as of what is applied here; None: not known."""
        self._bound = _bound_of(horizon_ms)  # a txid below it is older than the horizon
        self._lowered: tuple[
            tuple[bytes, bytes, int], ...
        ] = ()  # between which bounds the horizon was lowered, by which entry
        self.floor = floor
        self._older = older
        given = tuple(decisions)
        # An open one below the floor is in _open alone: a second place would go on showing it as open.
        self._decisions: dict[TxId, Decision] = {d.txid: d for d in given if d.txid >= floor}
        self._open: dict[TxId, Decision] = {d.txid: d for d in given if d.outstanding}
        self._unstored: dict[TxId, Decision] = {}  # changed below the floor, not yet confirmed as stored
        self._damages: dict[tuple[TxId, str], Damage] = {(d.txid, d.branch): d for d in damages}
        self._unseen = sum(not damage.acknowledged_by for damage in self._damages.values())
        self._changes = Changes(None, None, {}, {})

    # -- asking ---------------------------------------------------------------------------------------------------

    def decision(self, txid: TxId) -> Decision | None:
        """The recorded decision, or None: undecided here so far, or forgotten."""
        found = self._decisions.get(txid)
        if found is None and txid < self.floor:
            found = self._open.get(txid) or self._unstored.get(txid) or self._older(txid)
            if found is not None and found.retirable and self._was_lowered_over(found):
                return None
        if found is not None and txid < self._bound and found.retirable:
            return None
        return found

    def _was_lowered_over(self, found: Decision) -> bool:
        """Whether it was forgotten when the horizon was lowered: it may be on disk until that is stored."""
        return any(found.index <= at and low <= found.txid < high for low, high, at in self._lowered)

    def state(self, txid: TxId) -> State:
        """COMMITTED, ABORTED, FORGOTTEN, or UNDECIDED as far as this node has applied."""
        found = self.decision(txid)
        if found is not None:
            return found.state
        return State.FORGOTTEN if txid < self._bound else State.UNDECIDED

    def open_decisions(self) -> Iterator[Decision]:
        """Decisions with a branch that has not acknowledged, oldest record first."""
        return iter(tuple(self._open.values()))

    def open_since(self, index: int) -> list[Decision]:
        """The open decisions recorded after log index ``index``, oldest first; 0 for all, or one that this object has applied.

        It costs what it gives: what is recorded later comes later in the table, and what was read from the disk before all that.
        """
        found = []
        for decision in reversed(self._open.values()):
            if decision.index <= index:
                break
            found.append(decision)
        found.reverse()
        return found

    def open_decision(self, txid: TxId) -> Decision | None:
        """The decision if a branch of it is outstanding, else None. From memory, however old it is."""
        return self._open.get(txid)

    @property
    def open_count(self) -> int:
        """How many decisions have a branch outstanding."""
        return len(self._open)

    @property
    def memory_count(self) -> int:
        """How many decisions are in memory."""
        return len(self._decisions)

    def damages(self) -> Iterator[Damage]:
        """Heuristic damage, acknowledged or not."""
        return iter(tuple(self._damages.values()))

    @property
    def damages_unseen(self) -> int:
        """How many branches are damaged and nobody has acknowledged it."""
        return self._unseen

    def damage(self, txid: TxId, branch: str) -> Damage | None:
        """The damage recorded for ``branch`` of ``txid``, or None."""
        return self._damages.get((txid, branch))

    # -- changing -------------------------------------------------------------------------------------------------

    def apply(self, command: Command, term: int, index: int) -> Result:
        """Apply one committed command, which stands in the log at (term, index). Total: never raises for bad content."""
        rule = self._RULES.get(type(command))
        if rule is None:
            broken(f"a command of type {type(command).__name__} has no rule")
        return rule(self, command, term, index)

    @property
    def changed_count(self) -> int:
        """How many changes ``take_changes`` would give; 0: nothing is to be stored."""
        changes = self._changes
        others = (
            changes.retire_before_ms,
            changes.cluster,
            changes.enrolled,
            changes.bindings,
            changes.before,
            changes.members,
        )
        rows = len(changes.puts) + len(changes.damages) + len(changes.forgotten_damages)
        return rows + sum(other is not None for other in others)

    def take_changes(self) -> Changes:
        """What has changed since the last call. The caller stores it in one commit with the applied index."""
        changes, self._changes = self._changes, Changes(None, None, {}, {})
        return changes

    def stored(self, changes: Changes) -> None:
        """``changes`` are on disk: ``older`` shows them from now on."""
        if changes.before is not None:
            self.stored(changes.before)
        if self._unstored:
            for txid, put in changes.puts.items():
                if self._unstored.get(txid) is put:
                    del self._unstored[txid]

    def _decide(self, command: Decide, term: int, index: int) -> Standing:
        txid = command.txid
        known = self.decision(txid)
        if known is not None:
            return Standing(known.state, known, False)
        if txid < self._bound:
            return FORGOTTEN
        branches = tuple(dict.fromkeys(command.branches)) if command.branches else ()
        made = Decision(
            txid, command.verdict, branches, branches, command.reason, command.branch, command.at_ms, term, index
        )
        self._put(made)
        return Standing(made.state, made, True)

    def _complete(self, command: Complete, term: int, index: int) -> Done:
        changed = False
        for txid, branches in command.acks:
            known = self._open.get(txid)
            if known is None:
                continue
            left = tuple(branch for branch in known.outstanding if branch not in branches)
            if left != known.outstanding:
                self._put(known._replace(outstanding=left))
                changed = True
        return _CHANGED if changed else _UNCHANGED

    def _retire(self, command: Retire, term: int, index: int) -> Done:
        if command.before_ms <= self.horizon_ms:
            return _UNCHANGED
        self.horizon_ms = command.before_ms
        self._bound = _bound_of(command.before_ms)
        for table in (self._decisions, self._open):
            for txid in [txid for txid, known in table.items() if txid < self._bound and known.retirable]:
                del table[txid]
        gone = tuple(key for key, damage in self._damages.items() if damage.settled_ms and damage.txid < self._bound)
        for key in gone:
            del self._damages[key]
            self._changes.damages.pop(key, None)
        gone = (*self._changes.forgotten_damages, *gone)
        self._changes = self._changes._replace(retire_before_ms=command.before_ms, forgotten_damages=gone)
        return _CHANGED

    def _lower(self, command: Lower, term: int, index: int) -> Done:
        low, high = _bound_of(command.horizon_ms), self._bound
        moved = command.was_ms != self.horizon_ms or low >= high
        if moved or any(low <= txid < high for txid in self._open):
            return _UNCHANGED
        made = self._changes
        before = Changes(self.horizon_ms, None, made.puts, {}, before=made.before)
        self._changes = made._replace(retire_before_ms=command.horizon_ms, puts={}, before=before)
        self._lowered = (*self._lowered, (low, high, index))
        self.horizon_ms, self._bound = command.horizon_ms, low
        what = f"the horizon was lowered from {command.was_ms} to {command.horizon_ms} ms"
        self._damage(Damage(_record_of(command), LOWERED, what, command.at_ms, command.who))
        return _CHANGED

    def _found(self, command: Found, term: int, index: int) -> Done:
        if self.cluster:
            return _UNCHANGED
        self.cluster = command.cluster
        self._changes = self._changes._replace(cluster=command.cluster)
        return _CHANGED

    def _heuristic(self, command: Heuristic, term: int, index: int) -> Done:
        key = (command.txid, command.branch)
        if key in self._damages:
            return _UNCHANGED
        self._damage(Damage(command.txid, command.branch, command.what, command.at_ms, ""))
        return _CHANGED

    def _acknowledge(self, command: Acknowledge, term: int, index: int) -> Done:
        known = self._damages.get((command.txid, command.branch))
        if known is None or known.acknowledged_by:
            return _UNCHANGED
        self._damage(known._replace(acknowledged_by=command.who))
        return _CHANGED

    def _close(self, command: Close, term: int, index: int) -> Done:
        changed = False
        for txid, branches in command.branches:
            changed |= self._close_branches(txid, branches, command.who, command.why, command.at_ms)
        return _CHANGED if changed else _UNCHANGED

    def _close_branches(self, txid: TxId, branches: tuple[str, ...], who: str, why: str, at_ms: int) -> bool:
        known = self._open.get(txid)
        if known is None or known.verdict is not Verdict.COMMIT:
            return False
        closed = [branch for branch in known.outstanding if branch in branches]
        if not closed:
            return False
        left = tuple(branch for branch in known.outstanding if branch not in branches)
        closings = tuple(Closing(branch, who, why, at_ms) for branch in closed)
        self._put(known._replace(outstanding=left, closed=known.closed + closings))
        return True

    def _settle(self, command: Settle, term: int, index: int) -> Done:
        changed = False
        for txid, branches in command.damages:
            for branch in branches:
                known = self._damages.get((txid, branch))
                if known is None:
                    continue
                if not known.acknowledged_by:
                    self._damage(known._replace(acknowledged_by=command.who, settled_ms=max(1, command.at_ms)))
                    changed = True
                decision = self._open.get(txid)
                if decision is None or branch not in decision.outstanding:
                    continue
                changed = True
                if not self._close_branches(txid, (branch,), command.who, SETTLED, command.at_ms):
                    left = tuple(other for other in decision.outstanding if other != branch)
                    self._put(decision._replace(outstanding=left))
        return _CHANGED if changed else _UNCHANGED

    def _enroll(self, command: Enroll, term: int, index: int) -> Done:
        full = len(self.enrolled) >= max(limits.NODES_ALLOWED) and command.name not in self.enrolled
        if full or self.enrolled.get(command.name) == command.identity:
            return _UNCHANGED
        self.enrolled = {**self.enrolled, command.name: command.identity}
        self._changes = self._changes._replace(enrolled=self.enrolled)
        return _CHANGED

    def _bind(self, command: Bind, term: int, index: int) -> Done:
        name, identity, before, who, at_ms = command
        known = self.participants.get(name)
        now = known.identity if known else ""
        full = known is None and len(self.participants) >= limits.PARTICIPANTS_MAX
        if now == identity or now != before or full:
            return _UNCHANGED
        made = Binding(name, identity, who, at_ms, before)
        others = {other: binding for other, binding in self.participants.items() if other != name}
        self.participants = {**others, name: made} if identity else others
        self._changes = self._changes._replace(bindings={**(self._changes.bindings or {}), name: made})
        return _CHANGED

    _RULES: ClassVar[dict[type, Callable[[Any, Any, int, int], Result]]] = {
        Decide: _decide,
        Complete: _complete,
        Retire: _retire,
        Lower: _lower,
        Found: _found,
        Heuristic: _heuristic,
        Acknowledge: _acknowledge,
        Enroll: _enroll,
        Bind: _bind,
        Close: _close,
        Settle: _settle,
    }

    def change_members(self, members: Members) -> None:
        """A committed entry holds this set."""
        self.members = members
        self._changes = self._changes._replace(members=members)

    def _put(self, decision: Decision) -> None:
        txid = decision.txid
        self._changes.puts[txid] = decision
        if decision.outstanding:
            self._open[txid] = decision
        else:
            self._open.pop(txid, None)
        if txid < self.floor:
            self._unstored[txid] = decision
        elif txid < self._bound and decision.retirable:
            self._decisions.pop(txid, None)
        else:
            self._decisions[txid] = decision
        if txid < self._bound:
            self._changes = self._changes._replace(retire_before_ms=self.horizon_ms)

    def _damage(self, damage: Damage) -> None:
        before = self._damages.get((damage.txid, damage.branch))
        self._unseen += (not damage.acknowledged_by) - (before is not None and not before.acknowledged_by)
        self._damages[damage.txid, damage.branch] = damage
        self._changes.damages[damage.txid, damage.branch] = damage

    # -- memory ---------------------------------------------------------------------------------------------------

    def shed(self, stored_index: int, keep: int | None = None) -> None:
        """Keep the newest ``keep`` decisions in memory, if every change up to log index ``stored_index`` is stored.

        ``keep`` None: half of LEDGER_MEMORY_DECISIONS_MAX.

        Does nothing while a change waits to be taken, or one above ``stored_index`` would be dropped.
        """
        keep = limits.LEDGER_MEMORY_DECISIONS_MAX // 2 if keep is None else keep
        if len(self._decisions) <= keep or self._changes:
            return
        order = sorted(self._decisions)
        floor = order[len(order) - keep] if keep else order[-1] + b"\x00"
        if any(self._decisions[txid].index > stored_index for txid in order if txid < floor):
            return
        check(floor >= self.floor, "the ledger's floor moved down")
        self.floor = floor
        self._decisions = {txid: self._decisions[txid] for txid in order if txid >= floor}
