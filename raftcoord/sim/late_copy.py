"""An adversary that watches: a copy of the ledger that arrives after another leader has sent the entries instead.

By chance it hardly ever comes about, and what a careless follower would lose then is what a leader has counted it for (Raft
section 7). Only links are held back, so nothing happens that a real network could not do:

    1  one node, "behind", is cut off until the leader has compacted what it misses, and another node has not
    2  nobody hears from the leader any more; it commits what others have acknowledged, and they do not know
    3  only "behind" hears the leader, which sends a copy; its last frame is held back, and a new leader is elected
    4  the new leader's entries are in the log of "behind", which does not hear that they are committed: the copy arrives
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

from raftcoord.consensus.group import Group
from raftcoord.sim.network import End
from raftcoord.sim.world import World

_EVERY_S: Final = 0.001
_ACKNOWLEDGED_S: Final = 0.02
"""How long the acknowledgement of "behind" may take to its new leader (s)."""


class LateCopy:
    """Tries until ``until`` (virtual time, s). ``done`` is called if the copy was late."""

    def __init__(self, world: World, rng: random.Random, until: float, done: Callable[[], None]) -> None:
        self._world = world
        self._network = world.network
        self._rng = rng
        self._until = until
        self._done = done
        self._held: set[tuple[str, str]] = set()
        self._leader = ""
        self._behind = ""
        self._index = 0
        self._term = 0
        self._next: Callable[[], None] = self._cut_off
        self._waits = False
        self._before = self._network.on_write
        self._network.on_write = self._watch
        self._poll()

    def stop(self) -> None:
        """Let everything pass."""
        self._until = 0.0
        self._waits = False
        for pair in sorted(self._held):
            self._release(pair)

    # -- the four steps ------------------------------------------------------------------------------------------------

    def _cut_off(self) -> None:
        leaders = [name for name in self._world.nodes if (found := self._replica(name)) and found.raft.is_leader]
        if leaders:
            self._leader = leaders[0]
            self._behind = self._rng.choice(self._others(self._leader))
            for name in self._others(self._behind):
                self._hold((self._behind, name), (name, self._behind))
            for end in list(self._network.ends):  # what was on its way would be delivered later
                if end.out.src == self._behind and end.out.dst in self._world.nodes:
                    self._network.break_connection(end)
            self._next = self._silence

    def _silence(self) -> None:
        leader, behind = self._replica(self._leader), self._replica(self._behind)
        if leader is None or behind is None:
            return
        missing = behind.log.last_index + 1
        third = [self._replica(name) for name in self._third()]
        if leader.log.first_index > missing and any(other and other.log.first_index <= missing for other in third):
            self._hold(*((self._leader, name) for name in self._third()))
            self._next = self._let_copy

    def _let_copy(self) -> None:
        leader = self._replica(self._leader)
        known = [other.raft.commit_index for name in self._third() if (other := self._replica(name))]
        if leader is not None and known and leader.stored_index > max(known):
            self._index, self._term = leader.stored_index, leader.raft.term
            self._waits = True
            self._release((self._leader, self._behind))
            self._release((self._behind, self._leader))
            self._next = lambda: None

    def _watch(self, end: End, data: bytes) -> None:
        self._before(end, data)
        if self._waits and b"copy_end" in data and (end.out.src, end.out.dst) == (self._leader, self._behind):
            self._waits = False
            self._hold((self._leader, self._behind))
            for name in self._third():
                self._release((name, self._behind))
                self._release((self._behind, name))
            self._next = self._let_arrive

    def _let_arrive(self) -> None:
        behind = self._replica(self._behind)
        if behind is None or behind.applied_index >= self._index:
            self.stop()
        elif behind.log.last_index > self._index and (behind.log.term_at(behind.log.last_index) or 0) > self._term:
            self._hold(*((name, self._behind) for name in self._third()))
            loop = self._world.loop
            loop.at(loop.now + _ACKNOWLEDGED_S, loop.world, self._release, (self._leader, self._behind))
            self._done()
            self._until = min(self._until, loop.now + self._rng.uniform(0.05, 1.0))
            self._next = lambda: None

    # -- the world -----------------------------------------------------------------------------------------------------

    def _poll(self) -> None:
        loop = self._world.loop
        if loop.now >= self._until:
            self.stop()
            return
        self._next()
        loop.at(loop.now + _EVERY_S, loop.world, self._poll)

    def _replica(self, name: str) -> Group | None:
        machine = self._world.machines[name]
        return machine.consensus.group if machine.runs and machine.consensus is not None else None

    def _others(self, name: str) -> list[str]:
        return [other for other in self._world.nodes if other != name]

    def _third(self) -> list[str]:
        return [name for name in self._others(self._behind) if name != self._leader]

    def _hold(self, *pairs: tuple[str, str]) -> None:
        for pair in pairs:
            if pair not in self._held:
                self._held.add(pair)
                self._network.clog(*pair)

    def _release(self, pair: tuple[str, str]) -> None:
        if pair in self._held:
            self._held.discard(pair)
            self._network.unclog(*pair)
