"""Storms from a seed: whatever crashes, breaks and races, one answer per transaction, the same ledger everywhere, and progress
once it is over. A seed that fails here is replayed by its number.
"""

from __future__ import annotations

import pytest
from world import EPOCH_MS, World

from raftcoord import limits
from raftcoord.core.tables.damages import Acknowledge, Heuristic, Settle
from raftcoord.core.tables.decisions import Close, Complete, Decide, Decisions, Standing
from raftcoord.core.tables.founding import Enroll, Found
from raftcoord.core.tables.horizon import Retire
from raftcoord.core.tables.participants import Bind
from raftcoord.core.tables.table import Command
from raftcoord.errors import RaftcoordError
from raftcoord.limits import NodeBounds
from raftcoord.types import TxId, Verdict

ONE, OTHER = "01" * 16, "02" * 16
BRANCHES = ("a", "b", "c")
SEEDS = range(60)
TINY = NodeBounds(log_tail_entries=6, log_compact_slack=4, append_entries_max=3, appends_per_pass_max=2)
"""Logs are cut, copies are sent and messages are split all the time."""


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Entries so small that messages are split all the time."""
    monkeypatch.setattr(limits, "ENTRY_COMMANDS_MAX", 3)


class Storm:
    """Clients that propose at random, and everything that can go wrong."""

    def __init__(self, nodes: int, seed: int) -> None:
        self.world = World(nodes, seed, keep=8, bounds=TINY)
        self.rng = self.world.rng
        self.txids: list[TxId] = []

    def rage(self, rounds: int) -> None:
        for _ in range(rounds):
            for _ in range(self.rng.randrange(6)):
                self.use()
            if self.rng.random() < 0.3:
                self.break_something()
            self.world.run(self.rng.random() * 0.25, loss=0.002)

    def calm(self) -> None:
        """Everything comes up again; run until all agree and everybody was answered."""
        world = self.world
        world.heal()
        for n in world.hosts:
            if n not in world.running:
                world.start(n)
        world.until(lambda: world.settled(world.running))
        last = [world.decide(n, wait=30.0) for n in world.running]
        world.until(lambda: all(world.answer(txid) is not None for txid in last))
        assert all(world.verdict(txid) is Verdict.COMMIT for txid in last), "no progress after healing"
        world.until(
            lambda: world.settled(world.running) and all(p.answer is not None or p.lost for p in world.proposals)
        )

    def use(self) -> None:
        running = self.world.running
        if not running:
            return
        n = self.rng.choice(running)
        wait = self.rng.choice((0.05, 0.5, 5.0))
        if self.rng.random() < 0.15:
            self.world.barrier(n, wait)
        else:
            self.world.propose(n, self.command(), wait)

    def command(self) -> Command:
        rng, now_ms = self.rng, int(self.world.now * 1000)
        choice = rng.random()
        if not self.txids or choice < 0.4:
            self.txids.append(self.world.txid())
        txid = rng.choice(self.txids[-12:])
        if choice < 0.7:
            branches = tuple(rng.sample(BRANCHES, rng.randrange(4)))
            return Decide(txid, rng.choice(tuple(Verdict)), branches, "", "", now_ms)
        if choice < 0.9:
            known = [rng.choice(self.txids[-30:]) for _ in range(3)]
            return Complete(tuple((t, tuple(rng.sample(BRANCHES, rng.randrange(1, 4)))) for t in known))
        if choice < 0.94:
            return Retire(EPOCH_MS + now_ms - rng.randrange(3000))
        if choice < 0.96:
            return Found(rng.randbytes(8).hex())
        if choice < 0.965:
            return Enroll(f"n{rng.randrange(3)}", rng.randbytes(16).hex())
        if choice < 0.97:
            one, other = (rng.choice((ONE, OTHER, "")) for _ in range(2))
            return Bind(rng.choice(BRANCHES), one, other, "", now_ms)
        if choice < 0.975:
            pairs = tuple((rng.choice(self.txids[-12:]), (rng.choice(BRANCHES),)) for _ in range(2))
            return rng.choice((Close(pairs, "ops", "gone", now_ms), Settle(pairs, "ops", now_ms)))
        if choice < 0.985:
            return Heuristic(txid, rng.choice(BRANCHES), "rolled back by hand", now_ms)
        return Acknowledge(txid, rng.choice(BRANCHES), "anna", now_ms)

    def break_something(self) -> None:
        world, rng = self.world, self.rng
        n = world.leader if world.leader is not None and rng.random() < 0.5 else rng.choice(list(world.hosts))
        match rng.randrange(8):
            case 0 | 1 if n in world.running:
                world.crash(n)
            case 2 if n in world.running:
                world.stop(n)
            case 3:
                world.isolate(n)
            case 4 if len(world.hosts) > 1:
                world.sever(n, rng.choice([o for o in world.hosts if o != n]))
            case 5 if rng.random() < 0.2:
                for each in world.running:
                    world.crash(each)
            case _:
                world.heal()
                for each in world.hosts:
                    if each not in world.running:
                        world.start(each)


def survive(nodes: int, seed: int, rounds: int = 40) -> World:
    storm = Storm(nodes, seed)
    storm.rage(rounds)
    storm.calm()
    storm.world.check_answers()
    return storm.world


@pytest.mark.parametrize("nodes", [3, 5])
@pytest.mark.parametrize("seed", SEEDS)
def test_one_answer_and_one_ledger_after_a_storm(seed: int, nodes: int) -> None:
    survive(nodes, seed)


@pytest.mark.parametrize("seed", range(10))
def test_a_single_node_keeps_its_promises_too(seed: int) -> None:
    survive(1, seed)


@pytest.mark.parametrize("nodes", [3, 5])
def test_the_storms_reach_what_they_are_for(nodes: int) -> None:
    """Leaders fall, copies of the ledger are installed, decisions leave memory, proposals race and time out."""
    worlds = [survive(nodes, seed) for seed in range(1000, 1006)]
    assert sum(len(world.leaders) for world in worlds) > 10
    assert sum(world.installs for world in worlds) > 0
    answers = [proposal.answer for world in worlds for proposal in world.proposals]
    assert any(isinstance(answer, RaftcoordError) for answer in answers)
    assert any(isinstance(answer, Standing) and not answer.first for answer in answers)
    assert any(world.replica(1).ledger[Decisions].floor for world in worlds)


def test_racing_verdicts_have_one_answer_everywhere() -> None:
    world = World(3, seed=7, bounds=TINY)
    world.elect()
    txids = [world.txid() for _ in range(20)]
    for txid in txids:
        for n in world.running:
            world.decide(n, world.rng.choice(tuple(Verdict)), txid)
    world.until(lambda: all(proposal.answer is not None for proposal in world.proposals))
    for txid in txids:
        answers = {
            p.answer.decision for p in world.proposals if isinstance(p.command, Decide) and p.command.txid == txid
        }
        assert len(answers) == 1
    world.until(lambda: world.settled(world.running))
    world.check_answers()
