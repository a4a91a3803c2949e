"""A second engine: one node, which commits at once what its disk has. No Raft, no PySyncObj, no message."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence

from raftcoord.consensus.engine import (
    NOTHING_ARRIVES,
    Arriving,
    EngineTiming,
    EntryTriple,
    InForce,
    Message,
    Staged,
    Step,
    StoredLog,
)


class OneNodeLog:
    """Entries from the anchor on."""

    def __init__(self, stored: StoredLog) -> None:
        self.entries = list(stored.entries)
        self.staged: list[EntryTriple] = []
        self.synced_index = self.last_index

    @property
    def first_index(self) -> int:
        return self.entries[0][1]

    @property
    def last_index(self) -> int:
        return self.entries[-1][1]

    @property
    def dirty(self) -> bool:
        return bool(self.staged)

    def term_at(self, index: int) -> int | None:
        held = self.first_index <= index <= self.last_index
        return self.entries[index - self.first_index][2] if held else None

    def between(self, after: int, upto: int) -> Sequence[EntryTriple]:
        return self.entries[after + 1 - self.first_index : upto + 1 - self.first_index]


class OneNodeEngine:
    """It leads in term 1 as soon as it knows that it is the only member."""

    term, vote, majority = 1, None, 1

    def __init__(self, identity: str, stored: StoredLog, timing: EngineTiming, rng: random.Random, now: float) -> None:
        self._identity = identity
        self.log = OneNodeLog(stored)
        self.commit_index = self._taken = stored.applied_index
        self.behind: set[int] = set()
        self._in_force = InForce(None, 1)

    def follow(self, in_force: InForce) -> None:
        self._in_force = in_force

    @property
    def admitted(self) -> bool:
        return self._in_force.members is not None

    @property
    def id(self) -> int:
        member = self.admitted and self._in_force.members.with_identity(self._identity)  # type: ignore[union-attr]
        return member.id if member else 0

    @property
    def is_leader(self) -> bool:
        return self.id != 0

    is_member = is_voter = is_leader

    @property
    def role(self) -> str:
        return "leader" if self.is_leader else "follower"

    @property
    def leader(self) -> int | None:
        return self.id or None

    @property
    def voters(self) -> frozenset[int]:
        return frozenset({self.id} - {0})

    @property
    def may_change_members(self) -> bool:
        return self.is_leader and self._in_force.at <= self.commit_index

    def match_index(self, node: int) -> int:
        return 0

    def wait_a_while(self) -> None: ...

    def connected(self, node: int, now: float) -> None: ...

    def disconnected(self, node: int, now: float) -> None: ...

    def arriving(self, message: Message) -> Arriving:
        return NOTHING_ARRIVES

    def receive(self, sender: int, message: Message, now: float) -> None:
        raise AssertionError("there is nobody who could have sent this")

    def propose(self, data: bytes, asker: int | None = None) -> int:
        entry = (data, self.log.last_index + 1, self.term)
        self.log.entries.append(entry)
        self.log.staged.append(entry)
        return entry[1]

    def step(self, now: float, congested: Collection[int]) -> Step:
        self.commit_index = self.log.synced_index
        staged, self.log.staged = self.log.staged, []
        return Step([], Staged(None, staged, None) if staged else None, [])

    def synced(self, index: int) -> None:
        self.log.synced_index = index

    def take_committed(self) -> list[EntryTriple]:
        taken, self._taken = self.log.between(self._taken, self.commit_index), self.commit_index
        return list(taken)

    def compact(self, applied_index: int) -> int | None:
        return None

    def installed(self, index: int, term: int) -> None:
        raise AssertionError("there is nobody who could have sent a copy")
