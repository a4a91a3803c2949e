"""The real rooms with a window: the same code, and after each step somebody looks.

``point(label)`` marks a moment at which a process may be killed:

    node          before-stage, after-stage, before-sync, after-sync, before-apply, after-apply
    participant   before-prepare, after-prepare, before-commit, after-commit
    any           before-send-KIND, after-send-KIND (network.py; KIND is peer, participant or reply)
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from raftcoord.consensus.consensus import Consensus
from raftcoord.consensus.group import Group
from raftcoord.consensus.proposals import Done
from raftcoord.core.tables.table import Command
from raftcoord.errors import StorageError
from raftcoord.node.node import Node
from raftcoord.node.transactions import Asked
from raftcoord.participants.interface import Participant, Prepare, Reply, Request
from raftcoord.types import NodeName, Payload, TxId, Vote

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


@dataclass
class Mischief:
    """What a link or a disk does to whole messages. Rates from 0 to 1.

    ``repeat_rate``: a message between nodes is heard twice, which Raft must bear. ``flip_rate``: a chunk of a ledger copy has a
    flipped bit when it is written.
    """

    rng: random.Random
    repeat_rate: float = 0.0
    flip_rate: float = 0.0
    repeated: int = 0
    flipped: int = 0

    def flip(self, params: list[Any]) -> list[Any]:
        """The parameters of a chunk, perhaps damaged."""
        if not self.flip_rate or self.rng.random() >= self.flip_rate or len(params) != 2 or not params[1]:
            return params
        self.flipped += 1
        at = self.rng.randrange(len(params[1]))
        chunk = bytearray(params[1])
        chunk[at] ^= 1 << self.rng.randrange(8)
        return [params[0], bytes(chunk)]


class WatchedConsensus(Consensus):
    """Consensus that shows what it does. ``watch`` is called once, right after it was made."""

    _point: Point
    _watcher: ConsensusWatcher

    _mischief: Mischief

    def watch(self, point: Point, watcher: ConsensusWatcher, mischief: Mischief) -> None:
        """Be looked at from now on."""
        self._point, self._watcher, self._mischief = point, watcher, mischief
        send = self._peers.send

        def sending(messages: list[tuple[int, dict[str, Any]]]) -> None:
            if messages:
                watcher.on_messages(self._name, self._group, messages)
                send(messages)

        self._peers.send = sending  # type: ignore[method-assign]
        installing, host = self._installing, self._host
        installed = installing._on_installed

        def installing_done() -> None:
            installed()
            watcher.on_copied(self._name, self._group)

        installing._on_installed = installing_done
        turn, apply = host._turn, host._apply

        def turning() -> None:
            point("before-stage")
            turn()
            self._look()

        def applying(group: Group, now: float) -> None:
            point("before-apply")
            apply(group, now)
            self._look()
            point("after-apply")

        host._turn, host._apply = turning, applying  # type: ignore[method-assign]

    @property
    def replica(self) -> Group:
        """What is looked at."""
        return self._group

    def introduce_to(self, node: NodeName) -> dict[str, Any]:
        """What this node would say of itself in a hello to ``node``."""
        return self._peers.introduce(node)

    def propose(self, command: Command, deadline: float, done: Done) -> None:
        """As Consensus'."""
        self._watcher.on_proposed(self._name, command)
        super().propose(command, deadline, done)

    def on_message(self, node: int, message: dict[str, Any]) -> None:
        """As Consensus'; some messages are heard twice."""
        self._watcher.on_heard(self._name, node, message)
        super().on_message(node, message)
        mischief = self._mischief
        if mischief.repeat_rate and mischief.rng.random() < mischief.repeat_rate:
            mischief.repeated += 1
            super().on_message(node, message)

    def on_copy(self, node: int, step: str, params: list[Any], reply: Callable[[Any], None]) -> None:
        """As Consensus'; some chunks are damaged."""
        super().on_copy(node, step, self._mischief.flip(params) if step == "copy_chunk" else params, reply)

    def on_link(self, node: int, up: bool) -> None:
        """As Consensus'."""
        self._watcher.on_link(self._name, node, up)
        super().on_link(node, up)

    def _look(self) -> None:
        if self._host.running:
            self._watcher.on_step(self._name, self._group, self._loop.time())


def watch_transactions(name: str, node: Node, watcher: ConsensusWatcher) -> None:
    """Show which transactions that node begins to coordinate."""
    transactions = node.transactions
    submit = transactions.submit

    def submitting(asked: Asked) -> None:
        known = asked.txid in transactions.running or node.consensus.ledger.decision(asked.txid) is not None
        submit(asked)
        watcher.on_begun(name, asked.txid, known)

    transactions.submit = submitting  # type: ignore[method-assign]


class ParticipantWatcher(Protocol):
    """Who looks at a participant."""

    def on_asked(self, name: str, batch: Sequence[Request]) -> None:
        """These requests have reached the participant."""

    def on_failed_batch(self, name: str, batch: Sequence[Request]) -> None:
        """The participant's disk failed: what was asked may be done or not, and nobody is answered."""

    def on_answered(self, name: str, replies: Sequence[tuple[Request, Reply]], prepared: Collection[TxId]) -> None:
        """These answers are about to go out; ``prepared``: what the participant says is in doubt."""


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
        """As the real one."""
        return self.real.prepared()

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
