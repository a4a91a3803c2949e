"""What operations are answered with: the values, how they are written, and how they are read back.

Owed: a value that is read is well-formed, and of the kind that was asked for; anything else is an UnreadableAnswer, which
never passes for an outcome. Never: a default for what is missing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Generic, NamedTuple, TypedDict, TypeVar

from raftcoord.core.asking import Known
from raftcoord.errors import LocalProtocolError, RemoteProtocolError
from raftcoord.types import State, TxId

T = TypeVar("T")

Row = dict[str, Any]
"""One transaction as a node shows it: txid (TxId), state (State), branches, outstanding, reason, branch, at_ms, term, index.

``running``: how far the node that coordinates it is. ``closed``: the branches that an operator has closed.
"""


class DamageRow(NamedTuple):
    """A branch that was finished outside the protocol: what happened, and who has seen it ("": nobody yet)."""

    txid: TxId
    branch: str
    what: str
    at_ms: int
    acknowledged_by: str


class DamagePage(NamedTuple):
    """Damaged branches, first those that nobody has acknowledged; how many of these there are, and how many in all."""

    shown: list[DamageRow]
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


class ManyAcknowledged(NamedTuple):
    """How many damages were acknowledged, and how many are left."""

    acknowledged: int
    left: int


class Page(NamedTuple, Generic[T]):
    """Rows. ``is_cut``: there are more, which did not fit."""

    rows: list[T]
    is_cut: bool


class PeerStatus(TypedDict, total=False):
    """What a node knows of another one."""

    up: bool
    why: str
    match: int
    voter: bool
    awaited: bool
    expelled: bool
    refused: str


class NodeStatus(TypedDict, total=False):
    """How a node is, as it says itself. A node of another release may say less."""

    node: str
    cluster: str
    cluster_name: str
    role: str
    leader: str | None
    term: int
    commit_index: int
    applied_index: int
    log_first: int
    log_last: int
    open: int
    damages: int
    decisions_in_memory: int
    horizon_ms: int
    participants: list[str]
    running: int
    peers: dict[str, PeerStatus]
    epoch: int
    members: list[dict[str, Any]]
    wall_ms: int
    uptime_s: float
    version: str
    pid: int
    retention_ms: int


class UnreadableAnswer(RemoteProtocolError):
    """A node answered what this version cannot read. What it did is not known from that."""

    def __init__(self, result: object) -> None:
        super().__init__(
            f"a node answered what this version cannot read: {repr(result)[:80]}; use the same raftcoord release on both ends"
        )


class Codec(NamedTuple, Generic[T]):
    """How an answer is written, and read back. ``read`` raises UnreadableAnswer."""

    read: Callable[[Any], T]
    write: Callable[[T], Any]


def _as_it_is(value: Any) -> Any:
    return value


# -- outcomes -----------------------------------------------------------------------------------------------------

_STATES: Final[dict[int | None, State]] = {int(state): state for state in State}


def _known(result: Any) -> Known:
    try:
        number, reason, branch, term, index = result
        state = _STATES[number if type(number) is int else None]
    except (TypeError, ValueError, KeyError):
        raise UnreadableAnswer(result) from None
    if type(reason) is str and type(branch) is str and type(term) is int and type(index) is int:
        return Known(state, reason, branch, term, index)
    raise UnreadableAnswer(result)


def _settled(result: Any) -> Known:
    known = _known(result)
    if known.state is State.UNDECIDED:
        raise UnreadableAnswer(result)
    return known


KNOWN: Final[Codec[Known]] = Codec(_known, _as_it_is)
SETTLED: Final[Codec[Known]] = Codec(_settled, _as_it_is)
"""The same where UNDECIDED is no answer."""

# -- rows ---------------------------------------------------------------------------------------------------------


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


def _row(result: Any) -> Row:
    if type(result) is dict and all(is_good(result.get(field)) for field, is_good in _ROW.items()):
        try:
            return {**result, "txid": TxId(result["txid"]), "state": State(result["state"])}
        except (ValueError, LocalProtocolError):
            pass
    raise UnreadableAnswer(result)


def _damage(result: Any) -> DamageRow:
    match result:
        case {
            "txid": bytes(raw),
            "branch": str(branch),
            "what": str(what),
            "at_ms": int(at_ms),
            "acknowledged_by": str(who),
        }:
            try:
                return DamageRow(TxId(raw), branch, what, at_ms, who)
            except LocalProtocolError:
                pass
    raise UnreadableAnswer(result)


def _damages(result: Any) -> DamagePage:
    match result:
        case {"damages": list(found), "pending": int(pending), "total": int(total)}:
            return DamagePage([_damage(item) for item in found], pending, total)
    raise UnreadableAnswer(result)


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


def write_participant(row: ParticipantRow) -> dict[str, Any]:
    """A row as it is sent."""
    return row._asdict()


def _pages_of(read: Callable[[Any], T], write: Callable[[T], Any]) -> Codec[Page[T]]:
    """A cut page is a map, which an older client refuses, so that it takes it for no end."""

    def read_page(result: Any) -> Page[T]:
        match result:
            case list():
                return Page([read(item) for item in result], False)
            case {"rows": [_, *_] as some, "more": True}:
                return Page([read(item) for item in some], True)
        raise UnreadableAnswer(result)

    def write_page(page: Page[T]) -> Any:
        rows = [write(row) for row in page.rows]
        return {"rows": rows, "more": True} if page.is_cut else rows

    return Codec(read_page, write_page)


ROW: Final[Codec[Row]] = Codec(_row, _as_it_is)
ROW_OR_NONE: Final[Codec[Row | None]] = Codec(lambda result: None if result is None else _row(result), _as_it_is)
ROWS: Final = _pages_of(_row, _as_it_is)
DAMAGE: Final[Codec[DamageRow]] = Codec(_damage, lambda damage: damage._asdict())
DAMAGES: Final[Codec[DamagePage]] = Codec(
    _damages,
    lambda found: {
        "damages": [damage._asdict() for damage in found.shown],
        "pending": found.pending,
        "total": found.total,
    },
)
PARTICIPANTS: Final = _pages_of(_participant, write_participant)

# -- what was done ------------------------------------------------------------------------------------------------


def _acknowledged(result: Any) -> ManyAcknowledged:
    match result:
        case {"acknowledged": int(count), "left": int(left)} if count > 0 or left == 0:
            return ManyAcknowledged(count, left)
    raise UnreadableAnswer(result)


def _closed(result: Any) -> int:
    match result:
        case {"closed": int(count)}:
            return count
    raise UnreadableAnswer(result)


def _done(result: Any) -> None:
    if result is not True:
        raise UnreadableAnswer(result)


def _record(result: Any) -> dict[str, Any]:
    if type(result) is dict:
        return result
    raise UnreadableAnswer(result)


_OF_STATUS: Final[dict[str, type | tuple[type, ...]]] = {
    **dict.fromkeys(("node", "cluster", "cluster_name", "role", "version"), str),
    **dict.fromkeys(("term", "commit_index", "applied_index", "log_first", "log_last", "open", "damages"), int),
    **dict.fromkeys(("decisions_in_memory", "horizon_ms", "running", "epoch", "wall_ms", "pid", "retention_ms"), int),
    **dict.fromkeys(("participants", "members"), list),
    "leader": (str, type(None)),
    "peers": dict,
    "uptime_s": (int, float),
}


def _status(result: Any) -> NodeStatus:
    if type(result) is dict and all(isinstance(result[key], _OF_STATUS[key]) for key in _OF_STATUS.keys() & result):
        return result  # type: ignore[return-value]  # checked as far as it is there
    raise UnreadableAnswer(result)


ACKNOWLEDGED: Final[Codec[ManyAcknowledged]] = Codec(_acknowledged, lambda done: done._asdict())
CLOSED: Final[Codec[int]] = Codec(_closed, lambda count: {"closed": count})
DONE: Final[Codec[None]] = Codec(_done, lambda _: True)
RECORD: Final[Codec[dict[str, Any]]] = Codec(_record, _as_it_is)
"""What is recorded, by field: of a binding, of the horizon, of the members."""
STATUS: Final[Codec[NodeStatus]] = Codec(_status, _as_it_is)
