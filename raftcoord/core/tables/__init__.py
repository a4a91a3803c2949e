"""The tables of the ledger: the one list. A new table is a file beside this one, an entry here, and a model in sim/models/."""

from __future__ import annotations

from typing import Final

from raftcoord.core.tables.damages import Damages
from raftcoord.core.tables.decisions import Decisions
from raftcoord.core.tables.founding import Founding
from raftcoord.core.tables.horizon import Horizon
from raftcoord.core.tables.members import ClusterMembers
from raftcoord.core.tables.participants import Participants
from raftcoord.core.tables.table import Table

TABLES: Final[tuple[type[Table], ...]] = (Decisions, Damages, Horizon, Founding, Participants, ClusterMembers)
"""In the order in which they are made: one may ask those before it."""
