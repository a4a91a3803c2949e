"""Locks: one owner per key, in order of arrival, without a deadlock."""

from hypothesis import given
from hypothesis import strategies as st

from raftcoord.participants.locks import Locks
from raftcoord.types import TxId

T = [TxId.new(1_000_000 + i) for i in range(9)]


def test_the_first_to_ask_owns_the_key_until_it_releases_it() -> None:
    locks = Locks()
    assert locks.ask(T[0], ["a"])
    assert not locks.ask(T[1], ["a"])
    assert locks.owner("a") == T[0]
    assert locks.blocker(T[1]) == ("a", T[0])
    assert locks.release(T[0]) == [T[1]]
    assert locks.owner("a") == T[1]
    assert locks.release(T[1]) == []
    assert locks.owner("a") is None


def test_a_key_that_is_named_twice_is_locked_once() -> None:
    locks = Locks()
    assert locks.ask(T[0], ["a", "a"])
    assert locks.release(T[0]) == []
    assert locks.ask(T[1], ["a"])


def test_those_who_wait_get_their_turn_in_the_order_of_arrival() -> None:
    locks = Locks()
    for txid in T[:4]:
        locks.ask(txid, ["a"])
    assert [locks.release(txid) for txid in T[:4]] == [[T[1]], [T[2]], [T[3]], []]


def test_a_waiter_holds_back_a_later_one_also_on_a_key_that_is_free() -> None:
    locks = Locks()
    locks.ask(T[0], ["a"])
    assert not locks.ask(T[1], ["a", "b"])
    assert not locks.ask(T[2], ["b"])
    assert locks.release(T[0]) == [T[1]]
    assert locks.release(T[1]) == [T[2]]


def test_one_release_can_let_several_go() -> None:
    locks = Locks()
    locks.ask(T[0], ["a", "b"])
    locks.ask(T[1], ["a"])
    locks.ask(T[2], ["b"])
    assert locks.release(T[0]) == [T[1], T[2]]


def test_a_waiter_that_gives_up_makes_way() -> None:
    locks = Locks()
    locks.ask(T[0], ["a"])
    locks.ask(T[1], ["a", "b"])
    locks.ask(T[2], ["b"])
    assert locks.release(T[1]) == [T[2]]
    assert locks.release(T[0]) == []


def test_waiting_for_a_younger_one_is_seen_also_through_the_queue() -> None:
    locks = Locks()
    locks.ask(T[0], ["a"])
    locks.ask(T[5], ["a"])
    locks.ask(T[3], ["a"])
    locks.ask(T[6], ["a"])
    assert not locks.waits_for_younger(T[5])
    assert locks.waits_for_younger(T[3])
    assert not locks.waits_for_younger(T[6])


@given(st.lists(st.tuples(st.integers(0, 8), st.sets(st.sampled_from("abcd"), min_size=1)), max_size=40))
def test_whoever_holds_its_locks_is_at_the_head_of_every_queue_and_all_get_their_turn(
    steps: list[tuple[int, set[str]]],
) -> None:
    locks = Locks()
    holding: dict[TxId, set[str]] = {}
    waiting: dict[TxId, set[str]] = {}

    def settle(granted: list[TxId]) -> None:
        for txid in granted:
            holding[txid] = waiting.pop(txid)

    for number, keys in steps:
        txid = T[number]
        if txid in locks:
            holding.pop(txid, None)
            waiting.pop(txid, None)
            settle(locks.release(txid))
        elif locks.ask(txid, sorted(keys)):
            holding[txid] = keys
        else:
            waiting[txid] = keys
        taken = [key for keys in holding.values() for key in keys]
        assert len(taken) == len(set(taken))
        for holder, its_keys in holding.items():
            assert all(locks.owner(key) == holder for key in its_keys)
        for waiter in waiting:
            assert locks.blocker(waiter)[1] != waiter
    while holding:
        txid = next(iter(holding))
        del holding[txid]
        settle(locks.release(txid))
    assert not waiting
