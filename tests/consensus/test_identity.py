"""Who is who: before the founding a name belongs to the identity that was met first under it, afterwards to the member's."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cluster import Cluster, config_in, free_ports, until

from raftcoord import limits
from raftcoord.config import Address
from raftcoord.consensus.identity import STRANGER_S, Identities, Introduction, PlaceInFile, Stranger, said_in
from raftcoord.core.tables.decisions import Standing
from raftcoord.core.tables.members import Member, Members, founded, to_list
from raftcoord.errors import ConfigError, Unavailable
from raftcoord.limits import NodeBounds
from raftcoord.types import NodeName, State

N1, N2, N3, N4 = (NodeName(f"n{number}") for number in (1, 2, 3, 4))
OWN, ONE, OTHER, FOURTH = "00" * 16, "01" * 16, "02" * 16, "03" * 16
FILE = {name: PlaceInFile(number, f"h{number}:1", f"h{number}:2") for number, name in enumerate((N1, N2, N3), 1)}
FOUNDING = founded({N1: (1, OWN, "h1:1", "h1:2"), N2: (2, ONE, "h2:1", "h2:2"), N3: (3, OTHER, "h3:1", "h3:2")})
CONFIRMED = FOUNDING.confirmed()
FOUR = CONFIRMED.added(N4, FOURTH, "h4:1", "h4:2")


class Known(Identities):
    """Node n1 of three. ``changes``: how often it said that something changed."""

    def __init__(self, members: Members | None = None, joined: Members | None = None, **known: str) -> None:
        self.changes = 0
        super().__init__(OWN, N1, FILE, known, members, joined, on_change=self._changed)

    def _changed(self) -> None:
        self.changes += 1


def says(
    name: NodeName,
    identity: str,
    knows: str = OWN,
    members: Members | None = None,
    names: tuple[str, ...] = ("n1", "n2", "n3"),
) -> Introduction:
    """A hello of that node."""
    return Introduction(name, identity, knows, names, members, "h9:1", "h9:2")


# -- before the founding ----------------------------------------------------------------------------------------------


def test_the_first_of_a_name_is_recorded_and_told_only_when_it_is_stored() -> None:
    one = Known()
    one.judge(says(N2, ONE))
    assert (one.unsaved, one.known(N2), one.changes) == ({N2: ONE}, "", 1)
    assert not one.acquainted(says(N2, ONE), told="")
    one.saved(one.unsaved)
    assert (one.unsaved, one.known(N2)) == ({}, ONE)
    assert one.acquainted(says(N2, ONE), told=ONE)
    one.judge(says(N2, ONE))
    assert one.changes == 1, "nothing new is to be stored"


def test_both_ends_must_know_each_other_and_have_said_so() -> None:
    one = Known(n2=ONE)
    assert not one.acquainted(says(N2, ONE, knows=""), told=ONE)
    assert not one.acquainted(says(N2, ONE, knows=OTHER), told=ONE)
    assert not one.acquainted(says(N2, ONE), told=""), "the other end could not know that we know it"
    assert one.acquainted(says(N2, ONE), told=ONE)


@pytest.mark.parametrize("stored", [False, True])
def test_another_of_the_same_name_is_refused_before_the_founding(stored: bool) -> None:
    one = Known()
    one.judge(says(N2, ONE))
    if stored:
        one.saved(one.unsaved)
    with pytest.raises(
        ConfigError, match="node n2 was wiped or replaced: it says it is 02020202, known of it is 01010101"
    ):
        one.judge(says(N2, OTHER))
    one.judge(says(N2, ONE))


@pytest.mark.parametrize("names", [("n1", "n2"), ("n1", "n2", "n3", "n4"), ("n1", "n2", "n4"), ()])
def test_a_node_that_was_started_for_other_nodes_is_refused(names: tuple[str, ...]) -> None:
    one = Known()
    with pytest.raises(
        ConfigError, match=r"node n2 was started for the nodes .*, and node n1 for n1, n2, n3; use the same"
    ):
        one.judge(says(N2, ONE, names=names))
    assert one.unsaved == {}


def test_a_copy_of_the_own_data_is_refused() -> None:
    for one in (Known(), Known(CONFIRMED)):
        with pytest.raises(ConfigError, match="another process uses a copy of the data of node n1"):
            one.judge(says(N1, OWN))


HELLO = {
    "node": "n2",
    "identity": ONE,
    "knows": "",
    "nodes": ["n1", "n2", "n3"],
    "members": None,
    "addresses": ["h2:1", "h2:2"],
}


def test_a_hello_says_all_that_a_node_must_say() -> None:
    assert said_in(HELLO) == Introduction(N2, ONE, "", ("n1", "n2", "n3"), None, "h2:1", "h2:2")
    assert said_in(HELLO | {"members": to_list(FOUR)}).members == FOUR
    assert said_in(Known(FOUR).introduction(N2)).members == FOUR


@pytest.mark.parametrize(
    "wrong",
    [
        *({"identity": said} for said in (None, "", 5, ONE.encode(), ONE[1:], ONE + "0", "G" * 32, "FF" * 16)),
        {"knows": None},
        {"nodes": None},
        {"nodes": ["n"] * 8},
        {"nodes": [5]},
        {"nodes": ["n" * 33]},
        {"members": []},
        {"members": [1, 1, 1, [], []]},
        {"addresses": ["h:1"]},
        {"addresses": ["h:1", "h" * 301]},
        {"addresses": 5},
    ],
)
def test_a_hello_that_says_less_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"does not say which node\.db is its own and who the members are"):
        said_in(HELLO | wrong)


@pytest.mark.parametrize("address", ["", "h", "h:0", "h:99999", "h h:1", "\x1b[2J:1"])
def test_an_address_that_nobody_could_dial_is_refused(address: str) -> None:
    """It would be replicated, and each node would dial it."""
    with pytest.raises(ConfigError, match=r"is not an address|has no port"):
        said_in(HELLO | {"addresses": ["h:1", address]})


def test_the_cluster_is_founded_by_a_node_that_has_met_everybody() -> None:
    one = Known(n2=ONE, n3=OTHER)
    assert (one.founding, one.waiting_for) == (None, [N2, N3])
    one.meet(N3)
    assert (one.founding, one.waiting_for) == (None, [N2])
    one.meet(N2)
    assert (one.founding, one.waiting_for, one.changes) == (FOUNDING, [], 2)
    one.follow(FOUNDING)
    assert (one.founding, one.waiting_for) == (None, [])


def test_a_cluster_is_not_founded_with_an_even_number_of_nodes() -> None:
    even = Identities(OWN, N1, {N1: FILE[N1], N2: FILE[N2]}, {"n2": ONE}, None, on_change=lambda: None)
    even.meet(N2)
    with pytest.raises(ConfigError, match="cannot be founded with 2 nodes"):
        _ = even.founding


def test_a_single_node_founds_its_cluster_at_once() -> None:
    alone = Identities(OWN, N1, {N1: FILE[N1]}, {}, None, on_change=lambda: None)
    assert alone.founding == founded({N1: (1, OWN, "h1:1", "h1:2")})


def test_a_founding_set_is_nobody_elses_to_give() -> None:
    """What nodes believe of identities may differ until the first leader has confirmed it."""
    one = Known()
    one.judge(says(N2, ONE, members=FOUNDING))
    assert (one.heard, one.invitation, one.unsaved) == (None, None, {N2: ONE})


def test_a_node_is_taken_in_by_a_later_set_that_names_its_data() -> None:
    one = Known()
    one.judge(says(N2, ONE, members=FOUR))
    assert (one.invitation, one.changes) == (FOUR, 1)
    one.follow(FOUR)
    assert one.invitation is None


def test_a_voter_of_the_confirmed_set_takes_part_only_when_it_has_met_everybody_itself() -> None:
    """That set may never be committed, and another one may believe other data under this node's name."""
    one = Known()
    one.judge(says(N2, ONE, members=CONFIRMED))
    assert (one.invitation, one.unsaved) == (None, {N2: ONE})
    as_learner = CONFIRMED._replace(members=tuple(m._replace(voter=m.id != 1) for m in CONFIRMED.members))
    one.judge(says(N2, ONE, members=as_learner))
    assert one.invitation == as_learner


