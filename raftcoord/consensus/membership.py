"""Which step the members take next: what an operator asks for, and what a leader does by itself.

Owed: one voter more or less at a time (core/tables/members.py says why), and never a step after which no majority of the voters
is linked to the leader: the cluster would stop with it. Pure: the driver proposes what comes out here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from raftcoord.consensus.identity import Stranger
from raftcoord.core.tables.members import Member, Members
from raftcoord.errors import LocalProtocolError, NotYet, Unavailable, broken
from raftcoord.types import NodeName


class LeaderView(NamedTuple):
    """What the leader sees: its own id, the ids of the peers that are linked, and who was refused, by name."""

    own_id: int
    linked: frozenset[int]
    strangers: Mapping[NodeName, Stranger]


def planned(step: str, name: NodeName, members: Members, seen: LeaderView) -> Members:
    """The set after ``step`` ("add", "remove" or "replace") of the node ``name``; ``members`` itself if that has been done.

    Raises LocalProtocolError for a step that makes no sense, Unavailable for one that cannot be made yet.
    """
    match step:
        case "add":
            return _added(name, members, seen)
        case "remove":
            if members.named(name) is None and any(name in names for names in members.past):
                return members
            return _with_a_majority(members.removed(name), step, name, seen)
        case "replace":
            return _with_a_majority(_replaced(name, members, seen), step, name, seen)
    broken(f"the members would take the step {step!r}")


def _added(name: NodeName, members: Members, seen: LeaderView) -> Members:
    member, stranger = members.named(name), seen.strangers.get(name)
    if member is None:
        if stranger is None:
            raise NotYet(_not_seen(name, "add"))
        return members.added(name, *stranger)
    if stranger is not None and stranger.identity == member.identity:
        return members
    if stranger is not None and not member.voter and member.id not in seen.linked:
        return members.replaced(name, *stranger)  # it was emptied again before it could vote: no vote depends on it
    if stranger is not None:
        raise LocalProtocolError(
            f"node {name} is a member with other data than the node that was started under its name; if the data of the member "
            f"is lost for good, run `raftcoord node replace {name}`"
        )
    return members


def _replaced(name: NodeName, members: Members, seen: LeaderView) -> Members:
    member = members.named(name)
    if member is None:
        return members.removed(name)  # which says that there is none
    if member.id == seen.own_id or member.id in seen.linked:
        raise LocalProtocolError(
            f"node {name} is linked with the data that is known of it, so there is nothing to replace; if it is to be given up, "
            "stop it first and start the new one in an empty directory"
        )
    stranger = seen.strangers.get(name)
    if stranger is None:
        raise NotYet(_not_seen(name, "replace"))
    return members.replaced(name, *stranger)


def _not_seen(name: NodeName, step: str) -> str:
    return (
        f"the leader has not heard of a new node {name}, and nothing was changed; start it in an empty data directory and with a "
        f"cluster.yaml that names the members and itself (raftcoord node start {name}), then run `raftcoord node {step} {name}` "
        "again"
    )


def _with_a_majority(after: Members, step: str, name: NodeName, seen: LeaderView) -> Members:
    linked = after.voters & (seen.linked | {seen.own_id})
    if len(linked) * 2 <= len(after.voters):
        names = ", ".join(member.name for member in after.members if member.voter and member.id not in linked)
        raise NotYet(
            f"without node {name} only {len(linked)} of {len(after.voters)} voters would be up, which is no majority: the "
            f"cluster would stop, and nothing was changed; bring these back first: {names} (raftcoord node start NAME), then run "
            f"`raftcoord node {step} {name}` again"
        )
    return after


def not_leading(name: NodeName, leader: NodeName | None) -> Unavailable:
    """Why node ``name`` can make no step."""
    if leader is not None:
        return Unavailable(f"node {name} does not lead; node {leader} does, ask it")
    return Unavailable(
        f"node {name} does not lead, and sees no leader: a majority of the members must be up with their data"
    )


class CatchingUp:
    """When a learner may vote: it has got, within an election timeout, all that there was at the start of it.

    That is the last of Ongaro's rounds (section 4.2.1): a new member that is slower than the log grows would hold up every
    commit for which it is needed.
    """

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._round: tuple[int, int, float] | None = None  # (learner, goal, begin)

    def is_done(self, learner: Member, match: Callable[[int], int], last_index: int, now: float) -> bool:
        """Whether it may vote now. ``match``: up to where that node is known to hold the log; ``now``: seconds."""
        if self._round is None or self._round[0] != learner.id:
            self._round = (learner.id, last_index, now)
        _, goal, begin = self._round
        if match(learner.id) < goal:
            return False
        self._round = (learner.id, last_index, now)
        return now - begin <= self._patience_s
