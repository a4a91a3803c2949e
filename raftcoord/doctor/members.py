"""Who the members are, held against cluster.yaml and against each other's view. Judges; asks nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from raftcoord.api.answers import NodeStatus
from raftcoord.doctor.findings import Row, Severity

SUBJECT: Final = "cluster"
CHECK: Final = "members"


def judge(answering: Mapping[str, NodeStatus], file: tuple[str, ...], leader: str | None) -> Iterator[Row]:
    """The rows that follow from what the nodes said. ``file``: the nodes that cluster.yaml names."""
    if leader is None or not answering[leader].get("members"):
        return
    epoch, members = answering[leader]["epoch"], answering[leader]["members"]
    names = sorted(member["name"] for member in members)
    voters = [member["name"] for member in members if member["voter"]]
    for learner in sorted(set(names) - set(voters)):
        mend = f"wait; if it does not come: raftcoord node logs {learner}, or raftcoord node remove {learner}"
        yield Row(SUBJECT, CHECK, Severity.WARNING, f"node {learner} is catching up and does not vote yet", mend)
    for name in sorted(set(file) - set(names)):
        mend = f"take it in with raftcoord node add {name}, or take it out of cluster.yaml"
        yield Row(SUBJECT, CHECK, Severity.WARNING, f"cluster.yaml names {name}, which is no member", mend)
    for name in sorted(set(names) - set(file)):
        mend = f"write it into cluster.yaml, or take it out with raftcoord node remove {name}"
        yield Row(SUBJECT, CHECK, Severity.WARNING, f"node {name} is a member, and cluster.yaml does not name it", mend)
    if len(voters) % 2 == 0:
        mend = "go on to an odd number with raftcoord node add or raftcoord node remove"
        what = f"{len(voters)} voters survive no more losses than {len(voters) - 1}"
        yield Row(SUBJECT, CHECK, Severity.WARNING, what, mend)
    if names == sorted(file) == sorted(voters) and len(voters) % 2:
        yield Row(SUBJECT, CHECK, Severity.OK, f"epoch {epoch}: {', '.join(names)}")
