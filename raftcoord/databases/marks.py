"""The table of marks, as every database has it: what was committed there, in the order of the gids, which is that of time.

Theory of operation. A mark is a row of a branch's own transaction, with the branch's gid: it is there if and only if that was
committed. Rows that are no gids say whose the table is (owners.py) and since when it counts (``owners.SINCE``).

Never: an answer where there is no table; that is Effect.UNKNOWN, or nothing.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Final

from raftcoord.databases import gid as gids
from raftcoord.databases import owners
from raftcoord.databases.gid import Gid
from raftcoord.databases.owners import Owner
from raftcoord.databases.steps import Effect, Result, SqlError, Statement, Steps
from raftcoord.types import TxId, checked_cluster_id, first_txid_of

NAMING: Final = f"gid >= '{owners.FIRST}' AND gid < '{owners.LAST}'"
"""What is true of the rows that name an owner."""


class Marked(abc.ABC):
    """What the Dialects share. ``marks``: the table; ``marked_ms``: SQL for when a row of it was written (ms since the epoch)."""

    marks: str
    marked_ms: str

    @abc.abstractmethod
    def is_without_marks(self, error: SqlError) -> Steps[bool]:
        """Whether a statement was refused because there is no table of marks."""

    @abc.abstractmethod
    def is_prepared(self, gid: Gid) -> Steps[bool]:
        """Whether the branch is listed as prepared, in this database."""

    def proof(self, gid: Gid) -> Steps[Effect]:
        """The list first: a branch that is committed between the two looks is then marked."""
        if (yield from self.is_prepared(gid)):
            return Effect.PREPARED
        found = yield from self._found(f"SELECT 1 FROM {self.marks} WHERE gid = '{gid}'")
        if found is None:
            return Effect.UNKNOWN
        return Effect.COMMITTED if found.rows else Effect.ABSENT

    def marked(self, gids: Sequence[Gid]) -> Steps[frozenset[str]]:
        found = yield from self._found(f"SELECT gid FROM {self.marks} WHERE gid IN ({owners.quoted(gids)})")
        return frozenset() if found is None else frozenset(str(gid) for (gid,) in found.rows)

    def owners(self) -> Steps[frozenset[Owner] | None]:
        found = yield from self._found(f"SELECT gid FROM {self.marks} WHERE {NAMING}")
        return None if found is None else owners.read(found.rows)

    def covers(self, gid: Gid) -> Steps[bool]:
        older = f"gid >= '{_head(gid.cluster)}' AND gid < '{gid}'"
        made = f"(gid = '{owners.SINCE}' OR {NAMING}) AND {self.marked_ms} < {gid.txid.ms + 1}"
        found = yield Statement(
            f"SELECT EXISTS (SELECT 1 FROM {self.marks} WHERE {older}) OR EXISTS (SELECT 1 FROM {self.marks} WHERE {made})",
            reads=True,
            outside=True,
        )
        return bool(found.rows[0][0])

    def forget_marks(self, cluster: str, before: TxId) -> Steps[int]:
        head = _head(cluster)
        gone = yield Statement(
            f"DELETE FROM {self.marks} WHERE gid >= '{head}' AND gid < '{head}{first_txid_of(before.ms).hex()}'",
            outside=True,
        )
        return gone.touched

    def _found(self, sql: str) -> Steps[Result | None]:
        """What ``sql`` finds in the table; None: there is none."""
        try:
            return (yield Statement(sql, reads=True, outside=True))
        except SqlError as error:
            if (yield from self.is_without_marks(error)):
                return None
            raise


def _head(cluster: str) -> str:
    """What the gids of ``cluster`` begin with."""
    return f"{gids.PREFIX}{checked_cluster_id(cluster)}."
