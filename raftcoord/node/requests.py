"""What callers send, checked before anything is done.

Owed: what passes here is valid; what does not is a LocalProtocolError that says what to send instead, and nothing was changed.
Never: a question to the ledger.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final, NamedTuple

import msgpack

from raftcoord import limits
from raftcoord.errors import FutureTxid, LocalProtocolError
from raftcoord.types import Payload, TxId, Verdict, checked_name

WAITS: Final = {"decided": False, "completed": True}
STATES: Final = (None, "committed", "aborted", "open")

_pack: Final = msgpack.Packer(use_bin_type=True, autoreset=True).pack


class Listing(NamedTuple):
    """Which transactions are listed: newest first, below ``before``, at most ``limit``."""

    state: str | None
    limit: int
    before: TxId | None


def params(given: list[Any], *names: str) -> list[Any]:
    """``given`` if it has one value for each name."""
    if len(given) != len(names):
        raise LocalProtocolError(f"{len(given)} parameters were given; this method takes [{', '.join(names)}]")
    return given


def txid(value: object) -> TxId:
    """The txid in 16 bytes."""
    return TxId(value)  # type: ignore[arg-type]  # it checks the type itself


def not_in_the_future(made: TxId, now_ms: int) -> None:
    """Refuse to begin a transaction whose txid is more than FUTURE_MS_MAX ahead of this node's clock."""
    if made.ms > now_ms + limits.FUTURE_MS_MAX:
        raise FutureTxid(
            f"txid {made} lies {(made.ms - now_ms) // 1000} s in the future of this node's clock; at most "
            f"{limits.FUTURE_MS_MAX // 1000} s are allowed: correct the clock where it was made, or that of the node "
            "(raftcoord doctor compares them)"
        )


def decidable(made: TxId, now_ms: int) -> None:
    """Refuse to decide what lies further in the future than anything is kept: branches may be prepared, so no less is refused."""
    if made.ms > now_ms + limits.DECIDE_FUTURE_MS_MAX:
        raise FutureTxid(
            f"txid {made} lies more than {limits.DECIDE_FUTURE_MS_MAX // 86_400_000} days in the future of this node's clock, "
            "so it would be kept for so long; correct the clock where it was made, or that of the node"
        )


def not_forgotten(made: TxId, horizon_ms: int) -> None:
    """Refuse to begin a transaction whose txid is older than the horizon."""
    if made.ms < horizon_ms:
        raise LocalProtocolError(
            f"txid {made} is older than the horizon, behind which finished transactions are forgotten; use a new txid"
        )


def timeout_ms(value: object) -> int:
    """A timeout in milliseconds."""
    if type(value) is not int or not limits.TIMEOUT_MS_MIN <= value <= limits.TIMEOUT_MS_MAX:
        raise LocalProtocolError(
            f"timeout {str(value)[:60]!r}: give whole milliseconds from {limits.TIMEOUT_MS_MIN} to {limits.TIMEOUT_MS_MAX}"
        )
    return value


def verdict(value: object) -> Verdict:
    """0 or 1."""
    if type(value) is not int or value not in (0, 1):
        raise LocalProtocolError(f"verdict {str(value)[:60]!r}: give 0 for ABORT or 1 for COMMIT")
    return Verdict.COMMIT if value == 1 else Verdict.ABORT


def reason(value: object) -> str:
    """Text, cut at REASON_LENGTH_MAX: an abort must not fail because its reason is long."""
    if type(value) is not str:
        raise LocalProtocolError(f"the reason must be text and is a {type(value).__name__}")
    return value[: limits.REASON_LENGTH_MAX]


def damage(value: object) -> str:
    """What happened to a branch: text, cut at REASON_LENGTH_MAX."""
    if type(value) is not str or not value:
        raise LocalProtocolError("say what happened to the branch, in a sentence or two")
    return value[: limits.REASON_LENGTH_MAX]


def who(value: object) -> str:
    """The name of whoever does what is recorded."""
    if type(value) is not str or not value.strip() or not value.isprintable() or len(value) > limits.WHO_LENGTH_MAX:
        raise LocalProtocolError(
            f"{str(value)[:80]!r} names nobody: say who does this, in 1 to {limits.WHO_LENGTH_MAX} printable characters"
        )
    return value


