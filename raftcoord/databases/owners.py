"""Whose a table of marks is: rows in it that name the cluster and the resource, so that a connection can be told from another.

    is.<cluster>.<resource>

Theory of operation. A branch that is prepared in another database than its name says is looked for in the wrong place after a
crash: it stays prepared for ever, and is taken for damage where it should have been. So the table says which resource it is
of, and a program that begins a branch looks. ``raftcoord resource init`` and the resolver write the name, because they know
the url of cluster.yaml; a program never does. Two clusters, and two resources with one url, may share a table: it then has
both names. A table from before has no name until the resolver has looked, and is taken on trust until then.

Owed: such a row sorts apart from all marks, and is never deleted with them.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from raftcoord.databases.gid import Gid
from raftcoord.databases.steps import NotPossible, NotSetUp
from raftcoord.errors import LocalProtocolError
from raftcoord.types import checked_branch, checked_cluster_id

_PREFIX: Final = "is."
FIRST: Final = _PREFIX
LAST: Final = "is/"
"""What names an owner is at or after FIRST and before LAST, in the order of ASCII."""
SINCE: Final = "since"
"""A row that is written into an empty table: what is older than it cannot be expected there."""


class Marks(enum.IntEnum):
    """What a connection's table of marks is."""

    MISSING = 0
    UNNAMED = 1
    """There, and nobody has said yet whose."""
    NAMED = 2
    """Of the resource that the branch is of."""


class Owner(NamedTuple):
    """The resource ``name`` of ``cluster``."""

    cluster: str
    name: str

    def __str__(self) -> str:
        return f"{_PREFIX}{checked_cluster_id(self.cluster)}.{checked_branch(self.name)}"


def read(rows: Iterable[tuple[Any, ...]]) -> frozenset[Owner]:
    """The owners that the first column of ``rows`` names; what cannot be read names nobody."""
    found = []
    for text, *_ in rows:
        _, _, rest = str(text).partition(_PREFIX)
        cluster, _, name = rest.partition(".")
        try:
            found.append(Owner(checked_cluster_id(cluster), checked_branch(name)))
        except LocalProtocolError:
            continue
    return frozenset(found)


def quoted(gids: Iterable[Gid]) -> str:
    """``gids`` as SQL lists them: they are [a-z0-9.-] alone, in every database."""
    return ", ".join(f"'{gid}'" for gid in gids)


def check(owners: frozenset[Owner], gid: Gid) -> Marks:
    """Whether a branch ``gid`` may begin where the marks are of ``owners``. Raises NotPossible or NotSetUp."""
    ours = sorted(owner.name for owner in owners if owner.cluster == gid.cluster)
    if gid.branch in ours:
        return Marks.NAMED
    if ours:
        raise NotPossible(
            f"the connection leads to the database of resource {ours[0]!r}, and was enlisted as {gid.branch!r}; enlist it as "
            f"{ours[0]!r}, or connect to the database of {gid.branch!r}. If one database is both, the urls of both in "
            f"cluster.yaml say so, and raftcoord resource init {gid.branch} writes it down"
        )
    if owners:
        raise NotSetUp(
            f"the connection leads to a database of another cluster ({min(owners).cluster}), and not to resource {gid.branch!r} "
            f"of cluster {gid.cluster}; connect to that one. If it is both, run: raftcoord resource init {gid.branch}"
        )
    return Marks.UNNAMED
