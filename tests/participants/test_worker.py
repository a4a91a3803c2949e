"""The worker: what nodes ask reaches the participant in batches, and what is in doubt is resolved."""

import asyncio
import logging
import threading
from collections.abc import Callable, Collection, Coroutine, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from fake_node import CLUSTER, SILENCE, FakeNode, listening, serving, until

from raftcoord import limits
from raftcoord.env import Env
from raftcoord.errors import StorageError, Unavailable
from raftcoord.participants import doubts, worker
from raftcoord.participants.interface import Participant, Reply, Request, WrongCluster
from raftcoord.participants.sqlite import SqliteParticipant
from raftcoord.participants.worker import Worker
from raftcoord.rpc.codes import RpcError
from raftcoord.types import Payload, State, TxId, Verdict, Vote, VoteKind

ADD = [{"op": "add", "key": "alice", "amount": -10, "min": 0}]
YES = [int(VoteKind.YES), ""]


@pytest.fixture
def bank(tmp_path: Path) -> Iterator[SqliteParticipant]:
    bank = SqliteParticipant(tmp_path / "bank.db")
    bank.open_accounts({"alice": 100, "bob": 100})
    yield bank
    bank.close()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "GRACE_S", 0.02)
    monkeypatch.setattr(worker, "RESTORED_GRACE_S", 0.02)
    monkeypatch.setattr(doubts, "BACKOFF_S_MIN", 0.001)
    monkeypatch.setattr(doubts, "BACKOFF_S_MAX", 0.02)


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(test())


class Gate(Participant):
    """Records what it is asked; ``run`` waits while the gate is shut."""

    def __init__(self) -> None:
        self.calls: list[object] = []
        self.batches: list[Sequence[Request]] = []
        self.open = threading.Event()
        self.open.set()
        self.entered = threading.Event()
        self.failure: Exception | None = None
        self.left: set[TxId] = set()

    def join(self, cluster: str) -> None:
        self.calls.append(("join", cluster))

    def prepared(self) -> Collection[TxId]:
        self.calls.append("prepared")
        return self.left

    def prepare(self, txid: TxId, payload: Payload) -> Vote:
        return Vote.yes()

    def commit(self, txid: TxId) -> None:
        self.left.discard(txid)

    def abort(self, txid: TxId) -> None:
        self.left.discard(txid)

    def run(self, batch: Sequence[Request]) -> Sequence[tuple[Request, Reply]]:
        self.calls.append("run")
        self.batches.append(batch)
        self.entered.set()
        assert self.open.wait(10)
        if self.failure is not None:
            raise self.failure
        return super().run(batch)


# -- requests and answers


def test_a_transaction_runs_over_the_wire(bank: SqliteParticipant) -> None:
    async def test() -> None:
        node = FakeNode()
        async with serving(bank, node):
            done, undone, refused = TxId.new(), TxId.new(), TxId.new()
            assert await node.prepare(done, ADD) == YES
            assert await node.ask("commit", done) is True
            assert await node.prepare(undone, ADD) == YES
            assert await node.ask("abort", undone) is True
            kind, reason = await node.prepare(refused, [{"op": "add", "key": "alice", "amount": -91, "min": 0}])
            assert kind == VoteKind.NO
            assert "would leave -1" in reason
        assert bank.balance("alice") == 90
        assert node.hellos[0]["name"] == "bank-a"

    run(test)


def test_the_participant_joins_before_anything_else() -> None:
    async def test() -> None:
        gate, node = Gate(), FakeNode()
        async with serving(gate, node):
            assert await node.prepare(TxId.new(), None) == YES
        assert gate.calls == [("join", CLUSTER), "prepared", "run"]

    run(test)


