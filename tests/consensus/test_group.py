"""The replica's part: proposals and their answers, what is stored when, and what may be replaced."""

from __future__ import annotations

import random
from typing import Any

import msgpack
import pytest
from world import ANCHOR, World, a_group, founding

from raftcoord import limits
from raftcoord.consensus import engine, entries, group
from raftcoord.consensus.engine import StoredLog
from raftcoord.consensus.group import Group, Start, Store
from raftcoord.consensus.leaps import check_copy
from raftcoord.core.commands import encode_command, encode_entry, open_entry
from raftcoord.core.machine import Ledger
from raftcoord.core.tables.damages import Acknowledge, Heuristic, Settle
from raftcoord.core.tables.decisions import Close, Complete, Decide, Standing
from raftcoord.core.tables.horizon import Lower, Retire
from raftcoord.core.tables.participants import Bind
from raftcoord.core.tables.table import Command
from raftcoord.errors import Halt, NotKnown, Overloaded, RemoteProtocolError, Unavailable
from raftcoord.limits import NodeBounds
from raftcoord.types import State, TxId, Verdict

EMPTY = StoredLog([ANCHOR], 0, None, 1)


def alone(bounds: NodeBounds = NodeBounds()) -> Group:
    """A replica that is a whole cluster; it has elected itself."""
    start = Start(Ledger(), (1, 0), founding(1), hearsay=False)
    one = a_group(1, EMPTY, start, random.Random(1), 0.0, bounds=bounds)
    settle(one, 1.0)
    assert one.raft.is_leader
    return one


def alone_and_stored() -> Group:
    """The same, just after it stored its ledger."""
    one = alone()
    one.propose(a_decide(99), 9.0, lambda _: None)
    settle(one, 1.0)
    assert one.ledger.changed_count == 0
    return one


def settle(one: Group, now: float) -> list[Store]:
    """Tick, sync, flush and apply until nothing is left to do at ``now``; what was stored."""
    stores: list[Store] = []
    while True:
        before = len(stores)
        ready = one.step(now)
        if ready.store is not None:
            stores.append(ready.store)
            one.stored(ready.store, now)
        one.apply(now)
        ledger = one.ledger_store(now)
        if ledger is not None:
            stores.append(ledger)
            one.stored(ledger, now)
        if len(stores) == before and not one.has_work:
            return stores


def a_decide(number: int = 0, reason: str = "") -> Decide:
    return Decide(TxId.new(1_700_000_000_000, number.to_bytes(10, "big")), Verdict.COMMIT, (), reason, "", 0)


def entries_of(one: Group) -> list[list[Any]]:
    """The commands of each entry of the log that carries some."""
    return [list(open_entry(data[1:]).commands()) for data, _, _ in one.log[0:] if data[:1] == engine.REGULAR]


# -- batches ----------------------------------------------------------------------------------------------------------


def test_what_gathers_between_two_steps_shares_an_entry() -> None:
    one = alone()
    answers: list[Any] = []
    for i in range(5):
        one.propose(a_decide(i), 9.0, answers.append)
    one.barrier(9.0, answers.append)
    settle(one, 1.0)
    assert entries_of(one) == [[a_decide(i) for i in range(5)]]
    assert [answer.first for answer in answers[:5]] == [True] * 5
    assert answers[5] == (one.applied_term, one.applied_index)


@pytest.mark.parametrize(("count", "entries"), [(4, [4]), (5, [4, 1]), (8, [4, 4]), (9, [4, 4, 1])])
def test_an_entry_holds_so_many_commands_and_not_one_more(
    count: int, entries: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "ENTRY_COMMANDS_MAX", 4)
    one = alone()
    for i in range(count):
        one.propose(a_decide(i), 9.0, lambda _: None)
    settle(one, 1.0)
    assert [len(entry) for entry in entries_of(one)] == entries


