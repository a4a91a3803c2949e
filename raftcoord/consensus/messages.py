"""What goes over a link between nodes: what engines say to each other, and entries that are handed to the leader.

A message is a MessagePack array whose first element is its kind. An engine's are in pysyncobj/wire.py. A group has one:

    7 propose   [entry, ...]   entries for the leader to append (commands.encode_entry)
"""

from __future__ import annotations

from typing import Any, Final

from raftcoord.consensus.engine import Message
from raftcoord.consensus.pysyncobj import wire
from raftcoord.errors import RemoteProtocolError

_PROPOSE: Final = 7


def encode(message: Message) -> list[Any]:
    """The message as what MessagePack takes."""
    return [_PROPOSE, message["entries"]] if message["type"] == "propose" else wire.encode(message)


def decode(row: Any) -> Message:
    """The message that ``row`` (unpacked MessagePack) is. RemoteProtocolError if it is none."""
    match row:
        case [int(kind), *rest] if kind == _PROPOSE and type(kind) is int:
            if len(rest) == 1 and type(rest[0]) is list and all(type(entry) is bytes for entry in rest[0]):
                return {"type": "propose", "entries": rest[0]}
            raise RemoteProtocolError(
                "a peer sent propose without a list of entries; run the same raftcoord release on every node"
            )
    return wire.decode(row)


def size_of(message: Message) -> int:
    """How many bytes of entries it has."""
    return sum(map(len, message["entries"])) if message["type"] == "propose" else wire.size_of(message)


def is_said_all_the_time(message: Message) -> bool:
    """Whether a leader, or one that follows it, says this as long as it lives."""
    return message["type"] in wire.HEARTBEATS