def test_what_arrives_while_a_batch_runs_is_the_next_batch() -> None:
    async def test() -> None:
        gate, nodes = Gate(), [FakeNode("n1"), FakeNode("n2")]
        async with serving(gate, *nodes):
            gate.open.clear()
            first = asyncio.create_task(nodes[0].prepare(TxId.new(), None))
            await until(gate.entered.is_set)
            rest = [asyncio.create_task(nodes[i % 2].prepare(TxId.new(), i)) for i in range(20)]
            await until(lambda: sum(n.conn.open_calls for n in nodes if n.conn) == 21)
            await nodes[0].ask_bad()  # its answer comes without the participant, after all that was sent before
            await nodes[1].ask_bad()
            gate.open.set()
            assert await asyncio.gather(first, *rest) == [YES] * 21
        assert [len(batch) for batch in gate.batches] == [1, 20]

    run(test)


def test_each_node_gets_the_answers_to_what_it_asked(bank: SqliteParticipant) -> None:
    async def test() -> None:
        nodes = [FakeNode("n1"), FakeNode("n2"), FakeNode("n3")]
        async with serving(bank, *nodes):
            t = TxId.new()
            assert await nodes[0].prepare(t, ADD) == YES
            assert await asyncio.gather(*(node.ask("commit", t) for node in nodes)) == [True, True, True]
        assert bank.balance("alice") == 90

    run(test)


def test_a_prepare_that_waits_for_a_lock_is_answered_when_it_is_free_and_when_it_gives_up(
    tmp_path: Path,
) -> None:
    async def test() -> None:
        node, path = FakeNode(), tmp_path / "bank.db"
        first, second, third = TxId.new(), TxId.new(), TxId.new()
        with closing(SqliteParticipant(path, lock_wait_ms=40)) as bank:
            bank.open_accounts({"alice": 100})
            async with serving(bank, node):
                assert await node.prepare(first, ADD) == YES
                kind, reason = await node.prepare(second, ADD)
                assert kind == VoteKind.NO
                assert f"locked by transaction {first}" in reason
        node = FakeNode()
        with closing(SqliteParticipant(path, lock_wait_ms=10_000)) as bank:
            async with serving(bank, node):
                waiting = asyncio.create_task(node.prepare(third, ADD))
                await until(lambda: bank.due_ms() is not None)
                assert await node.ask("commit", first) is True
                assert await waiting == YES

    run(test)


def test_commit_of_what_is_not_prepared_is_an_error_with_its_own_code_and_loud(
    bank: SqliteParticipant, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        node = FakeNode()
        async with serving(bank, node):
            done, unknown = TxId.new(), TxId.new()
            error = await node.ask("commit", unknown)
            assert isinstance(error, RpcError)
            assert error.code == "not_prepared"
            assert str(unknown) in error.message
            await node.prepare(done, ADD)
            await node.ask("commit", done)
            error = await node.ask("abort", done)
            assert isinstance(error, RpcError)
            assert error.code == "already_committed"
        assert bank.balance("alice") == 90

    run(test)
    assert [record.levelno for record in caplog.records if "told to" in record.message] == [logging.ERROR] * 2


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("prepare", [None, 0]),
        ("prepare", [None, limits.TIMEOUT_MS_MAX + 1]),
        ("prepare", [None, "soon"]),
        ("prepare", []),
        ("commit", [1]),
        ("explode", []),
    ],
)
def test_a_malformed_request_is_refused_and_disturbs_nothing(
    bank: SqliteParticipant, method: str, params: list[object]
) -> None:
    async def test() -> None:
        node = FakeNode()
        async with serving(bank, node):
            error = await node.ask(method, TxId.new(), *params)
            assert isinstance(error, RpcError)
            assert error.code == "bad_request"
            assert await node.prepare(TxId.new(), ADD, limits.TIMEOUT_MS_MAX) == YES

    run(test)


def test_the_queue_takes_as_many_as_it_may_and_refuses_the_next() -> None:
    async def test() -> None:
        gate, node = Gate(), FakeNode()
        async with serving(gate, node, queue_max=3):
            gate.open.clear()
            taken = [asyncio.create_task(node.prepare(TxId.new(), i)) for i in range(3)]
            await until(lambda: node.conn is not None and node.conn.open_calls == 3)
            error = await node.prepare(TxId.new(), 3)
            assert isinstance(error, RpcError)
            assert error.code == "overloaded"
            gate.open.set()
            assert await asyncio.gather(*taken) == [YES] * 3

    run(test)


