"""A trial passes only if the cluster came back, something was done, and the audit found nothing."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import pytest

from raftcoord.drills import trial as trials
from raftcoord.drills.audit import Books, LedgerRow
from raftcoord.drills.faults import Fault, FaultStep, FaultSteps, Leader
from raftcoord.drills.orders import HOME_BANK, Generated, Order
from raftcoord.drills.report import Event
from raftcoord.drills.trial import Trial
from raftcoord.errors import RaftcoordError, Unavailable
from raftcoord.types import Answer, Outcome, Payload, State, TxId

T = TypeVar("T")
SOURCE = Generated(1, banks=1, accounts=5)
ORDERS: tuple[Order, ...] = tuple(islice(SOURCE.orders(), 5))


class World:
    """A stage and its only client: every order is committed at once, on one node and in two banks, in memory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.rng = random.Random(0)
        self.clients: list[Any] = [self]
        self.balances = {bank: dict(accounts) for bank, accounts in SOURCE.opening().items()}
        self.rows: dict[TxId, LedgerRow] = {}
        self.finished: dict[TxId, State] = {}
        self.term = 1
        self.left = ""
        self.down: list[str] = []
        self.unreachable = False

    async def submit(self, payloads: Mapping[str, Payload], *, txid: TxId, timeout: float) -> Outcome:
        await asyncio.sleep(0)
        for bank, operations in payloads.items():
            for operation in operations:
                self.balances[bank][operation["key"]] += operation["amount"]  # type: ignore[index]
        self.rows[txid] = LedgerRow(State.COMMITTED, (), self.term, len(self.rows) + 1)
        self.finished[txid] = State.COMMITTED
        return Outcome(txid, True, "", self.term, len(self.rows))

    async def resolve(self, txid: TxId, *, timeout: float) -> Answer:
        raise AssertionError("nothing is in doubt here")

    def fallen(self) -> list[str]:
        return self.down

    async def quiet(self, seconds: float) -> str:
        return self.left

    async def ledgers(self, txids: Iterable[TxId]) -> dict[str, dict[TxId, LedgerRow]]:
        if self.unreachable:
            raise Unavailable("node n1 cannot be reached; start it")
        return {"n1": {txid: self.rows[txid] for txid in txids}}

    def books(self) -> dict[str, Books]:
        return {bank: Books(balances, self.finished) for bank, balances in self.balances.items()}


def harmless(world: World, error: RaftcoordError | None = None) -> Fault:
    """Takes the leader of term 1 away in name only; ``error``: what healing it raises."""

    async def fault(stage: Any) -> FaultSteps:
        yield FaultStep("kill -9 of nobody", Leader("n1", 1))
        if error is not None:
            raise error
        world.term = 2
        yield FaultStep("nobody started again")

    return fault


def on_trial(world: World, scene: Callable[[Trial], Awaitable[T]]) -> tuple[T, Trial, list[Event]]:
    events: list[Event] = []

    async def scenario() -> tuple[T, Trial]:
        made = Trial(world, SOURCE.opening(), events.append)  # type: ignore[arg-type]
        return await scene(made), made

    result, made = asyncio.run(scenario())
    return result, made, events


async def judged(trial: Trial) -> list[str]:
    await trial.load.pay_all(ORDERS, 2, 5.0)
    await trial.settle()
    violations, _, _ = await trial.judge(keep=False)
    return [violation.kind for violation in violations]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_trial_without_a_flaw_holds_and_keeps_nothing(world: World) -> None:
    kinds, _, events = on_trial(world, judged)
    assert kinds == []
    assert [event.kind for event in events] == ["settle", "audit"]
    assert not (world.directory / "history.jsonl").exists()


def test_a_trial_in_which_nothing_was_committed_has_proved_nothing(world: World) -> None:
    async def scene(trial: Trial) -> list[str]:
        violations, _, _ = await trial.judge(keep=False)
        return [violation.kind for violation in violations]

    assert on_trial(world, scene)[0] == ["nothing done"]


def test_a_flaw_that_the_audit_finds_breaks_the_trial_and_keeps_the_files(world: World) -> None:
    world.balances[HOME_BANK]["1"] += 1
    kinds, _, events = on_trial(world, judged)
    assert kinds == ["balance", "money"]
    assert events[-1].kind == "kept"
    assert (world.directory / "history.jsonl").read_text().count("\n") == len(ORDERS)


def test_what_is_not_settled_in_time_is_a_violation(world: World) -> None:
    world.left = "3 open at node n1"
    assert on_trial(world, judged)[0] == ["unsettled"]


def test_an_audit_that_a_node_does_not_answer_is_no_pass(world: World) -> None:
    world.unreachable = True
    assert on_trial(world, judged)[0] == ["unreachable"]


def struck(world: World, fault: Fault) -> tuple[list[str], Trial]:
    async def scene(trial: Trial) -> list[str]:
        async with asyncio.TaskGroup() as group:
            group.create_task(trial.load.at_rate(SOURCE.orders(), 500.0, 8))
            await trial.strike(fault, 0.02)
            trial.load.stop()
        return [violation.kind for violation in trial.broken]

    kinds, trial, _ = on_trial(world, scene)
    return kinds, trial


def test_a_failover_is_timed_to_the_first_commit_of_a_later_term(world: World) -> None:
    kinds, trial = struck(world, harmless(world))
    assert kinds == []
    (record,) = trial.faults
    assert record.first_commit_s is not None
    assert record.healed_at_s is not None
    assert record.first_commit_s >= 0.02


def test_a_node_that_does_not_come_back_is_a_violation(world: World) -> None:
    kinds, _ = struck(world, harmless(world, RaftcoordError("node n1 did not start: its node.db is damaged")))
    assert kinds == ["not back"]


def test_a_node_that_ended_by_itself_is_a_violation(world: World) -> None:
    world.down = ["n2"]
    assert struck(world, harmless(world))[0] == ["node fell"]


def test_a_cluster_that_commits_no_more_is_stalled(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "BACK_TIMEOUT_S", 0.05)

    async def scene(trial: Trial) -> list[str]:
        await trial.strike(harmless(world), 0.0)
        return [violation.kind for violation in trial.broken]

    assert on_trial(world, scene)[0] == ["stalled"]