def test_a_node_is_not_taken_in_by_a_set_that_does_not_name_its_data() -> None:
    one = Known()
    with pytest.raises(
        ConfigError, match="node n1 was wiped or replaced: it says it is 00000000, known of it is 0a0a0a0a"
    ):
        one.judge(says(N2, ONE, members=_with(OWN, "0a" * 16)))
    with pytest.raises(
        ConfigError, match=r"node n1 is no longer a member .*n2, n3; to take it in, run `raftcoord node add n1`"
    ):
        one.judge(says(N2, ONE, members=CONFIRMED.removed(N1)))
    assert (one.heard, one.unsaved) == (None, {})


def _with(old: str, new: str) -> Members:
    changed = tuple(m._replace(identity=new) if m.identity == old else m for m in CONFIRMED.members)
    return CONFIRMED._replace(members=changed)


# -- after it ---------------------------------------------------------------------------------------------------------


def test_a_member_is_who_its_identity_says() -> None:
    one = Known(CONFIRMED)
    one.judge(says(N2, ONE))
    assert (one.id_of(N2, ONE), one.id_of(N3, ONE), one.id_of(N2, FOURTH)) == (2, None, None)
    with pytest.raises(ConfigError, match="has the data 01010101 of another"):
        one.judge(says(N3, ONE))
    with pytest.raises(ConfigError) as refusal:
        one.judge(says(N2, FOURTH))
    assert str(refusal.value) == (
        "node n2 was wiped or replaced: it says it is 03030303, known of it is 01010101; if its data is lost for good, run "
        "`raftcoord node replace n2`; else give it back its data directory"
    )
    assert one.refused(N2) == Stranger(FOURTH, "h9:1", "h9:2")
    with pytest.raises(ConfigError, match=r"node n4 is no member of this cluster, .* run `raftcoord node add n4`"):
        one.judge(says(N4, "0a" * 16))
    assert set(one.strangers) == {N2, N4}
    one.follow(CONFIRMED.added(N4, "0a" * 16, "", ""))
    assert (set(one.strangers), one.id_of(N4, "0a" * 16)) == ({N2}, 4)


