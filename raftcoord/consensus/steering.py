"""The members of one node's log, changed step by step: what operators ask for, and what a leader does by itself.

Owed: every request is answered once, also when the node stops, halts or waits for its disk before its turn has come: then
nothing was attempted, and the answer says so. Which step may be made is decided in membership.py.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import Final, NamedTuple

from raftcoord.consensus.group import Group, MembersDone
from raftcoord.consensus.identity import CONFIRMED, Identities
from raftcoord.consensus.membership import CatchingUp, LeaderView, not_leading, planned
from raftcoord.consensus.peers import Peers
from raftcoord.errors import LocalProtocolError, Unavailable
from raftcoord.types import NodeName

STEER_S: Final = 5.0
"""Seconds after which a leader may propose a step of its own again."""

_NO_TURN: Final = (
    "this node waits for its disk, and the members were not changed; look at raftcoord status and try again"
)


class StepAsked(NamedTuple):
    """A step that an operator wants. ``deadline``: loop time (s)."""

    step: str
    name: NodeName
    deadline: float
    done: MembersDone


class Steering:
    """``group``: the one of now; ``patience_s``: how long a learner's last round may take."""

    def __init__(
        self, own: NodeName, group: Callable[[], Group], peers: Peers, identities: Identities, patience_s: float
    ) -> None:
        self._own = own
        self._group = group
        self._peers = peers
        self._identities = identities
        self._catching_up = CatchingUp(patience_s)
        self._asked: list[StepAsked] = []

    @property
    def has_work(self) -> bool:
        """Whether somebody waits for the next turn."""
        return bool(self._asked)

    def ask(self, asked: StepAsked) -> None:
        """It waits for the next turn."""
        self._asked.append(asked)

    def turn(self, now: float) -> None:
        """Propose what is asked for, and what is due without that."""
        asked, self._asked = self._asked, []
        for each in asked:
            self._change(each)
        self._steer(now)

    def expire(self, now: float) -> None:
        """Answer those whose deadline has come before their turn."""
        self._refuse(now, Unavailable(_NO_TURN))

    def refuse_all(self, error: Unavailable) -> None:
        """There is no next turn."""
        self._refuse(math.inf, error)

    def _refuse(self, until: float, error: Unavailable) -> None:
        late = [each for each in self._asked if each.deadline <= until]
        self._asked = [each for each in self._asked if each.deadline > until]
        for each in late:
            each.done(error)

    def _change(self, asked: StepAsked) -> None:
        group = self._group()
        try:
            members = group.members
            if not group.raft.is_leader or members is None:
                leader = group.reachable_leader
                raise not_leading(self._own, None if leader is None else self._peers.name_of(leader))
            if members.epoch < CONFIRMED:
                raise Unavailable("the founding of this cluster is not confirmed yet; try again in a moment")
            seen = LeaderView(group.node, frozenset(self._peers.up), self._identities.strangers)
            after = planned(asked.step, asked.name, members, seen)
            if after is members:
                asked.done(members)
            else:
                group.change_members(after, asked.deadline, asked.done)
        except (LocalProtocolError, Unavailable) as error:
            asked.done(error)

    def _steer(self, now: float) -> None:
        """A leader confirms the founding set, and lets a learner that has caught up vote."""
        group = self._group()
        members, raft = group.members, group.raft
        if members is None or not raft.may_change_members:
            return
        learner = members.learner
        if members.epoch == 1:
            step = members.confirmed()
        elif learner is not None and self._catching_up.is_done(learner, raft.match_index, group.log.last_index, now):
            step = members.promoted()
        else:
            return
        with contextlib.suppress(Unavailable):  # an operator's step is under way
            group.change_members(step, now + STEER_S, lambda _: None)
