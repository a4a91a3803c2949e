"""What the requests of operations are made of: each kind of value, its bounds, and what is read of it.

Owed: a value that passes here is valid and within its bounds; what does not is a LocalProtocolError that says what to give
instead, and nothing has happened. Both ends use the same fields: the caller before anything is sent, the node before anything is
done. Never: a question to the ledger or to a clock; a guess of what was meant.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple, TypeVar

from raftcoord import limits
from raftcoord.api.payloads import check_count, checked_payloads, checked_text, read_payloads
from raftcoord.errors import LocalProtocolError
from raftcoord.types import BranchesByTxid, State, TxId, Verdict, checked_name, is_identity

DECIDED: Final = "decided"
COMPLETED: Final = "completed"
KINDS: Final = ("committed", "aborted", "open")
STEPS: Final = ("add", "remove", "replace")

_T = TypeVar("_T")


class WireField(NamedTuple):
    """A kind of value. ``give`` takes what a caller gives in Python, ``read`` what came over the wire. Both return the same."""

    give: Callable[[Any], Any]
    read: Callable[[Any], Any]


def _either(check: Callable[[Any], Any]) -> WireField:
    return WireField(check, check)


def optional(field: WireField) -> WireField:
    """The same, or None."""
    return WireField(
        lambda value: None if value is None else field.give(value),
        lambda value: None if value is None else field.read(value),
    )


# -- transactions -------------------------------------------------------------------------------------------------


def txid(value: object) -> TxId:
    """``value`` (a TxId or 32 hex digits) as a TxId. Its time is for the nodes to judge: this clock may be wrong."""
    return value if type(value) is TxId else TxId.parse(value)


def _verdict(value: object) -> Verdict:
    if type(value) is Verdict:
        return value
    raise LocalProtocolError(f"verdict {value!r}: give raftcoord.COMMIT or raftcoord.ABORT")


def _read_verdict(value: object) -> Verdict:
    if type(value) is not int or value not in (0, 1):
        raise LocalProtocolError(f"verdict {str(value)[:60]!r}: give 0 for ABORT or 1 for COMMIT")
    return Verdict.COMMIT if value else Verdict.ABORT


def _timeout_ms(value: object) -> int:
    if type(value) is int and limits.TIMEOUT_MS_MIN <= value <= limits.TIMEOUT_MS_MAX:
        return value
    raise LocalProtocolError(
        f"timeout {str(value)[:60]!r}: give whole milliseconds from {limits.TIMEOUT_MS_MIN} to {limits.TIMEOUT_MS_MAX}"
    )


def _wait(value: object) -> str:
    if type(value) is str and value in (DECIDED, COMPLETED):
        return value
    raise LocalProtocolError(f"wait {_short(value)}: give 'decided' or 'completed'")


@functools.lru_cache(maxsize=4096)
def _known_branch(value: str) -> str:
    return checked_name(value, "branch")


def _branch(value: object) -> str:
    return _known_branch(value) if type(value) is str else checked_name(value, "branch")


def branches(value: Iterable[str]) -> tuple[str, ...]:
    """Branch names that a caller gives, in any iterable but a text: each once, at most BRANCHES_MAX."""
    if value == ():
        return ()
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise LocalProtocolError(f"branches {_short(value)}: give a list of names")
    names = tuple(value)
    try:
        return _checked_branches(names)
    except TypeError:  # one that cannot be hashed
        raise LocalProtocolError(f"branches {_short(names)}: give a list of names") from None


def _read_branches(value: object) -> tuple[str, ...]:
    if type(value) is not list:
        raise LocalProtocolError(f"branches {_short(value)}: give a list of names")
    if not value:
        return ()
    try:
        return _checked_branches(tuple(value))
    except TypeError:
        raise LocalProtocolError(f"branches {_short(value)}: give a list of names") from None


@functools.lru_cache(maxsize=4096)
def _checked_branches(names: tuple[str, ...]) -> tuple[str, ...]:
    """Cached: programs use few sets of branches, and checking one costs as much as sending it."""
    check_count(len(names))
    for name in names:
        checked_name(name, "branch")
    if len(set(names)) < len(names):
        raise LocalProtocolError("a branch is named twice; name each once")
    return names


def _pairs(value: Mapping[TxId, Iterable[str]]) -> BranchesByTxid:
    return _counted({txid(made): branches(names) for made, names in value.items()})


def _read_pairs(value: object) -> BranchesByTxid:
    if type(value) is not list or not all(type(pair) is list and len(pair) == 2 for pair in value):
        raise LocalProtocolError("give a list of [txid, branches]")
    return _counted({TxId(raw): _read_branches(names) for raw, names in value})


def _counted(found: dict[TxId, tuple[str, ...]]) -> BranchesByTxid:
    count = sum(map(len, found.values()))
    if not 1 <= count <= limits.BRANCHES_SETTLED_MAX:
        raise LocalProtocolError(f"{count} branches: give 1 to {limits.BRANCHES_SETTLED_MAX} at a time")
    return tuple(found.items())


TXID: Final = WireField(txid, TxId)
VERDICT: Final = WireField(_verdict, _read_verdict)
TIMEOUT_MS: Final = _either(_timeout_ms)
PAYLOADS: Final = WireField(checked_payloads, read_payloads)
WAIT: Final = _either(_wait)
BRANCH: Final = _either(_branch)
BRANCHES: Final = WireField(branches, _read_branches)
BRANCHES_BY_TXID: Final = WireField(_pairs, _read_pairs)
"""A mapping from txids to branches; on the wire a list of pairs. At most BRANCHES_SETTLED_MAX branches in all."""

# -- what is said -------------------------------------------------------------------------------------------------


def _is_line(value: object, length_max: int) -> bool:
    return isinstance(value, str) and bool(value.strip()) and value.isprintable() and len(value) <= length_max


def _who(value: str) -> str:
    if _is_line(value, limits.WHO_LENGTH_MAX):
        return value
    raise LocalProtocolError(
        f"{_short(value)} names nobody: say who does this, in 1 to {limits.WHO_LENGTH_MAX} printable characters"
    )


def _why(value: str) -> str:
    if _is_line(value, limits.REASON_LENGTH_MAX):
        return value
    raise LocalProtocolError(
        f"{_short(value)} is no reason: say why, in 1 to {limits.REASON_LENGTH_MAX} printable characters"
    )


def _reason(value: object) -> str:
    if value == "":
        return ""
    if not isinstance(value, str) or len(value) > limits.REASON_LENGTH_MAX:
        raise LocalProtocolError(f"the reason must be text of at most {limits.REASON_LENGTH_MAX} characters")
    return checked_text(value, "the reason")


def _read_reason(value: object) -> str:
    """Cut, not refused: an abort must not fail because its reason is long."""
    if type(value) is not str:
        raise LocalProtocolError(f"the reason must be text and is a {type(value).__name__}")
    return value[: limits.REASON_LENGTH_MAX]


def _what(value: object) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= limits.REASON_LENGTH_MAX:
        raise LocalProtocolError(f"say what happened to the branch, in 1 to {limits.REASON_LENGTH_MAX} characters")
    return checked_text(value, "what happened")


def _read_what(value: object) -> str:
    if type(value) is not str or not value:
        raise LocalProtocolError(f"say what happened to the branch, in 1 to {limits.REASON_LENGTH_MAX} characters")
    return value[: limits.REASON_LENGTH_MAX]


WHO: Final = _either(_who)
"""The name of the person or program that does what is recorded."""
WHY: Final = _either(_why)
"""Why an operator does what is recorded."""
REASON: Final = WireField(_reason, _read_reason)
WHAT: Final = WireField(_what, _read_what)
"""What happened to a branch."""

# -- names, numbers, times ----------------------------------------------------------------------------------------


def _of(what: str, values: tuple[str, ...]) -> WireField:
    """One of ``values``."""

    def check(value: object) -> str:
        if type(value) is str and value in values:
            return value
        raise LocalProtocolError(f"{_short(value)} is no {what}; use one of {', '.join(values)}")

    return _either(check)


def _name_of(what: str) -> WireField:
    return _either(lambda value: checked_name(value, what))


def up_to(most: int) -> WireField:
    """How many rows are listed: from 1 to ``most``."""

    def check(value: object) -> int:
        if type(value) is int and 1 <= value <= most:
            return value
        raise LocalProtocolError(f"limit {str(value)[:60]}: give a number from 1 to {most}")

    return _either(check)


def _time_ms(value: object) -> int:
    if type(value) is int and 0 <= value <= limits.TIME_MS_MAX:
        return value
    raise LocalProtocolError(f"{_short(value)} is no time: give Unix time in whole milliseconds, or 0")


def _kind(value: object) -> str:
    if isinstance(value, State) and value in (State.COMMITTED, State.ABORTED):
        return value.name.lower()
    if type(value) is str and value in KINDS:
        return value
    raise LocalProtocolError(f"state {_short(value)}: give 'committed', 'aborted', 'open', or None for all")


TIME_MS: Final = _either(_time_ms)
KIND: Final = optional(_either(_kind))
"""Which transactions are listed; None: all."""
STEP: Final = _of("change of the members", STEPS)
NODE: Final = _name_of("node")
PARTICIPANT: Final = _name_of("participant")
IDENTITY: Final = _either(lambda value: checked_identity(value))


def checked_identity(value: object) -> str:
    """The identity of a participant's state: 32 hex digits."""
    if not is_identity(value):
        raise LocalProtocolError(
            f"the identity {_short(value)} of a participant's state: give 32 hex digits, random, and kept with the state"
        )
    return value


def seconds(value: object) -> float:
    """A timeout as callers give it: seconds within TIMEOUT_MS_MIN..TIMEOUT_MS_MAX."""
    low, high = limits.TIMEOUT_MS_MIN / 1000, limits.TIMEOUT_MS_MAX / 1000
    if (type(value) is float or type(value) is int) and low <= value <= high:
        return value
    raise LocalProtocolError(f"timeout {value!r}: give seconds, a number from {low:g} to {high:g}")


def milliseconds(duration_s: float) -> int:
    """Seconds as the wire has them."""
    return int(duration_s * 1000) or limits.TIMEOUT_MS_MIN


def grace(value: object) -> float:
    """Seconds from 0 to GRACE_MS_MAX."""
    high = limits.GRACE_MS_MAX / 1000
    if (type(value) is float or type(value) is int) and 0 <= value <= high:
        return value
    raise LocalProtocolError(f"grace {value!r}: give seconds, a number from 0 to {high:g}")


def _short(value: object) -> str:
    return repr(value)[:80]