def test_strangers_are_remembered_up_to_a_bound() -> None:
    one = Known(CONFIRMED)
    for number in range(4, 4 + limits.MEMBERS_MAX + 1):
        with pytest.raises(ConfigError):
            one.judge(says(NodeName(f"n{number}"), f"{number:032x}"))
    assert len(one.strangers) == limits.MEMBERS_MAX
    assert N4 not in one.strangers


def test_a_stranger_that_has_gone_is_not_taken_in() -> None:
    """A node that was wiped a second time was added with the data that it had before, and nobody could be added any more."""
    now = [100.0]
    one = Identities(OWN, N1, FILE, {}, CONFIRMED, on_change=lambda: None, now=lambda: now[0])
    with pytest.raises(ConfigError):
        one.judge(says(N4, FOURTH))
    now[0] += STRANGER_S
    assert set(one.strangers) == {N4}
    now[0] += 0.001
    assert (one.strangers, one.refused(N4)) == ({}, None)


def test_a_later_set_is_heard_from_a_member_and_from_a_newer_one() -> None:
    one = Known(CONFIRMED)
    one.judge(says(N2, ONE, members=FOUR))
    assert (one.heard, one.id_of(N4, FOURTH), one.changes) == (FOUR, 4, 1)
    behind = Known(CONFIRMED)
    behind.judge(says(N4, FOURTH, members=FOUR))
    assert (behind.heard, behind.to_dial[N4]) == (FOUR, "h4:1")


def test_a_stranger_cannot_talk_itself_in_with_a_set_that_leaves_this_node_out() -> None:
    one = Known(CONFIRMED)
    with pytest.raises(ConfigError, match="no member"):
        one.judge(says(N4, FOURTH, members=FOUR.removed(N1)))
    assert one.heard is None


