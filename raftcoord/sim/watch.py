"""Windows into the real rooms: what a node and a participant do, for somebody who looks after each step.

``point(label)`` marks a moment at which a process may be killed:

    node          before-stage, after-stage, before-sync, after-sync, before-apply, after-apply
    participant   before-prepare, after-prepare, before-commit, after-commit
    any           before-send-KIND, after-send-KIND (network.py; KIND is peer, participant or reply)
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from typing import Any, Final, Protocol

from raftcoord.consensus.consensus import Consensus
from raftcoord.consensus.group import Group
from raftcoord.core.tables.table import Command
from raftcoord.errors import StorageError
from raftcoord.events import (
    Applied,
    Applying,
    Copied,
    Heard,
    Linked,
    Proposed,
    Sending,
    Submitting,
    Turned,
    Turning,
)
from raftcoord.node.node import Node
from raftcoord.participants.interface import Participant, Prepare, Reply, Request
from raftcoord.sim.disk import SimNodeDb
from raftcoord.types import Payload, TxId, Vote

Point = Callable[[str], None]


class ConsensusWatcher(Protocol):
    """Who looks at a node."""

    def on_step(self, name: str, replica: Group, local: float) -> None:
        """A pass of the node's driver is over; ``local``: the node's own clock (s)."""

    def on_heard(self, name: str, sender: int, message: dict[str, Any]) -> None:
        """A message has come in."""

    def on_proposed(self, name: str, command: Command) -> None:
        """That node proposes ``command``."""

    def on_link(self, name: str, peer: int, up: bool) -> None:
        """The link over which that node sends to ``peer`` came up or went down."""

    def on_messages(self, name: str, replica: Group, messages: list[tuple[int, dict[str, Any]]]) -> None:
        """These messages go out now."""

    def on_begun(self, name: str, txid: TxId, known: bool) -> None:
        """That node coordinates ``txid`` from now on. ``known``: it did already, or had applied a decision."""

    def on_copied(self, name: str, replica: Group) -> None:
        """A copy of the ledger has taken the place of what that node had applied."""


class NodeMoments:
    """An observer of a node that shows where it passes to ``point``. The last one: nobody else sees what ends the process."""

    def __init__(self, point: Point) -> None:
        self._point = point

    def __call__(self, event: object) -> None:
        """An event of the node."""
        label = _MOMENTS.get(type(event))
        if label is not None:
            self._point(label)


_MOMENTS: Final = {Turning: "before-stage", Applying: "before-apply", Applied: "after-apply"}


class NodeWindow:
    """An observer of a node that shows what it does to ``watcher``.

    ``broken``: receives an error of the watcher's own, which would be lost among the observers.
    """

    def __init__(
        self, node: Node, consensus: Consensus, watcher: ConsensusWatcher, broken: Callable[[str], None]
    ) -> None:
        name, now = node.config.name, asyncio.get_running_loop().time
        self._broken = broken

        def look() -> None:
            watcher.on_step(name, consensus.group, now())

        def begun(txid: TxId) -> None:
            known = txid in node.transactions.running or consensus.ledger.decision(txid) is not None
            watcher.on_begun(name, txid, known)

        self._shown: dict[type, Callable[[Any], None]] = {
            Turned: lambda event: look(),
            Applied: lambda event: look(),
            Sending: lambda event: watcher.on_messages(name, consensus.group, event.messages),
            Heard: lambda event: watcher.on_heard(name, event.sender, event.message),
            Linked: lambda event: watcher.on_link(name, event.peer, event.up),
            Proposed: lambda event: watcher.on_proposed(name, event.command),
            Copied: lambda event: watcher.on_copied(name, consensus.group),
            Submitting: lambda event: begun(event.txid),
        }

    def __call__(self, event: object) -> None:
        """An event of the node."""
        show = self._shown.get(type(event))
        if show is not None:
            try:
                show(event)
            except Exception as error:
                self._broken(f"an observer failed on {event!r:.200}: {error!r}")


class ParticipantWatcher(Protocol):
    """Who looks at a participant."""

    def on_asked(self, name: str, batch: Sequence[Request]) -> None:
        """These requests have reached the participant."""

    def on_failed_batch(self, name: str, batch: Sequence[Request]) -> None:
        """The participant's disk failed: what was asked may be done or not, and nobody is answered."""

    def on_answered(self, name: str, replies: Sequence[tuple[Request, Reply]], prepared: Collection[TxId]) -> None:
        """These answers are about to go out; ``prepared``: what the participant says is in doubt."""


class WorldWatcher(ConsensusWatcher, ParticipantWatcher, Protocol):
    """Who looks at everything."""

    def on_born(self, name: str, db: SimNodeDb, consensus: Consensus) -> None:
        """A node has been opened from its disk and is about to start."""

    def on_stored(self, name: str, write: Any) -> None:
        """A node's synced write is on its disk."""

    def on_failed(self, name: str, write: Any) -> None:
        """A node's write met an error of its disk: it may be stored or not."""

    def on_installed(self, name: str, index: int, term: int) -> None:
        """A copy of the ledger up to (index, term) replaced what a node had on its disk."""

    def on_wiped(self, name: str, *, removed: bool) -> None:
        """A node's disk is empty now. ``removed``: it was no member's any more."""

    @property
    def all_took_part(self) -> bool:
        """Whether the disk of each node shows that it took part."""

    def on_halt(self, name: str, error: BaseException, *, expected: bool) -> None:
        """A process met what it cannot handle."""


class WatchedParticipant(Participant):
    """Any participant, looked at."""

    def __init__(self, name: str, real: Participant, point: Point, watcher: ParticipantWatcher) -> None:
        self.real = real
        self._name = name
        self._point = point
        self._watcher = watcher

    def identity(self) -> str:
        """As the real one."""
        return self.real.identity()

    def join(self, cluster: str) -> None:
        """As the real one."""
        self.real.join(cluster)

    def prepare(self, txid: TxId, payload: Payload) -> Vote:
        """As the real one."""
        return self.real.prepare(txid, payload)

    def commit(self, txid: TxId) -> None:
        """As the real one."""
        self.real.commit(txid)

    def abort(self, txid: TxId) -> None:
        """As the real one."""
        self.real.abort(txid)

    def prepared(self) -> Collection[TxId]:
        """As the real one. What was being done when its disk failed is known then."""
        found = self.real.prepared()
        self._watcher.on_answered(self._name, (), found)
        return found

    def run(self, batch: Sequence[Request]) -> Sequence[tuple[Request, Reply]]:
        """As the real one, with a moment before and after."""
        self._watcher.on_asked(self._name, batch)
        kinds = sorted({"prepare" if isinstance(request, Prepare) else "commit" for request in batch})
        for kind in kinds:
            self._point(f"before-{kind}")
        try:
            replies = self.real.run(batch)
        except StorageError:
            self._watcher.on_failed_batch(self._name, batch)
            raise
        if replies:
            self._watcher.on_answered(self._name, replies, self.real.prepared())
        for kind in kinds:
            self._point(f"after-{kind}")
        return replies

    def due_ms(self) -> int | None:
        """As the real one."""
        return self.real.due_ms()

    def close(self) -> None:
        """As the real one."""
        self.real.close()
