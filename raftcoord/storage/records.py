"""What the rows of the log and of meta hold, and the checksum that proves each; the rows of a table are its own affair.

Owes: bytes in, the same values out, or a CorruptionError's reason; one CRC-32 per row over everything in the row that
matters, so that a row cannot be changed, or moved to another key, unseen. Never touches a file.

CRC-32 finds accidents, not attacks: a program that can write the file can also compute a checksum.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any, Final, NamedTuple
from zlib import crc32

import msgpack

from raftcoord.core.tables import TABLES
from raftcoord.core.tables.members import ClusterMembers
from raftcoord.core.tables.table import TableField

INDEX_MAX: Final = (1 << 63) - 1
"""The largest log index and term: SQLite's INTEGER is signed, 64 bits."""

UNREADABLE: Final = (TypeError, ValueError, KeyError, IndexError, OverflowError, struct.error, msgpack.UnpackException)
"""What reading a damaged value may raise here. The reader turns it into a CorruptionError that names the row."""

_LOG_KEY: Final = struct.Struct(">QQ")


class LogRow(NamedTuple):
    """One entry of the raft log. ``index`` from 1, ``term`` from 0; ``data`` is not interpreted here."""

    index: int  # type: ignore[assignment]
    term: int
    data: bytes


class Identity(NamedTuple):
    """Whose file this is. It never changes; ``uuid`` is minted when the file is created."""

    cluster_name: str
    node: str
    uuid: bytes


class NodeState(NamedTuple):
    """What a commit may change. ``writes`` counts the synced commits that changed it.

    ``peers``: the identity (hex) of each peer, by its name, as this node knows it; ``fields``: of the tables of the ledger.
    ``epochs``: of what has a row of its own (OWN_ROWS, JOINED), by the name of the row; 0: there is no such row. Data from before
    there were such rows has none: without these numbers, a row that was lost would look like that.
    """

    writes: int
    term: int
    vote: int | None
    applied_index: int
    applied_term: int
    peers: Mapping[str, str]
    epochs: Mapping[str, int]
    fields: Mapping[str, Any]

    @property
    def cluster(self) -> str:
        """The cluster's id, "" until it is founded."""
        return str(self.fields["cluster"])


class SnapshotHead(NamedTuple):
    """What a snapshot says of itself: whose ledger, after which log entry. ``fields``: of its tables, those of own rows too."""

    cluster_name: str
    index: int  # type: ignore[assignment]
    term: int
    fields: Mapping[str, Any]

    @property
    def cluster(self) -> str:
        """The cluster's id, "" until it is founded."""
        return str(self.fields["cluster"])


FIELDS: Final[Mapping[str, TableField]] = {name: field for table in TABLES for name, field in table.fields.items()}
"""The fields of all tables."""
STATE_FIELDS: Final = {name: field for name, field in FIELDS.items() if field.epoch is None}
OWN_ROWS: Final = {name: field for name, field in FIELDS.items() if field.epoch is not None}
"""Those in the row 'state' of meta, and those in a row of their own name."""
JOINED: Final = "joined"
"""The row of meta that holds the members as another node said them, when this one became a member: its log knows none yet."""

_META_ROWS: Final = {**OWN_ROWS, JOINED: ClusterMembers.fields["members"]}
START: Final = {name: field.default for name, field in FIELDS.items()}
"""The fields of a ledger to which nothing was applied."""


def log_crc(index: int, term: int, data: bytes) -> int:
    """The checksum of a log row."""
    return crc32(data, crc32(_LOG_KEY.pack(index, term)))


def meta_crc(key: str, value: bytes) -> int:
    """The checksum of a row of meta."""
    return crc32(value, crc32(key.encode()))


def _meta_row(key: str, value: object) -> tuple[str, bytes, int]:
    """(key, value, crc). JSON: Python reads back every integer exactly, and people can read it."""
    text = json.dumps(value).encode()
    return key, text, meta_crc(key, text)


def identity_row(identity: Identity) -> tuple[str, bytes, int]:
    """The row 'identity' of meta."""
    return _meta_row("identity", {**identity._asdict(), "uuid": identity.uuid.hex()})


def read_identity(value: bytes) -> Identity:
    """The row 'identity' of meta."""
    fields = json.loads(value)
    return Identity(fields["cluster_name"], fields["node"], bytes.fromhex(fields["uuid"]))


def state_row(state: NodeState) -> tuple[str, bytes, int]:
    """The row 'state' of meta."""
    flat = _flat(state, STATE_FIELDS)
    epochs = flat.pop("epochs")
    return _meta_row("state", {**flat, **{f"{name}_epoch": epochs[name] for name in _META_ROWS}})


def read_state(value: bytes) -> NodeState:
    """The row 'state' of meta."""
    own, fields = _parted(value, STATE_FIELDS)
    epochs = {name: own.pop(f"{name}_epoch", 0) for name in _META_ROWS}
    return NodeState(**{"peers": {}, **own}, epochs=epochs, fields=fields)


def snapshot_row(head: SnapshotHead) -> tuple[str, bytes, int]:
    """The row 'snapshot' of meta."""
    return _meta_row("snapshot", _flat(head, FIELDS))


def read_snapshot_head(value: bytes) -> SnapshotHead:
    """The row 'snapshot' of meta."""
    own, fields = _parted(value, FIELDS)
    return SnapshotHead(**own, fields=fields)


def _flat(value: NodeState | SnapshotHead, known: Mapping[str, TableField]) -> dict[str, Any]:
    flat = value._asdict()
    fields = flat.pop("fields")
    return {**flat, **{name: field.write(fields[name]) for name, field in known.items()}}


def _parted(value: bytes, known: Mapping[str, TableField]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is not of the tables, and the fields of the tables. An older release knew fewer of them."""
    flat = dict(json.loads(value))
    fields = {name: field.read(flat.pop(name)) if name in flat else field.default for name, field in known.items()}
    return flat, fields


def field_row(name: str, value: Any) -> tuple[str, bytes, int]:
    """The row ``name`` of meta, one of OWN_ROWS or JOINED."""
    return _meta_row(name, _META_ROWS[name].write(value))


def read_field(name: str, value: bytes) -> Any:
    """That row of meta."""
    read = _META_ROWS[name].read(json.loads(value))
    if read is None:
        raise ValueError("nothing, and nothing is never stored")
    return read


def epoch_of(name: str, value: Any) -> int:
    """The number of what is in that row; 0: there is no such row."""
    field = _META_ROWS[name]
    return 0 if field.epoch is None or value == field.default else field.epoch(value)


NO_EPOCHS: Final = dict.fromkeys(_META_ROWS, 0)
