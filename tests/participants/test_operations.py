"""The SQLite participant's payload: what is understood, what is refused, and with which words."""

from typing import Any

import pytest

from raftcoord import limits
from raftcoord.participants.operations import AMOUNT_MAX, AMOUNT_MIN, PayloadRefused, evaluate, parse

ACCOUNTS = {"alice": 100, "bob": 0}


def run(*operations: Any) -> dict[str, int | None]:
    return evaluate(parse(list(operations)), ACCOUNTS.get)


def refusal_of(*operations: Any) -> str:
    with pytest.raises(PayloadRefused) as caught:
        run(*operations)
    return str(caught.value)


def add(key: str, amount: object, **more: object) -> dict[str, object]:
    return {"op": "add", "key": key, "amount": amount, **more}


def put(key: object, amount: object) -> dict[str, object]:
    return {"op": "set", "key": key, "amount": amount}


def expect(key: str, amount: object) -> dict[str, object]:
    return {"op": "expect", "key": key, "amount": amount}


DELETE_ALICE = {"op": "delete", "key": "alice"}


def test_add_may_reach_its_minimum_and_not_pass_it() -> None:
    assert run(add("alice", -100, min=0)) == {"alice": 0}
    assert (
        refusal_of(add("alice", -101, min=0)) == "account 'alice' has 100: adding -101 would leave -1, the minimum is 0"
    )


def test_without_a_minimum_an_account_may_be_overdrawn() -> None:
    assert run(add("alice", -101)) == {"alice": -1}


def test_only_set_creates_an_account() -> None:
    assert run(put("carol", 5)) == {"carol": 5}
    assert refusal_of(add("carol", 5)) == "account 'carol' does not exist: only set creates an account (add was asked)"
    assert refusal_of({"op": "delete", "key": "carol"}).startswith("account 'carol' does not exist: only set")


def test_operations_on_one_key_see_those_before_them() -> None:
    assert run(add("alice", 1), add("alice", 2), expect("alice", 103)) == {"alice": 103}
    assert run(put("carol", 1), add("carol", 2)) == {"carol": 3}
    assert run(DELETE_ALICE, expect("alice", None)) == {"alice": None}
    assert run(DELETE_ALICE, put("alice", 7)) == {"alice": 7}
    assert "does not exist" in refusal_of(DELETE_ALICE, add("alice", 1))
    assert "would leave -1" in refusal_of(add("alice", -100, min=0), add("alice", -1, min=0))


def test_a_minimum_holds_at_its_own_operation_and_not_later() -> None:
    assert run(add("alice", -100, min=0), add("alice", -1)) == {"alice": -1}


def test_a_violated_expectation_names_the_account_and_both_amounts() -> None:
    assert refusal_of(expect("alice", 99)) == "account 'alice' has 100, 99 was expected"
    assert refusal_of(expect("carol", 5)) == "account 'carol' does not exist, 5 was expected"
    assert refusal_of(expect("alice", None)) == "account 'alice' has 100, should not exist"


def test_nothing_but_expectations_writes_nothing() -> None:
    assert run(expect("alice", 100), expect("carol", None)) == {}


@pytest.mark.parametrize("amount", [True, False, 1.0, 0.5, "5", None, [], float("nan")])
def test_an_amount_that_is_not_an_integer_is_refused(amount: object) -> None:
    assert "write whole cents" in refusal_of(add("alice", amount))
    assert "write whole cents" in refusal_of(add("alice", 1, min=amount))
    if amount is not None:
        assert "write whole cents" in refusal_of(expect("alice", amount))


def test_amounts_go_to_the_64_bit_bounds_and_not_past_them() -> None:
    assert run(put("x", AMOUNT_MAX), put("y", AMOUNT_MIN)) == {"x": AMOUNT_MAX, "y": AMOUNT_MIN}
    assert "is outside" in refusal_of(put("x", AMOUNT_MAX + 1))
    assert "is outside" in refusal_of(put("x", AMOUNT_MIN - 1))


def test_a_sum_goes_to_the_64_bit_bounds_and_not_past_them() -> None:
    assert run(add("alice", AMOUNT_MAX - 100)) == {"alice": AMOUNT_MAX}
    assert "exceeds" in refusal_of(add("alice", AMOUNT_MAX - 99))
    assert run(add("bob", AMOUNT_MIN)) == {"bob": AMOUNT_MIN}
    assert "exceeds" in refusal_of(add("bob", AMOUNT_MIN), add("bob", -1))


@pytest.mark.parametrize("payload", [None, 5, "add", b"add", {}, {"op": "add"}, True])
def test_a_payload_that_is_not_a_list_is_refused_with_an_example(payload: object) -> None:
    with pytest.raises(PayloadRefused, match=r"must be a list of operations such as \[\{"):
        parse(payload)


def test_an_empty_payload_is_refused() -> None:
    with pytest.raises(PayloadRefused, match="leave this participant out"):
        parse([])


@pytest.mark.parametrize(
    ("operation", "words"),
    [
        ("add", "operation 1 must be a map"),
        ({}, "the key 'op' is missing: use one of add, set, delete, expect"),
        ({"op": "move", "key": "alice"}, "unknown op 'move': use one of add"),
        ({"op": ["add"]}, "unknown op ['add']"),
        ({"op": "add", "key": "alice"}, "operation 1 (add): the key 'amount' is missing"),
        ({"op": "add", "amount": 1}, "operation 1 (add): the key 'key' is missing"),
        ({"op": "expect", "key": "alice"}, "operation 1 (expect): the key 'amount' is missing"),
        ({"op": "delete", "key": "a", "amount": 1}, "unknown key 'amount': delete takes key, op"),
        ({"op": "add", "key": "a", "amount": 1, "mni": 0}, "unknown key 'mni': add takes amount, key, min, op"),
        ({"op": "set", "key": "a", "amount": 1, "min": 0}, "unknown key 'min': set takes amount, key, op"),
        ({"op": "set", "key": 7, "amount": 1}, "7 is not an account key"),
        ({"op": "set", "key": "", "amount": 1}, "'' is not an account key"),
        ({"op": "set", "key": "a\nb", "amount": 1}, "is not an account key"),
        ({"op": "set", "key": "\ud800", "amount": 1}, "is not an account key"),
    ],
)
def test_a_malformed_operation_is_refused_with_what_is_wrong(operation: object, words: str) -> None:
    assert words in refusal_of(operation)


def test_a_key_has_its_greatest_length_and_not_one_more() -> None:
    longest = "k" * limits.ACCOUNT_KEY_LENGTH_MAX
    assert run(put(longest, 1)) == {longest: 1}
    assert "is not an account key" in refusal_of(put(longest + "k", 1))


def test_a_payload_has_its_greatest_length_and_not_one_more() -> None:
    most = [add("alice", 1)] * limits.OPERATIONS_MAX
    assert run(*most) == {"alice": 100 + limits.OPERATIONS_MAX}
    assert f"at most {limits.OPERATIONS_MAX}" in refusal_of(*most, add("alice", 1))