@pytest.mark.parametrize(("more", "entries"), [(0, [2]), (-1, [1, 1])])
def test_an_entry_holds_so_many_bytes_and_not_one_more(
    more: int, entries: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = a_decide(0), a_decide(1, reason="of another length")
    size = len(encode_command(first)) + len(encode_command(second))
    monkeypatch.setattr(limits, "ENTRY_BYTES_MAX", size + more)
    one = alone()
    one.propose(first, 9.0, lambda _: None)
    one.propose(second, 9.0, lambda _: None)
    settle(one, 1.0)
    assert [len(entry) for entry in entries_of(one)] == entries


def test_a_barrier_writes_an_entry_without_commands() -> None:
    one = alone()
    before = one.applied_index
    answers: list[Any] = []
    for _ in range(3):
        one.barrier(9.0, answers.append)
    settle(one, 1.0)
    assert entries_of(one) == [[]]
    assert answers == [(1, before + 1)] * 3


# -- too much ---------------------------------------------------------------------------------------------------------


def test_so_many_proposals_may_be_open_and_not_one_more() -> None:
    one = alone(NodeBounds(proposals_max=3))
    for i in range(2):
        one.propose(a_decide(i), 9.0, lambda _: None)
    one.barrier(9.0, lambda _: None)
    with pytest.raises(Overloaded, match="3 proposals are open"):
        one.propose(a_decide(3), 9.0, lambda _: None)
    with pytest.raises(Overloaded):
        one.barrier(9.0, lambda _: None)
    settle(one, 1.0)
    one.propose(a_decide(3), 9.0, lambda _: None)


def test_every_way_to_be_answered_makes_room_again() -> None:
    """Applied, late before it was handed over, late after, stopped: the count of open proposals comes back to 0."""
    world = World(3, bounds=NodeBounds(proposals_max=4))
    leader = world.elect()
    follower = next(n for n in world.running if n != leader)
    for wait in (9.0, 0.01):
        for _ in range(4):
            world.decide(follower, wait=wait)
        world.until(lambda: all(p.answer is not None for p in world.proposals))
    world.isolate(follower)
    world.until(lambda: world.replica(follower).reachable_leader is None)
    for _ in range(4):
        world.decide(follower, wait=0.01)
    world.run(0.5)
    assert all(isinstance(p.answer, Unavailable) for p in world.proposals[-4:])
    for _ in range(4):
        world.decide(follower)
    world.replica(follower).fail_all(Unavailable("this node stops"))
    for _ in range(4):
        world.decide(follower)


# -- deadlines --------------------------------------------------------------------------------------------------------


def test_without_a_leader_nothing_was_attempted() -> None:
    world = World(3)
    world.isolate(1)
    txid = world.decide(1, wait=0.2)
    barrier = world.barrier(1, wait=0.2)
    world.run(1.5)
    assert isinstance(world.answer(txid), Unavailable)
    assert isinstance(barrier.answer, Unavailable)
    world.heal()
    world.elect()
    world.run(1.0)
    assert world.table(1) == {}, "what was called unavailable was proposed later"


def test_one_that_is_late_leaves_the_others_of_its_batch_waiting() -> None:
    world = World(3)
    world.isolate(1)
    late, patient = world.decide(1, wait=0.2), world.decide(1, wait=30.0)
    barrier, patient_barrier = world.barrier(1, wait=0.2), world.barrier(1, wait=30.0)
    world.run(1.0)
    assert world.answer(patient) is None
    world.heal()
    world.until(lambda: world.answer(patient) is not None and patient_barrier.answer is not None)
    assert isinstance(world.answer(late), Unavailable)
    assert isinstance(barrier.answer, Unavailable)
    assert world.verdict(patient) is Verdict.COMMIT
    assert late not in world.table(1)


def test_once_handed_over_its_fate_is_not_known() -> None:
    world = World(3)
    leader = world.elect()
    world.isolate(leader)
    txid, patient = world.decide(leader, wait=0.2), world.decide(leader, wait=30.0)
    world.turn(leader)
    world.run(1.0)
    assert isinstance(world.answer(txid), NotKnown)
    world.heal()
    world.until(lambda: world.answer(patient) is not None)
    assert isinstance(world.answer(txid), NotKnown), "answered twice"
    assert txid in world.table(leader), "its batch was proposed again: it may stand, and it does"


def test_a_stopping_replica_tells_apart_what_was_attempted() -> None:
    """Unavailable would be a lie about an entry that a leader already has: it is a licence to try again."""
    world = World(3)
    leader = world.elect()
    world.isolate(leader)
    handed_over = world.decide(leader)
    flying_barrier = world.barrier(leader)
    world.turn(leader)
    gathering = world.decide(leader)
    world.stop(leader)
    assert isinstance(world.answer(handed_over), NotKnown)
    assert isinstance(flying_barrier.answer, NotKnown)
    assert isinstance(world.answer(gathering), Unavailable)


# -- leaders come and go ----------------------------------------------------------------------------------------------


def test_a_proposal_whose_leader_fell_is_proposed_again_and_answered_once() -> None:
    world = World(3, seed=3)
    leader = world.elect()
    asked = next(n for n in world.running if n != leader)
    txid = world.decide(asked, wait=30.0)
    world.turn(asked)  # handed over, and lost with the leader
    world.crash(leader)
    world.until(lambda: world.answer(txid) is not None)
    assert world.verdict(txid) is Verdict.COMMIT


def test_an_entry_that_is_in_the_log_twice_is_applied_once_with_one_answer() -> None:
    world = World(3, seed=5)
    leader = world.elect()
    asked = next(n for n in world.running if n != leader)
    txid = world.decide(asked, wait=30.0)
    world.turn(asked)
    world.deliver_all(asked, leader)
    world.turn(leader)  # appended, and already on its way to the followers
    world.unlink(asked, leader)
    world.link(asked, leader)  # a new link: what was handed over may have been lost with the old one
    world.until(lambda: world.answer(txid) is not None and world.settled(world.running))
    twice = [data for data, _, _ in world.replica(leader).log[0:] if data[:1] == engine.REGULAR]
    assert len(twice) == 2
    assert twice[0] == twice[1]
    answer = world.answer(txid)
    assert isinstance(answer, Standing)
    assert answer.first
    assert world.table(asked)[txid].index == answer.decision.index  # type: ignore[union-attr]


def test_an_entry_of_an_earlier_life_answers_nobody_of_this_one() -> None:
    """The sequence numbers begin again at each start; the boot number tells the lives apart."""
    world = World(3, seed=2)
    leader = world.elect()
    asked = next(n for n in world.running if n != leader)
    old = world.decide(asked, wait=30.0)
    world.turn(asked)
    world.deliver_all(asked, leader)
    world.crash(asked)
    world.start(asked)
    new = world.decide(asked, Verdict.ABORT, wait=30.0)
    world.until(lambda: world.answer(new) is not None)
    assert world.verdict(new) is Verdict.ABORT
    assert world.answer(old) is None
    assert world.table(asked)[old].verdict is Verdict.COMMIT


def test_an_entry_that_bears_a_borrowed_name_halts() -> None:
    """Two lives with one boot number: what the log says would be applied as something else."""
    one = alone()
    one.raft.propose(engine.REGULAR + encode_entry(one.node, one.boot, 1, [encode_command(a_decide(7))]))
    one.propose(a_decide(8), 9.0, lambda _: None)
    with pytest.raises(Halt, match="another entry under the name"):
        settle(one, 1.0)


def test_a_follower_learns_of_its_proposal_through_the_leader() -> None:
    world = World(5, seed=1)
    leader = world.elect()
    txids = [world.decide(n) for n in world.running for _ in range(3)]
    world.until(lambda: all(world.answer(txid) is not None for txid in txids))
    assert {world.verdict(txid) for txid in txids} == {Verdict.COMMIT}
    assert world.leader == leader


# -- entries that a peer hands over -----------------------------------------------------------------------------------

READABLE = encode_entry(2, 7, 1, [encode_command(a_decide(1))])


@pytest.mark.parametrize(
    "entry",
    [
        b"",
        b"\xc1",
        msgpack.packb([2, 1, 1, 1, []]),
        msgpack.packb([1, 1, 1, 1, [[99]]]),
        msgpack.packb([1, 1, 1, 1, [[1, b"short", 1, [], "", "", 0]]]),
        msgpack.packb([1, 1, 1, 1, [[2, [[b"short", []]]]]]),
    ],
    ids=["empty", "not MessagePack", "newer format", "unknown kind", "bad txid", "bad acknowledgement"],
)
def test_an_entry_that_could_not_be_applied_never_reaches_the_log(entry: bytes) -> None:
    one = alone()
    before = one.log.last_index
    with pytest.raises(RemoteProtocolError, match="a peer sent an entry"):
        one.receive(2, {"type": "propose", "entries": [entry]}, 1.0)
    settle(one, 1.0)
    assert one.log.last_index == before


def test_an_entry_of_a_peer_may_be_so_long_and_not_a_byte_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(3)
    leader = world.elect()
    follower = next(n for n in world.running if n != leader)
    before = world.replica(leader).log.last_index
    monkeypatch.setattr(limits, "PAYLOAD_BYTES_MAX", 0)
    monkeypatch.setattr(limits, "ENTRY_BYTES_MAX", len(READABLE))
    world.replica(leader).receive(follower, {"type": "propose", "entries": [READABLE]}, world.now)
    world.turn(leader)
    assert world.replica(leader).log.last_index == before + 1
    monkeypatch.setattr(limits, "ENTRY_BYTES_MAX", len(READABLE) - 1)
    with pytest.raises(RemoteProtocolError, match=f"{len(READABLE)} bytes"):
        world.replica(leader).receive(follower, {"type": "propose", "entries": [READABLE]}, world.now)


def test_a_follower_appends_nothing_that_is_handed_to_it() -> None:
    world = World(3)
    leader = world.elect()
    follower = next(n for n in world.running if n != leader)
    last = world.replica(follower).log.last_index
    world.replica(follower).receive(leader, {"type": "propose", "entries": [READABLE]}, world.now)
    world.turn(follower)
    assert world.replica(follower).log.last_index == last


# -- numbers that no node would send ----------------------------------------------------------------------------------


def said_by_a_peer(kind: str, term: int) -> dict[str, Any]:
    numbers = {
        "append_entries": {"commit_index": 1, "prevLogIdx": 1, "prevLogTerm": 0, "entries": []},
        "next_node_idx": {"next_node_idx": 2, "reset": False, "success": True},
        "request_vote": {"last_log_index": 9, "last_log_term": 9},
        "response_vote": {},
        "pre_vote": {"last_log_index": 9, "last_log_term": 9},
        "pre_vote_reply": {"asked": 1, "granted": False},
    }
    return {"type": kind, "term": term, **numbers[kind]}


KINDS_WITH_A_TERM = ["append_entries", "next_node_idx", "request_vote", "response_vote", "pre_vote", "pre_vote_reply"]


@pytest.mark.parametrize("kind", KINDS_WITH_A_TERM)
def test_a_term_may_lie_so_far_ahead_and_not_one_further(kind: str) -> None:
    world = World(3)
    leader = world.elect()
    node = next(n for n in world.running if n != leader)
    peer, one = next(n for n in world.running if n not in (leader, node)), world.replica(node)
    before = one.raft.term
    with pytest.raises(RemoteProtocolError, match="no elections bring it so far ahead"):
        one.receive(peer, said_by_a_peer(kind, before + limits.TERM_LEAP_MAX + 1), world.now)
    assert one.raft.term == before
    one.receive(peer, said_by_a_peer(kind, before + limits.TERM_LEAP_MAX), world.now)


def test_after_a_peer_has_claimed_the_last_term_the_cluster_decides_as_before() -> None:
    world = World(3)
    leader = world.elect()
    for node in world.running:
        for kind in KINDS_WITH_A_TERM:
            with pytest.raises(RemoteProtocolError):
                world.replica(node).receive(1 + node % 3, said_by_a_peer(kind, 1 << 62), world.now)
    txid = world.decide(leader)
    world.until(lambda: world.answer(txid) is not None)
    assert world.verdict(txid) is Verdict.COMMIT
    world.crash(leader)
    world.until(lambda: world.leader not in (None, leader))


def appended(*commands: Command) -> dict[str, Any]:
    entry = engine.REGULAR + encode_entry(2, 7, 1, [encode_command(command) for command in commands])
    return said_by_a_peer("append_entries", 1) | {"entries": [(entry, 2, 1)]}


BEYOND = [
    Retire(1_001),
    a_decide(1, "x" * (limits.REASON_LENGTH_MAX + 1)),
    a_decide(1)._replace(branches=("b",) * (limits.BRANCHES_MAX + 1)),
    a_decide(1)._replace(at_ms=limits.TIME_MS_MAX + 1),
    a_decide(1)._replace(at_ms=-1),
    Complete(((a_decide(1).txid, ("b",) * (limits.BRANCHES_MAX + 1)),)),
    Heuristic(a_decide(1).txid, "b", "x" * (limits.REASON_LENGTH_MAX + 1), 0),
    Acknowledge(a_decide(1).txid, "b", "x" * (limits.WHO_LENGTH_MAX + 1), 0),
    Bind("a", "1a" * 16, "", "", limits.TIME_MS_MAX + 1),
    Close(((a_decide(1).txid, ("b",) * (limits.BRANCHES_MAX + 1)),), "ops", "gone", 0),
    Close((), "x" * (limits.WHO_LENGTH_MAX + 1), "gone", 0),
    Close((), "ops", "x" * (limits.REASON_LENGTH_MAX + 1), 0),
    Settle(((a_decide(1).txid, ("b",) * (limits.BRANCHES_MAX + 1)),), "ops", 0),
    Settle((), "x" * (limits.WHO_LENGTH_MAX + 1), 0),
    Settle((), "ops", -1),
    Settle(((a_decide(1).txid, ("b" * (limits.NAME_LENGTH_MAX + 1),)),), "ops", 0),
    Close(((a_decide(1).txid, ("b" * (limits.NAME_LENGTH_MAX + 1),)),), "ops", "gone", 0),
    Close((), "ops", "gone", limits.TIME_MS_MAX + 1),
    Bind("a" * (limits.NAME_LENGTH_MAX + 1), "1a" * 16, "", "", 0),
    Bind("a", "1a" * 16, "", "x" * (limits.WHO_LENGTH_MAX + 1), 0),
    Lower(2_000, 2_000, "ops", 0),
    Lower(2_000, 1_000, "", 0),
    Lower(2_000, 1_000, "x" * (limits.WHO_LENGTH_MAX + 1), 0),
    Lower(2_000, 1_000, "ops", limits.TIME_MS_MAX + 1),
    Lower(limits.TIME_MS_MAX + 1, 1_000, "ops", 0),
]
WITHIN = [
    Retire(1_000),
    a_decide(1, "x" * limits.REASON_LENGTH_MAX),
    a_decide(1)._replace(branches=("b",) * limits.BRANCHES_MAX, at_ms=limits.TIME_MS_MAX),
    Complete(((a_decide(1).txid, ("b",) * limits.BRANCHES_MAX),)),
    Heuristic(a_decide(1).txid, "b", "x" * limits.REASON_LENGTH_MAX, 0),
    Acknowledge(a_decide(1).txid, "b", "x" * limits.WHO_LENGTH_MAX, 0),
    Bind("a" * limits.NAME_LENGTH_MAX, "1a" * 16, "", "x" * limits.WHO_LENGTH_MAX, limits.TIME_MS_MAX),
    Lower(limits.TIME_MS_MAX, limits.TIME_MS_MAX - 1, "x" * limits.WHO_LENGTH_MAX, limits.TIME_MS_MAX),
    Close(((a_decide(1).txid, ("b" * limits.NAME_LENGTH_MAX,)),), "ops", "gone", limits.TIME_MS_MAX),
    Close(
        ((a_decide(1).txid, ("b",) * limits.BRANCHES_MAX),),
        "x" * limits.WHO_LENGTH_MAX,
        "x" * limits.REASON_LENGTH_MAX,
        0,
    ),
    Settle(((a_decide(1).txid, ("b",) * limits.BRANCHES_MAX),), "x" * limits.WHO_LENGTH_MAX, limits.TIME_MS_MAX),
]


def one_of_three(horizon_ms_max: int = 1_000) -> Group:
    start = Start(Ledger(), (1, 0), founding(3), hearsay=False)
    return a_group(1, EMPTY, start, random.Random(1), 0.0, horizon_ms_max)


@pytest.mark.parametrize("command", BEYOND, ids=repr)
def test_a_command_beyond_its_bounds_is_refused_where_it_comes_in(command: Command) -> None:
    one = one_of_three()
    with pytest.raises(RemoteProtocolError, match="nothing of it was taken"):
        one.receive(2, appended(a_decide(3), command), 0.0)
    assert one.log.last_index == 1


@pytest.mark.parametrize("command", WITHIN, ids=repr)
def test_a_command_at_its_bounds_is_taken(command: Command) -> None:
    one = one_of_three()
    one.receive(2, appended(command), 0.0)
    assert one.log.last_index == 2


def test_an_entry_of_a_leader_holds_so_many_commands_and_not_one_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ENTRY_COMMANDS_MAX", 2)
    one = one_of_three()
    with pytest.raises(RemoteProtocolError, match="3 commands"):
        one.receive(2, appended(*[a_decide(n) for n in range(3)]), 0.0)
    one.receive(2, appended(*[a_decide(n) for n in range(2)]), 0.0)
    assert one.log.last_index == 2


def test_an_array_of_an_entry_holds_so_many_items_and_not_one_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ENTRY_ITEMS_MAX", 7)  # a decision has as many
    one = one_of_three()
    with pytest.raises(RemoteProtocolError, match="cannot be applied"):
        one.receive(2, appended(a_decide(1)._replace(branches=tuple("abcdefgh"))), 0.0)
    one.receive(2, appended(a_decide(1)._replace(branches=tuple("abcdefg"))), 0.0)
    assert one.log.last_index == 2


def test_what_came_in_is_decoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(3)
    leader = world.elect()
    follower = next(n for n in world.running if n != leader)
    monkeypatch.setattr(group, "reopened", None)  # which applying would call
    txids = [world.decide(n) for n in (leader, follower)]
    world.until(lambda: all(world.answer(txid) is not None for txid in txids))
    world.turns()
    for n in world.running:
        assert {txid for txid in txids if world.replica(n).ledger.decision(txid)} == set(txids)


def test_what_is_too_much_to_be_kept_is_decoded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entries, "KEPT_MAX", 0)
    world = World(3)
    txids = [world.decide(world.elect()) for _ in range(3)]
    world.until(lambda: all(world.answer(txid) is not None for txid in txids))


