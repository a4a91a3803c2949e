"""Tick, sync, flush with everything real but the power cut: three nodes in one process, node.db files, loopback sockets."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack
import pytest
from cluster import PATIENCE_S, Cluster, HeldRunner, config_in, until

from raftcoord import events, limits
from raftcoord.consensus import copies
from raftcoord.consensus.consensus import Consensus
from raftcoord.core.commands import encode_command
from raftcoord.core.tables.decisions import Complete, Decide, Standing
from raftcoord.core.tables.founding import Found, Founding
from raftcoord.core.tables.table import Done
from raftcoord.errors import (
    ConfigError,
    Halt,
    NotKnown,
    RaftcoordError,
    RemoteProtocolError,
    StorageError,
    Unavailable,
)
from raftcoord.limits import NodeBounds
from raftcoord.storage import node_db
from raftcoord.storage.node_db import NodeDb
from raftcoord.types import NodeName, State, TxId, Verdict

Test = Callable[[Cluster], Coroutine[Any, Any, None]]


def run(directory: Path, test: Test, nodes: int = 3, start: bool = True, bounds: NodeBounds = NodeBounds()) -> None:
    """Run ``test`` with a cluster, of which every node is started."""

    async def within() -> None:
        async with Cluster(config_in(directory, nodes), bounds) as cluster:
            if start:
                await cluster.start()
            await test(cluster)

    asyncio.run(within())


# -- agreeing ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nodes", [1, 3, 5])
def test_a_decision_made_anywhere_stands_everywhere(nodes: int, tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        leader = await cluster.leader()
        txids = [await cluster.decided(name, verdict) for name in cluster.names for verdict in Verdict]
        await cluster.agreed()
        for node in cluster.nodes.values():
            assert [node.ledger.state(txid) for txid in txids] == [State.ABORTED, State.COMMITTED] * nodes
            assert node.leader == leader
            assert node.is_leader == (node.position().role == "leader") == (node.leader == node._name)
            assert (
                node.position().log_first
                <= node.applied_index
                == node.position().commit_index
                == node.position().log_last
            )
            assert node.applied_term == node.term
        assert cluster.halted == []

    run(tmp_path, test, nodes)


def test_an_observer_sees_the_leader_and_each_decision_on_its_way_to_the_ledger(tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        seen: list[Any] = []
        for node in cluster.nodes.values():
            node.events.attach(seen.append)
        leader = await cluster.leader()
        await until(lambda: events.Led(NodeName(leader), cluster.nodes[leader].term) in seen, "the leader")
        follower = (await cluster.followers())[0]
        seen.clear()
        await cluster.decided(follower)
        await until(lambda: cluster.nodes[leader].applied_index == cluster.nodes[follower].applied_index, "both")
        kinds = [type(event) for event in seen]
        assert kinds.count(events.Proposed) == 1
        assert events.Synced in kinds[kinds.index(events.Proposed) :]
        assert events.Applied in kinds[kinds.index(events.Synced) :]
        assert {events.Sending, events.Heard, events.Turning, events.Turned, events.Applying} <= set(kinds)

    run(tmp_path, test)


def test_racing_verdicts_have_one_answer_everywhere(tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        await cluster.leader()
        for _ in range(10):
            txid = TxId.new()
            racing = [cluster.decide(name, verdict, txid) for name in cluster.names for verdict in Verdict]
            answers = await asyncio.gather(*racing)
            assert len({answer.decision for answer in answers}) == 1
            assert sum(answer.first for answer in answers) == 1

    run(tmp_path, test)


def test_a_barrier_reads_what_was_decided_elsewhere(tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        leader = await cluster.leader()
        loop = asyncio.get_running_loop()
        for follower in await cluster.followers():
            txid = await cluster.decided(leader)
            reached: asyncio.Future[Any] = loop.create_future()
            cluster.nodes[follower].barrier(loop.time() + 30, reached.set_result)
            term, index = await reached
            assert cluster.nodes[follower].ledger.state(txid) is State.COMMITTED
            assert (term, index) <= (cluster.nodes[follower].applied_term, cluster.nodes[follower].applied_index)

    run(tmp_path, test)


def test_listeners_hear_of_the_leader_and_every_node_of_the_clusters_id(tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        heard: list[Any] = []
        for name, node in cluster.nodes.items():
            node.on_leader_change.append(lambda name=name: heard.append(name))
        leader = await cluster.leader()
        assert await cluster.propose(leader, Found("00112233aabbccdd")) == Done(True)
        assert await cluster.propose(leader, Found("ffffffffffffffff")) == Done(False)
        ledgers = [node.ledger for node in cluster.nodes.values()]
        await until(lambda: {each.cluster for each in ledgers} == {"00112233aabbccdd"}, "the id, everywhere")
        assert set(heard) == set(cluster.names)

    run(tmp_path, test)


def test_what_a_node_says_of_its_peers(tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        leader = await cluster.leader()
        await cluster.agreed()
        gone = (await cluster.followers())[0]
        await cluster.stop(gone)
        node = cluster.nodes[leader]
        await until(lambda: not node.peers_status()[gone]["up"], "the link to be down")
        status = node.peers_status()
        other = next(name for name in cluster.nodes if name != leader)
        assert set(status) == set(cluster.names) - {leader}
        assert (status[other]["up"], status[other]["why"]) == (True, "")
        assert status[gone]["why"]
        await until(lambda: node.peers_status()[other]["match"] == node.position().log_last, "the other to catch up")
        assert cluster.nodes[other].peers_status()[leader]["match"] is None
        assert node.clock_offsets()[gone] is None
        assert abs(node.clock_offsets()[other] or 0) < 60_000

    run(tmp_path, test)


def test_the_clock_of_a_node_that_stands_still_is_not_known_though_its_link_is_up(tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        leader = await cluster.leader()
        node, (still, other) = cluster.nodes[leader], await cluster.followers()
        await until(lambda: None not in node.clock_offsets().values(), "both clocks to be heard")
        await until(lambda: not cluster.nodes[still]._host.busy, "a moment without a sync")
        cluster.nodes[still]._host.running = False  # as SIGSTOP: the kernel keeps its sockets
        await until(lambda: node.clock_offsets()[NodeName(still)] is None, "its clock to be forgotten")
        assert node.peers_status()[NodeName(still)]["up"]
        assert node.clock_offsets()[NodeName(other)] is not None
        cluster.nodes[still]._host.running = True
        cluster.nodes[still]._host.beat()
        await until(lambda: node.clock_offsets()[NodeName(still)] is not None, "its clock to be heard again")

    run(tmp_path, test)


def test_a_leader_whose_clock_is_set_agrees_with_nobody_from_that_moment(tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        node = cluster.nodes[await cluster.leader()]
        await until(lambda: None not in node.clock_offsets().values(), "both clocks to be heard")
        node._peers._env = replace(node._peers._env, wall_ms=lambda: (time.time_ns() // 1_000_000) + 172_800_000)
        offsets = node.clock_offsets().values()  # nothing was heard in between
        assert all(offset is not None and abs(offset + 172_800_000) < 60_000 for offset in offsets)

    run(tmp_path, test)


# -- the one rule -----------------------------------------------------------------------------------------------------


def test_nothing_is_acknowledged_before_the_sync(tmp_path: Path) -> None:
    """With the followers' syncs withheld, the leader's disk alone has it: that is no majority."""

    async def test(cluster: Cluster) -> None:
        runners = {name: HeldRunner() for name in cluster.names}
        for name, runner in runners.items():
            await cluster.start(name, runner=runner)
        leader = await cluster.leader()
        await cluster.decided(leader)
        followers = await cluster.followers()
        for name in followers:
            runners[name].held = True
        answer = cluster.decide(leader)
        await until(lambda: all(runners[name].waiting for name in followers), "entries that wait for a sync")
        assert cluster.nodes[leader].position().log_last > cluster.nodes[leader].position().commit_index
        assert not answer.done()
        runners[followers[0]].held = False
        runners[followers[0]].release()
        assert (await answer).first

    run(tmp_path, test, start=False)


def test_the_leader_counts_itself_only_for_what_it_has_synced(tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        runner = HeldRunner()
        await cluster.start(runner=runner)
        await cluster.leader()
        await cluster.decided("n1")
        runner.held = True
        answer = cluster.decide("n1")
        await until(lambda: runner.waiting, "the sync")
        assert not answer.done()
        assert cluster.nodes["n1"].position().commit_index < cluster.nodes["n1"].position().log_last
        runner.held = False
        runner.release()
        assert (await answer).first

    run(tmp_path, test, nodes=1, start=False)


def test_what_gathers_during_a_sync_shares_the_next_one(tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        runner = HeldRunner()
        await cluster.start(runner=runner)
        await cluster.leader()
        await cluster.decided("n1")
        runner.held = True
        first = cluster.decide("n1")
        await until(lambda: runner.waiting, "the first sync")
        before = cluster.nodes["n1"].position().log_last
        rest = [cluster.decide("n1") for _ in range(50)]
        runner.held = False
        runner.release()
        await asyncio.gather(first, *rest)
        assert cluster.nodes["n1"].position().log_last == before + 1, "fifty proposals, one entry, one sync"

    run(tmp_path, test, nodes=1, start=False)


# -- coming back ------------------------------------------------------------------------------------------------------


def test_everything_that_was_answered_is_there_after_all_have_stopped(tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        txids = [await cluster.decided(name) for name in cluster.names for _ in range(3)]
        assert await cluster.propose("n1", Complete(((txids[0], ("a",)),))) == Done(True)
        term = cluster.nodes["n1"].term
        await cluster.stop()
        await cluster.start()
        late = [await cluster.decide("n2", Verdict.ABORT, txid) for txid in txids]
        assert {(answer.state, answer.first) for answer in late} == {(State.COMMITTED, False)}
        await cluster.agreed()
        assert cluster.nodes["n1"].term > term
        for node in cluster.nodes.values():
            assert node.ledger.open_count == len(txids) - 1

    run(tmp_path, test)


def test_a_new_leader_is_found_when_the_leader_stops(tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        leader = await cluster.leader()
        txid = await cluster.decided(leader)
        asked = (await cluster.followers())[0]
        pending = cluster.decide(asked)
        await cluster.stop(leader)
        assert isinstance(await pending, Standing)
        assert (await cluster.decide(asked, Verdict.ABORT, txid)).state is State.COMMITTED
        await cluster.start(leader)
        await cluster.agreed()
        assert cluster.nodes[leader].ledger.state(txid) is State.COMMITTED

    run(tmp_path, test)


def test_a_follower_that_is_too_far_behind_gets_a_copy(tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        leader = await cluster.leader()
        behind = (await cluster.followers())[0]
        before = await cluster.decided(behind)
        await cluster.agreed()
        last = cluster.nodes[behind].position().log_last
        await cluster.stop(behind)
        missed = [await cluster.decided(leader) for _ in range(12)]
        await until(lambda: cluster.nodes[leader].position().log_first > last, "the log to be cut")
        await cluster.start(behind)
        await cluster.agreed()
        node = cluster.nodes[behind]
        assert node.position().log_first > last, "it was told by the log, not by a copy"
        assert {node.ledger.state(txid) for txid in (before, *missed)} == {State.COMMITTED}
        after = await cluster.decided(behind)
        await until(lambda: all(map(cluster.dbs[behind].decision, (before, *missed, after))), "it to be stored there")
        assert sorted(path.name for path in (tmp_path / behind).glob("*.tmp")) == []
        await cluster.stop(behind)
        await cluster.start(behind)
        await cluster.agreed()
        assert cluster.halted == []

    run(tmp_path, test, bounds=NodeBounds(log_tail_entries=2, log_compact_slack=2, copy_chunk_bytes=1000))


@pytest.mark.parametrize("short", ["the leader", "the follower"])
def test_a_copy_for_which_there_is_no_room_is_not_begun_and_said_once(
    short: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tries: list[str] = []
    module = node_db if short == "the leader" else copies
    check = module.check_room

    def no_room(directory: Path, needed: int, what: str) -> None:
        tries.append(what)
        check(directory, 1 << 60, what)

    async def test(cluster: Cluster) -> None:
        leader = await cluster.leader()
        behind = (await cluster.followers())[0]
        await cluster.agreed()
        last = cluster.nodes[behind].position().log_last
        await cluster.stop(behind)
        for _ in range(12):
            await cluster.decided(leader)
        await until(lambda: cluster.nodes[leader].position().log_first > last, "the log's compaction")
        monkeypatch.setattr(module, "check_room", no_room)
        await cluster.start(behind)
        await until(lambda: len(tries) >= 4, "the fourth try")
        said = [record.getMessage() for record in caplog.records if "broke off" in record.getMessage()]
        # A busy machine may elect another leader meanwhile, or lose the link: that is another line. The same one comes once.
        of_room = [line for line in said if "are free; free some" in line]
        assert len(of_room) >= 1
        assert len({line.split(":")[0] for line in of_room}) == len(of_room), "a leader said it again"
        monkeypatch.setattr(module, "check_room", check)
        await cluster.agreed()
        assert cluster.halted == []

    run(tmp_path, test, bounds=NodeBounds(log_tail_entries=2, log_compact_slack=2, copy_retry_ms_min=1))


def test_a_copy_that_breaks_off_is_begun_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attempts: list[Path] = []
    sound = NodeDb.snapshot_to

    def failing_once(self: NodeDb, path: Path) -> Any:
        attempts.append(path)
        if len(attempts) == 1:
            raise StorageError("no room for a copy")
        return sound(self, path)

    monkeypatch.setattr(NodeDb, "snapshot_to", failing_once)

    async def test(cluster: Cluster) -> None:
        leader = await cluster.leader()
        behind = (await cluster.followers())[0]
        await cluster.agreed()
        last = cluster.nodes[behind].position().log_last
        await cluster.stop(behind)
        for _ in range(12):
            await cluster.decided(leader)
        await until(lambda: cluster.nodes[leader].position().log_first > last, "the log to be cut")
        await cluster.start(behind)
        await cluster.agreed()
        assert len(attempts) >= 2
        assert cluster.halted == []

    run(tmp_path, test, bounds=NodeBounds(log_tail_entries=2, log_compact_slack=2, copy_retry_ms_min=10))


# -- when it must stop ------------------------------------------------------------------------------------------------


def test_a_failed_sync_halts_once_and_answers_every_open_proposal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(cluster: Cluster) -> None:
        runner = HeldRunner()
        await cluster.start(runner=runner)
        await cluster.decided("n1")
        runner.held = True
        handed_over = cluster.decide("n1")
        await until(lambda: runner.waiting, "the sync")
        gathering = cluster.decide("n1")

        def full(*_: Any) -> None:
            raise StorageError("the disk is full; make room")

        monkeypatch.setattr(NodeDb, "write", full)
        runner.release()
        assert isinstance(await handed_over, NotKnown), "it is in the log, and perhaps on the disk"
        assert isinstance(await gathering, Unavailable)
        with pytest.raises(Unavailable, match="has stopped"):
            cluster.decide("n1")
        with pytest.raises(Unavailable, match="has stopped"):
            cluster.nodes["n1"].barrier(1.0, lambda _: None)
        await asyncio.sleep(0.05)
        assert [(name, str(error)) for name, error in cluster.halted] == [("n1", "the disk is full; make room")]
        assert runner.waiting == [], "a failed sync was tried again"

    run(tmp_path, test, nodes=1, start=False)


def test_the_others_go_on_without_the_one_that_halted(tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        leader = await cluster.leader()
        await cluster.decided(leader)

        def full(*_: Any) -> None:
            raise StorageError("the disk is full; make room")

        cluster.dbs[leader].write = full  # type: ignore[method-assign]
        lost = cluster.decide(leader)
        assert isinstance(await lost, NotKnown | Unavailable), "by whether it was in the sync that failed"
        others = [name for name in cluster.names if name != leader]
        await cluster.stop(leader)
        assert isinstance(await cluster.decide(others[0]), Standing)
        assert [name for name, _ in cluster.halted] == [leader]

    run(tmp_path, test)


def test_a_proposal_is_answered_by_its_deadline_although_the_disk_hangs(tmp_path: Path) -> None:
    """Found by the simulator: while a sync ran, no deadline was looked at (H14)."""

    async def test(cluster: Cluster) -> None:
        runner = HeldRunner()
        await cluster.start(runner=runner)
        await cluster.leader()
        await cluster.decided("n1")
        runner.held = True
        handed_over = cluster.decide("n1", wait=0.2)
        await until(lambda: runner.waiting, "the sync that hangs")
        gathered = cluster.decide("n1", wait=0.2)
        assert isinstance(await asyncio.wait_for(handed_over, PATIENCE_S), NotKnown)
        assert isinstance(await asyncio.wait_for(gathered, PATIENCE_S), Unavailable)
        assert runner.waiting
        runner.held = False
        runner.release()
        assert isinstance(await cluster.decide("n1"), Standing)

    run(tmp_path, test, nodes=1, start=False)


def test_an_error_that_nobody_foresaw_halts_too(tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        await cluster.decided("n1")

        def broken() -> None:
            raise ZeroDivisionError("a bug")

        cluster.nodes["n1"].on_leader_change.append(broken)
        cluster.nodes["n1"]._led = (None, 0)
        await until(lambda: cluster.halted, "the halt")
        [(_, error)] = cluster.halted
        assert isinstance(error, Halt)
        assert "ZeroDivisionError" in str(error)

    run(tmp_path, test, nodes=1)


def test_an_error_after_the_members_are_stored_halts_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that lived on would take part in nothing, and nobody would see it."""

    def broken(_: Consensus) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(Consensus, "_founded", broken)

    async def test(cluster: Cluster) -> None:
        await until(lambda: cluster.halted, "the halt")
        [(_, error)] = cluster.halted
        assert "ZeroDivisionError" in str(error)

    run(tmp_path, test, nodes=1)