def test_a_prepare_whose_node_is_gone_is_not_run() -> None:
    async def test() -> None:
        gate, nodes = Gate(), [FakeNode("n1"), FakeNode("n2")]
        async with serving(gate, *nodes):
            gate.open.clear()
            held = asyncio.create_task(nodes[1].prepare(TxId.new(), "held"))
            await until(gate.entered.is_set)
            asked = [asyncio.create_task(nodes[0].ask("prepare", TxId.new(), None, 1000))]
            await nodes[0].ask_bad()
            await nodes[0].stop()
            await asyncio.gather(*asked)
            late = asyncio.create_task(nodes[1].prepare(TxId.new(), "late"))
            await nodes[1].ask_bad()
            gate.open.set()
            assert await asyncio.gather(held, late) == [YES, YES]
        assert [request.payload for batch in gate.batches for request in batch] == ["held", "late"]  # type: ignore[union-attr]

    run(test)


def test_a_worker_that_stops_answers_the_batch_that_is_running() -> None:
    async def test() -> None:
        gate, node = Gate(), FakeNode()
        async with serving(gate, node) as serving_worker:
            gate.open.clear()
            asked = asyncio.create_task(node.prepare(TxId.new(), None))
            await until(gate.entered.is_set)
            serving_worker.stop()
            gate.open.set()
            assert await asked == YES

    run(test)


def test_a_participant_that_cannot_go_on_stops_the_worker_with_its_reason() -> None:
    async def test() -> None:
        gate, node = Gate(), FakeNode()
        gate.failure = StorageError("the disk is gone")
        async with listening(node):
            task = asyncio.create_task(Worker(gate, "bank-a", [node.address], Env.real()).run())
            error = await node.prepare(TxId.new(), None)
            assert isinstance(error, RpcError)
            assert error.code == "connection_lost"
            with pytest.raises(StorageError, match="the disk is gone"):
                await task

    run(test)


def test_a_node_that_comes_back_is_served_again(bank: SqliteParticipant) -> None:
    async def test() -> None:
        node = FakeNode()
        async with serving(bank, node) as serving_worker:
            await node.stop()
            await until(lambda: not serving_worker.ready.is_set())
            await node.start()
            assert await node.prepare(TxId.new(), ADD) == YES
            assert serving_worker.ready.is_set()

    run(test)


# -- the right cluster


def test_a_node_of_another_cluster_is_refused_with_one_error_and_the_others_are_served(
    bank: SqliteParticipant, caplog: pytest.LogCaptureFixture
) -> None:
    bank.join(CLUSTER)

    async def test() -> None:
        stranger, node = FakeNode("stranger", "00000000000000bb"), FakeNode()
        async with serving(bank, stranger, node):
            await until(lambda: len(stranger.hellos) >= 3)
            assert await node.prepare(TxId.new(), ADD) == YES

    run(test)
    refusals = [record.message for record in caplog.records if "is refused" in record.message]
    assert len(refusals) == 1
    assert "stranger" in refusals[0]


def test_a_request_of_a_stranger_never_reaches_the_participant(bank: SqliteParticipant) -> None:
    bank.join(CLUSTER)

    class Hasty(FakeNode):
        def on_hello(self, conn: Any, role: str, details: dict[str, Any]) -> dict[str, Any]:
            conn.call("prepare", [bytes(TxId.new()), ADD, 1000], lambda error, result: None)
            return super().on_hello(conn, role, details)

    async def test() -> None:
        stranger, node = Hasty("stranger", "00000000000000bb"), FakeNode()
        async with serving(bank, stranger, node):
            await until(lambda: len(stranger.hellos) >= 2)
            await node.ask("abort", TxId.new())
        assert not bank.prepared()

    run(test)


