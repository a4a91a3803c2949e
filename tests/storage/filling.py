"""What the tests of the storage room write, and how they compare what came back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from raftcoord.core.tables.damages import Damage
from raftcoord.core.tables.decisions import Closing, Decision
from raftcoord.core.tables.members import Member, Members
from raftcoord.core.tables.participants import Binding
from raftcoord.core.tables.table import NO_CHANGES, Changes, Part, TableChange
from raftcoord.limits import NodeBounds
from raftcoord.storage.node_db import LogRow, NodeDb, Stored, Write
from raftcoord.types import NodeName, TxId, Verdict, first_txid_of

START_MS = 1_700_000_000_000
BINDINGS = [
    Binding("bank-a", "aa" * 16, "", START_MS, ""),
    Binding("bank-b", "bb" * 16, "ops@example", START_MS + 7, "b0" * 16),
]

MEMBERS = Members(
    3, 3, (Member(1, NodeName("n1"), "11" * 16, True, "a:1", "a:2"), Member(2, NodeName("n2"), "22" * 16, True, "", ""))
)


def txid(number: int, ms: int = START_MS) -> TxId:
    """The same txid for the same number, in the order of the numbers."""
    return TxId.new(ms + number, number.to_bytes(10, "big"))


def decision(
    number: int, *, commit: bool = True, outstanding: tuple[str, ...] = ("bank-a",), index: int = 2
) -> Decision:
    branches = ("bank-a", "bank-b")
    reason, branch = ("", "") if commit else ("too poor: ünder 0", "bank-b")
    return Decision(txid(number), Verdict(commit), branches, outstanding, reason, branch, START_MS + number, 3, index)


def puts(*decisions: Decision) -> Changes:
    return {"decisions": TableChange(puts={one.txid: one for one in decisions})}


def moved(horizon_ms: int, **others: TableChange) -> Changes:
    """The horizon is at ``horizon_ms`` now."""
    decisions = others.pop("decisions", TableChange())
    decisions.forget_below = first_txid_of(horizon_ms) if horizon_ms < 1 << 48 else b"\xff" * 17
    return {"horizon": TableChange(fields={"horizon_ms": horizon_ms}), "decisions": decisions, **others}


def items(stored: Stored, table: str = "decisions") -> list[Any]:
    """What is stored of a table."""
    return list(stored.tables[table].rows)


def field(stored: Stored, name: str) -> Any:
    """A field of whichever table."""
    return next(part.fields[name] for part in stored.tables.values() if name in part.fields)


def damaged(*damages: Damage) -> TableChange:
    return TableChange(puts={(one.txid, one.branch): one for one in damages})


def write(**fields: Any) -> Write:
    """A Write of these fields alone."""
    return Write(None, [], None, NO_CHANGES, None, None)._replace(**fields)


def rows(first: int, last: int, term: int = 1) -> list[LogRow]:
    return [LogRow(index, term, b"entry %d" % index * (index % 7)) for index in range(first, last + 1)]


def opened(directory: Path, node: str = "n1", cluster_name: str = "demo", bounds: NodeBounds = NodeBounds()) -> NodeDb:
    return NodeDb.open(directory, cluster_name=cluster_name, node=node, bounds=bounds)


def fill(db: NodeDb, decisions: int = 60) -> None:
    """Something of everything: log, term, vote, cluster, horizon, identities, all kinds of decisions, damage, participants."""
    made = [decision(n, commit=n % 5 > 0, outstanding=("bank-b",) if n % 3 else ()) for n in range(decisions)]
    damage = Damage(made[1].txid, "bank-a", "rolled back by hand", START_MS, "ops")
    db.write(write(append=rows(2, 12), hard_state=(2, 3), peers={"n2": "22" * 16, "n3": "33" * 16}))
    half = len(made) // 2
    founding = TableChange(fields={"cluster": "0123456789abcdef", "enrolled": {"n3": "33" * 16}})
    members = TableChange(fields={"members": MEMBERS})
    db.write(
        write(changes=moved(START_MS - 5, founding=founding, members=members, **puts(*made[:half])), applied=(6, 1))
    )
    given_up = Closing("bank-a", "ops", "the machine is gone: künftig ohne", START_MS + 9)
    made[-1] = made[-1]._replace(outstanding=(), closed=(given_up,))
    bound = TableChange(puts={one.name: one for one in BINDINGS})
    last = {**puts(*made[half:]), "damages": damaged(damage), "participants": bound}
    db.write(write(append=rows(13, 20, term=2), changes=last, applied=(12, 1), drop_log_before=4))


def contents(db: NodeDb) -> tuple[Stored, list[Any]]:
    """Everything that can be read from ``db``, comparable."""
    stored = db.load()
    listed = [db.decisions(state, 1000, None) for state in (None, "committed", "aborted", "open")]
    decisions = stored.tables["decisions"].rows
    parts = {name: Part(part.fields, sorted(part.rows), part.floor) for name, part in stored.tables.items()}
    return stored._replace(tables=parts), [listed, [db.decision(d.txid) for d in sorted(decisions)]]


def files_of(directory: Path) -> dict[str, bytes]:
    """Name and bytes of all files, but for the shared memory, which SQLite makes anew whenever it opens."""
    return {path.name: path.read_bytes() for path in directory.iterdir() if not path.name.endswith("-shm")}