@pytest.mark.parametrize(
    ("index", "index_term"), [(limits.INDEX_LEAP_MAX + 2, 1), (5, 2)], ids=["an index", "a term beyond the sender's"]
)
def test_a_copy_up_to_where_no_log_reaches_is_refused(index: int, index_term: int) -> None:
    with pytest.raises(RemoteProtocolError, match="which no log reaches"):
        check_copy(1, index, index_term, our_term=0, applied_index=1)
    check_copy(1, limits.INDEX_LEAP_MAX + 1, 1, our_term=0, applied_index=1)
    with pytest.raises(RemoteProtocolError, match="no elections"):
        check_copy(limits.TERM_LEAP_MAX + 1, 5, 1, our_term=0, applied_index=1)


def test_an_entry_of_an_unknown_kind_halts() -> None:
    one = alone()
    one.raft.propose(b"\x03version")
    with pytest.raises(Halt, match="of a kind this version does not know"):
        settle(one, 1.0)


def test_a_set_of_members_that_cannot_be_read_is_refused_and_halts_who_finds_it_in_its_log() -> None:
    one, unreadable = one_of_three(), (engine.MEMBERS + b"membership", 2, 1)
    fields = {"term": 1, "commit_index": 1, "prevLogIdx": 1, "prevLogTerm": 0, "entries": [unreadable]}
    with pytest.raises(RemoteProtocolError, match="a set of members that this version cannot read"):
        one.receive(2, {"type": "append_entries", **fields}, 0.0)
    assert one.log.last_index == 1
    stored = StoredLog([ANCHOR, unreadable], 1, None, 1)
    with pytest.raises(Halt, match="a set of members that this version cannot read"):
        a_group(1, stored, Start(Ledger(), (1, 0), founding(3), hearsay=False), random.Random(1), 0.0)


