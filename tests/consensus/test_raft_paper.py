"""The rules of the Raft paper (Ongaro and Ousterhout, "In Search of an Understandable Consensus Algorithm", extended version),
one by one, against the node that runs here: PySyncObj, corrected. Each test says its rule in a sentence, with the section.

A node under test is node 1; what it says is shown as lines of text.
"""

from __future__ import annotations

import random
from typing import Any

import pytest
from world import ANCHOR, TIMING, Clocked, World

from raftcoord.consensus import engine
from raftcoord.consensus.engine import EntryTriple, StoredLog
from raftcoord.errors import Halt
from raftcoord.types import State, Verdict


class Node:
    """Node 1 of ``size``, with a log written as terms: ``[1, 1, 2]`` are the entries 2, 3 and 4 of terms 1, 1 and 2."""

    def __init__(self, terms: list[int] | None = None, term: int = 1, vote: int | None = None, size: int = 3) -> None:
        self.now = 100.0
        stored = StoredLog([ANCHOR, *entries(2, *(terms or []))], term, vote, 1)
        self.raft = Clocked(stored, random.Random(1), size, self.now)
        self.log = self.raft.log
        for peer in range(2, size + 1):
            self.raft.connected(peer)

    def hear(self, sender: int, kind: str, **fields: Any) -> list[str]:
        """Take a message, tick, and tell what is said in return."""
        self.raft.now = self.now
        self.raft.receive(sender, {"type": kind, **fields})
        return self.tick()

    def append(self, leader: int, term: int, after: int, after_term: int, *terms: int, commit: int = 1) -> list[str]:
        """AppendEntries of entries of these terms, behind (``after``, ``after_term``)."""
        return self.hear(
            leader,
            "append_entries",
            term=term,
            prevLogIdx=after,
            prevLogTerm=after_term,
            entries=entries(after + 1, *terms),
            commit_index=commit,
        )

    def asked(self, candidate: int, term: int, last: int = 99, last_term: int = 99) -> list[str]:
        """RequestVote."""
        return self.hear(candidate, "request_vote", term=term, last_log_index=last, last_log_term=last_term)

    def acknowledged(self, follower: int, upto: int) -> list[str]:
        """The follower holds everything up to this index, on disk."""
        return self.hear(
            follower, "next_node_idx", term=self.raft.term, next_node_idx=upto + 1, reset=False, success=True
        )

    def tick(self, seconds: float = 0.0) -> list[str]:
        self.now += seconds
        self.raft.now = self.now
        self.raft.tick()
        return [line(peer, message) for peer, message in self.raft.take_messages()]

    def lead(self) -> Node:
        """Win an election with the votes of all."""
        self.raft._stand()
        for peer in self.raft._nodes:
            self.raft.receive(peer, {"type": "response_vote", "term": self.raft.term})
        assert self.raft.is_leader
        self.sync()
        self.tick()
        return self

    def sync(self) -> None:
        """Everything that is staged is on disk."""
        self.log.take()
        self.log.synced(self.log.last_index)

    @property
    def terms(self) -> list[int]:
        return [term for _, _, term in self.log[1:]]


def entries(first: int, *terms: int) -> list[EntryTriple]:
    return [(b"\x01%d/%d" % (index, term), index, term) for index, term in enumerate(terms, first)]


def line(peer: int, message: dict[str, Any]) -> str:
    term = message["term"]
    match message["type"]:
        case "append_entries":
            sent = "".join(f" {index}/{of}" for _, index, of in message["entries"])
            return f"to {peer}: append term {term} after {message['prevLogIdx']}/{message['prevLogTerm']}:{sent}"
        case "next_node_idx" if message["success"]:
            return f"to {peer}: have up to {message['next_node_idx'] - 1} in term {term}"
        case "next_node_idx" if message["reset"]:
            return f"to {peer}: do not have that, begin at {message['next_node_idx']} in term {term}"
        case "next_node_idx":
            return f"to {peer}: my term is {term}"
        case "response_vote":
            return f"to {peer}: my vote in term {term}"
        case "pre_vote_reply":
            return f"to {peer}: {'would' if message['granted'] else 'would not'} vote, my term is {term}"
        case kind:
            return f"to {peer}: {kind} for term {term}"


# -- 5.1 terms --------------------------------------------------------------------------------------------------------


def test_a_newer_term_in_any_message_is_adopted() -> None:
    """5.1: a server that sees a larger term than its own takes that term."""
    node = Node(term=1)
    node.append(2, 3, 1, 0)
    assert node.raft.term == 3
    node.asked(3, 3)
    node.now += 1.0
    node.asked(3, 5)
    assert node.raft.term == 5


