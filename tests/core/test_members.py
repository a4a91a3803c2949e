"""The set of members: its steps, and what is no step."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from raftcoord import limits
from raftcoord.core.tables.members import (
    Member,
    Members,
    decode,
    described,
    encode,
    follows,
    founded,
    from_list,
    to_list,
)
from raftcoord.errors import ConfigError, LocalProtocolError
from raftcoord.types import NodeName


def name(number: int) -> NodeName:
    return NodeName(f"n{number}")


def data(number: int) -> str:
    return f"{number:032x}"


def of(count: int) -> Members:
    return founded({name(n): (n, data(n), f"h{n}:1", f"h{n}:2") for n in range(1, count + 1)}).confirmed()


@pytest.mark.parametrize("count", [0, 2, 4, 6, 8])
def test_a_cluster_is_founded_with_one_of_four_numbers(count: int) -> None:
    with pytest.raises(ConfigError, match=f"cannot be founded with {count} nodes"):
        of(count)


def test_an_id_is_never_given_again() -> None:
    three = of(3)
    assert (three.voters, three.next_id) == ({1, 2, 3}, 4)
    four = three.added(name(4), data(4), "", "").removed(name(4)).added(name(4), data(5), "", "")
    assert [member.id for member in four.members] == [1, 2, 3, 5]
    replaced = three.replaced(name(2), data(9), "", "")
    assert (replaced.named("n2"), replaced.voters) == (Member(4, name(2), data(9), False, "", ""), {1, 3})


def test_each_step_follows_and_two_at_once_do_not() -> None:
    three = of(3)
    added = three.added(name(4), data(4), "", "")
    steps = [
        (three, three.confirmed()),
        (three, added),
        (added, added.promoted()),
        (added, added.removed(name(4))),
        (three, three.removed(name(3))),
        (three, three.replaced(name(3), data(4), "", "")),
    ]
    for before, after in steps:
        assert follows(before, after)
        assert not follows(after, before)
        assert not follows(before, after.confirmed()), "an epoch is left out"
    two_less = three.removed(name(3)).removed(name(2))._replace(epoch=three.epoch + 1)
    assert not follows(three, two_less)
    assert not follows(three, added.promoted()._replace(epoch=three.epoch + 1)), "a new voter that never caught up"
    assert not follows(three, three._replace(epoch=three.epoch + 1, next_id=9))
    demoted = tuple(m._replace(voter=m.id != 3) for m in three.members)
    assert not follows(three, three._replace(epoch=three.epoch + 1, members=demoted))


def test_what_makes_no_sense_is_no_step() -> None:
    three = of(3)
    four = three.added(name(4), data(4), "", "")
    for step, why in (
        (lambda: three.added(name(3), data(4), "", ""), "n3 is a member already"),
        (lambda: three.added(name(4), data(3), "", ""), "belongs to another member"),
        (lambda: four.added(name(5), data(5), "", ""), "n4 is still catching up"),
        (lambda: three.removed(name(9)), "n9 is not a member; the members are n1, n2, n3"),
        (lambda: of(1).removed(name(1)), "the only voter"),
        (lambda: three.promoted(), "no learner"),
        (lambda: of(7).added(name(8), data(8), "", ""), "7 is the most"),
    ):
        with pytest.raises(LocalProtocolError, match=why):
            step()


def test_earlier_names_are_remembered_up_to_a_bound() -> None:
    members = of(3)
    for number in range(limits.MEMBERS_PAST_MAX):
        members = members.added(name(4), data(10 + number), "", "").removed(name(4))
    assert members.past[-1] == (*of(3).names, name(4))
    assert len(members.past) == limits.MEMBERS_PAST_MAX
    assert of(3).replaced(name(3), data(9), "", "").past == (), "the names are the same"


def test_the_codec_gives_back_what_it_was_given() -> None:
    members = of(3).added(name(4), data(4), "h4:1", "h4:2")
    assert decode(encode(members)) == from_list(to_list(members)) == members
    assert described(members) == "n1, n2, n3, n4 (learner)"


def _with(at: int, value: Any) -> list[Any]:
    lists = to_list(of(3))
    lists[at] = value
    return lists


ROWS = to_list(of(3))[3]


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        _with(0, 2),
        _with(1, 0),
        _with(1, limits.MEMBERS_NUMBER_MAX + 1),
        _with(2, 3),
        _with(3, []),
        _with(3, [*ROWS, ROWS[0]]),
        _with(3, [[*row[:3], False, *row[4:]] for row in ROWS]),
        _with(3, [["1", *row[1:]] for row in ROWS]),
        _with(3, [[row[0], "N 1", *row[2:]] for row in ROWS]),
        _with(3, [[*row[:2], "xyz", *row[3:]] for row in ROWS]),
        _with(3, [[*row[:4], "h" * (limits.ADDRESS_LENGTH_MAX + 1), row[5]] for row in ROWS]),
        _with(4, [["n1"]] * (limits.MEMBERS_PAST_MAX + 1)),
        _with(4, [["N 1"]]),
    ],
)
def test_what_no_release_writes_is_no_set(value: Any) -> None:
    assert from_list(value) is None
    assert decode(msgpack.packb(value)) is None


def test_what_is_no_messagepack_is_no_set() -> None:
    assert decode(b"\xc1") is None