# -- what is stored, and when -----------------------------------------------------------------------------------------


def test_applied_decisions_wait_to_be_stored_and_the_log_does_not() -> None:
    """The log has them already: a commit of their own each time would cost a second sync."""
    one = alone_and_stored()
    one.propose(a_decide(), 9.0, lambda _: None)
    stores = settle(one, 1.0)
    assert [len(store.staged.append) for store in stores] == [1]
    assert [bool(store.changes) for store in stores] == [False]
    assert [store.applied for store in stores] == [None]
    assert one.ledger_store(1.0 + group.STORE_DELAY - 0.001) is None
    store = one.ledger_store(1.0 + group.STORE_DELAY)
    assert store is not None
    assert not store.staged.append
    assert list(store.changes["decisions"].puts) == [a_decide().txid]
    assert store.applied == (one.applied_index, one.applied_term)


@pytest.mark.parametrize(("count", "stored"), [(4, False), (5, True)])
def test_so_many_decisions_are_stored_without_waiting(
    count: int, stored: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group, "STORE_DECISIONS", 5)
    one = alone_and_stored()
    for i in range(count):
        one.propose(a_decide(i), 9.0, lambda _: None)
    assert any(store.changes for store in settle(one, 1.0)) is stored


def test_the_log_is_cut_only_behind_what_is_stored_in_the_same_commit() -> None:
    bounds = NodeBounds(log_tail_entries=4, log_compact_slack=2)
    one = alone(bounds)
    cuts = 0
    for i in range(40):
        one.propose(a_decide(i), 99.0, lambda _: None)
        for store in settle(one, 1.0 + i / 100):
            if store.drop_before is not None:
                cuts += 1
                assert store.applied is not None
                assert store.drop_before <= store.applied[0] - bounds.log_tail_entries
                assert store.drop_before == one.log.first_index
    assert cuts > 5
    assert len(one.log) <= bounds.log_tail_entries + 2 * bounds.log_compact_slack + 1


