"""What a row of node.db holds, and the checksum that proves it.

Owes: bytes in, the same values out, or a CorruptionError's reason; one CRC-32 per row over everything in the row that
matters, so that a row cannot be changed, or moved to another key, unseen. Never touches a file.

CRC-32 finds accidents, not attacks: whoever can write the file can also compute a checksum.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any, Final, NamedTuple
from zlib import crc32

import msgpack

from raftcoord.core.decisions import Binding, Closing, Damage, Decision
from raftcoord.core.tables.members import Members, from_list, to_list
from raftcoord.storage.schema import CLOSED_FLAG, COMMIT_FLAG, OPEN_FLAG
from raftcoord.types import TxId, Verdict

INDEX_MAX: Final = (1 << 63) - 1
"""The largest log index and term: SQLite's INTEGER is signed, 64 bits."""

UNREADABLE: Final = (TypeError, ValueError, KeyError, IndexError, OverflowError, struct.error, msgpack.UnpackException)
"""What reading a damaged value may raise here. The reader turns it into a CorruptionError that names the row."""

_pack = msgpack.Packer().pack
_unpackb = msgpack.unpackb
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


_NOBODY: Final[Mapping[str, str]] = {}


class NodeState(NamedTuple):
    """What a commit may change. ``writes`` counts the synced commits that changed it; ``cluster``: "" until it is founded.

    ``peers``: the identity (hex) of each peer, by its name, as this node knows it; ``enrolled``: as the ledger has it.
    ``members_epoch``, ``joined_epoch``: of the set in the row MEMBERS or JOINED; 0: there is no such row. Data from before
    members were stored has neither: without these numbers, a row that was lost would look like that.
    """

    writes: int
    term: int
    vote: int | None
    applied_index: int
    applied_term: int
    cluster: str
    horizon_ms: int
    peers: Mapping[str, str] = _NOBODY
    enrolled: Mapping[str, str] = _NOBODY
    members_epoch: int = 0
    joined_epoch: int = 0


class SnapshotHead(NamedTuple):
    """What a snapshot says of itself: whose ledger, after which log entry. ``members``: of the cluster, see members_row."""

    cluster_name: str
    cluster: str
    index: int  # type: ignore[assignment]
    term: int
    horizon_ms: int
    enrolled: Mapping[str, str] = _NOBODY
    members: Any = None


def log_crc(index: int, term: int, data: bytes) -> int:
    """The checksum of a log row."""
    return crc32(data, crc32(_LOG_KEY.pack(index, term)))


def decision_row(decision: Decision) -> tuple[bytes, int, bytes, int]:
    """(txid, flags, record, crc) of a decision."""
    txid, verdict, branches, outstanding, reason, branch, at_ms, term, index, closed = decision
    if closed:  # seldom: without one the record is that of format 1
        record: bytes = _pack((verdict, branches, outstanding, reason, branch, at_ms, term, index, closed))
    else:
        record = _pack((verdict, branches, outstanding, reason, branch, at_ms, term, index))
    flags = (COMMIT_FLAG if verdict else 0) | (OPEN_FLAG if outstanding else 0) | (CLOSED_FLAG if closed else 0)
    return txid, flags, record, decision_crc(txid, flags, record)


def decision_crc(txid: bytes, flags: int, record: bytes) -> int:
    """The checksum of a decision's row. The flags are its start value: one call less, a million times at open."""
    return crc32(record, crc32(txid, flags))


def read_decision(txid: bytes, record: bytes) -> Decision:
    """The decision of a row whose checksum is right. Raises one of UNREADABLE for what was never written here."""
    verdict, branches, outstanding, reason, branch, at_ms, term, index, *closed = _unpackb(record, use_list=False)
    # The checksum proves that this txid was valid when it was written: it need not be parsed again.
    made = Decision(
        bytes.__new__(TxId, txid), _VERDICTS[verdict], branches, outstanding, reason, branch, at_ms, term, index
    )
    if closed:
        [rows] = closed
        return made._replace(closed=tuple(Closing(*row) for row in rows))
    return made


