"""What the caller gave, checked before anything is sent.

Owed: what passes here can be written as a frame that every node and participant reads; what does not is a LocalProtocolError
that says what to give instead, and nothing has happened. Never: a network, a guess of what was meant.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from typing import Any, Final

from raftcoord import limits
from raftcoord.errors import LocalProtocolError, RemoteProtocolError
from raftcoord.rpc import frames
from raftcoord.rpc.shape import check_shape
from raftcoord.types import State, TxId, Verdict, checked_branch, checked_name

WAITS: Final = ("decided", "completed")
KINDS: Final = ("committed", "aborted", "open")
ROWS_MAX: Final = 1000

_INT_MIN, _INT_MAX = -(1 << 63), (1 << 64) - 1


def txid(value: object) -> TxId:
    """``value`` (a TxId or 32 hex digits) as a TxId. Its time is for the nodes to judge: this clock may be wrong."""
    return value if type(value) is TxId else TxId.parse(value)


def timeout(value: object) -> float:
    """``value`` as seconds within TIMEOUT_MS_MIN..TIMEOUT_MS_MAX."""
    low, high = limits.TIMEOUT_MS_MIN / 1000, limits.TIMEOUT_MS_MAX / 1000
    if (type(value) is float or type(value) is int) and low <= value <= high:
        return value
    raise LocalProtocolError(f"timeout {value!r}: give seconds, a number from {low:g} to {high:g}")


def grace(value: object) -> float:
    """``value`` as seconds from 0 to GRACE_MS_MAX."""
    high = limits.GRACE_MS_MAX / 1000
    if (type(value) is float or type(value) is int) and 0 <= value <= high:
        return value
    raise LocalProtocolError(f"grace {value!r}: give seconds, a number from 0 to {high:g}")


def verdict(value: object) -> Verdict:
    """``value`` if it is a Verdict."""
    if type(value) is Verdict:
        return value
    raise LocalProtocolError(f"verdict {value!r}: give raftcoord.COMMIT or raftcoord.ABORT")


def reason(value: object, made: Verdict) -> str:
    """The reason of an abort: text; a commit has none."""
    if not isinstance(value, str) or len(value) > limits.REASON_LENGTH_MAX:
        raise LocalProtocolError(f"the reason must be text of at most {limits.REASON_LENGTH_MAX} characters")
    if made is Verdict.COMMIT:
        if value:
            raise LocalProtocolError(f"a commit has no reason, and {value[:60]!r} was given; leave it out")
        return ""
    _text(value, "the reason")
    return value or "the caller decided so"


def branches(value: Iterable[str]) -> tuple[str, ...]:
    """Branch names, each once, at most BRANCHES_MAX."""
    if value == ():
        return ()
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise LocalProtocolError(f"branches {value!r}: give a list of names")
    names = tuple(value)
    try:
        return _checked_branches(names)
    except TypeError:  # one that cannot be hashed
        raise LocalProtocolError(f"branches {names!r}: give a list of names") from None


@functools.lru_cache(maxsize=256)
def _checked_branches(names: tuple[str, ...]) -> tuple[str, ...]:
    """Cached: a program uses few sets of branches, and checking one costs as much as sending it."""
    _check_count(len(names))
    checked = tuple(checked_branch(name) for name in names)
    if len(set(checked)) < len(checked):
        raise LocalProtocolError("a branch is named twice; name each once")
    return checked


def payloads(value: object) -> dict[str, Any]:
    """What each participant gets: a mapping from participant names to payloads; at least one, at most BRANCHES_MAX."""
    if not isinstance(value, Mapping):
        raise LocalProtocolError(f"{type(value).__name__} is not a mapping; give {{participant: payload}}")
    if not value:
        raise LocalProtocolError("a transaction without a participant; give {participant: payload}")
    _check_count(len(value))
    for name, payload in value.items():
        checked_name(name, "participant")
        _check_payload(payload, name)
    made = dict(value)
    try:
        packed = frames.packer()(made)
    except Exception as error:  # a subclass of dict or list that misbehaves while it is read
        raise LocalProtocolError(f"the payloads cannot be written: {error}") from None
    if len(packed) > limits.PAYLOAD_BYTES_MAX:
        raise LocalProtocolError(
            f"payloads of {len(packed)} bytes: at most {limits.PAYLOAD_BYTES_MAX} are allowed; send a reference to large content"
        )
    try:
        check_shape(packed, limits.PAYLOAD_ITEMS_MAX)
    except RemoteProtocolError:
        raise LocalProtocolError(
            f"the payloads have more than {limits.PAYLOAD_ITEMS_MAX} items, those of all lists and dicts together; send less at "
            "a time, or a reference to large content"
        ) from None
    return made


def wait(value: object) -> str:
    """What a submit waits for."""
    if value in WAITS:
        return str(value)
    raise LocalProtocolError(f"wait {value!r}: give 'decided' or 'completed'")


def kind(value: object) -> str | None:
    """Which transactions are listed: None for all."""
    if isinstance(value, State) and value in (State.COMMITTED, State.ABORTED):
        return value.name.lower()
    if value is None or value in KINDS:
        return None if value is None else str(value)
    raise LocalProtocolError(f"state {value!r}: give 'committed', 'aborted', 'open', or None for all")


def limit(value: object) -> int:
    """How many rows are listed."""
    if type(value) is int and 1 <= value <= ROWS_MAX:
        return value
    raise LocalProtocolError(f"limit {value!r}: give a number from 1 to {ROWS_MAX}")


def damages_limit(value: object) -> int:
    """How many damages are listed."""
    if type(value) is int and 1 <= value <= limits.DAMAGES_MAX:
        return value
    raise LocalProtocolError(f"limit {value!r}: give a number from 1 to {limits.DAMAGES_MAX}")


def damage(value: object) -> str:
    """What happened to a branch."""
    if not isinstance(value, str) or not 0 < len(value) <= limits.REASON_LENGTH_MAX:
        raise LocalProtocolError(f"say what happened to the branch, in 1 to {limits.REASON_LENGTH_MAX} characters")
    _text(value, "what happened")
    return value


def why(value: object) -> str:
    """Why an operator does what is recorded."""
    if isinstance(value, str) and value.strip() and value.isprintable() and len(value) <= limits.REASON_LENGTH_MAX:
        return value
    raise LocalProtocolError(
        f"{repr(value)[:80]} is no reason: say why, in 1 to {limits.REASON_LENGTH_MAX} printable characters"
    )


def time_ms(value: object) -> int:
    """A Unix time in milliseconds."""
    if type(value) is int and 0 <= value <= limits.TIME_MS_MAX:
        return value
    raise LocalProtocolError(f"{repr(value)[:80]} is no time: give whole milliseconds since 1970")


def who(value: object) -> str:
    """The name of whoever does what is recorded."""
    if isinstance(value, str) and value.strip() and value.isprintable() and len(value) <= limits.WHO_LENGTH_MAX:
        return value
    raise LocalProtocolError(
        f"{repr(value)[:80]} names nobody: say who does this, in 1 to {limits.WHO_LENGTH_MAX} printable characters"
    )


def _check_count(count: int) -> None:
    if count > limits.BRANCHES_MAX:
        raise LocalProtocolError(f"{count} branches: at most {limits.BRANCHES_MAX} are allowed in one transaction")


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
        _text(key, where)
    return container.values()


def _check_leaf(item: Any, where: str) -> None:
    if item is None or isinstance(item, (bool, float, bytes)):
        return
    if isinstance(item, str):
        _text(item, where)
    elif not isinstance(item, int):
        raise LocalProtocolError(
            f"{where} contains a {type(item).__name__}; send None, bool, int, float, str, bytes, and lists and "
            "str-keyed dicts of them"
        )
    elif not _INT_MIN <= item <= _INT_MAX:
        raise LocalProtocolError(f"{where} contains an integer of more than 64 bits; send it as text")


def _text(value: str, where: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise LocalProtocolError(
            f"{where} contains half a surrogate pair, which is not text; send it as bytes"
        ) from None
