"""Members change, on real nodes: by one at a time, over restarts, and never by a file."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections.abc import Callable, Coroutine
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cluster import Cluster, config_in, until
from world import World, founding

from raftcoord.client.link import of_no_cluster
from raftcoord.config import Config
from raftcoord.consensus import engine
from raftcoord.consensus.identity import Stranger
from raftcoord.consensus.membership import CatchingUp, LeaderView, planned
from raftcoord.core.tables.founding import Found
from raftcoord.core.tables.members import Member, founded
from raftcoord.errors import ConfigError, CorruptionError, LocalProtocolError, NotYet, Unavailable
from raftcoord.storage.node_db import NodeDb
from raftcoord.storage.records import log_crc, state_row
from raftcoord.types import NodeName, State, Verdict

N1, N2, N3, N4 = (NodeName(f"n{number}") for number in (1, 2, 3, 4))
THREE = founded({name: (n, f"{n:032x}", "", "") for n, name in enumerate((N1, N2, N3), 1)}).confirmed()
NEW = Stranger("0a" * 16, "h:1", "h:2")


# -- which step -------------------------------------------------------------------------------------------------------


def seen(*linked: int, strangers: dict[NodeName, Stranger] | None = None) -> LeaderView:
    return LeaderView(1, frozenset(linked), strangers or {})


def test_a_node_is_added_when_it_has_been_heard_of() -> None:
    with pytest.raises(
        NotYet, match=r"has not heard of a new node n4.*raftcoord node start n4.*raftcoord node add n4` again"
    ):
        planned("add", N4, THREE, seen(2, 3))
    four = planned("add", N4, THREE, seen(2, 3, strangers={N4: NEW}))
    assert four.named("n4") == Member(4, N4, NEW.identity, False, "h:1", "h:2")
    assert planned("add", N4, four, seen(2, 3)) is four, "again"
    assert planned("add", N4, four, seen(2, 3, strangers={N4: NEW})) is four, "again, before it has linked"
    with pytest.raises(LocalProtocolError, match="n3 is a member with other data than the node that was started"):
        planned("add", N3, THREE, seen(2, strangers={N3: NEW}))


def test_a_learner_that_was_emptied_again_before_it_could_vote_is_added_with_what_it_has_now() -> None:
    four, newer = THREE.added(N4, *NEW), Stranger("0b" * 16, "h:1", "h:2")
    again = planned("add", N4, four, seen(2, 3, strangers={N4: newer}))
    assert again.named("n4") == Member(5, N4, newer.identity, False, "h:1", "h:2")
    assert again.voters == THREE.voters
    for linked, members in ((seen(2, 3, 4, strangers={N4: newer}), four), (seen(2, strangers={N3: NEW}), THREE)):
        with pytest.raises(LocalProtocolError, match="is a member with other data"):
            planned("add", N3 if members is THREE else N4, members, linked)


def test_no_step_leaves_the_leader_without_a_majority() -> None:
    assert planned("remove", N3, THREE, seen(2, 3)).voters == {1, 2}
    with pytest.raises(
        NotYet, match=r"only 1 of 2 voters would be up.*bring these back first: n2.*node remove n3` again"
    ):
        planned("remove", N3, THREE, seen(3))
    with pytest.raises(NotYet, match="only 1 of 2 voters would be up"):
        planned("replace", N3, THREE, seen(strangers={N3: NEW}))
    removed = planned("remove", N3, THREE, seen(2))
    assert planned("remove", N3, removed, seen(2)) is removed, "again"


def test_only_a_node_that_is_gone_is_replaced() -> None:
    for name in (N1, N2):
        with pytest.raises(LocalProtocolError, match=f"node {name} is linked with the data that is known of it"):
            planned("replace", name, THREE, seen(2, 3, strangers={name: NEW}))
    with pytest.raises(NotYet, match=r"has not heard of a new node n3.*node replace n3` again"):
        planned("replace", N3, THREE, seen(2))
    with pytest.raises(LocalProtocolError, match="n4 is not a member"):
        planned("replace", N4, THREE, seen(2))


def test_a_learner_votes_after_a_round_that_was_quick_enough() -> None:
    learner = Member(4, N4, NEW.identity, False, "", "")
    match = {4: 0}
    round_of = CatchingUp(1.0)
    assert not round_of.is_done(learner, match.__getitem__, 100, 0.0)
    match[4] = 100
    assert not round_of.is_done(learner, match.__getitem__, 500, 1.1), "that took too long: another round"
    match[4] = 499
    assert not round_of.is_done(learner, match.__getitem__, 600, 1.2)
    match[4] = 500
    assert round_of.is_done(learner, match.__getitem__, 700, 2.1)
    assert not round_of.is_done(learner._replace(id=5), {5: 1}.__getitem__, 700, 2.1), "another one begins anew"


def test_members_change_only_after_an_entry_of_the_own_term_and_the_last_step_are_committed() -> None:
    world = World(3)
    leader = world.elect()
    raft, group = world.replica(leader).raft, world.replica(leader)
    assert raft.may_change_members
    world.replica(leader).change_members(founding(3).confirmed(), world.now + 9, lambda _: None)
    assert not raft.may_change_members, "the step is not committed"
    with pytest.raises(Unavailable, match="not settled yet"):
        world.replica(leader).change_members(founding(3).confirmed().confirmed(), world.now + 9, lambda _: None)
    world.until(lambda: raft.commit_index >= group.log.last_index)
    assert raft.may_change_members
    raft._stand()
    for voter in sorted(raft.voters - {raft.id}):
        raft.receive(voter, {"type": "response_vote", "term": raft.term}, world.now)
    assert raft.is_leader
    assert not raft.may_change_members, "nothing of the new term is committed"
    assert not world.replica(next(n for n in world.running if n != leader)).raft.may_change_members


def test_the_only_voter_leads_while_its_learner_is_away() -> None:
    world = World(1)
    raft = world.replica(world.elect()).raft
    added = founding(1).added(N2, NEW.identity, "", "")
    world.replica(1).change_members(added, world.now + 9, lambda _: None)
    world.until(lambda: raft.may_change_members)
    world.crash(1)
    world.start(1)
    assert world.elect() == 1


def test_whoever_has_the_id_that_an_uncommitted_set_gave_this_node_is_not_taken_for_it() -> None:
    world = World(3)
    leader = world.elect()
    n = next(n for n in world.running if n != leader)
    replica = world.replica(n)
    replica.raft._id = replica.raft.leader or 0  # as the set said that it was told
    assert not replica.raft.is_leader
    world.propose(n, Found("0" * 16))
    assert replica._place()[0][0] == replica.raft.leader, "handed over, and not appended here"


# -- real nodes -------------------------------------------------------------------------------------------------------

Test = Callable[[Cluster], Coroutine[Any, Any, None]]


def run(directory: Path, test: Test, nodes: int = 5) -> None:
    """``nodes``: how many have an address; the test founds the cluster."""

    async def within() -> None:
        async with Cluster(config_in(directory, nodes)) as cluster:
            await test(cluster)
            assert cluster.halted == []

    asyncio.run(within())


def only(config: Config, *names: str) -> Config:
    """The file that names these nodes."""
    return replace(config, nodes=tuple(node for node in config.nodes if node.name in names))


async def found(cluster: Cluster, *names: str) -> None:
    await cluster.start(*names, config=only(cluster.config, *names))
    await cluster.leader()


def test_from_three_to_five_and_back_under_decisions(tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        await found(cluster, "n1", "n2", "n3")
        txids = [await cluster.decided("n1")]
        for number in (4, 5):
            names = [f"n{n}" for n in range(1, number + 1)]
            await cluster.start(names[-1], config=only(cluster.config, *names))
            added = await cluster.change("add", names[-1])
            assert [m["voter"] for m in added["members"]] == [True] * (number - 1) + [False]
            txids.append(await cluster.decided("n2"))
            await cluster.voting(*names)
        await cluster.agreed()
        assert all(node.ledger.state(txid) is State.COMMITTED for node in cluster.nodes.values() for txid in txids)
        leader = await cluster.leader()
        down = [name for name in cluster.nodes if name != leader][:2]
        await cluster.stop(*down)
        txids.append(await cluster.decided(leader))  # three of five
        await cluster.start(*down)
        for gone in ("n1", "n2"):
            await cluster.change("remove", gone)
            await cluster.stop(gone)
            txids.append(await cluster.decided("n5"))
        await cluster.voting("n3", "n4", "n5")
        await cluster.agreed()
        await cluster.stop("n3")
        txids.append(await cluster.decided("n4"))  # two of three
        ledger = cluster.nodes["n5"].ledger
        await until(
            lambda: all(ledger.state(txid) is State.COMMITTED for txid in txids), "the last follower to apply them"
        )

    run(tmp_path, test)


def test_a_leader_that_removes_itself_hands_over_and_stands_no_more(tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        await found(cluster, "n1", "n2", "n3")
        leader = await cluster.leader()
        assert leader not in [member["name"] for member in (await cluster.change("remove", leader))["members"]]
        await until(lambda: cluster.nodes[leader].position().role == "removed", "it to step down")
        others = [node for name, node in cluster.nodes.items() if name != leader]
        await until(
            lambda: {node.leader for node in others} <= {"n1", "n2", "n3"} - {leader}, "one of the others to lead"
        )
        await cluster.decided(others[0]._name)

    run(tmp_path, test, nodes=3)


@pytest.mark.parametrize("running", [True, False])
def test_a_follower_that_was_removed_knows_it(running: bool, tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        await found(cluster, "n1", "n2", "n3")
        gone = (await cluster.followers())[0]
        if not running:
            await cluster.stop(gone)
        await cluster.change("remove", gone)
        if not running:
            await cluster.start(gone)
        await until(lambda: cluster.nodes[gone].position().role == "removed", "it to know")
        assert "removed" not in {node.position().role for name, node in cluster.nodes.items() if name != gone}

    run(tmp_path, test, nodes=3)


def test_a_node_that_waits_to_be_added_says_so_and_not_that_nothing_was_founded(tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        await found(cluster, "n1", "n2", "n3")
        await cluster.start("n4", config=only(cluster.config, "n1", "n2", "n3", "n4"))
        await until(lambda: cluster.link("n4", "n1")["expelled"], "the refusal")
        assert cluster.nodes["n4"].position().role == "waiting"
        why = of_no_cluster({"peers": cluster.nodes["n4"].peers_status()})
        assert "n4 is no member of this cluster" in why
        assert "raftcoord node add n4" in why
        assert not cluster.link("n1", "n2")["expelled"]

    run(tmp_path, test)


def test_a_node_whose_cluster_is_not_founded_says_whom_it_waits_for(tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        await cluster.start("n1", "n2", config=only(cluster.config, "n1", "n2", "n3"))
        await until(lambda: cluster.link("n1", "n2")["up"], "the link")
        why = of_no_cluster({"peers": cluster.nodes["n1"].peers_status()})
        assert why.startswith("its cluster has not been founded yet: it has not met n3, and")

    run(tmp_path, test, nodes=3)


@pytest.mark.parametrize("file", [("n1", "n2", "n3"), ("n1", "n2", "n3", "n4")])
def test_a_file_with_other_nodes_is_refused_and_changes_no_majority(file: tuple[str, ...], tmp_path: Path) -> None:
    """Two of five that were restarted with a file of three gave one transaction two outcomes."""

    async def test(cluster: Cluster) -> None:
        names = cluster.names
        await found(cluster, *names)
        txid = await cluster.decided("n1")
        await cluster.agreed()
        await cluster.stop()
        for name in ("n1", "n2"):
            with pytest.raises(
                ConfigError, match=r"cluster\.yaml names the nodes n1, n2, n3.*, and the members of this"
            ):
                await cluster.start(name, config=only(cluster.config, *file))
            cluster.nodes.pop(name)
            cluster.dbs.pop(name).close()
        await cluster.start("n3", "n4", "n5")
        standing = await cluster.decide(await cluster.leader(), Verdict.ABORT, txid)
        assert (standing.state, standing.first) == (State.COMMITTED, False)

    run(tmp_path, test)


def test_a_node_that_was_down_during_a_change_starts_with_the_new_file_and_with_the_old_one(tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        await found(cluster, "n1", "n2", "n3")
        await cluster.agreed()
        await cluster.stop("n3")
        await cluster.start("n4", config=only(cluster.config, "n1", "n2", "n3", "n4"))
        await cluster.change("add", "n4")
        await until(lambda: cluster.nodes["n4"].position().role == "follower", "it to vote")
        await cluster.start("n3", config=only(cluster.config, "n1", "n2", "n3", "n4"))
        await cluster.agreed()
        await cluster.stop("n3")
        await cluster.start("n3", config=only(cluster.config, "n1", "n2", "n3"))
        await cluster.voting("n1", "n2", "n3", "n4")

    run(tmp_path, test)


def test_nodes_with_different_files_do_not_found_a_cluster(tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        three = only(cluster.config, "n1", "n2", "n3")
        await cluster.start("n1", "n2", config=three)
        await cluster.start("n3", "n4", "n5")
        await until(lambda: "was started for the nodes" in cluster.link("n1", "n3")["why"], "the refusal")
        assert {node.position().role for node in cluster.nodes.values()} == {"waiting"}

    run(tmp_path, test)


def test_data_from_before_members_were_stored_is_taken_over_when_all_have_met(tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        await found(cluster, "n1", "n2", "n3")
        txids = [await cluster.decided("n1") for _ in range(3)]
        await cluster.agreed()
        before = {name: node.term for name, node in cluster.nodes.items()}
        await cluster.stop()
        for name in cluster.names:
            as_before(cluster.config.node(name).data_dir, cluster.config.cluster, name)
        await cluster.start("n1", "n2")
        await until(lambda: cluster.link("n1", "n2")["up"], "the link")
        assert {node.position().role for node in cluster.nodes.values()} == {"waiting"}, "the third has not agreed"
        await cluster.start("n3")
        txids.append(await cluster.decided(await cluster.leader()))
        await cluster.agreed()
        for name, node in cluster.nodes.items():
            assert all(node.ledger.state(txid) is State.COMMITTED for txid in txids)
            assert node.term > before[name]
            members = cluster.dbs[name].load().members
            assert members is None or members.names == ("n1", "n2", "n3")

    run(tmp_path, test, nodes=3)


@pytest.mark.parametrize("file", [("n1", "n2", "n3", "n4", "n5"), ("n1",)])
def test_data_from_before_is_not_taken_over_with_a_file_of_other_nodes(file: tuple[str, ...], tmp_path: Path) -> None:
    """A majority of five of which two are empty, or of one, need not have what a majority of three acknowledged."""

    async def test(cluster: Cluster) -> None:
        await found(cluster, "n1", "n2", "n3")
        await cluster.decided("n1")
        await cluster.stop()
        as_before(cluster.config.node(N1).data_dir, cluster.config.cluster, "n1")
        with pytest.raises(ConfigError, match="in which the nodes were n1, n2, n3; nothing was changed"):
            await cluster.start("n1", config=only(cluster.config, *file))
        cluster.nodes.pop("n1")
        cluster.dbs.pop("n1").close()

    run(tmp_path, test)


def test_a_node_whose_members_were_lost_does_not_found_a_set_from_its_file(tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        await found(cluster, "n1", "n2", "n3")
        await cluster.decided("n1")
        await until(lambda: cluster.dbs["n1"].load().members, "the members to be stored")
        await cluster.stop("n1")
        with closing(sqlite3.connect(tmp_path / "n1" / "node.db")) as db, db:
            db.execute("DELETE FROM meta WHERE key = 'members'")
        with pytest.raises(CorruptionError, match="the row 'members' of its table meta is missing"):
            await cluster.start("n1")

    run(tmp_path, test, nodes=3)


def as_before(directory: Path, cluster: str, name: str) -> None:
    """Make of a node.db what it was before it held members."""
    db = NodeDb.open(directory, cluster_name=cluster, node=name)
    db._writer.execute("DELETE FROM meta WHERE key = 'members'")
    _, state, crc = state_row(db._state._replace(epochs={**db._state.epochs, "members": 0}))
    db._writer.execute("UPDATE meta SET value = ?, crc = ? WHERE key = 'state'", (state, crc))
    for row in db.load().log:
        if row.data[:1] == engine.MEMBERS:
            crc = log_crc(row.index, row.term, engine.NO_OP)
            db._writer.execute("UPDATE log SET data = ?, crc = ? WHERE idx = ?", (engine.NO_OP, crc, row.index))
    db.close()


def test_an_empty_node_under_a_members_name_does_not_bring_back_a_majority(tmp_path: Path) -> None:
    """n3 replaced in the file by an empty n4, and two kills later an acknowledged COMMIT was called ABORTED."""

    async def test(cluster: Cluster) -> None:
        await found(cluster, "n1", "n2", "n3")
        txid = await cluster.decided("n1")
        await cluster.agreed()
        await cluster.stop()
        shutil.rmtree(tmp_path / "n2")
        with pytest.raises(ConfigError):
            await cluster.start("n1", config=only(cluster.config, "n1", "n2", "n4"))
        cluster.nodes.pop("n1")
        cluster.dbs.pop("n1").close()
        await cluster.start("n4", "n2", config=only(cluster.config, "n1", "n2", "n4"))
        await asyncio.sleep(0)
        await cluster.start("n3", config=only(cluster.config, "n1", "n2", "n3"))
        await until(lambda: "was wiped or replaced" in cluster.link("n3", "n2")["why"], "the refusal")
        assert {cluster.nodes[name].position().role for name in ("n2", "n4")} == {"waiting"}
        await cluster.start("n1", config=only(cluster.config, "n1", "n2", "n3"))
        await until(lambda: cluster.nodes["n1"].leader is not None, "a majority of those that have the data")
        standing = await cluster.decide("n3", Verdict.ABORT, txid)
        assert (standing.state, standing.first) == (State.COMMITTED, False)

    run(tmp_path, test)
