"""What PySyncObj 0.3.17 does that raftcoord must not (DESIGN section 3, H1 to H16), and proof that each correction is needed.

Each claim is run twice: with the product as it is, where it holds, and with its correction taken out (plants.py), where it
fails. What it failed with is shown by ``pytest -rA``.
"""

from __future__ import annotations

import asyncio
import pickle
import random
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgpack
import plants
import pytest
from cluster import Cluster, HeldRunner, config_in, until
from world import ANCHOR, TIMING, Clocked, World

from raftcoord.consensus import engine, messages
from raftcoord.consensus.engine import EntryTriple, StoredLog
from raftcoord.consensus.pysyncobj.guard import Guarded
from raftcoord.core.commands import encode_command, encode_entry
from raftcoord.core.machine import Ledger
from raftcoord.core.tables.decisions import Complete, Decide, Standing
from raftcoord.core.tables.horizon import Retire
from raftcoord.core.tables.table import NO_CHANGES, Done
from raftcoord.errors import CorruptionError, Halt, NotKnown, RemoteProtocolError, Unavailable
from raftcoord.limits import NodeBounds
from raftcoord.rpc import dial
from raftcoord.storage.node_db import LogRow, NodeDb, Write
from raftcoord.types import State, TxId, Verdict


class Claim(NamedTuple):
    """``without``: the plant that takes its correction out."""

    run: Callable[[], None]
    without: plants.Plant


CLAIMS: dict[str, Claim] = {}


def claim(hazard: str, *, without: plants.Plant) -> Callable[[Callable[[], None]], Callable[[], None]]:
    def noted(run: Callable[[], None]) -> Callable[[], None]:
        CLAIMS[f"{hazard}-{run.__name__}"] = Claim(run, without)
        return run

    return noted


@contextmanager
def refused(error: type[Exception], what: str) -> Iterator[None]:
    """What is in the block must raise ``error``."""
    try:
        yield
    except error:
        return
    except Exception as other:
        raise AssertionError(f"{what} was not refused: it met {other!r}") from other
    raise AssertionError(f"{what} was not refused")


@contextmanager
def surviving(what: str) -> Iterator[None]:
    """What is in the block must raise nothing."""
    try:
        yield
    except Exception as error:
        raise AssertionError(f"{what}: {error!r}") from error


# -- one node, alone with its messages --------------------------------------------------------------------------------


def a_node(*entries: EntryTriple, term: int = 1, peers: int = 2) -> Clocked:
    """A follower with these entries behind the anchor, all on disk; peers 2, 3, ... are connected."""
    raft = Clocked(StoredLog([ANCHOR, *entries], term, None, 1), random.Random(0), 1 + peers)
    for peer in raft._nodes:
        raft.connected(peer)
    return raft


def a_leader(*entries: EntryTriple, peers: int = 2) -> Clocked:
    """The leader of term 2 with these entries, its own first one, and nothing in flight."""
    raft = a_node(*entries, peers=peers)
    raft._stand()
    for peer in sorted(raft.voters - {1})[: raft.majority - 1]:
        raft.receive(peer, {"type": "response_vote", "term": 2})
    assert raft.is_leader
    raft.take_messages()
    return raft


def append(term: int, previous: tuple[int, int], *entries: EntryTriple, commit: int = 1) -> dict[str, Any]:
    """AppendEntries; ``previous``: (index, term)."""
    return {
        "type": "append_entries",
        "term": term,
        "prevLogIdx": previous[0],
        "prevLogTerm": previous[1],
        "entries": list(entries),
        "commit_index": commit,
    }


def acknowledgement(term: int, following: int) -> dict[str, Any]:
    return {"type": "next_node_idx", "term": term, "next_node_idx": following, "reset": False, "success": True}


def entries_sent(raft: Clocked, to: int) -> list[int]:
    """The indexes of the entries that were sent to that peer since the last look."""
    sent = [message for peer, message in raft.take_messages() if peer == to and message["type"] == "append_entries"]
    return [index for message in sent for _, index, _ in message["entries"]]


