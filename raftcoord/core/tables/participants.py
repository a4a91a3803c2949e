"""Which durable state goes by the name of a participant."""

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
    Rows,
    Table,
    Tables,
    beyond,
    keyed_records,
)
from raftcoord.types import is_identity


class Binding(NamedTuple):
    """Which durable state goes by the name of a participant: the ``identity`` (32 hex digits) that the state carries.

    ``who`` bound it at ``at_ms``: an operator who replaced the identity ``before``, or "" for the first admission.
    """

    name: str
    identity: str
    who: str
    at_ms: int
    before: str


class Bind(NamedTuple):
    """From now on participant ``name`` is the one whose state has this ``identity``, if it was ``before`` until now.

    Identities are 32 hex digits. ``before`` "": nobody is bound yet (the first admission, ``who`` ""). ``identity`` "": forget
    the name. ``who``: the operator who replaces or forgets. One that finds another identity than ``before`` changes nothing.
    """

    name: str
    identity: str
    before: str
    who: str
    at_ms: int

    def excess(self, horizon_ms_max: int) -> str:
        """See Command."""
        return "" if 0 <= self.at_ms <= limits.TIME_MS_MAX else beyond(self)

    @classmethod
    def read(cls, row: tuple[Any, ...]) -> Self | None:
        """See Command."""
        match row:
            case (_, str(name), str(identity), str(before), str(who), int(at_ms)) if (
                len(name) <= limits.NAME_LENGTH_MAX
                and len(who) <= limits.WHO_LENGTH_MAX
                and type(at_ms) is int
                and all(not one or is_identity(one) for one in (identity, before))
            ):
                return cls(name, identity, before, who, at_ms)
        return None


class Participants(Table):
    """The participants whose state is known."""

    name = "participants"
    rows: ClassVar[Rows] = keyed_records(
        name,
        ("name",),
        key=lambda name: (name.encode(),),
        write=lambda binding: ((binding.name.encode(),), binding[1:]),
        read=lambda name, fields: Binding(name.decode(), *fields),
        called=lambda name, *_: f"the identity of participant {name!r}",
        since=2,
    )

    def __init__(self, ledger: Tables, stored: Part) -> None:
        super().__init__(ledger, stored)
        self.by_name: Mapping[str, Binding] = {binding.name: binding for binding in stored.rows}
        """A change gives another object."""

    def _bind(self, command: Bind, term: int, index: int) -> Done:
        name, identity, before, who, at_ms = command
        known = self.by_name.get(name)
        now = known.identity if known else ""
        full = known is None and len(self.by_name) >= limits.PARTICIPANTS_MAX
        if now == identity or now != before or full:
            return UNCHANGED
        self.by_name = {other: binding for other, binding in self.by_name.items() if other != name}
        if identity:
            made = self.pending.puts[name] = Binding(name, identity, who, at_ms, before)
            self.by_name = {**self.by_name, name: made}
        else:
            self.pending.puts.pop(name, None)
            self.pending.deletes[name] = None
        return CHANGED

    commands: ClassVar[dict[int, CommandKind]] = {9: CommandKind(Bind, _bind)}
