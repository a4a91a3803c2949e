"""Messages between nodes: what is allowed, and nothing else (hazards H8 and H15).

A message is a MessagePack array whose first element is its kind. ``decode`` checks every field and raises
RemoteProtocolError for anything else, so that what reaches guard.py is well-formed.

    1 append_entries     term, commit_index, prevLogIdx, prevLogTerm, [[data, index, term], ...]
    2 next_node_idx      term, next_node_idx, reset, success
    3 request_vote       term, last_log_index, last_log_term
    4 response_vote      term
    5 pre_vote           term, last_log_index, last_log_term
    6 pre_vote_reply     term, asked, granted

7 is taken (consensus/messages.py).
"""

from __future__ import annotations

from typing import Any, Final, NoReturn

from raftcoord.consensus.engine import NUMBER_MAX, EntryTriple, Message
from raftcoord.errors import RemoteProtocolError

_FIELDS: Final[dict[str, tuple[int, tuple[str, ...]]]] = {
    "append_entries": (1, ("term", "commit_index", "prevLogIdx", "prevLogTerm", "entries")),
    "next_node_idx": (2, ("term", "next_node_idx", "reset", "success")),
    "request_vote": (3, ("term", "last_log_index", "last_log_term")),
    "response_vote": (4, ("term",)),
    "pre_vote": (5, ("term", "last_log_index", "last_log_term")),
    "pre_vote_reply": (6, ("term", "asked", "granted")),
}
_BY_KIND: Final = {kind: (name, fields) for name, (kind, fields) in _FIELDS.items()}
_FLAGS: Final = frozenset({"reset", "success", "granted"})
HEARTBEATS: Final = ("append_entries", "next_node_idx")
"""What a leader and those who follow it say all the time."""


def encode(message: Message) -> list[Any]:
    """The message as what MessagePack takes."""
    kind, fields = _FIELDS[message["type"]]
    return [kind, *(message[field] for field in fields)]


def decode(row: Any) -> Message:
    """The message that ``row`` (unpacked MessagePack) is. RemoteProtocolError if it is none."""
    if not isinstance(row, list) or not row or type(row[0]) is not int or row[0] not in _BY_KIND:
        _refuse("a message of an unknown kind")
    name, fields = _BY_KIND[row[0]]
    if len(row) != len(fields) + 1:
        _refuse(f"{name} with {len(row) - 1} fields instead of {len(fields)}")
    message: Message = {"type": name}
    for field, value in zip(fields, row[1:], strict=True):
        message[field] = _checked(name, field, value)
    if name == "append_entries":
        _check_sequence(message)
    return message


def size_of(message: Message) -> int:
    """How many bytes of entries it has."""
    return sum(len(data) for data, _, _ in message["entries"]) if message["type"] == "append_entries" else 0


def _checked(name: str, field: str, value: Any) -> Any:
    if field == "entries":
        return _entries(name, value)
    if field in _FLAGS:
        if type(value) is not bool:
            _refuse(f"{name} whose {field} is not true or false")
    elif type(value) is not int or not 0 <= value <= NUMBER_MAX:
        _refuse(f"{name} whose {field} is not a number from 0 to 2^63-1")
    return value


def _entries(name: str, rows: Any) -> list[Any]:
    if not isinstance(rows, list):
        _refuse(f"{name} whose entries are not a list")
    return [_entry(row) for row in rows]


def _entry(row: Any) -> EntryTriple:
    match row:
        case [bytes(data), int(index), int(term)] if (
            type(index) is type(term) is int and 0 < index <= NUMBER_MAX and 0 <= term <= NUMBER_MAX
        ):
            return data, index, term
    _refuse("append_entries with a malformed entry")


def _check_sequence(message: Message) -> None:
    index, term = message["prevLogIdx"], message["prevLogTerm"]
    for _, entry_index, entry_term in message["entries"]:
        if entry_index != index + 1 or not term <= entry_term <= message["term"]:
            _refuse("append_entries whose entries do not follow each other")
        index, term = entry_index, entry_term


def _refuse(what: str) -> NoReturn:
    raise RemoteProtocolError(f"a peer sent {what}; run the same raftcoord release on every node")