A, B, C = (b"\x01a", 2, 1), (b"\x01b", 3, 1), (b"\x01c", 4, 1)


# -- the log ----------------------------------------------------------------------------------------------------------


@claim("H1", without=plants.h1_every_append_truncates)
def a_message_without_a_conflict_deletes_nothing() -> None:
    """It was overtaken, or sent twice: what it holds is here already, and what follows it may be acknowledged."""
    raft = a_node(A, B, C)
    raft.receive(2, append(1, (1, 0), A))
    raft.receive(2, append(1, (2, 1)))
    assert raft.log[0:] == [ANCHOR, A, B, C]
    assert not raft.log.dirty, "deleted, and added again: lost if the node dies now"
    raft.receive(3, append(2, (2, 1), (b"\x01x", 3, 2)))
    assert raft.log[0:] == [ANCHOR, A, (b"\x01x", 3, 2)], "a real conflict gives way"


@claim("H2", without=plants.h2_an_acknowledgement_moves_next_index_back)
def what_is_in_flight_is_not_sent_again() -> None:
    raft = a_leader()
    for _ in range(3):
        raft.propose(b"\x01p")
    raft.tick()
    assert entries_sent(raft, to=2) == [3, 4, 5]
    raft.receive(2, acknowledgement(2, following=3))
    raft.propose(b"\x01q")
    raft.tick()
    assert entries_sent(raft, to=2) == [6]


@claim("H3", without=plants.h3_acknowledgements_of_any_term_count)
def an_acknowledgement_of_an_earlier_term_does_not_count() -> None:
    """Between then and now the follower may have truncated what it acknowledged."""
    raft = a_leader(A, B)
    raft.log.synced(raft.log.last_index)
    raft.receive(2, acknowledgement(1, following=5))
    raft.tick()
    assert raft.match_index(2) == 0
    assert raft.commit_index == 1


@claim("H4", without=plants.h4_commit_up_to_the_last_index)
def nothing_is_committed_that_the_message_did_not_verify() -> None:
    raft = a_node(A, B, C)
    raft.receive(2, append(2, (1, 0), A, commit=4))
    assert raft.commit_index == 2


@claim("H4", without=plants.h4_commit_up_to_the_last_index)
def a_leader_that_was_cut_off_does_not_acknowledge_what_it_alone_had() -> None:
    """Seen with PySyncObj: an unreplicated COMMIT is told as success, and becomes an ABORT afterwards."""
    world = World(3, seed=11, bounds=NodeBounds(append_entries_max=1, appends_per_pass_max=1))
    cut_off = world.elect()
    world.isolate(cut_off)
    txid = world.decide(cut_off, Verdict.COMMIT, wait=60.0)
    world.turn(cut_off)
    world.until(lambda: world.leader not in (None, cut_off))
    other = world.leader
    assert other is not None
    for _ in range(4):
        world.decide(other, Verdict.ABORT)
        world.turn(other)
    world.decide(other, Verdict.ABORT, txid)
    world.run(1.0)
    world.heal()
    world.until(lambda: world.answer(txid) is not None and world.settled(world.running))
    assert {p.answer.state for p in world.proposals if isinstance(p.answer, Standing)} == {State.ABORTED}


# -- the disk ---------------------------------------------------------------------------------------------------------


def write_of(append: list[LogRow], applied: int | None = None, drop_before: int | None = None) -> Write:
    return Write(None, append, None, NO_CHANGES, None if applied is None else (applied, 1), drop_before)


@contextmanager
def a_data_directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as directory:
        yield Path(directory)


def open_db(directory: Path) -> NodeDb:
    return NodeDb.open(directory, cluster_name="test", node="n1")