def test_the_log_is_cut_by_its_bytes_as_well() -> None:
    one = alone(NodeBounds(log_tail_bytes=2_000, log_compact_slack=5))
    for i in range(60):
        one.propose(a_decide(i, reason="x" * 400), 99.0, lambda _: None)
        settle(one, 1.0 + i / 10)
    assert len(one.log) < 20


def test_a_ledger_that_never_finds_a_quiet_moment_is_overdue_before_long() -> None:
    one = alone_and_stored()
    one.propose(a_decide(), 99.0, lambda _: None)
    ready = one.step(1.0)
    assert ready.store is not None
    one.stored(ready.store, 1.0)
    one.apply(1.0)
    one.step(1.0)
    one.apply(1.0)
    assert not one.ledger_is_overdue(1.0 + 8 * group.STORE_DELAY - 0.001)
    assert one.ledger_is_overdue(1.0 + 8 * group.STORE_DELAY + 0.001)


def test_what_others_wait_for_comes_before_what_is_applied() -> None:
    """A follower syncs and acknowledges new entries without applying the old ones first; but it applies before it goes on."""
    one = alone()
    answers: list[Any] = []
    one.propose(a_decide(), 9.0, answers.append)
    ready = one.step(1.0)
    assert ready.store is not None
    one.stored(ready.store, 1.0)
    one.apply(1.0)
    one.step(1.0)
    assert answers == []
    with pytest.raises(Halt, match="before the last one's entries were applied"):
        one.step(1.0)
    one.apply(1.0)
    assert len(answers) == 1


