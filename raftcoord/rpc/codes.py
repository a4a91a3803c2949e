"""Errors on the wire: [code, message, detail], and what they are in Python.

Owed: an error keeps its certainty across the wire. What was definite at the node (nothing was attempted) is definite at the
caller, and what was in doubt stays in doubt. Never: a code that is guessed from a message's text.

Two codes are never sent. ``connection_lost``: the connection ended with the call open, so whether it was carried out is not
known. ``unavailable`` made at this end: the call was not sent at all.
"""

from __future__ import annotations

from typing import Any, Final

from raftcoord import limits
from raftcoord.errors import (
    ConfigError,
    FutureTxid,
    InDoubt,
    LocalProtocolError,
    NoMember,
    NotYet,
    Overloaded,
    RaftcoordError,
    RemoteProtocolError,
    TxidUsed,
    Unavailable,
)
from raftcoord.types import TxId

BAD_REQUEST: Final = "bad_request"
TXID_USED: Final = "txid_used"
OVERLOADED: Final = "overloaded"
UNAVAILABLE: Final = "unavailable"
IN_DOUBT: Final = "in_doubt"
WRONG_VERSION: Final = "wrong_version"
WRONG_CLUSTER: Final = "wrong_cluster"
CONNECTION_LOST: Final = "connection_lost"
INTERNAL: Final = "internal"


_CLOCK: Final = "clock"
"""In the detail of a bad request: it is bad by the clock of who says so."""

_FIRST: Final = "first"
"""In the detail of an unavailable: somebody has to do something first."""
_NO_MEMBER: Final = "no_member"
"""In the detail of a wrong cluster: it is the right one, and who dialed is no member of it."""


class RpcError(RaftcoordError):
    """An error reply as it stands on the wire. ``to_error`` makes it one of raftcoord's own."""

    def __init__(self, code: str, message: str, detail: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.detail = {} if detail is None else detail

    def __repr__(self) -> str:
        return f"RpcError({self.code!r}, {self.message!r})"


_CODES: Final[tuple[tuple[type[RaftcoordError], str], ...]] = (
    (LocalProtocolError, BAD_REQUEST),
    (RemoteProtocolError, BAD_REQUEST),
    (Overloaded, OVERLOADED),
    (Unavailable, UNAVAILABLE),
    (ConfigError, WRONG_CLUSTER),
)
_ERRORS: Final[dict[str, type[RaftcoordError]]] = {
    BAD_REQUEST: LocalProtocolError,
    TXID_USED: LocalProtocolError,
    OVERLOADED: Overloaded,
    UNAVAILABLE: Unavailable,
    WRONG_VERSION: RemoteProtocolError,
    WRONG_CLUSTER: ConfigError,
}


def to_rpc(error: RaftcoordError) -> RpcError:
    """``error`` as it is sent. An RpcError is sent as it stands; what has no code of its own is ``internal``."""
    if isinstance(error, RpcError):
        return error
    if isinstance(error, InDoubt):
        return RpcError(IN_DOUBT, str(error), {"txid": bytes(error.txid), "why": error.why})
    if isinstance(error, FutureTxid):
        return RpcError(BAD_REQUEST, str(error), {_CLOCK: True})
    if isinstance(error, NotYet):
        return RpcError(UNAVAILABLE, str(error), {_FIRST: True})
    if isinstance(error, NoMember):
        return RpcError(WRONG_CLUSTER, str(error), {_NO_MEMBER: True})
    if isinstance(error, TxidUsed):
        recorded = {} if error.recorded is None else {"stands": list(error.recorded)}
        return RpcError(TXID_USED, str(error), {"txid": bytes(error.txid), **recorded})
    for kind, code in _CODES:
        if isinstance(error, kind):
            return RpcError(code, str(error))
    return RpcError(INTERNAL, str(error))


def received(code: str, message: str, detail: dict[str, Any]) -> RpcError:
    """An error reply of the other end. Its text is a stranger's: of bounded length, and all of it is kept by nobody."""
    return RpcError(code[: limits.NAME_LENGTH_MAX], message[: limits.ERROR_LENGTH_MAX], detail)


def to_error(error: RpcError) -> RaftcoordError:
    """What the caller raises for an error reply. A code without a class of its own stays an RpcError."""
    if error.code == IN_DOUBT:
        return _in_doubt(error)
    if is_of_clocks(error):
        return FutureTxid(error.message)
    if says_what_first(error):
        return NotYet(error.message)
    if error.code == WRONG_CLUSTER and error.detail.get(_NO_MEMBER) is True:
        return NoMember(error.message)
    kind = _ERRORS.get(error.code)
    return error if kind is None else kind(error.message)


def is_of_clocks(error: RpcError) -> bool:
    """Whether the request was refused by the other end's clock, so that another node may serve it."""
    return error.code == BAD_REQUEST and error.detail.get(_CLOCK) is True


def says_what_first(error: RpcError) -> bool:
    """Whether asking again is of no use before somebody has done what the message says."""
    return error.code == UNAVAILABLE and error.detail.get(_FIRST) is True


def _in_doubt(error: RpcError) -> RaftcoordError:
    try:
        txid = TxId(error.detail.get("txid", b""))
    except LocalProtocolError:
        return RemoteProtocolError(f"an in-doubt error without its txid: {error.message}")
    return InDoubt(txid, str(error.detail.get("why", "")) or error.message)


def unknown_method(method: str) -> RemoteProtocolError:
    """For a handler to raise: the other end asked for what this version does not have."""
    return RemoteProtocolError(
        f"asked for an unknown method {method[:60]!r}; use the same raftcoord release on both ends"
    )