@claim("H5", without=plants.h5_an_unreadable_copy_is_ignored)
def a_damaged_copy_of_the_ledger_is_refused_and_the_old_state_stands() -> None:
    async def run(directory: Path) -> None:
        async with Cluster(config_in(directory), NodeBounds(log_tail_entries=1, log_compact_slack=1)) as cluster:
            await cluster.start()
            behind = (await cluster.followers())[0]
            txids = [await cluster.decided(await cluster.leader()) for _ in range(3)]
            await until(lambda: all(map(cluster.dbs[behind].decision, txids)), "the decisions on its disk")
            await cluster.stop(behind)
            for _ in range(8):
                await cluster.decided(await cluster.leader())
                await asyncio.sleep(0.06)
            leader = cluster.nodes[await cluster.leader()]
            first_kept = leader.position().log_first
            sound = NodeDb.snapshot_to
            damaged: list[Path] = []

            def damaging(self: NodeDb, path: Path) -> Any:
                info = sound(self, path)
                raw = bytearray(path.read_bytes())
                raw[len(raw) // 2] ^= 1
                path.write_bytes(raw)
                damaged.append(path)
                return info

            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(NodeDb, "snapshot_to", damaging)
                await cluster.start(behind)
                node = cluster.nodes[behind]
                before = node.applied_index
                assert before < first_kept, "the test means to leave it behind the log"
                await until(lambda: len(damaged) > 1 or node.applied_index > before, "a second attempt")
                assert all(node.ledger.state(txid) is State.COMMITTED for txid in txids), "its decisions are gone"
                assert node.applied_index == before
            await cluster.agreed()
            assert cluster.halted == []

    with a_data_directory() as directory:
        asyncio.run(run(directory))


@claim("H6", without=plants.h6_flush_before_sync)
def nothing_is_acknowledged_that_a_power_cut_could_take_back() -> None:
    world = World(3, seed=6)
    world.check_is_on_disk = lambda *_: None  # type: ignore[method-assign] - it would see the cause; this is the effect
    leader = world.elect()
    followers = [n for n in world.running if n != leader]
    txid = world.decide(leader)
    world.turn(leader)
    for n in followers:  # they hear of it, and their syncs do not come to an end
        world.deliver_all(leader, n)
        world.step(n)
        world.deliver_all(n, leader)
    world.turn(leader)
    if world.answer(txid) is None:
        world.until(lambda: world.answer(txid) is not None)
    for host in world.hosts.values():
        host.unsynced = None  # the power is cut: no sync comes to its end any more
    for n in world.running:
        world.crash(n)
    for n in followers:  # the leader's machine is gone for good: a minority
        world.start(n)
    world.until(lambda: world.leader is not None and world.settled(followers))
    assert world.replica(followers[0]).ledger.state(txid) is State.COMMITTED, "what somebody was told is gone"


@claim("H7", without=plants.h7_compaction_empties_and_adds_again)
def a_kill_at_any_moment_of_compaction_loses_no_entry() -> None:
    rows = [LogRow(index, 1, b"\x01x") for index in range(2, 12)]
    with a_data_directory() as directory:
        images: list[Path] = []

        def photograph(statement: str) -> None:
            image = directory / f"image-{len(images)}"
            shutil.copytree(directory / "n1", image, ignore=shutil.ignore_patterns("*-shm", "LOCK"))
            images.append(image)

        with closing(open_db(directory / "n1")) as db:
            db.write(write_of(rows))
            db._writer.set_trace_callback(photograph)
            db.write(write_of([], applied=9, drop_before=7))
            db._writer.set_trace_callback(None)
        assert len(images) > 2
        for image in images:
            with surviving("after a kill the node cannot start"), closing(open_db(image)) as db:
                kept = [row.index for row in db.load().log]
            assert kept[-1] == 11, f"after a kill the log has {kept}"
            assert set(range(7, 12)) <= set(kept)


@claim("H7", without=plants.h7_no_checksum)
def a_flipped_byte_in_the_log_is_not_applied() -> None:
    with a_data_directory() as directory:
        with closing(open_db(directory)) as db:
            db.write(write_of([LogRow(2, 1, b"\x00COMMIT")]))
        with closing(sqlite3.connect(directory / "node.db")) as connection:
            connection.execute("UPDATE log SET data = ? WHERE idx = 2", (b"\x00COMMIU",))
            connection.commit()
        with refused(CorruptionError, "a damaged log"), closing(open_db(directory)):
            pass


# -- what is trusted --------------------------------------------------------------------------------------------------


class Evil:
    """An object whose unpickling runs code of the sender's."""

    ran: list[str] = []  # noqa: RUF012 - shared on purpose

    def __reduce__(self) -> Any:
        return Evil.ran.append, ("code of the sender's",)


@claim("H8", without=plants.h8_pickle_in_the_engine)
def nothing_that_arrives_is_unpickled() -> None:
    """PySyncObj would unpickle a log entry, a long entry in pieces, and a snapshot."""
    Evil.ran.clear()
    raft, bomb = a_node(), pickle.dumps(Evil())
    with refused(Halt, "a pickled command"):
        raft._SyncObj__doApplyCommand(engine.REGULAR + bomb)
    in_pieces = {**append(1, (1, 0)), "transmission": "finish", "data": bomb}
    raft._SyncObj__recvTransmission = b""
    with refused(Halt, "a pickled entry"):
        raft._SyncObj__onMessageReceived(raft._nodes[2], in_pieces)
    assert Evil.ran == []


SOUND_ROWS: list[list[Any]] = [
    [1, 2, 1, 1, 0, [[b"\x01a", 2, 1]]],
    [2, 1, 2, False, True],
    [3, 1, 1, 0],
    [4, 1],
    [5, 1, 1, 0],
    [6, 1, 2, True],
    [7, [b"entry"]],
]


@claim("H8", without=plants.h8_whatever_comes_over_the_wire)
def only_numbers_flags_and_bytes_come_in() -> None:
    for row in SOUND_ROWS:
        messages.decode(row)
        for position in range(1, len(row)):
            for stranger in (None, "text", 1.5, -1, 1 << 63, {}, [None], [[b"", 1]], [[True, 1, 1]]):
                with refused(RemoteProtocolError, f"{stranger!r} at {position} of {row}"):
                    messages.decode([*row[:position], stranger, *row[position + 1 :]])


@claim("H9", without=plants.h9_a_bad_command_raises)
def a_bad_command_gets_an_answer_and_the_next_one_too() -> None:
    ledger, unknown = Ledger(), TxId.new(5, bytes(10))
    ledger.apply(Retire(10), 1, 2)
    with surviving("the node is wedged"):
        assert ledger.apply(Complete(((unknown, ("nobody",)),)), 1, 3) == Done(False)
    assert ledger.apply(Decide(unknown, Verdict.COMMIT, (), "", "", 0), 1, 4) == Standing(State.FORGOTTEN, None, False)


UNKNOWN_KIND = encode_entry(9, 9, 9, [msgpack.packb([99, b"from the future"])])


@claim("H9", without=plants.h9_an_unknown_command_is_skipped)
def a_command_of_an_unknown_kind_halts() -> None:
    """A node that skips it goes on with another state than a newer one that applies it."""
    world = World(1)
    leader = world.elect()
    world.replica(leader).raft.propose(engine.REGULAR + UNKNOWN_KIND)
    with refused(Halt, "a command of a newer version"):
        world.turns()


@claim("H9", without=plants.h9_whatever_a_peer_proposes)
def an_unreadable_entry_of_a_peer_never_reaches_the_log() -> None:
    world = World(3)
    leader = world.elect()
    last = world.replica(leader).log.last_index
    with refused(RemoteProtocolError, "an unreadable entry"):
        world.replica(leader).receive(2, {"type": "propose", "entries": [UNKNOWN_KIND]}, world.now)
    world.turns()
    assert world.replica(leader).log.last_index == last


@claim("H9", without=plants.h9_whatever_a_leader_sends)
def an_unreadable_entry_of_a_leader_never_reaches_a_follower_s_log() -> None:
    world = World(3)
    leader = world.elect()
    follower = next(n for n in world.running if n != leader)
    log, term = world.replica(follower).log, world.replica(leader).raft.term
    last = log.last_index
    append = {
        "type": "append_entries",
        "term": term,
        "commit_index": last + 1,
        "prevLogIdx": last,
        "prevLogTerm": log.term_at(last),
        "entries": [(engine.REGULAR + UNKNOWN_KIND, last + 1, term)],
    }
    with refused(RemoteProtocolError, "an unreadable entry"):
        world.replica(follower).receive(leader, append, world.now)
    assert log.last_index == last


# -- elections --------------------------------------------------------------------------------------------------------


@claim("H10", without=plants.h10_every_vote_counts)
def a_voter_counts_once() -> None:
    raft = a_node(peers=4)
    raft._stand()
    for _ in range(4):
        raft.receive(2, {"type": "response_vote", "term": raft.term})
    assert not raft.is_leader
    raft.receive(3, {"type": "response_vote", "term": raft.term})
    assert raft.is_leader


@claim("H11", without=plants.h11_leader_for_30_s)
def a_leader_that_is_cut_off_steps_down_within_an_election_timeout() -> None:
    world = World(3, seed=2)
    cut_off = world.elect()
    world.isolate(cut_off)
    world.run(TIMING.election_max + 4 * TIMING.heartbeat)
    assert not world.replica(cut_off).raft.is_leader


@claim("H11", without=plants.h11_reconnecting_waits_5_s)
def a_link_that_broke_is_dialed_again_within_a_second_or_so() -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        with pytest.MonkeyPatch.context() as patch:
            pauses: list[float] = []

            async def no_answer(*_: Any, **__: Any) -> None:
                raise dial.Unavailable("nobody there")

            async def pause(seconds: float) -> None:
                pauses.append(seconds)
                await asyncio.wait_for(asyncio.Event().wait(), 0.001) if len(pauses) > 20 else None

            patch.setattr(dial, "connect", no_answer)
            patch.setattr(dial.asyncio, "sleep", pause)
            dialer = dial.Dialer(
                "127.0.0.1",
                1,
                None,  # type: ignore[arg-type]
                role="peer",
                details=dict,
                rng=random.Random(1),
                on_up=lambda *_: None,
                on_down=lambda _: None,
                max_frame_bytes=1,
                label="test",
            )
            dialer.start()
            task = dialer._task
            assert task is not None
            with pytest.raises(TimeoutError):
                await task
            assert loop.is_running()
        assert max(pauses) <= 1.0

    asyncio.run(run())


@claim("H12", without=plants.h12_no_pre_vote)
def a_node_that_comes_back_deposes_nobody() -> None:
    world = World(5, seed=4)
    leader = world.elect()
    term = world.replica(leader).raft.term
    away = [n for n in world.running if n != leader][:2]
    for n in away:  # two of five that hear each other, so that they do stand for election
        for o in set(world.running) - set(away):
            world.sever(n, o)
            world.sever(o, n)
    world.run(3.0)
    world.heal()
    world.run(2.0)
    assert world.leader == leader
    assert {world.replica(n).raft.term for n in world.running} == {term}


@claim("H12", without=plants.h12_a_vote_for_all_who_ask)
def who_hears_a_leader_helps_nobody_to_depose_it() -> None:
    raft = a_node(A)
    raft.receive(2, append(1, (2, 1)))
    raft.take_messages()
    raft.receive(3, {"type": "request_vote", "term": 2, "last_log_index": 9, "last_log_term": 1})
    raft.receive(3, {"type": "pre_vote", "term": 2, "last_log_index": 9, "last_log_term": 1})
    assert raft.term == 1
    assert [message["granted"] for _, message in raft.take_messages()] == [False]
    raft.now = 100.01 + TIMING.election_min
    raft.receive(3, {"type": "request_vote", "term": 2, "last_log_index": 9, "last_log_term": 1})
    assert [message["type"] for _, message in raft.take_messages()] == ["response_vote"]


# -- proposals --------------------------------------------------------------------------------------------------------


@claim("H13", without=plants.h13_the_commit_index_waits_for_the_heartbeat)
def a_follower_learns_of_a_commit_at_once() -> None:
    """No time passes here: there is no heartbeat to wait for."""
    world = World(3, seed=1)
    leader = world.elect()
    world.turns()
    txid = world.decide(next(n for n in world.running if n != leader))
    world.turns()
    assert world.verdict(txid) is Verdict.COMMIT


@claim("H14", without=plants.h14_a_proposal_may_wait_for_ever)
def every_proposal_is_answered_by_its_deadline() -> None:
    world = World(3, seed=1)
    leader = world.elect()
    world.isolate(leader)
    txid = world.decide(leader, wait=0.3)
    world.run(0.6)
    assert isinstance(world.answer(txid), NotKnown)


@claim("H15", without=plants.h15_admin_commands_are_wired)
def no_administrative_command_is_wired() -> None:
    assert a_node()._outbox._onUtilityMessageCallbacks == {}


@claim("H15", without=plants.h15_admin_messages_pass)
def no_administrative_message_comes_in() -> None:
    for kind in (
        "add",
        "remove",
        "set_version",
        "transfer",
        "status",
        "timeout_now",
        "apply_command",
        0,
        8,
        True,
        None,
    ):
        for rest in ([], [1], [2, b"", 0]):
            with refused(RemoteProtocolError, f"the message {kind!r}"):
                messages.decode([kind, *rest])


# -- identities -------------------------------------------------------------------------------------------------------


@claim("H16", without=plants.h16_a_wiped_node_is_taken_for_the_old_one)
def a_wiped_node_elects_nobody_who_lacks_a_committed_decision() -> None:
    async def run(directory: Path) -> None:
        async with Cluster(config_in(directory)) as cluster:
            await cluster.start()
            leader = await cluster.leader()
            cut_off, wiped = await cluster.followers()
            await cluster.agreed()
            await cluster.stop(cut_off)
            txid = await cluster.decided(leader)  # on the disks of the leader and of the one that is wiped
            await cluster.stop(wiped, leader)
            await cluster.wipe(wiped)
            await cluster.start(cut_off)
            ends = ((cut_off, wiped), (wiped, cut_off))
            await until(
                lambda: all("was wiped" in cluster.link(*end)["why"] for end in ends) or cluster.nodes[cut_off].leader,
                "a refusal or a leader",
            )
            assert [cluster.nodes[name].leader for name in (cut_off, wiped)] == [None, None], "elected without it"
            await cluster.start(leader)
            node = cluster.nodes[cut_off]
            await until(lambda: node.leader is not None, "a leader of those two that have their data")
            await until(lambda: node.ledger.decision(txid) is not None, "the decision")
            assert node.ledger.state(txid) is State.COMMITTED
            assert cluster.nodes[wiped].position().role == "waiting"

    with a_data_directory() as directory:
        asyncio.run(run(directory))


@claim("H16", without=plants.h16_a_name_alone_is_believed)
def a_wiped_node_is_refused_by_all_and_whoever_dials() -> None:
    async def run(directory: Path) -> None:
        async with Cluster(config_in(directory)) as cluster:
            await cluster.start()
            await cluster.decided(await cluster.leader())
            wiped = (await cluster.followers())[0]
            others = [name for name in cluster.names if name != wiped]
            await cluster.wipe(wiped)
            links = [link for other in others for link in ((other, wiped), (wiped, other))]
            await until(
                lambda: (
                    all("was wiped or replaced" in cluster.link(*link)["why"] for link in links)
                    or any(cluster.link(*link)["up"] for link in links)
                ),
                "the refusals",
            )
            assert not any(cluster.link(*link)["up"] for link in links)
            assert all(f"`raftcoord node replace {wiped}`" in cluster.link(*link)["why"] for link in links)
            assert cluster.nodes[wiped].position().log_last == 1, "it heard something"

    with a_data_directory() as directory:
        asyncio.run(run(directory))


@claim("H16", without=plants.h16_an_identity_is_used_before_it_is_on_disk)
def a_peer_is_heard_only_when_its_identity_is_on_disk() -> None:
    async def run(directory: Path) -> None:
        async with Cluster(config_in(directory)) as cluster:
            runner = HeldRunner()
            runner.held = True
            await cluster.start("n1", runner=runner)
            await cluster.start("n2", "n3")
            links = [link for other in ("n2", "n3") for link in ((other, "n1"), ("n1", other))]
            await until(
                lambda: (
                    (runner.waiting and all("on disk yet" in cluster.link(*link)["why"] for link in links))
                    or any(cluster.link(*link)["up"] for link in links)
                ),
                "the first contact",
            )
            assert not any(cluster.link(*link)["up"] for link in links), "up without an identity on disk"
            assert cluster.dbs["n1"].load().peers == {}
            assert {node.position().role for node in cluster.nodes.values()} == {"waiting"}
            runner.held = False
            runner.release()
            await cluster.leader()
            assert set(cluster.dbs["n1"].load().peers) == {"n2", "n3"}

    with a_data_directory() as directory:
        asyncio.run(run(directory))


def not_admitted() -> Clocked:
    """A node that has a log all the same, so that nothing but its not being admitted can keep it silent."""
    raft = a_node(A)
    raft.admitted = False
    return raft


@claim("H16", without=plants.h16_every_node_takes_part)
def who_is_not_admitted_gives_no_vote() -> None:
    raft = not_admitted()
    raft.receive(3, {"type": "request_vote", "term": 2, "last_log_index": 9, "last_log_term": 1})
    assert raft.take_messages() == []
    assert (raft.term, raft.log.dirty) == (1, False)


@claim("H16", without=plants.h16_every_node_takes_part)
def who_is_not_admitted_gives_no_pre_vote() -> None:
    raft = not_admitted()
    raft.receive(3, {"type": "pre_vote", "term": 2, "last_log_index": 9, "last_log_term": 1})
    assert raft.take_messages() == []


@claim("H16", without=plants.h16_every_node_takes_part)
def who_is_not_admitted_acknowledges_nothing() -> None:
    raft = not_admitted()
    raft.receive(3, append(1, (2, 1), B))
    assert raft.take_messages() == []
    assert raft.log.last_index == 2


@claim("H16", without=plants.h16_every_node_takes_part)
def who_is_not_admitted_stands_for_nothing() -> None:
    raft = not_admitted()
    raft.now = 100.0 + 10 * TIMING.election_max
    raft.tick()
    assert raft.take_messages() == []
    assert raft.term == 1


@claim("H16", without=plants.h16_every_node_takes_part)
def who_is_not_admitted_takes_no_copy() -> None:
    async def run(directory: Path) -> None:
        async with Cluster(config_in(directory)) as cluster:
            await cluster.start("n1")
            with refused(Unavailable, "a copy of the ledger"):
                cluster.nodes["n1"].on_copy(2, "copy_begin", [1, 9, 1, 10, 0], lambda _: None)
            assert list((directory / "n1").glob("*.tmp")) == []

    with a_data_directory() as directory:
        asyncio.run(run(directory))


# -- the two runs of each ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CLAIMS)
def test_claim_holds(name: str) -> None:
    CLAIMS[name].run()


@pytest.mark.parametrize("name", CLAIMS)
def test_claim_fails_without_its_correction(name: str) -> None:
    run, without = CLAIMS[name]
    with pytest.raises((AssertionError, Halt)) as failure, without():
        run()
    print(f"{name}: {str(failure.value).splitlines()[0] if str(failure.value) else 'fails'}")


def test_every_hazard_has_a_claim() -> None:
    assert {name.partition("-")[0] for name in CLAIMS} == {f"H{number}" for number in range(1, 17)}


def test_a_plant_takes_out_what_it_says_and_puts_it_back() -> None:
    before = dict(Guarded._HANDLERS), Guarded._verified, Guarded.admitted
    for _, without in CLAIMS.values():
        with without():
            pass
    assert (dict(Guarded._HANDLERS), Guarded._verified, Guarded.admitted) == before
    assert encode_command(Retire(1))
