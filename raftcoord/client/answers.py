"""What a node answered, read back into values.

Owed: a value that is returned is well-formed, and of the kind that was asked for; anything else is an UnreadableAnswer, which
never passes for an outcome. Never: a default for what is missing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple, TypeVar

from raftcoord.errors import ForgottenTxid, InDoubt, LocalProtocolError, RemoteProtocolError
from raftcoord.types import Answer, Outcome, State, TxId

_T = TypeVar("_T")
Row = dict[str, Any]
"""One transaction as a node shows it: txid (TxId), state (State), branches, outstanding, reason, branch, at_ms, term, index."""


class Damage(NamedTuple):
    """A branch that was finished outside the protocol: what happened, and who has seen it ("": nobody yet)."""

    txid: TxId
    branch: str
    what: str
    at_ms: int
    acknowledged_by: str


class Damages(NamedTuple):
    """Damaged branches, first those that nobody has acknowledged; how many of these there are, and how many in all."""

    shown: list[Damage]
    pending: int
    total: int


class ParticipantRow(NamedTuple):
    """A participant at one node: the ``identity`` of its state ("": not known), bound by ``who`` ("": at the first admission).

    ``before``: the identity that an operator replaced; ``sessions``: how many instances are connected to that node; ``refused``:
    identities of other states that it has refused under this name.
    """

    name: str
    identity: str
    who: str
    at_ms: int
    before: str
    sessions: int
    refused: list[str]


class UnreadableAnswer(RemoteProtocolError):
    """A node answered what this version cannot read. What it did is not known from that."""

    def __init__(self, result: object) -> None:
        super().__init__(
            f"a node answered what this version cannot read: {repr(result)[:80]}; use the same raftcoord release on both ends"
        )


def answer(txid: TxId, result: Any) -> Answer:
    """The answer to status or resolve."""
    state, reason, _, term, index = _fields(result)
    return Answer(txid, state, reason, term, index)


def outcome(txid: TxId, result: Any) -> Outcome | None:
    """The answer to submit or decide: COMMITTED or ABORTED; None if the txid is older than the horizon (FORGOTTEN)."""
    state, reason, branch, term, index = _fields(result)
    if state is State.FORGOTTEN:
        return None
    if state is State.UNDECIDED:
        raise UnreadableAnswer(result)
    return Outcome(txid, state is State.COMMITTED, reason, term, index, branch or None)


def standing(txid: TxId, result: Any, *, submitted: bool = False) -> Outcome:
    """What stands. What cannot be read leaves in doubt; so does FORGOTTEN, for what ``submitted`` says was just attempted."""
    try:
        stands = outcome(txid, result)
    except UnreadableAnswer as error:
        raise InDoubt(txid, str(error)) from None
    if stands is not None:
        return stands
    if submitted:
        raise InDoubt(txid, "it is older than what the cluster remembers")
    raise ForgottenTxid(
        f"txid {txid} is older than what the cluster remembers: nothing was recorded, and what became of it before is not "
        "known any more; use a new txid"
    )


def final(txid: TxId, result: Any) -> Answer:
    """The answer to resolve: anything but UNDECIDED."""
    try:
        found = answer(txid, result)
        if found.state is State.UNDECIDED:
            raise UnreadableAnswer(result)
    except UnreadableAnswer as error:
        raise InDoubt(txid, str(error)) from None
    return found


def page(result: Any) -> tuple[list[Row], bool]:
    """The answer to txns: the rows, and whether the node cut them short because an answer has a bound in bytes."""
    return _page(result, row)


def _page(result: Any, read: Callable[[Any], _T]) -> tuple[list[_T], bool]:
    match result:
        case list():
            return [read(item) for item in result], False
        case {"rows": [_, *_] as some, "more": True}:
            return [read(item) for item in some], True
    raise UnreadableAnswer(result)


def row(result: Any) -> Row:
    """One transaction."""
    if type(result) is dict and all(is_good(result.get(field)) for field, is_good in _ROW.items()):
        try:
            return {**result, "txid": TxId(result["txid"]), "state": State(result["state"])}
        except (ValueError, LocalProtocolError):
            pass
    raise UnreadableAnswer(result)


def _is_text(value: object) -> bool:
    return type(value) is str


def _is_number(value: object) -> bool:
    return type(value) is int


def _is_names(value: object) -> bool:
    return type(value) is list and all(map(_is_text, value))


_ROW: Final[dict[str, Callable[[object], bool]]] = {
    "txid": lambda value: type(value) is bytes,
    **dict.fromkeys(("state", "at_ms", "term", "index"), _is_number),
    **dict.fromkeys(("branches", "outstanding"), _is_names),
    **dict.fromkeys(("reason", "branch"), _is_text),
    "running": lambda value: value is None or type(value) is dict,
}


def damages(result: Any) -> Damages:
    """The answer to damages."""
    match result:
        case {"damages": list(found), "pending": int(pending), "total": int(total)}:
            return Damages([damage(item) for item in found], pending, total)
    raise UnreadableAnswer(result)


def damage(result: Any) -> Damage:
    """One damaged branch."""
    match result:
        case {
            "txid": bytes(raw),
            "branch": str(branch),
            "what": str(what),
            "at_ms": int(at_ms),
            "acknowledged_by": str(who),
        }:
            try:
                return Damage(TxId(raw), branch, what, at_ms, who)
            except LocalProtocolError:
                pass
    raise UnreadableAnswer(result)


def participants(result: Any) -> tuple[list[ParticipantRow], bool]:
    """The answer to participants, and whether it was cut short."""
    return _page(result, _participant)


def _participant(result: Any) -> ParticipantRow:
    match result:
        case {
            "name": str(name),
            "identity": str(identity),
            "who": str(who),
            "at_ms": int(at_ms),
            "before": str(before),
            "sessions": int(sessions),
            "refused": list(refused),
        } if all(map(_is_text, refused)):
            return ParticipantRow(name, identity, who, at_ms, before, sessions, refused)
    raise UnreadableAnswer(result)


def acknowledged(result: Any) -> tuple[int, int]:
    """The answer to acknowledge_all: how many, and how many are left."""
    match result:
        case {"acknowledged": int(count), "left": int(left)} if count > 0 or left == 0:
            return count, left
    raise UnreadableAnswer(result)


def closed(result: Any) -> int:
    """The answer to close: how many."""
    match result:
        case {"closed": int(count)}:
            return count
    raise UnreadableAnswer(result)


def info(result: Any) -> dict[str, Any]:
    """The answer to node."""
    if type(result) is dict:
        return result
    raise UnreadableAnswer(result)


def _fields(result: Any) -> tuple[State, str, str, int, int]:
    try:
        number, reason, branch, term, index = result
        state = _STATES[number if type(number) is int else None]
    except (TypeError, ValueError, KeyError):
        raise UnreadableAnswer(result) from None
    if type(reason) is str and type(branch) is str and type(term) is int and type(index) is int:
        return state, reason, branch, term, index
    raise UnreadableAnswer(result)


_STATES: Final[dict[int | None, State]] = {int(state): state for state in State}