def test_what_a_node_asks_with_its_hello_waits_until_it_is_admitted(bank: SqliteParticipant) -> None:
    answers: list[object] = []

    class Hasty(FakeNode):
        def on_hello(self, conn: Any, role: str, details: dict[str, Any]) -> dict[str, Any]:
            conn.call("prepare", [bytes(TxId.new()), ADD, 1000], lambda error, result: answers.append(result))
            return super().on_hello(conn, role, details)

    async def test() -> None:
        async with serving(bank, Hasty()):
            await until(lambda: bool(answers))
        assert answers == [YES]

    run(test)


def test_when_every_node_is_of_another_cluster_the_worker_ends_with_that_error(bank: SqliteParticipant) -> None:
    bank.join("00000000000000cc")

    async def test() -> None:
        nodes = [FakeNode("n1"), FakeNode("n2")]
        async with listening(*nodes):
            serving_worker = Worker(bank, "bank-a", [node.address for node in nodes], Env.real())
            with pytest.raises(WrongCluster, match="belongs to cluster 00000000000000cc"):
                await asyncio.wait_for(serving_worker.run(), 10)

    run(test)


def test_nodes_of_a_cluster_of_another_name_are_refused_before_the_state_is_theirs(bank: SqliteParticipant) -> None:
    async def test() -> None:
        node = FakeNode()
        async with listening(node):
            worker = Worker(bank, "bank-a", [node.address], Env.real(), cluster_name="shop")
            with pytest.raises(WrongCluster, match="is for cluster 'shop', this node is of cluster 'demo'"):
                await asyncio.wait_for(worker.run(), 10)
        assert bank.cluster() == ""

    run(test)


# -- doubts


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(("state", "verdict"), [(State.COMMITTED, Verdict.COMMIT), (State.ABORTED, Verdict.ABORT)])
def test_a_branch_that_hears_nothing_past_its_deadline_asks_and_does_what_it_hears(
    bank: SqliteParticipant, state: State, verdict: Verdict
) -> None:
    async def test() -> None:
        node = FakeNode()
        node.outcome = lambda method, txid: state
        async with serving(bank, node):
            t = TxId.new()
            assert await node.prepare(t, ADD, 20) == YES
            await until(lambda: bank.finished(t) is verdict)
            assert node.asked == [("resolve", t)]
            await until(lambda: not bank.prepared())

    run(test)


def test_before_its_deadline_a_branch_does_not_ask(bank: SqliteParticipant) -> None:
    async def test() -> None:
        node = FakeNode()
        async with serving(bank, node):
            t = TxId.new()
            assert await node.prepare(t, ADD) == YES
            assert await node.ask("commit", t) is True
        assert node.asked == []

    run(test)


def test_after_a_restart_a_branch_asks_for_its_status_at_once(bank: SqliteParticipant) -> None:
    t = TxId.new()
    bank.prepare(t, ADD)

    async def test() -> None:
        node = FakeNode()
        node.outcome = lambda method, txid: State.COMMITTED
        async with serving(bank, node):
            await until(lambda: bank.finished(t) is Verdict.COMMIT)
        assert node.asked == [("status", t)]

    run(test)


@pytest.mark.usefixtures("impatient")
def test_after_a_restart_an_undecided_branch_is_resolved_once_the_grace_is_over(bank: SqliteParticipant) -> None:
    t = TxId.new()
    bank.prepare(t, ADD)

    async def test() -> None:
        node = FakeNode()
        node.outcome = lambda method, txid: State.ABORTED if method == "resolve" else State.UNDECIDED
        async with serving(bank, node):
            await until(lambda: bank.finished(t) is Verdict.ABORT)
        assert node.asked[0] == ("status", t)
        assert node.asked[-1] == ("resolve", t)

    run(test)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    "nonsense", [Unavailable("no majority"), State.UNDECIDED, State.FORGOTTEN, None, "COMMITTED", [9]]
)
def test_no_answer_but_an_outcome_ends_a_doubt(bank: SqliteParticipant, nonsense: object) -> None:
    t = TxId.new()
    bank.prepare(t, ADD)

    async def test() -> None:
        node = FakeNode()
        node.outcome = lambda method, txid: nonsense
        async with serving(bank, node):
            await until(lambda: len(node.asked) >= 8)
            assert list(bank.prepared()) == [t]
            node.outcome = lambda method, txid: State.COMMITTED
            await until(lambda: bank.finished(t) is Verdict.COMMIT)

    run(test)


