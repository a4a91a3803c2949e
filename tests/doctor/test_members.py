"""The members against cluster.yaml."""

from __future__ import annotations

from typing import Any

import pytest

from raftcoord.doctor.findings import Severity
from raftcoord.doctor.members import judge


def said(*names: str, learner: str = "") -> dict[str, dict[str, Any]]:
    """What n1, the leader, says."""
    members = [{"name": name, "voter": True} for name in names]
    return {"n1": {"epoch": 4, "members": members + ([{"name": learner, "voter": False}] if learner else [])}}


def test_members_that_are_those_of_the_file_are_fine() -> None:
    (row,) = judge(said("n1", "n2", "n3"), ("n3", "n1", "n2"), "n1")
    assert (row.verdict, row.what) == (Severity.OK, "epoch 4: n1, n2, n3")


def test_without_a_leader_nothing_is_said_of_members() -> None:
    assert list(judge({}, ("n1",), None)) == []


@pytest.mark.parametrize(
    ("info", "file", "what", "way"),
    [
        (said("n1", "n2", "n3"), ("n1", "n2", "n3", "n4"), "cluster.yaml names n4, which is no member", "node add n4"),
        (said("n1", "n2", "n3"), ("n1", "n2"), "n3 is a member, and cluster.yaml does not name it", "node remove n3"),
        (said("n1", "n2", "n3", learner="n4"), ("n1", "n2", "n3", "n4"), "n4 is catching up", "node logs n4"),
        (
            said("n1", "n2", "n3", "n4"),
            ("n1", "n2", "n3", "n4"),
            "4 voters survive no more losses than 3",
            "odd number",
        ),
    ],
)
def test_what_differs_is_a_warning_with_the_way_out(info: Any, file: tuple[str, ...], what: str, way: str) -> None:
    (row,) = judge(info, file, "n1")
    assert row.verdict is Severity.WARNING
    assert what in row.what
    assert way in row.mend
