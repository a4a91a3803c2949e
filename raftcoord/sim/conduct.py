"""What nodes owe each other beside safety: no work done twice, no leader deposed without need, no answer late.

again       entries in flight are not sent again (H2)
cut off     who hears no majority does not lead for long (H11)
handed-over what a node had handed to a leader is handed over again when a copy took the place of the log
deposed     nobody votes who hears a leader, and nobody stands without a majority's word (H12)
late        every proposal is answered by its deadline (H14)
bounds      log, ledger and proposals in memory stay within NodeBounds
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from raftcoord.consensus.engine import Engine
from raftcoord.consensus.group import Group
from raftcoord.consensus.proposals import NEVER
from raftcoord.limits import NodeBounds

_DRIFT: Final = 0.8
"""Clocks of nodes may run so much slower than that of the world."""

_LATE_S: Final = 1.0
_STALL_S: Final = 0.2
_BOUNDS_EVERY: Final = 16
_ROOM: Final = 600
"""Entries or decisions that may be on their way to the disk when a bound is looked at."""

_NOBODY: Final = (0, float("-inf"))
"""The term of no leader, heard never."""

_TELL_A_TERM: Final = frozenset({"append_entries", "pre_vote_reply", "next_node_idx"})
"""Messages whose term the receiver takes for its own if it is higher; a request for a vote is not one of them."""

Must = Callable[[bool, str, str], None]


class Conduct:
    """``must(condition, invariant, what)``; ``now()``: virtual time (s); ``election``: shortest and longest timeout (s).

    ``bounds``: of every node.
    """

    def __init__(
        self,
        nodes: Sequence[str],
        must: Must,
        now: Callable[[], float],
        election: tuple[float, float],
        bounds: NodeBounds,
    ) -> None:
        self._bounds = bounds
        self._must = must
        self._now = now
        self._election_min, self._election_max = election
        self._led_by: dict[str, tuple[int, float]] = {}  # (term, when a leader of that term was last heard)
        self._granted: dict[tuple[str, int], set[int]] = {}  # (node, term) -> who would vote for it
        self._voted: dict[tuple[str, int], set[int]] = {}  # (node, term) -> who voted for it
        self._sent: dict[tuple[str, int], tuple[int, int]] = {}  # (leader, peer) -> (term, highest index sent)
        self._acked: dict[tuple[str, int], float] = {}  # (leader, peer) -> when it was last heard
        self._led_since: dict[str, tuple[int, float, float]] = {}  # (term, since when, last look)
        self._terms: dict[str, int] = {}
        self._looked: dict[str, float] = {}
        self._stalled: dict[str, float] = {}  # when a process went on that had stood still
        self._deaf: set[str] = set()  # who is not admitted (H16) takes no notice of anything
        self._told: dict[str, int] = {}  # the highest term that others have told it
        self._requested: dict[str, int] = {}  # and that it was asked to vote in: it may have taken that for its own
        self._asked: dict[
            tuple[str, int], tuple[int, int, float]
        ] = {}  # (node, term of the request) -> what it knew then
        self._elected: set[tuple[str, int]] = set()
        self._changed: dict[str, tuple[frozenset[int], float]] = {}  # the voters of a node's log, and since when
        self._looks = 0
        self._unplaced: dict[str, set[bytes]] = {}
        """Entries that were on their way to a leader when a copy of the ledger was installed."""
        self._place: dict[str, tuple[int | None, int]] = {}

    def born(self, name: str) -> None:
        """A new life of that node: it has heard nothing, sent nothing."""
        self._led_by.pop(name, None)
        self._told.pop(name, None)
        self._requested.pop(name, None)
        self._led_since.pop(name, None)
        self._unplaced.pop(name, None)
        for table in (self._granted, self._voted, self._sent, self._acked, self._asked):
            for key in [key for key in table if key[0] == name]:
                del table[key]

    def linked(self, name: str, peer: int) -> None:
        """A link is new or gone: what was in flight may be lost."""
        self._sent.pop((name, peer), None)

    def copied(self, name: str, replica: Group) -> None:
        """The log was replaced by a copy: what would have answered a proposal may lie behind it."""
        self._unplaced[name] = {batch.entry for batch in replica.proposals.flying.values()}
        self._place.pop(name, None)

    def heard(self, name: str, sender: int, message: dict[str, Any]) -> None:
        """A message has come in."""
        if name in self._deaf:
            return
        if message["type"] in _TELL_A_TERM:
            self._told[name] = max(self._told.get(name, 0), message["term"])
        match message["type"]:
            case "append_entries":
                term = message["term"]
                own = max(self._terms.get(name, 0), self._told.get(name, 0), self._requested.get(name, 0))
                if term >= max(self._led_by.get(name, _NOBODY)[0], own):  # else it leads no more
                    self._led_by[name] = (term, self._now())
            case "pre_vote_reply" if message["granted"]:
                self._granted.setdefault((name, message["asked"]), set()).add(sender)
            case "request_vote":
                known = max(self._terms.get(name, 0), self._told.get(name, 0))
                self._asked[name, message["term"]] = (known, *self._led_by.get(name, _NOBODY))
                self._requested[name] = max(self._requested.get(name, 0), message["term"])
            case "response_vote":
                self._voted.setdefault((name, message["term"]), set()).add(sender)
            case "next_node_idx":
                self._acked[name, sender] = self._now()
                if message["reset"]:
                    self._sent.pop((name, sender), None)

    def sends(self, name: str, replica: Group, to: int, message: dict[str, Any]) -> None:
        """A message goes out."""
        match message["type"]:
            case "append_entries" if message["entries"]:
                self._entries(name, to, message)
            case "propose" if name in self._unplaced:
                self._unplaced[name].difference_update(message["entries"])
            case "response_vote":
                known, term, at = self._asked.get((name, message["term"]), (0, *_NOBODY))
                # Who is in that term already gives up no leader by its vote.
                good = message["term"] <= max(term, known) or self._now() - at >= self._election_min * _DRIFT
                self._must(good, "deposed", f"{name} votes for n{to} although it hears the leader of term {term}")
            case "request_vote" if len(replica.raft.voters) > 1:
                self._led_by.pop(name, None)  # who stands has no leader, whatever was on its way
                willing = self._granted.get((name, message["term"]), set()) & replica.raft.voters
                self._must(
                    replica.raft.is_voter and len(willing - {replica.node}) + 1 >= replica.raft.majority,
                    "deposed",
                    f"{name} stands for election in term {message['term']}, and only {len(willing)} others would vote for it",
                )

    def _entries(self, name: str, to: int, message: dict[str, Any]) -> None:
        term, highest = self._sent.get((name, to), (0, 0))
        first, last = message["entries"][0][1], message["entries"][-1][1]
        if term == message["term"]:
            self._must(
                first > highest, "again", f"{name} sends entry {first} to n{to} again, and up to {highest} is in flight"
            )
        self._sent[name, to] = (message["term"], max(last, highest if term == message["term"] else 0))

    def _handed_over(self, name: str, replica: Group) -> None:
        place = (replica.reachable_leader, replica.raft.term)
        before, self._place[name] = self._place.get(name), place
        if place != before or place[0] is None:
            return  # it hands over in the next step
        waiting = self._unplaced.pop(name) & {batch.entry for batch in replica.proposals.flying.values()}
        self._must(
            not waiting or place[0] == replica.node,
            "handed over",
            f"{name} has installed a copy, and does not hand over again {len(waiting)} entries that fly",
        )

    def look(self, name: str, replica: Group, local: float) -> None:
        """A step of that node is over; ``local``: its own clock (s)."""
        if name in self._unplaced:
            self._handed_over(name, replica)
        raft = replica.raft
        self._terms[name] = raft.term
        if self._changed.get(name, (frozenset(), 0.0))[0] != raft.voters:
            self._changed[name] = (raft.voters, self._now())
        (self._deaf.discard if raft.admitted else self._deaf.add)(name)
        if raft.is_leader:
            self._leads(name, raft)
        else:
            self._led_since.pop(name, None)
        now = self._now()
        if now - self._looked.get(name, 0.0) > _STALL_S:
            self._stalled[name] = now
        self._looked[name] = now
        self._looks += 1
        if self._looks % _BOUNDS_EVERY == 0 and now - self._stalled.get(name, 0.0) > _LATE_S:
            self._in_time(name, replica, local)
            self._bounded(name, replica)

    def _leads(self, name: str, raft: Engine) -> None:
        now, term = self._now(), raft.term
        if (name, term) not in self._elected:  # over the voters of that moment: they may change while it leads
            self._elected.add((name, term))
            votes = 1 + len(self._voted.get((name, term), set()) & raft.voters - {raft.id})
            self._must(votes >= raft.majority, "elected", f"{name} leads in term {term} with {votes} votes")
        known, since, looked = self._led_since.get(name, (0, 0.0, 0.0))
        if known != term or now - looked > _STALL_S:  # a process that stood still could not step down
            since = now
        self._led_since[name] = (term, since, now)
        patience = self._election_max / _DRIFT + 0.2
        if now - since > patience:
            near = sum(
                now - self._acked.get((name, peer), since) <= patience for peer in raft.voters if peer != raft.id
            )
            self._must(
                near + raft.is_voter >= raft.majority
                or now - self._changed.get(name, (frozenset(), since))[1] <= patience,
                "cut off",
                f"{name} leads in term {term} and has heard no majority for {patience:.2f} s",
            )

    def _in_time(self, name: str, replica: Group, local: float) -> None:
        for batch in (*replica.proposals.flying.values(), *replica.proposals.gathering):
            self._must(
                batch.deadline == NEVER or batch.deadline > local - _LATE_S,
                "late",
                f"a proposal of {name} has no answer {_LATE_S:g} s after its deadline",
            )

    def _bounded(self, name: str, replica: Group) -> None:
        log, ledger, bounds = replica.log, replica.ledger, self._bounds
        kept = replica.applied_index - log.first_index
        self._must(
            kept <= bounds.log_tail_entries + 8 * bounds.log_compact_slack + _ROOM,
            "bounds",
            f"{name} keeps {kept} applied entries in memory",
        )
        self._must(
            ledger.memory_count <= bounds.memory_decisions_max + _ROOM,
            "bounds",
            f"{name} keeps {ledger.memory_count} decisions in memory",
        )
        self._must(
            replica.proposals.open <= bounds.proposals_max,
            "bounds",
            f"{name} holds {replica.proposals.open} proposals open",
        )