@pytest.mark.parametrize("kind", ["next_node_idx", "pre_vote_reply", "append_entries"])
def test_a_leader_of_an_older_term_becomes_a_follower(kind: str) -> None:
    """5.1: a candidate or leader whose term is out of date goes back to being a follower at once."""
    node = Node().lead()
    fields: dict[str, Any] = {
        "next_node_idx": {"next_node_idx": 2, "reset": False, "success": False},
        "pre_vote_reply": {"asked": 9, "granted": False},
        "append_entries": {"prevLogIdx": 1, "prevLogTerm": 0, "entries": [], "commit_index": 1},
    }[kind]
    node.hear(2, kind, term=9, **fields)
    assert (node.raft.role, node.raft.term) == ("follower", 9)


def test_a_message_of_an_older_term_changes_nothing_and_is_told_the_term() -> None:
    """5.1: a request that carries an older term is rejected; the answer lets its sender find out."""
    node = Node([1], term=4)
    assert node.append(2, 3, 2, 1, 3) == ["to 2: my term is 4"]
    assert (node.terms, node.raft.term, node.raft.leader) == ([1], 4, None)
    assert node.asked(2, 3) == []


# -- 5.2 elections ----------------------------------------------------------------------------------------------------


def test_one_vote_per_term_to_whoever_asks_first() -> None:
    """5.2: each server votes for at most one candidate in a term."""
    node = Node(term=1)
    assert node.asked(2, 2) == ["to 2: my vote in term 2"]
    assert node.asked(3, 2) == []
    assert node.asked(3, 3) == ["to 3: my vote in term 3"]


def test_the_vote_survives_a_restart() -> None:
    """5.2 with figure 2: the term and the vote are persistent, so that a restart is no second vote."""
    node = Node(term=1)
    node.asked(2, 2)
    staged = node.log.take()
    assert staged.hard_state == (2, 2)
    term, vote = staged.hard_state
    assert Node(term=term, vote=vote).asked(3, 2) == []


def test_a_second_vote_in_one_term_halts_rather_than_be_given() -> None:
    """5.2, asserted where the vote is staged: whatever the cause, two votes of one server never leave it."""
    node = Node(term=2, vote=2)
    with pytest.raises(Halt, match="a second vote in term 2"):
        node.log.setCurrentTerm(2, 3)
    with pytest.raises(Halt, match="the term moved backwards"):
        node.log.setCurrentTerm(1, None)


def test_a_majority_of_votes_makes_a_leader_and_one_less_does_not() -> None:
    """5.2: a candidate wins with the votes of a majority of the full cluster."""
    node = Node(size=5)
    node.raft._stand()
    node.tick()
    assert not node.raft.is_leader
    node.hear(2, "response_vote", term=2)
    assert not node.raft.is_leader
    said = node.hear(3, "response_vote", term=2)
    assert node.raft.is_leader
    assert said == [f"to {peer}: append term 2 after 1/0: 2/2" for peer in (2, 3, 4, 5)]


def test_a_candidate_gives_way_to_the_leader_of_its_term() -> None:
    """5.2: a candidate that hears from a leader of its own term or a newer one follows it."""
    node = Node()
    node.raft._stand()
    assert node.raft.role == "candidate"
    assert node.append(3, 2, 1, 0, 2)[-1] == "to 3: have up to 2 in term 2"
    assert (node.raft.role, node.raft.leader) == ("follower", 3)
    assert not node.hear(2, "response_vote", term=2)
    assert not node.raft.is_leader


def test_a_silent_leader_is_replaced_after_an_election_timeout_and_not_before() -> None:
    """5.2: a follower that hears nothing for an election timeout begins an election (here: asks first, thesis 9.6)."""
    node = Node(term=1)
    node.append(2, 1, 1, 0)
    assert node.tick(TIMING.election_min - 0.01) == []
    assert node.tick(TIMING.election_max) == ["to 2: pre_vote for term 2", "to 3: pre_vote for term 2"]
    assert node.raft.term == 1, "asking costs no term"
    said = node.hear(3, "pre_vote_reply", term=1, asked=2, granted=True)
    assert said == ["to 2: request_vote for term 2", "to 3: request_vote for term 2"]


def test_election_timeouts_are_drawn_anew() -> None:
    """5.2: randomized timeouts keep split votes from repeating."""
    node = Node()
    drawn = {node.raft._SyncObj__generateRaftTimeout() for _ in range(100)}
    assert len(drawn) == 100
    assert all(TIMING.election_min <= timeout <= TIMING.election_max for timeout in drawn)


# -- 5.3 log replication ----------------------------------------------------------------------------------------------


