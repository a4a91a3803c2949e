"""What a link or a disk does to whole messages between nodes: a fault of the surroundings, below Raft and above the network."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from raftcoord.consensus.consensus import Consensus
from raftcoord.types import NodeName


@dataclass
class Mischief:
    """What a link or a disk does to whole messages. Rates from 0 to 1.

    ``repeat_rate``: a message between nodes is heard twice, which Raft must tolerate. ``flip_rate``: a chunk of a ledger copy
    has a flipped bit when it is written.
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


class SufferingConsensus(Consensus):
    """Consensus to which mischief is done at its door, where the peers speak."""

    mischief: Mischief

    def introduce_to(self, node: NodeName) -> dict[str, Any]:
        """What this node would say of itself in a hello to ``node``: a stranger repeats it."""
        return self._peers.introduce(node)

    def on_message(self, node: int, message: dict[str, Any]) -> None:
        """As Consensus'; some messages are heard twice."""
        super().on_message(node, message)
        mischief = self.mischief
        if mischief.repeat_rate and mischief.rng.random() < mischief.repeat_rate:
            mischief.repeated += 1
            super().on_message(node, message)

    def on_copy(self, node: int, step: str, params: list[Any], reply: Callable[[Any], None]) -> None:
        """As Consensus'; some chunks are damaged."""
        super().on_copy(node, step, self.mischief.flip(params) if step == "copy_chunk" else params, reply)