def test_stopping_answers_every_proposal_truly(tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        await cluster.leader()
        alone = (await cluster.followers())[0]
        await cluster.stop(*(name for name in cluster.names if name != alone))
        await until(lambda: cluster.nodes[alone].leader is None, "the leader to be missed")
        waiting = cluster.decide(alone)
        await cluster.stop(alone)
        answer = await waiting
        assert isinstance(answer, Unavailable)
        assert isinstance(answer, RaftcoordError)

    run(tmp_path, test)


def asked_to_remove(cluster: Cluster, node: str, name: str, within_s: float) -> asyncio.Future[Any]:
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[Any] = loop.create_future()
    cluster.nodes[node].change_members("remove", NodeName(name), loop.time() + within_s, answer.set_result)
    return answer


@pytest.mark.parametrize("end", ["stop", "halt"])
def test_a_change_of_the_members_that_had_no_turn_is_answered_when_the_node_ends(end: str, tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        leader, follower = await cluster.leader(), (await cluster.followers())[0]
        node = cluster.nodes[leader]
        answer = asked_to_remove(cluster, leader, follower, PATIENCE_S)
        if end == "halt":
            node._host.halt(Halt("something cannot be handled"))
        else:
            await cluster.stop(leader)
        assert "ask another one" in str(await asyncio.wait_for(answer, PATIENCE_S))
        assert isinstance(answer.result(), Unavailable)

    run(tmp_path, test)


def test_a_change_of_the_members_is_answered_in_time_when_the_disk_hangs(tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        runner = HeldRunner()
        await cluster.start("n1", runner=runner)
        await cluster.start("n2", "n3")
        await cluster.leader()
        runner.held = True
        cluster.decide("n2")
        await until(lambda: runner.waiting, "a sync that hangs")
        answer = await asyncio.wait_for(asked_to_remove(cluster, "n1", "n2", 0.05), PATIENCE_S)
        assert isinstance(answer, Unavailable)
        assert "were not changed" in str(answer)

    run(tmp_path, test, start=False)


# -- who may come in --------------------------------------------------------------------------------------------------


def test_a_node_of_another_cluster_is_refused_and_told_why(tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        await cluster.leader()
        stranger = (await cluster.followers())[0]
        await cluster.stop(stranger)
        nodes = tuple(replace(node, data_dir=tmp_path / "other" / node.name) for node in cluster.config.nodes)
        other = replace(cluster.config, cluster="other", nodes=nodes)
        await cluster.start(stranger, config=other)
        status = cluster.nodes[stranger].peers_status
        await until(
            lambda: all("belongs to another cluster" in link["why"] for link in status().values()), "the refusal"
        )
        assert not any(link["up"] for link in status().values())
        assert cluster.nodes[stranger].leader is None
        node = next(node for name, node in cluster.nodes.items() if name != stranger)
        assert not node.peers_status()[stranger]["up"]
        assert isinstance(await cluster.decide(next(n for n in cluster.nodes if n != stranger)), Standing)

    run(tmp_path, test)


def test_a_node_with_the_data_of_another_founding_is_refused(tmp_path: Path) -> None:
    """The same cluster.yaml, and a data directory of another cluster's life: its id tells."""

    async def test(cluster: Cluster) -> None:
        leader = await cluster.leader()
        await cluster.propose(leader, Found("00112233aabbccdd"))
        await cluster.agreed()
        stranger = (await cluster.followers())[0]
        await until(lambda: cluster.nodes[stranger].ledger.cluster, "its id")
        await cluster.stop(stranger)
        (tmp_path / stranger).rename(tmp_path / "moved-away")
        await cluster.start(stranger)
        cluster.nodes[stranger].ledger[Founding].cluster = "ffffffffffffffff"
        status = cluster.nodes[stranger].peers_status
        await until(lambda: any("another cluster" in link["why"] for link in status().values()), "the refusal")

    run(tmp_path, test)


def test_a_port_in_use_is_said_so(tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        await cluster.start("n1")
        taken = cluster.config.node("n1").peer
        nodes = tuple(
            replace(node, peer=taken)
            if node.name == "n2"
            else replace(node, peer=cluster.config.node("n2").peer)
            if node.name == "n1"
            else node
            for node in cluster.config.nodes
        )
        with pytest.raises(ConfigError, match=str(taken.port)):
            await cluster.start("n2", config=replace(cluster.config, nodes=nodes))

    run(tmp_path, test, start=False)


def test_however_much_is_proposed_again_it_fits_into_frames(tmp_path: Path) -> None:
    """All that waits at a node goes to the next leader at once: more than one frame may hold, and no reason to halt."""

    async def test(cluster: Cluster) -> None:
        asked = (await cluster.followers())[0]
        command = Decide(TxId.new(), Verdict.ABORT, (), "x" * limits.REASON_LENGTH_MAX, "", 0)
        count = 3 * limits.PEER_FRAME_BYTES_MAX // 2 // len(encode_command(command))
        answers = [cluster.propose(asked, command._replace(txid=TxId.new()), wait=60.0) for _ in range(count)]
        assert {type(answer) for answer in await asyncio.gather(*answers)} == {Standing}
        assert cluster.halted == []

    run(tmp_path, test)


def test_a_second_copy_does_not_touch_the_one_that_is_being_installed(tmp_path: Path) -> None:
    """A new leader may begin its own copy meanwhile: it writes into the same file."""

    async def test(cluster: Cluster) -> None:
        leader = await cluster.leader()
        behind, other = await cluster.followers()
        await cluster.agreed()
        last = cluster.nodes[behind].position().log_last
        await cluster.stop(behind)
        for _ in range(12):
            await cluster.decided(leader)
        await until(lambda: cluster.nodes[leader].position().log_first > last, "the log to be cut")
        runner = HeldRunner()
        await cluster.start(behind, runner=runner)
        node = cluster.nodes[behind]
        runner.held = True
        while not node._installing.is_due:  # each sync that does not belong to it is let through
            await asyncio.sleep(0.001)
            if not node._installing.is_due:
                runner.release()
        await until(lambda: runner.waiting, "the installation")
        path = tmp_path / behind / "copy-incoming.tmp"
        copy = path.read_bytes()
        with pytest.raises(Unavailable, match="already"):
            node.on_copy(cluster.config.node_id(other), "copy_begin", [99, 1, 1, 1, 1], lambda _: None)
        assert path.read_bytes() == copy
        runner.held = False
        runner.release()
        await cluster.agreed()
        assert node.position().log_first > last
        assert cluster.halted == []

    run(tmp_path, test, bounds=NodeBounds(log_tail_entries=2, log_compact_slack=2))


def test_a_copy_from_a_leader_of_an_older_term_is_refused(tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        leader = await cluster.leader()
        follower = (await cluster.followers())[0]
        node, sender = cluster.nodes[follower], cluster.config.node_id(leader)
        before = node.applied_index
        with pytest.raises(Unavailable, match="older term"):
            node.on_copy(sender, "copy_begin", [node.term - 1, 9, 0, 1, 1], lambda _: None)
        assert node.applied_index == before

    run(tmp_path, test)


def hand_over_a_copy(cluster: Cluster, receiver: str, sender: str, index: int, answers: list[Any]) -> None:
    """Three bytes, said to be the ledger up to ``index``."""
    node = cluster.nodes[receiver]
    steps: list[tuple[str, list[Any]]] = [
        ("copy_begin", [node.term, index, node.term, 3, 0]),
        ("copy_chunk", [0, b"abc"]),
        ("copy_end", []),
    ]
    for step, params in steps:
        node.on_copy(cluster.config.node_id(sender), step, params, answers.append)


def test_a_copy_that_says_nothing_new_is_dropped(tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        leader, follower = await cluster.leader(), (await cluster.followers())[0]
        await cluster.agreed()
        before = cluster.nodes[follower].applied_index
        answers: list[Any] = []
        hand_over_a_copy(cluster, follower, leader, before, answers)
        await until(lambda: len(answers) == 3, "the answer")
        assert answers == [True, True, True]
        assert list((tmp_path / follower).glob("*.tmp")) == []
        assert isinstance(await cluster.decide(follower), Standing)

    run(tmp_path, test)


def test_a_disk_that_fails_while_a_copy_is_installed_halts(tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        leader, follower = await cluster.leader(), (await cluster.followers())[0]

        def full(*_: Any) -> None:
            raise StorageError("the disk is full; make room")

        cluster.dbs[follower].install = full  # type: ignore[method-assign]
        answers: list[Any] = []
        hand_over_a_copy(cluster, follower, leader, 1000, answers)
        await until(lambda: cluster.halted, "the halt")
        assert [(name, type(error)) for name, error in cluster.halted] == [(follower, StorageError)]
        assert answers == [True, True]

    run(tmp_path, test)


SOUND_BEGIN = [1 << 20, 9, 1, 10, 0]


@pytest.mark.parametrize(
    "steps",
    [
        [("copy_begin", [])],
        [("copy_begin", [1 << 20, 9, 1, -1, 0])],
        [("copy_begin", [1 << 20, "9", 1, 10, 0])],
        [("copy_begin", [1 << 20, True, 1, 10, 0])],
        [("copy_begin", [1 << 63, 9, 1, 10, 0])],
        [("copy_chunk", [0, b"x"])],
        [("copy_end", [])],
        [("copy_begin", SOUND_BEGIN), ("copy_chunk", [1, b"x"])],
        [("copy_begin", SOUND_BEGIN), ("copy_chunk", [0, b"x" * 11])],
        [("copy_begin", SOUND_BEGIN), ("copy_chunk", [0, "x"])],
        [("copy_begin", SOUND_BEGIN), ("copy_chunk", [0, b"x" * 9]), ("copy_end", [])],
    ],
    ids=[
        "empty",
        "negative",
        "text",
        "true",
        "huge",
        "chunk first",
        "end first",
        "gap",
        "too long",
        "text chunk",
        "too short",
    ],
)
def test_a_copy_out_of_order_is_refused_and_leaves_nothing(steps: list[tuple[str, list[Any]]], tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        leader = await cluster.leader()
        follower = (await cluster.followers())[0]
        node, sender = cluster.nodes[follower], cluster.config.node_id(leader)
        for step, params in steps[:-1]:
            node.on_copy(sender, step, params, lambda _: None)
        with pytest.raises(RemoteProtocolError):
            node.on_copy(sender, *steps[-1], lambda _: None)
        assert list((tmp_path / follower).glob("*.tmp")) == []
        assert isinstance(await cluster.decide(follower), Standing)

    run(tmp_path, test)


# -- what comes over the peer port ------------------------------------------------------------------------------------


async def say_as(cluster: Cluster, sender: str, receiver: str, said: list[Any]) -> bytes:
    """Say this to ``receiver`` under the identity of ``sender``; what it answers until it hangs up."""
    details = cluster.nodes[sender]._peers.introduce(NodeName(receiver))
    address = cluster.config.node(receiver).peer
    reader, writer = await asyncio.open_connection(address.host, address.port)
    for message in ([0, 1, "hello", [1, "peer", details]], said):
        body = msgpack.packb(message)
        writer.write(len(body).to_bytes(4, "big") + body)
    answer = await asyncio.wait_for(reader.read(), 30)
    writer.close()
    await writer.wait_closed()
    return answer


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ([2, "raft", [[[9, 1]], 0]], "a message of an unknown kind"),
        ([2, "raft", [[[4, "1"]], 0]], "response_vote whose term"),
        ([2, "raft", ["x", 0]], "a malformed notification"),
        ([2, "pickle", [b"x"]], "a malformed notification"),
        ([0, 2, "add", ["127.0.0.1:1"]], "the request 'add' on the peer port"),
    ],
)
def test_what_is_no_message_ends_that_connection_alone(
    said: list[Any], why: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(cluster: Cluster) -> None:
        leader = await cluster.leader()
        follower = (await cluster.followers())[0]
        await say_as(cluster, leader, follower, said)
        await until(lambda: why in caplog.text, "the line in the log")
        assert isinstance(await cluster.decide(follower), Standing)
        assert cluster.nodes[follower].peers_status()[leader]["up"]
        assert cluster.halted == []

    run(tmp_path, test)


def test_the_clock_that_comes_with_a_message_out_of_order_is_not_believed(tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        leader, follower = await cluster.leader(), (await cluster.followers())[0]
        believed: list[int] = []

        def believe(name: NodeName, at: float, showed_ms: int) -> None:
            believed.append(showed_ms)

        cluster.nodes[follower]._peers._clocks.believe = believe  # type: ignore[method-assign]
        lie_ms = time.time_ns() // 1_000_000 + 172_800_000
        of_no_election = [2, 1 << 60, 1, False, True]  # in the right form, of a term that no election can have reached
        await say_as(cluster, leader, follower, [2, "raft", [[of_no_election], lie_ms]])
        await until(lambda: believed, "the clock of the leader to be heard")
        assert lie_ms not in believed
        assert cluster.halted == []

    run(tmp_path, test)


@pytest.mark.parametrize("wall_ms", [limits.TIME_MS_MAX + 1, -limits.TIME_MS_MAX - 1, True], ids=str)
def test_a_clock_that_shows_no_date_ends_that_connection(
    wall_ms: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(cluster: Cluster) -> None:
        leader, follower = await cluster.leader(), (await cluster.followers())[0]
        await say_as(cluster, leader, follower, [2, "raft", [[], wall_ms]])
        await until(lambda: "a malformed notification" in caplog.text, "the line in the log")

    run(tmp_path, test)


@pytest.mark.parametrize(
    ("role", "change", "why"),
    [
        ("client", {}, "this is the peer port"),
        ("peer", {"node": "n9"}, "of another; give each node a directory of its own"),
        ("peer", {"node": "n9", "identity": "09" * 16}, "node n9 is no member of this cluster"),
        ("peer", {"node": "N 9"}, "a peer without a name"),
        ("peer", {"boot": "its own"}, "answers itself; check the peer addresses in cluster.yaml"),
        ("peer", {"cluster_name": "other"}, "belongs to another cluster"),
        ("peer", {"nodes": 5}, "does not say which node.db is its own and who the members are"),
    ],
)
def test_who_is_no_peer_is_refused_with_a_reason(role: str, change: dict[str, Any], why: str, tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        leader = await cluster.leader()
        follower = (await cluster.followers())[0]
        details = {**cluster.nodes[leader]._peers.introduce(NodeName(follower)), **change}
        if "boot" in change:
            details["boot"] = cluster.nodes[follower]._peers._boot
        address = cluster.config.node(follower).peer
        reader, writer = await asyncio.open_connection(address.host, address.port)
        body = msgpack.packb([0, 1, "hello", [1, role, details]])
        writer.write(len(body).to_bytes(4, "big") + body)
        answer = await asyncio.wait_for(reader.read(), 30)
        assert why in answer.decode(errors="replace")
        writer.close()
        await writer.wait_closed()

    run(tmp_path, test)