def test_a_leader_never_changes_its_own_log() -> None:
    """5.3, leader append-only: a leader appends, and neither overwrites nor deletes."""
    node = Node([1, 1]).lead()
    before = list(node.log[0:])
    node.raft.propose(b"\x01mine")
    node.hear(2, "next_node_idx", term=2, next_node_idx=1, reset=True, success=False)
    node.acknowledged(3, 4)
    assert node.log[: len(before)] == before
    with pytest.raises(Halt, match="two leaders in term 2"):
        node.append(3, 2, 1, 0, 1)


def test_entries_are_taken_only_behind_one_that_agrees() -> None:
    """5.3, the consistency check: without an entry of that index and term the new ones are refused."""
    node = Node([1, 1])
    assert node.append(2, 2, 9, 1, 2) == ["to 2: do not have that, begin at 4 in term 2"]
    assert node.append(2, 2, 3, 2, 2) == ["to 2: do not have that, begin at 2 in term 2"]
    assert node.terms == [1, 1]
    assert node.append(2, 2, 3, 1, 2) == ["to 2: have up to 4 in term 2"]
    assert node.terms == [1, 1, 2]


def test_a_conflicting_entry_and_all_behind_it_are_replaced() -> None:
    """5.3: an entry that conflicts with a new one (same index, another term) is deleted with everything that follows."""
    node = Node([1, 2, 2, 2], term=2)
    assert node.append(3, 3, 2, 1, 3) == ["to 3: have up to 3 in term 3"]
    assert node.terms == [1, 3]


def test_what_agrees_is_kept_when_an_old_message_comes_again() -> None:
    """5.3 with figure 2: only a conflict deletes; entries that are there already are left alone with what follows them."""
    node = Node([1, 1, 1])
    node.append(2, 1, 1, 0, 1)
    node.append(2, 1, 1, 0)
    assert node.terms == [1, 1, 1]


def test_the_leader_goes_back_until_the_logs_agree() -> None:
    """5.3: after a refusal the leader tries again further back, and then brings the follower's log up to its own."""
    node = Node([1, 1, 1]).lead()
    assert node.hear(2, "next_node_idx", term=2, next_node_idx=3, reset=True, success=False) == [
        "to 2: append term 2 after 2/1: 3/1 4/1 5/2",
        "to 3: append term 2 after 5/2:",
    ]


def test_an_entry_is_committed_when_a_majority_has_it_on_disk() -> None:
    """5.3: an entry of the leader's term is committed once a majority of the servers has stored it."""
    node = Node(size=5).lead()
    node.raft.propose(b"\x01x")
    node.sync()
    node.tick()
    node.acknowledged(2, 3)
    assert node.raft.commit_index == 1
    node.acknowledged(3, 3)
    assert node.raft.commit_index == 3


def test_the_leader_counts_itself_only_for_what_it_has_synced() -> None:
    """5.3 and 10.2.1 of the thesis: the leader may send before it has written, if it counts itself only afterwards."""
    node = Node().lead()
    node.acknowledged(2, 2)
    node.raft.propose(b"\x01x")
    assert node.tick() == ["to 2: append term 2 after 2/2: 3/2", "to 3: append term 2 after 2/2: 3/2"]
    node.acknowledged(2, 3)
    assert node.raft.commit_index == 2, "its own copy is not on disk"
    node.sync()
    node.tick()
    assert node.raft.commit_index == 3


def test_followers_learn_what_is_committed_up_to_what_they_have_verified() -> None:
    """5.3 with figure 2: the commit index of a follower is the leader's, but never beyond the last entry just verified."""
    node = Node()
    node.append(2, 1, 1, 0, 1, 1, 1, commit=3)
    assert node.raft.commit_index == 3
    node.append(2, 1, 2, 1, commit=4)
    assert node.raft.commit_index == 3
    node.append(2, 1, 4, 1, commit=9)
    assert node.raft.commit_index == 4


def test_everything_is_applied_in_order_and_once() -> None:
    """5.3 with figure 2: committed entries are applied in the order of the log."""
    node = Node()
    node.append(2, 1, 1, 0, 1, 1, 1, commit=3)
    assert [index for _, index, _ in node.raft.take_committed()] == [2, 3]
    node.append(2, 1, 1, 0, 1, 1, 1, commit=4)
    assert [index for _, index, _ in node.raft.take_committed()] == [4]
    assert node.raft.take_committed() == []


# -- 5.4 safety -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("last", "last_term", "granted"),
    [(4, 2, True), (5, 2, True), (2, 3, True), (3, 2, False), (9, 1, False)],
    ids=["the same", "longer", "newer though shorter", "shorter", "older though longer"],
)
def test_only_a_candidate_with_as_complete_a_log_gets_the_vote(last: int, last_term: int, granted: bool) -> None:
    """5.4.1: a vote goes only to a log whose last term is newer, or the same with at least the same length."""
    assert Node([1, 2, 2], term=2).asked(2, 3, last, last_term) == (["to 2: my vote in term 3"] if granted else [])
    node = Node([1, 2, 2], term=2)
    said = node.hear(2, "pre_vote", term=3, last_log_index=last, last_log_term=last_term)
    assert said == [f"to 2: {'would' if granted else 'would not'} vote, my term is 2"]


