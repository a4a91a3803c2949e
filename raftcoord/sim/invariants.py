"""What must be true after every step, whatever goes wrong.

    one outcome            of a txid, over all nodes, answers and time
    nothing lost           what was answered is committed; a synced write is there after any crash
    votes first            COMMIT only after every participant's durable yes
    runs once              no node runs a transaction that it knows to run or to be decided
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
from raftcoord.consensus.group import Group
from raftcoord.consensus.members_in_log import members_in
from raftcoord.core.commands import KINDS, open_entry
from raftcoord.core.tables.decisions import Decide
from raftcoord.core.tables.horizon import Retire
from raftcoord.core.tables.members import Members
from raftcoord.core.tables.table import Command
from raftcoord.events import Observers
from raftcoord.sim.branches import Branches
from raftcoord.sim.happening import EntryCommitted
from raftcoord.sim.synced import Violation
from raftcoord.types import State, TxId, Verdict

_ANCHOR_TERM: Final = 0

CLOCKS_WITHIN_S: Final = 0.6
_CLOCK_SLACK_MS: Final = 100
"""A clock may have been set back since a node heard it, an election timeout ago (s); meanwhile clocks drift (ms)."""


class Invariants(Branches):
    """Watches every node and participant of a world. ``on_violation`` is called once, with the first."""

    def __init__(
        self,
        nodes: Sequence[str],
        participants: Collection[str],
        on_violation: Callable[[Violation], None],
        events: Observers | None = None,
    ) -> None:
        super().__init__(nodes, participants, on_violation, events)
        self.leaders: dict[int, str] = {}
        self.decisions_committed = 0
        self.retention_ms = limits.RETENTION_MS_DEFAULT
        self.clocks: Callable[[], list[int]] = list
        """The latest that the clock of each node has really shown just now (ms)."""
        self._majority = len(nodes) // 2 + 1
        self._replicas: dict[str, Group] = {}
        self._ids: dict[int, str] = {}
        """The identity that each id was given to."""
        self._members: Members | None = None
        """The members that were committed last."""

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

    def on_messages(self, name: str, replica: Group, messages: list[tuple[int, dict[str, Any]]]) -> None:
        """These go out now: what they show must be on disk."""
        disk = self._disks[name]
        term, vote = disk.hard
        for to, message in messages:
            if _takes_part(message):
                self.takes_part(name, message["type"])
            if self.conduct is not None:
                self.conduct.sends(name, replica, to, message)
            match message["type"]:
                case "append_entries" | "pre_vote_reply":
                    good = message["term"] <= term
                case "request_vote":
                    good = message["term"] < term or (message["term"], replica.node) == (term, vote)
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
            if message["type"] == "next_node_idx" and message["success"]:
                self._acknowledges(name, replica, to, message)

    def _acknowledges(self, name: str, replica: Group, to: int, message: dict[str, Any]) -> None:
        """What is acknowledged to a leader of this term is in that leader's log: it counts it as its own."""
        members = replica.members
        member = None if members is None else members.with_id(to)
        leader = None if member is None else self._replicas.get(member.name)
        if leader is None or not leader.raft.is_leader or leader.raft.term != message["term"]:
            return
        last = message["next_node_idx"] - 1
        ours, theirs = replica.log.term_at(last), leader.log.term_at(last)
        compacted = last < max(replica.log.first_index, leader.log.first_index)
        self.must(
            compacted or (ours == theirs and ours is not None),
            "verified",
            f"{name} acknowledges up to entry {last} of term {ours}; its leader has it of term {theirs}",
        )

    def on_begun(self, name: str, txid: TxId, known: bool) -> None:
        """A node begins to coordinate."""
        self.must(
            not known, "runs once", f"{name} runs a transaction that it runs already, or knows to be decided", txid
        )

    def on_copied(self, name: str, replica: Group) -> None:
        """A copy of the ledger has taken the place of what that node had applied."""
        if self.conduct is not None:
            self.conduct.copied(name, replica)

    def on_proposed(self, name: str, command: Command) -> None:
        """A node proposes this itself. The clocks are those of the machines: what a node believes of them may be old."""
        if isinstance(command, Decide) and command.verdict is Verdict.ABORT:
            self.abort_names_all(name, command)
        if isinstance(command, Retire):
            latest = sorted(self.clocks(), reverse=True)[self._majority - 1] - self.retention_ms + _CLOCK_SLACK_MS
            self.must(
                command.before_ms <= latest,
                "forgets",
                f"{name} moves the horizon {command.before_ms - latest} ms beyond what a majority of the clocks allows",
            )

    def on_step(self, name: str, replica: Group, local: float) -> None:
        """A step of that node is over; ``local``: its own clock (s)."""
        self._replicas[name] = replica
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
        if before is None or before[3] != seen[3]:
            self.compare_recent(name, replica.ledger, replica.applied_index)
        if raft.is_leader and before is not None and before[2] < raft.commit_index:
            own = replica.log.term_at(raft.commit_index) == raft.term
            self.must(
                own,
                "verified",
                f"{name} commits up to {raft.commit_index} without an entry of its own term {raft.term}",
            )
        if raft.is_leader and (before is None or before[:2] != seen[:2]):
            self._complete_leader(name, replica)

    def _committed(self, name: str, replica: Group, index: int) -> None:
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
        members = replica.members
        voters = {member.name for member in members.members if member.voter} if members is not None else set()
        self.must(
            len(voters.intersection(holders)) * 2 > len(voters),
            "nobody alone",
            f"{name} takes entry {index} of term {term} for committed; on disk only {', '.join(holders) or 'nobody'} has it",
        )
        data = replica.log.between(index - 1, index)[0][0]
        self.log.append((term, zlib.crc32(data)))
        self.entries.append(data)
        if self.events.wanted:
            self.events.tell(EntryCommitted(index, term, data))
        self._apply(data, term, index)

    def _complete_leader(self, name: str, replica: Group) -> None:
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
        if data[:1] == engine.MEMBERS:
            self._changed(members_in(data))
            self.ledger_model.replay(data, term, index)
            self.wiped -= {m.name for m in members_in(data).members if m.identity == self._identity.get(m.name)}
        if data[:1] != engine.REGULAR:
            return
        sealed = open_entry(data[1:])
        if not all(row[0] in KINDS for row in sealed.rows):
            self.violate("nothing unknown", f"entry {index} is committed with a command that no release writes")
        for command in sealed.commands():
            self.check_complete(command)
            self.on_command(command)
            self.touched(command)
            made = self.ledger_model.apply(command, term, index)
            if made is not None and isinstance(command, Decide):
                self.decisions_committed += 1
                self.decided(command.txid, made)

    def _changed(self, members: Members) -> None:
        """A set of members is committed: an id means one identity for ever, and one voter more or less at a time."""
        for member in members.members:
            known = self._ids.setdefault(member.id, member.identity)
            self.must(
                known == member.identity, "one leader", f"id {member.id} of {member.name} was given to another before"
            )
        before, self._members = self._members, members
        self.must(
            before is None or (members.epoch == before.epoch + 1 and len(members.voters ^ before.voters) <= 1),
            "one leader",
            f"the members {before} are followed by {members}",
        )

    # -- answers -------------------------------------------------------------------------------------------------------

    def on_hidden(self, who: str, txid: TxId, why: str, since: int) -> None:
        """Somebody asked for the outcome and was refused, when entry ``since`` was the last that was committed."""
        known = self.model.decided.get(txid)
        hidden = known is not None and known.index <= since
        self.must(not hidden, "one outcome", f"{who} asked for what is decided, and was refused: {why}", txid)

    def on_answer(self, who: str, txid: TxId, state: State, term: int, index: int, since: int = 0) -> None:
        """Somebody was told this, who asked when entry ``since`` was the last that was committed."""
        known = self.model.decided.get(txid)
        match state:
            case State.COMMITTED | State.ABORTED:
                good = known is not None and (known.verdict is Verdict.COMMIT) == (state is State.COMMITTED)
            case State.FORGOTTEN:
                # As of the answer, whatever came later; and not of before the question: the horizon may have been lowered.
                good = index > since and self.model.state(txid, index) is State.FORGOTTEN
                self.forgotten.add(txid)
            case _:
                good = index > since and (known is None or known.index > index)
        self.must(
            good,
            "one outcome",
            f"{who} was told {state} at ({term}, {index}); the ledger says {self.says(txid)}",
            txid,
        )


def _takes_part(message: dict[str, Any]) -> bool:
    """Whether who sends this votes, stands, or counts for a majority."""
    match message["type"]:
        case "response_vote" | "request_vote":
            return True
        case "pre_vote_reply":
            return bool(message["granted"])
        case "next_node_idx":
            return bool(message["success"])
    return False