def why(value: object) -> str:
    """Why an operator does what is recorded."""
    if type(value) is not str or not value.strip() or not value.isprintable() or len(value) > limits.REASON_LENGTH_MAX:
        raise LocalProtocolError(
            f"{str(value)[:80]!r} is no reason: say why, in 1 to {limits.REASON_LENGTH_MAX} printable characters"
        )
    return value


def closings(value: object) -> dict[TxId, tuple[str, ...]]:
    """A list of [txid, branches], together at most BRANCHES_SETTLED_MAX branches."""
    if type(value) is not list or not all(type(pair) is list and len(pair) == 2 for pair in value):
        raise LocalProtocolError("give a list of [txid, branches]")
    found = {txid(raw): branches(names) for raw, names in value}
    count = sum(map(len, found.values()))
    if not 1 <= count <= limits.BRANCHES_SETTLED_MAX:
        raise LocalProtocolError(f"{count} branches: give 1 to {limits.BRANCHES_SETTLED_MAX} at a time")
    return found


def damage_listing(value: object) -> tuple[int, TxId | None]:
    """How many damages are listed, and of which transaction alone: a map with limit and txid, each of which may be left out."""
    if type(value) is not dict or not value.keys() <= {"limit", "txid"}:
        raise LocalProtocolError("give a map with some of 'limit' and 'txid'")
    limit, of = value.get("limit", 100), value.get("txid")
    if type(limit) is not int or not 1 <= limit <= limits.DAMAGES_MAX:
        raise LocalProtocolError(f"limit {str(limit)[:60]!r}: give a number from 1 to {limits.DAMAGES_MAX}")
    return limit, None if of is None else txid(of)


@lru_cache(maxsize=4096)
def _branch(value: str) -> str:
    return checked_name(value, "branch")


def branch(value: object) -> str:
    """One branch name."""
    return _branch(value) if type(value) is str else checked_name(value, "branch")


def branches(value: object) -> tuple[str, ...]:
    """Branch names, each once, at most BRANCHES_MAX."""
    if type(value) is not list:
        raise LocalProtocolError(f"the branches must be a list of names and are a {type(value).__name__}")
    _check_count(len(value))
    names = tuple([branch(name) for name in value])
    if len(set(names)) < len(names):
        raise LocalProtocolError("a branch is named twice; name each once")
    return names


def payloads(value: object) -> dict[str, Payload]:
    """What each participant gets: at least one, at most BRANCHES_MAX, together at most PAYLOAD_BYTES_MAX."""
    if type(value) is not dict or not value:
        raise LocalProtocolError("a transaction needs at least one participant: give {participant: payload}")
    _check_count(len(value))
    for name in value:
        branch(name)
    size = len(_pack(value))
    if size > limits.PAYLOAD_BYTES_MAX:
        raise LocalProtocolError(
            f"the payloads have {size} bytes; at most {limits.PAYLOAD_BYTES_MAX} are allowed: send a reference to large content"
        )
    return value


def wait_completed(value: object) -> bool:
    """Whether the answer waits for the acknowledgements."""
    if type(value) is not str or value not in WAITS:
        raise LocalProtocolError(f"wait {str(value)[:60]!r}: give 'decided' or 'completed'")
    return WAITS[value]


def listing(value: object) -> Listing:
    """A map with state, limit and before, each of which may be left out."""
    if type(value) is not dict or not value.keys() <= {"state", "limit", "before"}:
        raise LocalProtocolError("give a map with some of 'state', 'limit' and 'before'")
    state, limit, before = value.get("state"), value.get("limit", 100), value.get("before")
    if not (state is None or type(state) is str) or state not in STATES:
        raise LocalProtocolError(f"state {str(state)[:60]!r}: give 'committed', 'aborted', 'open', or nil for all")
    if type(limit) is not int or not 1 <= limit <= limits.ROWS_MAX:
        raise LocalProtocolError(f"limit {str(limit)[:60]!r}: give a number from 1 to {limits.ROWS_MAX}")
    return Listing(state, limit, None if before is None else txid(before))


def _check_count(count: int) -> None:
    if count > limits.BRANCHES_MAX:
        raise LocalProtocolError(f"{count} branches; at most {limits.BRANCHES_MAX} are allowed in one transaction")


def instance(value: object) -> str:
    """Which instance of a participant it is. Raises LocalProtocolError."""
    if type(value) is not str or not 0 < len(value) <= 64:
        raise LocalProtocolError(
            "the hello of a participant needs 'instance': 1 to 64 characters, random at each start"
        )
    return value