def test_entries_of_earlier_terms_are_not_committed_by_counting() -> None:
    """5.4.2, figure 8: only an entry of the leader's own term is committed by counting; earlier ones come with it."""
    node = Node([1, 1])
    node.raft._stand()
    for peer in (2, 3):
        node.raft.receive(peer, {"type": "response_vote", "term": 2})
    node.tick()
    node.log.synced(3)
    node.acknowledged(2, 3)
    node.acknowledged(3, 3)
    assert node.raft.commit_index == 1, "everybody has 2 and 3, and a later leader could still replace them"
    node.sync()
    node.acknowledged(2, 4)
    assert node.raft.commit_index == 4


def test_figure_8() -> None:
    """5.4.2, figure 8: an entry on a majority, of an old term, may still be lost; one that was answered may not."""
    world = World(5, seed=8)
    first = world.elect()
    reached, *others = [n for n in world.running if n != first]
    for n in others:
        world.sever(first, n)
    lonely = world.decide(first, wait=60.0)
    world.turn(first)
    world.deliver_all(first, reached)
    world.turn(reached)
    world.crash(first)
    world.crash(reached)
    world.until(lambda: world.leader in others)
    leader = world.leader
    assert leader is not None
    stands = world.decide(leader, Verdict.ABORT, lonely)
    world.until(lambda: world.answer(stands) is not None)
    world.cut.clear()
    for n in (first, reached):
        world.start(n)
    world.until(lambda: world.settled(world.running))
    assert {world.replica(n).ledger.state(lonely) for n in world.running} == {State.ABORTED}


def test_a_committed_entry_is_never_contradicted() -> None:
    """5.4.3, state machine safety: a message that contradicts what is committed is proof of a bug, and stops the node."""
    node = Node()
    node.append(2, 1, 1, 0, 1, 1, commit=3)
    with pytest.raises(Halt, match="contradicts the committed entry 3"):
        node.append(3, 2, 2, 1, 2)
    assert node.terms == [1, 1]


# -- 5.5, 7, 8 --------------------------------------------------------------------------------------------------------


def test_requests_may_come_twice() -> None:
    """5.5: requests are idempotent, so that a repeated one does no harm."""
    node = Node()
    for _ in range(3):
        said = node.append(2, 1, 1, 0, 1, 1, commit=2)
        assert said in ([], ["to 2: have up to 3 in term 1"])
    assert (node.terms, node.raft.commit_index) == ([1, 1], 2)


def test_a_snapshot_stands_for_the_log_before_it() -> None:
    """7: a snapshot names its last entry by index and term, so that the consistency check of the next one still works."""
    node = Node([1, 1])
    node.raft.installed(9, 4)
    assert node.append(2, 5, 9, 3, 5) == ["to 2: do not have that, begin at 10 in term 5"]
    assert node.append(2, 5, 9, 4, 5) == ["to 2: have up to 10 in term 5"]
    assert (node.log.first_index, node.terms) == (9, [5])


def test_a_follower_behind_the_log_is_named_and_meanwhile_kept_quiet() -> None:
    """7: a leader that has discarded what a follower needs sends it a snapshot, and its heartbeats go on."""
    node = Node([1, 1, 1]).lead()
    node.log.deleteEntriesTo(2)
    said = node.hear(2, "next_node_idx", term=2, next_node_idx=2, reset=True, success=False)
    assert said == []
    assert node.tick(TIMING.heartbeat)[0] == "to 2: append term 2 after 3/1:"
    assert node.raft.behind == {2}


def test_a_new_leader_begins_with_an_entry_of_its_own() -> None:
    """8: a leader commits an empty entry at the start of its term, to learn what is committed."""
    node = Node([1]).lead()
    data, index, term = node.log[-1]
    assert (data, index, term) == (engine.NO_OP, 3, 2)


def test_a_read_waits_for_an_entry_of_its_own() -> None:
    """8: a leader that was deposed unnoticed must not answer a read; a barrier goes through the log."""
    world = World(3, seed=8)
    deposed = world.elect()
    world.isolate(deposed)
    stale = world.barrier(deposed, wait=60.0)
    world.until(lambda: world.leader not in (None, deposed))
    leader = world.leader
    assert leader is not None
    txid = world.decide(leader)
    world.until(lambda: world.answer(txid) is not None)
    assert stale.answer is None
    world.heal()
    world.until(lambda: stale.answer is not None)
    assert world.replica(deposed).ledger.state(txid) is State.COMMITTED
