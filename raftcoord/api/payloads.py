"""What each participant of a transaction is given, checked on both ends.

Owed: payloads that pass can be written, and every node and participant reads them. Never: a meaning of a payload.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from raftcoord import limits
from raftcoord.errors import LocalProtocolError, RemoteProtocolError
from raftcoord.rpc import frames
from raftcoord.rpc.shape import check_shape
from raftcoord.types import Payload, checked_name

_INT_MIN, _INT_MAX = -(1 << 63), (1 << 64) - 1


def checked_payloads(value: object) -> dict[str, Payload]:
    """What each participant gets: a mapping from participants to payloads; at least one, at most BRANCHES_MAX.

    All of it can be written, and every node and participant reads it.
    """
    if not isinstance(value, Mapping):
        raise LocalProtocolError(f"{type(value).__name__} is not a mapping; give {{participant: payload}}")
    made = dict(value)
    _check_participants(made)
    for name, payload in made.items():
        _check_payload(payload, name)
    try:
        packed = frames.packer()(made)
    except Exception as error:  # a subclass of dict or list that misbehaves while it is read
        raise LocalProtocolError(f"the payloads cannot be written: {error}") from None
    _check_size(len(packed))
    try:
        check_shape(packed, limits.PAYLOAD_ITEMS_MAX)
    except RemoteProtocolError:
        raise LocalProtocolError(
            f"the payloads have more than {limits.PAYLOAD_ITEMS_MAX} items, those of all lists and dicts together; send less at "
            "a time, or a reference to large content"
        ) from None
    return made


def read_payloads(value: object) -> dict[str, Payload]:
    """What a frame could hold is sound: its items and its nesting were counted when it came in."""
    if type(value) is not dict:
        raise LocalProtocolError(f"{type(value).__name__} is not a mapping; give {{participant: payload}}")
    _check_participants(value)
    _check_size(len(frames.packer()(value)))
    return value


def _check_participants(value: dict[Any, Any]) -> None:
    if not value:
        raise LocalProtocolError("a transaction without a participant; give {participant: payload}")
    check_count(len(value))
    for name in value:
        checked_name(name, "participant")


def _check_size(size: int) -> None:
    if size > limits.PAYLOAD_BYTES_MAX:
        raise LocalProtocolError(
            f"payloads of {size} bytes: at most {limits.PAYLOAD_BYTES_MAX} are allowed; send a reference to large content"
        )


def _check_payload(payload: Any, participant: str) -> None:
    """Level by level, so that a cycle is found as too deep nesting and not as the end of the stack."""
    level = [payload]
    where = f"the payload for {participant!r}"
    for _ in range(limits.PAYLOAD_NESTING_MAX + 1):
        inner: list[Any] = []
        for item in level:
            if isinstance(item, (list, tuple, dict)):
                inner += _items(item, where)
            else:
                _check_leaf(item, where)
        if not inner:
            return
        level = inner
        if len(level) > limits.PAYLOAD_BYTES_MAX:
            raise LocalProtocolError(f"{where} has more than {limits.PAYLOAD_BYTES_MAX} items; send less at a time")
    raise LocalProtocolError(f"{where} is nested deeper than {limits.PAYLOAD_NESTING_MAX} levels; make it flatter")


def _items(container: Any, where: str) -> Iterable[Any]:
    if not isinstance(container, dict):
        return container  # type: ignore[no-any-return]
    for key in container:
        if type(key) is not str:
            raise LocalProtocolError(f"{where} has a dict with the key {key!r}; keys must be text")
        checked_text(key, where)
    return container.values()


def _check_leaf(item: Any, where: str) -> None:
    if item is None or isinstance(item, (bool, float, bytes)):
        return
    if isinstance(item, str):
        checked_text(item, where)
    elif not isinstance(item, int):
        raise LocalProtocolError(
            f"{where} contains a {type(item).__name__}; send None, bool, int, float, str, bytes, and lists and "
            "str-keyed dicts of them"
        )
    elif not _INT_MIN <= item <= _INT_MAX:
        raise LocalProtocolError(f"{where} contains an integer of more than 64 bits; send it as text")


def checked_text(value: str, where: str) -> str:
    """``value`` if it can be written."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise LocalProtocolError(
            f"{where} contains half a surrogate pair, which is not text; send it as bytes"
        ) from None
    return value


def check_count(count: int) -> None:
    """Refuse more branches than a transaction may have."""
    if count > limits.BRANCHES_MAX:
        raise LocalProtocolError(f"{count} branches: at most {limits.BRANCHES_MAX} are allowed in one transaction")
