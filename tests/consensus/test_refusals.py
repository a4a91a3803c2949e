"""How a leader finds where a follower's log agrees with its own, when messages in flight are refused one by one."""

from __future__ import annotations

from typing import Any

from test_hazards import a_node
from world import TIMING, Clocked


def a_leader(*terms: int, term: int) -> Clocked:
    """The leader of three in ``term`` whose log has an entry of each of these terms, from index 2 on."""
    node = a_node(*[(b"\x00x", index, at) for index, at in enumerate(terms, 2)], term=term - 1)
    node.connected(2)
    node._stand()
    node.receive(2, {"type": "response_vote", "term": term})
    assert node.is_leader
    node.tick()
    node.take_messages()
    return node


def refusal(following: int, term: int) -> dict[str, Any]:
    return {"type": "next_node_idx", "term": term, "next_node_idx": following, "reset": True, "success": False}


def sent_to(node: Clocked, peer: int) -> list[int]:
    """The index before each piece of the log that goes to that peer now."""
    node.tick()
    return [message["prevLogIdx"] for to, message in node.take_messages() if to == peer]


def test_a_later_refusal_of_what_was_in_flight_does_not_undo_the_first() -> None:
    """Found by the simulator: each round ended where it had begun, and the follower never caught up."""
    leader = a_leader(1, 1, 1, 1, term=3)
    for following in (
        3,
        5,
        5,
        5,
    ):  # the first is refused for a conflict, those behind it because they have nothing before them
        leader.receive(2, refusal(following, 3))
    assert min(sent_to(leader, 2)) == 2


def test_a_refusal_never_takes_a_leader_forward() -> None:
    """Found by the simulator: to and fro for ever at the one point where only a copy of the ledger helps."""
    leader = a_leader(1, 1, 1, 1, term=3)
    leader.log.deleteEntriesTo(2)
    first = leader.log.first_index
    for following in (first, first + 1, first + 1):
        leader.receive(2, refusal(following, 3))
    leader.now += TIMING.heartbeat
    assert sent_to(leader, 2) == [first]
    assert leader.behind == {2}


def test_a_follower_that_installed_a_copy_takes_the_leader_on_from_there() -> None:
    follower = a_node((b"\x00x", 2, 1), term=3)
    follower.connected(2)
    follower.installed(9, 1)
    before_the_copy = {"prevLogIdx": 4, "prevLogTerm": 1, "commit_index": 9, "entries": []}
    follower.receive(2, {"type": "append_entries", "term": 3, **before_the_copy})
    ((_, answer),) = follower.take_messages()
    assert (answer["success"], answer["reset"], answer["next_node_idx"]) == (True, False, 10)
