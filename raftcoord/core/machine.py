"""The ledger as a state machine: tables, which the same commands change in the same way on every node.

``apply`` is total: it never raises for any decoded command (hazard H9). What it changed is taken by ``take_changes`` and must be
stored in one commit with the applied index. What a command does, what of it is stored, and how it is copied: its table says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MethodType
from typing import Final, TypeVar, cast

from raftcoord.core.tables import TABLES
from raftcoord.core.tables.damages import Damage, Damages
from raftcoord.core.tables.decisions import Decision, Decisions, Result
from raftcoord.core.tables.founding import Founding
from raftcoord.core.tables.horizon import Horizon
from raftcoord.core.tables.members import ClusterMembers, Members
from raftcoord.core.tables.participants import Binding, Participants
from raftcoord.core.tables.table import EMPTY, Changes, Command, Part, Table
from raftcoord.errors import broken
from raftcoord.types import State, TxId

T = TypeVar("T", bound=Table)

_NOTHING: Final[Mapping[str, Part]] = {}


class Ledger:
    """The tables of one node, after some prefix of the log. ``stored``: what it starts with, by the name of the table."""

    def __init__(self, stored: Mapping[str, Part] = _NOTHING) -> None:
        self._tables: dict[type[Table], Table] = {}
        for kind in TABLES:
            self._tables[kind] = kind(self, stored.get(kind.name, EMPTY))
        self._rules: dict[type, Callable[[Command, int, int], Result]] = {
            command.type: MethodType(command.rule, table) for table in self for command in table.commands.values()
        }
        decisions, damages = self[Decisions], self[Damages]
        self.decision: Callable[[TxId], Decision | None] = decisions.decision
        self.state: Callable[[TxId], State] = decisions.state
        self.open_decisions: Callable[[], Iterator[Decision]] = decisions.open_decisions
        self.open_since: Callable[[int], list[Decision]] = decisions.open_since
        self.open_decision: Callable[[TxId], Decision | None] = decisions.open_decision
        self.damages: Callable[[], Iterator[Damage]] = damages.all
        self.damage: Callable[[TxId, str], Damage | None] = damages.damage

    def __getitem__(self, table: type[T]) -> T:
        """The table of that class."""
        return cast("T", self._tables[table])

    def __iter__(self) -> Iterator[Table]:
        """Every table, in the order of the list."""
        return iter(self._tables.values())

    # -- changing -------------------------------------------------------------------------------------------------

    def apply(self, command: Command, term: int, index: int) -> Result:
        """Apply one committed command, which stands in the log at (term, index). Total: never raises for bad content."""
        rule = self._rules.get(type(command))
        if rule is None:
            broken(f"a command of type {type(command).__name__} has no rule")
        return rule(command, term, index)

    def change_members(self, members: Members) -> None:
        """A committed entry holds this set."""
        self[ClusterMembers].change(members)

    @property
    def changed_count(self) -> int:
        """How many changes ``take_changes`` would give; 0: nothing is to be stored."""
        return sum([table.pending.count for table in self._tables.values()])

    def take_changes(self) -> Changes:
        """What has changed since the last call. The caller stores it in one commit with the applied index."""
        return {table.name: table.take_change() for table in self if table.pending.count}

    def stored(self, changes: Changes) -> None:
        """``changes`` are on disk."""
        for table in self:
            if table.name in changes:
                table.stored(changes[table.name])

    def shed(self, stored_index: int, rows_max: int) -> None:
        """Free memory of what is on disk, if there is much: every change up to log index ``stored_index`` is."""
        for table in self:
            table.shed(stored_index, rows_max)

    # -- what the node's rooms ask; what they ask of decisions and damages by key, __init__ takes from the tables ----------

    @property
    def cluster(self) -> str:
        """The cluster's id, "" before it is founded."""
        return self[Founding].cluster

    @property
    def enrolled(self) -> Mapping[str, str]:
        """Node name -> identity, for nodes that were replaced before members were part of the ledger."""
        return self[Founding].enrolled

    @property
    def horizon_ms(self) -> int:
        """What is older and finished is forgotten (Unix time, ms)."""
        return self[Horizon].ms

    @property
    def participants(self) -> Mapping[str, Binding]:
        """Participant name -> which state goes by it, where that is known. A change gives another object."""
        return self[Participants].by_name

    @property
    def members(self) -> Members | None:
        """The members of the cluster as of what is applied here; None: not known."""
        return self[ClusterMembers].members

    @property
    def open_count(self) -> int:
        """How many decisions have a branch outstanding."""
        return self[Decisions].open_count

    @property
    def memory_count(self) -> int:
        """How many decisions are in memory."""
        return self[Decisions].memory_count

    @property
    def damages_unseen(self) -> int:
        """How many branches are damaged and nobody has acknowledged it."""
        return self[Damages].unseen