# -- copies of the ledger ---------------------------------------------------------------------------------------------


def test_a_copy_is_installed_only_where_it_says_something_new() -> None:
    one = alone()
    index, term = one.applied_index, one.applied_term
    assert not one.needs_copy(index, term)
    assert not one.needs_copy(index - 1, term)
    assert one.needs_copy(index + 1, term)
    with pytest.raises(Halt, match="applied or acknowledged"):
        one.installed(Ledger(), index, term)
    one.installed(Ledger(), index + 1, term)
    assert (one.applied_index, one.log.first_index, one.log.last_index) == (index + 1,) * 3


def test_a_copy_that_comes_late_does_not_wipe_what_was_acknowledged_since() -> None:
    """A new leader sent the entries instead, and counts this node for those behind the copy's last (Raft section 7)."""
    world = World(3, seed=1)
    leader = world.elect()
    behind = next(n for n in world.running if n != leader)
    for _ in range(4):
        world.decide(leader)
        world.run(0.1)
    world.isolate(leader)
    world.until(lambda: world.leader not in (None, leader))
    replica_behind = world.replica(behind)
    last, applied = replica_behind.log.last_index, replica_behind.applied_index
    replica_behind.log.add(b"\x01", last + 1, replica_behind.raft.term)  # sent, synced and acknowledged, not committed
    replica_behind.log.add(b"\x01", last + 2, replica_behind.raft.term)
    world.turn(behind)
    assert replica_behind.applied_index == applied
    assert not replica_behind.needs_copy(last + 1, replica_behind.raft.term)
    assert replica_behind.needs_copy(last + 1, replica_behind.raft.term + 1), (
        "a log that contradicts the copy gives way"
    )


