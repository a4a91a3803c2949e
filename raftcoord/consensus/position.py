"""Where a node is in its group, as a value: what ``raftcoord status`` shows of it."""

from __future__ import annotations

from typing import NamedTuple

from raftcoord.types import NodeName


class Position(NamedTuple):
    """``role``: leader, follower or candidate; or one that does not vote: waiting, learner, removed (identity.py).

    ``leader``: to whom a proposal could be handed now, or None. ``commit_index``, ``applied_index``: known to be committed, and
    applied, up to here; ``log_first``, ``log_last``: of the log that is kept here, committed or not.
    """

    role: str
    leader: NodeName | None
    term: int
    commit_index: int
    applied_index: int
    log_first: int
    log_last: int
