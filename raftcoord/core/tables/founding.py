"""The cluster's own id, and the identities that an older release took in before members were a table of the ledger."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple, Self

from raftcoord import limits
from raftcoord.core.tables.table import (
    CHANGED,
    UNCHANGED,
    CommandKind,
    Done,
    Part,
    Table,
    TableChange,
    TableField,
    Tables,
)
from raftcoord.errors import check
from raftcoord.types import is_identity


class Found(NamedTuple):
    """Give the cluster its id (16 hex digits). The first one wins."""

    cluster: str

    def excess(self, horizon_ms_max: int) -> str:
        """See Command."""
        return ""

    @classmethod
    def read(cls, row: tuple[Any, ...]) -> Self | None:
        """See Command."""
        match row:
            case (_, str(cluster)):
                return cls(cluster)
        return None


class Enroll(NamedTuple):
    """From now on node ``name`` is the one with this ``identity`` (32 hex digits), in place of any other. The last one wins."""

    name: str
    identity: str

    def excess(self, horizon_ms_max: int) -> str:
        """See Command."""
        return ""

    @classmethod
    def read(cls, row: tuple[Any, ...]) -> Self | None:
        """See Command."""
        match row:
            case (_, str(name), str(identity)) if len(name) <= limits.NAME_LENGTH_MAX and is_identity(identity):
                return cls(name, identity)
        return None


class Founding(Table):
    """``cluster``: its id, "" before it is founded; ``enrolled``: node name -> identity."""

    name = "founding"
    fields: ClassVar[dict[str, TableField]] = {"cluster": TableField(""), "enrolled": TableField({})}

    def __init__(self, ledger: Tables, stored: Part) -> None:
        super().__init__(ledger, stored)
        self.cluster: str = stored.fields.get("cluster", "")
        self.enrolled: Mapping[str, str] = dict(stored.fields.get("enrolled", {}))

    def _found(self, command: Found, term: int, index: int) -> Done:
        if self.cluster:
            return UNCHANGED
        self.cluster = self.pending.fields["cluster"] = command.cluster
        return CHANGED

    def _enroll(self, command: Enroll, term: int, index: int) -> Done:
        full = len(self.enrolled) >= max(limits.NODES_ALLOWED) and command.name not in self.enrolled
        if full or self.enrolled.get(command.name) == command.identity:
            return UNCHANGED
        self.enrolled = self.pending.fields["enrolled"] = {**self.enrolled, command.name: command.identity}
        return CHANGED

    @classmethod
    def check_change(cls, before: Mapping[str, Any], change: TableChange) -> None:
        """A cluster keeps its id."""
        old = before["cluster"]
        new = change.fields.get("cluster", old)
        check(old in ("", new), f"the cluster's id would change from {old} to {new}")

    commands: ClassVar[dict[int, CommandKind]] = {4: CommandKind(Found, _found), 7: CommandKind(Enroll, _enroll)}
