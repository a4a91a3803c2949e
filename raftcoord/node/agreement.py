"""What the rooms of a node ask of consensus, and of nothing else.

``consensus.consensus.Consensus`` keeps it; so does a stand-in whose order of events a test chooses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from raftcoord.consensus.position import Position
from raftcoord.core.machine import Ledger
from raftcoord.core.tables.decisions import Result
from raftcoord.core.tables.members import Members
from raftcoord.core.tables.table import Command
from raftcoord.errors import RaftcoordError
from raftcoord.events import Observers
from raftcoord.types import NodeName


class Agreement(Protocol):
    """The replicated ledger as one node sees it. Times are loop times in seconds."""

    @property
    def ledger(self) -> Ledger:
        """What this node has applied. Read only. It may be replaced by another object: never keep it."""

    @property
    def is_leader(self) -> bool:
        """Whether this node believes itself leader."""

    @property
    def leader(self) -> NodeName | None:
        """The leader that a proposal could be handed to now, or None."""

    @property
    def term(self) -> int:
        """The current term."""

    @property
    def applied_index(self) -> int:
        """The highest index applied here."""

    @property
    def applied_term(self) -> int:
        """The term of that entry."""

    def position(self) -> Position:
        """Where this node is in its group, all at one moment."""

    @property
    def on_leader_change(self) -> list[Callable[[], None]]:
        """Called after the leader, or the term of its leadership, changed as seen from here."""

    @property
    def on_bound(self) -> list[Callable[[], None]]:
        """Called after the ledger bound the name of a participant to another state, or forgot it."""

    @property
    def events(self) -> Observers:
        """Who observes this node; its other rooms give them their events here as well."""

    async def start(self) -> None:
        """Take part in the cluster. ConfigError if the port cannot be had."""

    async def stop(self) -> None:
        """Take part no more; every open proposal is answered."""

    @property
    def members(self) -> Members | None:
        """The newest set of members known here; None before the cluster is founded."""

    def change_members(
        self, step: str, name: NodeName, deadline: float, done: Callable[[Members | RaftcoordError], None]
    ) -> None:
        """Make ``step`` ("add", "remove" or "replace") with node ``name``, at the leader.

        ``done`` is called once, with the new set when it is committed, or with LocalProtocolError or Unavailable (nothing was
        attempted), or NotKnown.
        """

    def peers_status(self) -> Mapping[NodeName, dict[str, Any]]:
        """For each peer, what is known of it.

        ``up``; ``why`` not; ``match``: up to where its log agrees, at the leader; ``voter``: whether it counts for a majority;
        ``awaited``: this node takes no part before it has met that peer; ``expelled``: that peer refuses it as no member;
        ``refused``: the identity that was refused under that
        name most recently, or "".
        """

    def clock_offsets(self) -> Mapping[NodeName, int | None]:
        """How far each peer's clock is ahead of ours (ms), measured within the last election timeout; None: not known."""

    def propose(self, command: Command, deadline: float, done: Callable[[Result | RaftcoordError], None]) -> None:
        """Raises Overloaded or Unavailable when nothing was attempted.

        Else ``done`` is called once: with what the ledger answered, with Unavailable when the proposal was never handed
        to a leader, or with NotKnown when it may still be applied. ``done`` must not raise.
        """

    def barrier(self, deadline: float, done: Callable[[tuple[int, int] | RaftcoordError], None]) -> None:
        """``done((term, index))`` when this node has applied what was committed before; errors as for ``propose``."""