_VERDICTS: Final = {0: Verdict.ABORT, 1: Verdict.COMMIT}


def damage_row(damage: Damage) -> tuple[bytes, bytes, bytes, int]:
    """(txid, branch, record, crc) of heuristic damage."""
    branch = damage.branch.encode()
    fields = (damage.what, damage.at_ms, damage.acknowledged_by)
    record: bytes = _pack((*fields, damage.settled_ms) if damage.settled_ms else fields)
    return damage.txid, branch, record, damage_crc(damage.txid, branch, record)


def damage_crc(txid: bytes, branch: bytes, record: bytes) -> int:
    """The checksum of a damage row. The txid has a fixed length, so the parts cannot be mistaken for each other."""
    return crc32(record, crc32(branch, crc32(txid)) ^ len(branch))


def read_damage(txid: bytes, branch: bytes, record: bytes) -> Damage:
    """The damage of a row whose checksum is right. Raises one of UNREADABLE for what was never written here."""
    what, at_ms, acknowledged_by, *settled_ms = _unpackb(record, use_list=False)
    return Damage(TxId(txid), branch.decode(), what, at_ms, acknowledged_by, *settled_ms)


def binding_row(binding: Binding) -> tuple[bytes, bytes, int]:
    """(name, record, crc) of a participant's binding."""
    name = binding.name.encode()
    record: bytes = _pack(binding[1:])
    return name, record, binding_crc(name, record)


def binding_crc(name: bytes, record: bytes) -> int:
    """The checksum of a participant's row."""
    return crc32(record, crc32(name) ^ len(name))


def read_binding(name: bytes, record: bytes) -> Binding:
    """The binding of a row whose checksum is right. Raises one of UNREADABLE for what was never written here."""
    return Binding(name.decode(), *_unpackb(record, use_list=False))


def meta_row(key: str, value: Identity | NodeState | SnapshotHead) -> tuple[str, bytes, int]:
    """(key, value, crc) of a row of meta. JSON: Python reads back every integer exactly, and people can read it."""
    fields: dict[str, Any] = value._asdict()
    if isinstance(value, Identity):
        fields["uuid"] = value.uuid.hex()
    text = json.dumps(fields).encode()
    return key, text, meta_crc(key, text)


MEMBERS: Final = "members"
"""The row of meta that holds the members of the cluster as the ledger has them."""
JOINED: Final = "joined"
"""The row of meta that holds the members as another node said them, when this one became a member: its log knows none yet."""


def members_row(key: str, members: Members) -> tuple[str, bytes, int]:
    """(key, value, crc) of the row MEMBERS or JOINED of meta."""
    text = json.dumps(to_list(members)).encode()
    return key, text, meta_crc(key, text)


def read_members(value: bytes) -> Members:
    """The row MEMBERS or JOINED of meta."""
    return members_of(json.loads(value))


def members_of(lists: object) -> Members:
    """The members that core.tables.members.to_list gave. Raises ValueError, one of UNREADABLE, for anything else."""
    members = from_list(lists)
    if members is None:
        raise ValueError("not a set of members")
    return members


def meta_crc(key: str, value: bytes) -> int:
    """The checksum of a row of meta."""
    return crc32(value, crc32(key.encode()))


def read_identity(value: bytes) -> Identity:
    """The row 'identity' of meta."""
    fields = json.loads(value)
    return Identity(fields["cluster_name"], fields["node"], bytes.fromhex(fields["uuid"]))


def read_state(value: bytes) -> NodeState:
    """The row 'state' of meta."""
    return NodeState(**json.loads(value))


def read_snapshot_head(value: bytes) -> SnapshotHead:
    """The row 'snapshot' of meta."""
    head = SnapshotHead(**json.loads(value))
    return head if head.members is None else head._replace(members=to_list(members_of(head.members)))