def test_proposals_survive_the_installation_of_a_copy() -> None:
    world = World(3, seed=4, bounds=NodeBounds(log_tail_entries=2, log_compact_slack=1))
    leader = world.elect()
    behind = next(n for n in world.running if n != leader)
    world.isolate(behind)
    waiting = world.decide(behind, wait=60.0)
    for _ in range(20):
        world.decide(leader)
        world.run(0.1)
    world.heal()
    world.until(lambda: world.installs > 0 and world.answer(waiting) is not None)
    assert world.verdict(waiting) is Verdict.COMMIT
    world.until(lambda: world.settled(world.running))
    assert world.table(behind) == world.table(leader)
    assert world.replica(behind).ledger.state(waiting) is State.COMMITTED


def test_a_proposal_whose_entry_came_with_a_copy_is_answered_all_the_same() -> None:
    """Its entry lies behind the copy and is never applied here: proposed again, it is told what stands."""
    world = World(3, seed=4, bounds=NodeBounds(log_tail_entries=2, log_compact_slack=1))
    leader = world.elect()
    behind = next(n for n in world.running if n != leader)
    txid = world.decide(behind, wait=60.0)
    world.turn(behind)
    world.deliver_all(behind, leader)
    world.sever(leader, behind)
    for _ in range(20):
        world.decide(leader)
        world.run(0.02)
    assert world.replica(behind).ledger.state(txid) is State.UNDECIDED
    world.cut.clear()
    world.link(leader, behind)
    world.until(lambda: world.answer(txid) is not None, seconds=5.0)
    assert world.installs > 0
    assert world.verdict(txid) is Verdict.COMMIT