def test_a_log_that_goes_back_or_catches_up_does_not_forget_what_was_heard() -> None:
    one = Known(FOUR)
    one.follow(CONFIRMED)
    assert (one.members, one.heard, one.id_of(N4, FOURTH)) == (CONFIRMED, FOUR, 4)
    one.follow(FOUR.promoted())
    assert one.heard is None
    learner = Identities(FOURTH, N4, {**FILE, N4: PlaceInFile(4, "", "")}, {}, CONFIRMED, FOUR, on_change=lambda: None)
    assert learner.id_of(N4, FOURTH) == 4


def test_a_file_that_names_others_than_the_members_contradicts_them() -> None:
    assert Known(CONFIRMED).contradiction == ""
    assert Known().contradiction == ""
    one = Known(founded({N1: (1, OWN, "", "")}).confirmed())
    assert one.contradiction.startswith(
        "cluster.yaml names the nodes n1, n2, n3, and the members of this cluster are n1 (epoch 2"
    )


def test_a_file_of_before_the_last_changes_is_old_and_no_contradiction() -> None:
    one = Known(FOUR.promoted())
    assert (one.contradiction, one.file_is_old) == ("", True)
    assert (Known(CONFIRMED).file_is_old, Known().file_is_old) == (False, False)


def test_a_node_that_was_down_during_a_change_hears_that_its_file_is_right() -> None:
    before = founded({N1: (1, OWN, "", ""), N2: (2, ONE, "", ""), N4: (3, FOURTH, "", "")}).confirmed()
    after = before.removed(N4).added(N3, OTHER, "", "")
    one = Known(before)
    assert one.contradiction
    one.judge(says(N2, ONE, members=after))
    assert one.contradiction == ""


# -- real nodes -------------------------------------------------------------------------------------------------------

Test = Callable[[Cluster], Coroutine[Any, Any, None]]


def run(directory: Path, test: Test, nodes: int = 3, bounds: NodeBounds = NodeBounds()) -> None:
    async def within() -> None:
        async with Cluster(config_in(directory, nodes), bounds) as cluster:
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
        assert [node.position().role for node in cluster.nodes.values()] == ["waiting", "waiting"]
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
        wiped, _ = await cluster.followers()
        txids = [await cluster.decided(leader) for _ in range(3)]
        before = cluster.dbs[wiped].load().node_uuid.hex()
        await cluster.wipe(wiped)
        txids += [await cluster.decided(leader) for _ in range(3)]
        answer = await cluster.replace(wiped)
        identity = cluster.dbs[wiped].load().node_uuid.hex()
        assert {key: answer[key] for key in ("node", "step", "by")} == {"node": wiped, "step": "replace", "by": leader}
        assert identity != before
        await cluster.voting(*cluster.names)
        await cluster.agreed()
        node = cluster.nodes[wiped]
        assert [node.ledger.state(txid) for txid in txids] == [State.COMMITTED] * 6
        assert {(m.id, m.identity) for one in cluster.nodes.values() for m in in_ledger(one) if m.name == wiped} == {
            (4, identity)
        }
        await cluster.stop(leader)
        assert isinstance(await cluster.decide(wiped), Standing), "it counts for a majority"

    run(tmp_path, test)


def in_ledger(node: Any) -> tuple[Member, ...]:
    members: Members | None = node.ledger.members
    assert members is not None
    return members.members


def test_members_stay_over_restarts_compaction_and_a_copy_of_the_ledger(
    tmp_path: Path,
) -> None:
    async def test(cluster: Cluster) -> None:
        await cluster.start()
        leader = await cluster.leader()
        wiped, behind, *_ = await cluster.followers()
        await cluster.agreed()
        last = cluster.nodes[behind].position().log_last
        await cluster.stop(behind)
        await cluster.wipe(wiped)
        await cluster.replace(wiped)
        await until(
            lambda: cluster.nodes[wiped].position().role == "follower",
            "it to vote, though one that is down has not met it",
        )
        for _ in range(12):
            await cluster.decided(leader)
        await until(lambda: cluster.nodes[leader].position().log_first > last + 1, "the log to be cut")
        await cluster.start(behind)
        await cluster.agreed()
        assert cluster.nodes[behind].position().log_first > last, "it learned the members by the log, not by a copy"
        members = cluster.nodes[leader].ledger.members
        await cluster.stop()
        await cluster.start()
        await cluster.decided(await cluster.leader())
        await cluster.agreed()
        assert {node.ledger.members for node in cluster.nodes.values()} == {members}
        assert {db.load().members for db in cluster.dbs.values()} == {members}

    run(tmp_path, test, nodes=5, bounds=NodeBounds(log_tail_entries=2, log_compact_slack=2))


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
        await cluster.replace(replaced)
        await cluster.voting(*cluster.names)
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


