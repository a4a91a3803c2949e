"""Storms from a seed in which the members change as well: nodes are added, promoted at any time, removed and replaced, by leaders
that are deposed in the middle of it, while everything crashes. Election safety, log matching, leader completeness and the answers
are checked by the world after every step.
"""

from __future__ import annotations

from typing import Any

import pytest
from test_world import TINY, Storm, tiny
from world import Disk, Host, World, identity

from raftcoord.consensus.pysyncobj.raft import Raft
from raftcoord.core.tables.members import Members, follows
from raftcoord.errors import RaftcoordError, Unavailable
from raftcoord.types import NodeName

__all__ = ["tiny"]

SEEDS = range(40)
HOSTS_MAX = 12


class GrowingWorld(World):
    """A world whose hosts come and go. A host is a disk with an identity of its own; its id is what the members say."""

    def __init__(self, nodes: int, seed: int) -> None:
        self.ids = {identity(n): n for n in range(1, nodes + 1)}
        super().__init__(nodes, seed, keep=8, bounds=TINY)

    def new_host(self, joined: Members, number: int) -> None:
        """An empty disk, which was told these members when it was taken in."""
        self.hosts[number] = Host(number, Disk(joined=joined))
        self.start(number)

    def note(self, members: Members) -> None:
        for member in members.members:
            self.ids[member.identity] = member.id

    def members_at(self, n: int) -> Members | None:
        replica = self.hosts[n].replica
        return None if replica is None else replica.members

    def id_at(self, n: int, host: int) -> int:
        members = self.members_at(n)
        member = None if members is None else members.with_identity(identity(host))
        if member is not None:
            return member.id
        number = self.ids[identity(host)]
        taken = members is not None and members.with_id(number) is not None
        return 1000 + host if taken else number  # its set was never committed: the id was given to another one

    def host_at(self, n: int, number: int) -> int:
        members = self.members_at(n)
        member = None if members is None else members.with_id(number)
        if member is not None:
            return int(member.identity, 16)
        return max((int(known, 16) for known, at in self.ids.items() if at == number), default=0)

    def step(self, n: int) -> None:
        """As peers.py: a host whose id has become another one is linked under that."""
        super().step(n)
        for a, b in [pair for pair in self.queues if pair[0] == n]:
            if self.linked[a, b] != self.id_at(a, b):
                self.unlink(a, b)
                self.link(a, b)

    def in_force(self) -> Members:
        """The members that the node which is furthest on has applied."""
        newest = max(self.running, key=lambda n: self.replica(n).applied_index)
        members = self.replica(newest).ledger.members
        assert members is not None
        return members


class ChangingStorm(Storm):
    """Operators, and leaders that promote too early."""

    def __init__(self, nodes: int, seed: int) -> None:
        super().__init__(nodes, seed)
        self.world: GrowingWorld = GrowingWorld(nodes, seed)
        self.rng = self.world.rng
        self.changes: list[Any] = []

    def use(self) -> None:
        if self.rng.random() < 0.25:
            self.change()
        else:
            super().use()

    def change(self) -> None:
        world, leader = self.world, self.world.leader
        if leader is None:
            return
        world.finish(leader)
        replica = world.replica(leader)
        members = replica.members
        assert members is not None
        if not replica.raft.may_change_members:
            return
        number = max(world.hosts) + 1
        after = self.step(members, number)
        if after is None:
            return
        assert follows(members, after)
        try:
            replica.change_members(after, world.now + 1.0, self.changes.append)
        except Unavailable:
            return
        world.note(after)
        if after.with_identity(identity(number)) is not None:
            world.new_host(after, number)

    def step(self, members: Members, number: int) -> Members | None:
        rng, learner = self.rng, members.learner
        room = number <= HOSTS_MAX
        match rng.randrange(5):
            case 0 | 1 if learner is not None:
                return members.promoted()
            case 2 if room and learner is None and len(members.members) < 6:
                return members.added(NodeName(f"n{number}"), identity(number), "", "")
            case 3 if len(members.voters) > 2 or (learner is not None and rng.random() < 0.3):
                gone = rng.choice([m for m in members.members if len(members.voters) > 2 or not m.voter])
                if room and learner is None and rng.random() < 0.5:
                    return members.replaced(gone.name, identity(number), "", "")
                return members.removed(gone.name)
            case _:
                return members.confirmed() if members.epoch == 1 else None
        return None

    def calm(self) -> None:
        """Who is no member is switched off; the others come up, agree, and answer."""
        world = self.world
        world.heal()
        for n in world.hosts:
            if n not in world.running:
                world.start(n)
        world.until(lambda: world.leader is not None and self.members_settled())
        for n in [n for n in world.running if world.in_force().with_identity(identity(n)) is None]:
            world.stop(n)
            del world.hosts[n]
        super().calm()
        assert len({world.replica(n).ledger.members for n in world.running}) == 1

    def members_settled(self) -> bool:
        """Whether all members have applied the newest set, and the voters among them agree."""
        members = self.world.in_force()
        hosts = [int(member.identity, 16) for member in members.members if member.voter]
        return (
            all(n in self.world.running for n in hosts)
            and self.world.settled(hosts)
            and all(self.world.replica(n).members == members for n in hosts)
        )


def survive(nodes: int, seed: int, rounds: int = 40) -> ChangingStorm:
    storm = ChangingStorm(nodes, seed)
    storm.rage(rounds)
    storm.calm()
    storm.world.check_answers()
    return storm


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("nodes", [1, 3])
def test_one_answer_per_transaction_while_the_members_change(nodes: int, seed: int) -> None:
    survive(nodes, seed)


def test_the_storms_change_the_members() -> None:
    epochs = [survive(3, seed).world.in_force().epoch for seed in range(3)]
    assert min(epochs) >= 2
    assert max(epochs) > 5


PLANTS = {
    "a majority is counted over the founding set": ("majority", lambda raft: 2),
    "half of the voters is a majority": ("majority", lambda raft: max(1, len(raft.voters) // 2)),
}


@pytest.mark.parametrize("plant", PLANTS)
def test_a_mistake_is_found_by_the_storms(plant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, what = PLANTS[plant]
    monkeypatch.setattr(Raft, name, property(what))

    def storms() -> None:
        for seed in range(120):
            survive(3, seed)

    with pytest.raises((AssertionError, RaftcoordError)):
        storms()
