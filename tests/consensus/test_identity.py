"""Who is who: a name belongs to the identity that was met first under it, until the ledger says that it belongs to another."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from cluster import Cluster, config_in, until

from raftcoord import limits
from raftcoord.consensus.identity import Identities
from raftcoord.consensus.stored import write_of_identities
from raftcoord.core.commands import Enroll
from raftcoord.core.decisions import Done, Standing
from raftcoord.errors import ConfigError, LocalProtocolError, Unavailable
from raftcoord.node.replacement import replace
from raftcoord.storage.node_db import NodeDb
from raftcoord.types import NodeName, State, TxId

N2, N3 = NodeName("n2"), NodeName("n3")
OWN, ONE, OTHER = "00" * 16, "01" * 16, "02" * 16


class Known(Identities):
    """Node n1 of three. ``changes``: how often it said that something changed."""

    def __init__(self, took_part: bool = False, **known: str) -> None:
        self.changes = 0
        super().__init__(OWN, [N2, N3], known, took_part=took_part, on_change=self._changed)

    def _changed(self) -> None:
        self.changes += 1


# -- the rule alone ---------------------------------------------------------------------------------------------------


def test_the_first_of_a_name_is_recorded_and_told_only_when_it_is_stored() -> None:
    one = Known()
    assert one.judge(N2, ONE) == ONE
    assert (one.unsaved, one.known(N2), one.changes) == ({N2: ONE}, "", 1)
    assert not one.acquainted(N2, ONE, told="", knows=OWN)
    one.saved(one.unsaved)
    assert (one.unsaved, one.known(N2)) == ({}, ONE)
    assert one.acquainted(N2, ONE, told=ONE, knows=OWN)
    assert one.judge(N2, ONE) == ONE
    assert one.changes == 1, "nothing new is to be stored"


def test_both_ends_must_know_each_other_and_have_said_so() -> None:
    one = Known(n2=ONE)
    assert not one.acquainted(N2, ONE, told=ONE, knows="")
    assert not one.acquainted(N2, ONE, told=ONE, knows=OTHER)
    assert not one.acquainted(N2, ONE, told="", knows=OWN), "the other end could not know that we know it"
    assert one.acquainted(N2, ONE, told=ONE, knows=OWN)


@pytest.mark.parametrize("stored", [False, True])
def test_another_of_the_same_name_is_refused_with_the_way_out(stored: bool) -> None:
    one = Known()
    one.judge(N2, ONE)
    if stored:
        one.saved(one.unsaved)
    with pytest.raises(ConfigError) as refusal:
        one.judge(N2, OTHER)
    assert str(refusal.value) == (
        "node n2 was wiped or replaced: it says it is 02020202, known here is 01010101; if its data is lost for good, run "
        "`raftcoord node replace n2`; else give it back its data directory"
    )
    assert (one.refused(N2), one.refused(N3)) == (OTHER, "")
    assert one.judge(N2, ONE) == ONE


@pytest.mark.parametrize("said", [None, "", 5, ONE.encode(), ONE[1:], ONE + "0", "G" * 32, "FF" * 16])
def test_what_is_no_identity_is_refused_and_not_recorded(said: object) -> None:
    one = Known()
    with pytest.raises(ConfigError, match=r"does not say which node\.db is its own"):
        one.judge(N2, said)
    assert (one.unsaved, one.refused(N2)) == ({}, "")


def test_who_never_took_part_is_admitted_when_it_has_met_everybody() -> None:
    one = Known()
    assert (one.admitted, one.waiting_for) == (False, [N2, N3])
    one.meet(N3)
    assert (one.admitted, one.waiting_for) == (False, [N2])
    one.meet(N2)
    assert (one.admitted, one.waiting_for, one.changes) == (True, [], 2)


def test_who_took_part_or_is_alone_need_not_meet_anybody() -> None:
    assert Known(took_part=True).admitted
    assert Identities(OWN, [], {}, took_part=False, on_change=lambda: None).admitted


def test_who_is_enrolled_stands_at_once_and_is_told_when_it_is_stored() -> None:
    one = Known(n2=ONE)
    with pytest.raises(ConfigError):
        one.judge(N2, OTHER)
    assert one.enroll({"n2": OTHER, "n9": ONE})
    assert one.unsaved == {N2: OTHER}
    assert (one.known(N2), one.stands(N2, ONE), one.stands(N2, OTHER)) == ("", False, True)
    with pytest.raises(ConfigError):
        one.judge(N2, ONE)
    one.saved(one.unsaved)
    assert (one.known(N2), one.unsaved) == (OTHER, {})
    assert not one.enroll({"n2": OTHER})


def test_what_was_enrolled_while_another_was_being_stored_is_stored_next() -> None:
    one = Known()
    one.judge(N2, ONE)
    being_stored = one.unsaved
    one.enroll({"n2": OTHER})
    one.saved(being_stored)
    assert (one.known(N2), one.unsaved) == ("", {N2: OTHER})


# -- real nodes -------------------------------------------------------------------------------------------------------

Test = Callable[[Cluster], Coroutine[Any, Any, None]]


def run(directory: Path, test: Test, nodes: int = 3) -> None:
    async def within() -> None:
        async with Cluster(config_in(directory, nodes)) as cluster:
            await test(cluster)
            assert cluster.halted == []

    asyncio.run(within())


def awaited(cluster: Cluster, name: str) -> set[str]:
    return {peer for peer, link in cluster.nodes[name].peers_status().items() if link["awaited"]}


def test_a_new_cluster_opens_when_all_have_met_and_then_any_majority_will_do(tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        await cluster.start("n1", "n2")
        await until(lambda: awaited(cluster, "n1") == awaited(cluster, "n2") == {"n3"}, "n1 and n2 to meet")
        waiting = cluster.decide("n1", wait=0.3)
        assert isinstance(await waiting, Unavailable)
        assert [node.role for node in cluster.nodes.values()] == ["waiting", "waiting"]
        await cluster.start("n3")
        await cluster.decided(await cluster.leader())
        await cluster.agreed()
        await cluster.stop()
        await cluster.start("n1", "n3")
        assert isinstance(await cluster.decide(await cluster.leader()), Standing)
        assert awaited(cluster, "n1") == awaited(cluster, "n3") == set()

    run(tmp_path, test)


def test_a_replaced_node_comes_back_and_everything_is_equal(tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        await cluster.start()
        leader = await cluster.leader()
        wiped, other = await cluster.followers()
        txids = [await cluster.decided(leader) for _ in range(3)]
        before = cluster.dbs[wiped].load().node_uuid.hex()
        await cluster.wipe(wiped)
        txids += [await cluster.decided(leader) for _ in range(3)]
        answer = await cluster.replace(wiped, asked=other)
        identity = cluster.dbs[wiped].load().node_uuid.hex()
        assert answer == {"node": wiped, "identity": identity, "enrolled_by": other}
        assert identity != before
        await cluster.agreed()
        node = cluster.nodes[wiped]
        assert [node.ledger.state(txid) for txid in txids] == [State.COMMITTED] * 6
        assert {one.ledger.enrolled[wiped] for one in cluster.nodes.values()} == {identity}
        await cluster.stop(leader)
        assert isinstance(await cluster.decide(wiped), Standing), "it counts for a majority"

    run(tmp_path, test)


def test_who_is_enrolled_stays_so_over_restarts_compaction_and_a_copy_of_the_ledger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "LOG_TAIL_ENTRIES", 2)
    monkeypatch.setattr(limits, "LOG_COMPACT_SLACK", 2)

    async def test(cluster: Cluster) -> None:
        await cluster.start()
        leader = await cluster.leader()
        wiped, behind, *_ = await cluster.followers()
        await cluster.agreed()
        last = cluster.nodes[behind].log_last
        await cluster.stop(behind)
        await cluster.wipe(wiped)
        answer = await cluster.replace(wiped, asked=leader)
        enrolled = {wiped: answer["identity"]}
        for _ in range(12):
            await cluster.decided(leader)
        await until(lambda: cluster.nodes[leader].log_first > last + 1, "the log to be cut")
        await until(lambda: awaited(cluster, wiped) == {behind}, "it to have met all others")
        assert cluster.nodes[wiped].role == "waiting", "one that runs not has not heard of it"
        await cluster.start(behind)
        await cluster.agreed()
        assert cluster.nodes[behind].log_first > last, "it was told by the log, not by a copy"
        assert cluster.dbs[behind].load().peers[wiped] == answer["identity"]
        await cluster.stop()
        await cluster.start()
        await cluster.decided(await cluster.leader())
        await cluster.agreed()
        for name, node in cluster.nodes.items():
            assert node.ledger.enrolled == enrolled
            assert cluster.dbs[name].load().enrolled == enrolled
            assert name == wiped or cluster.dbs[name].load().peers[wiped] == answer["identity"]
        assert cluster.nodes[wiped].role != "waiting"

    run(tmp_path, test, nodes=5)


def test_an_enrolled_identity_that_was_not_stored_before_a_crash_is_learned_from_the_ledger(tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        await cluster.start()
        leader = await cluster.leader()
        wiped, other = await cluster.followers()
        before = cluster.dbs[other].load().peers[wiped]
        await cluster.wipe(wiped)
        answer = await cluster.replace(wiped, asked=leader)
        await cluster.agreed()
        await cluster.stop(other)
        with closing(NodeDb.open(tmp_path / other, cluster_name=cluster.config.cluster, node=other)) as db:
            db.write(write_of_identities({NodeName(wiped): before}))
        await cluster.start(other)
        await cluster.agreed()
        await until(lambda: cluster.link(other, wiped)["up"], "the link to the new one")
        assert cluster.dbs[other].load().peers[wiped] == answer["identity"]

    run(tmp_path, test)


def test_the_old_node_is_refused_when_another_has_its_name(tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        await cluster.start()
        leader = await cluster.leader()
        replaced, other = await cluster.followers()
        await cluster.agreed()
        await cluster.stop(replaced)
        kept = tmp_path / "kept"
        (tmp_path / replaced).rename(kept)
        await cluster.start(replaced)
        await cluster.replace(replaced, asked=leader)
        await cluster.agreed()
        await cluster.stop(replaced)
        (tmp_path / replaced).rename(tmp_path / "new")
        kept.rename(tmp_path / replaced)
        await cluster.start(replaced)
        for one in (leader, other):
            await until(lambda one=one: "was wiped or replaced" in cluster.link(replaced, one)["why"], "the refusal")
            assert not cluster.link(one, replaced)["up"]
        assert isinstance(await cluster.decide(leader), Standing)

    run(tmp_path, test)


def test_a_node_whose_name_is_given_to_another_is_hung_up_on_at_once(tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        await cluster.start()
        leader = await cluster.leader()
        given_up, other = await cluster.followers()
        await cluster.agreed()
        assert await cluster.propose(leader, Enroll(given_up, ONE)) == Done(True)
        for one in (leader, other):
            await until(lambda one=one: not cluster.link(one, given_up)["up"], "the end of the link")
            await until(lambda one=one: not cluster.link(given_up, one)["up"], "the end of the other link")
        last = cluster.nodes[given_up].log_last
        txid = await cluster.decided(leader)
        assert cluster.nodes[given_up].log_last == last
        assert cluster.nodes[given_up].ledger.state(txid) is State.UNDECIDED

    run(tmp_path, test)


def test_the_refusal_stands_in_both_logs_and_the_waiting_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")

    async def test(cluster: Cluster) -> None:
        await cluster.start()
        await cluster.leader()
        wiped = (await cluster.followers())[0]
        await cluster.agreed()
        caplog.clear()
        await cluster.wipe(wiped)
        others = [name for name in cluster.names if name != wiped]
        said = f"node {wiped} was wiped or replaced: it says it is"
        for line in (
            *(f"{other} peer port: refused the hello of" for other in others),
            *(f"{other}: hung up on what answers as node {wiped}: {said}" for other in others),
            *(f"{wiped} -> {other}: {said}" for other in others),
        ):
            await until(lambda line=line: line in caplog.text, line)
        assert caplog.text.count(f"{wiped}: takes no part before it has met each of {', '.join(others)} once") == 1

    run(tmp_path, test)


def test_nobody_is_enrolled_who_was_not_refused(tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        await cluster.start()
        leader = await cluster.leader()
        stopped, other = await cluster.followers()
        await cluster.agreed()
        await until(lambda: cluster.link(leader, other)["up"], "the link")
        await cluster.stop(stopped)
        await until(lambda: not cluster.link(leader, stopped)["up"], "the end of the link")

        def ask(name: object) -> None:
            replace(cluster.nodes[leader], leader, name, 1.0, lambda _: pytest.fail("it was proposed"))

        with pytest.raises(LocalProtocolError, match="is not a name"):
            ask("N 3")
        with pytest.raises(LocalProtocolError, match="there is no node 'n9' in this cluster; its nodes are n1, n2, n3"):
            ask("n9")
        with pytest.raises(LocalProtocolError, match=f"node {other} is linked to node {leader} with the data that is"):
            ask(other)
        with pytest.raises(Unavailable, match=f"refused nobody under the name {stopped}; start the new node"):
            ask(stopped)
        with pytest.raises(Unavailable, match="cannot enroll itself"):
            ask(leader)
        assert cluster.nodes[leader].ledger.enrolled == {}

    run(tmp_path, test)


def test_of_a_node_that_was_wiped_twice_the_last_is_enrolled(tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        await cluster.start()
        leader = await cluster.leader()
        wiped = (await cluster.followers())[0]
        await cluster.agreed()
        txid = TxId.new()
        identities = []
        for _ in range(2):
            await cluster.wipe(wiped)
            new = cluster.dbs[wiped].load().node_uuid.hex()
            await until(lambda new=new: cluster.link(leader, wiped)["refused"] == new, "the refusal of this one")
            identities.append((await cluster.replace(wiped, asked=leader))["identity"])
            await cluster.agreed()
        await cluster.decide(wiped, txid=txid)
        assert identities[0] != identities[1] == cluster.nodes[leader].ledger.enrolled[wiped]
        assert cluster.link(leader, wiped)["refused"] == ""

    run(tmp_path, test)


def test_two_of_five_that_were_wiped_at_once_come_back_together(tmp_path: Path) -> None:
    """Each is new to the other as well: neither has anything that the other could contradict."""

    async def test(cluster: Cluster) -> None:
        await cluster.start()
        leader = await cluster.leader()
        one, other, *_ = await cluster.followers()
        txid = await cluster.decided(leader)
        await cluster.stop(one, other)
        await cluster.wipe(one)
        await cluster.wipe(other)
        await cluster.replace(one, asked=leader)
        await cluster.replace(other, asked=leader)
        await cluster.agreed()
        assert {node.ledger.state(txid) for node in cluster.nodes.values()} == {State.COMMITTED}
        assert "waiting" not in {node.role for node in cluster.nodes.values()}

    run(tmp_path, test, nodes=5)