def test_a_node_that_is_removed_is_hung_up_on_at_once(tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        await cluster.start()
        leader = await cluster.leader()
        removed, other = await cluster.followers()
        await cluster.agreed()
        await cluster.change("remove", removed)
        for one in (leader, other):
            await until(lambda one=one: removed not in cluster.nodes[one].peers_status(), "the end of the link")
            await until(lambda one=one: not cluster.link(removed, one)["up"], "the end of the other link")
        last = cluster.nodes[removed].position().log_last
        txid = await cluster.decided(leader)
        assert cluster.nodes[removed].position().log_last == last
        assert cluster.nodes[removed].ledger.state(txid) is State.UNDECIDED
        await until(lambda: "is no longer a member" in cluster.link(removed, other)["why"], "the reason")

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
            *(f"{other} -> {wiped}: {said}" for other in others),
            *(f"{wiped} -> {other}: {said}" for other in others),
        ):
            await until(lambda line=line: line in caplog.text, line)
        assert caplog.text.count(f"{wiped}: takes no part before it has met each of {', '.join(others)} once") == 1

    run(tmp_path, test)


def test_two_of_five_that_were_wiped_at_once_come_back_one_after_the_other(tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        await cluster.start()
        leader = await cluster.leader()
        one, other, *_ = await cluster.followers()
        txid = await cluster.decided(leader)
        await cluster.stop(one, other)
        await cluster.wipe(one)
        await cluster.wipe(other)
        for wiped in (one, other):
            await cluster.replace(wiped)
            await until(lambda wiped=wiped: cluster.nodes[wiped].position().role == "follower", "it to vote")
        await cluster.agreed()
        assert {node.ledger.state(txid) for node in cluster.nodes.values()} == {State.COMMITTED}

    run(tmp_path, test, nodes=5)


def test_a_second_process_on_a_copy_of_the_data_is_refused_while_the_first_is_heard(tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        await cluster.start()
        leader = await cluster.leader()
        copied, other = await cluster.followers()
        await cluster.agreed()
        await cluster.stop(copied)
        shutil.copytree(tmp_path / copied, tmp_path / "copy" / copied)
        await cluster.start(copied)
        await cluster.agreed()
        ports = iter(free_ports(2))
        nodes = tuple(
            replace(
                node,
                data_dir=tmp_path / "copy" / node.name,
                **({} if node.name != copied else {"peer": at(next(ports)), "client": at(next(ports))}),
            )
            for node in cluster.config.nodes
        )
        async with Cluster(replace(cluster.config, nodes=nodes)) as second:
            await second.start(copied)
            for one in (leader, other):
                await until(
                    lambda one=one: "two processes use the data" in second.link(copied, one)["why"], "the refusal"
                )
            await cluster.decided(copied)
            assert not any(link["up"] for link in second.nodes[copied].peers_status().values())

    run(tmp_path, test)


def at(port: int) -> Address:
    return Address("127.0.0.1", port)


def test_an_id_of_a_later_set_goes_before_one_that_was_perhaps_never_committed() -> None:
    """n4 was added as 4 and that was lost; then n5 was added as 4, and n4 as 5."""
    fifth = "04" * 16
    phantom = CONFIRMED.added(N4, FOURTH, "h4:1", "h4:2")
    later = CONFIRMED.added(NodeName("n5"), fifth, "h5:1", "h5:2").promoted().added(N4, FOURTH, "h4:1", "h4:2")
    one = Known(phantom)
    one.judge(says(N2, ONE, members=later))
    assert (one.id_of(N4, FOURTH), one.id_of(NodeName("n5"), fifth)) == (5, 4)