@pytest.mark.usefixtures("impatient")
def test_a_node_that_does_not_answer_is_passed_over(bank: SqliteParticipant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doubts, "ANSWER_S_MAX", 0.02)
    ts = [TxId.new() for _ in range(2)]
    for t, key in zip(ts, ("alice", "bob"), strict=True):
        bank.prepare(t, [{"op": "add", "key": key, "amount": 1}])

    async def test() -> None:
        silent, node = FakeNode("silent"), FakeNode()
        silent.outcome = lambda method, txid: SILENCE
        node.outcome = lambda method, txid: State.COMMITTED
        async with serving(bank, silent, node):
            await until(lambda: bank.total() == 202)

    run(test)


@pytest.mark.usefixtures("impatient")
def test_doubts_wait_for_a_node_and_are_resolved_when_it_comes(bank: SqliteParticipant) -> None:
    async def test() -> None:
        node = FakeNode()
        node.outcome = lambda method, txid: State.COMMITTED
        async with serving(bank, node) as serving_worker:
            t = TxId.new()
            node.outcome = lambda method, txid: SILENCE
            assert await node.prepare(t, ADD, 20) == YES
            await until(lambda: bool(node.asked))
            await node.stop()
            await until(lambda: not serving_worker.ready.is_set())
            node.outcome = lambda method, txid: State.COMMITTED
            await node.start()
            await until(lambda: bank.finished(t) is Verdict.COMMIT)

    run(test)


@pytest.mark.usefixtures("impatient")
def test_what_another_instance_left_behind_is_found_by_the_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "SWEEP_S", 0.02)

    async def test() -> None:
        gate, node = Gate(), FakeNode()
        node.outcome = lambda method, txid: State.COMMITTED
        async with serving(gate, node) as serving_worker:
            left = TxId.new()
            gate.left.add(left)
            await until(lambda: bool(node.asked) and not gate.left)
            assert len(serving_worker._doubts) == 0

    run(test)


@pytest.mark.usefixtures("impatient")
def test_what_another_instance_finished_is_no_longer_asked_about(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "SWEEP_S", 0.02)

    async def test() -> None:
        gate, node = Gate(), FakeNode()
        gate.left.add(TxId.new())
        async with serving(gate, node) as serving_worker:
            await until(lambda: len(serving_worker._doubts) == 1)
            gate.left.clear()
            await until(lambda: len(serving_worker._doubts) == 0)

    run(test)


@pytest.mark.usefixtures("impatient")
def test_an_outcome_that_cannot_be_carried_out_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    class Reluctant(Gate):
        refusals = 3

        def commit(self, txid: TxId) -> None:
            if self.refusals:
                self.refusals -= 1
                raise StorageError("no room yet")
            super().commit(txid)

    async def test() -> None:
        bank, node = Reluctant(), FakeNode()
        bank.left.add(TxId.new())
        node.outcome = lambda method, txid: State.COMMITTED
        async with serving(bank, node):
            await until(lambda: not bank.left)
        assert len(node.asked) == 4

    run(test)


def test_when_the_coordinator_is_lost_its_branches_are_resolved_through_another_node_at_once(
    bank: SqliteParticipant,
) -> None:
    async def test() -> None:
        coordinator, other = FakeNode("n1"), FakeNode("n2")
        other.outcome = lambda method, txid: State.ABORTED
        txid = TxId.new()
        async with serving(bank, coordinator, other):
            assert await coordinator.prepare(txid, ADD, 600_000) == YES  # ten minutes are left until its deadline
            await coordinator.stop()
            await until(lambda: bank.finished(txid) is Verdict.ABORT)
            assert other.asked == [("resolve", txid)]

    run(test)
